package patron

import (
	"context"
	"errors"
	"fmt"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

const reindexPage = 500

// Reindex brings the index tokens of all patrons up to date: after a key was rotated ([crypto.Keyring.RotateIndex]) and after a lookup
// was added to the Config, whose key it draws. It goes on beside all other work: nobody is missed by a look-up and no identifier is
// given twice meanwhile. It can be killed anywhere and called again, by several processes at once. Progress, which may be nil, gets the
// number of rows written so far. A row gets a new version, so that somebody who is about to change it sees an
// [ErrConflict].
//
// A row that cannot be opened is left as it is, and reported by ID, in an error, when all others are done. If the database is older than the
// keyring ([ErrOldDatabase]), nobody is looked up and nothing is written by anybody until it is done: [ErrNotReady].
//
// It needs the right to reindex. It reveals nothing to its caller.
func (d *Directory) Reindex(ctx context.Context, call Call, progress func(rows int)) error {
	a, err := d.begin(ctx, call, audit.Reindex, ID{})
	if err != nil {
		return err
	}
	if err := a.need(ctx, access.Reindex); err != nil {
		return err
	}
	if err := a.done(ctx); err != nil {
		return err
	}
	for _, l := range d.cfg.Lookups {
		if err := d.cfg.Keys.AddIndex(ctx, l.index); err != nil {
			return err
		}
	}
	if err := d.reopen(ctx); err != nil {
		return err
	}
	r := &reindexing{d: d, progress: progress}
	for {
		if r.x, err = d.cfg.Keys.RefreshIndexes(); err != nil {
			return err
		}
		// From here on the store refuses whoever does not know these keys, so that no row falls behind us.
		if err := d.cfg.Store.Write(ctx, Batch{Indexed: r.x.Change()}); errors.Is(err, ErrStaleIndexes) {
			if _, err = d.newer(r.x); err != nil {
				return err
			}
			continue
		} else if err != nil {
			return err
		}
		if err := r.all(ctx); errors.Is(err, ErrStaleIndexes) { // rotated once more meanwhile
			continue
		} else if err != nil {
			return err
		}
		again, err := d.cfg.Keys.FinishIndexes(ctx, r.x.Change())
		if err != nil {
			return err
		}
		if !again {
			return r.damage
		}
	}
}

// reopen tells all processes, in the keyring, that the indexes are not complete, when the store is older than they are. They look nobody up
// and give nobody an identifier until they are again, whatever becomes of this process.
func (d *Directory) reopen(ctx context.Context) error {
	x, err := d.cfg.Keys.RefreshIndexes()
	if err != nil {
		return err
	}
	old, seen, err := d.tooOld(ctx, x)
	if err != nil || !old {
		return err
	}
	return d.cfg.Keys.ReopenIndexes(ctx, seen)
}

// reindexing is a Reindex under way.
type reindexing struct {
	d        *Directory
	x        *crypto.Indexes
	rows     int
	damage   error // rows that cannot be opened
	progress func(int)
}

// all rewrites rows until none is left that was written with older keys and can be opened.
func (r *reindexing) all(ctx context.Context) error {
	for {
		r.damage = nil
		before, after := r.rows, ID{}
		for {
			page, err := r.d.cfg.Store.Rows(ctx, Query{IndexedBefore: r.x.Change(), After: after, Limit: reindexPage})
			if err != nil {
				return err
			}
			if len(page) == 0 {
				break
			}
			after = page[len(page)-1].ID
			if err := r.page(ctx, page); err != nil {
				return err
			}
			if r.progress != nil {
				r.progress(r.rows)
			}
		}
		if r.rows == before {
			return nil
		}
	}
}

// page writes rows anew. One that cannot be opened is left as it is, with its old tokens, and is not found until it can be.
func (r *reindexing) page(ctx context.Context, page []Row) error {
	d := r.d
	batch := Batch{Indexed: r.x.Change()}
	indexed, err := d.indexed(r.x)
	if err != nil {
		return err
	}
	for _, row := range page {
		p, err := d.open(ctx, row, indexed)
		next := row
		next.Version, next.Indexed, next.Tokens, next.Lookups = row.Version+1, r.x.Change(), nil, nil
		switch {
		case err == nil:
			if next.Tokens, next.Lookups, err = d.tokens(r.x, &p); err != nil {
				return fmt.Errorf("patron: %v: %w", row.ID, err)
			}
		case errors.Is(err, crypto.ErrShredded): // who was forgotten is not to be found
		case isDamage(err):
			r.damage = errors.Join(r.damage, fmt.Errorf("patron: %v: %w", row.ID, err))
			continue
		default:
			return fmt.Errorf("patron: %v: %w", row.ID, err)
		}
		batch.Writes = append(batch.Writes, Write{Row: next, Old: row.Version})
	}
	if len(batch.Writes) == 0 {
		return nil
	}
	err = d.cfg.Store.Write(ctx, batch)
	if errors.Is(err, ErrConflict) && len(page) > 1 { // one of them changed: only that has to wait for the next pass
		for i := range page {
			if err := r.page(ctx, page[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	if errors.Is(err, ErrConflict) {
		r.rows++ // the next pass sees
		return nil
	}
	r.rows += len(batch.Writes)
	return err
}

// isDamage reports whether an error concerns one row, and no other.
func isDamage(err error) bool {
	return errors.Is(err, errSegment) || errors.Is(err, crypto.ErrNotAuthentic) || errors.Is(err, crypto.ErrNoKey)
}
