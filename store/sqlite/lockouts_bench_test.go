package sqlite_test

import (
	"crypto/rand"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/sqlite"
)

// BenchmarkLockout compares a guess with a bare upsert of a counter into a table of the same key, both durable.
func BenchmarkLockout(b *testing.B) {
	db, _, _ := open(b)
	_, err := db.Exec("CREATE TABLE floor (key BLOB PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID")
	require.NoError(b, err)
	upsert, err := db.Prepare("INSERT INTO floor VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET n = n + 1")
	require.NoError(b, err)
	store := sqlite.NewLockouts(db)
	name := func(n int) (name lockout.Name) { copy(name[:], strconv.Itoa(n%256*7919)); return name }
	slots := func(n int) []lockout.Slot {
		account, _ := name(n).Common()
		source, _ := name(1000 + n%16).Common()
		return []lockout.Slot{{Key: account, Attempts: 5, Duration: 15 * time.Minute, Clears: true}, {Key: name(n).Hold(), Duration: 15 * time.Minute}, {Key: source, Attempts: 100, Duration: 15 * time.Minute}}
	}
	now := time.Now()
	bare := func(n int) {
		key := name(n)
		_, err := upsert.Exec(key[:])
		require.NoError(b, err)
	}
	reserve := func(n int) time.Time {
		now = now.Add(time.Minute) // so that nothing is locked
		v, err := store.Reserve(b.Context(), now, slots(n))
		require.NoError(b, err)
		require.Equal(b, lockout.Admitted, v.Answer) // a refused one would be cheaper
		return now
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
	b.Run("guard", func(b *testing.B) { // a right login, reserved and concluded
		g, err := lockout.New(store, lockout.Config{Key: randomKey()})
		require.NoError(b, err)
		for n := 0; b.Loop(); n++ {
			r, err := g.Reserve(b.Context(), lockout.Attempt{Account: lockout.Account{Login: strconv.Itoa(n % 256)}, Source: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})})
			require.NoError(b, err)
			require.NoError(b, r.Success(b.Context()))
		}
	})
}

func randomKey() crypto.Secret {
	raw := make([]byte, 32)
	rand.Read(raw)
	return crypto.NewSecret(string(raw))
}
