package crypto

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestShredWhileReading: what begins after Shred returned opens nothing, in the process that shredded; in another one, what
// begins more than CacheTTL after that.
func TestShredWhileReading(t *testing.T) {
	ctx := context.Background()
	const ttl = 20 * time.Millisecond
	rounds := 50
	if long() {
		rounds = 1000
	}
	h := newHouse(t)
	store := newMemory()
	short := func(c *Config) { c.CacheTTL = ttl }
	here, there := h.open(store, short), h.open(store, short)
	opened := 0
	for round := range rounds {
		store.keep = round%2 == 1 // then the ledger alone has to do it
		s := Subject(fmt.Sprint(round))
		require.NoError(t, here.CreateKeys(ctx, s))
		data, err := here.Seal(ctx, s, Plain{"names", 1, NewSecret(canary)})
		require.NoError(t, err)
		wrapped := store.dump()[s]

		type success struct {
			there bool
			began time.Time
		}
		var (
			wg       sync.WaitGroup
			mu       sync.Mutex
			all      []success
			reading  sync.WaitGroup
			returned time.Time
		)
		reading.Add(64)
		for i := range 64 {
			wg.Go(func() {
				k := here
				if i%2 == 1 {
					k = there
				}
				var mine []success
				defer func() { mu.Lock(); defer mu.Unlock(); all = append(all, mine...) }()
				for n := 0; ; n++ {
					began := time.Now()
					got, err := k.Open(ctx, s, Sealed{"names", 1, data[0]})
					if n == 0 {
						reading.Done()
					}
					if err != nil {
						if !errors.Is(err, ErrShredded) {
							t.Errorf("round %d: %v", round, err)
						}
						return
					}
					if got[0].Reveal() != canary {
						t.Error("another plaintext")
					}
					mine = append(mine, success{k == there, began})
					time.Sleep(50 * time.Microsecond)
				}
			})
		}
		reading.Wait()
		require.NoError(t, here.Shred(ctx, s))
		returned = time.Now()
		wg.Wait()
		for _, o := range all {
			limit := returned
			if o.there {
				limit = returned.Add(ttl)
			}
			require.False(t, o.began.After(limit), "round %d: began %v after Shred returned", round, o.began.Sub(returned))
		}
		opened += len(all)

		reopened := h.open(store)
		for _, k := range []*Keyring{here, there, reopened} {
			require.True(t, k.ledger.has(s))
			for range 2 { // the second time with the key that a backup brought back
				_, err := k.Open(ctx, s, Sealed{"names", 1, data[0]})
				require.Equal(t, ErrShredded, err)
				_, err = k.Seal(ctx, s, Plain{"names", 2, NewSecret("x")})
				require.Equal(t, ErrShredded, err)
				require.ErrorIs(t, k.CreateKeys(ctx, s), ErrShredded)
				store.restore(wrapped)
			}
		}
		require.NoError(t, here.Shred(ctx, s), "again, for the key that came back")
	}
	require.Greater(t, opened, rounds*64)

	// A rotation clears away what a backup brought back; a dump of the store afterwards has nothing to open with.
	store.keep = false
	r, err := here.Rotate(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, rounds/2, r.Shredded)
	require.Len(t, store.dump(), 2, "the marks")
}

