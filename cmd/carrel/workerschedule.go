package main

import (
	"errors"
	"fmt"
	"time"
)

// A schedule says when nights begin: at a time of day in the policy's zone, and from there on at equal distances. It is a river.PeriodicSchedule.
type schedule struct {
	hour, minute int
	every        time.Duration
	zone         *time.Location
}

const day = 24 * time.Hour

// newSchedule reads a time of day. A distance must go into a day, or days into it, so that nights are at the same times whichever worker
// reckons them, and whenever it was started.
func newSchedule(clock string, every time.Duration, zone *time.Location) (schedule, error) {
	t, err := time.Parse("15:04", clock)
	if err != nil || len(clock) != 5 {
		return schedule{}, errors.New(`--schedule: want a time of day like "03:30", in the policy's zone`)
	}
	if every < time.Minute || every > remembered-7*day || day%every != 0 && every%day != 0 {
		return schedule{}, errors.New("--every: want a part of a day like 6h or 30m, or whole days like 168h, four weeks at most")
	}
	return schedule{t.Hour(), t.Minute(), every, zone}, nil
}

// on returns the time of day on a day, which may lie outside its month.
func (s schedule) on(year int, month time.Month, day int) time.Time {
	return time.Date(year, month, day, s.hour, s.minute, 0, 0, s.zone)
}

// anchor returns when the time of day last was, and when it is next.
func (s schedule) anchor(t time.Time) (last, next time.Time) {
	y, m, d := t.In(s.zone).Date()
	if last = s.on(y, m, d); last.After(t) {
		return s.on(y, m, d-1), last
	}
	return last, s.on(y, m, d+1)
}

// Last returns when the last night began or should have begun, t included.
func (s schedule) Last(t time.Time) time.Time {
	last, _ := s.anchor(t)
	if s.every >= day {
		y, m, d := last.Date()
		number := int(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / int64(day/time.Second))
		return s.on(y, m, d-number%int(s.every/day))
	}
	n := min(t.Sub(last)/s.every, day/s.every-1) // a day of 25 hours has no more nights than others
	return last.Add(n * s.every)
}

// Next implements river.PeriodicSchedule.
func (s schedule) Next(t time.Time) time.Time {
	last := s.Last(t)
	if s.every >= day {
		y, m, d := last.Date()
		return s.on(y, m, d+int(s.every/day))
	}
	_, anchor := s.anchor(t)
	if next := last.Add(s.every); next.After(t) && next.Before(anchor) {
		return next
	}
	return anchor
}

func (s schedule) String() string { return fmt.Sprintf("%02d:%02d", s.hour, s.minute) }
