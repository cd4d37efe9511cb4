package memory

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/carrel-project/carrel/crypto"
)

// Keys is a store of wrapped subject keys. It is safe for concurrent use.
type Keys struct {
	mu   sync.RWMutex
	keys map[crypto.Subject]crypto.WrappedKey
}

var _ crypto.KeyStore = (*Keys)(nil)

// NewKeys returns an empty store.
func NewKeys() *Keys { return &Keys{keys: make(map[crypto.Subject]crypto.WrappedKey)} }

func cloneKey(w crypto.WrappedKey) crypto.WrappedKey {
	w.Wrapped = slices.Clone(w.Wrapped)
	return w
}

// Key implements crypto.KeyStore.
func (k *Keys) Key(ctx context.Context, subject crypto.Subject) (crypto.WrappedKey, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return crypto.WrappedKey{}, err
	}
	w, ok := k.keys[subject]
	if !ok {
		return crypto.WrappedKey{}, crypto.ErrNoKey
	}
	return cloneKey(w), nil
}

// PutKeys implements crypto.KeyStore.
func (k *Keys) PutKeys(ctx context.Context, changes []crypto.KeyChange) (lost []crypto.Subject, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, c := range changes {
		w, there := k.keys[c.Key.Subject]
		if there == (c.Old == nil) || there && !bytes.Equal(w.Wrapped, c.Old) {
			lost = append(lost, c.Key.Subject)
			continue
		}
		k.keys[c.Key.Subject] = cloneKey(c.Key)
	}
	return lost, nil
}

// OlderKeys implements crypto.KeyStore, in the order of the subjects: one that does not change when a key is wrapped anew.
func (k *Keys) OlderKeys(ctx context.Context, before uint32, after crypto.Subject, limit int) (page []crypto.WrappedKey, err error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for subject, w := range k.keys {
		if w.Epoch < before && subject > after {
			page = append(page, w)
		}
	}
	slices.SortFunc(page, func(a, b crypto.WrappedKey) int { return strings.Compare(string(a.Subject), string(b.Subject)) })
	page = slices.Clip(page[:min(len(page), max(limit, 0))])
	for i, w := range page {
		page[i] = cloneKey(w)
	}
	return page, nil
}

// DeleteKey implements crypto.KeyStore.
func (k *Keys) DeleteKey(ctx context.Context, subject crypto.Subject) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	delete(k.keys, subject)
	return nil
}
