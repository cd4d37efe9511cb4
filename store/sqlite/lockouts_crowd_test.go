package sqlite_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/sqlite"
)

// More logins come at once, at as many accounts, than the file takes in the time that they may wait. Some are told that there are too many; nobody is told that the
// store is down, and whoever was let through gets in.
func TestLockoutsOfACrowd(t *testing.T) {
	db, _, _ := open(t)
	guard, err := lockout.New(sqlite.NewLockouts(db), lockout.Config{Key: randomKey()})
	require.NoError(t, err)
	var in, busy atomic.Int64
	var done sync.WaitGroup
	for i := range 4_000 {
		done.Go(func() {
			r, err := guard.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{ID: fmt.Sprint("p-", i)}})
			if errors.Is(err, lockout.ErrBusy) {
				busy.Add(1)
				return
			}
			if err == nil {
				time.Sleep(5 * time.Millisecond)
				err = r.Success(t.Context())
			}
			if err != nil {
				t.Error(err)
				return
			}
			in.Add(1)
		})
	}
	done.Wait()
	t.Logf("%d in, %d busy", in.Load(), busy.Load())
	require.Positive(t, in.Load())
}

// A Guard that begins after the machine's clock was set, and before an older one has noticed, has the wrong time until then, and the older one's from then on.
func TestLockoutsClockTwoGuards(t *testing.T) {
	db, _, _ := open(t)
	var clock later
	cfg := lockout.Config{Key: randomKey(), Now: clock.now}
	older, err := lockout.New(sqlite.NewLockouts(db), cfg)
	require.NoError(t, err)
	require.Equal(t, 5, oneByOne(t, older, "p-1", 10))
	_, err = db.Exec("UPDATE lockout_clock SET apart = apart + ?", time.Hour.Microseconds())
	require.NoError(t, err)
	younger, err := lockout.New(sqlite.NewLockouts(db), cfg)
	require.NoError(t, err)
	oneByOne(t, younger, "p-3", 1) // it has asked for the time
	pass := func() {               // for the store as well
		clock.pass(61 * time.Second)
		_, err := db.Exec("UPDATE lockout_clock SET apart = apart + ?", (61 * time.Second).Microseconds())
		require.NoError(t, err)
	}
	pass()
	sum := 0
	for range 4 {
		require.Zero(t, oneByOne(t, older, "p-1", 10))
		sum += oneByOne(t, older, "p-2", 10) + oneByOne(t, younger, "p-2", 10)
		require.Zero(t, oneByOne(t, younger, "p-1", 10))
		pass()
	}
	require.Equal(t, 5, sum)
	var editions int
	require.NoError(t, db.QueryRow("SELECT edition FROM lockout_clock").Scan(&editions))
	require.Equal(t, 1, editions, "they do not set it against each other")
}
