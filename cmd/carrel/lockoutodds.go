package main

import (
	"time"

	"github.com/carrel-project/carrel/lockout"
)

// A guessBound is how many wrong guesses get through, by limits that were checked. In no stretch of duration are there more than
// attempts, and in no 24 hours more than daily; so it is as many as that allows, which somebody reaches who guesses the moment
// it is possible, in an hour and in a day. Over longer times a Guard lets through a little less, because a lock of 24 hours
// begins with the last guess of a day and not with the first.
type guessBound struct {
	attempts int64
	duration time.Duration
	daily    int64 // 0: no such limit
}

const aDay = 24 * time.Hour

func accountBound(cfg lockout.Config) guessBound {
	return guessBound{int64(cfg.Attempts), cfg.Duration, int64(cfg.Daily)}
}

// sourceBound is for guesses from one source at all accounts together.
func sourceBound(cfg lockout.Config) guessBound {
	return guessBound{attempts: int64(cfg.Sources), duration: cfg.Duration}
}

// within returns how many guesses there are at most in a stretch of time, its end not included.
func (b guessBound) within(t time.Duration) int64 {
	n := b.attempts * ceil(t, b.duration)
	if b.daily == 0 {
		return n
	}
	days, rest := int64(t/aDay), t%aDay
	return min(n, days*b.daily+min(b.daily, b.attempts*ceil(rest, b.duration)))
}

func ceil(t, by time.Duration) int64 { return int64((t + by - 1) / by) }

// earliest returns how many seconds after the first guess the nth may come, at the earliest. Seconds: nanoseconds end after 292 years.
func (b guessBound) earliest(n int64) int64 {
	seconds := int64(b.duration / time.Second)
	t := (n - 1) / b.attempts * seconds
	if b.daily == 0 {
		return t
	}
	days, rest := (n-1)/b.daily, (n-1)%b.daily
	return max(t, days*int64(aDay/time.Second)+rest/b.attempts*seconds)
}

// chance returns how likely so many different guesses are to hit one of so many secrets that are drawn at random.
func chance(guesses, secrets int64) float64 { return min(1, float64(guesses)/float64(secrets)) }

// half returns how many different guesses find a secret with a chance of one half. It is also the average, to within one.
func half(secrets int64) int64 { return (secrets + 1) / 2 }
