package crypto

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Schedule says how long an epoch is and how long its key is kept after it. It is kept in the keyring. The zero Schedule rotates when somebody asks
// for it, and destroys no epoch's key.
type Schedule struct {
	// Every is how long after the beginning of an epoch the next one is due; 0: [DefaultEpoch].
	Every time.Duration `json:"every"`

	// Horizon is how long backups are kept. So long after an epoch has ended its keys are destroyed: what was wrapped in it, and the
	// tokens made in it, can then be opened by nobody, in any copy. 0: they are kept for ever.
	Horizon time.Duration `json:"horizon"`
}

// DefaultEpoch is how long an epoch is if nobody says otherwise.
const DefaultEpoch = 30 * 24 * time.Hour

const (
	shortestEpoch   = time.Hour
	shortestHorizon = 24 * time.Hour // programs that have not noticed the end of an epoch, and transactions of then, are over by then
	longestTime     = 100 * 366 * 24 * time.Hour
)

// every is how long an epoch is.
func (s Schedule) every() time.Duration { return cmp.Or(s.Every, DefaultEpoch) }

func (s Schedule) check() error {
	switch {
	case s.Every != 0 && (s.Every < shortestEpoch || s.Every > longestTime):
		return fmt.Errorf("crypto: Schedule.Every is %v, want an hour to a hundred years", s.Every)
	case s.Horizon != 0 && (s.Horizon < shortestHorizon || s.Horizon > longestTime):
		return fmt.Errorf("crypto: Schedule.Horizon is %v, want a day to a hundred years, or 0 for none", s.Horizon)
	}
	return nil
}

// SetSchedule changes the schedule. It destroys nothing: the next [Keyring.Rotate] or [Keyring.Tend] does.
func (k *Keyring) SetSchedule(ctx context.Context, s Schedule) error {
	if err := s.check(); err != nil {
		return err
	}
	return k.change(ctx, func(c *content) (bool, error) {
		changed := c.Schedule != s
		c.Schedule = s
		return changed, nil
	})
}

// A TokenStore holds tokens of pseudonyms ([Keyring.Pseudonyms]), which a rotation makes anew with the key of the new epoch. It is what stands
// between an old backup and the question whose its loans were.
type TokenStore interface {
	// TokenEpoch returns the epoch of which the tokens are, or 0: that in which pseudonyms began, for they were never renewed.
	TokenEpoch(ctx context.Context) (uint32, error)

	// RenewTokens replaces every token by what renew makes of it, and then says that the tokens are of that epoch, all in one transaction of its own that no token
	// can slip past. If they are of that epoch already, or a later one, it does nothing; but a store without tokens is of whatever epoch it is told. A token that renew refuses with [ErrNotPseudonym] stays as it is; another
	// error ends it. Renew takes the name of the pseudonyms and the token, and may be called from one goroutine at a time. It returns how many were replaced.
	RenewTokens(ctx context.Context, epoch uint32, renew func(name, token string) (string, error)) (int, error)
}

// Tend does what the [Schedule] asks for, to be called every night: it finishes a rotation that was interrupted, begins a new epoch when the
// last is as old as it should become ([Keyring.Rotate]), brings what a backup brought back into the newest epoch, and destroys the keys of epochs that ended longer ago than the
// horizon. Most nights it does nothing.
func (k *Keyring) Tend(ctx context.Context, progress func(Rotation)) (Rotation, error) {
	return k.rotate(ctx, progress, func(c *content) bool { return c.due(k.now()) })
}

// Due reports whether [Keyring.Tend] has anything to do.
func (k *Keyring) Due(ctx context.Context) (bool, error) {
	if k.store == nil {
		return false, ErrNoStore
	}
	s, err := k.refresh(k.state.Load())
	if err != nil {
		return false, err
	}
	c := &s.content
	if c.Rotating || c.due(k.now()) || k.expired(*c) {
		return true, nil
	}
	if k.tokens != nil {
		if epoch, err := k.tokens.TokenEpoch(ctx); err != nil || epoch < c.Pseudonyms[0].Version {
			return err == nil, err
		}
	}
	older, err := k.store.OlderKeys(ctx, s.current, "", rotatePage)
	return slices.ContainsFunc(older, func(w WrappedKey) bool {
		_, err := s.unwrap(w)
		return err == nil
	}), err
}

// due reports whether the newest epoch is as old as it should become, or began at a time that is still to come: then the clock was wrong.
func (c *content) due(now time.Time) bool {
	created := c.newest().Created
	return !now.Before(created.Add(c.Schedule.every())) || created.After(now.Add(time.Hour))
}

// instant is the time as the keyring keeps it.
func (k *Keyring) instant() time.Time { return k.now().UTC().Truncate(time.Second) }

func (c *content) newest() epochKey {
	return slices.MaxFunc(c.Epochs, func(a, b epochKey) int { return cmp.Compare(a.Number, b.Number) })
}

// kept returns the earliest epoch whose keys are to be kept. Nothing of an earlier one is in a backup any more.
func (k *Keyring) kept(c *content) (first uint32) {
	if c.Schedule.Horizon == 0 || c.Rotating {
		return 0
	}
	now, newest := k.now(), c.newest().Number
	first = newest
	for _, e := range c.Epochs {
		if e.Number != newest && (e.Ended.IsZero() || now.Before(e.Ended.Add(c.Schedule.Horizon))) {
			first = min(first, e.Number)
		}
	}
	return first
}

