// Package oracle is a second, slow and obvious reading of the retention policy language, written from
// the text of the design and without looking at package anonymize, so that tests can compare the two.
// It walks where anonymize computes: days one by one, wall clocks by trying every offset. Only tests
// import it.
package oracle

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Period is an ISO 8601 duration taken apart.
type Period struct {
	Years, Months, Weeks, Days, Hours, Minutes, Seconds int
}

// MustPeriod reads P1Y2M3W4DT5H6M7S.
func MustPeriod(s string) (p Period) {
	rest, ok := strings.CutPrefix(s, "P")
	if !ok || rest == "" {
		panic("oracle: not a period: " + s)
	}
	inTime := false
	for rest != "" {
		if rest[0] == 'T' {
			inTime, rest = true, rest[1:]
			continue
		}
		i := 0
		for i < len(rest) && rest[i] >= '0' && rest[i] <= '9' {
			i++
		}
		n, err := strconv.Atoi(rest[:i])
		if err != nil || i == len(rest) {
			panic("oracle: not a period: " + s)
		}
		unit := rest[i]
		rest = rest[i+1:]
		switch {
		case unit == 'Y' && !inTime:
			p.Years = n
		case unit == 'M' && !inTime:
			p.Months = n
		case unit == 'W' && !inTime:
			p.Weeks = n
		case unit == 'D' && !inTime:
			p.Days = n
		case unit == 'H' && inTime:
			p.Hours = n
		case unit == 'M' && inTime:
			p.Minutes = n
		case unit == 'S' && inTime:
			p.Seconds = n
		default:
			panic("oracle: not a period: " + s)
		}
	}
	return p
}

// Exact says whether the period has a time part and so is not rounded.
func (p Period) Exact() bool { return p.Hours|p.Minutes|p.Seconds != 0 }

// Approx is a length that is never shorter than the period.
func (p Period) Approx() time.Duration {
	days := p.Years*367 + p.Months*32 + p.Weeks*7 + p.Days + 2
	return time.Duration(days)*24*time.Hour + p.clock()
}

func (p Period) clock() time.Duration {
	return time.Duration(p.Hours)*time.Hour + time.Duration(p.Minutes)*time.Minute + time.Duration(p.Seconds)*time.Second
}

// A Clock is a time zone and the wall time at which its days end.
type Clock struct {
	loc          *time.Location
	hour, minute int

	offsets map[int64][]int     // by UTC day: every offset seen around it
	starts  map[civil]time.Time // by date: the boundary on that date
	sums    map[sum]time.Time
}

type civil struct {
	year  int
	month time.Month
	day   int
}

type sum struct {
	x int64
	p string
}

// NewClock returns the clock of a zone ("" is UTC) whose days end at "HH:MM" ("" is 00:00).
func NewClock(zone, dayEnds string) *Clock {
	loc, err := time.LoadLocation(zone)
	if err != nil {
		panic(err)
	}
	c := &Clock{loc: loc, offsets: map[int64][]int{}, starts: map[civil]time.Time{}, sums: map[sum]time.Time{}}
	if dayEnds != "" {
		if _, err := fmt.Sscanf(dayEnds, "%d:%d", &c.hour, &c.minute); err != nil {
			panic(err)
		}
	}
	return c
}

func leap(y int) bool { return y%4 == 0 && (y%100 != 0 || y%400 == 0) }

func daysIn(y int, m time.Month) int {
	switch m {
	case time.April, time.June, time.September, time.November:
		return 30
	case time.February:
		if leap(y) {
			return 29
		}
		return 28
	}
	return 31
}

func (d civil) next() civil {
	if d.day++; d.day > daysIn(d.year, d.month) {
		d.day = 1
		d = d.nextMonth()
	}
	return d
}

func (d civil) nextMonth() civil {
	if d.month++; d.month > time.December {
		d.month, d.year = time.January, d.year+1
	}
	return d
}

func (d civil) prev() civil {
	if d.day--; d.day == 0 {
		if d.month--; d.month == 0 {
			d.month, d.year = time.December, d.year-1
		}
		d.day = daysIn(d.year, d.month)
	}
	return d
}

