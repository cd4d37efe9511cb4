// Package histories draws what happens to a library's store, at random, and compares what stores make of it.
package histories

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

func day(n int) time.Time { return time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC).AddDate(0, 0, n) }

func one[T any](x T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) { yield(x, nil) }
}

func check(t *rapid.T, err error) {
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func equal(t *rapid.T, want, got any) {
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("want %+v\n got %+v", want, got)
	}
}

// Gapped is a store that can make it as if many records had come and gone, so that a handful of them lie far apart.
type Gapped interface{ Gap() error }

// A Library is a store with all that a library does to it, whichever of ours it is.
type Library interface {
	anonymize.Store
	anonymize.Finisher
	anonymize.Deferrer
	Save(ctx context.Context, entries iter.Seq2[circulation.Entry, error]) (circulation.Saved, error)
	SaveAccounts(ctx context.Context, accounts iter.Seq2[circulation.Account, error]) (circulation.Saved, error)
	AddHold(ctx context.Context, h circulation.Hold) error
	ReleaseHold(ctx context.Context, b circulation.Borrower, ref string) (bool, error)
}

// Awakeful is a store that puts nothing off.
type Awakeful struct {
	anonymize.Store
	anonymize.Finisher
}

// policies look, between them, at everything that a change can wake a record for.
func policies(t *rapid.T) (list []*anonymize.Policy) {
	for i, text := range []string{`
  loans:
    - {name: money, fee: had, since: fee-closed, after: P45D}
    - {name: students, group: [students], after: P20D, keep-last: 2, at-most: P200D}
    - {name: rest, after: P60D}
  fees: [{name: settled, after: P90D}]
  requests: [{name: asked, after: P30D}]`, `
  loans:
    - {name: last, after: P10D, keep-last: 1, per: item, at-most: P150D}
  requests: [{name: students, group-now: [students], after: at once}, {name: asked, after: P40D}]
  fees: [{name: forever, after: never}]
keep-fields:
  loans: {library: keep, returned: month}`, `
  loans:
    - {name: left, patron-expired: P30D, fee: none, after: at once}
    - {name: staff, group-now: [staff], after: P1Y}
    - {name: rest, after: P60D, keep-last: 3}
  requests: [{name: gone, since: expired, after: P10D}]
  fees: [{name: settled, after: P20D}]
patron-may: {shorten-to: P1D, extend-to: P300D}`, `
  loans:
    - {name: one, group: [students, staff], after: P15D, keep-last: 1}
    - {name: expired, since: expired, after: P5D}
  requests: [{name: asked, after: P3D}]
match: longest
default: unlink
patron-may: {shorten-to: P2D, extend-to: forever}`} {
		p, err := anonymize.ParsePolicy([]byte(fmt.Sprintf("carrel-retention: 1\nid: test/night-%d\nrecords:%s\n", i, text)))
		check(t, err)
		list = append(list, p)
	}
	return list
}

// An event is something that happens to both of two copies.
type event func(Library) error

func pick[T any](t *rapid.T, what string, list ...T) T { return rapid.SampledFrom(list).Draw(t, what) }

func drawBorrower(t *rapid.T) circulation.Borrower {
	return pick[circulation.Borrower](t, "borrower", "ann", "ben", "cy")
}

func drawDay(t *rapid.T, what string, today int) time.Time {
	return day(rapid.IntRange(max(0, today-90), today).Draw(t, what))
}

// A town remembers the loans that it knows of, so that what happens is often one thing to one of them: a return, a find.
type town map[string]circulation.Loan

