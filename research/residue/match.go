package residue

import "encoding/binary"

// window is how many bytes of a pattern are looked up at every other byte of what is searched, and shortest how long a pattern must be
// for one of its windows to be there.
const (
	window   = 6
	shortest = window + 1
)

const windowMask = 1<<(8*window) - 1

// A matcher looks for many patterns at once. At every other byte it looks up the six that follow in a filter of bits, and only what passes,
// one in some hundreds, in a table. So each pattern has two entries, for the windows at an even and at an odd distance. They are those
// that are shared with the fewest others: identifiers often begin alike, and a table in which "patron" leads to ten thousand of them would be no
// table.
type matcher struct {
	filter []uint64
	shift  uint
	heads  []int32 // by hash of the window: the first entry, plus 1
	next   []int32 // entries 2i and 2i+1 are those of pattern i
	keys   []uint64
	pats   []pattern
}

type pattern struct {
	spelling
	at int32 // where in it the first of its two windows is
	id int32 // whose spelling it is, in the list of identifiers of the matcher's owner
}

// An occurrence is a place where a pattern stands.
type occurrence struct {
	at  int
	pat int32
}

func windowAt(b []byte) uint64 {
	return uint64(binary.LittleEndian.Uint32(b)) | uint64(binary.LittleEndian.Uint16(b[4:]))<<32
}

func windowHash(key uint64) uint64 { return key * 0x9e3779b97f4a7c15 }

// secondBit is another bit of the same word of the filter, which costs no other access to memory.
func secondBit(key uint64) uint64 { return windowHash(key) >> 16 & 63 }

func newMatcher(pats []pattern) *matcher {
	m := &matcher{pats: pats}
	if len(pats) == 0 {
		return m
	}
	bits := uint(14)
	for bits < 23 && 1<<bits < 16*len(pats) {
		bits++
	}
	m.shift = 64 - bits
	m.filter = make([]uint64, 1<<bits/64)
	m.heads = make([]int32, 1<<bits/8)
	m.next, m.keys = make([]int32, 2*len(pats)), make([]uint64, 2*len(pats))
	shared := make([]uint16, 1<<bits/8) // how many patterns have a window of this hash
	sharing := func(b []byte) *uint16 { return &shared[windowHash(windowAt(b))>>(m.shift+3)] }
	for _, p := range pats {
		for i := 0; i+window <= len(p.text); i++ {
			if n := sharing(p.text[i:]); *n < 1<<16-1 {
				*n++
			}
		}
	}
	for i := range pats {
		p := &pats[i]
		fewest := uint16(1<<16 - 1)
		for j := 0; j+shortest <= len(p.text); j++ {
			if n := max(*sharing(p.text[j:]), *sharing(p.text[j+1:])); n < fewest {
				fewest, p.at = n, int32(j)
			}
		}
		for e := 2 * i; e < 2*i+2; e++ {
			m.keys[e] = windowAt(p.text[int(p.at)+e&1:])
			h := windowHash(m.keys[e]) >> m.shift
			m.filter[h>>6] |= 1<<(h&63) | 1<<secondBit(m.keys[e])
			m.next[e] = m.heads[h>>3]
			m.heads[h>>3] = int32(e) + 1
		}
	}
	return m
}

// find appends to found where patterns stand in b.
func (m *matcher) find(b []byte, found []occurrence) []occurrence {
	if len(m.pats) == 0 || len(b) < window {
		return found
	}
	filter, shift := m.filter, m.shift
	i := 0
	for ; i+8 <= len(b); i += 2 {
		key := binary.LittleEndian.Uint64(b[i:]) & windowMask
		h := windowHash(key) >> shift
		if word := filter[h>>6]; word>>(h&63)&(word>>secondBit(key))&1 != 0 {
			found = m.look(b, i, key, h, found)
		}
	}
	for ; i+window <= len(b); i += 2 {
		key := windowAt(b[i:])
		h := windowHash(key) >> shift
		if word := filter[h>>6]; word>>(h&63)&(word>>secondBit(key))&1 != 0 {
			found = m.look(b, i, key, h, found)
		}
	}
	return found
}

func (m *matcher) look(b []byte, i int, key, h uint64, found []occurrence) []occurrence {
	for e := m.heads[h>>3]; e != 0; e = m.next[e-1] {
		if m.keys[e-1] != key {
			continue
		}
		n := (e - 1) / 2
		p := &m.pats[n]
		start := i - int(p.at) - int((e-1)&1)
		if start >= 0 && len(b)-start >= len(p.text) && string(b[start:start+len(p.text)]) == string(p.text) {
			found = append(found, occurrence{start, n})
		}
	}
	return found
}
