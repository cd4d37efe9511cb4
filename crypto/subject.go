package crypto

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const maxSubject = 255

func checkSubject(s Subject) error {
	if len(s) == 0 || len(s) > maxSubject {
		return fmt.Errorf("crypto: a subject has %d bytes, want 1 to %d", len(s), maxSubject)
	}
	if isReserved(s) {
		return errors.New("crypto: this subject is the keyring's own")
	}
	return nil
}

// CreateKeys draws keys for new subjects and stores them, all in one transaction of the store. A subject that has a key
// keeps it. One that was shredded gets none: [ErrShredded]. The first call, which may be for nobody, marks the store as this keyring's, so
// that another one is refused when it is opened with that store.
func (k *Keyring) CreateKeys(ctx context.Context, subjects ...Subject) error {
	if k.store == nil {
		return ErrNoStore
	}
	if err := k.markStore(ctx); err != nil {
		return err
	}
	// Another process may have shredded one of them.
	asked, err := k.ledger.refresh()
	if err != nil {
		return err
	}
	s := k.state.Load()
	changes := make([]KeyChange, 0, len(subjects))
	made := make([]*subjectKey, 0, len(subjects))
	seen := make(map[Subject]bool, len(subjects))
	for _, subject := range subjects {
		if err := checkSubject(subject); err != nil {
			return err
		}
		if k.ledger.has(subject) {
			return ErrShredded
		}
		if seen[subject] {
			continue
		}
		seen[subject] = true
		raw := newKey(keySize)
		wrapped, err := s.wrap(subject, raw)
		if err != nil {
			return err
		}
		key, err := s.subjectKey(subject, raw, asked.Add(k.cache.ttl))
		clear(raw)
		if err != nil {
			return err
		}
		changes = append(changes, KeyChange{Key: wrapped})
		made = append(made, key)
	}
	if len(changes) == 0 {
		return nil
	}
	lost, err := k.store.PutKeys(ctx, changes)
	if err != nil {
		return err
	}
	for _, subject := range lost { // they have a key, which is loaded when it is needed
		seen[subject] = false
	}
	// One that was shredded while this was under way, perhaps before the key was there to be deleted, is deleted now.
	if _, err := k.ledger.refresh(); err != nil {
		return err
	}
	var shredded, failed error
	created := make([]WrappedKey, 0, len(made))
	for i, key := range made {
		switch {
		case !seen[key.subject]:
		case k.cache.put(key, k.ledger.has):
			created = append(created, changes[i].Key)
		default:
			shredded, failed = ErrShredded, errors.Join(failed, k.destroy(ctx, key.subject))
		}
	}
	if err := errors.Join(shredded, failed); err != nil {
		return err
	}
	// And a rotation that began meanwhile may be over, and not come by again.
	now, err := k.refresh(s)
	if err != nil || now.current == s.current {
		return err
	}
	_, err = k.rewrap(ctx, s, now, created, new(Rotation))
	return err
}

// markStore puts the key in that says whose the store is, and looks again if somebody else did so meanwhile.
func (k *Keyring) markStore(ctx context.Context) error {
	if k.marked.Load() {
		return nil
	}
	raw := newKey(keySize)
	defer clear(raw)
	lost, err := k.putReserved(ctx, mark, raw, nil)
	if err != nil {
		return err
	}
	if lost {
		return k.checkStore(ctx)
	}
	k.marked.Store(true)
	return nil
}

// wrap seals a subject key under the current epoch.
func (s *keys) wrap(subject Subject, raw []byte) (WrappedKey, error) {
	sealed, err := s.epochs[s.current].Encrypt(raw, s.boundToKey(subject, s.current))
	if err != nil {
		return WrappedKey{}, errors.New("crypto: a subject key cannot be wrapped")
	}
	return WrappedKey{Subject: subject, Epoch: s.current, Wrapped: sealed}, nil
}

func (s *keys) unwrap(w WrappedKey) ([]byte, error) {
	a := s.epochs[w.Epoch]
	if a == nil {
		return nil, ErrNoEpoch
	}
	raw, err := a.Decrypt(w.Wrapped, s.boundToKey(w.Subject, w.Epoch))
	if err != nil || len(raw) != keySize {
		return nil, ErrNotAuthentic
	}
	return raw, nil
}

func (s *keys) boundToKey(subject Subject, epoch uint32) []byte {
	b := make([]byte, 0, 128)
	b = append(b, labelKey...)
	b = appendPart(b, s.id[:])
	b = appendPart(b, string(subject))
	return appendNumber(b, uint64(epoch))
}

func (s *keys) subjectKey(subject Subject, raw []byte, until time.Time) (*subjectKey, error) {
	a, err := newSubjectAEAD(raw)
	if err != nil {
		return nil, errors.New("crypto: a subject key cannot be used")
	}
	b := make([]byte, 0, len(labelSegment)+8+16+8+len(subject))
	b = append(b, labelSegment...)
	b = appendPart(b, s.id[:])
	b = appendPart(b, string(subject))
	return &subjectKey{subject: subject, aead: hide(a), bound: b, tags: newTagger(raw), until: until}, nil
}

