package postgres_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/postgres"
)

// guessPatience is longer than a guard waits for its store, with what a busy machine takes.
const guessPatience = 6 * time.Second

// guessed makes one wrong guess, and reports whether it was checked, with the error if it was not.
func guessed(t *testing.T, g *lockout.Guard, id string) (bool, error) {
	r, err := g.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{ID: id}})
	if err != nil {
		return false, err
	}
	r.Failure(t.Context()) // it counts in any case
	return true, nil
}

// While somebody keeps the table to himself nothing is checked, and nobody waits for long. Afterwards it goes on by itself.
func TestLockoutsOutage(t *testing.T) {
	t.Parallel() // it waits most of the time
	db, _ := open(t)
	cfg := lockout.Config{Key: guessKey()}
	guard, err := lockout.New(postgres.NewLockouts(db), cfg)
	require.NoError(t, err)
	require.Equal(t, 1, guessOneByOne(t, guard, "p-1", 1))

	tx, err := db.Begin()
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.Exec("LOCK TABLE lockouts")
	require.NoError(t, err)
	began := time.Now()
	ok, err := guessed(t, guard, "p-1")
	require.False(t, ok)
	require.ErrorIs(t, err, lockout.ErrUnavailable)
	require.Less(t, time.Since(began), guessPatience)
	began = time.Now()
	for range 100 { // of which not every one waits
		ok, err = guessed(t, guard, "p-2")
		require.False(t, ok)
		require.ErrorIs(t, err, lockout.ErrUnavailable)
	}
	require.Less(t, time.Since(began), guessPatience)
	require.NoError(t, tx.Rollback())

	require.Eventually(t, func() bool {
		ok, err := guessed(t, guard, "p-3")
		return ok && err == nil
	}, guessPatience, 50*time.Millisecond)
	left := 0
	for ok, err = guessed(t, guard, "p-1"); ok; ok, err = guessed(t, guard, "p-1") {
		left++
	}
	if !errors.Is(err, lockout.ErrBusy) { // which it is for a minute when the one of the outage was counted, and nobody heard of it
		require.ErrorIs(t, err, lockout.ErrLocked)
	}
	t.Logf("after the outage %d are left of 4", left)
	require.LessOrEqual(t, left, 4)
	require.GreaterOrEqual(t, left, 3)

	require.NoError(t, db.Close())
	ok, err = guessed(t, guard, "p-4")
	require.False(t, ok)
	require.ErrorIs(t, err, lockout.ErrUnavailable)
}

// With a fallback the guesses of before and during an outage are no more than without one.
func TestLockoutsFallback(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	guard, err := lockout.New(postgres.NewLockouts(db), lockout.Config{Key: guessKey(), Fallback: memory.NewLockouts()})
	require.NoError(t, err)
	guesses := func(n int) (count int) {
		for range n {
			ok, err := guessed(t, guard, "p-1")
			if ok {
				count++
			} else {
				require.ErrorIs(t, err, lockout.ErrLocked)
			}
		}
		return count
	}
	require.Equal(t, 2, guesses(2))
	require.NoError(t, db.Close())
	require.Equal(t, 3, guesses(10))
}