// TestForgotten: whoever was shredded is known to be, also to a process that had the ledger before, and whether they ever had a key or not.
func TestForgotten(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	here, there := h.open(store), h.open(nil)
	require.NoError(t, here.CreateKeys(ctx, "one", "other"))
	is := func(k *Keyring, s Subject) bool {
		forgotten, err := k.Forgotten(ctx, s)
		require.NoError(t, err)
		return len(forgotten) > 0
	}
	require.False(t, is(here, "one"))
	require.False(t, is(there, "one"))
	require.NoError(t, here.Shred(ctx, "one", "nobody"))
	for _, k := range []*Keyring{here, there, h.open(store)} {
		require.True(t, is(k, "one"))
		require.True(t, is(k, "nobody"))
		require.False(t, is(k, "other"))
	}

	for _, bad := range []Subject{"", mark, noted} {
		_, err := here.Forgotten(ctx, bad)
		require.Error(t, err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err := here.Forgotten(ended, "one")
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, os.Remove(ledgerPath(here.path)))
	_, err = here.Forgotten(ctx, "other")
	require.ErrorIs(t, err, ErrLedger, "who was forgotten is not known")
}

// TestRestoredBackup: shredded patrons stay away when the whole database comes back.
func TestRestoredBackup(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	k := h.open(store)
	var subjects []Subject
	sealed := map[Subject][]byte{}
	for i := range 200 {
		subjects = append(subjects, Subject(fmt.Sprint(i)))
	}
	require.NoError(t, k.CreateKeys(ctx, subjects...))
	for _, s := range subjects {
		data, err := k.Seal(ctx, s, Plain{"names", 1, NewSecret(canary)})
		require.NoError(t, err)
		sealed[s] = data[0]
	}
	backup := store.dump()
	for _, s := range subjects[:100] {
		require.NoError(t, k.Shred(ctx, s))
	}
	require.Len(t, store.dump(), 102, "with the marks")
	restored := newMemory()
	for _, w := range backup {
		restored.restore(w)
	}
	for _, k := range []*Keyring{k, h.open(restored)} {
		for i, s := range subjects {
			_, err := k.Open(ctx, s, Sealed{"names", 1, sealed[s]})
			if i < 100 {
				require.Equal(t, ErrShredded, err)
			} else {
				require.NoError(t, err)
			}
		}
	}
}

// TestShredMeets puts a Shred, by this process or another, between what others do.
func TestShredMeets(t *testing.T) {
	ctx := context.Background()
	for _, other := range []bool{false, true} {
		t.Run(fmt.Sprint("other process ", other), func(t *testing.T) {
			h := newHouse(t)
			store := newMemory()
			k := h.open(store)
			shredder := k
			if other {
				shredder = h.open(store)
			}
			shred := func(s Subject) { require.NoError(t, shredder.Shred(ctx, s)) }

			// A creation: before the key is stored.
			require.NoError(t, k.CreateKeys(ctx))
			store.onPut = func() { store.onPut = nil; shred("b") }
			require.Equal(t, ErrShredded.Error(), k.CreateKeys(ctx, "a", "b", "c").Error())
			require.Len(t, store.dump(), 4, "the others have theirs, and there are the marks")
			_, err := k.Open(ctx, "b")
			require.Equal(t, ErrShredded, err)

			// A creation: before it began.
			shred("d")
			require.Equal(t, ErrShredded, k.CreateKeys(ctx, "d"))

			// A load: between the store and the cache.
			k = h.open(store)
			if !other {
				shredder = k
			}
			store.afterKey = func(s Subject) { store.afterKey = nil; shred(s) }
			_, err = k.Open(ctx, "a")
			if other {
				require.NoError(t, err, "for CacheTTL it may")
			} else {
				require.Equal(t, ErrShredded, err)
			}

			// A rotation: between the page and its replacement.
			require.NoError(t, k.CreateKeys(ctx, "e", "f"))
			store.onPut = func() { store.onPut = nil; shred("e") }
			r, err := k.Rotate(ctx, nil)
			require.NoError(t, err)
			require.Equal(t, 2, r.Rewrapped)
			require.NotContains(t, store.dump(), Subject("e"))
		})
	}
}

func TestCreateRacesShred(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	short := func(c *Config) { c.CacheTTL = time.Millisecond }
	all := []*Keyring{h.open(store, short), h.open(store, short)}
	rounds := 200
	if long() {
		rounds = 2000
	}
	for round := range rounds {
		s := Subject(fmt.Sprint(round))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if err := all[i%2].CreateKeys(ctx, s, s+"-neighbour"); err != nil && !errors.Is(err, ErrShredded) {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if err := all[round%2].Shred(ctx, s); err != nil {
				t.Error(err)
			}
			if _, err := all[round%2].Open(ctx, s); !errors.Is(err, ErrShredded) {
				t.Errorf("after Shred: %v", err)
			}
		})
		wg.Wait()
		require.NotContains(t, store.dump(), s)
		_, err := all[round%2].Open(ctx, s)
		require.Equal(t, ErrShredded, err)
	}
}

