package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

// someLimits are limits at the bounds of the profiles and between them. Reached says that somebody who guesses the moment it is possible
// comes to the bound of a week, too.
var someLimits = []struct {
	lockout.Config
	reached bool
}{
	{lockout.Config{}, true},
	{lockout.Config{Attempts: 3, Duration: 3 * time.Minute}, true},
	{lockout.Config{Attempts: 20, Duration: 20 * time.Minute}, true},
	{lockout.Config{Attempts: 7, Duration: 7*time.Minute + time.Second}, true},
	{lockout.Config{Daily: 12}, true},
	{lockout.Config{Profile: lockout.PIN}, true},
	{lockout.Config{Profile: lockout.PIN, Attempts: 3, Daily: 3}, true},
	{lockout.Config{Profile: lockout.PIN, Attempts: 3, Duration: 2 * time.Hour, Daily: 20}, false},
	{lockout.Config{Profile: lockout.PIN, Attempts: 10, Duration: 24 * time.Hour}, true},
	{lockout.Config{Profile: lockout.NIST}, true},
	{lockout.Config{Profile: lockout.NIST, Attempts: 7, Duration: 5 * time.Hour, Daily: 30}, false},
	{lockout.Config{Profile: lockout.PCI}, true},
	{lockout.Config{Profile: lockout.PCI, Attempts: 10, Duration: 7 * time.Hour}, true},
}

// A guesser guesses at a real Guard by a clock of its own.
type guesser struct {
	*lockout.Guard
	begin, now time.Time
	admitted   []time.Duration // when
}

