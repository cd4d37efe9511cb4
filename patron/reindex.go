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
	rows := 0
	for {
		x, err := d.cfg.Keys.RefreshIndexes()
		if err != nil {
			return err
		}
		// From here on the store refuses whoever does not know these keys, so that no row falls behind us.
		if err := d.cfg.Store.Write(ctx, Batch{Indexed: x.Change()}); errors.Is(err, ErrStaleIndexes) {
			if _, err = d.newer(x); err != nil {
				return err
			}
			continue
		} else if err != nil {
			return err
		}
		if err := d.reindexAll(ctx, x, &rows, progress); errors.Is(err, ErrStaleIndexes) { // rotated once more meanwhile
			continue
		} else if err != nil {
			return err
		}
		again, err := d.cfg.Keys.FinishIndexes(ctx, x.Change())
		if err != nil || !again {
			return err
		}
	}
}

// reindexAll rewrites rows until none is left that was written with older keys.
func (d *Directory) reindexAll(ctx context.Context, x *crypto.Indexes, rows *int, progress func(int)) error {
	for {
		passed, after := 0, ID{}
		for {
			page, err := d.cfg.Store.Rows(ctx, Query{IndexedBefore: x.Change(), After: after, Limit: reindexPage})
			if err != nil {
				return err
			}
			if len(page) == 0 {
				break
			}
			after = page[len(page)-1].ID
			passed += len(page)
			if err := d.reindexPage(ctx, x, page); err != nil {
				return err
			}
			*rows += len(page)
			if progress != nil {
				progress(*rows)
			}
		}
		if passed == 0 {
			return nil
		}
	}
}

func (d *Directory) reindexPage(ctx context.Context, x *crypto.Indexes, page []Row) error {
	batch := Batch{Indexed: x.Change()}
	indexed, err := d.indexed(x)
	if err != nil {
		return err
	}
	for _, row := range page {
		p, err := d.open(ctx, row, indexed)
		next := row
		next.Version, next.Indexed, next.Tokens, next.Lookups = row.Version+1, x.Change(), nil, nil
		switch {
		case err == nil:
			if next.Tokens, next.Lookups, err = d.tokens(x, &p); err != nil {
				return fmt.Errorf("patron: %v: %w", row.ID, err)
			}
		case !errors.Is(err, crypto.ErrShredded): // who was forgotten is not to be found
			return fmt.Errorf("patron: %v: %w", row.ID, err)
		}
		batch.Writes = append(batch.Writes, Write{Row: next, Old: row.Version})
	}
	err = d.cfg.Store.Write(ctx, batch)
	if errors.Is(err, ErrConflict) && len(page) > 1 { // one of them changed: only that has to wait for the next pass
		for i := range page {
			if err := d.reindexPage(ctx, x, page[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	if errors.Is(err, ErrConflict) {
		return nil // the next pass sees
	}
	return err
}