// entry draws what is saved of a record.
func (known town) entry(t *rapid.T, today int) circulation.Entry {
	n := func(most int) int { return rapid.IntRange(0, most).Draw(t, "n") }
	switch n(7) {
	case 0, 1, 2, 3:
		l := circulation.Loan{ID: fmt.Sprint("l", n(5)), Borrower: drawBorrower(t), Item: pick(t, "item", "", "i1", "i2", "i3"), Library: "main",
			Group: pick(t, "group", "students", "staff"), Loaned: drawDay(t, "loaned", today), Lost: n(12) == 0, ClaimedReturned: n(12) == 0}
		if n(4) > 0 {
			l.Returned = l.Loaned.AddDate(0, 0, n(20))
		}
		if old, ok := known[l.ID]; ok && n(1) == 0 {
			l, old = old, l
			switch n(3) {
			case 0, 1:
				if l.Returned.IsZero() {
					l.Returned = day(max(0, today-n(9)))
				} else {
					l.Returned = time.Time{}
				}
			case 2:
				l.Lost, l.ClaimedReturned = false, false
			case 3:
				l.Group = old.Group
			}
		}
		known[l.ID] = l
		return l
	case 4, 5, 6:
		f := circulation.Fee{ID: fmt.Sprint("f", n(2)), Borrower: drawBorrower(t), Charged: drawDay(t, "charged", today),
			Status: pick(t, "status", circulation.FeeOpen, circulation.FeeInProcess, circulation.FeeClosed, circulation.FeeClosed)}
		if n(3) > 0 { // mostly the same one: what happens to the loan of a fee again and again is what is interesting
			f.Loan = "l" + f.ID[1:]
		}
		if f.Status == circulation.FeeClosed {
			f.Closed, f.Outcome, f.Method = f.Charged.AddDate(0, 0, n(30)), circulation.FeePaid, "cash"
		}
		return f
	}
	r := circulation.Request{ID: fmt.Sprint("r", n(4)), Borrower: drawBorrower(t), Requested: drawDay(t, "requested", today), Outcome: circulation.RequestOpen}
	if n(2) > 0 {
		r.Closed, r.Outcome = r.Requested.AddDate(0, 0, n(9)), circulation.RequestFilled
	}
	return r
}

// event draws what happens at the desk.
func (known town) event(t *rapid.T, today int) event {
	n := func(most int) int { return rapid.IntRange(0, most).Draw(t, "n") }
	if n(19) == 0 {
		return func(l Library) error {
			if g, ok := l.(Gapped); ok {
				return g.Gap()
			}
			return nil
		}
	}
	switch n(10) {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		e := known.entry(t, today)
		return func(l Library) error { _, err := l.Save(context.Background(), one(e)); return err }
	case 8, 9:
		a := circulation.Account{Borrower: drawBorrower(t), Group: pick(t, "now", "", "students", "staff"),
			Wish: pick(t, "wish", circulation.WishNone, circulation.WishNone, circulation.WishKeep, circulation.WishForget)}
		if n(1) > 0 {
			a.Expires = day(today + rapid.IntRange(-60, 60).Draw(t, "expires"))
		}
		if n(1) > 0 {
			a.WishSince = drawDay(t, "wish since", today)
		}
		return func(l Library) error { _, err := l.SaveAccounts(context.Background(), one(a)); return err }
	}
	h := circulation.Hold{Borrower: drawBorrower(t), Ref: pick(t, "ref", "1", "2")}
	if n(2) == 0 {
		return func(l Library) error { _, err := l.ReleaseHold(context.Background(), h.Borrower, h.Ref); return err }
	}
	if n(1) > 0 {
		h.Until = day(today + n(40))
	}
	return func(l Library) error { return l.AddHold(context.Background(), h) }
}

// night sweeps, in one or several parts, and returns the sums of the reports.
func night(t *rapid.T, s anonymize.Store, p *anonymize.Policy, at time.Time, page, parts int) map[string][3]int {
	sums := map[string][3]int{}
	for i := range parts {
		sweep, err := anonymize.NewSweep(s, p, anonymize.Config{PageSize: page, Shard: anonymize.Shard{Index: i, Of: parts}, Now: func() time.Time { return at }})
		check(t, err)
		report, err := sweep.Run(context.Background(), at)
		check(t, err)
		for kind, k := range report.Kinds {
			sum := sums[kind]
			sums[kind] = [3]int{sum[0] + k.LinkedBefore, sum[1] + k.Unlinked, sum[2] + k.Kept}
		}
	}
	return sums
}

