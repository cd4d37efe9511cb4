package postgres_test

import (
	"crypto/rand"
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

func randomToken() (t crypto.Token) { rand.Read(t[:]); return t }

// somebody is a new patron with two identifiers and two lookups.
func somebody() patron.Row {
	var id patron.ID
	rand.Read(id[:])
	return patron.Row{ID: id, Version: 1, Tokens: []crypto.Token{randomToken(), randomToken()}, Lookups: []crypto.Token{randomToken(), randomToken()},
		Facts:    patron.Facts{Group: "staff", Categories: []string{"arts"}, Library: "main", Wish: patron.WishKeep},
		Segments: []patron.SealedSegment{{Segment: access.Names, Revision: 1, Data: []byte("sealed names")}, {Segment: access.Birth, Revision: 1, Data: []byte("sealed birth")}}}
}

func batchOf(indexed uint64, rows ...patron.Row) patron.Batch {
	b := patron.Batch{Indexed: indexed}
	for _, r := range rows {
		b.Writes = append(b.Writes, patron.Write{Row: r, Old: r.Version - 1})
	}
	return b
}

func begin(t *testing.T, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { tx.Rollback() })
	return tx
}

func number(t *testing.T, db *sql.DB, query string, args ...any) (n int64) {
	t.Helper()
	require.NoError(t, db.QueryRow(query, args...).Scan(&n))
	return n
}

// waits starts f and returns when it waits for a lock. What it returns gives f's result.
func waits(t *testing.T, db *sql.DB, f func() error) (result func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	// Locks are held on tables of this test's schema, whoever else uses the server.
	const waiting = `SELECT count(*) FROM pg_locks w JOIN pg_locks h ON h.pid = w.pid AND h.relation IN
		(SELECT oid FROM pg_class WHERE relnamespace = current_schema()::regnamespace) WHERE NOT w.granted`
	for start := time.Now(); number(t, db, waiting) == 0; time.Sleep(2 * time.Millisecond) {
		select {
		case err := <-done:
			require.Fail(t, "it did not wait", "it returned %v", err)
		default:
			require.Less(t, time.Since(start), 10*time.Second, "it neither waits nor returns")
		}
	}
	return func() error { return <-done }
}
