package anonymize

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/internal/nearest"
)

func (p *Policy) warn(line int, format string, args ...any) {
	p.warnings = append(p.warnings, Warning{Line: line, Message: fmt.Sprintf(format, args...)})
}

// suspectGroup warns about a literal group that looks like a mistyped set or group of one.
func (p *Policy) suspectGroup(n *yaml.Node, name string) {
	var known []string
	for _, set := range p.groups {
		if slices.Contains(set.codes, name) {
			return
		}
		known = append(append(known, set.name), set.codes...)
	}
	if near := nearest.Word(name, known); near != "" {
		p.warn(n.Line, "group %q is not defined and is taken literally; did you mean %q?", name, near)
	}
}

// lint looks at the whole policy.
func (p *Policy) lint(root *yaml.Node) {
	line := func(key string) int {
		for i := 0; i+1 < len(root.Content); i += 2 {
			if root.Content[i].Value == key {
				return root.Content[i].Line
			}
		}
		return root.Line
	}
	for _, k := range circulation.Kinds() {
		rules := p.rules[k]
		if rules == nil {
			p.warn(line("records"), "no rules for %s: they name their borrower for ever", plural(k))
			continue
		}
		p.lintReach(k, rules)
		p.lintNights(rules)
		if p.keep[k] == nil && k != circulation.KindNotice {
			p.warn(line("records"), "keep-fields does not name %s: unlinked, they keep exact dates, group and statistics", plural(k))
		}
	}
	p.lintOutliving()
	p.lintStatistics(line("keep-fields"))
	slices.SortStableFunc(p.warnings, func(a, b Warning) int { return cmp.Compare(a.Line, b.Line) })
}

// lintReach finds rules that never decide, records that no rule reaches, and rules that may wait for ever.
func (p *Policy) lintReach(k circulation.Kind, rules []rule) {
	hasFees := k == circulation.KindLoan || k == circulation.KindFee
	hasPlace := k != circulation.KindFee && k != circulation.KindNotice
	var reachesFees, reachesRest bool // every record with fees, and without, matches some rule
	for i := range rules {
		u := &rules[i]
		switch {
		case !hasFees && (u.fee == feeHad || u.methods != nil), k == circulation.KindFee && u.fee == feeNone:
			p.warn(u.line, "rule %q can never match: its condition on fees does not fit %s", u.name, plural(k))
		case u.fee == feeNone && u.methods != nil:
			p.warn(u.line, "rule %q can never match: without a fee there is no payment method", u.name)
		case !hasPlace && u.list(ofLocation) != nil:
			p.warn(u.line, "rule %q can never match: %s have no location", u.name, plural(k))
		}
		for j := range rules[:i] {
			if p.match == matchFirst && rules[j].covers(u) {
				p.warn(u.line, "rule %q can never decide: rule %q before it matches all that it does", u.name, rules[j].name)
				break
			}
		}
		if u.keepLast > 0 && u.atMost == nil {
			p.warn(u.line, "rule %q has no at-most: the last %d loans of somebody who stops borrowing stay linked for ever", u.name, u.keepLast)
		}
		reachesFees = reachesFees || u.covers(&rule{fee: feeHad})
		reachesRest = reachesRest || u.covers(&rule{fee: feeNone})
	}
	if !(reachesRest && (reachesFees || !hasFees)) && !p.unlinkByDefault {
		p.warn(rules[len(rules)-1].line, "%s that match no rule are kept for ever; end with a rule without conditions, or say default: unlink", plural(k))
	}
}

// covers reports whether u matches, at any time, everything that o can match.
func (u *rule) covers(o *rule) bool {
	wider := func(a, b []string) bool {
		return a == nil || b != nil && !slices.ContainsFunc(b, func(s string) bool { return !slices.Contains(a, s) })
	}
	fee := u.fee == feeAny || u.fee == o.fee || u.fee == feeHad && o.methods != nil
	needsExpiry := u.since == sinceExpired
	hasExpiry := o.since == sinceExpired || o.expired != nil
	for of := range attributes {
		if !wider(u.list(of), o.list(of)) {
			return false
		}
	}
	return u.expired == nil && fee && (!needsExpiry || hasExpiry) && wider(u.methods, o.methods)
}

// lintNights finds rules that begin to hold when an account expires and then keep what another rule would
// have unlinked on an earlier night.
func (p *Policy) lintNights(rules []rule) {
	for i := range rules {
		u := &rules[i]
		if u.expired == nil || u.after.word == termAtOnce && u.keepLast == 0 {
			continue
		}
		others := p.unlinkByDefault || p.match == matchFirst && i+1 < len(rules) || p.match == matchLongest && len(rules) > 1
		if others {
			p.warn(u.line, "rule %q begins to hold when an account has expired and may keep what was due the night before: the outcome depends on which night the sweep runs; after: at once would not", u.name)
		}
	}
}

// lintOutliving finds records that name the borrower of an item, or of money, longer than its loan does.
func (p *Policy) lintOutliving() {
	longest := func(k circulation.Kind, with func(*rule) bool) (int64, int) {
		most, line := int64(-1), 0
		for i := range p.rules[k] {
			u := &p.rules[k][i]
			if with != nil && !with(u) {
				continue
			}
			if n := u.after.nominal(); n > most {
				most, line = n, u.line
			}
		}
		return most, line
	}
	plainLoans, _ := longest(circulation.KindLoan, func(u *rule) bool { return u.fee != feeHad })
	anyLoan, _ := longest(circulation.KindLoan, nil)
	if anyLoan < 0 {
		return
	}
	for _, k := range []circulation.Kind{circulation.KindRequest, circulation.KindSharing} {
		if n, line := longest(k, nil); n > max(plainLoans, 0) {
			p.warn(line, "%s outlive loans: who asked for an item on the day it was lent is who borrowed it", plural(k))
		}
	}
	if n, line := longest(circulation.KindFee, nil); n > anyLoan {
		p.warn(line, "fees outlive loans: a fee closed on the day an item came back tells who had it, even without a pointer")
	}
}

// nominal is how long the term is, as far as that can be said without a date.
func (m term) nominal() int64 {
	switch m.word {
	case termNever:
		return math.MaxInt64
	case termAtOnce:
		return 0
	}
	return m.period.nominal()
}

func (p *Policy) lintStatistics(line int) {
	for _, k := range circulation.Kinds() {
		keep := p.keep[k]
		if keep == nil || !keep.stays["statistics"] {
			continue
		}
		for _, word := range []string{"loaned", "due", "returned", "requested", "charged", "closed"} {
			if g := keep.dates[word]; g == grainKeep || g == grainDay {
				p.warn(line, "%s keep statistics beside %s to the day: together they single people out; coarsen the date to %s or leave the statistics out",
					plural(k), strconv.Quote(word), "month")
				break
			}
		}
	}
}
