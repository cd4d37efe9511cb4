package residue

import (
	"slices"
	"strings"
)

// An origin is a place where a node of the sample stands beside a key, by which other rows may point at it.
type origin struct {
	table  *table
	col    int32 // where the node is
	key    int32 // the column whose values are followed
	person bool
	strong bool // of strong identifiers
	number bool // of weak ones that are numbers, which are followed only where they are meant to be

	kept  int   // values that were collected
	nodes int   // how many nodes they lead to
	rows  int64 // rows that have one of the values in the key column
	drop  bool
	cut   bool // there were more
}

// A joinKey is a value that leads to a node.
type joinKey struct {
	hash   uint64
	length int // as a text
	origin int32
	node   node
	text   string // of a value that is so long that it may stand in a text, as in JSON
}

// joins collects keys while a database is read for the first time.
type joins struct {
	keys    []joinKey
	numbers int // of them, that begin at a number, which may be anything
}

// mostKeys bounds the memory that keys take; mostTexts, how many of them are looked for inside values.
const (
	mostKeys  = 2_000_000
	mostTexts = 200_000
)

// collect notes the keys of a row that holds somebody or something of the sample.
func (a *tally) collect(r *record) {
	s := a.s
	perOrigin := max(10_000, 4*int(s.people.nodes))
	for _, h := range a.hits {
		for k := range min(len(r.cells), len(a.t.columns)) {
			c := &r.cells[k]
			if int32(k) == h.col || c.kind == kindNull || c.kind == kindReal || !a.joinable[k] {
				continue
			}
			if c.kind != kindInt && (c.end == c.off || c.end-c.off > 128) {
				continue
			}
			o := a.source(h, k)
			if s.origins[o].kept >= perOrigin || len(s.joins.keys) >= mostKeys || h.number && s.joins.numbers >= mostKeys/2 {
				s.origins[o].cut = true
				continue
			}
			if h.number {
				s.joins.numbers++
			}
			j := joinKey{origin: o, node: h.node, length: 20}
			if c.kind == kindInt {
				j.hash = intKey(c.n)
			} else {
				b := r.body[c.off:c.end]
				j.hash, j.length = textKey(b), len(b)
				if h.strong && len(b) >= shortest && strong(string(b)) {
					j.text = string(b)
				}
			}
			s.origins[o].kept++
			s.joins.keys = append(s.joins.keys, j)
		}
	}
}

// source returns the number of the origin of which a hit beside a key is.
func (a *tally) source(h hit, key int) int32 {
	person := a.s.people.isPerson(h.node)
	i := (int(h.col)*len(a.t.columns)+key)*6 + 2
	if person {
		i += 3
	}
	switch {
	case h.strong:
		i--
	case h.number:
		i -= 2
	}
	for len(a.sources) <= i {
		a.sources = append(a.sources, 0)
	}
	if a.sources[i] == 0 {
		a.s.origins = append(a.s.origins, origin{table: a.t, col: h.col, key: int32(key), person: person, strong: h.strong, number: h.number})
		a.sources[i] = int32(len(a.s.origins))
	}
	return a.sources[i] - 1
}

// follow makes the index that also finds the keys. It reports false if there is none to follow.
func (s *scan) follow() bool {
	keys := s.joins.keys
	s.joins = nil
	slices.SortFunc(keys, func(a, b joinKey) int {
		switch {
		case a.origin != b.origin:
			return int(a.origin) - int(b.origin)
		case a.node != b.node:
			return int(a.node) - int(b.node)
		case a.hash < b.hash:
			return -1
		case a.hash > b.hash:
			return 1
		}
		return 0
	})
	keys = slices.CompactFunc(keys, func(a, b joinKey) bool { return a.origin == b.origin && a.node == b.node && a.hash == b.hash })
	for i := range s.origins {
		s.origins[i].kept = 0
	}
	for i, k := range keys {
		o := &s.origins[k.origin]
		o.kept++
		if i == 0 || keys[i-1].origin != k.origin || keys[i-1].node != k.node {
			o.nodes++
		}
	}
	for i := range s.origins {
		o := &s.origins[i]
		few := min(fewest, len(s.sample.pairs))
		// A key leads to one row. Where a node has many, as a branch has loans, it is none; and a few weak ones are chance.
		o.drop = o.kept == 0 || !o.strong && o.nodes < few
		s.cut = s.cut || o.cut && !o.number
	}
	x := newIndex(s.people)
	x.second = true
	for i := range x.idents {
		x.idents[i].seen = s.index.idents[i].seen
	}
	texts, added := 0, false
	for _, k := range keys {
		o := &s.origins[k.origin]
		if o.drop {
			continue
		}
		added = true
		if k.text != "" && texts < mostTexts {
			texts++
			x.idents = append(x.idents, ident{text: k.text, node: k.node, origin: k.origin, strong: o.strong})
			continue
		}
		x.exact.add(k.hash, k.length, k.node, k.origin, o.strong)
	}
	if !added {
		return false
	}
	x.build()
	s.index = x
	return true
}

// ownKey reports that a key is so long and so mixed that no other row has it by chance, as a UUID. The time at which something was done
// looks like one, and is no key.
func ownKey(s string) bool {
	return len(s) >= 12 && strings.ContainsAny(s, "0123456789") && strings.ContainsFunc(s, func(r rune) bool { return r|0x20 >= 'a' && r|0x20 <= 'z' }) &&
		!strings.ContainsAny(s, " :") && !(s[4] == '-' && s[7] == '-')
}

func (s *scan) originOf(i int32) *origin {
	if i == direct {
		return nil
	}
	return &s.origins[i]
}

// selective reports whether the values of an origin tell rows apart: each was seen in about one row of its table.
func selective(o *origin) bool {
	return o == nil || o.table.isUnique(int(o.key)) || 5*o.rows <= 6*int64(o.kept)+5
}

// trusted reports that a column is meant to point at an origin: by a declared foreign key, in either direction, or by its name.
func trusted(t *table, col int32, o *origin) bool {
	for _, r := range t.refs {
		if int32(r.column) == col && r.table == o.table.name && strings.EqualFold(r.pointed, o.table.column(o.key)) {
			return true
		}
	}
	for _, r := range o.table.refs {
		if int32(r.column) == o.key && r.table == t.name && strings.EqualFold(r.pointed, t.column(col)) {
			return true
		}
	}
	return alike(t.column(col), o.table.name, o.table.column(o.key)) || alike(o.table.column(o.key), t.name, t.column(col))
}

// join says how a finding's rows hang together.
func (f *Finding) join(t *table, k groupKey, person, thing *origin) {
	if person != nil {
		f.Joins = append(f.Joins, person.table.name+"."+person.table.column(person.key)+" = "+t.name+"."+t.column(k.person))
		f.Table, f.Column = person.table.name, person.table.column(person.col)
	}
	f.ThingTable = t.name
	if thing != nil {
		f.Joins = append(f.Joins, t.name+"."+t.column(k.thing)+" = "+thing.table.name+"."+thing.table.column(thing.key))
		f.ThingTable, f.Thing = thing.table.name, thing.table.column(thing.col)
	}
}
