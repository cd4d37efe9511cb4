package crypto

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A placed ciphertext is one with the place for which it was sealed.
type placed struct {
	keyring  int
	subject  Subject
	label    string
	revision uint64
	data     []byte
}

// TestSwappedCiphertexts puts ciphertexts where others belong, among places that look alike when they are run together.
func TestSwappedCiphertexts(t *testing.T) {
	ctx := context.Background()
	keyrings := []*Keyring{newHouse(t).open(newMemory()), newHouse(t).open(newMemory())}
	subjects := []Subject{"1", "11", "1n", "n", "1names", "6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "6f9619ff-8b86-4d01-b42d-00cf4fc964fe"}
	labels := []string{"", "n", "names", "ames", "1", "1n", "names\x00"}
	revisions := []uint64{0, 1, 2, 256, 1 << 63}
	var all []placed
	for i, k := range keyrings {
		require.NoError(t, k.CreateKeys(ctx, subjects...))
		for _, s := range subjects {
			for _, l := range labels {
				for _, r := range revisions {
					data, err := k.Seal(ctx, s, Plain{l, r, NewSecret("secret")})
					require.NoError(t, err)
					all = append(all, placed{i, s, l, r, data[0]})
				}
			}
		}
	}
	for range 10_000 {
		a, b := all[rand.IntN(len(all))], all[rand.IntN(len(all))]
		opened, err := keyrings[a.keyring].Open(ctx, a.subject, Sealed{a.label, a.revision, b.data})
		if slices.Equal(a.data, b.data) {
			require.NoError(t, err)
			require.Equal(t, "secret", opened[0].Reveal())
			continue
		}
		require.ErrorIs(t, err, ErrNotAuthentic)
		require.Nil(t, opened)
	}
	// One that is wrong spoils the others.
	_, err := keyrings[0].Open(ctx, "1", Sealed{all[0].label, all[0].revision, all[0].data}, Sealed{all[0].label, all[0].revision, all[1].data})
	require.ErrorIs(t, err, ErrNotAuthentic)
}

func TestSwappedKeys(t *testing.T) {
	ctx := context.Background()
	var keyrings []*Keyring
	var stores []*memory
	var all []WrappedKey
	subjects := []Subject{"1", "11", "111", "a", "aa", "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"}
	for range 2 {
		store := newMemory()
		k := newHouse(t).open(store, func(c *Config) { c.CacheTTL = 1 })
		require.NoError(t, k.CreateKeys(ctx, subjects...))
		for range 3 { // epochs 1 to 4; only the keys of the last are in the store, all were dumped
			for s, w := range store.dump() {
				if !isReserved(s) {
					all = append(all, w)
				}
			}
			_, err := k.Rotate(ctx, nil)
			require.NoError(t, err)
		}
		keyrings, stores = append(keyrings, k), append(stores, store)
	}
	perKeyring := len(all) / 2
	refused := 0
	for range 10_000 {
		i := rand.IntN(2)
		place, key := all[i*perKeyring+rand.IntN(perKeyring)], all[rand.IntN(len(all))]
		moved := WrappedKey{Subject: place.Subject, Epoch: place.Epoch, Wrapped: key.Wrapped}
		if rand.IntN(20) == 0 {
			moved.Epoch = 77
		}
		stores[i].restore(moved)
		_, err := keyrings[i].Open(ctx, place.Subject)
		if moved.Epoch == place.Epoch && slices.Equal(key.Wrapped, place.Wrapped) {
			require.NoError(t, err)
			continue
		}
		refused++
		require.True(t, errors.Is(err, ErrNotAuthentic) || errors.Is(err, ErrNoEpoch), "%v", err)
	}
	require.Greater(t, refused, 9_000)
}

// TestMangled changes and cuts sealed data and wrapped keys at every place.
func TestMangled(t *testing.T) {
	ctx := context.Background()
	store := newMemory()
	k := newHouse(t).open(store, func(c *Config) { c.CacheTTL = 1 })
	require.NoError(t, k.CreateKeys(ctx, "a"))
	sealed, err := k.Seal(ctx, "a", Plain{"names", 1, NewSecret("Märta")})
	require.NoError(t, err)
	require.Len(t, sealed[0], len("Märta")+Overhead)
	for m := range mangle(sealed[0]) {
		_, err := k.Open(ctx, "a", Sealed{"names", 1, m})
		require.ErrorIs(t, err, ErrNotAuthentic)
	}
	good := store.dump()["a"]
	require.Len(t, good.Wrapped, 60)
	for m := range mangle(good.Wrapped) {
		store.restore(WrappedKey{"a", good.Epoch, m})
		_, err := k.Open(ctx, "a", Sealed{"names", 1, sealed[0]})
		require.ErrorIs(t, err, ErrNotAuthentic)
	}
	store.restore(good)
	_, err = k.Open(ctx, "a", Sealed{"names", 1, sealed[0]})
	require.NoError(t, err)
}

// mangle yields b with every bit flipped, cut at every place, and longer by a byte.
func mangle(b []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for i := range len(b) * 8 {
			m := slices.Clone(b)
			m[i/8] ^= 1 << (i % 8)
			if !yield(m) {
				return
			}
		}
		for i := range b {
			if !yield(b[:i]) || !yield(b[i+1:]) {
				return
			}
		}
		_ = yield(append(slices.Clone(b), 0)) && yield(append([]byte{0}, b...)) && yield(nil)
	}
}

