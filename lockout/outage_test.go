package lockout_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

// Without a fallback nothing is checked while the store is down, whatever its way of being down, and the answer comes in bounded time.
func TestOutageRefuses(t *testing.T) {
	for name, mode := range map[string]int32{"down": down, "hangs": hangs, "deaf": deaf, "panics": panics} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFailingStore()
				g, err := lockout.New(s, lockout.Config{Key: key()})
				require.NoError(t, err)
				r, err := g.Reserve(t.Context(), login("a"))
				require.NoError(t, err)
				s.mode.Store(mode)
				begin := time.Now()
				_, err = g.Reserve(t.Context(), login("b"))
				require.ErrorIs(t, err, lockout.ErrUnavailable)
				require.NotContains(t, err.Error(), "patron")
				require.ErrorIs(t, r.Success(t.Context()), lockout.ErrUnavailable, "nobody is let in that the store has not heard of")
				require.LessOrEqual(t, time.Since(begin), 5*time.Second)
				if mode == hangs || mode == deaf { // and not everybody waits for it
					calls, begin := s.calls.Load(), time.Now()
					for range 1000 {
						_, err = g.Reserve(t.Context(), login("b"))
						require.ErrorIs(t, err, lockout.ErrUnavailable)
					}
					require.Less(t, time.Since(begin), time.Second)
					require.LessOrEqual(t, s.calls.Load()-calls, int32(2))
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				_, err = g.Reserve(ctx, login("b"))
				require.ErrorIs(t, err, context.Canceled)
				s.mode.Store(up)
				time.Sleep(2 * time.Minute)
				r, err = g.Reserve(t.Context(), login("b"))
				require.NoError(t, err)
				require.NoError(t, r.Success(t.Context()))
			})
		})
	}
}

// An outage gives nobody new guesses: before, during and after it there are five together.
func TestOutageGivesNoNewGuesses(t *testing.T) {
	for before := range 6 {
		for during := range 6 {
			s := newFailingStore()
			w := newWorldOn(t, s, lockout.Config{Key: key(), Fallback: memory.NewLockouts()})
			checked := w.guesses(login("a"), before)
			s.mode.Store(down)
			checked += w.guesses(login("a"), during)
			s.mode.Store(up)
			checked += w.guesses(login("a"), 100)
			s.mode.Store(down)
			checked += w.guesses(login("a"), 100)
			require.Equal(t, 5, checked, "%d before, %d during", before, during)
			s.mode.Store(up)
			w.pass(30 * time.Minute) // what the store heard of it is over
			require.Equal(t, 5, w.guesses(login("a"), 100))
			w.pass(15 * time.Minute)
			w.right(login("a"))
		}
	}
}

// A guess that was reserved before the store went down is concluded in the fallback, and the other way round.
func TestOutageInBetween(t *testing.T) {
	s := newFailingStore()
	w := newWorldOn(t, s, lockout.Config{Key: key(), Fallback: memory.NewLockouts()})
	r := w.reserve(login("a"))
	s.mode.Store(down)
	require.NoError(t, r.Success(t.Context()))
	r = w.reserve(login("a"))
	s.mode.Store(up)
	require.NoError(t, r.Failure(t.Context()))
	w.pass(2 * lockout.MaxCheck)
	checked := w.guesses(login("a"), 100)
	require.LessOrEqual(t, checked, 4)
	require.GreaterOrEqual(t, checked, 3) // the one whose success the store did not hear of may count there
}

func TestFallbackHearsOfUnlock(t *testing.T) {
	s := newFailingStore()
	w := newWorldOn(t, s, lockout.Config{Key: key(), Fallback: memory.NewLockouts()})
	w.guesses(login("a"), 5)
	require.NoError(t, w.Unlock(t.Context(), audit.Event{Actor: "staff-1"}, login("a").Account, "asked at the desk"))
	s.mode.Store(down)
	require.True(t, w.wrong(login("a")))
	require.Error(t, w.Unlock(t.Context(), audit.Event{Actor: "staff-1"}, login("a").Account, "asked at the desk"), "the store has not heard of it")
}

// The program dies, or panics, between a guess and its conclusion: it counts as wrong.
func TestPanicBeforeConclusion(t *testing.T) {
	w := newWorld(t, lockout.Config{})
	for range 5 {
		func() {
			defer func() { require.NotNil(t, recover()) }()
			w.reserve(patron("p-1", "a"))
			panic("while the password is compared")
		}()
		w.pass(2 * time.Second)
	}
	w.pass(2 * lockout.MaxCheck)
	w.locked(patron("p-1", ""))
	require.Len(t, w.events, 1, "the lock is recorded by the first who sees it")
	w.locked(patron("p-1", ""))
	require.Len(t, w.events, 1)
	w.pass(15*time.Minute - 2*lockout.MaxCheck)
	require.True(t, w.wrong(patron("p-1", "")))
}

// A client that hangs up after its guess has guessed.
func TestHangingUpIsNoWayOut(t *testing.T) {
	w := newWorld(t, lockout.Config{})
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := w.Reserve(ctx, login("a"))
		require.NoError(t, err)
		cancel()
		require.NoError(t, r.Failure(ctx))
	}
	w.locked(login("a"))
	require.Len(t, w.events, 1)
}

// Those who wait give up with their context, and the next takes their place.
func TestWaitingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := lockout.New(memory.NewLockouts(), lockout.Config{Attempts: 3})
		require.NoError(t, err)
		var open []*lockout.Reservation
		for range 3 {
			r, err := g.Reserve(t.Context(), login("a"))
			require.NoError(t, err)
			open = append(open, r)
		}
		begin := time.Now()
		_, err = g.Reserve(t.Context(), login("a"))
		require.ErrorIs(t, err, lockout.ErrBusy)
		require.Equal(t, 2*time.Second, time.Since(begin))

		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		errs := make(chan error, 2)
		go func() { _, err := g.Reserve(ctx, login("a")); errs <- err }()
		time.Sleep(time.Millisecond)
		go func() { _, err := g.Reserve(t.Context(), login("a")); errs <- err }()
		require.ErrorIs(t, <-errs, context.DeadlineExceeded)
		require.NoError(t, open[0].Success(t.Context()))
		begin = time.Now()
		require.NoError(t, <-errs)
		require.Zero(t, time.Since(begin))

		// Somebody else is not kept waiting.
		_, err = g.Reserve(t.Context(), login("b"))
		require.NoError(t, err)
	})
}

// More than may wait are told at once.
func TestFewMayWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := lockout.New(memory.NewLockouts(), lockout.Config{Attempts: 3})
		require.NoError(t, err)
		for range 3 {
			_, err := g.Reserve(t.Context(), login("a"))
			require.NoError(t, err)
		}
		const more = 5000
		waited := make(chan time.Duration, more)
		begin := time.Now()
		for range more {
			go func() {
				_, err := g.Reserve(t.Context(), login("a"))
				if !errors.Is(err, lockout.ErrBusy) {
					t.Error(err)
				}
				waited <- time.Since(begin)
			}()
		}
		atOnce := 0
		for range more {
			if <-waited == 0 {
				atOnce++
			}
		}
		require.Equal(t, more-2048, atOnce)
	})
}
