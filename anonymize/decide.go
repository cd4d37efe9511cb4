package anonymize

import (
	"time"

	"github.com/carrel-project/carrel/circulation"
)

// The names of what decides when no rule of the file does. Rules may not be called so.
const (
	RuleDefault    = "default"     // default: unlink, and no rule matched
	RulePatronWish = "patron-wish" // the borrower's wish, within patron-may
)

// Decide says whether r is to be unlinked at the given time. It is pure: it reads nothing but its
// arguments, changes nothing and does not allocate. Exceptions come first, then the rules, then the
// borrower's wish.
func (p *Policy) Decide(r *circulation.Record, at time.Time) Decision {
	if r.Borrower == "" {
		return Decision{Reasons: AlreadyUnlinked}
	}
	now := at.UnixMicro()
	held, release := p.held(r, now)
	rules := p.rules[kindIndex(r.Kind)]
	if rules == nil {
		if held == 0 {
			held = SwitchedOff
		}
		return Decision{Reasons: held}
	}
	q := question{rules: rules, record: r, texts: attributesOf(r), now: now, release: release}
	var v verdict
	first := p.judge(&q, &v)
	d := Decision{Rule: v.rule, Reasons: held, Unlink: held == 0 && v.due <= now}
	if !d.Unlink && held == 0 {
		if d.Reasons = v.why; v.by != nil {
			d.Reasons = v.by.waits(r, now, p.clock)
		}
	}
	if first != always && first != unknown {
		d.EligibleAt = time.UnixMicro(first).UTC()
	}
	return d
}

func kindIndex(k circulation.Kind) int {
	if k > circulation.KindNotice {
		return 0
	}
	return int(k)
}

// A verdict is what the rules and the wish say at one instant, exceptions aside.
type verdict struct {
	rule string  // what is reported
	by   *rule   // the rule of the file, when it is one: it knows what it waits for
	why  Reasons // else, what is waited for
	due  int64   // unlink from here on
}

// A question is what has to be judged.
type question struct {
	rules   []rule
	record  *circulation.Record
	texts   [attributes]string
	now     int64
	release int64 // when the last exception is known to end
}

// judge sets v to the verdict now and returns the first instant over all time at which Decide says unlink.
func (p *Policy) judge(q *question, v *verdict) (first int64) {
	if p.match == matchFirst {
		// Most accounts have not expired. What falls due before the expiry cannot depend on rules that begin to
		// hold after it, so they are looked at only when needed.
		first = p.byOrder(q, v, false)
		expires, known := instant(q.record.BorrowerExpires)
		if p.timed && known && !(q.now < expires && (first < expires || q.release == unknown)) {
			first = p.byOrder(q, v, true)
		}
	} else {
		first = p.byExtreme(q, v)
	}
	if q.release == unknown {
		first = unknown
	}
	return first
}

// byOrder judges by the first rule that holds. Each rule has the time from where it starts to hold to
// where one before it does; the first that falls due within its time is the answer. Unless timed is set, rules
// that begin to hold when an account has expired are passed over.
func (p *Policy) byOrder(q *question, v *verdict, timed bool) (first int64) {
	first = unknown
	r := q.record
	until, decided := int64(unknown), false
	for i := range q.rules {
		u := &q.rules[i]
		if u.expired != nil && !timed || !u.matches(r, &q.texts) {
			continue
		}
		w, from := verdict{rule: u.name, by: u, due: u.due(r, p.clock)}, u.from(r, p.clock)
		if r.Wish != circulation.WishNone { // else it need not be copied twice
			w = p.heed(w, r)
		}
		if !decided && from <= q.now {
			*v, decided = w, true
		}
		if t := max(w.due, from, q.release); t < until {
			first = min(first, t)
		}
		if until = min(until, from); until == always {
			return first
		}
	}
	w := p.heed(p.unmatched(r), r)
	if !decided {
		*v = w
	}
	if t := max(w.due, q.release); t < until {
		first = min(first, t)
	}
	return first
}

