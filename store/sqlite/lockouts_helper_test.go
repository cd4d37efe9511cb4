package sqlite_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
)

// oneByOne makes wrong guesses until it is locked, at most n, and returns how many were verified.
func oneByOne(t *testing.T, guard *lockout.Guard, id string, n int) (verified int) {
	t.Helper()
	for verified < n {
		r, err := guard.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{ID: id}})
		if errors.Is(err, lockout.ErrLocked) {
			break
		}
		require.NoError(t, err)
		require.NoError(t, r.Failure(t.Context()))
		verified++
	}
	return verified
}

// later is a clock that a test moves on.
type later struct{ by atomic.Int64 }

func (l *later) now() time.Time { return time.Now().Add(time.Duration(l.by.Load())) }

func (l *later) pass(d time.Duration) { l.by.Add(int64(d)) }

func statesOf(t *testing.T, store lockout.Store) (list []lockout.Entry) {
	for q := (lockout.Query{Limit: 1000}); ; {
		page, err := store.States(t.Context(), time.Now(), q)
		require.NoError(t, err)
		list = append(list, page.Entries...)
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return list
		}
	}
}