func newGuesser(t testing.TB, cfg lockout.Config) *guesser {
	t.Helper()
	g := &guesser{begin: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	g.now = g.begin
	cfg.Now = func() time.Time { return g.now }
	guard, err := lockout.New(memory.NewLockouts(), cfg)
	require.NoError(t, err)
	g.Guard = guard
	return g
}

// try guesses once, wrongly, and returns for how long it is locked.
func (g *guesser) try(t testing.TB, a lockout.Attempt) time.Duration {
	r, err := g.Reserve(t.Context(), a)
	var locked *lockout.LockedError
	if errors.As(err, &locked) {
		return locked.Wait
	}
	require.NoError(t, err)
	g.admitted = append(g.admitted, g.now.Sub(g.begin))
	require.NoError(t, r.Failure(t.Context()))
	return 0
}

// upTo guesses the moment it is possible.
func (g *guesser) upTo(t testing.TB, end time.Duration, attempt func(n int) lockout.Attempt) {
	for n := 0; ; {
		wait := g.try(t, attempt(n))
		if wait == 0 {
			n++
			continue
		}
		if g.now = g.now.Add(wait); g.now.Sub(g.begin) >= end {
			return
		}
	}
}

func (g *guesser) within(from, end time.Duration) (n int64) {
	for _, at := range g.admitted {
		if at >= from && at < end {
			n++
		}
	}
	return n
}

func oneAccount(int) lockout.Attempt {
	return lockout.Attempt{Account: lockout.Account{Login: "p-77", ID: "p-77"}}
}

func TestLockoutBoundsAreThoseOfAGuard(t *testing.T) {
	for _, c := range someLimits {
		cfg := c.Config
		require.NoError(t, cfg.Check())
		b := accountBound(cfg)
		t.Run(fmt.Sprintf("%v %d in %v %d a day", cfg.Profile, cfg.Attempts, cfg.Duration, cfg.Daily), func(t *testing.T) {
			const week = 7 * aDay
			g := newGuesser(t, cfg)
			g.upTo(t, week, oneAccount)
			for _, span := range []time.Duration{time.Second, cfg.Duration, time.Hour, 5 * time.Hour, aDay} {
				assert.Equal(t, b.within(span), g.within(0, span), "%v", span)
			}
			if got := g.within(0, week); c.reached {
				assert.Equal(t, b.within(week), got)
			} else {
				assert.Less(t, got, b.within(week))
			}
			for i, at := range g.admitted {
				earliest := time.Duration(b.earliest(int64(i+1))) * time.Second
				assert.LessOrEqual(t, earliest, at, "guess %d", i+1)
				if at < aDay {
					assert.Equal(t, earliest, at, "guess %d", i+1)
				}
			}
		})
	}
}

// Whoever waits in between, to slip through where one period of a Guard ends and the next begins, has no more.
func TestLockoutBoundsHoldForEveryStretch(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, c := range someLimits {
		cfg := c.Config
		require.NoError(t, cfg.Check())
		b := accountBound(cfg)
		for range 8 {
			g := newGuesser(t, cfg)
			for g.now.Sub(g.begin) < 8*aDay && len(g.admitted) < 400 {
				for range 1 + random.IntN(cfg.Attempts) {
					g.try(t, oneAccount(0))
				}
				steps := []time.Duration{time.Minute, cfg.Duration, cfg.Duration - time.Microsecond, aDay - time.Minute, aDay}
				wait := steps[random.IntN(len(steps))] * time.Duration(random.IntN(5)) / 4
				g.now = g.now.Add(wait.Truncate(time.Microsecond)) // as exact as a state is
			}
			for i, from := range g.admitted {
				for _, span := range []time.Duration{cfg.Duration, time.Hour, aDay, 3 * aDay} {
					require.LessOrEqual(t, g.within(from, from+span), b.within(span), "%v, %v after %v", b, span, from)
				}
				for n := i; n < len(g.admitted); n++ {
					require.GreaterOrEqual(t, g.admitted[n]-from, time.Duration(b.earliest(int64(n-i+1)))*time.Second)
				}
			}
		}
	}
}

func TestLockoutBoundOfASource(t *testing.T) {
	for _, cfg := range []lockout.Config{{}, {Sources: 1000, Duration: 20 * time.Minute}, {Profile: lockout.PIN, Sources: 7, Duration: 5 * time.Hour}} {
		require.NoError(t, cfg.Check())
		g := newGuesser(t, cfg)
		g.upTo(t, 2*aDay, func(n int) lockout.Attempt {
			return lockout.Attempt{Account: lockout.Account{ID: fmt.Sprint(len(g.admitted))}, Source: netip.MustParseAddr("192.0.2.1")}
		})
		b := sourceBound(cfg)
		for _, span := range []time.Duration{time.Hour, aDay, 2 * aDay} {
			assert.Equal(t, b.within(span), g.within(0, span))
		}
	}
}

// In a year the lock of 24 hours begins with a day's last guess and not with its first: a little less than the bound.
func TestLockoutBoundOfAYear(t *testing.T) {
	for _, c := range []struct {
		lockout.Config
		bound, got int64
	}{
		{lockout.Config{}, 175_200, 175_200},
		{lockout.Config{Profile: lockout.PIN}, 7_300, 7_080},
	} {
		g := newGuesser(t, c.Config)
		g.upTo(t, aYear, oneAccount)
		require.NoError(t, c.Check())
		assert.Equal(t, c.bound, accountBound(c.Config).within(aYear))
		assert.Equal(t, c.got, g.within(0, aYear))
	}
}

// A login of the owner gives back what was guessed since the last one, less than a lock.
func TestLockoutLoginGivesBack(t *testing.T) {
	cfg := lockout.Config{}
	require.NoError(t, cfg.Check())
	g := newGuesser(t, cfg)
	for range 10 {
		for range cfg.Attempts - 1 {
			require.Zero(t, g.try(t, oneAccount(0)))
		}
		r, err := g.Reserve(t.Context(), oneAccount(0))
		require.NoError(t, err)
		require.NoError(t, r.Success(t.Context()))
	}
	assert.Len(t, g.admitted, 10*checkLimits(cfg, "", secretSpace{}).Limits.Forgiven)
}

func TestLockoutHalfOfTheSecrets(t *testing.T) {
	b := guessBound{attempts: 5, duration: 15 * time.Minute}
	for _, secrets := range []int64{2, 3, 10, 9999, 10000} {
		n := half(secrets)
		assert.GreaterOrEqual(t, chance(n, secrets), 0.5)
		assert.Less(t, chance(n-1, secrets), 0.5)
		sum := 0.0
		for i := range secrets {
			sum += float64(b.earliest(i + 1))
		}
		assert.InDelta(t, sum/float64(secrets), b.earliest(n), 900, "and so it is on average")
	}
	assert.Equal(t, 1.0, chance(20_000, 10_000))
}
