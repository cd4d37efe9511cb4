package postgres_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
)

func guessKey() crypto.Secret {
	raw := make([]byte, 32)
	rand.Read(raw)
	return crypto.NewSecret(string(raw))
}

func guessName(kind string, n int) (name lockout.Name) {
	copy(name[:], fmt.Sprintf("%c%d", kind[0], n*7919%10007))
	return name
}

// guessOneByOne makes wrong guesses until it is locked, at most n, and returns how many were verified.
func guessOneByOne(t *testing.T, guard *lockout.Guard, id string, n int) (verified int) {
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

// guessClock is a clock that a test moves on.
type guessClock struct{ by atomic.Int64 }

func (c *guessClock) now() time.Time { return time.Now().Add(time.Duration(c.by.Load())) }

func (c *guessClock) pass(d time.Duration) { c.by.Add(int64(d)) }

func guessStates(t *testing.T, store lockout.Store) (list []lockout.Entry) {
	t.Helper()
	for q := (lockout.Query{Limit: 1000}); ; {
		page, err := store.States(t.Context(), time.Now(), q)
		require.NoError(t, err)
		list = append(list, page.Entries...)
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return list
		}
	}
}
