package residue

import (
	"cmp"
	"slices"
)

// A rawTally counts what lies in bytes that belong to no row.
type rawTally struct {
	s     *scan
	name  string
	pages int64
	bytes int64
	found int
	group group
	hits  []hit
}

func (s *scan) rawTally(name string) *rawTally {
	return &rawTally{s: s, name: name, group: group{pairs: s.newBitset()}}
}

// page looks at one page.
func (a *rawTally) page(b []byte) {
	a.pages++
	a.bytes += int64(len(b))
	if a.look(b) {
		a.found++
	}
}

// look looks at the bytes of a page, or of part of it. It reports whether a pair is in them.
func (a *rawTally) look(b []byte) (found bool) {
	x := a.s.index
	a.s.found = x.m.find(b, a.s.found[:0])
	if len(a.s.found) < 2 {
		return false
	}
	a.hits = a.hits[:0]
	for _, o := range a.s.found {
		p := &x.m.pats[o.pat]
		if id := &x.idents[p.id]; id.origin == direct && (stands(b, o.at, id.text, &p.spelling) || a.abuts(b, o, id.text, p)) {
			a.hits = append(a.hits, hit{node: id.node, form: p.form, from: int32(o.at), to: int32(o.at + len(p.text))})
		}
	}
	slices.SortFunc(a.hits, func(x, y hit) int { return cmp.Compare(x.from, y.from) })
	for i := range a.hits {
		if a.s.people.isPerson(a.hits[i].node) {
			found = a.beside(i, 1) || found
			found = a.beside(i, -1) || found
		}
	}
	return found
}

// alone is how long an identifier must be to be taken for itself whatever stands before and after it.
const alone = 12

// abuts reports that an identifier may well be one although letters or digits come right before or after it: cells of a row lie one
// behind the other, without a sign in between, and here nobody knows any more where one ends.
func (a *rawTally) abuts(b []byte, o occurrence, id string, p *pattern) bool {
	if p.form == Base64 && !base64Exact(b, o.at, id, &p.spelling) {
		return false
	}
	if len(id) >= alone {
		return true
	}
	for _, other := range a.s.found {
		if other.at == o.at+len(p.text) || other.at+len(a.s.index.m.pats[other.pat].text) == o.at {
			return true
		}
	}
	return false
}

// beside looks for things on one side of a person, up to the next person: what lies beyond is theirs.
func (a *rawTally) beside(i, step int) (found bool) {
	p := &a.hits[i]
	for j := i + step; j >= 0 && j < len(a.hits); j += step {
		t := &a.hits[j]
		gap := max(t.from-p.to, p.from-t.to)
		if int(gap) > a.s.cfg.Near {
			return found
		}
		if a.s.people.isPerson(t.node) {
			if t.node == p.node {
				continue
			}
			return found
		}
		if gap < 0 {
			continue // one within the other
		}
		if n := a.s.people.pairs.find(p.node, t.node); n >= 0 {
			found = true
			if a.group.pairs.add(n) {
				a.group.n++
			}
			a.group.forms |= 1<<p.form | 1<<t.form
		}
	}
	return found
}

// end reports what was found and looked at.
func (a *rawTally) end() {
	if a.pages == 0 && a.bytes == 0 {
		return
	}
	a.s.report.Pages = append(a.s.report.Pages, Looked{Name: a.name, Pages: a.pages, Bytes: a.bytes})
	if a.group.n > 0 {
		a.s.findings = append(a.s.findings, Finding{Kind: Bytes, Table: a.name, Pairs: a.group.n, Pages: a.found, Forms: forms(a.group.forms), pairs: a.group.pairs})
	}
}
