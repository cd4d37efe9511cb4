package residue

import (
	"strconv"
)

// direct is the origin of an identifier of the sample itself.
const direct = -1

// An index finds identifiers in rows: long ones anywhere in a value, and all of them where they are a whole cell.
type index struct {
	m      *matcher
	idents []ident
	exact  exactTable
	found  []occurrence
	second bool // the second round, in which identifiers of the sample are looked for only in the forms in which the first has found them
}

// An ident is an identifier of a person or a thing: one of the sample, or a key by which rows are joined to one of those.
type ident struct {
	text   string
	node   node
	origin int32 // direct, or where in the list of origins
	strong bool
	seen   uint8 // forms in which it was found, as a set
}

// newIndex returns the index of the sample's identifiers.
func newIndex(p *people) *index {
	x := &index{}
	for i, id := range p.ids {
		x.idents = append(x.idents, ident{text: id, node: p.of[i], origin: direct, strong: strong(id)})
	}
	return x
}

// build makes the tables. Keys, of which there are many, are looked for as they are written and in no other form.
func (x *index) build() {
	var pats []pattern
	for i, id := range x.idents {
		switch {
		case id.origin != direct:
			if len(id.text) >= shortest {
				pats = append(pats, pattern{spelling: spelling{text: []byte(id.text)}, id: int32(i)})
			}
		case id.strong:
			for _, s := range spellings(id.text) {
				if x.second && id.seen>>s.form&1 == 0 {
					continue
				}
				pats = append(pats, pattern{spelling: s, id: int32(i)})
			}
		}
		if id.origin == direct {
			if _, isNumber := number(id.text); isNumber || !id.strong {
				x.exact.add(cellKey(id.text), len(id.text), id.node, direct, id.strong)
			}
		}
	}
	x.m = newMatcher(pats)
	x.exact.build()
}

// A hit is an identifier in a row.
type hit struct {
	col    int32
	node   node
	origin int32
	strong bool
	number bool // weak, and a number
	key    bool // of a key that is no other row's
	form   Form
	from   int32 // where in the body of the record
	to     int32
}

// row appends to hits what of the index is in a record, no two alike.
func (x *index) row(r *record, hits []hit) []hit {
	x.found = x.m.find(r.body, x.found[:0])
	for _, o := range x.found {
		p := &x.m.pats[o.pat]
		end := o.at + len(p.text)
		col := r.columnOf(o.at, end)
		if col < 0 {
			continue // over the border of two cells
		}
		c := &r.cells[col]
		id := &x.idents[p.id]
		if stands(r.body[c.off:c.end], o.at-int(c.off), id.text, &p.spelling) {
			id.seen |= 1 << p.form
			hits = addHit(hits, hit{int32(col), id.node, id.origin, id.strong, false, id.origin != direct && ownKey(id.text), p.form, int32(o.at), int32(end)})
		}
	}
	if x.exact.n == 0 {
		return hits
	}
	for col := range r.cells {
		c := &r.cells[col]
		var key uint64
		switch {
		case c.kind == kindInt:
			key = intKey(c.n)
		case (c.kind == kindText || c.kind == kindBlob) && c.end > c.off && c.end-c.off <= x.exact.longest:
			key = textKey(r.body[c.off:c.end])
		default:
			continue
		}
		for e := x.exact.find(key); e >= 0; e = x.exact.entries[e].next {
			e := &x.exact.entries[e]
			hits = addHit(hits, hit{int32(col), e.node, e.origin, e.strong, !e.strong && e.key>>63 == 0, false, Plain, c.off, c.end})
		}
	}
	return hits
}

// mostHits is how many identifiers of one row are looked at: a list of all borrowers in one value joins nobody to anything.
const mostHits = 512

func addHit(hits []hit, h hit) []hit {
	if len(hits) >= mostHits {
		return hits
	}
	for i := range hits {
		if o := &hits[i]; o.col == h.col && o.node == h.node && o.origin == h.origin && (o.from == h.from || h.origin != direct) {
			return hits
		}
	}
	return append(hits, h)
}

