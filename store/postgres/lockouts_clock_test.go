package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/postgres"
)

// Somebody sets the server's clock by an hour, either way: a lock ends neither earlier nor later. The time of the store is that of the server and an offset, so that
// changing the offset is as good as setting the clock.
func TestLockoutsClockIsSet(t *testing.T) {
	for _, step := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			db, _ := open(t)
			var clock guessClock
			cfg := lockout.Config{Key: guessKey(), Now: clock.now}
			guard, err := lockout.New(postgres.NewLockouts(db), cfg)
			require.NoError(t, err)
			locked := func(g *lockout.Guard, want time.Duration) {
				t.Helper()
				_, err := g.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{ID: "p-1"}})
				var locked *lockout.LockedError
				require.ErrorAs(t, err, &locked)
				require.InDelta(t, want.Seconds(), locked.Wait.Seconds(), lockout.Apart.Seconds())
			}
			apart := func() time.Duration {
				t.Helper()
				var us int64
				require.NoError(t, db.QueryRow("SELECT apart FROM lockout_clock").Scan(&us))
				return time.Duration(us) * time.Microsecond
			}
			require.Equal(t, 5, guessOneByOne(t, guard, "p-1", 10))
			require.Zero(t, apart())
			_, err = db.Exec("UPDATE lockout_clock SET apart = apart + $1", step.Microseconds())
			require.NoError(t, err)
			locked(guard, 15*time.Minute)

			passed := time.Minute + time.Second // so that it asks the store for the time again
			clock.pass(passed)
			locked(guard, 15*time.Minute-passed)
			require.InDelta(t, passed.Seconds(), apart().Seconds(), lockout.Apart.Seconds(), "the guard knows better")
			next, err := lockout.New(postgres.NewLockouts(db), cfg)
			require.NoError(t, err)
			locked(next, 15*time.Minute-passed)

			clock.pass(13 * time.Minute)
			passed += 13 * time.Minute
			locked(guard, 15*time.Minute-passed)
			locked(next, 15*time.Minute-passed)
			clock.pass(time.Minute)
			require.Equal(t, 2, guessOneByOne(t, next, "p-1", 2))
			require.Equal(t, 3, guessOneByOne(t, guard, "p-1", 10))
		})
	}
}
