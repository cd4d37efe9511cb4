package memory_test

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

// BenchmarkLockout is one right login: reserved, and concluded.
func BenchmarkLockout(b *testing.B) {
	g, err := lockout.New(memory.NewLockouts(), lockout.Config{})
	if err != nil {
		b.Fatal(err)
	}
	attempts := logins()
	b.ReportAllocs()
	ctx := b.Context()
	i := 0
	for b.Loop() {
		i++
		r, err := g.Reserve(ctx, attempts[i%len(attempts)])
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Success(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

func logins() (list [256]lockout.Attempt) {
	for i := range list {
		list[i] = lockout.Attempt{Account: lockout.Account{Login: "reader" + strconv.Itoa(i), ID: "6f9619ff-8b86-4d01-b42d-00cf4fc964" + strconv.Itoa(i)},
			Source: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}
	}
	return list
}