// key returns the key of a subject, from the cache or the store. Of many who miss the same one, one asks the store.
func (k *Keyring) key(ctx context.Context, subject Subject) (*subjectKey, error) {
	now := time.Now()
	if key := k.cache.get(subject, now); key != nil {
		return key, nil
	}
	if k.store == nil {
		return nil, ErrNoStore
	}
	if err := checkSubject(subject); err != nil {
		return nil, err
	}
	for {
		key, f, first := k.cache.board(subject, now)
		if key != nil {
			return key, nil
		}
		if first {
			k.fly(ctx, subject, f, now)
			return f.key, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		switch {
		case f.err == nil && now.Before(f.key.until):
			return f.key, nil
		case f.err == nil: // it took so long that what it knows was too old already when we came
		case !errors.Is(f.err, context.Canceled) && !errors.Is(f.err, context.DeadlineExceeded):
			return nil, f.err
		} // that somebody else gave up is no reason for us to
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		now = time.Now()
	}
}

// fly loads a key, and lands also when the store panics: others are waiting.
func (k *Keyring) fly(ctx context.Context, subject Subject, f *flight, now time.Time) {
	key, err := (*subjectKey)(nil), errors.New("crypto: the key store panicked")
	defer func() { k.cache.land(subject, f, key, err) }()
	key, err = k.load(ctx, subject, now)
}

func (k *Keyring) load(ctx context.Context, subject Subject, now time.Time) (*subjectKey, error) {
	// The key may be used until the ledger that it was checked against is as old as a cached key may be: what another
	// process shredded since is not in it. The store is asked after that: a key that it gives back in spite
	// of a tombstone is one that a backup brought back.
	asked, err := k.ledger.refreshAfter(now, k.cache.ttl/2)
	if err != nil {
		return nil, err
	}
	w, err := k.store.Key(ctx, subject)
	switch {
	case k.ledger.has(subject):
		return nil, ErrShredded
	case errors.Is(err, ErrNoKey):
		if _, err := k.ledger.refresh(); err != nil {
			return nil, err
		}
		if k.ledger.has(subject) {
			return nil, ErrShredded
		}
		return nil, ErrNoKey
	case err != nil:
		return nil, err
	}
	w.Subject = subject // whatever the row says
	s := k.state.Load()
	raw, err := s.unwrap(w)
	if errors.Is(err, ErrNoEpoch) { // one that another process has begun
		if s, err = k.refresh(s); err == nil {
			raw, err = s.unwrap(w)
		}
	}
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	return s.subjectKey(subject, raw, asked.Add(k.cache.ttl))
}

// Shred destroys the keys of subjects: what is sealed for them cannot be opened again, by anybody, in any copy of the data
// whose copy of the key is gone too, and in the others no longer through this keyring; and when the epoch has ended ([Schedule]), by nobody
// who has not the keyring of then. It writes a tombstone to the erasure
// ledger first, so that a key that comes back with a restored database stays dead. Keyring and store then take down how far the ledger is, so that
// an older copy of it is refused.
//
// When Shred has returned, this process opens nothing of the subjects'; another process may for as long as it keeps keys
// (Config.CacheTTL). When it returns an error after the tombstones were written, the subjects are shredded all the
// same, but wrapped keys may still lie in the store: call it again. Shredding twice is not an error, nor is shredding
// somebody who never had a key.
func (k *Keyring) Shred(ctx context.Context, subjects ...Subject) error {
	if k.store == nil {
		return ErrNoStore
	}
	for _, subject := range subjects {
		if err := checkSubject(subject); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil || len(subjects) == 0 {
		return err
	}
	if err := k.vouch(ctx); err != nil {
		return err
	}
	if err := k.ledger.bury(subjects...); err != nil {
		return err
	}
	var failed []error
	for _, subject := range subjects {
		failed = append(failed, k.destroy(ctx, subject))
	}
	return errors.Join(errors.Join(failed...), k.remember(ctx))
}

// Forgotten returns those of the subjects that were shredded, in this process or another: they have a tombstone in the erasure ledger, which is read anew.
// What a backup brought back of such a subject is to be deleted again.
//
// Errors: [ErrLedger]; that of ctx.
func (k *Keyring) Forgotten(ctx context.Context, subjects ...Subject) (forgotten []Subject, err error) {
	for _, s := range subjects {
		if err := checkSubject(s); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := k.ledger.refresh(); err != nil {
		return nil, err
	}
	for _, s := range subjects {
		if k.ledger.has(s) {
			forgotten = append(forgotten, s)
		}
	}
	return forgotten, nil
}

func (k *Keyring) destroy(ctx context.Context, subject Subject) error {
	k.cache.kill(subject)
	return k.store.DeleteKey(ctx, subject)
}
