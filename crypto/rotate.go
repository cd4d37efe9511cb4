package crypto

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Rotation is how far a rotation is, or what it did.
type Rotation struct {
	Epoch     uint32 // in which subject keys are wrapped now
	Rewrapped int    // by this call
	Shredded  int    // keys that had a tombstone and were deleted: a restored backup brought them back
	Unopened  int    // keys that are not authentic, or of an epoch whose key is gone; they are left as they are
}

const rotatePage = 1000

// Rotate begins a new epoch and wraps all living subject keys under its key. What was sealed is not touched. If an earlier
// rotation was interrupted, Rotate finishes that one instead. It is safe beside readers, writers and other rotations, and can be killed
// anywhere. Progress, which may be nil, is called after every page. The KEK is asked twice, however many keys there are.
//
// Keys that cannot be opened are counted and make the error [ErrNotAuthentic] after all others are done.
func (k *Keyring) Rotate(ctx context.Context, progress func(Rotation)) (Rotation, error) {
	if k.store == nil {
		return Rotation{}, ErrNoStore
	}
	err := k.change(ctx, func(c *content) (bool, error) {
		if c.Rotating {
			return false, nil
		}
		next := uint32(0)
		for _, e := range c.Epochs {
			next = max(next, e.Number)
		}
		c.Epochs = append(c.Epochs, epochKey{next + 1, time.Now().UTC().Truncate(time.Second), newKey(keySize)})
		c.Rotating = true
		return true, nil
	})
	if err != nil {
		return Rotation{}, err
	}
	if err := k.ledger.refresh(); err != nil {
		return Rotation{}, err
	}
	s := k.state.Load()
	r := Rotation{Epoch: s.current}
	// Passes go on until one finds nothing to do: a slower process may have wrapped a key in the old epoch meanwhile, behind us.
	for {
		done, unopened, err := k.pass(ctx, s, &r, progress)
		r.Unopened = unopened
		if err != nil {
			return r, err
		}
		if done == 0 {
			break
		}
	}
	if r.Unopened > 0 {
		return r, fmt.Errorf("%w: %d subject keys", ErrNotAuthentic, r.Unopened)
	}
	return r, k.change(ctx, func(c *content) (bool, error) {
		newest := slices.MaxFunc(c.Epochs, func(a, b epochKey) int { return int(a.Number) - int(b.Number) })
		if !c.Rotating || newest.Number != s.current {
			return false, nil // somebody else was as far, or further
		}
		c.Rotating = false
		return true, nil
	})
}

// pass goes once through the keys of earlier epochs.
func (k *Keyring) pass(ctx context.Context, s *keys, r *Rotation, progress func(Rotation)) (done, unopened int, err error) {
	var after Subject
	for {
		if err := ctx.Err(); err != nil {
			return done, unopened, err
		}
		page, err := k.store.OlderKeys(ctx, s.current, after, rotatePage)
		if err != nil || len(page) == 0 {
			return done, unopened, err
		}
		after = page[len(page)-1].Subject
		changes := make([]KeyChange, 0, len(page))
		for _, w := range page {
			if k.ledger.has(w.Subject) {
				if err := k.destroy(ctx, w.Subject); err != nil {
					return done, unopened, err
				}
				r.Shredded++
				done++
				continue
			}
			raw, err := s.unwrap(w)
			if errors.Is(err, ErrNotAuthentic) || errors.Is(err, ErrNoEpoch) {
				unopened++
				continue
			}
			next, err := s.wrap(w.Subject, raw)
			clear(raw)
			if err != nil {
				return done, unopened, err
			}
			changes = append(changes, KeyChange{Key: next, Old: w.Wrapped})
		}
		lost, err := k.store.PutKeys(ctx, changes)
		if err != nil {
			return done, unopened, err
		}
		// What is lost was shredded or rewrapped by somebody else meanwhile; the next pass sees.
		r.Rewrapped += len(changes) - len(lost)
		done += len(changes)
		if progress != nil {
			r.Unopened = unopened
			progress(*r)
		}
	}
}

// A Status says what a keyring holds. It contains no key.
type Status struct {
	ID         string // the installation's
	Generation uint64 // grows with every change
	Rotating   bool   // a rotation was begun and not finished
	Epochs     []EpochStatus
	Indexes    []IndexStatus
	Shredded   uint64 // tombstones in the erasure ledger
}

// An EpochStatus is an epoch whose key the keyring holds.
type EpochStatus struct {
	Number  uint32
	Created time.Time
	Current bool // new keys are wrapped in it
}

// An IndexStatus is one version of the key of an index.
type IndexStatus struct {
	Name    string
	Version uint32
	State   string // building or active
}

// Status returns what the keyring holds, as its file says now.
func (k *Keyring) Status() (Status, error) {
	s, err := k.refresh(k.state.Load())
	if err != nil {
		return Status{}, err
	}
	if err := k.ledger.refresh(); err != nil {
		return Status{}, err
	}
	st := Status{ID: k.ID(), Generation: s.content.Generation, Rotating: s.content.Rotating}
	for _, e := range s.content.Epochs {
		st.Epochs = append(st.Epochs, EpochStatus{e.Number, e.Created, e.Number == s.current})
	}
	for _, x := range s.content.Indexes {
		st.Indexes = append(st.Indexes, IndexStatus{x.Name, x.Version, x.State})
	}
	k.ledger.mu.Lock()
	st.Shredded = k.ledger.count
	k.ledger.mu.Unlock()
	return st, nil
}