// byExtreme judges by the rule with the earliest or the latest due time. The answer can only change where a
// rule starts to hold, something falls due or a hold ends, so it is enough to look there.
func (p *Policy) byExtreme(q *question, v *verdict) (first int64) {
	r := q.record
	w, timed := p.extreme(q, q.now)
	*v = w
	if !timed {
		if v.due == unknown {
			return unknown
		}
		return max(v.due, q.release)
	}
	first = unknown
	try := func(t int64) {
		if t = max(t, q.release); t < first {
			if w, _ := p.extreme(q, t); w.due <= t {
				first = t
			}
		}
	}
	before, _ := p.extreme(q, always) // before any account has expired long enough
	try(before.due)
	ended, known := instant(r.Ended)
	for _, wish := range [...]*term{p.shortenTo, p.extendTo} {
		if wish != nil {
			try(wish.from(ended, known, p.clock))
		}
	}
	for i := range q.rules {
		if u := &q.rules[i]; u.matches(r, &q.texts) {
			try(u.from(r, p.clock))
			try(u.due(r, p.clock))
		}
	}
	return first
}

// extreme returns the verdict at instant t and whether another rule may decide at another instant.
func (p *Policy) extreme(q *question, t int64) (v verdict, timed bool) {
	r := q.record
	for i := range q.rules {
		u := &q.rules[i]
		if !u.matches(r, &q.texts) {
			continue
		}
		if u.expired != nil {
			timed = true
			if t < u.from(r, p.clock) {
				continue
			}
		}
		due := u.due(r, p.clock)
		if v.by == nil || p.match == matchShortest && due < v.due || p.match == matchLongest && due > v.due {
			v = verdict{rule: u.name, by: u, due: due}
		}
	}
	if v.by == nil {
		v = p.unmatched(r)
	}
	return p.heed(v, r), timed
}

// unmatched is the verdict when no rule holds.
func (p *Policy) unmatched(r *circulation.Record) verdict {
	if p.unlinkByDefault {
		return verdict{rule: RuleDefault, due: notBeforeEnd(always, r), why: PeriodNotPassed}
	}
	return verdict{due: unknown, why: NoRule}
}

// heed applies the borrower's wish, within patron-may, to what the rules say.
func (p *Policy) heed(v verdict, r *circulation.Record) verdict {
	if r.Wish == circulation.WishNone || r.Kind == circulation.KindFee || r.Kind == circulation.KindNotice {
		return v
	}
	ended, known := instant(r.Ended)
	switch {
	case r.Wish == circulation.WishForget && p.shortenTo != nil:
		// Only the clock of the reading history is the borrower's to shorten: not that of money or of the account.
		if v.by != nil && (v.by.since != sinceEnded || v.by.after.word == termNever) {
			return v
		}
		if due := p.shortenTo.from(ended, known, p.clock); due < v.due {
			return verdict{rule: RulePatronWish, due: due, why: PeriodNotPassed}
		}
	case r.Wish == circulation.WishKeep && p.extendTo != nil && v.rule != "":
		if known && r.Ended.Before(r.WishSince) { // a choice applies from its date
			return v
		}
		due := p.extendTo.from(ended, known, p.clock)
		if !known && p.extendTo.word == termPeriod {
			return v // no end to count from: the rule says what that means
		}
		if due > v.due {
			return verdict{rule: RulePatronWish, due: due, why: PatronWish}
		}
	}
	return v
}

// from returns the instant at which the term has passed since base.
func (m term) from(base int64, known bool, c clock) int64 {
	switch {
	case m.word == termNever:
		return unknown
	case m.word == termAtOnce && known:
		return base
	case m.word == termAtOnce:
		return always
	case !known:
		return unknown
	}
	return c.after(base, m.period)
}

// held returns the exceptions that protect r at instant t, and the instant at which the last of them is
// known to end: always when none holds, unknown when one waits for a fact.
func (p *Policy) held(r *circulation.Record, t int64) (why Reasons, release int64) {
	if r.Status != circulation.Ended {
		why |= Unfinished
	}
	if r.Lost {
		why |= Lost
	}
	if r.ClaimedReturned {
		why |= ClaimedReturned
	}
	for i := range r.Fees {
		switch r.Fees[i].Status {
		case circulation.FeeClosed:
		case circulation.FeeInProcess:
			why |= FeeInProcess
		default: // what is not known to be settled is owed
			why |= OpenFee
		}
	}
	if r.Hold {
		why |= LegalHold
	}
	release = always
	if why != 0 {
		release = unknown
	}
	if len(p.heldItems) > 0 || len(p.heldRecords) > 0 {
		until := int64(always)
		if u, ok := p.heldItems[r.Item]; ok && r.Item != "" {
			until = u
		}
		if u, ok := p.heldRecords[r.ID]; ok {
			until = max(until, u)
		}
		if t < until {
			why |= LegalHold
		}
		release = max(release, until)
	}
	return why, release
}
