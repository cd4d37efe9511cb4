package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/patron"
)

// TestGrants proves a store of break-glass grants. Open returns an empty store each time.
func TestGrants(t *testing.T, open func(t *testing.T) patron.Grants) {
	keep(t, func(t *testing.T) grants { return grants{t, open(t)} }, []promise[grants]{
		{"GrantComesBack", testGrantComesBack},
		{"TimesAreToTheMicrosecondInUTC", testGrantTimes},
		{"UnknownGrantIsNotFound", testUnknownGrant},
		{"SecondGrantAwaitsReview", testSecondGrant},
		{"OneGrantWinsARace", testOneGrantWins},
		{"IDIsNotGivenTwice", testGrantID},
		{"UnreviewedOfOneAndOfAll", testUnreviewed},
		{"UnreviewedOldestFirst", testOldestFirst},
		{"ReviewIsKept", testReviewKept},
		{"ReviewHappensOnce", testReviewOnce},
		{"OneReviewWinsARace", testOneReviewWins},
		{"NothingIsShared", testGrantsNotShared},
		{"CanceledContext", testGrantsCanceled},
	})
}

// grants is a store under test whose methods fail the test.
type grants struct {
	*testing.T
	patron.Grants
}

// grant makes the nth grant, of the given actor. Later ones are issued later.
func grant(n int, actor string) patron.Grant {
	issued := time.Date(2026, 5, 6, 7, 8, 9, 123_456_000, time.UTC).Add(time.Duration(n) * time.Microsecond)
	return patron.Grant{
		Grant: access.Grant{ID: defaultID(n), Actor: actor, Role: "desk", Purpose: "emergency", Subject: patronID(n).String(),
			Segments: access.SetOf(access.Names, access.Photo), Issued: issued, Until: issued.Add(15 * time.Minute)},
		Reason: []byte{0, 0xff, byte(n), '\n'},
	}
}

func (s grants) add(g patron.Grant) {
	s.Helper()
	if err := s.AddGrant(s.Context(), g); err != nil {
		s.Fatalf("AddGrant: %v", err)
	}
}

var reviewedAt = time.Date(2026, 6, 1, 0, 0, 0, 1000, time.UTC)

// review reviews a grant and returns it as it should be then.
func (s grants) review(g patron.Grant, reviewer string) patron.Grant {
	s.Helper()
	if err := s.ReviewGrant(s.Context(), g.ID, reviewer, reviewedAt); err != nil {
		s.Fatalf("ReviewGrant: %v", err)
	}
	g.Reviewer, g.Reviewed = reviewer, reviewedAt
	return g
}

func sameGrant(a, b patron.Grant) bool {
	return a.ID == b.ID && a.Actor == b.Actor && a.Role == b.Role && a.Purpose == b.Purpose && a.Subject == b.Subject &&
		a.Segments == b.Segments && a.Issued.Equal(b.Issued) && a.Until.Equal(b.Until) && a.Reviewed.Equal(b.Reviewed) &&
		a.Reviewer == b.Reviewer && bytes.Equal(a.Reason, b.Reason)
}

// has expects a grant to be stored just like this.
func (s grants) has(want patron.Grant) {
	s.Helper()
	got, err := s.Grant(s.Context(), want.ID)
	if err != nil {
		s.Errorf("Grant: %v", err)
	} else if !sameGrant(got, want) {
		s.Errorf("the grant is %+v, want %+v", got, want)
	}
}

// waiting expects these grants to be unreviewed, in this order.
func (s grants) waiting(actor string, want ...patron.Grant) {
	s.Helper()
	got, err := s.Unreviewed(s.Context(), actor)
	if err != nil {
		s.Fatalf("Unreviewed: %v", err)
	}
	if !slices.EqualFunc(got, want, sameGrant) {
		s.Errorf("the unreviewed grants of %q are %+v, want %+v", actor, got, want)
	}
}

func testGrantComesBack(t *testing.T, s grants) {
	a, b := grant(0, "ann"), grant(1, "bob")
	b.Segments, b.Reason = access.SetOf(), nil
	s.add(a)
	s.add(b)
	s.has(a)
	s.has(b)
}

