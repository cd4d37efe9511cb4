package oracle

import (
	"slices"
	"sort"
	"time"

	"github.com/carrel-project/carrel/circulation"
)

// A Policy is a retention policy as a test writes it down. [Policy.YAML] is its text.
type Policy struct {
	ID            string
	Zone, DayEnds string // "" is not written
	Match         string // "", first, shortest, longest
	Default       string // "", keep, unlink
	Groups        []Set
	Holds         []Hold
	ShortenTo     string // "", at once, a period
	ExtendTo      string // "", forever, a period
	Kinds         []KindRules

	clock *Clock
}

// A Set is a named set of groups.
type Set struct {
	Name    string
	Members []string
}

// A Hold is a legal hold written into the policy.
type Hold struct {
	Ref           string
	Items, Record []string
	Until         string // a date; "" has no end
}

// KindRules are the rules of one kind.
type KindRules struct {
	Kind  circulation.Kind
	Rules []Rule
}

// A Rule is one rule.
type Rule struct {
	Name                                                 string
	Group, GroupNow, Library, Location, Type, PaidMethod []string
	Fee                                                  string // "", none, had
	PatronExpired                                        string // "", a period
	After                                                string // a period, at once, never
	Since                                                string // "", ended, fee-closed, expired
	KeepLast                                             int    // 0: not written
	Per                                                  string // patron, item
	AtMost                                               string // "", a period
}

// An Answer is what the policy says of a record at an instant.
type Answer struct {
	Unlink  bool
	Rule    string
	Reasons []string // sorted
}

// A When is an instant, or one infinitely early or late.
type When struct {
	Always, Never bool
	T             time.Time
}

// Passed says whether the instant has come.
func (w When) Passed(at time.Time) bool { return !w.Never && (w.Always || !at.Before(w.T)) }

// Before says whether w is earlier than v.
func (w When) Before(v When) bool {
	switch {
	case w.Never || v.Always:
		return false
	case w.Always || v.Never:
		return true
	}
	return w.T.Before(v.T)
}

func latest(w, v When) When {
	if w.Before(v) {
		return v
	}
	return w
}

func since(t time.Time) When {
	if t.IsZero() {
		return When{Always: true}
	}
	return When{T: t}
}

// Use gives the policy a clock that others have already wound, which saves time.
func (p *Policy) Use(c *Clock) { p.clock = c }

// Clock returns the policy's clock.
func (p *Policy) Clock() *Clock {
	if p.clock == nil {
		p.clock = NewClock(p.Zone, p.DayEnds)
	}
	return p.clock
}

// Rules returns the rules of a kind, and whether the policy has any for it.
func (p *Policy) Rules(k circulation.Kind) ([]Rule, bool) {
	for _, kr := range p.Kinds {
		if kr.Kind == k {
			return kr.Rules, true
		}
	}
	return nil, false
}

// Decide says what happens to r at one instant.
func (p *Policy) Decide(r *circulation.Record, at time.Time) Answer {
	if r.Borrower == "" {
		return keep("", "already-unlinked")
	}
	exceptions := p.exceptions(r, at)
	rules, covered := p.Rules(r.Kind)
	if !covered {
		if len(exceptions) > 0 {
			return keep("", exceptions...)
		}
		return keep("", "switched-off")
	}
	a := p.rulesSay(r, rules, at)
	if len(exceptions) > 0 {
		return keep(a.Rule, exceptions...)
	}
	return a
}

func keep(rule string, reasons ...string) Answer {
	sort.Strings(reasons)
	return Answer{Rule: rule, Reasons: reasons}
}