func TestSealOpen(t *testing.T) {
	ctx := context.Background()
	k := newHouse(t).open(newMemory())
	rapid.Check(t, func(t *rapid.T) {
		subject := Subject(rapid.StringN(1, -1, maxSubject).Draw(t, "subject"))
		require.NoError(t, k.CreateKeys(ctx, subject))
		var plain []Plain
		for range rapid.IntRange(0, 20).Draw(t, "parts") {
			plain = append(plain, Plain{rapid.String().Draw(t, "label"), rapid.Uint64().Draw(t, "revision"), NewSecret(rapid.String().Draw(t, "text"))})
		}
		data, err := k.Seal(ctx, subject, plain...)
		require.NoError(t, err)
		require.Len(t, data, len(plain))
		var sealed []Sealed
		for i, d := range data {
			require.Len(t, d, len(plain[i].Value.Reveal())+Overhead)
			sealed = append(sealed, Sealed{plain[i].Label, plain[i].Revision, d})
		}
		opened, err := k.Open(ctx, subject, sealed...)
		require.NoError(t, err)
		require.Len(t, opened, len(plain))
		for i, o := range opened {
			require.Equal(t, plain[i].Value.Reveal(), o.Reveal())
			require.Equal(t, plain[i].Value.IsEmpty(), o.IsEmpty())
		}
	})
	require.LessOrEqual(t, Overhead, 40)
}

// TestAgainstTink opens with Tink's AES-256-GCM what we seal with the standard library's, and the other way round.
func TestAgainstTink(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		key := newKey(keySize)
		ours, err := newSubjectAEAD(key)
		require.NoError(t, err)
		theirs, err := newAEAD(key)
		require.NoError(t, err)
		text := rapid.SliceOf(rapid.Byte()).Draw(t, "text")
		bound := rapid.SliceOf(rapid.Byte()).Draw(t, "bound")
		got, err := theirs.Decrypt(ours.Seal(nil, nil, text, bound), bound)
		require.NoError(t, err)
		require.True(t, slices.Equal(text, got))
		ct, err := theirs.Encrypt(text, bound)
		require.NoError(t, err)
		got, err = ours.Open(nil, nil, ct, bound)
		require.NoError(t, err)
		require.True(t, slices.Equal(text, got))
		_, err = theirs.Decrypt(ours.Seal(nil, nil, text, bound), append(bound, 0))
		require.Error(t, err)
	})

	// And the whole of a sealed part, with the associated data as the package comment describes it.
	store := newMemory()
	k := newHouse(t).open(store)
	require.NoError(t, k.CreateKeys(ctx, "a"))
	sealed, err := k.Seal(ctx, "a", Plain{"names", 258, NewSecret("Märta")})
	require.NoError(t, err)
	s := k.state.Load()
	id := string(s.id[:])
	raw, err := s.epochs[1].Decrypt(store.dump()["a"].Wrapped, []byte("carrel/v1/subject-key\x00\x00\x00\x00\x00\x00\x00\x00\x10"+id+
		"\x00\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x01"))
	require.NoError(t, err)
	theirs, err := newAEAD(raw)
	require.NoError(t, err)
	text, err := theirs.Decrypt(sealed[0][1:], []byte("carrel/v1/sealed\x00\x00\x00\x00\x00\x00\x00\x00\x10"+id+
		"\x00\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x05names\x00\x00\x00\x00\x00\x00\x01\x02"))
	require.NoError(t, err)
	require.Equal(t, "Märta", string(text))
	require.EqualValues(t, 1, sealed[0][0])
}

func FuzzOpen(f *testing.F) {
	ctx := context.Background()
	store := newMemory()
	k := newHouse(f).open(store)
	require.NoError(f, k.CreateKeys(ctx, "a"))
	good, err := k.Seal(ctx, "a", Plain{"names", 1, NewSecret("Märta")})
	require.NoError(f, err)
	wrapped := store.dump()["a"].Wrapped
	f.Add(good[0], "names", uint64(1), wrapped, uint32(1))
	f.Add(good[0][:Overhead], "names", uint64(1), wrapped[:30], uint32(2))
	f.Add([]byte{1}, "", uint64(0), []byte(nil), uint32(0))
	f.Fuzz(func(t *testing.T, data []byte, label string, revision uint64, key []byte, epoch uint32) {
		opened, err := k.Open(ctx, "a", Sealed{label, revision, data})
		if slices.Equal(data, good[0]) && label == "names" && revision == 1 {
			require.NoError(t, err)
			require.Equal(t, "Märta", opened[0].Reveal())
		} else {
			require.ErrorIs(t, err, ErrNotAuthentic)
		}
		_, err = k.state.Load().unwrap(WrappedKey{"a", epoch, key})
		if slices.Equal(key, wrapped) && epoch == 1 {
			require.NoError(t, err)
		} else {
			require.True(t, errors.Is(err, ErrNotAuthentic) || errors.Is(err, ErrNoEpoch), fmt.Sprint(err))
		}
	})
}
