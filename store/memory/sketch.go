package memory

import (
	"hash/maphash"

	"github.com/carrel-project/carrel/lockout"
)

// What the table has no place for goes into a sketch, which takes the same room however much that is. It says too much at times and never too little: collisions add guesses
// and take none away. It forgets by generations, this period's and the one before, so what is in it stays for one to two periods.
//
// Accounts and sources have different ones. There are few guesses at an account, and none may be lost to somebody who did nothing; of the hundred that a source has, some
// may, but ten million sources must not add up to a lock.
type forgetful interface {
	// add remembers a state that had base guesses from here already.
	add(key lockout.Key, s lockout.State, base, attempts int, at int64)
	// state returns at least as many guesses as were added.
	state(key lockout.Key, attempts int, at int64) lockout.State
}

// generations are two of something, of which the older one is forgotten when a period is over.
type generations[T any] struct {
	period    int64 // microseconds
	start     int64 // of the current one
	now, then *T    // nil: nothing
	seed      maphash.Seed
}

// turn makes that generation the current one in which a time is. Clean empties one to be used again.
func (g *generations[T]) turn(at int64, clean func(*T)) {
	switch {
	case g.now == nil && g.then == nil:
		g.start, g.seed = at, maphash.MakeSeed()
	case at >= g.start+2*g.period:
		g.now, g.then, g.start = nil, nil, at
	case at >= g.start+g.period:
		g.start += g.period
		if g.now, g.then = g.then, g.now; g.now != nil {
			clean(g.now)
		}
	}
}

// A names sketch is for accounts: it remembers whether there was one guess, up to half of what is allowed, or all.
//
// It is a count-min sketch (Cormode and Muthukrishnan, 2005) whose counters are written in unary, one bit array for each level, and each as large as
// that level needs: in a flood of names nearly all have one guess. A key has its bits set in all levels up to its own, so who never guessed loses a guess only by a
// collision in the first, however full the others are. Ten million names fill half of it, and one that is not among them finds all of its eight bits
// set in 0.46 % of cases. Two generations take 27 MiB.
type names struct{ generations[[levels][]uint64] }

const (
	levels = 3
	one    = 1
	half   = 2
	full   = 3
)

// A level is an array of so many bits, of which a key sets some.
type level struct {
	bits uint64
	some uint32
}

var sizes = [levels]level{{112_000_000, 8}, {1 << 20, 4}, {1 << 20, 4}}

func (n *names) add(key lockout.Key, s lockout.State, _, attempts int, at int64) {
	n.turn(at, empty)
	if n.now == nil {
		n.now = new([levels][]uint64)
		for i := range n.now {
			n.now[i] = make([]uint64, (sizes[i].bits+63)/64)
		}
	}
	top := one
	switch count := s.Failed + s.Earlier; {
	case s.Until > 0, 2*count > attempts+1:
		top = full
	case count > 1:
		top = half
	}
	h := maphash.Comparable(n.seed, key)
	for i := range top {
		sizes[i].set(n.now[i], h)
	}
}

func empty(g *[levels][]uint64) {
	for _, array := range g {
		clear(array)
	}
}

func (n *names) state(key lockout.Key, attempts int, at int64) lockout.State {
	n.turn(at, empty)
	h := maphash.Comparable(n.seed, key)
	switch max(levelOf(n.now, h), levelOf(n.then, h)) {
	case one:
		return lockout.State{Start: at, Failed: 1}
	case half:
		return lockout.State{Start: at, Failed: (attempts + 1) / 2}
	case full:
		return lockout.State{Start: at, Failed: attempts, Until: n.start + 2*n.period} // it has gone from here by then
	}
	return lockout.State{}
}

func levelOf(g *[levels][]uint64, h uint64) int {
	if g == nil {
		return 0
	}
	for i := range g {
		if !sizes[i].has(g[i], h) {
			return i
		}
	}
	return levels
}

// The bits of a key are chosen by double hashing (Kirsch and Mitzenmacher, 2006).

func (l level) set(array []uint64, h uint64) {
	x, step := uint32(h), uint32(h>>32)|1
	for range l.some {
		bit := uint64(x) * l.bits >> 32
		array[bit/64] |= 1 << (bit % 64)
		x += step
	}
}

func (l level) has(array []uint64, h uint64) bool {
	x, step := uint32(h), uint32(h>>32)|1
	for range l.some {
		bit := uint64(x) * l.bits >> 32
		if array[bit/64]&(1<<(bit%64)) == 0 {
			return false
		}
		x += step
	}
	return true
}

// A sums sketch is for sources: a count-min sketch with conservative update (Estan and Varghese, 2002), which adds up. After ten million sources with a wrong guess each,
// one that made none has lost a fifth of its hundred. Two generations take 1.5 MiB.
type sums struct {
	generations[[rows][counters]uint8]
}

const (
	rows     = 2
	counters = 384 << 10
	most     = 255
)

func (c *sums) add(key lockout.Key, s lockout.State, base, attempts int, at int64) {
	c.turn(at, clearSums)
	if c.now == nil {
		c.now = new([rows][counters]uint8)
	}
	count := max(s.Failed+s.Earlier-base, 0)
	if s.Until > 0 {
		count = attempts
	}
	i, j := c.places(key)
	to := uint8(min(int(min(c.now[0][i], c.now[1][j]))+(count+unit(attempts)-1)/unit(attempts), most))
	c.now[0][i], c.now[1][j] = max(c.now[0][i], to), max(c.now[1][j], to)
}

func clearSums(g *[rows][counters]uint8) { *g = [rows][counters]uint8{} }

// unit is how many guesses a counter counts as one, rounded up: it ends at 255, and a source may have a thousand.
func unit(attempts int) int { return attempts/most + 1 }

func (c *sums) places(key lockout.Key) (i, j uint64) {
	h := maphash.Comparable(c.seed, key)
	return h & 0xffff_ffff * counters >> 32, h >> 32 * counters >> 32
}

func (c *sums) state(key lockout.Key, attempts int, at int64) lockout.State {
	c.turn(at, clearSums)
	i, j := c.places(key)
	s := lockout.State{Start: at}
	if c.now != nil {
		s.Failed = int(min(c.now[0][i], c.now[1][j])) * unit(attempts)
	}
	if c.then != nil {
		s.Earlier = int(min(c.then[0][i], c.then[1][j])) * unit(attempts)
	}
	if s.Failed+s.Earlier >= attempts {
		s.Until = c.start + 2*c.period
	}
	return s
}
