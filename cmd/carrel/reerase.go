package main

import (
	"context"
	"slices"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/rights"
)

// reerase erases once more whom a backup brought back although they were forgotten since: the links of circulation records that name them, their keys, and their rows among the patrons. It
// returns how many people that were, and what became of the links. It can be interrupted and called again.
func (d *database) reerase(ctx context.Context, keys *crypto.Keyring, trail *audit.Trail, actor string) (n int, again rights.Again, err error) {
	// The links first: whose a number is says the row.
	dir, err := d.directory(d.db, keys, trail, nil)
	if err != nil {
		return 0, again, err
	}
	office, err := (&openedPatrons{db: d, keys: keys, trail: trail, dir: dir}).office(rights.Config{}, actor)
	if err != nil {
		return 0, again, err
	}
	if again, err = office.EraseAgain(ctx, forgetful(actor), d.borrowers(ctx)); err != nil {
		return 0, again, rightsProblem(err)
	}
	n, err = d.reeraseRows(ctx, keys)
	return n, again, err
}

// reerased is how many are looked at in one go.
const reerased = 1000

// reeraseRows deletes keys that have a tombstone, of whatever epoch they are (a rotation finds those of earlier ones only), and rows of patrons. It returns how many people that were.
func (d *database) reeraseRows(ctx context.Context, keys *crypto.Keyring) (n int, err error) {
	found := map[crypto.Subject]bool{}
	forgotten := func(page ...crypto.Subject) ([]crypto.Subject, error) {
		list, err := keys.Forgotten(ctx, page...)
		for _, s := range list {
			found[s] = true
		}
		return list, keyProblem(err)
	}
	for after := ""; ; {
		page, err := d.keySubjects(ctx, after)
		if err != nil {
			return len(found), err
		}
		if len(page) == 0 {
			break
		}
		again, err := forgotten(page...)
		if err != nil {
			return len(found), err
		}
		// They have a tombstone already; this destroys the keys, and has the database know how long the ledger is by now.
		if err := keys.Shred(ctx, again...); err != nil {
			return len(found), keyProblem(err)
		}
		after = string(page[len(page)-1])
	}
	return len(found), d.reerasePatrons(ctx, forgotten)
}

// keySubjects returns patrons' IDs that have a key: the keyring keeps keys of its own there, too.
func (d *database) keySubjects(ctx context.Context, after string) (page []crypto.Subject, err error) {
	rows, err := d.db.QueryContext(ctx, "SELECT subject FROM subject_keys WHERE length(subject) = 36 AND subject > $1 ORDER BY subject LIMIT $2", after, reerased)
	if err != nil {
		return nil, d.refused(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		var subject string
		if err := rows.Scan(&subject); err != nil {
			return nil, d.refused(ctx, err)
		}
		page = append(page, crypto.Subject(subject))
	}
	if err := rows.Err(); err != nil {
		return nil, d.refused(ctx, err)
	}
	return page, nil
}

func (d *database) reerasePatrons(ctx context.Context, forgotten func(...crypto.Subject) ([]crypto.Subject, error)) error {
	store := d.patrons(d.db)
	newest, err := store.Find(ctx, nil)
	if err != nil {
		return patronProblem(err)
	}
	for after := (patron.ID{}); ; {
		page, err := store.Rows(ctx, patron.Query{After: after, Limit: reerased})
		if err != nil || len(page) == 0 {
			return patronProblem(err)
		}
		subjects := make([]crypto.Subject, len(page))
		for i, row := range page {
			subjects[i] = row.ID.Subject()
		}
		again, err := forgotten(subjects...)
		if err != nil {
			return err
		}
		b := patron.Batch{Indexed: newest.Indexed}
		for i, row := range page {
			if slices.Contains(again, subjects[i]) {
				b.Writes = append(b.Writes, patron.Write{Row: patron.Row{ID: row.ID}, Old: row.Version, Remove: true})
			}
		}
		if len(b.Writes) > 0 {
			if err := store.Write(ctx, b); err != nil {
				return patronProblem(err)
			}
		}
		after = page[len(page)-1].ID
	}
}