// number reads what a database would write for a whole number, and nothing else: 007 is a text.
func number(s string) (int64, bool) {
	if len(s) == 0 || len(s) > 20 || s[0] != '-' && (s[0] < '0' || s[0] > '9') {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && (s[0] != '0' || s == "0") && s != "-0" && (s[0] != '-' || s[1] != '0')
}

// cellKey is what stands for a cell in tables of cells: the same for a number and for the text of its digits.
func cellKey(s string) uint64 { return textKey([]byte(s)) }

func textKey(b []byte) uint64 {
	if len(b) <= 20 && (b[0] <= '9' && b[0] >= '0' || b[0] == '-') {
		if n, ok := smallNumber(b); ok {
			return intKey(n)
		}
	}
	// FNV-1a, eight bytes at a time where there are so many.
	h := uint64(14695981039346656037)
	for len(b) >= 8 {
		w := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		h = (h ^ w) * 0x9e3779b97f4a7c15
		h ^= h >> 32
		b = b[8:]
	}
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h ^ h>>31 | 1<<63
}

// smallNumber is number without a string.
func smallNumber(b []byte) (n int64, ok bool) {
	if len(b) <= 18 && b[0] != '-' {
		if b[0] == '0' {
			return 0, len(b) == 1
		}
		for _, c := range b {
			if c < '0' || c > '9' {
				return 0, false
			}
			n = 10*n + int64(c-'0')
		}
		return n, true
	}
	return number(string(b))
}

// intKey may be that of a text only by a chance of one in 2^63 or so: negative numbers share their half with texts.
func intKey(n int64) uint64 { return uint64(n) }

// An exactTable finds what stands for a whole cell.
type exactTable struct {
	entries []exactEntry
	longest int32 // of the texts
	n       int
	filter  []uint64
	heads   []int32
	mask    uint64 // of the filter: numbers that follow each other, as in columns they do, are beside each other there
	shift   uint
}

type exactEntry struct {
	key    uint64
	node   node
	origin int32
	strong bool
	next   int32 // the next entry of the same key, or -1
	chain  int32 // the next of the same hash, plus 1
}

func (t *exactTable) add(key uint64, length int, n node, origin int32, strong bool) {
	t.longest = max(t.longest, int32(length))
	t.entries = append(t.entries, exactEntry{key: key, node: n, origin: origin, strong: strong, next: -1})
}

func (t *exactTable) build() {
	t.n = len(t.entries)
	bits := uint(12)
	for bits < 26 && 1<<bits < 16*t.n {
		bits++
	}
	t.shift, t.mask = 64-bits, 1<<bits-1
	t.filter = make([]uint64, 1<<bits/64)
	t.heads = make([]int32, 1<<bits/4)
	for i := range t.entries {
		e := &t.entries[i]
		f, h := e.key&t.mask, windowHash(e.key)>>t.shift
		t.filter[f>>6] |= 1 << (f & 63)
		same := t.heads[h>>2] - 1
		for same >= 0 && t.entries[same].key != e.key {
			same = t.entries[same].chain - 1
		}
		if same >= 0 { // only the first of a key is in the chain
			e.next, t.entries[same].next = t.entries[same].next, int32(i)
			continue
		}
		e.chain = t.heads[h>>2]
		t.heads[h>>2] = int32(i) + 1
	}
}

// find returns the number of the first entry of a key, or -1.
func (t *exactTable) find(key uint64) int32 {
	if f := key & t.mask; t.filter[f>>6]>>(f&63)&1 == 0 {
		return -1
	}
	h := windowHash(key) >> t.shift
	i := t.heads[h>>2] - 1
	for i >= 0 && t.entries[i].key != key {
		i = t.entries[i].chain - 1
	}
	return i
}
