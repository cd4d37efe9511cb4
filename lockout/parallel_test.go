package lockout_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

func long() bool { return os.Getenv("CARREL_TEST_LONG") != "" }

// attack makes n wrong guesses at once, with what stands between a guess and the password, and returns how many passwords were compared. A
// comparison takes 50 ms, as a good one does.
func attack(n int, guess func(check func()) error) (compared int64, errs []error) {
	var count atomic.Int64
	var mu sync.Mutex
	start := make(chan struct{})
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			<-start
			err := guess(func() {
				count.Add(1)
				time.Sleep(50 * time.Millisecond)
			})
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	close(start)
	wg.Wait()
	return count.Load(), errs
}

func TestParallelGuesses(t *testing.T) {
	g, err := lockout.New(memory.NewLockouts(), lockout.Config{})
	require.NoError(t, err)
	compared, errs := attack(10_000, func(check func()) error {
		r, err := g.Reserve(t.Context(), patron("p-1", "jdoe"))
		if err != nil {
			return err
		}
		check()
		return r.Failure(t.Context())
	})
	require.EqualValues(t, 5, compared)
	locked := 0
	for _, err := range errs {
		if errors.Is(err, lockout.ErrLocked) {
			locked++
		} else if err != nil {
			require.ErrorIs(t, err, lockout.ErrBusy)
		}
	}
	require.Positive(t, locked)
}

// What others do lets every guess through: a counter that is read, compared and written later (Koha, FOLIO, Evergreen), and one that is raised without a gap,
// but after the password was compared (Devise, Kratos). That the attack finds them is why its 5 means something.
func TestAttackFindsOthers(t *testing.T) {
	var counter atomic.Int64
	compared, _ := attack(1000, func(check func()) error {
		n := counter.Load()
		if n >= 5 {
			return lockout.ErrLocked
		}
		check()
		counter.Store(n + 1)
		return nil
	})
	require.Greater(t, compared, int64(100), "read, modify, write")
	counter.Store(0)
	compared, _ = attack(1000, func(check func()) error {
		if counter.Load() >= 5 {
			return lockout.ErrLocked
		}
		check()
		counter.Add(1)
		return nil
	})
	require.Greater(t, compared, int64(100), "counted after the comparison")
}

// Logins that are right wait for each other: five at a time, 5 ms each, are a second for all of them. In a bubble of its own time the test says nothing
// about this machine, and everything about who waits for whom.
func TestRightLoginsWait(t *testing.T) {
	for _, attempts := range []int{5, 10} {
		synctest.Test(t, func(t *testing.T) {
			g, err := lockout.New(memory.NewLockouts(), lockout.Config{Attempts: attempts})
			require.NoError(t, err)
			require.EqualValues(t, 1000, rightLogins(t, g, 1000))
		})
	}
}

// The same in real time.
func TestRightLoginsWaitInRealTime(t *testing.T) {
	g, err := lockout.New(memory.NewLockouts(), lockout.Config{})
	require.NoError(t, err)
	require.EqualValues(t, 1000, rightLogins(t, g, 1000))
}

func rightLogins(t *testing.T, g *lockout.Guard, n int) (in int64) {
	var count atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			r, err := g.Reserve(t.Context(), patron("p-1", "jdoe"))
			if err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
			if r.Success(t.Context()) == nil {
				count.Add(1)
			}
		})
	}
	wg.Wait()
	return count.Load()
}

// TestOneRightAmongWrong sends 999 wrong guesses and one right at once, in a random order with checks of random length, and compares every answer of the store with a model
// that knows three numbers.
func TestOneRightAmongWrong(t *testing.T) {
	seeds := 60
	if long() {
		seeds = 1000
	}
	in, out := 0, 0
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(uint64(seed), 1))
			watched := &watchedStore{Lockouts: memory.NewLockouts()}
			g, err := lockout.New(watched, lockout.Config{})
			require.NoError(t, err)
			type plan struct{ start, check time.Duration }
			plans := make([]plan, 1000)
			for i := range plans {
				plans[i] = plan{time.Duration(rnd.IntN(40)) * time.Millisecond, time.Duration(1+rnd.IntN(100)) * time.Millisecond}
			}
			right := rnd.IntN(len(plans))
			if seed%2 == 0 {
				plans[right].start = 0 // otherwise it nearly always comes too late
			}
			var compared atomic.Int64
			var success error
			var wg sync.WaitGroup
			for i, p := range plans {
				wg.Go(func() {
					time.Sleep(p.start)
					r, err := g.Reserve(t.Context(), login("jdoe"))
					if err != nil {
						if i == right {
							success = err
						}
						return
					}
					time.Sleep(p.check)
					if i == right {
						success = r.Success(t.Context())
						return
					}
					compared.Add(1)
					_ = r.Failure(t.Context())
				})
			}
			wg.Wait()
			require.Empty(t, watched.wrongs)
			switch {
			case success == nil: // four may have been wrong before, and five after
				in++
				require.LessOrEqual(t, compared.Load(), int64(9))
			default:
				out++
				require.ErrorIs(t, success, lockout.ErrLocked)
				require.EqualValues(t, 5, compared.Load())
			}
			_, err = g.Reserve(t.Context(), login("jdoe"))
			require.ErrorIs(t, err, lockout.ErrLocked)
		})
	}
	t.Logf("of %d right ones, %d were let in, %d came too late", seeds, in, out)
	require.Positive(t, in)
	require.Positive(t, out)
}

// A watchedStore compares what its store answers with a model: of the budget of five, some are wrong and some open.
type watchedStore struct {
	*memory.Lockouts
	mu           sync.Mutex
	failed, open int
	wrongs       []string
}

func (s *watchedStore) Reserve(ctx context.Context, now time.Time, slots []lockout.Slot) (lockout.Verdict, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.Lockouts.Reserve(ctx, now, slots)
	want := lockout.Admitted
	switch {
	case s.failed == 5:
		want = lockout.Locked
	case s.failed+s.open == 5:
		want = lockout.Busy
	}
	if v.Answer != want {
		s.wrongs = append(s.wrongs, fmt.Sprintf("%d wrong and %d open: %+v", s.failed, s.open, v))
	}
	if v.Answer == lockout.Admitted {
		s.open++
	}
	return v, err
}

func (s *watchedStore) Conclude(ctx context.Context, now time.Time, slots []lockout.Slot, c lockout.Conclusion) (lockout.Verdict, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.Lockouts.Conclude(ctx, now, slots, c)
	s.open--
	s.failed++
	if c.Result == lockout.Right {
		s.failed = 0
	}
	if crossed := s.failed == 5; crossed != (v.Crossed != 0) {
		s.wrongs = append(s.wrongs, fmt.Sprintf("%d wrong and %d open: concluded with %+v", s.failed, s.open, v))
	}
	return v, err
}
