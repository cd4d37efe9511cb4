package synth

import (
	"time"

	"github.com/carrel-project/carrel/circulation"
)

// A patron is what a library knows of somebody who is not there.
type patron struct {
	id         circulation.Borrower
	group      group
	department uint8
	staff      bool
	sponsored  bool
	now        string // the group today
	loans      int
	first, end int32 // days since 1970 between which they borrow
	expires    int32
	wish       circulation.Wish
	wishSince  int32 // zero: always
}

func newPatron(seed uint64, n int, from, until int32) patron {
	var s stream
	s.reset(seed, forPatron, uint64(n), 0)
	p := patron{id: circulation.Borrower(s.token(s.token(nil, 8), 8)), group: group(s.pick(groupShares()))}
	t := p.group.traits()
	p.now, p.department = t.name, uint8(s.below(departmentCount))
	p.loans = loans(&s)

	// The account begins somewhere such that half a year of it or more lies in the years asked for.
	span := int32(t.years * 365)
	earliest, latest := from-span+leastDays, until-leastDays
	start := earliest + int32(s.below(uint64(latest-earliest)))
	p.first, p.end = max(start, from), min(start+span, until)
	e := time.Unix(int64(start+span)*day, 0).UTC()
	if e.Month() > time.June {
		e = e.AddDate(1, 0, 0)
	}
	p.expires = int32(time.Date(e.Year(), time.June, accountsEndDay, 0, 0, 0, 0, time.UTC).Unix() / day)

	if p.group <= graduate && p.expires < until && s.chance(0.25) {
		p.now = "alumni"
	}
	if p.group == other {
		p.staff, p.sponsored = s.chance(0.2), s.chance(0.1)
	}
	switch u := s.float(); {
	case u < 0.10:
		p.wish = circulation.WishKeep
	case u < 0.15:
		p.wish = circulation.WishForget
	}
	if p.wish != circulation.WishNone && s.chance(0.5) {
		p.wishSince = p.first + int32(s.below(uint64(p.end-p.first)))
	}
	return p
}

func loans(s *stream) int {
	for {
		if n := exp(s.normal(loansMu, loansSigma)); n <= loansMost {
			return max(1, int(n+0.5))
		}
	}
}

const departmentCount = 12

func departments() [departmentCount]string {
	return [...]string{"dept-art", "dept-biology", "dept-chemistry", "dept-economics", "dept-english", "dept-history",
		"dept-languages", "dept-law", "dept-math", "dept-music", "dept-physics", "dept-psychology"}
}

func (p *patron) account() circulation.Account {
	a := circulation.Account{Borrower: p.id, Group: p.now, Expires: dayTime(p.expires), Wish: p.wish}
	if p.wishSince != 0 {
		a.WishSince = dayTime(p.wishSince)
	}
	return a
}

func dayTime(d int32) time.Time { return time.Unix(int64(d)*day, 0).UTC() }

// A calendar knows how much is borrowed on each day from the first.
type calendar struct {
	first int32
	sums  []uint64 // sums[i]: the weights of all days before first+i
}

func newCalendar(from, until int32) calendar {
	months, weekdays := monthShares(), weekdayShares()
	c := calendar{from, make([]uint64, 1, until-from+1)}
	for d := from; d < until; d++ {
		t := dayTime(d)
		inMonth := uint64(time.Date(t.Year(), t.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day())
		weight := months[t.Month()-1] * weekdays[t.Weekday()] * 1000 / inMonth
		c.sums = append(c.sums, c.sums[len(c.sums)-1]+weight)
	}
	return c
}

// day draws a day from first to before end.
func (c *calendar) day(s *stream, first, end int32) int32 {
	low, high := int(first-c.first), int(end-c.first)
	at := c.sums[low] + s.below(c.sums[high]-c.sums[low])
	for high-low > 1 {
		if m := (low + high) / 2; c.sums[m] <= at {
			low = m
		} else {
			high = m
		}
	}
	return c.first + int32(low)
}
