package memory

import (
	"hash/maphash"
	"time"

	"github.com/carrel-project/carrel/lockout"
)

// A sketch remembers, of keys that the table had no place for, roughly how many guesses were counted: none, one, up to half of what is allowed, or all.
//
// It is a count-min sketch (Cormode and Muthukrishnan, 2005) whose counters are written in unary, one bit array for each level, and each array as large as that level needs: in a flood of names nearly all have one guess. A key
// has its bits set in all levels up to its own, so who never guessed loses a guess only by a collision in the first, however full the others are. Collisions add
// guesses and never take any away.
//
// It forgets by generations: this period's and the one before. So a key stays for one to two periods.
type sketch struct {
	period    int64 // microseconds
	start     int64 // of the current generation
	now, then generation
	seed      maphash.Seed
}

type generation [levels][]uint64

const (
	levels   = 3
	one      = 1
	half     = 2
	full     = 3
	maxRound = 8
)

// The sizes in bits, and how many of them a key sets. Ten million keys fill half of the first: a key that is not among them finds all of its
// eight bits set in 0.42 % of cases. Two generations take 28 MiB.
var (
	bits   = [levels]uint64{114_000_000, 2 << 20, 2 << 20}
	rounds = [levels]uint32{maxRound, 4, 4}
)

// turn makes the generation current in which now is.
func (k *sketch) turn(at int64) {
	switch {
	case k.now[0] == nil && k.then[0] == nil:
		k.start, k.seed = at, maphash.MakeSeed()
	case at >= k.start+2*k.period:
		k.now, k.then, k.start = generation{}, generation{}, at
	case at >= k.start+k.period:
		k.now, k.then = k.then, k.now
		k.start += k.period
		for _, level := range k.now {
			clear(level)
		}
	}
}

func (k *sketch) add(key lockout.Key, s lockout.State, attempts int, now time.Time) {
	k.turn(now.UnixMicro())
	if k.now[0] == nil {
		for i := range k.now {
			k.now[i] = make([]uint64, (bits[i]+63)/64)
		}
	}
	level := one
	switch count := s.Failed + s.Earlier; {
	case s.Until > 0, 2*count > attempts+1:
		level = full
	case count > 1:
		level = half
	}
	h := maphash.Comparable(k.seed, key)
	for i := range level {
		set(k.now[i], bits[i], rounds[i], h)
	}
}

// level returns how many levels say that they know a key.
func (k *sketch) level(key lockout.Key, now time.Time) int {
	k.turn(now.UnixMicro())
	h := maphash.Comparable(k.seed, key)
	return max(k.now.level(h), k.then.level(h))
}

func (g *generation) level(h uint64) int {
	if g[0] == nil {
		return 0
	}
	for i := range g {
		if !has(g[i], bits[i], rounds[i], h) {
			return i
		}
	}
	return levels
}

// state returns at least as many guesses as there were.
func (k *sketch) state(key lockout.Key, attempts int, now time.Time) lockout.State {
	at := now.UnixMicro()
	switch k.level(key, now) {
	case one:
		return lockout.State{Start: at, Failed: 1}
	case half:
		return lockout.State{Start: at, Failed: (attempts + 1) / 2}
	case full:
		return lockout.State{Start: at, Failed: attempts, Until: k.start + 2*k.period} // it has gone from here by then
	}
	return lockout.State{}
}

// The bits of a key are chosen by double hashing (Kirsch and Mitzenmacher, 2006).

func set(level []uint64, size uint64, rounds uint32, h uint64) {
	x, step := uint32(h), uint32(h>>32)|1
	for range rounds {
		bit := uint64(x) * size >> 32
		level[bit/64] |= 1 << (bit % 64)
		x += step
	}
}

func has(level []uint64, size uint64, rounds uint32, h uint64) bool {
	x, step := uint32(h), uint32(h>>32)|1
	for range rounds {
		bit := uint64(x) * size >> 32
		if level[bit/64]&(1<<(bit%64)) == 0 {
			return false
		}
		x += step
	}
	return true
}
