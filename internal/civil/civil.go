// Package civil does arithmetic on what the clock on the wall says, in one time zone, with both
// questions that daylight saving raises answered the same way everywhere: a local time that is
// skipped is the first instant after the gap, one that occurs twice is the later. The standard
// library's time.Date leaves both open and answers them differently from zone to zone.
//
// All instants are microseconds since 1970-01-01T00:00:00Z, all days are days since 1970-01-01.
package civil

import (
	"time"
)

const (
	Second = int64(time.Second / time.Microsecond)
	Day    = 24 * 60 * 60 * Second
)

// A Zone is a time zone with its transitions laid out in a table, so that a conversion costs
// nanoseconds. It is immutable and safe for concurrent use. Outside the years 1900 to 2400 the
// first and the last known offset hold.
type Zone struct {
	loc     *time.Location
	starts  []int64 // instant at which period i begins; starts[0] is the beginning of time
	offsets []int64 // microseconds east of UTC in period i
	index   []int32 // the period in force at the beginning of each stretch of the table
}

// A stretch of the index is a power of two of microseconds, about 1.1 years: a lookup shifts and steps at
// most a few periods on.
const stretchBits = 45

// UTC is the zone without transitions.
func UTC() *Zone { return &Zone{loc: time.UTC, starts: []int64{minInstant}, offsets: []int64{0}} }

const minInstant = -1 << 63

// In returns the Zone of loc; nil means UTC. Laying out the table takes a fraction of a millisecond:
// do it once, not per record.
func In(loc *time.Location) *Zone {
	if loc == nil || loc == time.UTC {
		return UTC()
	}
	t := time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC).In(loc)
	_, offset := t.Zone()
	z := &Zone{loc: loc, starts: []int64{minInstant}, offsets: []int64{int64(offset) * Second}}
	for probe := t; ; {
		_, end := probe.ZoneBounds()
		if end.IsZero() || end.Year() > 2400 {
			break
		}
		// Past its last table entry the time package takes every year for 365 days long, so that on the last day
		// of a leap year the end of the period is not ahead of us.
		if !end.After(t) {
			probe = probe.Add(24 * time.Hour)
			continue
		}
		t, probe = end, end
		if _, o := t.Zone(); int64(o)*Second != z.offsets[len(z.offsets)-1] {
			z.starts = append(z.starts, t.UnixMicro())
			z.offsets = append(z.offsets, int64(o)*Second)
		}
	}
	first, last := z.starts[min(1, len(z.starts)-1)]>>stretchBits, z.starts[len(z.starts)-1]>>stretchBits
	for s, i := first, 0; len(z.starts) > 1 && s <= last; s++ {
		for i+1 < len(z.starts) && z.starts[i+1] <= s<<stretchBits {
			i++
		}
		z.index = append(z.index, int32(i))
	}
	return z
}

// Location returns the zone as the time package knows it.
func (z *Zone) Location() *time.Location { return z.loc }

// period returns the index of the period that instant t lies in.
func (z *Zone) period(t int64) int {
	if len(z.starts) == 1 {
		return 0
	}
	i, s := 0, t>>stretchBits-z.starts[1]>>stretchBits
	switch {
	case s < 0:
		return 0
	case s >= int64(len(z.index)):
		return len(z.starts) - 1
	}
	for i = int(z.index[s]); i+1 < len(z.starts) && z.starts[i+1] <= t; {
		i++
	}
	return i
}

// Local splits instant t into the local day and the microseconds since local midnight on the clock.
func (z *Zone) Local(t int64) (day, clock int64) {
	return split(t + z.offsets[z.period(t)])
}

func split(wall int64) (day, clock int64) {
	day = wall / Day
	if clock = wall % Day; clock < 0 {
		day, clock = day-1, clock+Day
	}
	return day, clock
}

// Instant returns the instant at which the clock shows the given time on the given day: the later
// one when it does so twice, the first instant after the gap when it never does.
func (z *Zone) Instant(day, clock int64) int64 {
	wall := day*Day + clock
	if len(z.starts) == 1 {
		return wall - z.offsets[0]
	}
	// No offset exceeds a day, so the period that holds a day later is the last candidate.
	for i := z.period(wall + Day); ; i-- {
		t := wall - z.offsets[i]
		if i == 0 || t >= z.starts[i] {
			if i+1 < len(z.starts) && t >= z.starts[i+1] {
				return z.starts[i+1] // past the end of this period, before the next on the clock: the gap
			}
			return t
		}
	}
}

// Calm is Instant for times of which it is plain that no transition is near: it reports whether that is so,
// and costs one look into the table.
func (z *Zone) Calm(day, clock int64) (int64, bool) {
	wall := day*Day + clock
	if len(z.starts) == 1 {
		return wall - z.offsets[0], true
	}
	i := z.period(wall) // taken for UTC it is off by less than a day
	if i > 0 && wall-z.starts[i] < 3*Day || i+1 < len(z.starts) && z.starts[i+1]-wall < 3*Day {
		return 0, false
	}
	return wall - z.offsets[i], true
}

// Date returns the year, the month (1 to 12) and the day of the month of a day, from the year -32,800 on.
// The algorithm is that of Neri and Schneider, Euclidean affine functions and their application to
// calendar algorithms, 2022: no division that is not by a constant, and few of those.
func Date(day int64) (year, month, dom int64) {
	const cycles = 82 // of 400 years, so that nothing is negative
	n1 := 4*uint32(day+719468+146097*cycles) + 3
	century := n1 / 146097
	n2 := 4*(n1%146097/4) + 3
	p2 := uint64(2939745) * uint64(n2)
	doy := uint32(p2) / 2939745 / 4
	n3 := 2141*doy + 197913
	year = int64(100*century) + int64(p2>>32) - 400*cycles
	month, dom = int64(n3>>16), int64(n3&0xffff/2141)+1
	if doy >= 306 { // the algorithm's year begins in March
		year, month = year+1, month-12
	}
	return year, month, dom
}

// DayOf returns the day of a date. The month must be 1 to 12; the day of the month may run over.
func DayOf(year, month, dom int64) int64 {
	if month <= 2 {
		year--
	}
	era := year / 400
	if year < 0 {
		era = (year - 399) / 400
	}
	yoe := year - era*400
	mp := month - 3
	if month <= 2 {
		mp = month + 9
	}
	doy := (153*mp+2)/5 + dom - 1
	doe := yoe*365 + yoe/4 - yoe/100 + doy
	return era*146097 + doe - 719468
}

// DaysIn returns the number of days of a month.
func DaysIn(year, month int64) int64 {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}
