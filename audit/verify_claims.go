package audit

import (
	"cmp"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// claims is what entries of the log say about others: that they were pruned, or lost.
type claims struct {
	pruned    []Range // of all claims together, joined
	collapsed uint64
	prunes    []vouched
	losses    []loss
}

// A loss is one that was declared: of the entries in a range, and so of the trees with sizes in it that were anchored until then.
type loss struct {
	Range
	number uint64
	order  map[int]int // by anchor: of the last checkpoint before it
}

// readClaims takes the events that count: they are in the tree as they were signed, and can say what they say.
func (v *verifier) readClaims() error {
	if err := v.findClaims(); err != nil {
		return err
	}
	signed := uint64(0) // size of the largest tree that is what was signed
	for i := range v.anchored {
		if a := &v.anchored[i]; a.state == agrees {
			signed = max(signed, a.size())
		}
	}
	if v.stored != nil && v.stored.state == agrees {
		signed = max(signed, v.stored.size())
	}
	var all []Range
	for _, e := range v.scan.events {
		if e.number >= v.tree.Size || !v.isLeaf(e) || v.Key == nil && e.number >= signed {
			continue
		}
		if false, why := falseClaim(e); false {
			v.find(FalseClaim, e.number, e.number+1, "%s", why)
			continue
		}
		if e.event.Action == Restore {
			for _, r := range e.event.Ranges {
				v.claims.losses = append(v.claims.losses, loss{r, e.number, v.orderOf(e.event.Object, e.number)})
			}
			continue
		}
		v.claims.prunes = append(v.claims.prunes, e)
		v.claims.collapsed = max(v.claims.collapsed, e.event.Collapsed)
		all = append(all, e.event.Ranges...)
	}
	if v.claims.collapsed > 0 {
		all = append(all, Range{0, v.claims.collapsed})
	}
	slices.SortFunc(all, func(a, b Range) int { return cmp.Compare(a.From, b.From) })
	v.claims.pruned = joinRanges(all)
	for _, l := range v.claims.losses {
		v.find(Declared, l.From, l.To, "entry %d says that these are lost", l.number)
	}
	return nil
}

// findClaims gives events that do not stand where they were signed the numbers that they had, so that somebody who renumbers entries does not make
// everything that was pruned look deleted as well.
func (v *verifier) findClaims() error {
	astray := map[tlog.Hash]int{}
	for i, e := range v.scan.events {
		if e.number >= v.tree.Size || !v.intact(e.number) {
			astray[e.hash] = i
		}
	}
	if len(astray) == 0 {
		return nil
	}
	look := func(n uint64, leaves []tlog.Hash) {
		for j, h := range leaves {
			if i, ok := astray[h]; ok {
				v.scan.events[i].number = n + uint64(j)
				delete(astray, h)
			}
		}
	}
	checked := -1
	for _, m := range v.scan.missing {
		for k := max(checked+1, int(m.From/tileWidth)); uint64(k)*tileWidth < m.To; k++ {
			leaves, err := v.leaves(k)
			if err != nil {
				return err
			}
			look(uint64(k)*tileWidth, leaves)
			checked = k
		}
	}
	for k := range v.scan.tiles {
		if odd := v.scan.tiles[k].odd; odd != nil {
			look(uint64(k)*tileWidth, odd.leaves)
		}
	}
	// What was not found keeps its number, at which it is not intact.
	return nil
}

// intact reports whether an entry that is there is the one that the tree has at its number.
func (v *verifier) intact(n uint64) bool {
	t := &v.scan.tiles[n/tileWidth]
	if t.odd != nil {
		i := n % tileWidth
		return t.odd.leaves != nil && t.odd.leaves[i] == t.odd.entries[i]
	}
	return t.known
}

// isLeaf reports whether the tree has an event at its number.
func (v *verifier) isLeaf(e vouched) bool {
	if v.scan.tiles[e.number/tileWidth].odd != nil {
		odd := v.scan.tiles[e.number/tileWidth].odd
		return odd.leaves != nil && odd.leaves[e.number%tileWidth] == e.hash
	}
	return v.intact(e.number)
}

// orderOf returns the place in each anchor of the checkpoint that is called so, after which the trail goes on without what was lost. Somebody who may append to
// an anchor may put it there again: it comes before all that cover the event which says what was lost.
func (v *verifier) orderOf(name string, number uint64) map[int]int {
	order := map[int]int{}
	for i := range v.anchored {
		if a := &v.anchored[i]; a.digest == name {
			order[a.anchor] = max(order[a.anchor], a.order)
		}
	}
	for i := range v.anchored {
		if a := &v.anchored[i]; a.state == agrees && a.size() > number {
			if last, ok := order[a.anchor]; ok && a.order <= last {
				order[a.anchor] = a.order - 1
			}
		}
	}
	return order
}

// falseClaim reports whether an event claims what no prune and no loss can be.
func falseClaim(e vouched) (bool, string) {
	ev := &e.event
	for _, r := range ev.Ranges {
		if ev.Action == Restore && r.From > e.number {
			return true, "a loss is claimed of entries that were not there yet"
		}
		if ev.Action == Prune && r.To > e.number {
			return true, "a prune claims entries that came after it"
		}
	}
	if ev.Action == Restore {
		return false, ""
	}
	switch {
	case ev.Collapsed > 0:
		whole := len(ev.Ranges) == 1 && ev.Ranges[0].To == ev.Collapsed && ev.Kind == ""
		if ev.Collapsed > e.number || ev.Collapsed%tileWidth != 0 || !whole {
			return true, "a prune claims a prefix that cannot have collapsed"
		}
		return false, ""
	case len(ev.Ranges) > 0 && (Class(ev.Kind) == Upkeep || !slices.Contains(Classes(), Class(ev.Kind))):
		return true, "a prune claims entries of a class that is never pruned"
	case ev.Before.After(ev.Time):
		return true, "a prune claims entries that were not old yet"
	case len(ev.Ranges) > 0 && ev.Before.IsZero():
		return true, "a prune claims entries of any age"
	}
	return false, ""
}

// covers returns how many of some entries are claimed.
func (c *claims) covers(r Range) (n uint64) {
	at, _ := slices.BinarySearchFunc(c.pruned, r.From, func(p Range, from uint64) int { return cmp.Compare(p.To, from+1) })
	for ; at < len(c.pruned) && c.pruned[at].From < r.To; at++ {
		n += min(r.To, c.pruned[at].To) - max(r.From, c.pruned[at].From)
	}
	return n
}

// explain reports whether a declared loss is why a checkpoint does not agree with the log.
func (c *claims) explain(t *signedTree) bool {
	return slices.ContainsFunc(c.losses, func(l loss) bool {
		last, ok := l.order[t.anchor]
		return ok && t.order <= last && l.From < t.size() && t.size() <= l.To
	})
}

// checkClaims looks at entries that are claimed to be pruned and are there: the prune was killed midway, or claims what it may not.
func (v *verifier) checkClaims() error {
	for _, c := range v.claims.prunes {
		if c.event.Collapsed > 0 { // of whatever is left there
			continue
		}
		for _, r := range subtract(c.event.Ranges, v.scan.missing) {
			err := v.pages(v.ctx, r.From, r.To, func(n uint64, body []byte) {
				o, err := open(body)
				if err == nil && v.intact(n) && (o.event.class() != Class(c.event.Kind) || !o.event.Time.Before(c.event.Before)) {
					v.find(FalseClaim, n, n+1, "entry %d claims to have pruned it, but it is of another class or not old enough", c.number)
				}
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// subtract returns what of some ranges is not in others. Both are in order.
func subtract(list, less []Range) (rest []Range) {
	for _, r := range list {
		at, _ := slices.BinarySearchFunc(less, r.From, func(p Range, from uint64) int { return cmp.Compare(p.To, from+1) })
		for ; r.From < r.To && at < len(less) && less[at].From < r.To; at++ {
			if less[at].From > r.From {
				rest = append(rest, Range{r.From, less[at].From})
			}
			r.From = max(r.From, less[at].To)
		}
		if r.From < r.To {
			rest = append(rest, r)
		}
	}
	return rest
}