// face is what the clock on the wall shows at t, as if it were UTC.
func (c *Clock) face(t time.Time) time.Time {
	_, off := t.In(c.loc).Zone()
	return t.UTC().Add(time.Duration(off) * time.Second)
}

// Instant finds the instant at which the clock on the wall shows the date and the time of day: of
// two the later; of none, the first instant at which it shows more.
func (c *Clock) Instant(d civil, clock time.Duration) time.Time {
	want := time.Date(d.year, d.month, d.day, 0, 0, 0, 0, time.UTC).Add(clock)
	day := want.Unix() / 86400
	offsets, ok := c.offsets[day]
	if !ok { // try every minute that can matter
		seen := map[int]bool{}
		for t := time.Unix(day*86400, 0).Add(-28 * time.Hour); t.Unix() < (day+1)*86400+28*3600; t = t.Add(time.Minute) {
			if _, off := t.In(c.loc).Zone(); !seen[off] {
				seen[off] = true
				offsets = append(offsets, off)
			}
		}
		c.offsets[day] = offsets
	}
	var found time.Time
	for _, off := range offsets {
		t := want.Add(-time.Duration(off) * time.Second)
		if c.face(t).Equal(want) && t.After(found) {
			found = t
		}
	}
	if !found.IsZero() {
		return found
	}
	// Skipped: whole minutes are fine enough, for no zone has shifted in between since 1972.
	t := want.Truncate(time.Minute).Add(-28 * time.Hour)
	for !c.face(t).After(want) {
		t = t.Add(time.Minute)
	}
	return t
}

// Start returns the boundary on date d.
func (c *Clock) start(d civil) time.Time {
	t, ok := c.starts[d]
	if !ok {
		t = c.Instant(d, time.Duration(c.hour)*time.Hour+time.Duration(c.minute)*time.Minute)
		c.starts[d] = t
	}
	return t
}

func (c *Clock) date(t time.Time) civil {
	y, m, d := t.In(c.loc).Date()
	return civil{y, m, d}
}

// RoundUp walks to the first day boundary that is not before x.
func (c *Clock) RoundUp(x time.Time) time.Time {
	d := c.date(x).prev().prev()
	for c.start(d).Before(x) {
		d = d.next()
	}
	return c.start(d)
}

// Boundaries returns all day boundaries from a to b.
func (c *Clock) Boundaries(a, b time.Time) (list []time.Time) {
	for d := c.date(a).prev().prev(); !c.start(d).After(b); d = d.next() {
		if !c.start(d).Before(a) {
			list = append(list, c.start(d))
		}
	}
	return list
}

// EndOf returns the end of the day written as 2006-01-02.
func (c *Clock) EndOf(date string) time.Time {
	return c.start(mustDate(date).next())
}

// Date returns 00:00 of the day written as 2006-01-02.
func (c *Clock) Date(date string) time.Time { return c.Instant(mustDate(date), 0) }

func mustDate(s string) civil {
	t, err := time.Parse("2006-01-02", s)
	if err != nil {
		panic(err)
	}
	return civil{t.Year(), t.Month(), t.Day()}
}

// Add counts a period from x and rounds the result up to the day boundary unless the period is exact.
func (c *Clock) Add(x time.Time, period string) time.Time {
	key := sum{x.UnixMicro(), period}
	if t, ok := c.sums[key]; ok {
		return t
	}
	if len(c.sums) > 100_000 {
		clear(c.sums)
	}
	t := c.add(x, MustPeriod(period))
	c.sums[key] = t
	return t
}

func (c *Clock) add(x time.Time, p Period) time.Time {
	t := x
	if p.Years|p.Months|p.Weeks|p.Days != 0 {
		l := x.In(c.loc)
		h, m, s := l.Clock()
		clock := time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second + time.Duration(l.Nanosecond())
		d := c.date(x)
		for range p.Years*12 + p.Months {
			d = d.nextMonth()
		}
		for d.day > daysIn(d.year, d.month) {
			d.day--
		}
		for range p.Weeks*7 + p.Days {
			d = d.next()
		}
		t = c.Instant(d, clock)
	}
	if p.Exact() {
		return t.Add(p.clock())
	}
	return c.RoundUp(t)
}
