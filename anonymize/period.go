package anonymize

import (
	"errors"
	"fmt"

	"github.com/carrel-project/carrel/internal/civil"
)

// A period is an ISO 8601 duration: a calendar part and, when it is exact, elapsed time.
type period struct {
	months, days int64
	exact        bool  // it has a time part: elapsed, and never rounded
	elapsed      int64 // microseconds
}

// longestYears bounds a period, so that no sum leaves the range in which the calendar is known.
const longestYears = 200

// parsePeriod reads P1Y6M, P2W, P90D, P182DT12H. Zero, negative, fractional and unit-less periods are
// refused: each has been somebody's silent minute or silent eternity.
func parsePeriod(s string) (period, error) {
	const want = "want a period like P90D, P6M, P2Y or P1DT12H"
	var p period
	if s == "" {
		return p, errors.New("is empty; " + want)
	}
	if s[0] == '-' || s[0] == '+' {
		return p, fmt.Errorf("%q has a sign; %s", s, want)
	}
	if s[0] != 'P' {
		return p, fmt.Errorf("%q does not begin with P; %s", s, want)
	}
	const dateUnits, timeUnits = "YMWD", "HMS"
	units, rest := dateUnits, s[1:]
	for rest != "" {
		if rest[0] == 'T' && !p.exact {
			p.exact, units, rest = true, timeUnits, rest[1:]
			if rest == "" {
				return p, fmt.Errorf("%q has nothing after T; %s", s, want)
			}
			continue
		}
		n, digits := int64(0), 0
		for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
			if digits++; digits > 9 {
				return p, fmt.Errorf("%q is too long; write never", s)
			}
			n = n*10 + int64(rest[digits-1]-'0')
		}
		switch {
		case digits == len(rest):
			return p, fmt.Errorf("%q has a number without a unit; %s", s, want)
		case rest[digits] == '.' || rest[digits] == ',':
			return p, fmt.Errorf("%q has a fraction; use a smaller unit", s)
		case digits == 0:
			return p, fmt.Errorf("%q has %q where a number belongs; %s", s, rest[:1], want)
		}
		unit := rest[digits]
		at := -1
		for i := range len(units) {
			if units[i] == unit {
				at = i
			}
		}
		if at < 0 {
			return p, fmt.Errorf("%q has %q where one of %s belongs, in that order; %s", s, string(unit), units, want)
		}
		units, rest = units[at+1:], rest[digits+1:]
		switch {
		case unit == 'Y':
			p.months += 12 * n
		case unit == 'M' && !p.exact:
			p.months += n
		case unit == 'W':
			p.days += 7 * n
		case unit == 'D':
			p.days += n
		case unit == 'H':
			p.elapsed += n * 3600 * civil.Second // nine digits of hours fit
		case unit == 'M':
			p.elapsed += n * 60 * civil.Second
		case unit == 'S':
			p.elapsed += n * civil.Second
		}
	}
	if p == (period{exact: p.exact}) {
		return p, fmt.Errorf("%q is zero; write at once", s)
	}
	// Each part by itself first: the sum of parts that are too long may not fit an integer.
	const longest = longestYears * 366 * civil.Day
	if p.months > longestYears*12 || p.days > longestYears*366 || p.elapsed > longest || p.nominal() > longest {
		return p, fmt.Errorf("%q is longer than %d years; write never", s, longestYears)
	}
	return p, nil
}

// nominal is the period's length with months of 30.436875 days, for comparing two periods.
func (p period) nominal() int64 {
	return p.months*2629746*civil.Second + p.days*civil.Day + p.elapsed
}

// A clock counts days as the library does.
type clock struct {
	zone    *civil.Zone
	dayEnds int64 // microseconds after midnight at which a day ends and the next begins
}

// after returns the instant at which p has passed since t: years and months first, clamped to the last
// day of the month, then weeks and days, on the clock on the wall; then elapsed time, when the period is
// exact, or the next day boundary when it is not, so that a promise is never a minute short.
func (c clock) after(t int64, p period) int64 {
	if p.months == 0 && p.days == 0 { // elapsed time alone does not look at the clock on the wall
		return t + p.elapsed
	}
	day, wall := c.zone.Local(t)
	if p.months != 0 {
		year, month, dom := civil.Date(day)
		month += year*12 - 1 + p.months
		year, month = month/12, month%12+1
		day = civil.DayOf(year, month, min(dom, civil.DaysIn(year, month)))
	}
	day += p.days
	if p.exact {
		return c.zone.Instant(day, wall) + p.elapsed
	}
	end := day
	if wall > c.dayEnds {
		end++
	}
	if t, calm := c.zone.Calm(end, c.dayEnds); calm {
		return t
	}
	return c.boundary(c.zone.Instant(day, wall), day-2)
}

// boundary returns the first day boundary not before t, looking from the given day on.
func (c clock) boundary(t, day int64) int64 {
	for {
		if b := c.zone.Instant(day, c.dayEnds); b >= t {
			return b
		}
		day++
	}
}

// endOf returns the instant at which a day ends.
func (c clock) endOf(day int64) int64 { return c.zone.Instant(day+1, c.dayEnds) }
