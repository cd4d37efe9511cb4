package residue

import (
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

func digits(n int) string { return strconv.Itoa(n) }

// A tally counts, while a table is read, what its columns have to do with the sample.
type tally struct {
	s        *scan
	t        *table
	raw      bool // rows without a table: only what needs counting is counted, the rest is found as bytes
	rows     int64
	filled   []int64 // rows in which a column is not null
	counts   counter // rows, by column, origin and node
	groups   map[groupKey]*group
	joinable []bool  // columns whose values may lead to other rows
	sources  []int32 // by column and key, the origin, plus 1
	allowed  []uint8 // by column and origin, whether a weak join is followed: 0 not known, 1 yes, 2 no
	hits     []hit
	persons  []hit
	things   []hit
}

// A groupKey says by which columns, and by which joins, pairs are together.
type groupKey struct {
	person, thing   int32 // columns
	personBy, itsBy int32 // origins
	sure            bool  // both identifiers are strong
	personKey       bool  // the value that leads to the person is no other row's: a UUID
	itsKey          bool
}

// A group is the pairs that were found together in one way.
type group struct {
	pairs bitset
	n     int
	rows  int64
	forms uint16
}

// A bitset is a set of pairs.
type bitset []uint64

func (b bitset) add(i int32) bool {
	w, bit := &b[i>>6], uint64(1)<<(i&63)
	if *w&bit != 0 {
		return false
	}
	*w |= bit
	return true
}

func (b bitset) each(do func(i int)) {
	for w, word := range b {
		for ; word != 0; word &= word - 1 {
			do(w<<6 + bits.TrailingZeros64(word))
		}
	}
}

func (s *scan) newBitset() bitset { return make(bitset, (len(s.people.list)+63)/64) }

func (s *scan) tally(t *table) *tally {
	a := &tally{s: s, t: t, filled: make([]int64, len(t.columns)), groups: map[groupKey]*group{}}
	for i := range t.columns {
		a.joinable = append(a.joinable, t.joinable(i))
	}
	return a
}

// slot numbers a column and an origin together.
func (a *tally) slot(col, origin int32) uint64 {
	return uint64(col)*a.s.stride + uint64(origin+1)
}

// row counts one row.
func (a *tally) row(r *record) {
	a.rows++
	for len(a.filled) < len(r.cells) {
		a.filled = append(a.filled, 0)
	}
	for i := range r.cells {
		if r.cells[i].kind != kindNull {
			a.filled[i]++
		}
	}
	a.hits = a.s.index.row(r, a.hits[:0])
	if len(a.hits) == 0 {
		return
	}
	a.persons, a.things = a.persons[:0], a.things[:0]
	for _, h := range a.hits {
		if h.origin != direct && !a.follows(h) {
			continue
		}
		a.counts.add(a.slot(h.col, h.origin)<<32 | uint64(uint32(h.node)))
		if a.s.people.isPerson(h.node) {
			a.persons = append(a.persons, h)
		} else {
			a.things = append(a.things, h)
		}
	}
	for i := range a.persons {
		for j := range a.things {
			a.together(r, &a.persons[i], &a.things[j])
		}
	}
	if a.s.collecting && !a.raw {
		a.collect(r)
	}
}

// follows reports whether a key in a row may be taken for that of another row.
func (a *tally) follows(h hit) bool {
	o := &a.s.origins[h.origin]
	if o.table == a.t && o.key == h.col {
		o.rows++ // the row that it is the key of
		return false
	}
	if !o.number {
		return true
	}
	i := int(a.slot(h.col, h.origin))
	for len(a.allowed) <= i {
		a.allowed = append(a.allowed, 0)
	}
	if a.allowed[i] == 0 {
		a.allowed[i] = 2
		if trusted(a.t, h.col, o) {
			a.allowed[i] = 1
			a.s.cut = a.s.cut || o.cut
		}
	}
	return a.allowed[i] == 1
}

// wholeValue is how long a value may be in which a person and a thing belong together wherever they stand.
const wholeValue = 4 << 10

// together notes that a person and a thing are in one row, if they are a pair of the sample.
func (a *tally) together(r *record, p, t *hit) {
	number := a.s.people.pairs.find(p.node, t.node)
	if number < 0 {
		return
	}
	joined := p.origin != direct || t.origin != direct
	if joined == a.s.collecting {
		return // direct ones were counted when the keys were collected
	}
	sure := p.strong && t.strong
	if sure && a.raw && r.cells[p.col].kind != kindInt && r.cells[t.col].kind != kindInt {
		return // it is found as bytes, too
	}
	if joined && a.directToo(p.node, t.node) {
		return
	}
	if p.col == t.col {
		c := &r.cells[p.col]
		if c.kind == kindInt || p.from < t.to && t.from < p.to {
			return // one and the same, or one within the other
		}
		if a.t.list[p.col] || c.end-c.off > wholeValue && a.between(p, t) {
			return
		}
	}
	key := groupKey{p.col, t.col, p.origin, t.origin, sure, p.key, t.key}
	g := a.groups[key]
	if g == nil {
		g = &group{pairs: a.s.newBitset()}
		a.groups[key] = g
	}
	if g.pairs.add(number) {
		g.n++
	}
	g.rows++
	g.forms |= 1<<p.form | 1<<t.form
}

// directToo reports that a row that joins a pair holds both anyway, which the first round has counted.
func (a *tally) directToo(p, t node) bool {
	isDirect := func(h hit, n node) bool { return h.origin == direct && h.node == n }
	return slices.ContainsFunc(a.persons, func(h hit) bool { return isDirect(h, p) }) && slices.ContainsFunc(a.things, func(h hit) bool { return isDirect(h, t) })
}

// between reports that somebody else stands between a person and a thing in a long value: a list of many loans.
func (a *tally) between(p, t *hit) bool {
	from, to := min(p.from, t.from), max(p.to, t.to)
	for i := range a.persons {
		if o := &a.persons[i]; o.col == p.col && o.node != p.node && o.from >= from && o.to <= to {
			return true
		}
	}
	return false
}

// chance is how likely it may be, at most, that pairs are together by chance, if that is to be a finding. There are many pairs of columns.
const chance = 1e-7

// fewest is how many pairs must be together that may be so by chance, if the sample has as many.
const fewest = 3

// end turns what was counted into findings.
func (a *tally) end() {
	for key, g := range a.groups {
		person, thing := a.s.originOf(key.personBy), a.s.originOf(key.itsBy)
		f := Finding{by: [2]*origin{person, thing}, Table: a.t.name, Column: a.t.column(key.person), Thing: a.t.column(key.thing), Pairs: g.n, Rows: g.rows, Forms: forms(g.forms), pairs: g.pairs}
		switch {
		case person != nil || thing != nil:
			f.Kind = Join
			f.join(a.t, key, person, thing)
		case key.person == key.thing:
			f.Kind = Value
		default:
			f.Kind = Row
		}
		sure := key.sure && (person == nil || key.personKey || trusted(a.t, key.person, person)) && (thing == nil || key.itsKey || trusted(a.t, key.thing, thing))
		if !sure {
			f.Expected = a.expected(key)
			if len(a.s.sample.pairs) < fewest {
				f.Weak = true
				if most := (map[bool]float64{true: 0.05, false: 0.2})[f.Kind == Join]; g.n < len(a.s.sample.pairs) || f.Expected > most {
					continue
				}
			} else if g.n < fewest || !a.s.spread(g.pairs) || !unlikely(g.n, len(a.s.people.list), f.Expected) {
				continue
			}
		}
		a.s.findings = append(a.s.findings, f)
	}
}

// expected returns how many pairs would be together in two columns if they had nothing to do with each other.
func (a *tally) expected(k groupKey) (sum float64) {
	rows := float64(max(a.filled[k.person], a.filled[k.thing], 1))
	person, thing := a.slot(k.person, k.personBy)<<32, a.slot(k.thing, k.itsBy)<<32
	for _, p := range a.s.people.list {
		if n := a.counts.get(person | uint64(uint32(p.person))); n > 0 {
			sum += 1 - math.Exp(-float64(n)*float64(a.counts.get(thing|uint64(uint32(p.thing))))/rows)
		}
	}
	return sum
}

// unlikely reports that chance does not explain n pairs of so many, where it would make as many as expected: the bound of Chernoff
// on the sum of independent events.
func unlikely(n, of int, expected float64) bool {
	if float64(n) < 2*expected {
		return false
	}
	x, p := float64(n)/float64(of), expected/float64(of)
	if p <= 0 {
		return true
	}
	bound := x * math.Log(x/p)
	if x < 1 {
		bound += (1 - x) * math.Log((1-x)/(1-p))
	}
	return -float64(of)*bound < math.Log(chance)
}

// spread reports that pairs are not all of one person, nor of one thing, unless the whole sample is.
func (s *scan) spread(b bitset) bool {
	persons, things := map[node]bool{}, map[node]bool{}
	b.each(func(i int) {
		if len(persons) < fewest || len(things) < fewest {
			persons[s.people.list[i].person], things[s.people.list[i].thing] = true, true
		}
	})
	return len(persons) >= min(fewest, int(s.people.persons)) && len(things) >= min(fewest, int(s.people.nodes-s.people.persons))
}

func forms(set uint16) (names []string) {
	for f := Plain; f <= Binary; f++ {
		if set>>f&1 != 0 {
			names = append(names, f.String())
		}
	}
	return names
}

// A counter counts by number.
type counter struct {
	keys []uint64 // plus 1; 0: empty
	n    []int32
	used int
}

func (c *counter) add(key uint64) {
	if 2*c.used >= len(c.keys) {
		old := *c
		*c = counter{keys: make([]uint64, max(64, 2*len(old.keys))), n: make([]int32, max(64, 2*len(old.keys)))}
		for i, k := range old.keys {
			if k != 0 {
				c.n[c.place(k)] = old.n[i]
				c.keys[c.place(k)] = k
				c.used++
			}
		}
	}
	i := c.place(key + 1)
	if c.keys[i] == 0 {
		c.keys[i] = key + 1
		c.used++
	}
	c.n[i]++
}

func (c *counter) get(key uint64) int32 {
	if len(c.keys) == 0 {
		return 0
	}
	return c.n[c.place(key+1)]
}

func (c *counter) place(k uint64) int {
	mask := uint64(len(c.keys) - 1)
	for i := scatter(k) & mask; ; i = (i + 1) & mask {
		if c.keys[i] == 0 || c.keys[i] == k {
			return int(i)
		}
	}
}

// alike reports that the name of a column is that of another table's key: borrowernumber and borrowernumber, loan_id and loans.id.
func alike(column, tableName, key string) bool {
	column, key = simple(column), simple(key)
	if i := strings.LastIndexByte(tableName, '.'); i >= 0 {
		tableName = tableName[i+1:]
	}
	one := simple(tableName)
	one = strings.TrimSuffix(one, "s")
	switch column {
	case "id", "name", "code", "type", "date", "time", "status", "state", "number", "value", "count", "note", "title", "version":
		return false
	case key:
		return len(column) >= 4
	}
	return len(one) >= 3 && (column == one || column == one+key || column == one+"s"+key || column == one+"id")
}

func simple(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r | 0x20
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r >= 0x80:
			return r
		}
		return -1
	}, name)
}
