package crypto

import (
	"cmp"
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

const (
	rotatePage = 1000
	rotateIdle = 10 // so many passes in a row that find keys and rewrap none mean that the store is broken
)

// Rotate begins a new epoch and wraps all living subject keys under its key. What was sealed is not touched. If an earlier
// rotation was interrupted, Rotate finishes that one instead. It is safe beside readers, writers and other rotations, and can be killed
// anywhere. Progress, which may be nil, is called after every page. The KEK is asked twice, however many keys there are.
//
// Keys that cannot be opened are counted and left, and make the error [ErrNotAuthentic] after all others are done.
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
	if _, err := k.ledger.refresh(); err != nil {
		return Rotation{}, err
	}
	s := k.state.Load()
	r := Rotation{Epoch: s.current}
	// Passes go on until one finds nothing to do: a slower process may have wrapped a key in the old epoch meanwhile, behind us.
	for idle := 0; ; {
		before := r
		lost, err := k.pass(ctx, s, &r, progress)
		if err != nil {
			return r, err
		}
		if r.Rewrapped > before.Rewrapped {
			idle = 0
			continue
		}
		if lost == 0 && r.Shredded == before.Shredded {
			break
		}
		if idle++; idle == rotateIdle {
			return r, errors.New("crypto: the key store neither replaces keys nor deletes them: see KeyStore")
		}
	}
	// What cannot be opened does not hold up the next rotation: all the rest is done.
	err = k.change(ctx, func(c *content) (bool, error) {
		newest := slices.MaxFunc(c.Epochs, func(a, b epochKey) int { return cmp.Compare(a.Number, b.Number) })
		if !c.Rotating || newest.Number != s.current {
			return false, nil // somebody else was as far, or further
		}
		c.Rotating = false
		return true, nil
	})
	if err == nil && r.Unopened > 0 {
		err = fmt.Errorf("%w: %d subject keys", ErrNotAuthentic, r.Unopened)
	}
	return r, err
}

// pass goes once through the keys of earlier epochs, and returns how many were changed by somebody else meanwhile.
func (k *Keyring) pass(ctx context.Context, s *keys, r *Rotation, progress func(Rotation)) (lost int, err error) {
	r.Unopened = 0
	var after Subject
	for {
		if err := ctx.Err(); err != nil {
			return lost, err
		}
		page, err := k.store.OlderKeys(ctx, s.current, after, rotatePage)
		if err != nil || len(page) == 0 {
			return lost, err
		}
		after = page[len(page)-1].Subject
		n, err := k.rewrap(ctx, s, page, r)
		if err != nil {
			return lost, err
		}
		lost += n
		if progress != nil {
			progress(*r)
		}
	}
}

// rewrap wraps keys under the current epoch's, and returns how many were shredded or rewrapped by somebody else meanwhile.
func (k *Keyring) rewrap(ctx context.Context, s *keys, page []WrappedKey, r *Rotation) (lost int, err error) {
	changes := make([]KeyChange, 0, len(page))
	for _, w := range page {
		if k.ledger.has(w.Subject) {
			if err := k.destroy(ctx, w.Subject); err != nil {
				return 0, err
			}
			r.Shredded++
			continue
		}
		raw, err := s.unwrap(w)
		if err != nil {
			r.Unopened++
			continue
		}
		next, err := s.wrap(w.Subject, raw)
		clear(raw)
		if err != nil {
			return 0, err
		}
		changes = append(changes, KeyChange{Key: next, Old: w.Wrapped})
	}
	if len(changes) == 0 {
		return 0, nil
	}
	refused, err := k.store.PutKeys(ctx, changes)
	if err != nil {
		return 0, err
	}
	r.Rewrapped += len(changes) - len(refused)
	if slices.ContainsFunc(changes, func(c KeyChange) bool { return c.Key.Subject == mark }) && !slices.Contains(refused, mark) {
		r.Rewrapped-- // it is nobody's
	}
	return len(refused), nil
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
	if _, err := k.ledger.refresh(); err != nil {
		return Status{}, err
	}
	st := Status{ID: k.ID(), Generation: s.content.Generation, Rotating: s.content.Rotating}
	for _, e := range s.content.Epochs {
		st.Epochs = append(st.Epochs, EpochStatus{e.Number, e.Created, e.Number == s.current})
	}
	for _, x := range s.content.Indexes {
		st.Indexes = append(st.Indexes, IndexStatus{x.Name, x.Version, x.State})
	}
	k.ledger.known.RLock()
	st.Shredded = k.ledger.count
	k.ledger.known.RUnlock()
	return st, nil
}
