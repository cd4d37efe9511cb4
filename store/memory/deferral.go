package memory

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// How records sleep.
//
// Nothing ever wakes a record, so that nothing can forget to. Whatever decisions depend on counts its changes, and of a record that was put off
// the store remembers what was counted when it was read. It sleeps as long as that is what is counted now. The counts are of one borrower
// or one item each; the number of a change to the store would stand at both and join them when the loan is unlinked.

// A sleep is what is remembered of a record that was put off.
type sleep struct {
	token
	Until time.Time // zero: until something changes
}

// A token is what a record's version says: the version of its row, and how often its borrower's account or holds, the line of its borrower's
// loans and that of its item had changed.
type token struct{ Row, Account, Loans, OfItem uint64 }

func (t token) String() string {
	return fmt.Sprintf("%d.%d.%d.%d", t.Row, t.Account, t.Loans, t.OfItem)
}

func parseToken(version string) (t token, ok bool) {
	words, to := strings.Split(version, "."), []*uint64{&t.Row, &t.Account, &t.Loans, &t.OfItem}
	if len(words) != len(to) {
		return token{}, false
	}
	for i, w := range words {
		var err error
		if *to[i], err = strconv.ParseUint(w, 10, 64); err != nil {
			return token{}, false
		}
	}
	return t, true
}

// token returns what is counted of a linked record now.
func (s *state) token(k key) token {
	row, p := s.Rows[k], s.Persons[s.borrower(k)]
	t := token{Row: row.Version, Account: p.Changes}
	if k.Kind == circulation.KindLoan {
		t.Loans, t.OfItem = p.Loans.Changes, s.Items[row.Facts.Item].Changes
	}
	return t
}

// is reports whether the row of a record, or a fee of it, is unchanged since it was read with this version.
func (r row) is(version string) bool {
	t, ok := parseToken(version)
	return ok && t.Row == r.Version
}

// asleep reports whether a linked record need not be read at the given time under the plan in force.
func (s *state) asleep(k key, at time.Time) bool {
	d, ok := s.Asleep[k]
	if !ok || !d.Until.IsZero() && !at.Before(d.Until) {
		return false
	}
	t := s.token(k)
	if s.Needs&anonymize.NeedNewerByBorrower == 0 {
		t.Loans = d.Loans
	}
	if s.Needs&anonymize.NeedNewerOfItem == 0 {
		t.OfItem = d.OfItem
	}
	return t == d.token
}

// Resume implements [anonymize.Deferrer].
func (c *Circulation) Resume(ctx context.Context, plan string, needs anonymize.Needs) error {
	if plan == "" {
		return errors.New("memory: a plan needs a name")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.s.Plan != plan || c.s.Needs != needs {
		c.s.Plan, c.s.Needs = plan, needs
		clear(c.s.Asleep)
	}
	return nil
}

// Defer implements [anonymize.Deferrer]. What was changed since it was read is remembered, too, and does not sleep.
func (c *Circulation) Defer(ctx context.Context, d anonymize.Deferral) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil || d.Plan != c.s.Plan {
		return err
	}
	for _, r := range d.Records {
		k := key{d.Kind, r.ID}
		if t, ok := parseToken(r.Version); ok && c.s.linked(k) {
			c.s.Asleep[k] = sleep{t, r.Until}
		}
	}
	return nil
}

// Count implements [anonymize.Deferrer].
func (c *Circulation) Count(ctx context.Context, kind circulation.Kind, shard anonymize.Shard) (n int, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, p := range c.s.Order[kind] {
		if inShard(p, shard) && c.s.linked(key{kind, p.ID}) {
			n++
		}
	}
	return n, ctx.Err()
}

func inShard(p place, s anonymize.Shard) bool {
	return s.Of <= 1 || p.Seq%uint64(s.Of) == uint64(s.Index)
}
