package crypto

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

type mapStore struct {
	mu sync.Mutex
	m  map[Subject]WrappedKey
}

func (s *mapStore) Key(_ context.Context, sub Subject) (WrappedKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.m[sub]
	if !ok {
		return k, ErrNoKey
	}
	return k, nil
}
func (s *mapStore) PutKeys(_ context.Context, c []KeyChange) ([]Subject, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range c {
		s.m[x.Key.Subject] = x.Key
	}
	return nil, nil
}
func (s *mapStore) OlderKeys(context.Context, uint32, Subject, int) ([]WrappedKey, error) {
	return nil, nil
}
func (s *mapStore) DeleteKey(context.Context, Subject) error { return nil }

func BenchmarkOpen12(b *testing.B) {
	dir := b.TempDir()
	require.NoError(b, CreateKEK(filepath.Join(dir, "kek")))
	kek, err := OpenKEK(filepath.Join(dir, "kek"))
	require.NoError(b, err)
	require.NoError(b, CreateKeyring(filepath.Join(dir, "keys"), kek))
	k, err := OpenKeyring(b.Context(), Config{Path: filepath.Join(dir, "keys"), KEK: kek, Store: &mapStore{m: map[Subject]WrappedKey{}}})
	require.NoError(b, err)
	sub := Subject("6f9619ff-8b86-4d01-b42d-00cf4fc964ff")
	require.NoError(b, k.CreateKeys(b.Context(), sub))
	var plain []Plain
	for i := range 12 {
		plain = append(plain, Plain{fmt.Sprintf("segment%d", i), 1, NewSecret(string(make([]byte, 60)))})
	}
	data, err := k.Seal(b.Context(), sub, plain...)
	require.NoError(b, err)
	var parts []Sealed
	for i, d := range data {
		parts = append(parts, Sealed{plain[i].Label, 1, d})
	}
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.Open(b.Context(), sub, parts...); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("uncached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			k.cache.kill(sub)
			if _, err := k.Open(b.Context(), sub, parts...); err != nil {
				b.Fatal(err)
			}
		}
	})
	block, _ := aes.NewCipher(newKey(32))
	g, _ := cipher.NewGCM(block)
	bound := make([]byte, 110)
	ct := g.Seal(nil, make([]byte, 12), make([]byte, 60), bound)
	buf, nonce := make([]byte, 0, 100), make([]byte,12)
	b.Run("bare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for range 12 {
				if _, err := g.Open(buf, nonce, ct, bound); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("barealloc", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for range 12 {
				if _, err := g.Open(nil, nonce, ct, bound); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	raw := newKey(32)
	b.Run("newaead", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			newAEAD(raw)
		}
	})
	ix, _ := NewIndex(IndexIdentifier, Field{Name: "identifier"})
	b.Run("token", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			k.Indexes().Tokens(ix, "99999395390")
		}
	})
}
