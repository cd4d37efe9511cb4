package access

import (
	"errors"
	"strings"
	"time"
	"unicode"
)

// MaxGrant is how long a grant lasts at most.
const MaxGrant = 15 * time.Minute

// minReason is how many letters a reason has at least. It cannot make a reason good, only not empty.
const minReason = 10

// Why a grant is not given.
var (
	ErrNoActor    = errors.New("access: a grant needs an actor")
	ErrNoSubject  = errors.New("access: a grant needs the one patron that it is for")
	ErrIncomplete = errors.New("access: the grant lacks a part, or has one that no grant has")
	ErrNotAllowed = errors.New("access: break-glass is not allowed for these segments")
	ErrNoReason   = errors.New("access: break-glass needs a reason of at least 10 letters")
	ErrTooLong    = errors.New("access: a grant lasts more than nothing and at most 15 minutes")
	ErrUnreviewed = errors.New("access: an earlier grant of the actor awaits review by somebody else")
)

// Why a grant does not open anything for a request.
var (
	ErrOtherActor   = errors.New("access: the grant is somebody else's")
	ErrOtherRole    = errors.New("access: the grant is for another role")
	ErrOtherPurpose = errors.New("access: the grant is for another purpose")
	ErrOtherSubject = errors.New("access: the grant is for another patron")
	ErrExpired      = errors.New("access: the grant is not valid at this time")
)

// Why a review is refused.
var (
	ErrNoReviewer = errors.New("access: a review needs a reviewer")
	ErrOwnReview  = errors.New("access: nobody reviews their own grant")
	ErrReviewed   = errors.New("access: the grant has been reviewed")
	ErrTooEarly   = errors.New("access: a review cannot be older than the grant")
)

// A Grant opens named segments of one patron to one actor, in one role, for one purpose and a short time
// (break-glass). It is a plain value for the caller to keep; [NewGrant] makes them. The zero Grant opens nothing.
// A Grant that was read from somewhere is not trusted: one that NewGrant could not have given opens nothing.
type Grant struct {
	ID                            string
	Actor, Role, Purpose, Subject string
	Segments                      Set
	Issued, Until                 time.Time // open from Issued until just before Until
	Reviewed                      time.Time // zero: not yet
	Reviewer                      string
}

// NewGrant decides whether to open segments of the request's subject to its actor, and for how long; a
// length of zero means [MaxGrant]. The decision must be the one that a [Decider] made on this request, and
// earlier must hold all grants of the actor, or at least those not reviewed; grants of others in it do
// not matter. A grant counts as used when it is given. So the caller reads the earlier ones, calls
// NewGrant and stores the new one in one transaction, or two grants asked for at once would both be given.
//
// The reason is only measured here, by its letters and in one way for all callers: it may name people,
// so it is not in the Grant and not in any error. The caller seals it in the trail.
//
// The errors are [ErrNoActor], [ErrNoSubject], [ErrIncomplete] (no id, or a zero now), [ErrNotAllowed],
// [ErrNoReason], [ErrTooLong] and [ErrUnreviewed], in this order.
func NewGrant(id string, r Request, d Decision, segments Set, reason string, length time.Duration, earlier []Grant, now time.Time) (Grant, error) {
	if length == 0 {
		length = MaxGrant
	}
	// Databases keep microseconds, and a reading of the monotonic clock would stand still while a machine sleeps.
	issued := now.UTC().Truncate(time.Microsecond)
	switch {
	case blank(r.Actor):
		return Grant{}, ErrNoActor
	case blank(r.Subject):
		return Grant{}, ErrNoSubject
	case blank(id) || now.IsZero():
		return Grant{}, ErrIncomplete
	case r.Role == "" || r.Purpose == "":
		return Grant{}, ErrNotAllowed
	case segments == 0 || segments&^(d.BreakGlass&everySegment) != 0:
		return Grant{}, ErrNotAllowed
	case letters(reason) < minReason:
		return Grant{}, ErrNoReason
	case length < 0 || length > MaxGrant:
		return Grant{}, ErrTooLong
	}
	for i := range earlier {
		if earlier[i].Actor == r.Actor && !earlier[i].reviewed() {
			return Grant{}, ErrUnreviewed
		}
	}
	return Grant{
		ID:    id,
		Actor: r.Actor, Role: r.Role, Purpose: r.Purpose, Subject: r.Subject,
		Segments: segments,
		Issued:   issued, Until: issued.Add(length),
	}, nil
}

// Levels returns what the grant opens for a request at a time: its segments in full, and nothing else. A
// caller adds it to what the request sees anyway with [Levels.Max]. The errors are [ErrIncomplete],
// [ErrOtherActor], [ErrOtherRole], [ErrOtherPurpose], [ErrOtherSubject] and [ErrExpired] (also before
// the grant was issued), and come with no levels.
func (g Grant) Levels(r Request, now time.Time) (Levels, error) {
	switch {
	case !g.whole():
		return 0, ErrIncomplete
	case g.Actor != r.Actor:
		return 0, ErrOtherActor
	case g.Role != r.Role:
		return 0, ErrOtherRole
	case g.Purpose != r.Purpose:
		return 0, ErrOtherPurpose
	case g.Subject != r.Subject:
		return 0, ErrOtherSubject
	case now.Before(g.Issued) || !now.Before(g.Until):
		return 0, ErrExpired
	}
	var levels Levels
	for s := range g.Segments.All() {
		levels = levels.With(s, Full)
	}
	return levels, nil
}

// Review returns the grant with the review noted. That the reviewer may review is a [Decider]'s to say
// ([Review]); here it is only made sure that it is not the grant's own actor, and that it happens once. The
// errors are [ErrIncomplete], [ErrNoReviewer], [ErrOwnReview], [ErrReviewed] and [ErrTooEarly].
func (g Grant) Review(reviewer string, now time.Time) (Grant, error) {
	switch {
	case !g.whole():
		return Grant{}, ErrIncomplete
	case blank(reviewer):
		return Grant{}, ErrNoReviewer
	case reviewer == g.Actor:
		return Grant{}, ErrOwnReview
	case g.reviewed():
		return Grant{}, ErrReviewed
	case now.Before(g.Issued):
		return Grant{}, ErrTooEarly
	}
	g.Reviewer, g.Reviewed = reviewer, now.UTC().Truncate(time.Microsecond)
	return g, nil
}

// reviewed reports whether somebody other than the actor has reviewed the grant.
func (g *Grant) reviewed() bool {
	return !g.Reviewed.IsZero() && !blank(g.Reviewer) && g.Reviewer != g.Actor
}

// whole reports whether NewGrant can have given the grant. It keeps an empty actor from matching an empty
// actor, and a row that was stretched to a year from being open for a year.
func (g *Grant) whole() bool {
	length := g.Until.Sub(g.Issued)
	return !blank(g.ID) && !blank(g.Actor) && g.Role != "" && g.Purpose != "" && !blank(g.Subject) &&
		g.Segments != 0 && g.Segments&^everySegment == 0 &&
		!g.Issued.IsZero() && length > 0 && length <= MaxGrant
}

func blank(s string) bool { return strings.TrimSpace(s) == "" }

func letters(s string) (n int) {
	for _, r := range s {
		if unicode.IsLetter(r) {
			n++
		}
	}
	return n
}
