package audit

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Somebody who removes or inserts a row and renumbers the rest leaves no entry after it where it was signed. So entries that do not agree
// with the tree are looked for elsewhere in it, and the two sequences, of entries that are there and of leaves, are aligned as diff does it: the
// longest part that is in the same order in both is what was left alone; what is not in it was inserted, deleted, edited or moved.

// A spot is an entry that is there, or a leaf, with the hash that it has.
type spot struct {
	at    uint64 // its number
	hash  tlog.Hash
	other int  // place in the other list of the one with the same hash; -1: none
	kept  bool // it is in the longest part
}

// A run is consecutive numbers of entries that have the hashes of consecutive leaves.
type run struct{ entry, leaf, length uint64 }

// checkEntries names the entries that are not what was signed.
func (v *verifier) checkEntries() error {
	entries, leaves, err := v.suspects()
	if err != nil {
		return err
	}
	if err := v.checkRepeated(len(leaves) > 0); err != nil {
		return err
	}
	edits := map[uint64]tlog.Hash{}
	tail := v.tree.Size // from here on the end of the log is gone
	if len(leaves) > 0 {
		for _, p := range v.pending {
			entries = append(entries, spot{at: p.number, hash: p.hash, other: -1})
		}
		match(entries, leaves)
		for _, e := range entries[len(entries)-len(v.pending):] {
			if e.other >= 0 {
				v.result.Pending--
			}
		}
		runs := v.runs(entries, leaves)
		longest(runs, func(r run) { keep(r, entries, leaves) })
		tail = v.name(runs, entries, leaves, edits)
	}
	if err := v.checkEdits(edits); err != nil {
		return err
	}
	// Tiles of which nothing is left.
	for _, m := range v.unclaimed() {
		for from := m.From; from < m.To; from = min(m.To, from/tileWidth*tileWidth+tileWidth) {
			if t := &v.scan.tiles[from/tileWidth]; t.known || t.odd != nil && t.odd.leaves != nil {
				continue
			}
			to := min(m.To, from/tileWidth*tileWidth+tileWidth)
			if m.To == v.tree.Size && v.scan.end <= m.From {
				tail = min(tail, m.From)
				continue
			}
			v.find(Missing, from, to, deleted)
		}
	}
	if end := max(v.tree.Size, v.scan.lost); tail < end {
		if v.scan.end == 0 {
			v.find(Lost, 0, end, "the whole log is gone")
		} else {
			v.find(Cut, tail, end, "the end of the log was cut off")
		}
	}
	return nil
}

// checkEdits names the leaves in place of which something else stands. Where the tile above does not agree with the leaf hashes, these may be what
// was changed; or both were, and then it cannot be said which.
func (v *verifier) checkEdits(edits map[uint64]tlog.Hash) error {
	for k := range v.scan.tiles {
		t := &v.scan.tiles[k]
		if len(v.upper) < 2 || k >= len(v.upper[1].right) || !t.known || !v.upper[1].known[k] || v.upper[1].right[k] == t.root {
			continue
		}
		leaves, err := v.leaves(k)
		if err != nil {
			return err
		}
		from := uint64(k) * tileWidth
		if len(leaves) == tileWidth {
			other := slices.Clone(leaves)
			for i := range other {
				if h, ok := edits[from+uint64(i)]; ok {
					other[i] = h
				}
			}
			if right, ok := reconcile(leaves, other, func(h []tlog.Hash) bool { return fold(h) == v.upper[1].right[k] }); ok {
				for i := range right {
					if n := from + uint64(i); right[i] != leaves[i] {
						delete(edits, n)
						v.find(Tampered, n, n+1, changed)
					}
				}
				continue
			}
		}
		v.find(Edited, from, from+tileWidth, "entries and their leaf hashes were changed: somewhere among these")
	}
	for n := range edits {
		v.find(Edited, n, n+1, "the entry was changed")
	}
	return nil
}

const deleted = "the entry was deleted"

// unclaimed returns the numbers without an entry of which no prune says that they are gone.
func (v *verifier) unclaimed() []Range { return subtract(v.scan.missing, v.claims.pruned) }

