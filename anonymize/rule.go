package anonymize

import (
	"math"
	"slices"
	"time"

	"github.com/carrel-project/carrel/circulation"
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

// A rule is one compiled entry under records.
type rule struct {
	name, why string
	line      int

	groups, groupsNow, libraries, locations, types, methods []string // nil: not a condition
	fee                                                     feeCondition
	expired                                                 *period // patron-expired

	after    term
	since    since
	keepLast int
	perItem  bool
	atMost   *period
}

// matches reports whether the conditions hold that time does not change.
func (u *rule) matches(r *circulation.Record) bool {
	return in(u.groups, r.Group) && in(u.groupsNow, r.GroupNow) && in(u.libraries, r.Library) &&
		in(u.locations, r.Location) && in(u.types, r.Type) &&
		(u.fee == feeAny || (u.fee == feeHad) == (len(r.Fees) > 0)) &&
		(u.methods == nil || slices.ContainsFunc(r.Fees, func(f circulation.FeeSummary) bool { return slices.Contains(u.methods, f.Method) })) &&
		(u.expired == nil && u.since != sinceExpired || !r.BorrowerExpires.IsZero())
}

func in(list []string, s string) bool { return list == nil || slices.Contains(list, s) }

// from returns the instant at which a rule whose conditions match starts to hold.
func (u *rule) from(r *circulation.Record, c clock) int64 {
	if u.expired == nil {
		return always
	}
	return c.after(r.BorrowerExpires.UnixMicro(), *u.expired)
}

// base returns the instant from which the rule counts, and whether it is known.
func (u *rule) base(r *circulation.Record) (int64, bool) {
	switch u.since {
	case sinceExpired:
		return r.BorrowerExpires.UnixMicro(), true
	case sinceFeeClosed:
		latest := int64(always)
		for i := range r.Fees {
			if r.Fees[i].Closed.IsZero() {
				return 0, false
			}
			latest = max(latest, r.Fees[i].Closed.UnixMicro())
		}
		return latest, true
	}
	return instant(r.Ended)
}

// instant returns a time in microseconds, and whether it is known.
func instant(t time.Time) (int64, bool) { return t.UnixMicro(), !t.IsZero() }

// due returns the instant from which the rule unlinks.
func (u *rule) due(r *circulation.Record, c clock) int64 {
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
