package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"iter"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// SaveAccounts inserts accounts or brings them up to date, by borrower, in one transaction. Borrowers
// listed here are not forgotten with the last record that names them.
func (c *Circulation) SaveAccounts(ctx context.Context, accounts iter.Seq2[circulation.Account, error]) (circulation.Saved, error) {
	var saved circulation.Saved
	err := c.write(ctx, "save accounts", func(t *tx) error {
		saved = circulation.Saved{}
		for a, err := range accounts {
			if err == nil {
				err = t.account(a, &saved)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return circulation.Saved{}, err
	}
	return saved, nil
}

var errNoBorrower = errors.New("sqlite: an account or a hold needs a borrower")

func (t *tx) account(a circulation.Account, saved *circulation.Saved) error {
	if a.Borrower == "" {
		return errNoBorrower
	}
	var p int64
	var listed, same bool
	args := []any{a.Group, micros(a.Expires), int64(a.Wish), micros(a.WishSince), string(a.Borrower)}
	err := t.get(`SELECT p, listed, grp = ?1 AND expires IS ?2 AND wish = ?3 AND wish_since IS ?4 FROM persons WHERE borrower = ?5`, args, &p, &listed, &same)
	if errors.Is(err, errNone) {
		p, err = t.newPerson(a.Borrower)
	}
	if err != nil {
		return err
	}
	switch {
	case listed && same:
		saved.Same++
		return nil
	case listed:
		saved.Updated++
	default:
		saved.Added++
	}
	args[4] = p
	_, err = t.exec(`UPDATE persons SET grp = ?1, expires = ?2, wish = ?3, wish_since = ?4, listed = 1, version = ?6 WHERE p = ?5`,
		append(args, t.change)...)
	return err
}

// AddHold puts a borrower under a legal hold, or changes the hold of the same reference. From the moment it
// returns nothing of the borrower's is unlinked, whatever a sweep has read before.
func (c *Circulation) AddHold(ctx context.Context, h circulation.Hold) error {
	if h.Borrower == "" {
		return errNoBorrower
	}
	if h.Ref == "" {
		return errors.New("sqlite: a hold needs a reference")
	}
	return c.write(ctx, "add a hold", func(t *tx) error {
		p, err := t.person(h.Borrower)
		if err != nil {
			return err
		}
		_, err = t.exec("INSERT INTO holds (person, ref, until) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET until = ?3", p, h.Ref, micros(h.Until))
		if err == nil {
			_, err = t.exec("UPDATE persons SET stirred = 1 WHERE p = ?", p)
		}
		return err
	})
}

// ReleaseHold ends a legal hold. It reports whether there was one.
func (c *Circulation) ReleaseHold(ctx context.Context, borrower circulation.Borrower, ref string) (bool, error) {
	released := false
	err := c.write(ctx, "release a hold", func(t *tx) error {
		n, err := t.exec("DELETE FROM holds WHERE person = (SELECT p FROM persons WHERE borrower = ?) AND ref = ?", string(borrower), ref)
		if err != nil {
			return err
		}
		if released = n > 0; !released {
			return t.fresh(string(borrower))
		}
		_, err = t.exec("UPDATE persons SET stirred = 1 WHERE borrower = ?", string(borrower))
		return err
	})
	return released && err == nil, err
}

// Holds returns all legal holds, those included that have run out since the last Finish, by borrower and reference.
func (c *Circulation) Holds(ctx context.Context) ([]circulation.Hold, error) {
	var list []circulation.Hold
	var borrower, ref string
	var until any
	err := each(ctx, "read holds", c.db, "SELECT p.borrower, h.ref, h.until FROM holds h JOIN persons p ON p.p = h.person ORDER BY 1, 2", nil,
		[]any{&borrower, &ref, &until}, func() error {
			list = append(list, circulation.Hold{Borrower: circulation.Borrower(borrower), Ref: ref, Until: instant(until)})
			return nil
		})
	return list, err
}

// Receipts returns the receipts of all batches in the order in which they were written.
func (c *Circulation) Receipts(ctx context.Context) ([]anonymize.Receipt, error) {
	var list []anonymize.Receipt
	var body string
	err := each(ctx, "read receipts", c.db, "SELECT body FROM receipts ORDER BY id", nil, []any{&body}, func() error {
		var r anonymize.Receipt
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			return errors.New("sqlite: a receipt is damaged")
		}
		list = append(list, r)
		return nil
	})
	return list, err
}
