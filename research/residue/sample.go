package residue

import (
	"math/rand/v2"
	"strings"
)

// DefaultLimit is how many pairs a sample keeps if nothing else is asked for.
const DefaultLimit = 10_000

// A Pair is one loan that must not be known any more: a person and what they borrowed.
type Pair struct {
	Person []string // by whatever the database may call them: number, bar code, user name, token
	Thing  []string // what the loan was of, and the loan itself: item number, bar code, number of the loan, title
}

// A Sample is a set of pairs to look for. It keeps a bounded number: of more it keeps some, drawn with equal chances.
type Sample struct {
	limit int
	given int
	pairs []Pair
	rng   *rand.Rand
}

// NewSample returns a sample that keeps at most limit pairs; 0 means [DefaultLimit].
func NewSample(limit int) *Sample {
	if limit <= 0 {
		limit = DefaultLimit
	}
	// Always the same draw: who searches again after repairing something must look for the same pairs.
	return &Sample{limit: limit, rng: rand.New(rand.NewPCG(2, 7))}
}

// Add adds a pair. It reports false, and adds nothing, if the pair names nobody or nothing.
func (s *Sample) Add(p Pair) bool {
	p = Pair{filled(p.Person), filled(p.Thing)}
	if len(p.Person) == 0 || len(p.Thing) == 0 {
		return false
	}
	s.given++
	if len(s.pairs) < s.limit {
		s.pairs = append(s.pairs, p)
	} else if i := s.rng.IntN(s.given); i < s.limit {
		s.pairs[i] = p
	}
	return true
}

// Len returns how many pairs are kept, and Given how many were added.
func (s *Sample) Len() int { return len(s.pairs) }

// Given returns how many pairs were added.
func (s *Sample) Given() int { return s.given }

// Extend calls more with every identifier of every person that is kept, and adds what it returns as further ones of the same
// person: the tokens of a system that stores people under pseudonyms.
func (s *Sample) Extend(more func(person string) ([]string, error)) error {
	known := map[string][]string{}
	for i, p := range s.pairs {
		all := p.Person[:len(p.Person):len(p.Person)]
		for _, id := range p.Person {
			add, ok := known[id]
			if !ok {
				var err error
				if add, err = more(id); err != nil {
					return err
				}
				known[id] = add
			}
			all = append(all, filled(add)...)
		}
		s.pairs[i].Person = all
	}
	return nil
}

// longest is the length of an identifier from which on it is cut: an anchor of the search is no longer, and a longer one is a text.
const longest = 512

func filled(list []string) (all []string) {
	for _, s := range list {
		s = strings.TrimSpace(s)
		if len(s) > longest {
			s = s[:longest]
		}
		if s != "" {
			all = append(all, s)
		}
	}
	return all
}

// A node is a person or a thing of the sample: things are numbered after the persons.
type node = int32

// A people is a sample as the search uses it: numbered, and without repetitions.
type people struct {
	ids     []string // identifiers, each once for each node that it is of
	of      []node   // whose the identifier is
	persons int32
	nodes   int32
	pairs   *pairSet
	list    []pair
}

type pair struct{ person, thing node }

func (p *people) isPerson(n node) bool { return n < p.persons }

func newPeople(s *Sample) *people {
	p := &people{pairs: newPairSet(3 * len(s.pairs))}
	byID := map[string]node{}
	owner := make([]node, len(s.pairs))
	for i, one := range s.pairs {
		who := node(-1)
		for _, id := range one.Person {
			if n, ok := byID[id]; ok {
				who = n
				break
			}
		}
		if who < 0 {
			who = p.persons
			p.persons++
		}
		owner[i] = who
		for _, id := range one.Person {
			if _, ok := byID[id]; !ok {
				byID[id] = who
				p.ids, p.of = append(p.ids, id), append(p.of, who)
			}
		}
	}
	p.nodes = p.persons
	clear(byID)
	for i, one := range s.pairs {
		for _, id := range one.Thing {
			n, ok := byID[id]
			if !ok {
				n = p.nodes
				p.nodes++
				byID[id] = n
				p.ids, p.of = append(p.ids, id), append(p.of, n)
			}
			if p.pairs.add(owner[i], n, int32(len(p.list))) {
				p.list = append(p.list, pair{owner[i], n})
			}
		}
	}
	return p
}

// A pairSet says which persons and things are a pair, and which number that has. It is asked for every two numbers of every row, so it
// is a table of its own: a map costs five times as much.
type pairSet struct {
	keys []uint64 // 0: empty
	nums []int32
	mask uint64
	n    int
}

func newPairSet(n int) *pairSet {
	size := 64
	for size < 4*n {
		size *= 2
	}
	return &pairSet{keys: make([]uint64, size), nums: make([]int32, size), mask: uint64(size - 1)}
}

func pairKey(a, b node) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) + 1 }

func (s *pairSet) add(a, b node, number int32) bool {
	if 2*s.n >= len(s.keys) {
		old := *s
		*s = *newPairSet(len(old.keys))
		for i, k := range old.keys {
			if k != 0 {
				s.put(k, old.nums[i])
			}
		}
	}
	return s.put(pairKey(a, b), number)
}

func (s *pairSet) put(key uint64, number int32) bool {
	for i := scatter(key) & s.mask; ; i = (i + 1) & s.mask {
		switch s.keys[i] {
		case 0:
			s.keys[i], s.nums[i] = key, number
			s.n++
			return true
		case key:
			return false
		}
	}
}

// find returns the number of a pair, or -1.
func (s *pairSet) find(a, b node) int32 {
	key := pairKey(a, b)
	for i := scatter(key) & s.mask; ; i = (i + 1) & s.mask {
		switch s.keys[i] {
		case key:
			return s.nums[i]
		case 0:
			return -1
		}
	}
}

// scatter spreads numbers that lie together over a table.
func scatter(x uint64) uint64 {
	x *= 0x9e3779b97f4a7c15
	return x ^ x>>29
}