// left returns everything that still names somebody, without versions.
func left(t *rapid.T, s anonymize.Store, at time.Time, plan string) map[string]circulation.Record {
	records := map[string]circulation.Record{}
	for _, kind := range circulation.Kinds() {
		q := anonymize.Query{Kind: kind, Limit: 5, At: at, Needs: anonymize.NeedEverything, Plan: plan}
		for {
			p, err := s.Linked(context.Background(), q)
			check(t, err)
			for _, r := range p.Records {
				id := kind.String() + " " + r.ID
				if _, twice := records[id]; twice {
					t.Fatalf("%s is returned twice", id)
				}
				if kind != circulation.KindLoan { // no rule asks
					r.NewerByBorrower, r.NewerOfItem = 0, 0
				}
				// What each store says in its own way.
				r.Version, r.Borrower, r.Started = "", "somebody", time.Time{} // rules do not ask when a record began
				slices.SortFunc(r.Fees, func(a, b circulation.FeeSummary) int {
					return cmp.Or(cmp.Compare(a.Status, b.Status), a.Closed.Compare(b.Closed), cmp.Compare(a.Method, b.Method))
				})
				records[id] = r
			}
			if q.Cursor = p.Cursor; q.Cursor == "" {
				break
			}
		}
	}
	return records
}

// NightsForgetWhatTheyWould is a property: two copies of a library live through the same; the nights of one read what is due, those of the other everything. No night leaves
// more names in the one than in the other, or fewer, nor are there other facts.
func NightsForgetWhatTheyWould(t *rapid.T, sleeping, reading Library) {
	nights(t, sleeping, reading, 2)
}

// OfTwoKinds is NightsForgetWhatTheyWould for stores that do not divide records into the same parts: the end of a part forgets holds that have run out by now, which the next one sees.
func OfTwoKinds(t *rapid.T, sleeping, reading Library) { nights(t, sleeping, reading, 1) }

func nights(t *rapid.T, sleeping, reading Library, most int) {
	policies, desk := policies(t), town{}
	today, usual := 0, rapid.IntRange(0, len(policies)-1).Draw(t, "usual policy")
	for range rapid.IntRange(1, 12).Draw(t, "nights") {
		for range rapid.IntRange(0, 12).Draw(t, "events") {
			e := desk.event(t, today)
			one, other := e(sleeping), e(reading)
			if (one == nil) != (other == nil) {
				t.Fatalf("the one says %v, the other %v", one, other)
			}
		}
		if rapid.IntRange(0, 5).Draw(t, "another") == 0 { // begins a sweep under a policy of its own, and dies
			check(t, sleeping.Resume(context.Background(), "another", anonymize.Needs(rapid.IntRange(0, int(anonymize.NeedEverything)).Draw(t, "needs"))))
		}
		today += rapid.IntRange(0, 40).Draw(t, "days")
		policy := policies[pick(t, "policy", usual, usual, usual, usual, usual, usual, 0, 1, 2, 3)]
		page, parts := rapid.IntRange(1, 9).Draw(t, "page"), rapid.IntRange(1, most).Draw(t, "parts")
		equal(t, left(t, reading, day(today), ""), left(t, sleeping, day(today), ""))
		at := day(today - max(0, rapid.IntRange(-20, 20).Draw(t, "earlier")-15)) // a sweep may be told to decide as of an earlier day
		one := night(t, sleeping, policy, at, page, parts)
		other := night(t, Awakeful{reading, reading}, policy, at, page, parts)
		equal(t, other, one)
		equal(t, left(t, reading, day(today), ""), left(t, sleeping, day(today), ""))
	}
}

