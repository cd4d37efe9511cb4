package audit

import (
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// An entry carries a nonce and a MAC, so that nobody without the keyring makes one up; but whoever owns the database can append a copy of one, and the
// sequencer makes a leaf of it. No two entries have the same leaf by chance.

// checkRepeated names entries that are copies of earlier ones, pruned ones included. What somebody did to the rows after they were signed is found elsewhere.
func (v *verifier) checkRepeated(suspect bool) error {
	slices.Sort(v.scan.marks)
	twice := map[uint64]bool{}
	for i := 1; i < len(v.scan.marks); i++ {
		if v.scan.marks[i] == v.scan.marks[i-1] {
			twice[v.scan.marks[i]] = true
		}
	}
	v.scan.marks = nil
	if len(twice) == 0 {
		return nil
	}
	first := map[tlog.Hash]uint64{}
	look := func(n uint64, h tlog.Hash) {
		if !twice[mark(h[:])] {
			return
		}
		if of, ok := first[h]; ok {
			v.find(Repeated, n, n+1, "a copy of entry %d", of)
			return
		}
		first[h] = n
	}
	for k := range v.scan.tiles {
		leaves, err := v.leaves(k)
		if err != nil {
			return err
		}
		for i, h := range leaves {
			look(uint64(k)*tileWidth+uint64(i), h)
		}
	}
	if !suspect { // else those may be signed entries that were renumbered
		for _, p := range v.pending {
			look(p.number, p.hash)
		}
	}
	return nil
}
