package main

import (
	"context"
	"maps"
	"slices"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
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
	if again, err = office.EraseAgain(ctx, forgetful(actor)); err != nil {
		return 0, again, rightsProblem(err)
	}
	n, err = d.reeraseKeys(ctx, keys) // of those who have no row
	return again.Rows + n, again, err
}

// reerased is how many are looked at in one go.
const reerased = 1000

// reeraseKeys deletes keys that have a tombstone, of whatever epoch they are: a rotation finds those of earlier ones only. It returns how many there were.
func (d *database) reeraseKeys(ctx context.Context, keys *crypto.Keyring) (n int, err error) {
	for after := ""; ; {
		page, err := d.keySubjects(ctx, after)
		if err != nil || len(page) == 0 {
			return n, err
		}
		dead, err := keys.Forgotten(ctx, page...)
		if err != nil {
			return n, keyProblem(err)
		}
		// They have a tombstone already; this destroys the keys, and has the database know how long the ledger is by now.
		if err := keys.Shred(ctx, slices.Collect(maps.Keys(dead))...); err != nil {
			return n, keyProblem(err)
		}
		n += len(dead)
		after = string(page[len(page)-1])
	}
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
