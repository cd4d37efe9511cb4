package redis_test

import (
	"context"
	"encoding/binary"
	"net/netip"
	"strconv"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/carrel-project/carrel/lockout"
)

// floor is the least that counts: it counts wrong. One script and one round trip, as Reserve has them.
var floor = goredis.NewScript(`
local n = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return n
`)

// BenchmarkReserve measures Reserve of what the default Config limits beside a script that does next to nothing: what remains is the server and the way to it.
func BenchmarkReserve(b *testing.B) {
	store, client, prefix := open(b)
	ctx := context.Background()
	b.Run("floor", func(b *testing.B) {
		b.ReportAllocs()
		keys := []string{"{" + prefix + "}:floor"}
		for b.Loop() {
			if err := floor.Run(ctx, client, keys, 900_000).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("floor=new", func(b *testing.B) { // a key that was never there, each time
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			if err := floor.Run(ctx, client, []string{"{" + prefix + "}:floor" + strconv.Itoa(n)}, 900_000).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
	three := func(n uint64) []lockout.Slot {
		account, source := lockout.Name{1}, lockout.Name{2}
		binary.LittleEndian.PutUint64(account[1:], n)
		binary.LittleEndian.PutUint64(source[1:], n)
		recent, _ := account.Common()
		from, _ := source.Common()
		return []lockout.Slot{
			{Key: recent, Attempts: 1 << 30, Duration: 15 * time.Minute, Clears: true},
			{Key: account.Hold(), Duration: 15 * time.Minute},
			{Key: from, Attempts: 1 << 30, Duration: 15 * time.Minute},
		}
	}
	take := func(b *testing.B, slots []lockout.Slot) {
		v, err := store.Reserve(ctx, time.Now(), slots)
		if err != nil || v.Answer != lockout.Admitted {
			b.Fatal(v, err)
		}
	}
	b.Run("Reserve", func(b *testing.B) {
		b.ReportAllocs()
		slots := three(0)
		for b.Loop() {
			take(b, slots)
		}
	})
	b.Run("Reserve=new", func(b *testing.B) { // an account and a source that were never seen, each time
		b.ReportAllocs()
		for n := uint64(1); b.Loop(); n++ {
			take(b, three(n))
		}
	})
	b.Run("Reserve+Success", func(b *testing.B) {
		b.ReportAllocs()
		g := guard(b, store)
		a := lockout.Attempt{Account: lockout.Account{Login: "jdoe", ID: "1"}, Source: netip.MustParseAddr("192.0.2.1")}
		for b.Loop() {
			r, err := g.Reserve(ctx, a)
			if err == nil {
				err = r.Success(ctx)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
