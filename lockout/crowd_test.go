package lockout_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

// Clients hang up while the store thinks about their guesses: nothing was compared, so nothing is counted.
func TestHangingUpBeforeTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowStore{failingStore: newFailingStore()}
		s.takes.Store(int64(50 * time.Millisecond))
		g, err := lockout.New(s, lockout.Config{Key: key()})
		require.NoError(t, err)
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			_, err := g.Reserve(ctx, login("a"))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
			time.Sleep(time.Second)
		}
		for n := range 5 {
			r, err := g.Reserve(t.Context(), login("a"))
			require.NoError(t, err)
			require.Equal(t, 4-n, r.Remaining())
			require.NoError(t, r.Failure(t.Context()))
		}
	})
}

// A slowStore takes its time and does what it was asked for, whatever the context says.
type slowStore struct {
	*failingStore
	takes atomic.Int64 // as a time.Duration
}

func (s *slowStore) Reserve(_ context.Context, now time.Time, slots []lockout.Slot) (lockout.Verdict, error) {
	time.Sleep(time.Duration(s.takes.Load()))
	return s.s.Reserve(context.Background(), now, slots)
}

func (s *slowStore) Conclude(_ context.Context, now time.Time, slots []lockout.Slot, c lockout.Conclusion) (lockout.Verdict, error) {
	time.Sleep(time.Duration(s.takes.Load()))
	return s.s.Conclude(context.Background(), now, slots, c)
}

// The answer that says that an account is locked now comes when nobody waits for it any more: the trail hears of it all the same.
func TestLateLocksAreRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t}
		s := &slowStore{failingStore: newFailingStore()}
		g, err := lockout.New(s, lockout.Config{Key: key(), Audit: w})
		require.NoError(t, err)
		for n := range 5 {
			r, err := g.Reserve(t.Context(), login("a"))
			require.NoError(t, err)
			if n == 4 {
				s.takes.Store(int64(3 * time.Second))
				require.ErrorIs(t, r.Failure(t.Context()), lockout.ErrUnavailable)
				break
			}
			require.NoError(t, r.Failure(t.Context()))
		}
		time.Sleep(10 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		require.Len(t, w.events, 1)
	})
}

// A store that is deaf to contexts does not fill the memory with those who ask it.
func TestDeafStoreIsNotAskedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFailingStore()
		g, err := lockout.New(s, lockout.Config{Key: key()})
		require.NoError(t, err)
		s.mode.Store(deaf)
		before := runtime.NumGoroutine()
		for n := range 10_000 {
			go g.Reserve(t.Context(), login(fmt.Sprint(n)))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		require.LessOrEqual(t, runtime.NumGoroutine()-before, 600)
		time.Sleep(2 * time.Minute)
		s.mode.Store(up)
		time.Sleep(2 * time.Minute)
		r, err := g.Reserve(t.Context(), login("a"))
		require.NoError(t, err)
		require.NoError(t, r.Success(t.Context()))
	})
}

// Who is locked goes on guessing: the store hears of it once a second.
func TestLockedDoNotKeepTheStoreBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFailingStore()
		w := &world{T: t}
		g, err := lockout.New(s, lockout.Config{Key: key()})
		require.NoError(t, err)
		w.Guard = g
		require.Equal(t, 5, w.guesses(login("a"), 100))
		calls := s.calls.Load()
		for range 1000 {
			_, err := g.Reserve(t.Context(), login("a"))
			var locked *lockout.LockedError
			require.ErrorAs(t, err, &locked)
			require.InDelta(t, (15 * time.Minute).Seconds(), locked.Wait.Seconds(), 10)
			time.Sleep(5 * time.Millisecond)
		}
		require.LessOrEqual(t, s.calls.Load()-calls, int32(6))
		require.NoError(t, g.Unlock(t.Context(), audit.Event{Actor: "staff-1"}, login("a").Account, "asked"))
		require.Equal(t, 5, w.guesses(login("a"), 100), "at once, in this process")
	})
}

// Somebody whose own account is busy does not keep those waiting who come from the same address.
func TestWaitingInNobodysWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := lockout.New(memory.NewLockouts(), lockout.Config{Attempts: 3, Sources: 6})
		require.NoError(t, err)
		reserve := func(name, source string) *lockout.Reservation {
			r, err := g.Reserve(t.Context(), from(login(name), source))
			require.NoError(t, err)
			return r
		}
		var open []*lockout.Reservation
		for range 3 { // account a is busy, and half of the source
			open = append(open, reserve("a", "192.0.2.1"))
		}
		for n := range 3 { // and the other half
			open = append(open, reserve(fmt.Sprint(n), "192.0.2.1"))
		}
		begin := time.Now()
		go g.Reserve(t.Context(), from(login("a"), "192.0.2.1")) // waits for the source first
		synctest.Wait()
		got := make(chan time.Duration)
		go func() {
			reserve("b", "192.0.2.1")
			got <- time.Since(begin)
		}()
		time.Sleep(10 * time.Millisecond)
		require.NoError(t, open[3].Success(t.Context())) // a place at the source is free, none at account a
		require.NoError(t, open[4].Success(t.Context()))
		require.Less(t, <-got, 200*time.Millisecond)
	})
}

// Whoever fills some lines does not fill all.
func TestLongLinesMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := lockout.New(memory.NewLockouts(), lockout.Config{Attempts: 3})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for n := range 5 {
			a := login(fmt.Sprint("attacker", n))
			for range 3 {
				_, err := g.Reserve(ctx, a)
				require.NoError(t, err)
			}
			for range 2048 {
				all.Go(func() { g.Reserve(ctx, a) })
			}
		}
		synctest.Wait()
		var in atomic.Int64
		var others sync.WaitGroup
		for range 60 {
			others.Go(func() {
				r, err := g.Reserve(t.Context(), login("somebody"))
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(5 * time.Millisecond)
				if r.Success(t.Context()) == nil {
					in.Add(1)
				}
			})
		}
		others.Wait()
		require.EqualValues(t, 60, in.Load())
		cancel()
		all.Wait()
	})
}

// A hold that this process has met stands during an outage, too.
func TestHoldStandsInAnOutage(t *testing.T) {
	s := newFailingStore()
	secret := key()
	w := newWorldOn(t, s, lockout.Config{Key: secret, Fallback: memory.NewLockouts()})
	elsewhere := newWorldOn(t, s, lockout.Config{Key: secret})
	require.NoError(t, elsewhere.Lock(t.Context(), desk, login("a").Account, "stolen", time.Hour))
	w.locked(login("a"))
	s.mode.Store(down)
	w.pass(time.Minute)
	w.locked(login("a"))
}

// The fallback follows what the store knows better: another process has seen a right login.
func TestFallbackFollows(t *testing.T) {
	s := newFailingStore()
	secret := key()
	w := newWorldOn(t, s, lockout.Config{Key: secret, Fallback: memory.NewLockouts()})
	elsewhere := newWorldOn(t, s, lockout.Config{Key: secret})
	require.Equal(t, 4, w.guesses(login("a"), 4))
	elsewhere.right(login("a"))
	require.Equal(t, 3, w.guesses(login("a"), 3))
	s.mode.Store(down)
	require.Equal(t, 2, w.guesses(login("a"), 100))
}
