package postgres_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/postgres"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestLockouts(t *testing.T) {
	storetest.TestLockouts(t, func(t *testing.T) lockout.Store {
		db, _ := open(t)
		return postgres.NewLockouts(db)
	})
}

// A role, or a whole server, may have been told to isolate transactions more strictly than is usual. The answers are the same.
func TestLockoutsIsolated(t *testing.T) {
	db, _ := open(t)
	var role string
	require.NoError(t, db.QueryRow("SELECT current_user").Scan(&role))
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), "SET default_transaction_isolation = 'serializable'")
	require.NoError(t, err)
	guard, err := lockout.New(postgres.NewLockouts(conn), lockout.Config{Key: guessKey()})
	require.NoError(t, err)
	require.Equal(t, 5, guessOneByOne(t, guard, "p-1", 10))
}

// A login program that forgot the migrations hears what is missing, and not that the database refused.
func TestLockoutsWithoutSchema(t *testing.T) {
	db, _ := open(t)
	for _, table := range []string{"lockout_clock", "carrel_schema"} {
		_, err := db.Exec("DROP TABLE " + table)
		require.NoError(t, err)
	}
	g, err := lockout.New(postgres.NewLockouts(db), lockout.Config{Key: guessKey()})
	require.NoError(t, err)
	_, err = g.Reserve(t.Context(), lockout.Attempt{})
	require.ErrorIs(t, err, lockout.ErrUnavailable)
	require.ErrorIs(t, err, postgres.ErrNoSchema)
}

// Of 64 who guess at the same moment at an account that nobody knows yet, from three sources, five are admitted, each time; and nobody waits for somebody who waits for him.
func TestLockoutsRace(t *testing.T) {
	db, _ := open(t)
	store, now := postgres.NewLockouts(db), time.Now()
	for round := range 50 {
		account, _ := guessName("account", round).Common()
		var mu sync.Mutex
		var done sync.WaitGroup
		answers := map[lockout.Answer]int{}
		gate := make(chan struct{})
		for i := range 64 {
			done.Go(func() {
				slots := []lockout.Slot{
					{Key: account, Attempts: 5, Duration: time.Minute, Clears: true},
					{Key: guessName("account", round).Hold(), Duration: time.Minute},
					{Key: guessName("source", 3*round+i%3).Source(), Attempts: 50, Duration: time.Minute},
				}
				if i%2 == 1 { // the order in which slots come is not that in which they are locked
					slots[0], slots[2] = slots[2], slots[0]
				}
				<-gate
				v, err := store.Reserve(t.Context(), now, slots)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				answers[v.Answer]++
			})
		}
		close(gate)
		done.Wait()
		require.Equal(t, map[lockout.Answer]int{lockout.Admitted: 5, lockout.Busy: 59}, answers)
	}
	counted := 0
	for _, e := range guessStates(t, store) {
		if e.Key.IsSource() {
			counted += e.State.Failed
		}
	}
	require.Equal(t, 50*5, counted)
}

