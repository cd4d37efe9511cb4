package anonymize

import (
	"math"
	"time"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/internal/civil"
)

// Instants that no clock shows.
const (
	always  = math.MinInt64 // due whenever that is
	unknown = math.MaxInt64 // never, or not known yet
)

// A term is when something is due after its clock starts.
type term struct {
	word   termWord
	period period
}

type termWord uint8

const (
	termPeriod termWord = iota
	termAtOnce
	termNever // "never" for after, "forever" for extend-to
)

type since uint8

const (
	sinceEnded since = iota
	sinceFeeClosed
	sinceExpired
)

// waits is the reason to keep a record while the clock's period has not passed.
func (s since) waits() Reasons {
	return [...]Reasons{PeriodNotPassed, FeePeriodNotPassed, PatronNotExpired}[s]
}

type feeCondition uint8

const (
	feeAny feeCondition = iota
	feeNone
	feeHad
)

// A rule is one compiled entry under records. What every decision looks at stands first.
type rule struct {
	conditions []condition
	fee        feeCondition
	since      since
	perItem    bool
	after      term
	keepLast   int
	expired    *period // patron-expired
	atMost     *period
	methods    []string // payment-method; nil: not a condition

	name, why string
	line      int
}

// A condition is a list of values of which a record must have one.
type condition struct {
	of      attribute
	lengths uint64 // bit n%64 is set if some value has n bytes: most texts are turned away by it
	list    []string
}

func newCondition(of attribute, list []string) condition {
	c := condition{of: of, list: list}
	for _, s := range list {
		c.lengths |= 1 << (len(s) % 64)
	}
	return c
}

func (c *condition) holds(s string) bool {
	return c.lengths>>(uint(len(s))%64)&1 != 0 && in(c.list, s)
}

// An attribute is a text of a record that conditions look at.
type attribute uint8

const (
	ofGroup attribute = iota
	ofGroupNow
	ofLibrary
	ofLocation
	ofType

	attributes
)

var attributeWords = [attributes]string{"group", "group-now", "library", "location", "type"}

// attributesOf gathers the texts of a record, once for all rules.
func attributesOf(r *circulation.Record) [attributes]string {
	return [attributes]string{ofGroup: r.Group, ofGroupNow: r.GroupNow, ofLibrary: r.Library, ofLocation: r.Location, ofType: r.Type}
}

// list returns the values that an attribute may have; nil: any.
func (u *rule) list(of attribute) []string {
	for _, c := range u.conditions {
		if c.of == of {
			return c.list
		}
	}
	return nil
}

// matches reports whether the conditions hold that time does not change.
func (u *rule) matches(r *circulation.Record, texts *[attributes]string) bool {
	for i := range u.conditions {
		if c := &u.conditions[i]; !c.holds(texts[c.of]) {
			return false
		}
	}
	if u.fee != feeAny && (u.fee == feeHad) != (len(r.Fees) > 0) {
		return false
	}
	if (u.expired != nil || u.since == sinceExpired) && r.BorrowerExpires.IsZero() {
		return false
	}
	return u.methods == nil || u.paidBy(r)
}

func (u *rule) paidBy(r *circulation.Record) bool {
	for i := range r.Fees {
		if in(u.methods, r.Fees[i].Method) {
			return true
		}
	}
	return false
}

// in is slices.Contains in a form that the compiler inlines.
func in(list []string, s string) bool {
	for i := range list {
		if list[i] == s {
			return true
		}
	}
	return false
}

// from returns the instant at which a rule whose conditions match starts to hold.
func (u *rule) from(r *circulation.Record, c clock) int64 {
	if u.expired == nil {
		return always
	}
	expires, _ := instant(r.BorrowerExpires)
	return c.after(expires, *u.expired)
}

// base returns the instant from which the rule counts, and whether it is known.
func (u *rule) base(r *circulation.Record) (int64, bool) {
	switch u.since {
	case sinceExpired:
		return instant(r.BorrowerExpires)
	case sinceFeeClosed:
		latest := int64(always)
		for i := range r.Fees {
			if r.Fees[i].Closed.IsZero() {
				return 0, false
			}
			closed, _ := instant(r.Fees[i].Closed)
			latest = max(latest, closed)
		}
		return latest, true
	}
	return instant(r.Ended)
}

// settled reports whether all fees are closed.
func settled(r *circulation.Record) bool {
	for i := range r.Fees {
		if r.Fees[i].Status != circulation.FeeClosed {
			return false
		}
	}
	return true
}

// instant returns a time in microseconds, and whether it is known. What lies beyond the year 9999 is taken for its
// end: much later an integer would run over, and the far future become the past.
func instant(t time.Time) (int64, bool) {
	const end = 253402300799 // seconds
	if t.Unix() > end {
		return end * civil.Second, true
	}
	return t.UnixMicro(), !t.IsZero()
}

// due returns the instant from which the rule unlinks.
func (u *rule) due(r *circulation.Record, c clock) int64 {
	if u.since == sinceFeeClosed && !settled(r) {
		return unknown
	}
	base, known := u.base(r)
	due := u.passed(base, known, c)
	if due == unknown {
		return unknown
	}
	if u.waitsForNewer(r) {
		if u.atMost == nil || !known {
			return unknown
		}
		due = max(due, c.after(base, *u.atMost))
	}
	return notBeforeEnd(due, r)
}

// passed returns the instant at which `after` has passed.
func (u *rule) passed(base int64, known bool, c clock) int64 {
	switch {
	case u.after.word == termNever:
		return unknown
	case u.after.word == termAtOnce && known:
		return base
	case u.after.word == termAtOnce:
		return always
	case !known:
		return unknown
	}
	return c.after(base, u.after.period)
}

func (u *rule) waitsForNewer(r *circulation.Record) bool {
	if u.perItem {
		return r.NewerOfItem < u.keepLast
	}
	return r.NewerByBorrower < u.keepLast
}

// notBeforeEnd: dates decide dueness, and nothing is due before its own known end.
func notBeforeEnd(due int64, r *circulation.Record) int64 {
	if ended, known := instant(r.Ended); known {
		return max(due, ended)
	}
	return due
}

// waits says what a rule that is not due at t waits for.
func (u *rule) waits(r *circulation.Record, t int64, c clock) (why Reasons) {
	if u.after.word == termNever {
		return RuleSaysNever
	}
	base, known := u.base(r)
	if !known && u.after.word == termPeriod {
		why |= NoEndDate
		if u.since == sinceFeeClosed {
			why = NoFeeDate
		}
	} else if t < notBeforeEnd(u.passed(base, known, c), r) {
		why |= u.since.waits()
	}
	if u.waitsForNewer(r) && (u.atMost == nil || !known || t < c.after(base, *u.atMost)) {
		why |= NewerLoans
	}
	return why
}