func (p *Policy) exceptions(r *circulation.Record, at time.Time) (list []string) {
	add := func(holds bool, name string) {
		if holds && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	add(r.Status != circulation.Ended, "unfinished")
	add(r.Lost, "lost")
	add(r.ClaimedReturned, "claimed-returned")
	for _, f := range r.Fees {
		add(f.Status == circulation.FeeOpen, "open-fee")
		add(f.Status == circulation.FeeInProcess, "fee-in-process")
	}
	add(r.Hold, "legal-hold")
	for _, h := range p.Holds {
		names := slices.Contains(h.Items, r.Item) || slices.Contains(h.Record, r.ID)
		add(names && (h.Until == "" || at.Before(p.Clock().EndOf(h.Until))), "legal-hold")
	}
	return list
}

// rulesSay is the answer when there are no exceptions.
func (p *Policy) rulesSay(r *circulation.Record, rules []Rule, at time.Time) Answer {
	var matching []*Rule
	for i := range rules {
		if p.matches(&rules[i], r, at) {
			matching = append(matching, &rules[i])
		}
	}

	var chosen *Rule
	unlink := false
	switch {
	case len(matching) == 0:
	case p.Match == "shortest":
		for _, m := range matching {
			unlink = unlink || p.due(m, r).Passed(at)
			if chosen == nil || p.due(m, r).Before(p.due(chosen, r)) {
				chosen = m
			}
		}
	case p.Match == "longest":
		unlink = true
		for _, m := range matching {
			unlink = unlink && p.due(m, r).Passed(at)
			if chosen == nil || p.due(chosen, r).Before(p.due(m, r)) {
				chosen = m
			}
		}
	default:
		chosen = matching[0]
		unlink = p.due(chosen, r).Passed(at)
	}

	// What the chosen rule, or the default, says before the patron is asked.
	var a Answer
	var due When
	shortens, extends := false, false // may a wish change it?
	switch {
	case chosen != nil:
		due = p.due(chosen, r)
		a = Answer{Unlink: unlink, Rule: chosen.Name}
		if !unlink {
			a.Reasons = p.waitsFor(chosen, r, at)
		}
		shortens = chosen.After != "never" && (chosen.Since == "" || chosen.Since == "ended")
		extends = chosen.After != "never"
	case p.Default == "unlink":
		due = since(r.Ended)
		a = Answer{Unlink: due.Passed(at), Rule: "default"}
		if !a.Unlink {
			a.Reasons = []string{"period-not-passed"}
		}
		extends = true
	default:
		due = When{Never: true}
		a = keep("", "no-rule")
		shortens = true
	}

	if r.Kind != circulation.KindLoan && r.Kind != circulation.KindRequest && r.Kind != circulation.KindSharing {
		return a
	}
	if r.Wish == circulation.WishForget && p.ShortenTo != "" && shortens {
		var w When
		switch {
		case p.ShortenTo == "at once":
			w = since(r.Ended)
		case r.Ended.IsZero():
			return a
		default:
			w = latest(When{T: p.Clock().Add(r.Ended, p.ShortenTo)}, since(r.Ended))
		}
		if w.Before(due) {
			if w.Passed(at) {
				return Answer{Unlink: true, Rule: "patron-wish"}
			}
			return keep("patron-wish", "period-not-passed")
		}
	}
	if r.Wish == circulation.WishKeep && p.ExtendTo != "" && extends {
		if !r.WishSince.IsZero() && !r.Ended.IsZero() && r.Ended.Before(r.WishSince) {
			return a
		}
		var w When
		switch {
		case p.ExtendTo == "forever":
			w = When{Never: true}
		case r.Ended.IsZero():
			return a
		default:
			w = When{T: p.Clock().Add(r.Ended, p.ExtendTo)}
		}
		if due.Before(w) {
			if w.Passed(at) {
				return Answer{Unlink: true, Rule: "patron-wish"}
			}
			return keep("patron-wish", "patron-wish")
		}
	}
	return a
}

func (p *Policy) matches(m *Rule, r *circulation.Record, at time.Time) bool {
	in := func(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }
	if !p.inGroup(m.Group, r.Group) || !in(m.GroupNow, r.GroupNow) ||
		!in(m.Library, r.Library) || !in(m.Location, r.Location) || !in(m.Type, r.Type) {
		return false
	}
	if len(m.PaidMethod) > 0 {
		any := false
		for _, f := range r.Fees {
			any = any || slices.Contains(m.PaidMethod, f.Method)
		}
		if !any {
			return false
		}
	}
	if m.Fee == "none" && len(r.Fees) > 0 || m.Fee == "had" && len(r.Fees) == 0 {
		return false
	}
	if m.PatronExpired != "" {
		if r.BorrowerExpires.IsZero() || at.Before(p.Clock().Add(r.BorrowerExpires, m.PatronExpired)) {
			return false
		}
	}
	return m.Since != "expired" || !r.BorrowerExpires.IsZero()
}

// inGroup looks a group up; the name of a set stands for its members, every other name for itself.
func (p *Policy) inGroup(list []string, v string) bool {
	if len(list) == 0 {
		return true
	}
	for _, name := range list {
		codes := []string{name}
		for _, s := range p.Groups {
			if s.Name == name {
				codes = s.Members
			}
		}
		if slices.Contains(codes, v) {
			return true
		}
	}
	return false
}

// base is the instant that a rule counts from, and whether it is known.
func base(m *Rule, r *circulation.Record) (t time.Time, known bool) {
	switch m.Since {
	case "expired":
		t = r.BorrowerExpires
	case "fee-closed":
		for _, f := range r.Fees {
			if f.Status == circulation.FeeClosed && f.Closed.IsZero() {
				return time.Time{}, false
			}
			if f.Status == circulation.FeeClosed && f.Closed.After(t) {
				t = f.Closed
			}
		}
	default:
		t = r.Ended
	}
	return t, !t.IsZero()
}

// afterDue is when the rule's `after` has passed.
func (p *Policy) afterDue(m *Rule, r *circulation.Record) (w When) {
	b, known := base(m, r)
	switch {
	case m.After == "never":
		return When{Never: true}
	case m.After == "at once" && known:
		w = When{T: b}
	case m.After == "at once":
		w = When{Always: true}
	case known:
		w = When{T: p.Clock().Add(b, m.After)}
	default:
		return When{Never: true}
	}
	return latest(w, since(r.Ended))
}

// keepLastDue is when keep-last no longer holds the record.
func (p *Policy) keepLastDue(m *Rule, r *circulation.Record) When {
	newer := r.NewerByBorrower
	if m.Per == "item" {
		newer = r.NewerOfItem
	}
	b, known := base(m, r)
	switch {
	case newer >= m.KeepLast:
		return When{Always: true}
	case m.AtMost != "" && known:
		return When{T: p.Clock().Add(b, m.AtMost)}
	}
	return When{Never: true}
}

// due is when everything the rule asks for has passed.
func (p *Policy) due(m *Rule, r *circulation.Record) When {
	if m.Since == "fee-closed" {
		for _, f := range r.Fees {
			if f.Status != circulation.FeeClosed {
				return When{Never: true}
			}
		}
	}
	return latest(p.afterDue(m, r), p.keepLastDue(m, r))
}

// waitsFor is why a rule keeps a record.
func (p *Policy) waitsFor(m *Rule, r *circulation.Record, at time.Time) (reasons []string) {
	if m.After == "never" {
		return []string{"rule-says-never"}
	}
	_, known := base(m, r)
	switch {
	case p.afterDue(m, r).Passed(at):
	case m.Since == "fee-closed" && m.After != "at once" && !known:
		reasons = append(reasons, "no-fee-date")
	case m.Since == "fee-closed":
		reasons = append(reasons, "fee-period-not-passed")
	case m.Since == "expired":
		reasons = append(reasons, "patron-not-expired")
	case m.After != "at once" && !known:
		reasons = append(reasons, "no-end-date")
	default:
		reasons = append(reasons, "period-not-passed")
	}
	// The bound of keep-last is never before the end of `after`.
	if !latest(p.keepLastDue(m, r), When{Always: true}).Passed(at) {
		reasons = append(reasons, "newer-loans")
	}
	sort.Strings(reasons)
	return reasons
}

// FirstUnlink walks through time, day by day and over every instant that is written in the record, and
// returns the first at which the policy says unlink. The zero time with found: at any time.
func (p *Policy) FirstUnlink(r *circulation.Record) (first time.Time, found bool) {
	ancient := time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)
	if p.Decide(r, ancient).Unlink {
		return time.Time{}, true
	}
	for _, t := range p.Instants(r) {
		if p.Decide(r, t).Unlink {
			return t, true
		}
	}
	return time.Time{}, false
}