// A desk is a store at which things happen while it is swept.
type desk struct {
	Library
	plan    string
	needs   anonymize.Needs
	happens func()
}

func (d *desk) Resume(ctx context.Context, plan string, needs anonymize.Needs) error {
	d.plan, d.needs = plan, needs
	return d.Library.Resume(ctx, plan, needs)
}

func (d *desk) Defer(ctx context.Context, x anonymize.Deferral) error {
	d.happens()
	return d.Library.Defer(ctx, x)
}

// NothingDueSleeps is a property: whatever happens at the desk between reading a page and putting its records off, nothing sleeps that a decision would unlink.
func NothingDueSleeps(t *rapid.T, l Library) {
	policies := policies(t)
	today, usual := 0, rapid.IntRange(0, len(policies)-1).Draw(t, "usual policy")
	d, town := &desk{Library: l}, town{}
	d.happens = func() {
		for range rapid.IntRange(0, 3).Draw(t, "in between") {
			if rapid.IntRange(0, 9).Draw(t, "another") == 0 {
				check(t, d.Library.Resume(context.Background(), pick(t, "plan", d.plan, d.plan, "another"), d.needs))
			}
			_ = town.event(t, today)(d.Library)
		}
	}
	for range rapid.IntRange(1, 10).Draw(t, "nights") {
		for range rapid.IntRange(0, 10).Draw(t, "events") {
			_ = town.event(t, today)(d.Library)
		}
		today += rapid.IntRange(0, 30).Draw(t, "days")
		policy := policies[pick(t, "policy", usual, usual, usual, usual, usual, usual, 0, 1, 2, 3)]
		night(t, d, policy, day(today), rapid.IntRange(1, 9).Draw(t, "page"), 1)

		check(t, d.Resume(context.Background(), d.plan, d.needs))
		later := day(today + rapid.IntRange(0, 60).Draw(t, "later"))
		awake := left(t, d, later, d.plan)
		for id, r := range left(t, d, later, "") {
			if _, ok := awake[id]; !ok {
				decision := policy.Decide(&r, later)
				if decision.Unlink {
					t.Fatalf("%s sleeps, and is due by the rule %s: %+v", id, decision.Rule, r)
				}
			}
		}
	}
}

// OneSaveOrMany is a property: what is saved together is saved as it would be one after the other.
func OneSaveOrMany(t *rapid.T, together, single Library) {
	known, today := town{}, 60
	for i := range 6 { // what a fee points at must be there
		l := circulation.Loan{ID: fmt.Sprint("l", i), Borrower: "ann", Loaned: day(0)}
		known[l.ID] = l
		for _, library := range []Library{single, together} {
			_, err := library.Save(context.Background(), one[circulation.Entry](l))
			check(t, err)
		}
	}
	for range rapid.IntRange(1, 4).Draw(t, "rounds") {
		var list []circulation.Entry
		for range rapid.IntRange(1, 12).Draw(t, "entries") {
			list = append(list, known.entry(t, today))
		}
		var sum circulation.Saved
		for _, e := range list {
			saved, err := single.Save(context.Background(), one(e))
			check(t, err)
			sum.Added += saved.Added
			sum.Updated += saved.Updated
			sum.Same += saved.Same
			sum.AlreadyUnlinked += saved.AlreadyUnlinked
			sum.PointersDropped += saved.PointersDropped
			sum.KeptLinked += saved.KeptLinked
		}
		saved, err := together.Save(context.Background(), func(yield func(circulation.Entry, error) bool) {
			for _, e := range list {
				if !yield(e, nil) {
					return
				}
			}
		})
		check(t, err)
		equal(t, sum, saved)
		equal(t, left(t, single, day(today), ""), left(t, together, day(today), ""))
		today += 5
		for _, l := range []Library{single, together} { // some are unlinked in between
			night(t, Awakeful{l, l}, policies(t)[0], day(today), 3, 1)
		}
	}
}