// Guesses, unlocks and pruning meet at few accounts and sources. Nobody waits for somebody who waits for him: in a transaction of the caller's the server's error for that comes
// through.
func TestLockoutsDeadlock(t *testing.T) {
	db, _ := open(t)
	begin := time.Now()
	within := func(f func(*postgres.Lockouts) error) error {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err := f(postgres.NewLockouts(tx)); err != nil {
			return err
		}
		return tx.Commit()
	}
	var done sync.WaitGroup
	for w := range 8 {
		done.Go(func() {
			for n := range 100 {
				now := begin.Add(time.Duration(n) * 10 * time.Minute) // rows expire meanwhile
				name := guessName("account", n*w%3)
				recent, daily := name.Common()
				slots := []lockout.Slot{
					{Key: guessName("source", n%2).Source(), Attempts: 500, Duration: time.Minute}, {Key: daily, Attempts: 500, Duration: time.Minute},
					{Key: name.Hold(), Duration: time.Minute}, {Key: recent, Attempts: 500, Duration: time.Minute},
				}
				if w%2 == 1 {
					slices.Reverse(slots)
				}
				err := within(func(l *postgres.Lockouts) error {
					_, err := l.Reserve(t.Context(), now, slots)
					return err
				})
				if err == nil {
					err = within(func(l *postgres.Lockouts) error {
						_, err := l.Conclude(t.Context(), now, slots, lockout.Conclusion{Reserved: now, Result: lockout.Result(n % 3)})
						return err
					})
				}
				if err == nil && n%10 == w {
					err = within(func(l *postgres.Lockouts) error { return l.Hold(t.Context(), now, name, time.Time{}) })
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done.Go(func() {
		store := postgres.NewLockouts(db)
		for range 30 * 64 { // each 64th prunes
			_, err := store.Reserve(t.Context(), begin.Add(24*time.Hour), []lockout.Slot{{Key: lockout.Name{1}.Hold(), Duration: time.Minute}})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	done.Wait()
}

// An unlock waits for a guess that is being counted, and then leaves it counted.
func TestLockoutsUnlockMeetsGuess(t *testing.T) {
	db, _ := open(t)
	store, now, name := postgres.NewLockouts(db), time.Now(), guessName("account", 1)
	recent, _ := name.Common()
	slots := []lockout.Slot{{Key: recent, Attempts: 5, Duration: time.Hour}}
	for range 2 {
		_, err := store.Reserve(t.Context(), now, slots)
		require.NoError(t, err)
		_, err = store.Conclude(t.Context(), now, slots, lockout.Conclusion{Reserved: now})
		require.NoError(t, err)
	}
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = postgres.NewLockouts(tx).Reserve(t.Context(), now, slots)
	require.NoError(t, err)
	unlocked := make(chan error)
	go func() { unlocked <- store.Hold(t.Context(), now, name, time.Time{}) }()
	select {
	case err := <-unlocked:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	require.NoError(t, tx.Commit())
	require.NoError(t, <-unlocked)
	states := guessStates(t, store)
	require.Len(t, states, 1)
	require.Equal(t, 1, states[0].State.Failed)
	require.Equal(t, 1, states[0].State.Open)
}

// A store may be in a transaction of the caller's, and what it counts is then part of that. Whether the caller's commit waits for the disk stays as it was.
func TestLockoutsInTransaction(t *testing.T) {
	db, _ := open(t)
	cfg := lockout.Config{Key: guessKey()}
	whole, err := lockout.New(postgres.NewLockouts(db), cfg)
	require.NoError(t, err)
	failed := func(g *lockout.Guard) int {
		s, err := g.Status(t.Context(), lockout.Account{ID: "p-1"})
		require.NoError(t, err)
		return s.Failed
	}
	for _, commit := range []bool{false, true} {
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		store := postgres.NewLockouts(tx)
		guard, err := lockout.New(store, cfg)
		require.NoError(t, err)
		require.Equal(t, 5, guessOneByOne(t, guard, "p-1", 10))
		require.Equal(t, 5, failed(guard))
		_, err = store.Conclude(t.Context(), time.Now(), []lockout.Slot{{Key: lockout.Key{1}, Attempts: 5, Duration: time.Minute}}, lockout.Conclusion{Reserved: time.Now(), Result: lockout.Right})
		require.NoError(t, err)
		var setting string
		require.NoError(t, tx.QueryRow("SHOW synchronous_commit").Scan(&setting))
		require.Equal(t, "on", setting)
		if commit {
			require.NoError(t, tx.Commit())
			require.Equal(t, 5, failed(whole))
			require.Zero(t, guessOneByOne(t, whole, "p-1", 1))
			continue
		}
		require.NoError(t, tx.Rollback())
		require.Zero(t, failed(whole), "nobody ever guessed")
		_, err = guard.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{ID: "p-2"}})
		require.ErrorIs(t, err, lockout.ErrUnavailable, "the transaction is over")
	}
}

// Rows that say nothing any more go, and no others; one that somebody has locked is passed by.
func TestLockoutsPrune(t *testing.T) {
	db, _ := open(t)
	store, now := postgres.NewLockouts(db), time.Now()
	slot := func(n int) lockout.Slot {
		recent, _ := guessName("account", n).Common()
		return lockout.Slot{Key: recent, Attempts: 3, Duration: 15 * time.Minute}
	}
	for n := range 60 { // the guesses of the first 29 say nothing any more
		_, err := store.Reserve(t.Context(), now.Add(time.Duration(n-60)*time.Minute), []lockout.Slot{slot(n)})
		require.NoError(t, err)
	}
	var expired, other int
	count := func() (rows int) {
		require.NoError(t, db.QueryRow("SELECT count(*) FROM lockouts").Scan(&rows))
		require.NoError(t, db.QueryRow("SELECT count(*), count(*) FILTER (WHERE start = 7) FROM lockouts WHERE expires <= $1", now.UnixMicro()).Scan(&expired, &other))
		return rows
	}
	_, err := db.Exec("INSERT INTO lockouts SELECT decode(md5(i::text), 'hex'), 7, 1, 0, 0, 0, 0, 0, 8 FROM generate_series(1, 3000) AS i") // which takes several steps
	require.NoError(t, err)
	require.Equal(t, 3060, count())
	require.Equal(t, 3000+30, expired)

	tx, err := db.Begin()
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.Exec("SELECT FROM lockouts WHERE start = 7 ORDER BY key LIMIT 1 FOR UPDATE")
	require.NoError(t, err)
	walk := func() {
		for range 6 * 64 {
			_, err := store.Reserve(t.Context(), now, []lockout.Slot{{Key: lockout.Name{1}.Hold(), Duration: time.Minute}}) // of which nothing is counted
			require.NoError(t, err)
		}
	}
	walk()
	require.Equal(t, 31, count())
	require.Equal(t, 1, expired)
	require.Equal(t, 1, other)
	require.NoError(t, tx.Rollback())
	walk()
	require.Equal(t, 30, count())
	require.Zero(t, expired)
	for n := 31; n < 60; n++ {
		v, err := store.Reserve(t.Context(), now, []lockout.Slot{slot(n)})
		require.NoError(t, err)
		require.Equal(t, 1, v.Left, "one guess was made earlier, and this is another")
	}
}