// suspects returns the entries in the tree that do not agree with it, and the leaves that have no entry of their own, both by number.
func (v *verifier) suspects() (entries, leaves []spot, err error) {
	for k := range v.scan.tiles {
		odd := v.scan.tiles[k].odd
		if odd == nil || odd.leaves == nil {
			continue
		}
		for i := range odd.leaves {
			if odd.there[i] && odd.entries[i] != odd.leaves[i] {
				n := uint64(k)*tileWidth + uint64(i)
				entries = append(entries, spot{at: n, hash: odd.entries[i], other: -1})
				leaves = append(leaves, spot{at: n, hash: odd.leaves[i], other: -1})
			}
		}
	}
	for _, m := range v.unclaimed() {
		for n := m.From; n < m.To; {
			hashes, err := v.leaves(int(n / tileWidth))
			if err != nil {
				return nil, nil, err
			}
			end := min(m.To, n/tileWidth*tileWidth+tileWidth)
			for ; n < end; n++ {
				if hashes != nil {
					leaves = append(leaves, spot{at: n, hash: hashes[n%tileWidth], other: -1})
				}
			}
		}
	}
	slices.SortFunc(leaves, func(a, b spot) int {
		if a.at < b.at {
			return -1
		}
		return 1
	})
	return entries, leaves, nil
}

// match finds for entries the leaves with their hashes. Several entries may be the same to the byte; then the one goes to which the
// entries around it point.
func match(entries, leaves []spot) {
	byHash := make(map[tlog.Hash][]int, len(leaves))
	for i, l := range leaves {
		byHash[l.hash] = append(byHash[l.hash], i)
	}
	offset, candidate := int64(0), int64(0)
	for i := range entries {
		e := &entries[i]
		list := byHash[e.hash]
		best, closest := -1, int64(0)
		for _, j := range list {
			if leaves[j].other >= 0 {
				continue
			}
			d := int64(leaves[j].at) - int64(e.at)
			if away := max(d-offset, offset-d); best < 0 || away < closest {
				best, closest = j, away
			}
			if len(list) > 64 && d > offset {
				break // they are in order
			}
		}
		if best < 0 {
			continue
		}
		e.other, leaves[best].other = best, i
		d := int64(leaves[best].at) - int64(e.at)
		if d == candidate {
			offset = d
		}
		candidate = d
		if len(list) > 64 { // drop those in front that are taken, so that many of the same cost no more than a few
			for len(list) > 0 && leaves[list[0]].other >= 0 {
				list = list[1:]
			}
			byHash[e.hash] = list
		}
	}
}

// runs returns what stands in both sequences, by the numbers of the entries: those that were found elsewhere, and between them those that
// are where they were.
func (v *verifier) runs(entries, leaves []spot) (list []run) {
	add := func(r run) {
		if last := len(list) - 1; last >= 0 {
			if p := &list[last]; p.entry+p.length == r.entry && p.leaf+p.length == r.leaf {
				p.length += r.length
				return
			}
		}
		list = append(list, r)
	}
	at := uint64(0)
	for i, j := 0, 0; ; {
		// The next number that is not where it was: as an entry, or as a leaf.
		next := v.tree.Size
		if j < len(leaves) {
			next = leaves[j].at
		}
		if next > at {
			add(run{at, at, next - at})
		}
		for ; i < len(entries) && (entries[i].at <= next || j >= len(leaves)); i++ {
			if e := entries[i]; e.other >= 0 {
				add(run{e.at, leaves[e.other].at, 1})
			}
		}
		if j >= len(leaves) {
			return list
		}
		at = next + 1
		j++
	}
}

// longest calls keep for the runs of the heaviest sequence that ascends in both, and takes the others out of the list.
func longest(runs []run, keep func(run)) {
	order := make([]int, len(runs)) // by leaf
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		if runs[a].leaf < runs[b].leaf {
			return -1
		}
		return 1
	})
	rank := make([]int, len(runs))
	for at, i := range order {
		rank[i] = at
	}
	weight := make([]uint64, len(runs))
	before := make([]int, len(runs))
	tree := make([]int, len(runs)+1) // Fenwick tree of the heaviest by rank: 1 + its place; 0: none
	heaviest := -1
	for i, r := range runs {
		best := -1
		for at := rank[i]; at > 0; at -= at & -at {
			if c := tree[at] - 1; c >= 0 && (best < 0 || weight[c] > weight[best]) {
				best = c
			}
		}
		if weight[i], before[i] = r.length, best; best >= 0 {
			weight[i] += weight[best]
		}
		for at := rank[i] + 1; at <= len(runs); at += at & -at {
			if c := tree[at] - 1; c < 0 || weight[i] > weight[c] {
				tree[at] = i + 1
			}
		}
		if heaviest < 0 || weight[i] > weight[heaviest] {
			heaviest = i
		}
	}
	chosen := map[int]bool{}
	for i := heaviest; i >= 0; i = before[i] {
		chosen[i] = true
		keep(runs[i])
	}
	for i := range runs {
		if !chosen[i] {
			runs[i].length = 0
		}
	}
}

