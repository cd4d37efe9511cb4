package postgres_test

import (
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/postgres"
)

// BenchmarkLockout compares a guess with a bare upsert of a counter into a table of the same key, both durable.
func BenchmarkLockout(b *testing.B) {
	db, _ := open(b)
	_, err := db.Exec("CREATE TABLE floor (key bytea PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 50)")
	require.NoError(b, err)
	store := postgres.NewLockouts(db)
	slots := func(n int) []lockout.Slot {
		account, _ := guessName("account", n%256).Common()
		return []lockout.Slot{{Key: account, Attempts: 5, Duration: 15 * time.Minute, Clears: true}, {Key: guessName("account", n%256).Hold(), Duration: 15 * time.Minute},
			{Key: guessName("source", n%16).Source(), Attempts: 100, Duration: 15 * time.Minute}}
	}
	now := time.Now()
	bare := func(n int) {
		key := slots(n)[0].Key
		_, err := db.Exec("INSERT INTO floor VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET n = floor.n + 1", key[:])
		require.NoError(b, err)
	}
	reserve := func(n int) {
		now = now.Add(time.Minute) // so that nothing is locked
		v, err := store.Reserve(b.Context(), now, slots(n))
		require.NoError(b, err)
		require.Equal(b, lockout.Admitted, v.Answer) // a refused one would be cheaper
	}
	b.Run("floor", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			bare(n)
		}
	})
	b.Run("reserve", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			reserve(n)
		}
	})
	b.Run("ratio", func(b *testing.B) { // in turns, so that both see the same machine
		var floor, ours time.Duration
		for n := 0; b.Loop(); n++ {
			begin := time.Now()
			bare(n)
			middle := time.Now()
			reserve(n)
			floor, ours = floor+middle.Sub(begin), ours+time.Since(middle)
		}
		b.ReportMetric(float64(ours)/float64(floor), "×floor")
	})
	b.Run("refused", func(b *testing.B) { // writes nothing
		locked := slots(0)
		require.NoError(b, store.Hold(b.Context(), now, locked[1].Key.Name(), now.Add(time.Hour)))
		for b.Loop() {
			v, err := store.Reserve(b.Context(), now, locked)
			require.NoError(b, err)
			require.Equal(b, lockout.Locked, v.Answer)
		}
	})
	b.Run("guard", func(b *testing.B) { // a right login, reserved and concluded
		g, err := lockout.New(store, lockout.Config{Key: guessKey()})
		require.NoError(b, err)
		for n := 0; b.Loop(); n++ {
			r, err := g.Reserve(b.Context(), lockout.Attempt{Account: lockout.Account{Login: strconv.Itoa(n % 256)}, Source: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})})
			require.NoError(b, err)
			require.NoError(b, r.Success(b.Context()))
		}
	})
}