// Instants returns every instant at which the answer may change, and all day boundaries between.
func (p *Policy) Instants(r *circulation.Record) (list []time.Time) {
	dates, periods := p.dates(r), p.periods(r.Kind)
	if len(dates) == 0 {
		return nil
	}
	list = slices.Clone(dates)
	low, high, longest := dates[0], dates[0], time.Duration(0)
	for _, d := range dates {
		if d.Before(low) {
			low = d
		}
		if d.After(high) {
			high = d
		}
		for _, s := range periods {
			if MustPeriod(s).Exact() {
				list = append(list, p.Clock().Add(d, s))
			}
		}
	}
	for _, s := range periods {
		longest = max(longest, MustPeriod(s).Approx())
	}
	list = append(list, p.Clock().Boundaries(low.Add(-72*time.Hour), high.Add(longest+72*time.Hour))...)
	slices.SortFunc(list, time.Time.Compare)
	return list
}

func (p *Policy) dates(r *circulation.Record) (list []time.Time) {
	for _, t := range []time.Time{r.Ended, r.BorrowerExpires} {
		if !t.IsZero() {
			list = append(list, t)
		}
	}
	for _, f := range r.Fees {
		if !f.Closed.IsZero() {
			list = append(list, f.Closed)
		}
	}
	for _, h := range p.Holds {
		if h.Until != "" {
			list = append(list, p.Clock().EndOf(h.Until))
		}
	}
	return list
}

func (p *Policy) periods(k circulation.Kind) (list []string) {
	add := func(s string) {
		if s != "" && s[0] == 'P' {
			list = append(list, s)
		}
	}
	rules, _ := p.Rules(k)
	for _, m := range rules {
		add(m.After)
		add(m.AtMost)
		add(m.PatronExpired)
	}
	add(p.ShortenTo)
	add(p.ExtendTo)
	return list
}

// Turns returns the instants that the policy computes for r: where mistakes show.
func (p *Policy) Turns(r *circulation.Record) (list []time.Time) {
	list = p.dates(r)
	for _, d := range slices.Clone(list) {
		for _, s := range p.periods(r.Kind) {
			list = append(list, p.Clock().Add(d, s))
		}
	}
	return list
}
