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
	Epoch     uint32   // in which subject keys are wrapped now
	Rewrapped int      // by this call
	Shredded  int      // keys that had a tombstone and were deleted: a restored backup brought them back
	Unopened  int      // keys that are not authentic, or of an epoch whose key is gone; they are left as they are
	Renewed   int      // tokens of pseudonyms, by this call
	Ended     []uint32 // epochs whose keys were destroyed

	from uint32 // the earliest epoch of which something was; 0: of none
}

const (
	rotatePage = 1000
	rotateIdle = 10 // so many passes in a row that find keys and rewrap none mean that the store is broken
)

// Rotate begins a new epoch, wraps all living subject keys under its key and, with Config.Tokens, makes all tokens of pseudonyms anew with a key of that
// epoch. What was sealed is not touched. If an earlier
// rotation was interrupted, Rotate finishes that one instead. Then it destroys the keys of epochs whose time has come ([Schedule]). It is safe beside readers, writers and other rotations, and can be killed
// anywhere. Progress, which may be nil, is called after every page. The KEK is asked a few times, however many keys there are.
//
// Keys that cannot be opened are counted and left, and make the error [ErrNotAuthentic] after all others are done.
func (k *Keyring) Rotate(ctx context.Context, progress func(Rotation)) (Rotation, error) {
	return k.rotate(ctx, progress, func(*content) bool { return true })
}

func (k *Keyring) rotate(ctx context.Context, progress func(Rotation), due func(*content) bool) (r Rotation, err error) {
	defer func() { r.from = 0 }()
	if k.store == nil {
		return Rotation{}, ErrNoStore
	}
	store, err := k.storeID(ctx)
	if err != nil {
		return Rotation{}, err
	}
	rotating := false
	err = k.change(ctx, func(c *content) (changed bool, err error) {
		if changed, err = c.belongsTo(store); err != nil {
			return false, err
		}
		if rotating = c.Rotating || due(c); !rotating || c.Rotating {
			return changed, nil
		}
		next := c.newest().Number + 1
		c.Epochs = append(c.Epochs, epochKey{Number: next, Created: k.instant(), Key: newKey(keySize)})
		if k.tokens != nil {
			if len(c.Pairwise) == 0 { // one of before pseudonyms had epochs
				m := mac(c.Pseudonyms[0].Key, []byte(labelPairwise))
				n := mac(c.Pseudonyms[0].Key, append([]byte(labelPairwise), 1))
				c.Pairwise = append(m[:], n[:]...)
			}
			c.Pseudonyms = slices.Insert(c.Pseudonyms, 0, pseudonymKey{next, newKey(keySize)})
		}
		c.Rotating = true
		return true, nil
	})
	if err != nil {
		return Rotation{}, err
	}
	s := k.state.Load()
	r = Rotation{Epoch: s.current}
	if rotating && k.tokens == nil && s.content.Pseudonyms[0].Version == s.current {
		return r, errors.New("crypto: this rotation makes tokens anew, too: it is to be finished by a program that has Config.Tokens")
	}
	// Also when nothing is due: a database that was restored is of an earlier epoch, and so are the backups that are made of it.
	if err := k.carry(ctx, s, &r, progress); err != nil {
		return r, err
	}
	if rotating || r.from > 0 {
		// What cannot be opened does not hold up the next rotation: all the rest is done.
		err = k.change(ctx, func(c *content) (bool, error) {
			if c.newest().Number != s.current {
				return false, nil // somebody else was as far, or further
			}
			for i := range c.Epochs {
				// What was of an epoch until now is in backups until now.
				if e := &c.Epochs[i]; e.Number < s.current && (e.Ended.IsZero() || r.from > 0 && e.Number >= r.from) {
					e.Ended = k.instant()
				}
			}
			c.Rotating = false
			return true, nil
		})
	}
	if err == nil {
		err = k.end(ctx, s, &r)
	}
	if err == nil && r.Unopened > 0 {
		err = fmt.Errorf("%w: %d subject keys", ErrNotAuthentic, r.Unopened)
	}
	return r, err
}

// moved notes that something was of an epoch.
func (r *Rotation) moved(epoch uint32) {
	if r.from == 0 || epoch < r.from {
		r.from = epoch
	}
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
		n, err := k.rewrap(ctx, s, s, page, r)
		if err != nil {
			return lost, err
		}
		lost += n
		if progress != nil {
			progress(*r)
		}
	}
}

// rewrap wraps keys, which from can open, under the current epoch's, and returns how many were shredded or rewrapped by somebody else meanwhile.
func (k *Keyring) rewrap(ctx context.Context, from, s *keys, page []WrappedKey, r *Rotation) (lost int, err error) {
	changes := make([]KeyChange, 0, len(page))
	for _, w := range page {
		if k.ledger.has(w.Subject) {
			if err := k.destroy(ctx, w.Subject); err != nil {
				return 0, err
			}
			r.Shredded++
			continue
		}
		raw, err := from.unwrap(w)
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
		r.moved(w.Epoch)
	}
	if len(changes) == 0 {
		return 0, nil
	}
	refused, err := k.store.PutKeys(ctx, changes)
	if err != nil {
		return 0, err
	}
	for _, c := range changes {
		if !isReserved(c.Key.Subject) && !slices.Contains(refused, c.Key.Subject) {
			r.Rewrapped++
		}
	}
	return len(refused), nil
}

// A Status says what a keyring holds. It contains no key.
type Status struct {
	ID         string // the installation's
	Generation uint64 // grows with every change
	Rotating   bool   // a rotation was begun and not finished
	Schedule   Schedule
	Due        time.Time // when the next epoch begins, by the schedule
	Epochs     []EpochStatus
	Indexes    []IndexStatus
	Shredded   uint64 // tombstones in the erasure ledger
	Renews     bool   // the tokens of pseudonyms are made anew with each epoch (Config.Tokens), so that they end with it, too
}

// An EpochStatus is an epoch whose key the keyring holds.
type EpochStatus struct {
	Number  uint32
	Created time.Time
	Current bool      // new keys are wrapped in it
	Ended   time.Time // when nothing was wrapped in it any more; zero: not yet
	Ends    time.Time // when its key is to be destroyed; zero: that is not known yet, or never
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
	plan := s.content.Schedule
	st := Status{Renews: k.tokens != nil, ID: k.ID(), Generation: s.content.Generation, Rotating: s.content.Rotating, Schedule: plan, Due: s.content.newest().Created.Add(plan.every())}
	for _, e := range s.content.Epochs {
		one := EpochStatus{Number: e.Number, Created: e.Created, Current: e.Number == s.current, Ended: e.Ended}
		if plan.Horizon > 0 && !e.Ended.IsZero() {
			one.Ends = e.Ended.Add(plan.Horizon)
		}
		st.Epochs = append(st.Epochs, one)
	}
	for _, x := range s.content.Indexes {
		st.Indexes = append(st.Indexes, IndexStatus{x.Name, x.Version, x.State})
	}
	st.Shredded = k.ledger.count()
	return st, nil
}