func testGrantTimes(t *testing.T, s grants) {
	g := grant(0, "ann")
	exact := time.Date(2026, 3, 4, 23, 59, 59, 999_999_999, time.FixedZone("far east", 14*3600))
	g.Issued, g.Until = exact, exact.Add(time.Minute)
	s.add(g)
	g.Issued = exact.UTC().Truncate(time.Microsecond)
	g.Until = g.Issued.Add(time.Minute)
	s.has(g)
	if err := s.ReviewGrant(t.Context(), g.ID, "rex", exact.Add(time.Hour)); err != nil {
		t.Fatalf("ReviewGrant: %v", err)
	}
	g.Reviewer, g.Reviewed = "rex", g.Issued.Add(time.Hour)
	s.has(g)
	got, err := s.Grant(t.Context(), g.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{got.Issued, got.Until, got.Reviewed} {
		if at.Location() != time.UTC {
			t.Errorf("a time came back in %v, want UTC", at.Location())
		}
	}
	s.add(grant(1, "ann"))
	if got, err := s.Grant(t.Context(), defaultID(1)); err != nil || !got.Reviewed.IsZero() {
		t.Errorf("a grant that nobody has reviewed was reviewed at %v, error %v, want the zero time", got.Reviewed, err)
	}
}

func testUnknownGrant(t *testing.T, s grants) {
	s.add(grant(0, "ann"))
	_, err := s.Grant(t.Context(), defaultID(1))
	is(t, "Grant of an unknown ID", err, patron.ErrNotFound)
	is(t, "ReviewGrant of an unknown ID", s.ReviewGrant(t.Context(), defaultID(1), "rex", reviewedAt), patron.ErrNotFound)
	s.waiting("", grant(0, "ann"))
}

func testSecondGrant(t *testing.T, s grants) {
	first, second := grant(0, "ann"), grant(1, "ann")
	s.add(first)
	is(t, "a second grant of the actor", s.AddGrant(t.Context(), second), access.ErrUnreviewed)
	_, err := s.Grant(t.Context(), second.ID)
	is(t, "Grant of one that was refused", err, patron.ErrNotFound)
	s.add(grant(2, "bob")) // whom it does not concern
	s.add(grant(3, "Ann"))
	s.review(first, "rex")
	s.add(second)
	is(t, "a third grant of the actor", s.AddGrant(t.Context(), grant(4, "ann")), access.ErrUnreviewed)
	s.waiting("ann", second)
}

func testOneGrantWins(t *testing.T, s grants) {
	const n = 50
	for round := range 2 { // the second time there are some that were reviewed
		winner := oneWins(t, "adding many grants of one actor at once", race(n, func(i int) error {
			return s.AddGrant(t.Context(), grant(round*n+i, "ann"))
		}), access.ErrUnreviewed)
		if winner < 0 {
			return
		}
		g := grant(round*n+winner, "ann")
		s.waiting("ann", g)
		s.review(g, "rex")
	}
}

// The first grant is what happened: nothing may take its place.
func testGrantID(t *testing.T, s grants) {
	g := grant(0, "ann")
	s.add(g)
	g = s.review(g, "rex")
	if err := s.AddGrant(t.Context(), grant(0, "bob")); err == nil {
		t.Error("a grant was added whose ID another one has")
	}
	s.has(g)
}

func testUnreviewed(t *testing.T, s grants) {
	s.waiting("")
	s.waiting("ann")
	a, b := grant(0, "ann"), grant(1, "bob")
	s.add(a)
	s.add(b)
	s.waiting("", a, b)
	s.waiting("ann", a)
	s.waiting("bob", b)
	s.waiting("cyd")
	s.review(a, "rex")
	s.waiting("", b)
	s.waiting("ann")
}

func testOldestFirst(t *testing.T, s grants) {
	var want []patron.Grant
	for _, n := range []int{3, 1, 7, 0, 5, 2, 6, 4} {
		g := grant(n, fmt.Sprint("actor ", n*3%8))
		s.add(g)
		want = append(want, g)
	}
	slices.SortFunc(want, func(a, b patron.Grant) int { return a.Issued.Compare(b.Issued) })
	s.waiting("", want...)
}

func testReviewKept(t *testing.T, s grants) {
	a, b := grant(0, "ann"), grant(1, "bob")
	s.add(a)
	s.add(b)
	s.has(s.review(a, "rex"))
	s.has(b)
}

func testReviewOnce(t *testing.T, s grants) {
	g := grant(0, "ann")
	s.add(g)
	g = s.review(g, "rex")
	is(t, "a second review", s.ReviewGrant(t.Context(), g.ID, "eve", reviewedAt.Add(time.Hour)), patron.ErrReviewed)
	is(t, "the same review again", s.ReviewGrant(t.Context(), g.ID, "rex", reviewedAt), patron.ErrReviewed)
	s.has(g)
}

func testOneReviewWins(t *testing.T, s grants) {
	const n = 20
	g := grant(0, "ann")
	s.add(g)
	winner := oneWins(t, "reviewing one grant many times at once", race(n, func(i int) error {
		return s.ReviewGrant(t.Context(), g.ID, fmt.Sprint("rex", i), reviewedAt.Add(time.Duration(i)*time.Second))
	}), patron.ErrReviewed)
	if winner >= 0 {
		g.Reviewer, g.Reviewed = fmt.Sprint("rex", winner), reviewedAt.Add(time.Duration(winner)*time.Second)
		s.has(g)
	}
}

func testGrantsNotShared(t *testing.T, s grants) {
	g := grant(0, "ann")
	s.add(g)
	flip(g.Reason)
	s.has(grant(0, "ann"))
	got, err := s.Grant(t.Context(), g.ID)
	if err != nil {
		t.Fatal(err)
	}
	flip(got.Reason)
	list, err := s.Unreviewed(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range list {
		flip(g.Reason)
	}
	s.has(grant(0, "ann"))
}

func testGrantsCanceled(t *testing.T, s grants) {
	g := grant(0, "ann")
	s.add(g)
	ctx := canceled(t)
	is(t, "AddGrant", s.AddGrant(ctx, grant(1, "bob")), context.Canceled)
	_, err := s.Grant(ctx, g.ID)
	is(t, "Grant", err, context.Canceled)
	_, err = s.Unreviewed(ctx, "")
	is(t, "Unreviewed", err, context.Canceled)
	is(t, "ReviewGrant", s.ReviewGrant(ctx, g.ID, "rex", reviewedAt), context.Canceled)
	s.waiting("", g)
	if _, err := s.Grant(t.Context(), defaultID(1)); !errors.Is(err, patron.ErrNotFound) {
		t.Errorf("a canceled AddGrant left a grant behind, error %v", err)
	}
}
