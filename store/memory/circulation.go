// Package memory keeps stores in memory: for tests, for small tools that read an export, and as the
// shortest complete statement of what a store must do. Nothing survives the process.
//
// [NewLockouts] is meant in earnest: it counts guesses at passwords in a program that is one process, and it is the
// Fallback of a lockout.Guard whose store is shared.
//
// Start with [NewCirculation]. It is laid out like the databases in the sibling packages: what
// identifies lives apart from what happened, so that unlinking is deleting. It does not overwrite the
// memory that it gives back; whoever can read the process' memory may find what was there.
package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// ErrConflict is returned by Save when an entry's version is not the stored record's.
var ErrConflict = errors.New("memory: the record has changed")

var (
	_ anonymize.Store    = (*Circulation)(nil)
	_ anonymize.Finisher = (*Circulation)(nil)
	_ anonymize.Deferrer = (*Circulation)(nil)
)

// A Circulation is a store of circulation records. It is safe for concurrent use.
type Circulation struct {
	mu sync.RWMutex
	s  state
}

// NewCirculation returns an empty store.
func NewCirculation() *Circulation { return &Circulation{s: newState()} }

// Dump returns everything that the store holds, as text, for tests that search it for what should be gone.
func (c *Circulation) Dump(ctx context.Context) (string, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return fmt.Sprintf("%+v", c.s), ctx.Err()
}

