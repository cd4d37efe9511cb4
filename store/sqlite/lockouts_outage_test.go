package sqlite_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/sqlite"
)

// patient is longer than a guard waits for its store, with what a busy machine takes.
const patient = 6 * time.Second

// seize takes the write lock of a file, as a program does that hangs in a transaction, and returns how to give it back.
func seize(t *testing.T, path string) (free func()) {
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	return func() { require.NoError(t, tx.Rollback()) }
}

// verified makes one wrong guess, and reports whether it was checked, with the error if it was not.
func verified(t *testing.T, g *lockout.Guard, id string) (bool, error) {
	r, err := g.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{ID: id}})
	if err != nil {
		return false, err
	}
	r.Failure(t.Context()) // it counts in any case
	return true, nil
}

// While the file cannot be written, nothing is checked, and nobody waits for long.
func TestLockoutsOutage(t *testing.T) {
	t.Parallel() // it waits most of the time
	db, _, path := open(t)
	guard, err := lockout.New(sqlite.NewLockouts(db), lockout.Config{Key: randomKey()})
	require.NoError(t, err)
	require.Equal(t, 1, oneByOne(t, guard, "p-1", 1))

	free := seize(t, path)
	began := time.Now()
	ok, err := verified(t, guard, "p-1")
	require.False(t, ok)
	require.ErrorIs(t, err, lockout.ErrUnavailable)
	require.Less(t, time.Since(began), patient)
	began = time.Now()
	for range 100 { // of which not every one waits
		ok, err = verified(t, guard, "p-2")
		require.False(t, ok)
		require.ErrorIs(t, err, lockout.ErrUnavailable)
	}
	require.Less(t, time.Since(began), patient)
	free()

	require.Eventually(t, func() bool {
		ok, err := verified(t, guard, "p-3")
		return ok && err == nil
	}, patient, 50*time.Millisecond, "it goes on by itself")
	left := oneByOne(t, guard, "p-1", 10)
	t.Logf("after the outage %d are left of 4", left)
	require.LessOrEqual(t, left, 4)
	require.GreaterOrEqual(t, left, 3, "that of the outage may have been counted")

	require.NoError(t, db.Close())
	ok, err = verified(t, guard, "p-4")
	require.False(t, ok)
	require.ErrorIs(t, err, lockout.ErrUnavailable)
	require.NotContains(t, err.Error(), filepath.Base(path))
}

// With a fallback the guesses of before, during and after an outage are no more than without one.
func TestLockoutsFallback(t *testing.T) {
	t.Parallel()
	db, _, path := open(t)
	guard, err := lockout.New(sqlite.NewLockouts(db), lockout.Config{Key: randomKey(), Fallback: memory.NewLockouts()})
	require.NoError(t, err)
	guesses := func(id string, n int) (count int) {
		for range n {
			ok, err := verified(t, guard, id)
			if ok {
				count++
			} else {
				require.ErrorIs(t, err, lockout.ErrLocked)
			}
		}
		return count
	}
	require.Equal(t, 2, guesses("some", 2))
	require.Equal(t, 2, guesses("all", 2))

	free := seize(t, path)
	began := time.Now()
	require.Equal(t, 2, guesses("some", 2))
	require.Equal(t, 3, guesses("all", 10))
	require.Equal(t, 3, guesses("another", 3), "others log in")
	require.Less(t, time.Since(began), 2*patient)
	free()

	// Until the guard has asked the store again, and while it does, a crowd comes.
	var some, all atomic.Int64
	var done sync.WaitGroup
	until := time.Now().Add(1500 * time.Millisecond)
	for id, count := range map[string]*atomic.Int64{"some": &some, "all": &all} {
		for range 10 {
			done.Go(func() {
				for time.Now().Before(until) {
					ok, err := verified(t, guard, id)
					if ok {
						count.Add(1)
					} else if !errors.Is(err, lockout.ErrLocked) && !errors.Is(err, lockout.ErrBusy) {
						t.Error(err)
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
	}
	done.Wait()
	t.Logf("verified before, during and after: 2, 2, %d and 2, 3, %d", some.Load(), all.Load())
	require.LessOrEqual(t, some.Load(), int64(1))
	require.Zero(t, all.Load())
	require.Equal(t, 2, guesses("another", 10), "what was guessed during the outage counts")

	// The store has its say again: who guesses for the first time is in it.
	was := len(statesOf(t, sqlite.NewLockouts(db)))
	require.Equal(t, 1, guesses("new", 1))
	require.Len(t, statesOf(t, sqlite.NewLockouts(db)), was+1)
}