// TestSlowLoad: whoever waits for a load that began long before they came does not get what was shredded before they came.
func TestSlowLoad(t *testing.T) {
	ctx := context.Background()
	const ttl = 10 * time.Millisecond
	h := newHouse(t)
	store := newMemory()
	k, other := h.open(store, func(c *Config) { c.CacheTTL = ttl }), h.open(store)
	require.NoError(t, other.CreateKeys(ctx, "a"))
	read, release := make(chan bool), make(chan bool)
	var once atomic.Bool
	store.afterKey = func(Subject) {
		if !once.Swap(true) {
			close(read)
			<-release
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := k.Open(ctx, "a"); err != nil {
			t.Error("the first came before the shredding: ", err)
		}
	})
	<-read
	require.NoError(t, other.Shred(ctx, "a"))
	time.Sleep(2 * ttl)
	wg.Go(func() {
		if _, err := k.Open(ctx, "a"); !errors.Is(err, ErrShredded) {
			t.Errorf("the second came after it: %v", err)
		}
	})
	time.Sleep(ttl)
	close(release)
	wg.Wait()
}

func TestShredWithoutKey(t *testing.T) {
	ctx := context.Background()
	k := newHouse(t).open(newMemory())
	_, err := k.Open(ctx, "a")
	require.Equal(t, ErrNoKey, err)
	require.NoError(t, k.Shred(ctx, "a"))
	_, err = k.Open(ctx, "a")
	require.Equal(t, ErrShredded, err)
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, k.Shred(canceled, "b"), context.Canceled)
	require.False(t, k.ledger.has("b"))
	none := newHouse(t).open(nil)
	require.Equal(t, ErrNoStore, none.Shred(ctx, "a"))
	require.Equal(t, ErrNoStore, none.CreateKeys(ctx, "a"))
	_, err = none.Open(ctx, "a")
	require.Equal(t, ErrNoStore, err)
	_, err = none.Rotate(ctx, nil)
	require.Equal(t, ErrNoStore, err)
	require.Error(t, k.Shred(ctx, ""))
}

// TestStaleLedger: a key may be used for CacheTTL after the ledger was looked at, not after the key was loaded.
func TestStaleLedger(t *testing.T) {
	h := newHouse(t)
	store := newMemory()
	store.keep = true // then the ledger alone has to do it
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		k, other := h.open(store, func(c *Config) { c.CacheTTL = time.Second }), h.open(store)
		require.NoError(t, other.CreateKeys(ctx, "a"))
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, other.Shred(ctx, "a"))
		time.Sleep(300 * time.Millisecond)
		_, err := k.Open(ctx, "a")
		require.NoError(t, err)
		time.Sleep(600*time.Millisecond - 1)
		_, err = k.Open(ctx, "a")
		require.NoError(t, err)
		time.Sleep(time.Nanosecond)
		_, err = k.Open(ctx, "a")
		require.Equal(t, ErrShredded, err)
	})
}

// TestShredInHand: neither a key that somebody has in hand nor one that is about to be let into the cache opens anything.
func TestShredInHand(t *testing.T) {
	ctx := context.Background()
	k := newHouse(t).open(newMemory())
	require.NoError(t, k.CreateKeys(ctx, "a", "b"))
	key, err := k.key(ctx, "a")
	require.NoError(t, err)
	require.NoError(t, k.Shred(ctx, "a"))
	require.True(t, key.dead.Load(), "an Open that has it returns ErrShredded")

	k.cache.kill("b") // out of the cache
	_, f, first := k.cache.board("b", time.Now())
	require.True(t, first)
	key, err = k.load(ctx, "b", time.Now())
	require.NoError(t, err)
	require.NoError(t, k.Shred(ctx, "b"))
	k.cache.land("b", f, key, nil)
	require.Equal(t, ErrShredded, f.err)
	require.Nil(t, f.key)
	require.Nil(t, k.cache.get("b", time.Now()))

	require.False(t, k.cache.put(key, k.ledger.has), "nor does one that was made")
}
