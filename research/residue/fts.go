package residue

import (
	"encoding/binary"
	"strings"
)

// A wordIndex reads the blocks of an FTS5 index: which words are in which documents. An index that keeps no text of its own has its
// people and things only here, each in another block than the other.
type wordIndex struct {
	s     *scan
	name  string
	ids   map[string][]node // strong identifiers of one word, as the index has them
	docs  map[int64][]node
	full  bool
	words int64
}

// mostDocuments bounds the memory that an index takes.
const mostDocuments = 1_000_000

func (s *scan) wordIndex(name string) *wordIndex {
	w := &wordIndex{s: s, name: name, ids: map[string][]node{}, docs: map[int64][]node{}}
	for i, id := range s.people.ids {
		if strong(id) {
			id = strings.ToLower(id)
			w.ids[id] = append(w.ids[id], s.people.of[i])
		}
	}
	return w
}

// row reads a row of the index's table of blocks. Blocks of words are the leaves of segments, numbered so that other pages differ in
// the bits above the lowest 31.
func (w *wordIndex) row(r *record) {
	if len(r.cells) < 2 || r.cells[0].kind != kindInt || r.cells[1].kind != kindBlob {
		return
	}
	if id := r.cells[0].n; id > 10 && id>>31&0x3f == 0 {
		w.leaf(r.body[r.cells[1].off:r.cells[1].end])
	}
}

// leaf reads one block: two bytes on where the first document is, two on where the words end, the words with their documents, and where
// each of the words begins. A word says how much of the one before it repeats.
func (w *wordIndex) leaf(b []byte) {
	if len(b) < 4 {
		return
	}
	end := int(binary.BigEndian.Uint16(b[2:]))
	if end < 4 || end > len(b) {
		return
	}
	var starts []int
	at := uint64(0)
	for footer := b[end:]; len(footer) > 0; {
		v, k := varint(footer)
		if k == 0 || v > uint64(end) {
			return
		}
		footer = footer[k:]
		at += v
		if at < 4 || at >= uint64(end) {
			return
		}
		starts = append(starts, int(at))
	}
	var word []byte
	for i, start := range starts {
		rest := b[start:end]
		if i+1 < len(starts) {
			rest = b[start:starts[i+1]]
		}
		same := uint64(0)
		if i > 0 {
			var k int
			if same, k = varint(rest); k == 0 || same > uint64(len(word)) {
				return
			}
			rest = rest[k:]
		}
		size, k := varint(rest)
		if k == 0 || size > uint64(len(rest)-k) {
			return
		}
		word = append(word[:same], rest[k:k+int(size)]...)
		w.words++
		if len(word) < 2 || word[0] != '0' { // the index of whole words, and not one of prefixes
			continue
		}
		if nodes := w.ids[string(word[1:])]; nodes != nil {
			w.documents(rest[k+int(size):], nodes)
		}
	}
}

// documents reads which documents a word is in: the first, then distances, each with the size of a list of places, which follows.
func (w *wordIndex) documents(b []byte, nodes []node) {
	doc := int64(0)
	for len(b) > 0 {
		step, k := varint(b)
		if k == 0 {
			return
		}
		doc += int64(step)
		size, n := varint(b[k:])
		if n == 0 {
			return
		}
		b = b[k+n:]
		if len(w.docs) < mostDocuments {
			w.docs[doc] = append(w.docs[doc], nodes...)
		} else {
			w.full = true
		}
		if size/2 > uint64(len(b)) {
			return // it goes on in the next block
		}
		b = b[size/2:]
	}
}

// end reports documents that hold both halves of a pair.
func (w *wordIndex) end() {
	f := Finding{Kind: Value, Table: w.name, Column: "words", Thing: "words", Forms: []string{Plain.String()}, pairs: w.s.newBitset()}
	for _, nodes := range w.docs {
		together := false
		for _, p := range nodes {
			for _, t := range nodes {
				if !w.s.people.isPerson(p) || w.s.people.isPerson(t) {
					continue
				}
				if n := w.s.people.pairs.find(p, t); n >= 0 {
					together = true
					if f.pairs.add(n) {
						f.Pairs++
					}
				}
			}
		}
		if together {
			f.Rows++
		}
	}
	if f.Pairs > 0 {
		w.s.findings = append(w.s.findings, f)
	}
	if w.full {
		w.s.gap("some documents of "+w.name, "too many hold somebody or something of the sample; search again with a smaller one", true)
	}
}
