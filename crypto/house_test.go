package crypto

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// A house is a key-encryption key and a keyring in a directory of their own.
type house struct {
	t    testing.TB
	path string
	kek  tink.AEAD
}

func newHouse(t testing.TB) *house {
	dir := t.TempDir()
	require.NoError(t, CreateKEK(filepath.Join(dir, "kek")))
	kek, err := OpenKEK(filepath.Join(dir, "kek"))
	require.NoError(t, err)
	h := &house{t, filepath.Join(dir, "keys"), kek}
	require.NoError(t, CreateKeyring(h.path, kek))
	return h
}

// open opens the keyring once more, as another process would.
func (h *house) open(store KeyStore, options ...func(*Config)) *Keyring {
	h.t.Helper()
	cfg := Config{Path: h.path, KEK: h.kek, Store: store}
	for _, o := range options {
		o(&cfg)
	}
	k, err := OpenKeyring(context.Background(), cfg)
	require.NoError(h.t, err)
	return k
}

func (h *house) file(suffix string) []byte {
	h.t.Helper()
	data, err := os.ReadFile(h.path + suffix)
	require.NoError(h.t, err)
	return data
}

func (h *house) write(suffix string, data []byte) {
	h.t.Helper()
	require.NoError(h.t, os.WriteFile(h.path+suffix, data, 0o600))
}

// A memory keeps wrapped keys in a map. What it does besides can be hooked.
type memory struct {
	reads atomic.Int64

	mu      sync.Mutex
	keys    map[Subject]WrappedKey
	ordered []Subject // all that ever had a key

	onKey    func(context.Context, Subject) error // before a key is read
	afterKey func(Subject)                        // after it was read, before it is returned
	onPut    func()                               // before changes are made
	keep     bool                                 // DeleteKey does nothing: a backup is restored as soon as it is done
}

func newMemory() *memory { return &memory{keys: map[Subject]WrappedKey{}} }

func (m *memory) Key(ctx context.Context, subject Subject) (WrappedKey, error) {
	m.reads.Add(1)
	if m.onKey != nil {
		if err := m.onKey(ctx, subject); err != nil {
			return WrappedKey{}, err
		}
	}
	m.mu.Lock()
	k, ok := m.keys[subject]
	m.mu.Unlock()
	if m.afterKey != nil {
		m.afterKey(subject)
	}
	if !ok {
		return k, ErrNoKey
	}
	return k, nil
}

func (m *memory) PutKeys(_ context.Context, changes []KeyChange) (lost []Subject, err error) {
	if m.onPut != nil {
		m.onPut()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range changes {
		is, ok := m.keys[c.Key.Subject]
		if c.Old == nil && ok || c.Old != nil && (!ok || !slices.Equal(is.Wrapped, c.Old)) {
			lost = append(lost, c.Key.Subject)
			continue
		}
		m.set(c.Key)
	}
	return lost, nil
}

func (m *memory) OlderKeys(_ context.Context, before uint32, after Subject, limit int) (page []WrappedKey, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.IsSorted(m.ordered) {
		slices.Sort(m.ordered)
		m.ordered = slices.Compact(m.ordered)
	}
	at, _ := slices.BinarySearch(m.ordered, after)
	for _, s := range m.ordered[at:] {
		if k, ok := m.keys[s]; ok && k.Epoch < before && s > after && len(page) < limit {
			page = append(page, k)
		}
	}
	return page, nil
}

func (m *memory) set(k WrappedKey) {
	if _, ok := m.keys[k.Subject]; !ok {
		m.ordered = append(m.ordered, k.Subject)
	}
	m.keys[k.Subject] = k
}

func (m *memory) DeleteKey(_ context.Context, subject Subject) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.keep {
		delete(m.keys, subject)
	}
	return nil
}

// dump returns a copy of all keys, as a backup has it.
func (m *memory) dump() map[Subject]WrappedKey {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.keys)
}

// restore puts a key back, as a restored backup does.
func (m *memory) restore(k WrappedKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(k)
}
