package circulation

import (
	"errors"
	"time"

	"github.com/carrel-project/carrel/internal/civil"
)

// Times returns a function that reads the times found in exports: RFC 3339
// (2026-10-01T09:30:00Z), PostgreSQL's output (2020-10-27 09:26:51.426709-05) and bare dates
// (2026-10-01), which mean 00:00 of that day. A time that names no zone is in loc; nil means UTC. A
// local time that daylight saving skips is the first instant after the gap, one that occurs twice
// is the later. The empty string is the zero time. Fractions beyond microseconds are cut off. An
// instant outside the years 1 to 9999 is an error: it could not be written as RFC 3339 again.
// The function is safe for concurrent use.
func Times(loc *time.Location) func(string) (time.Time, error) {
	zone := civil.In(loc)
	return func(s string) (time.Time, error) { return parseTime(s, zone) }
}

var errTime = errors.New("not a time: want 2026-10-01, 2026-10-01T09:30:00Z or 2026-10-01 09:30:00+02")

// parseTime reads by position: exports hold millions of times, and time.Parse would have to try six layouts.
func parseTime(s string, zone *civil.Zone) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	p := scanner{s: s}
	year, month, day := p.digits(4), p.after('-'), p.after('-')
	if p.bad || year < 1 || month < 1 || month > 12 || day < 1 || day > civil.DaysIn(year, month) {
		return time.Time{}, errTime
	}
	days := civil.DayOf(year, month, day)
	if p.s == "" {
		return instant(zone.Instant(days, 0))
	}
	if p.s[0] != 'T' && p.s[0] != 't' && p.s[0] != ' ' {
		return time.Time{}, errTime
	}
	p.s = p.s[1:]
	hour, minute, second, micros := p.digits(2), p.after(':'), int64(0), int64(0)
	if p.next(':') {
		second = p.digits(2)
		if p.next('.') || p.next(',') {
			micros = p.fraction()
		}
	}
	if p.bad || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, errTime
	}
	clock := ((hour*60+minute)*60+second)*civil.Second + micros
	switch {
	case p.s == "":
		return instant(zone.Instant(days, clock))
	case p.s == "Z" || p.s == "z":
		return instant(days*civil.Day + clock)
	}
	sign := int64(1)
	if p.s[0] == '-' {
		sign = -1
	} else if p.s[0] != '+' {
		return time.Time{}, errTime
	}
	p.s = p.s[1:]
	east, eastMinutes, eastSeconds := p.digits(2), int64(0), int64(0)
	if p.next(':') || p.s != "" { // +02, +0200, +02:00, and PostgreSQL's +02:00:04 for times before standard zones
		eastMinutes = p.digits(2)
		if p.next(':') {
			eastSeconds = p.digits(2)
		}
	}
	if p.bad || p.s != "" || east > 23 || eastMinutes > 59 || eastSeconds > 59 {
		return time.Time{}, errTime
	}
	return instant(days*civil.Day + clock - sign*((east*60+eastMinutes)*60+eastSeconds)*civil.Second)
}

// The years 1 to 9999 in UTC: a zone can push the first and the last day over the edge.
const (
	firstInstant = -62135596800 * civil.Second
	pastInstants = 253402300800 * civil.Second
)

func instant(micros int64) (time.Time, error) {
	if micros < firstInstant || micros >= pastInstants {
		return time.Time{}, errTime
	}
	return time.UnixMicro(micros).UTC(), nil
}

type scanner struct {
	s   string
	bad bool
}

// digits reads exactly n digits.
func (p *scanner) digits(n int) (v int64) {
	if len(p.s) < n {
		p.bad = true
		return 0
	}
	for i := range n {
		c := p.s[i] - '0'
		if c > 9 {
			p.bad = true
			return 0
		}
		v = v*10 + int64(c)
	}
	p.s = p.s[n:]
	return v
}

func (p *scanner) next(c byte) bool {
	if p.s != "" && p.s[0] == c {
		p.s = p.s[1:]
		return true
	}
	return false
}

// after reads a separator and two digits.
func (p *scanner) after(sep byte) int64 {
	if !p.next(sep) {
		p.bad = true
		return 0
	}
	return p.digits(2)
}

// fraction reads the digits of a fraction of a second as microseconds and drops what is finer.
func (p *scanner) fraction() (micros int64) {
	n := 0
	for ; p.s != "" && p.s[0] >= '0' && p.s[0] <= '9'; n++ {
		if n < 6 {
			micros = micros*10 + int64(p.s[0]-'0')
		}
		p.s = p.s[1:]
	}
	if n == 0 {
		p.bad = true
	}
	for ; n < 6; n++ {
		micros *= 10
	}
	return micros
}
