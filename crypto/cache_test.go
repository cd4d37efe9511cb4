package crypto

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSingleFlight: of 64 who miss the same key, one asks the store.
func TestSingleFlight(t *testing.T) {
	h := newHouse(t)
	store := newMemory()
	require.NoError(t, h.open(store).CreateKeys(t.Context(), "a"))
	synctest.Test(t, func(t *testing.T) {
		k := h.open(store)
		store.reads.Store(0)
		release := make(chan bool)
		store.onKey = func(context.Context, Subject) error { <-release; return nil }
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				_, err := k.Open(context.Background(), "a")
				require.NoError(t, err)
			})
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		require.EqualValues(t, 1, store.reads.Load())
		require.Empty(t, k.cache.flights)
	})
}

// TestLeaderGivesUp: that the one who asks the store gives up, is refused or panics is no reason for the others to.
func TestLeaderGivesUp(t *testing.T) {
	h := newHouse(t)
	store := newMemory()
	require.NoError(t, h.open(store).CreateKeys(t.Context(), "a"))
	boom := errors.New("the database is away")
	for _, c := range []struct {
		name      string
		first     func(context.Context) error
		leader    error
		followers error
	}{
		{"canceled", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, context.Canceled, nil},
		{"refused", func(ctx context.Context) error { <-ctx.Done(); return boom }, boom, boom},
		{"panics", func(ctx context.Context) error { <-ctx.Done(); panic("store") }, nil, errors.New("crypto: the key store panicked")},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := h.open(store)
				store.reads.Store(0)
				store.onKey = func(ctx context.Context, _ Subject) error {
					if store.reads.Load() == 1 {
						return c.first(ctx)
					}
					return nil
				}
				ctx, cancel := context.WithCancel(context.Background())
				var wg sync.WaitGroup
				wg.Go(func() {
					defer func() { recover() }()
					_, err := k.Open(ctx, "a")
					require.ErrorIs(t, err, c.leader)
				})
				synctest.Wait()
				for range 20 {
					wg.Go(func() {
						_, err := k.Open(context.Background(), "a")
						if c.followers == nil {
							require.NoError(t, err)
						} else {
							require.EqualError(t, err, c.followers.Error())
						}
					})
				}
				impatient, stop := context.WithCancel(context.Background())
				wg.Go(func() {
					_, err := k.Open(impatient, "a")
					require.ErrorIs(t, err, context.Canceled)
				})
				synctest.Wait()
				stop()
				synctest.Wait()
				cancel()
				wg.Wait()
				_, err := k.Open(context.Background(), "a")
				require.NoError(t, err)
				require.Empty(t, k.cache.flights)
				require.LessOrEqual(t, store.reads.Load(), int64(2))
			})
		})
	}
}

func TestCacheTTL(t *testing.T) {
	h := newHouse(t)
	store := newMemory()
	require.NoError(t, h.open(store).CreateKeys(t.Context(), "a"))
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		k := h.open(store, func(c *Config) { c.CacheTTL = 10 * time.Second })
		reads := func(want int64) {
			t.Helper()
			_, err := k.Open(ctx, "a")
			require.NoError(t, err)
			require.Equal(t, want, store.reads.Swap(0))
		}
		store.reads.Store(0)
		reads(1)
		time.Sleep(10*time.Second - 1)
		reads(0)
		time.Sleep(time.Nanosecond)
		reads(1)
		// A key is kept only until the ledger that it was checked against is too old: by half at most.
		other := h.open(store)
		require.NoError(t, other.CreateKeys(ctx, "b"))
		time.Sleep(5*time.Second - 1)
		_, err := k.Open(ctx, "b")
		require.NoError(t, err)
		store.reads.Store(0)
		time.Sleep(5 * time.Second)
		_, err = k.Open(ctx, "b")
		require.NoError(t, err)
		require.Zero(t, store.reads.Load())
		time.Sleep(time.Nanosecond)
		_, err = k.Open(ctx, "b")
		require.NoError(t, err)
		require.EqualValues(t, 1, store.reads.Load())
	})
}

func TestCacheIsBounded(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	k := h.open(store, func(c *Config) { c.CacheSize = 10 })
	check := func() {
		t.Helper()
		require.LessOrEqual(t, len(k.cache.entries), 10)
		require.Equal(t, len(k.cache.entries), k.cache.order.Len())
	}
	var all []Subject
	for i := range 100 {
		all = append(all, Subject(fmt.Sprint(i)))
	}
	require.NoError(t, k.CreateKeys(ctx, all...))
	check()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, s := range all {
				if _, err := k.Open(ctx, s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	check()
	for _, s := range all[90:] {
		require.NoError(t, k.Shred(ctx, s))
	}
	check()
	require.Empty(t, k.cache.flights)
	require.Equal(t, 4096, h.open(store).cache.size)
	require.Equal(t, time.Minute, h.open(store).cache.ttl)
}
