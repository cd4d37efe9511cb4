package memory_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

// A flood tries names that nobody tried before, each from somewhere else.
type flood struct {
	*testing.T
	*lockout.Guard
	rnd *rand.Rand
	now time.Time
	n   uint64
}

func newFlood(t *testing.T, cfg lockout.Config) *flood {
	f := &flood{T: t, rnd: rand.New(rand.NewPCG(7, 7)), now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	cfg.Now = func() time.Time { return f.now }
	g, err := lockout.New(memory.NewLockouts(), cfg)
	require.NoError(t, err)
	f.Guard = g
	return f
}

func (f *flood) fresh() lockout.Attempt {
	f.n++
	var source [16]byte
	binary.BigEndian.PutUint64(source[:], 0x2001<<48|f.n)
	return lockout.Attempt{Account: lockout.Account{Login: fmt.Sprintf("name%d", f.n)}, Source: netip.AddrFrom16(source)}
}

// wrong reports whether a wrong guess was let through.
func (f *flood) wrong(a lockout.Attempt) bool {
	r, err := f.Reserve(f.Context(), a)
	if errors.Is(err, lockout.ErrLocked) {
		return false
	}
	if err == nil {
		err = r.Failure(f.Context())
	}
	if err != nil {
		f.Fatal(err)
	}
	return true
}

func (f *flood) names(n int) {
	for range n {
		f.wrong(f.fresh())
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Whoever is locked stays locked through ten million other names, in 32 MiB, and of those who never guessed one in two hundred at most has a guess less.
func TestFloodOfNames(t *testing.T) {
	names := 100_000
	if os.Getenv("CARREL_TEST_LONG") != "" {
		names = 10_000_000
	}
	before := heap()
	f := newFlood(t, lockout.Config{})
	victims := make([]lockout.Attempt, 100)
	for i := range victims {
		victims[i] = f.fresh()
		for f.wrong(victims[i]) {
		}
	}
	half := f.fresh() // has two guesses left
	for range 3 {
		require.True(t, f.wrong(half))
	}
	for range 20 {
		f.names(names / 20)
		for _, v := range victims {
			require.False(t, f.wrong(v))
		}
	}
	grown := heap() - before
	t.Logf("%d names: %.1f MiB", names, float64(grown)/(1<<20))
	require.LessOrEqual(t, grown, uint64(32<<20))

	const sample = 50_000
	lost, unable := 0, 0
	for range sample {
		r, err := f.Reserve(t.Context(), f.fresh())
		switch {
		case err != nil:
			unable++
		case r.Remaining() < 4:
			lost++
		}
		if err == nil {
			require.NoError(t, r.Abandon(t.Context()))
		}
	}
	t.Logf("of %d new ones %d have a guess less, %d none", sample, lost, unable)
	require.LessOrEqual(t, lost+unable, sample/200)
	require.Zero(t, unable)
	left := 0
	for f.wrong(half) {
		left++
	}
	require.LessOrEqual(t, left, 2)

	f.now = f.now.Add(30 * time.Minute) // and then it is over
	for _, v := range victims {
		require.True(t, f.wrong(v))
	}
	runtime.KeepAlive(f)
}

// More accounts are locked than the table has room for: all of them stay locked, and nobody else is.
func TestFloodOfLocks(t *testing.T) {
	f := newFlood(t, lockout.Config{Attempts: 3, Sources: 1000})
	locked := make([]lockout.Attempt, 30_000)
	for i := range locked {
		locked[i] = f.fresh()
		locked[i].Source = netip.Addr{}
		for n := 0; f.wrong(locked[i]); n++ {
			require.Less(t, n, 3)
		}
	}
	for _, a := range locked {
		require.False(t, f.wrong(a))
	}
	f.now = f.now.Add(15*time.Minute - time.Second)
	for _, a := range locked {
		require.False(t, f.wrong(a))
	}
	free := 0
	for range 10_000 {
		if f.wrong(f.fresh()) {
			free++
		}
	}
	require.Greater(t, free, 9_900)
	unlocked := locked[0] // long gone from the table
	require.NoError(t, f.Unlock(t.Context(), audit.Event{Actor: "staff"}, unlocked.Account, "asked"))
	require.True(t, f.wrong(unlocked))
	for range 20_000 { // and another flood does not bring it back
		a := f.fresh()
		a.Source = netip.Addr{}
		for f.wrong(a) {
		}
	}
	require.True(t, f.wrong(unlocked))
	f.now = f.now.Add(16 * time.Minute) // what the sketch knows it forgets by periods, two in all
	for _, a := range locked {
		require.True(t, f.wrong(a))
	}
}

// Guesses at the same names again and again, while the table has no room for them: never more than the budget, however it is spread.
func TestFloodInRounds(t *testing.T) {
	f := newFlood(t, lockout.Config{Sources: 1000})
	names := make([]lockout.Attempt, 25_000)
	checked := make([]int, len(names))
	for i := range names {
		names[i] = f.fresh()
		names[i].Source = netip.Addr{}
	}
	for range 7 {
		f.rnd.Shuffle(len(names), func(i, j int) {
			names[i], names[j] = names[j], names[i]
			checked[i], checked[j] = checked[j], checked[i]
		})
		for i, a := range names {
			if f.wrong(a) {
				checked[i]++
			}
		}
		f.now = f.now.Add(time.Minute)
	}
	sum := 0
	for _, n := range checked {
		require.LessOrEqual(t, n, 5)
		sum += n
	}
	require.Greater(t, sum, 3*len(names), "and not many fewer")
}

// Guesses from the same sources again and again, while the table has no room for them, over several periods: in none of them more than the budget.
func TestFloodOfSources(t *testing.T) {
	const limit = 10
	f := newFlood(t, lockout.Config{Sources: limit})
	sources := make([]netip.Addr, 20_000)
	checked := make([][]time.Time, len(sources))
	for i := range sources {
		sources[i] = f.fresh().Source
	}
	sum := 0
	for round := range 40 {
		for range 10_000 {
			i := f.rnd.IntN(len(sources) / (1 + round%5))
			a := f.fresh()
			a.Source = sources[i]
			if !f.wrong(a) {
				continue
			}
			sum++
			checked[i] = append(checked[i], f.now)
			if n := len(checked[i]); n > limit {
				require.GreaterOrEqual(t, f.now.Sub(checked[i][n-1-limit]), 15*time.Minute)
			}
		}
		f.now = f.now.Add(time.Duration(f.rnd.IntN(180)) * time.Second)
	}
	require.Greater(t, sum, 50_000, "and not many fewer")
}

// The sketch takes no more however often it turns, and with guesses of a day beside those of a quarter of an hour it takes twice as much.
func TestFloodForHours(t *testing.T) {
	for profile, limit := range map[lockout.Profile]uint64{lockout.Alma: 32 << 20, lockout.PIN: 64 << 20} {
		before := heap()
		f := newFlood(t, lockout.Config{Profile: profile})
		for range 8 {
			f.names(15_000)
			f.now = f.now.Add(10 * time.Minute)
		}
		grown := heap() - before
		t.Logf("%v: %.1f MiB", profile, float64(grown)/(1<<20))
		require.LessOrEqual(t, grown, limit)
		runtime.KeepAlive(f)
	}
}