// keep marks what is in a run.
func keep(r run, entries, leaves []spot) {
	mark := func(list []spot, from uint64) {
		i, _ := slices.BinarySearchFunc(list, from, func(s spot, n uint64) int {
			if s.at < n {
				return -1
			}
			return 1
		})
		for ; i < len(list) && list[i].at < from+r.length; i++ {
			list[i].kept = true
		}
	}
	mark(entries, r.entry)
	mark(leaves, r.leaf)
}

// name says what happened between the runs that were left alone. It puts into edits what stands in place of leaves, and returns the number from which
// on the end of the log is gone.
func (v *verifier) name(runs []run, entries, leaves []spot, edits map[uint64]tlog.Hash) (tail uint64) {
	moved := map[uint64]string{}
	endEntry, endLeaf := uint64(0), uint64(0) // of the run before
	tail = v.tree.Size
	i, j := 0, 0
	gap := func(toEntry, toLeaf uint64, last bool) {

		var foreign []spot
		for ; i < len(entries) && entries[i].at < toEntry; i++ {
			e := entries[i]
			original := e.at - endEntry + endLeaf
			switch {
			case e.kept:
			case e.other >= 0:
				signed := leaves[e.other].at
				if original < toLeaf { // where something else was signed
					moved[original] = fmt.Sprintf("here stands what was signed as number %d", signed)
				}
				if _, ok := moved[signed]; !ok {
					moved[signed] = fmt.Sprintf("what was signed here stands at number %d", e.at)
				}
			case last && original >= v.tree.Size: // it is a pending one
			default:
				foreign = append(foreign, e)
			}
		}
		var gone []spot
		for ; j < len(leaves) && leaves[j].at < toLeaf; j++ {
			if l := leaves[j]; !l.kept && l.other < 0 {
				gone = append(gone, l)
			}
		}
		taken := make([]bool, len(gone))
		place := func(n uint64, hash tlog.Hash) bool {
			at, ok := slices.BinarySearchFunc(gone, n, func(s spot, n uint64) int {
				switch {
				case s.at < n:
					return -1
				case s.at > n:
					return 1
				}
				return 0
			})
			if ok = ok && !taken[at]; ok {
				taken[at], edits[n] = true, hash
			}
			return ok
		}
		var rest []spot
		for _, f := range foreign {
			if !place(f.at-endEntry+endLeaf, f.hash) {
				rest = append(rest, f)
			}
		}
		next := 0
		for _, f := range rest {
			if !last && place(f.at-toEntry+toLeaf, f.hash) {
				continue
			}
			for next < len(gone) && (taken[next] || v.claims.covers(Range{gone[next].at, gone[next].at + 1}) > 0) {
				next++
			}
			if next < len(gone) {
				place(gone[next].at, f.hash)
				continue
			}
			v.find(Inserted, f.at, f.at+1, "the entry was put between those that were signed")
		}
		var lost []Range
		for at, g := range gone {
			if r := (Range{g.at, g.at + 1}); !taken[at] && v.claims.covers(r) == 0 {
				lost = joinRanges(append(lost, r))
			}
		}
		for _, r := range lost {
			if last && r.To == v.tree.Size {
				tail = r.From
				continue
			}
			v.find(Missing, r.From, r.To, deleted)
		}
	}
	for _, r := range runs {
		if r.length == 0 {
			continue
		}
		gap(r.entry, r.leaf, false)
		endEntry, endLeaf = r.entry+r.length, r.leaf+r.length
	}
	gap(1<<63, v.tree.Size, true)
	for _, n := range slices.Sorted(maps.Keys(moved)) {
		v.find(Moved, n, n+1, "%s", moved[n])
	}
	return tail
}
