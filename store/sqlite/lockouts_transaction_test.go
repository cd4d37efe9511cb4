package sqlite_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/sqlite"
)

// A store may be in a transaction of the caller's, and what it counts is then part of that: rolling it back takes the guesses back, which nobody wants who counts
// guesses. Keep the store in a *sql.DB.
func TestLockoutsInTransaction(t *testing.T) {
	db, _, _ := open(t)
	cfg := lockout.Config{Key: randomKey()}
	whole, err := lockout.New(sqlite.NewLockouts(db), cfg)
	require.NoError(t, err)
	failed := func(g *lockout.Guard) int {
		s, err := g.Status(t.Context(), lockout.Account{ID: "p-1"})
		require.NoError(t, err)
		return s.Failed
	}
	for _, commit := range []bool{false, true} {
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		guard, err := lockout.New(sqlite.NewLockouts(tx), cfg)
		require.NoError(t, err)
		require.Equal(t, 5, oneByOne(t, guard, "p-1", 10))
		require.Equal(t, 5, failed(guard))
		if commit {
			require.NoError(t, tx.Commit())
			require.Equal(t, 5, failed(whole))
			require.Zero(t, oneByOne(t, whole, "p-1", 1))
			continue
		}
		require.NoError(t, tx.Rollback())
		require.Zero(t, failed(whole), "nobody ever guessed")
		_, err = guard.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{ID: "p-2"}})
		require.ErrorIs(t, err, lockout.ErrUnavailable, "the transaction is over")
	}
}

// Rows that say nothing any more go, and no others.
func TestLockoutsPrune(t *testing.T) {
	db, _, _ := open(t)
	r := rand.New(rand.NewPCG(5, 6))
	now := time.Now()
	store := sqlite.NewLockouts(db)
	slotsOf := map[lockout.Key]lockout.Slot{}
	guess := func(at time.Time, slot lockout.Slot) {
		slotsOf[slot.Key] = slot
		v, err := store.Reserve(t.Context(), at, []lockout.Slot{slot})
		require.NoError(t, err)
		if v.Answer == lockout.Admitted && r.IntN(3) > 0 {
			_, err = store.Conclude(t.Context(), at.Add(rand.N(lockout.MaxCheck)), []lockout.Slot{slot}, lockout.Conclusion{Reserved: at, Result: lockout.Result(r.IntN(3))})
			require.NoError(t, err)
		}
	}
	names := 500
	if raceEnabled { // which makes SQLite fifty times slower
		names = 120
	}
	for i := range names {
		var name lockout.Name
		binary.BigEndian.PutUint64(name[:], r.Uint64())
		recent, daily := name.Common()
		at := now.Add(-time.Duration(r.Int64N(int64(time.Hour))))
		slot := lockout.Slot{Key: recent, Attempts: 3, Duration: 15 * time.Minute, Clears: true}
		if i%10 == 0 {
			at = now.Add(-time.Duration(r.Int64N(int64(60 * time.Hour))))
			slot = lockout.Slot{Key: daily, Attempts: 3, Duration: 24 * time.Hour}
		}
		for range 1 + r.IntN(4) {
			guess(at, slot)
			at = at.Add(time.Duration(r.Int64N(int64(slot.Duration / 4))))
			if at.After(now) {
				break
			}
		}
		if i%20 == 0 {
			until := now.Add(time.Duration(r.Int64N(int64(time.Hour))) - 30*time.Minute)
			slotsOf[name.Hold()] = lockout.Slot{Key: name.Hold(), Duration: 15 * time.Minute}
			require.NoError(t, store.Hold(t.Context(), now.Add(-time.Hour), name, until))
		}
	}
	const old = 3000 // rows that a walk takes in several steps
	_, err := db.Exec(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
		INSERT INTO lockouts SELECT randomblob(16), ?2, 1, 0, ?2, 0, 0, 0, ?3 FROM n`, old, now.Add(-time.Hour).UnixMicro(), now.Add(-time.Minute).UnixMicro())
	require.NoError(t, err)
	says := func() map[lockout.Key]lockout.State {
		m := map[lockout.Key]lockout.State{}
		for q := (lockout.Query{Limit: 1000}); ; {
			page, err := store.States(t.Context(), now, q)
			require.NoError(t, err)
			for _, e := range page.Entries {
				if state := e.State.At(now, slotsOf[e.Key]); slotsOf[e.Key].Key == e.Key && state != (lockout.State{}) {
					m[e.Key] = state
				}
			}
			if q.Cursor = page.Cursor; q.Cursor == "" {
				return m
			}
		}
	}
	rows := func() (n int) {
		require.NoError(t, db.QueryRow("SELECT count(*) FROM lockouts").Scan(&n))
		return n
	}
	want, before := says(), rows()
	another := lockout.Slot{Key: lockout.Name{1}.Hold(), Duration: 15 * time.Minute} // of which nothing is counted
	for range 6 * 64 {
		_, err := store.Reserve(t.Context(), now, []lockout.Slot{another})
		require.NoError(t, err)
	}
	after := rows()
	t.Logf("%d rows before, %d after, of which %d say something", before, after, len(want))
	require.Equal(t, want, says(), "nothing that counts is gone")
	require.LessOrEqual(t, after, before-old)
	var left int
	require.NoError(t, db.QueryRow("SELECT count(*) FROM lockouts WHERE expires <= ?", now.UnixMicro()).Scan(&left))
	require.Zero(t, left)
	require.Greater(t, len(want), names/5)
}