// outlive destroys the keys of epochs before the first that is kept, and returns which epochs those are. The key of pseudonyms was in use until the next one of
// theirs, which need not be of the next epoch: programs without tokens leave pseudonyms as they are.
func (k *Keyring) outlive(c *content) (ended []uint32, changed bool) {
	first := k.kept(c)
	c.Epochs = slices.DeleteFunc(c.Epochs, func(e epochKey) bool {
		if e.Number < first {
			ended = append(ended, e.Number)
		}
		return e.Number < first
	})
	if k.tokens == nil { // somebody may still have tokens of theirs
		return ended, len(ended) > 0
	}
	n := 1
	for n < len(c.Pseudonyms) && c.Pseudonyms[n-1].Version > first {
		n++
	}
	changed = len(ended) > 0 || n < len(c.Pseudonyms)
	c.Pseudonyms = c.Pseudonyms[:n:n]
	return ended, changed
}

// expired reports whether there are keys to be destroyed.
func (k *Keyring) expired(c content) bool {
	c.Epochs = slices.Clone(c.Epochs)
	_, some := k.outlive(&c)
	return some
}

// end destroys the keys of epochs whose time has come, in which nothing is wrapped any more.
func (k *Keyring) end(ctx context.Context, s *keys, r *Rotation) error {
	if !k.expired(k.state.Load().content) {
		return nil
	}
	var ended []uint32
	err := k.change(ctx, func(c *content) (changed bool, err error) {
		if c.newest().Number == s.current {
			ended, changed = k.outlive(c)
		}
		return changed, nil
	})
	if err == nil {
		r.Ended = ended
	}
	return err
}

// storeID returns what tells the store from any other, so that epochs begin and end by what is in one of them: a keyring that is
// used with another database, too, would destroy keys that this one needs.
func (k *Keyring) storeID(ctx context.Context) ([]byte, error) {
	if err := k.markStore(ctx); err != nil {
		return nil, err
	}
	_, raw, err := k.readReserved(ctx, mark)
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	id := mac(raw, []byte(labelStore))
	return id[:], nil
}

// belongsTo reports whether the keyring has just become this store's.
func (c *content) belongsTo(store []byte) (changed bool, err error) {
	switch {
	case len(c.Store) == 0:
		c.Store = store
		return true, nil
	case !bytes.Equal(c.Store, store):
		return false, fmt.Errorf("%w: its epochs are those of the database with which it was rotated first; a database has a keyring of its own", ErrForeignStore)
	}
	return false, nil
}

// carry wraps all living subject keys under the key of the newest epoch, and makes all tokens anew with its pseudonym key.
func (k *Keyring) carry(ctx context.Context, s *keys, r *Rotation, progress func(Rotation)) error {
	if _, err := k.ledger.refresh(); err != nil {
		return err
	}
	// Passes go on until one finds nothing to do: a slower process may have wrapped a key in the old epoch meanwhile, behind us.
	for idle := 0; ; {
		before := *r
		lost, err := k.pass(ctx, s, r, progress)
		if err != nil {
			return err
		}
		if r.Rewrapped > before.Rewrapped {
			idle = 0
			continue
		}
		if lost == 0 && r.Shredded == before.Shredded {
			break
		}
		if idle++; idle == rotateIdle {
			return errors.New("crypto: the key store neither replaces keys nor deletes them: see KeyStore")
		}
	}
	return k.renewTokens(ctx, s, r)
}

// RenewTokens makes the tokens of the store anew, if they are not of the newest epoch. [Keyring.Rotate] does so by itself: this is for a store that is new, in which there
// are none yet. It returns how many there were.
//
// Errors: [ErrEnded] when they are of an epoch that has ended, [ErrOldKeyring] when of one that this keyring does not know yet.
func (k *Keyring) RenewTokens(ctx context.Context) (int, error) {
	s, err := k.refresh(k.state.Load())
	if err != nil {
		return 0, err
	}
	var r Rotation
	err = k.renewTokens(ctx, s, &r)
	return r.Renewed, err
}

func (k *Keyring) renewTokens(ctx context.Context, s *keys, r *Rotation) error {
	if k.tokens == nil {
		return nil
	}
	epoch := s.content.Pseudonyms[0].Version
	was, err := k.tokens.TokenEpoch(ctx)
	if err != nil || was == epoch {
		return err
	}
	of := map[string]*Pseudonyms{}
	n, err := k.tokens.RenewTokens(ctx, epoch, func(name, token string) (string, error) {
		p := of[name]
		if p == nil {
			var err error
			if p, err = k.Pseudonyms(name); err != nil {
				return "", err
			}
			p.epoch, of[name] = epoch, p
		}
		if e, ok := TokenEpoch(token); ok && e == was && !s.makes(e) {
			return "", ErrEnded // not one that somebody put there: none can be opened
		}
		reference, err := p.Open(token)
		if err != nil {
			return "", err
		}
		return p.Token(reference.Reveal())
	})
	r.Renewed += n
	if err != nil {
		return err
	}
	r.moved(max(was, 1))
	// What was not renewed must not lose its key.
	switch is, err := k.tokens.TokenEpoch(ctx); {
	case err != nil:
		return err
	case is > epoch:
		return fmt.Errorf("%w: its tokens are of epoch %d", ErrOldKeyring, is)
	case is < epoch:
		return errors.New("crypto: the token store does not renew its tokens: see TokenStore")
	}
	return nil
}

// makes reports whether there is a key for pseudonyms of an epoch.
func (s *keys) makes(epoch uint32) bool {
	return slices.ContainsFunc(s.content.Pseudonyms, func(p pseudonymKey) bool { return p.Version == epoch })
}