// Save inserts or updates entries by kind and ID, all of them or none. An error that the sequence
// yields is returned as it is. An entry whose record was unlinked changes nothing and is counted, and
// so is a pointer to a record that names nobody, which is dropped; a pointer to a record that neither the store
// nor the sequence knows is an error. Versions are compared with what was there before the call.
// A record that names nobody never comes to name somebody; only a fee's status and loan are still taken from
// such an entry, for they decide what may become of the loan. An entry that no longer names the borrower of its
// record unlinks the record, unless an exception protects that now.
func (c *Circulation) Save(ctx context.Context, entries iter.Seq2[circulation.Entry, error]) (circulation.Saved, error) {
	// The sequence is read before the lock is taken: it may well read from this store.
	batch, err := collect(ctx, entries, func(e circulation.Entry) (circulation.Parts, error) {
		p, err := e.Parts()
		return normal(p), err
	})
	if err != nil {
		return circulation.Saved{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.s.check(batch); err != nil {
		return circulation.Saved{}, err
	}
	// Records only point at kinds of a lower number, so that in this order what is pointed at comes first.
	slices.SortStableFunc(batch, func(a, b circulation.Parts) int { return cmp.Compare(a.Facts.Kind, b.Facts.Kind) })
	var saved circulation.Saved
	now := time.Now()
	for _, p := range batch {
		c.s.save(p, now, &saved)
	}
	return saved, nil
}

// SaveAccounts inserts or updates what is known of borrowers, all or none. [Circulation.Finish] does not
// forget them.
func (c *Circulation) SaveAccounts(ctx context.Context, accounts iter.Seq2[circulation.Account, error]) (circulation.Saved, error) {
	batch, err := collect(ctx, accounts, func(a circulation.Account) (circulation.Account, error) {
		if a.Borrower == "" {
			return a, errors.New("memory: an account needs a borrower")
		}
		a.Expires, a.WishSince = micro(a.Expires), micro(a.WishSince)
		return a, nil
	})
	if err != nil {
		return circulation.Saved{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var saved circulation.Saved
	for _, a := range batch {
		p := c.s.Persons[a.Borrower]
		switch {
		case !p.Listed:
			saved.Added++
		case p.Account != a:
			saved.Updated++
		default:
			saved.Same++
		}
		if p.Account != a {
			p.Changes++
		}
		p.Listed, p.Account = true, a
		c.s.Persons[a.Borrower] = p
	}
	return saved, nil
}

// AddHold puts a borrower under a legal hold, or changes the one with the same reference.
func (c *Circulation) AddHold(ctx context.Context, h circulation.Hold) error {
	if h.Borrower == "" || h.Ref == "" {
		return errors.New("memory: a hold needs a borrower and a reference")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	h.Until = micro(h.Until)
	c.s.changed(h.Borrower)
	c.s.Holds[h.Borrower] = append(slices.DeleteFunc(c.s.Holds[h.Borrower], sameRef(h.Ref)), h)
	return nil
}

// ReleaseHold ends a hold and reports whether there was one.
func (c *Circulation) ReleaseHold(ctx context.Context, b circulation.Borrower, ref string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	c.s.changed(b)
	held := c.s.Holds[b]
	left := slices.DeleteFunc(slices.Clone(held), sameRef(ref))
	if c.s.Holds[b] = left; len(left) == 0 {
		delete(c.s.Holds, b)
	}
	return len(left) < len(held), nil
}

func sameRef(ref string) func(circulation.Hold) bool {
	return func(h circulation.Hold) bool { return h.Ref == ref }
}

// Holds returns all holds, ordered by borrower and reference.
func (c *Circulation) Holds(ctx context.Context) ([]circulation.Hold, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	holds := slices.Concat(slices.Collect(maps.Values(c.s.Holds))...)
	slices.SortFunc(holds, func(a, b circulation.Hold) int {
		return cmp.Or(cmp.Compare(a.Borrower, b.Borrower), cmp.Compare(a.Ref, b.Ref))
	})
	return holds, ctx.Err()
}

// Receipts returns what every batch did, oldest first.
func (c *Circulation) Receipts(ctx context.Context) ([]anonymize.Receipt, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	receipts := slices.Clone(c.s.Receipts)
	for i := range receipts {
		receipts[i].ByRule = maps.Clone(receipts[i].ByRule)
	}
	return receipts, ctx.Err()
}

// Linked implements [anonymize.Store]. The order is that of arrival.
func (c *Circulation) Linked(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
	var after uint64
	if q.Cursor != "" {
		var err error
		if after, err = strconv.ParseUint(q.Cursor, 10, 64); err != nil {
			return anonymize.Page{}, errors.New("memory: not a cursor of this store")
		}
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return anonymize.Page{}, err
	}
	var page anonymize.Page
	order := c.s.Order[q.Kind]
	i, _ := slices.BinarySearchFunc(order, after+1, func(p place, seq uint64) int { return cmp.Compare(p.Seq, seq) })
	for _, p := range order[i:] {
		k := key{q.Kind, p.ID}
		if !inShard(p, q.Shard) || !c.s.linked(k) || q.Plan != "" && q.Plan == c.s.Plan && c.s.asleep(k, q.At) {
			continue
		}
		if len(page.Records) >= max(q.Limit, 1) {
			page.Cursor = strconv.FormatUint(after, 10)
			break
		}
		page.Records = append(page.Records, c.s.record(k, q.At))
		after = p.Seq
	}
	return page, nil
}

// Unlink implements [anonymize.Store].
func (c *Circulation) Unlink(ctx context.Context, b anonymize.Batch) (conflicts []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	seen := make(map[string]bool, len(b.Targets))
	targets := make([]anonymize.Target, 0, len(b.Targets))
	for _, t := range b.Targets {
		if seen[t.ID] { // said twice, it would be counted twice
			continue
		}
		seen[t.ID] = true
		targets = append(targets, t)
		k := key{b.Kind, t.ID}
		if !c.s.linked(k) || !c.s.Rows[k].is(t.Version) || c.s.protected(k, b.At) {
			conflicts = append(conflicts, t.ID)
			continue
		}
		c.s.strip(k, b.Keep)
	}
	b.Targets = targets
	c.s.Receipts = append(c.s.Receipts, b.Receipt(conflicts))
	return conflicts, nil
}

// Finish implements [anonymize.Finisher]: it forgets the holds that have run out and the borrowers whom no
// record names, unless they were put there by SaveAccounts or are under a hold.
func (c *Circulation) Finish(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	now := time.Now()
	for b, holds := range c.s.Holds {
		put(c.s.Holds, b, slices.DeleteFunc(holds, func(h circulation.Hold) bool { return !inForce(h, now) }))
	}
	named := make(map[circulation.Borrower]bool)
	for _, links := range c.s.Links {
		for _, l := range links {
			named[l.Person] = true
		}
	}
	maps.DeleteFunc(c.s.Persons, func(b circulation.Borrower, p person) bool {
		return !p.Listed && !named[b] && len(c.s.Holds[b]) == 0
	})
	// A cursor is a number, not an index, so readers on their way do not mind.
	for kind, order := range c.s.Order {
		c.s.Order[kind] = slices.DeleteFunc(order, func(p place) bool { return c.s.Rows[key{kind, p.ID}].Unlinked })
	}
	return nil
}

// collect reads a sequence to its end and checks every value.
func collect[In, Out any](ctx context.Context, seq iter.Seq2[In, error], check func(In) (Out, error)) ([]Out, error) {
	var all []Out
	for v, err := range seq {
		if err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out, err := check(v)
		if err != nil {
			return nil, err
		}
		all = append(all, out)
	}
	return all, ctx.Err()
}

// normal cuts times to microseconds, as databases do, and lets go of the caller's slices.
func normal(p circulation.Parts) circulation.Parts {
	f := &p.Facts
	f.Started, f.Due, f.Ended = micro(f.Started), micro(f.Due), micro(f.Ended)
	f.Categories = append([]string(nil), f.Categories...)
	return p
}

func micro(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMicro(t.UnixMicro()).UTC()
}
