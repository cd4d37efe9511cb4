package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"

	"github.com/carrel-project/carrel/circulation"
)

// SaveAccounts inserts accounts or brings them up to date, by borrower, in one transaction. Borrowers
// listed here are not forgotten with the last record that names them.
func (c *Circulation) SaveAccounts(ctx context.Context, accounts iter.Seq2[circulation.Account, error]) (circulation.Saved, error) {
	var saved circulation.Saved
	err := stream(ctx, c.db, "save accounts", accounts, func(t *tx, accounts iter.Seq2[circulation.Account, error]) error {
		s := &accounting{tx: t, there: map[circulation.Borrower]bool{}}
		for a, err := range accounts {
			if err == nil {
				err = s.account(a)
			}
			if err != nil {
				return err
			}
		}
		if err := s.flush(); err != nil {
			return err
		}
		saved = s.saved
		if saved.Updated+saved.Added == 0 {
			return nil
		}
		// What is being unlinked now was decided before. It is through when this returns, and what is unlinked later sees the change.
		_, err := t.exec("LOCK TABLE holds IN ROW EXCLUSIVE MODE")
		return err
	})
	if err != nil {
		return circulation.Saved{}, err
	}
	return saved, nil
}

var errNoBorrower = errors.New("postgres: an account or a hold needs a borrower")

// accounting is the state of one SaveAccounts.
type accounting struct {
	*tx
	saved   circulation.Saved
	waiting []circulation.Account
	there   map[circulation.Borrower]bool
}

func (s *accounting) account(a circulation.Account) error {
	switch {
	case a.Borrower == "":
		return errNoBorrower
	case !storable(string(a.Borrower), a.Group):
		return fmt.Errorf("postgres: save accounts: %w", errText)
	}
	if s.there[a.Borrower] || len(s.waiting) == blockSize {
		if err := s.flush(); err != nil {
			return err
		}
	}
	s.waiting, s.there[a.Borrower] = append(s.waiting, a), true
	return nil
}

func (s *accounting) flush() error {
	if len(s.waiting) == 0 {
		return nil
	}
	borrowers := make([]circulation.Borrower, len(s.waiting))
	for i, a := range s.waiting {
		borrowers[i] = a.Borrower
	}
	known, err := s.persons(borrowers, "NO KEY UPDATE")
	if err != nil {
		return err
	}
	numbers := make([]int64, len(s.waiting))
	of := make(map[int64]circulation.Account, len(s.waiting))
	for i, a := range s.waiting {
		numbers[i] = known[a.Borrower]
		of[numbers[i]] = a
	}
	var changed []int64
	var p, expires, wish, since int64
	var group string
	var listed bool
	err = each(s.ctx, s.op, s.db, `SELECT p, listed, grp, coalesce(expires, -9223372036854775808), wish, coalesce(wish_since, -9223372036854775808)
		FROM persons WHERE p = ANY (CAST($1 AS bigint[]))`, []any{int64Array(numbers)}, []any{&p, &listed, &group, &expires, &wish, &since}, func() error {
		a := of[p]
		same := group == a.Group && expires == stamp(a.Expires) && circulation.Wish(wish) == a.Wish && since == stamp(a.WishSince)
		switch {
		case listed && same:
			s.saved.Same++
			return nil
		case listed:
			s.saved.Updated++
		default:
			s.saved.Added++
		}
		changed = append(changed, p)
		return nil
	})
	if err != nil {
		return err
	}
	slices.Sort(changed)
	groups, ends, wishes, sinces := make([]string, len(changed)), make([]int64, len(changed)), make([]int64, len(changed)), make([]int64, len(changed))
	for i, p := range changed {
		a := of[p]
		groups[i], ends[i], wishes[i], sinces[i] = a.Group, stamp(a.Expires), int64(a.Wish), stamp(a.WishSince)
	}
	_, err = s.exec(`UPDATE persons SET grp = u.grp, expires = u.expires, wish = u.wish, wish_since = u.since, listed = true, fresh = fresh | 1, changed = pg_current_xact_id()
		FROM unnest(CAST($1 AS bigint[]), CAST($2 AS text[]), CAST($3 AS bigint[]), CAST($4 AS smallint[]), CAST($5 AS bigint[])) AS u (p, grp, expires, wish, since)
		WHERE persons.p = u.p`, int64Array(changed), textArray(groups), int64Array(ends), int64Array(wishes), int64Array(sinces))
	s.waiting = s.waiting[:0]
	clear(s.there)
	return err
}

