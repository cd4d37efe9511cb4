package redis_test

import (
	"context"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/redis"
)

var jdoe = lockout.Attempt{Account: lockout.Account{Login: "jdoe", ID: "patron-1"}, Source: netip.MustParseAddr("192.0.2.1")}

// wrong makes wrong guesses until it is locked, and returns how many there were.
func wrong(t *testing.T, g *lockout.Guard) int {
	t.Helper()
	for n := 0; ; n++ {
		r, err := g.Reserve(t.Context(), jdoe)
		if err != nil {
			require.ErrorIs(t, err, lockout.ErrLocked)
			return n
		}
		require.NoError(t, r.Failure(t.Context()))
	}
}

// locked expects that it is locked, and for at least and at most so long.
func locked(t *testing.T, g *lockout.Guard, least, most time.Duration) {
	t.Helper()
	_, err := g.Reserve(t.Context(), jdoe)
	var e *lockout.LockedError
	require.ErrorAs(t, err, &e)
	require.GreaterOrEqual(t, e.Wait, least)
	require.LessOrEqual(t, e.Wait, most)
}

func TestLockOutlivesTheGuard(t *testing.T) {
	store, client, prefix := open(t)
	require.Equal(t, 5, wrong(t, guard(t, store)))
	again, err := redis.NewLockouts(client, prefix)
	require.NoError(t, err)
	locked(t, guard(t, again), 14*time.Minute, 15*time.Minute)
	require.NoError(t, guard(t, again).Unlock(t.Context(), audit.Event{Actor: "desk"}, jdoe.Account, "came to the desk"))
	require.Equal(t, 5, wrong(t, guard(t, again)))
}

// A hands is a clock that tests set.
type hands struct {
	mu sync.Mutex
	t  time.Time
}

func (h *hands) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.t
}

func (h *hands) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.t = h.t.Add(d)
}

// TestServerClockIsSet sets the clock of the server by an hour while there is a lock. The Guard that runs puts the store's time right when it asks again, and nobody
// unlocks early, nor is locked for an hour more.
func TestServerClockIsSet(t *testing.T) {
	for _, step := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(step.String(), func(t *testing.T) {
			store, client, prefix := open(t)
			h := &hands{t: time.Now()}
			running := guard(t, store, func(c *lockout.Config) { c.Now = h.now })
			require.Equal(t, 5, wrong(t, running))

			// What the store says is the server's time and the offset, so that this is the same as setting the server's clock.
			before, _, err := store.Sync(t.Context(), time.Time{}, 0)
			require.NoError(t, err)
			require.NoError(t, client.HIncrBy(t.Context(), "{"+prefix+"}:clock", "apart", step.Microseconds()).Err())
			after, _, err := store.Sync(t.Context(), time.Time{}, 0)
			require.NoError(t, err)
			require.InDelta(t, step.Seconds(), after.Sub(before).Seconds(), 1)

			locked(t, running, 14*time.Minute, 15*time.Minute)
			h.pass(59 * time.Second)
			locked(t, running, 13*time.Minute, 14*time.Minute+time.Second)
			h.pass(2 * time.Second)
			locked(t, running, 13*time.Minute, 14*time.Minute)
			right, _, err := store.Sync(t.Context(), time.Time{}, 0)
			require.NoError(t, err)
			require.InDelta(t, 61, right.Sub(before).Seconds(), 1)
			locked(t, guard(t, store), 13*time.Minute, 14*time.Minute)

			h.pass(13*time.Minute + 57*time.Second)
			locked(t, running, 0, 3*time.Second)
			h.pass(3 * time.Second)
			require.Equal(t, 5, wrong(t, running), "the lock has ended")
		})
	}
}

// TestOffsetIsExact has an offset of more digits than Lua writes by itself.
func TestOffsetIsExact(t *testing.T) {
	store, client, prefix := open(t)
	mine := time.Date(2250, 1, 1, 0, 0, 0, 123_457_000, time.UTC)
	got, _, err := store.Sync(t.Context(), mine, 0)
	require.NoError(t, err)
	require.True(t, mine.Equal(got), got)
	kept, err := client.HGet(t.Context(), "{"+prefix+"}:clock", "apart").Result()
	require.NoError(t, err)
	n, err := strconv.ParseInt(kept, 10, 64)
	require.NoError(t, err)
	require.InDelta(t, time.Until(mine).Seconds(), (time.Duration(n) * time.Microsecond).Seconds(), 5)
}

// nowhere is a port at which nobody listens, and hasty says so at once: by itself go-redis tries for two seconds.
var (
	nowhere = goredis.Options{Addr: "127.0.0.1:1"}
	hasty   = goredis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1}
)

// unreachable returns a store whose server is not there.
func unreachable(t *testing.T, options goredis.Options) *redis.Lockouts {
	client := goredis.NewClient(&options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	store, err := redis.NewLockouts(client, "")
	require.NoError(t, err)
	return store
}

func TestNoServer(t *testing.T) {
	g := guard(t, unreachable(t, nowhere))
	began := time.Now()
	for range 3 {
		_, err := g.Reserve(t.Context(), jdoe)
		require.ErrorIs(t, err, lockout.ErrUnavailable)
		require.NotContains(t, err.Error(), "127.0.0.1")
	}
	require.Less(t, time.Since(began), 7*time.Second)
}

func TestNoServerWithFallback(t *testing.T) {
	g := guard(t, unreachable(t, hasty), func(c *lockout.Config) { c.Fallback = memory.NewLockouts() })
	require.Equal(t, 5, wrong(t, g))
	locked(t, g, 14*time.Minute, 15*time.Minute)
}

// A gate is a client whose server is away while it is closed.
type gate struct {
	redis.Client
	away redis.Client
	mu   sync.Mutex
	shut bool
}

func (g *gate) Process(ctx context.Context, cmd goredis.Cmder) error {
	g.mu.Lock()
	client := g.Client
	if g.shut {
		client = g.away
	}
	g.mu.Unlock()
	return client.Process(ctx, cmd)
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
}

// TestOutageGivesNoNewGuesses loses the server after two guesses, and has it back after four.
func TestOutageGivesNoNewGuesses(t *testing.T) {
	client := connect(t)
	away := goredis.NewClient(&hasty)
	t.Cleanup(func() { require.NoError(t, away.Close()) })
	way := &gate{Client: client, away: away}
	store, err := redis.NewLockouts(way, draw(t, client))
	require.NoError(t, err)
	g := guard(t, store, func(c *lockout.Config) { c.Fallback = memory.NewLockouts() })
	guess := func() {
		t.Helper()
		r, err := g.Reserve(t.Context(), jdoe)
		require.NoError(t, err)
		require.NoError(t, r.Failure(t.Context()))
	}
	guess()
	guess()
	way.set(true)
	guess()
	guess()
	way.set(false)
	require.Equal(t, 1, wrong(t, g))
}