// persons returns the numbers of borrowers, which it gives out on first sight, and takes their rows, so that nobody forgets them before this transaction is committed.
func (t *tx) persons(borrowers []circulation.Borrower, lock string) (map[circulation.Borrower]int64, error) {
	known := make(map[circulation.Borrower]int64, len(borrowers))
	if len(borrowers) == 0 {
		return known, nil
	}
	missing := slices.Clone(borrowers)
	slices.Sort(missing)
	missing = slices.Compact(missing)
	for range 100 { // each time somebody else may have made, or forgotten, one of them meanwhile
		list := make([]string, len(missing))
		for i, b := range missing {
			list[i] = string(b)
		}
		var p int64
		var borrower string
		err := each(t.ctx, t.op, t.db, "SELECT p, borrower FROM persons WHERE borrower = ANY (CAST($1 AS text[])) ORDER BY p FOR "+lock, []any{textArray(list)},
			[]any{&p, &borrower}, func() error {
				known[circulation.Borrower(borrower)] = p
				return nil
			})
		if err != nil {
			return nil, err
		}
		missing = slices.DeleteFunc(missing, func(b circulation.Borrower) bool { return known[b] != 0 })
		if len(missing) == 0 {
			return known, nil
		}
		if err := t.newPersons(missing); err != nil {
			return nil, err
		}
	}
	return nil, &Error{Op: t.op, State: codeSerialize}
}

// newPersons gives borrowers numbers, who have none. They are random, for in order of first sight they would tell persons by their first loans.
func (t *tx) newPersons(borrowers []circulation.Borrower) error {
	type row struct {
		p        int64
		borrower string
	}
	if err := t.freshBorrowers(borrowers); err != nil {
		return err
	}
	const numbers = 1 << 40
	rows := make([]row, len(borrowers))
	for i, b := range borrowers {
		rows[i] = row{1 + rand.Int64N(numbers), string(b)}
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.borrower, b.borrower) }) // of several who insert the same ones, none waits for one who waits for it
	ps, names := make([]int64, len(rows)), make([]string, len(rows))
	for i, r := range rows {
		ps[i], names[i] = r.p, r.borrower
	}
	// Nobody has read anything of theirs, so nothing need be seen to have changed; and this transaction is that of their first loan.
	_, err := t.exec(`INSERT INTO persons (p, borrower, changed, counted) SELECT u.p, u.borrower, '3', '3'
		FROM unnest(CAST($1 AS bigint[]), CAST($2 AS text[])) AS u (p, borrower) ON CONFLICT DO NOTHING`, int64Array(ps), textArray(names))
	return err
}

// AddHold puts a borrower under a legal hold, or changes the hold of the same reference. From the moment it
// returns nothing of the borrower's is unlinked, whatever a sweep has read before. In a transaction of the caller's, that is from its commit on, and until then nothing of anybody's is unlinked.
func (c *Circulation) AddHold(ctx context.Context, h circulation.Hold) error {
	switch {
	case h.Borrower == "":
		return errNoBorrower
	case h.Ref == "":
		return errors.New("postgres: a hold needs a reference")
	case !storable(string(h.Borrower), h.Ref):
		return fmt.Errorf("postgres: add a hold: %w", errText)
	}
	return c.write(ctx, "add a hold", true, func(t *tx) error {
		if _, err := t.exec("LOCK TABLE holds IN ROW EXCLUSIVE MODE"); err != nil { // waits for those who unlink
			return err
		}
		known, err := t.persons([]circulation.Borrower{h.Borrower}, "KEY SHARE")
		if err != nil {
			return err
		}
		p := known[h.Borrower]
		_, err = t.exec("INSERT INTO holds (person, ref, until, changed) VALUES ($1, $2, $3, pg_current_xact_id()) ON CONFLICT (person, ref) DO UPDATE SET until = excluded.until, changed = excluded.changed", p, h.Ref, micros(h.Until))
		if err != nil {
			return err
		}
		return t.wakeAll(p)
	})
}

// wakeAll wakes the records of a person.
func (t *tx) wakeAll(p int64) error {
	_, err := t.exec(wakeThem+" WHERE person = $1 AND plan <> 0", p)
	return err
}

// ReleaseHold ends a legal hold. It reports whether there was one.
func (c *Circulation) ReleaseHold(ctx context.Context, borrower circulation.Borrower, ref string) (bool, error) {
	released := false
	if !storable(string(borrower), ref) {
		return false, nil // what cannot be kept is not there
	}
	err := c.write(ctx, "release a hold", false, func(t *tx) error {
		var p int64
		found, err := t.get("DELETE FROM holds WHERE person = (SELECT p FROM persons WHERE borrower = $1) AND ref = $2 RETURNING person", []any{string(borrower), ref}, &p)
		if released = found; err != nil {
			return err
		}
		if !found {
			return t.fresh(string(borrower))
		}
		if _, err := t.exec("INSERT INTO leavers VALUES ($1)", p); err != nil {
			return err
		}
		return t.wakeAll(p)
	})
	return released && err == nil, err
}

// Holds returns all legal holds, those included that have run out since the last Finish, by borrower and reference.
func (c *Circulation) Holds(ctx context.Context) ([]circulation.Hold, error) {
	var list []circulation.Hold
	var borrower, ref string
	var until *int64
	err := each(ctx, "read holds", c.db, "SELECT p.borrower, h.ref, h.until FROM holds h JOIN persons p ON p.p = h.person ORDER BY 1, 2", nil,
		[]any{&borrower, &ref, &until}, func() error {
			list = append(list, circulation.Hold{Borrower: circulation.Borrower(borrower), Ref: ref, Until: instant(until)})
			return nil
		})
	return list, err
}
