package storetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// The cases of this file are for stores that are an anonymize.Deferrer. What such a store must never do is let a record sleep
// on: nobody misses it, and its borrower stays in it for good. So most of them are about waking.

func deferralCases() []testcase {
	loans := []circulation.Kind{circulation.KindLoan}
	return []testcase{
		{name: "PutOffUntilDue", defers: true, run: testPutOff},
		{name: "ChangesWake", defers: true, run: testChangesWake},
		{name: "NewerLoansWake", defers: true, kinds: loans, run: testNewerLoansWake},
		{name: "AnotherPlanReadsEverything", defers: true, run: testAnotherPlan},
		{name: "BackToTheFirstPlan", defers: true, kinds: loans, run: testBackToTheFirstPlan},
		{name: "StaleDeferral", defers: true, run: staleDeferral(false)},
		{name: "ChangedAndSettledInBetween", defers: true, run: staleDeferral(true)},
		{name: "DeferOfUnlinked", defers: true, run: testDeferOfUnlinked},
		{name: "PagesUnderAPlan", defers: true, run: testPagesUnderAPlan},
		{name: "ShardsUnderAPlan", defers: true, run: testShardsUnderAPlan},
		{name: "CountIncludesDeferred", defers: true, run: testCount},
		{name: "CanceledDeferral", defers: true, run: testCanceledDeferral},
		{name: "ChangesRaceDeferral", defers: true, run: testChangesRaceDeferral},
	}
}

// Plans are opaque: a store compares them and does not look inside.
const (
	planA = "1 sha256:aa, 'a' plan"
	planB = "1 sha256:bb"
)

func (f *fixture) deferrer() anonymize.Deferrer { return f.Store.(anonymize.Deferrer) }

func (f *fixture) resume(plan string, needs anonymize.Needs) {
	f.Helper()
	if err := f.deferrer().Resume(f.Context(), plan, needs); err != nil {
		f.Fatalf("Resume: %v", err)
	}
}

func underPlan(k circulation.Kind, plan string) anonymize.Query {
	q := query(k)
	q.Plan = plan
	return q
}

// awake returns what a sweep under plan A reads of a kind.
func (f *fixture) awake(k circulation.Kind) map[string]circulation.Record {
	f.Helper()
	return f.linkedIn(underPlan(k, planA))
}

// putOff asks to defer records as they were read.
func (f *fixture) putOff(plan string, needs anonymize.Needs, until time.Time, records ...circulation.Record) {
	f.Helper()
	byKind := make(map[circulation.Kind][]anonymize.Deferred)
	for _, r := range records {
		byKind[r.Kind] = append(byKind[r.Kind], anonymize.Deferred{ID: r.ID, Version: r.Version, Until: until})
	}
	for k, list := range byKind {
		if err := f.deferrer().Defer(f.Context(), anonymize.Deferral{Plan: plan, Kind: k, Needs: needs, Records: list}); err != nil {
			f.Fatalf("Defer: %v", err)
		}
	}
}

// putAllOff reads everything that is awake under plan A and defers it.
func (f *fixture) putAllOff() {
	f.Helper()
	for _, k := range f.kinds() {
		f.putOff(planA, anonymize.NeedEverything, time.Time{}, slices.Collect(maps.Values(f.awake(k)))...)
	}
}

func (f *fixture) areAwake(what string, q anonymize.Query, want ...string) {
	f.Helper()
	var got []string
	for id := range f.linkedIn(q) {
		got = append(got, id)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		f.Errorf("%s: the pages of the kind %s under the plan have %q, want %q", what, q.Kind, got, want)
	}
}

func testPutOff(f *fixture) {
	until := time.Date(2026, 6, 3, 4, 5, 6, 789012000, time.UTC)
	for _, k := range f.kinds() {
		f.save(entry(k, f.id(0), person(1)), entry(k, f.id(1), person(1)), entry(k, f.id(2), person(1)), entry(k, f.id(3), person(2)))
	}
	f.resume(planA, anonymize.NeedEverything)
	q := func(k circulation.Kind, at time.Time) anonymize.Query {
		q := underPlan(k, planA)
		q.At = at
		return q
	}
	check := func(k circulation.Kind, when string) {
		f.Helper()
		f.areAwake(when+", a moment before the record is due", q(k, until.Add(-time.Microsecond)), f.id(2))
		f.areAwake(when+", when the record is due", q(k, until), f.id(0), f.id(2))
		f.areAwake(when+", long after", q(k, until.AddDate(100, 0, 0)), f.id(0), f.id(2))
		if n := len(f.linked(k)); n != 3 {
			f.Errorf("%s: without a plan the pages have %d records, want all 3", when, n)
		}
	}
	for _, k := range f.kinds() {
		f.areAwake("nothing was put off", q(k, now), f.id(0), f.id(1), f.id(2), f.id(3))
		f.unlink(k, f.id(3))
		all := f.awake(k)
		f.putOff(planA, anonymize.NeedEverything, until, all[f.id(0)])
		f.putOff(planA, anonymize.NeedEverything, time.Time{}, all[f.id(1)])
		check(k, "put off")
	}
	f.finish()
	for _, k := range f.kinds() {
		check(k, "after the sweep's end")
	}
	f.resume(planA, anonymize.NeedEverything)
	f.resume(planA, anonymize.NeedEverything)
	for _, k := range f.kinds() {
		check(k, "in the next sweep")
		f.unlink(k, f.id(1)) // whoever reads without a plan can unlink what sleeps
	}
}

// A change is something that happens to a record that sleeps, or to something beside it that a rule may look at.
type change struct {
	name     string
	kinds    []circulation.Kind                                  // the kinds that it can happen to; nil: all
	with     []circulation.Kind                                  // kinds without which it cannot happen
	possible func(f *fixture) bool                               // nil: always
	before   func(s scene, k circulation.Kind) circulation.Entry // what the record is before; nil: ended
	prepare  func(s scene)                                       // what else there is before
	happens  func(s scene, k circulation.Kind)                   // once for each kind
	once     func(s scene)                                       // or for all kinds together
}

// A scene is where a change happens: records and persons that have to do with no other change.
type scene struct {
	*fixture
	n int
}

func (s scene) id(i int) string                   { return s.fixture.id(1000 + 10*s.n + i) }
func (s scene) person(i int) circulation.Borrower { return person(1000 + 10*s.n + i) }
func (s scene) account(a circulation.Account) {
	s.Helper()
	a.Borrower = s.person(0)
	s.must(s.SaveAccount(s.Context(), a))
}
func (s scene) entry(k circulation.Kind) circulation.Entry { return entry(k, s.id(0), s.person(0)) }

func (s scene) hold(ref string, until time.Time) {
	s.Helper()
	s.must(s.AddHold(s.Context(), circulation.Hold{Borrower: s.person(0), Ref: ref, Until: until}))
}

// fee is a fee of the scene's loan.
func (s scene) fee(open bool) circulation.Entry {
	e := fee(s.id(5), s.person(0))
	if open {
		e = openFee(s.id(5), s.person(0))
	}
	return with(e, "Loan", s.id(0))
}

func (c change) of(f *fixture) []circulation.Kind {
	if c.kinds == nil {
		return f.kinds()
	}
	return c.kinds
}

// changes are all that can happen to a store, each with a number of its own.
func (f *fixture) changes() []change {
	loans, fees := []circulation.Kind{circulation.KindLoan}, []circulation.Kind{circulation.KindFee}
	accounts := func(f *fixture) bool { return f.SaveAccount != nil }
	holds := func(f *fixture) bool { return f.AddHold != nil }
	account := func(a circulation.Account) func(scene) { return func(s scene) { s.Helper(); s.account(a) } }
	hold := func(ref string, until time.Time) func(scene) { return func(s scene) { s.Helper(); s.hold(ref, until) } }
	field := func(name string, value any) func(scene, circulation.Kind) {
		return func(s scene, k circulation.Kind) { s.Helper(); s.save(with(s.entry(k), name, value)) }
	}
	lost := func(name string) change {
		return change{kinds: loans, before: func(s scene, k circulation.Kind) circulation.Entry { return with(s.entry(k), name, true) },
			happens: func(s scene, k circulation.Kind) { s.Helper(); s.save(s.entry(k)) }}
	}
	charged := func(open bool) func(scene) { return func(s scene) { s.Helper(); s.save(s.fee(open)) } }
	// A loan that is older than the scene's own, or newer.
	another := func(s scene, b circulation.Borrower, days int) circulation.Entry {
		return with(loan(s.id(3), b), "Loaned", began.AddDate(0, 0, days))
	}
	var possible []change
	for _, c := range []struct {
		name string
		change
	}{
		{"Changed", change{happens: field("Library", "elsewhere")}},
		{"Ended", change{before: func(s scene, k circulation.Kind) circulation.Entry { return unfinished(k, s.id(0), s.person(0)) },
			happens: func(s scene, k circulation.Kind) { s.Helper(); s.save(s.entry(k)) }}},
		{"Reopened", change{happens: func(s scene, k circulation.Kind) { s.Helper(); s.save(unfinished(k, s.id(0), s.person(0))) }}},
		{"GivenToAnother", change{happens: func(s scene, k circulation.Kind) { s.Helper(); s.save(entry(k, s.id(0), s.person(1))) }}},
		{"Lost", change{kinds: loans, happens: field("Lost", true)}},
		{"Found", lost("Lost")},
		{"ClaimWithdrawn", lost("ClaimedReturned")},

		{"FeeOpened", change{kinds: loans, with: fees, once: charged(true)}},
		{"FeeClosed", change{kinds: loans, with: fees, prepare: charged(true), once: charged(false)}},
		{"FeeOpenedAgain", change{kinds: loans, with: fees, prepare: charged(false), once: charged(true)}},
		{"FeeClosedEarlier", change{kinds: loans, with: fees, prepare: charged(false), once: func(s scene) {
			s.Helper()
			s.save(with(s.fee(false), "Closed", ended.Add(-time.Microsecond)))
		}}},
		{"FeeMovedHere", change{kinds: loans, with: fees, prepare: func(s scene) { s.Helper(); s.save(with(s.fee(false), "Loan", "")) }, once: charged(false)}},
		{"FeeMovedAway", change{kinds: loans, with: fees, prepare: charged(false), once: func(s scene) { s.Helper(); s.save(with(s.fee(false), "Loan", "")) }}},

		{"AccountListed", change{possible: accounts, once: account(circulation.Account{Group: "alumni"})}},
		{"GroupChanged", change{possible: accounts, prepare: account(circulation.Account{Group: "staff"}), once: account(circulation.Account{Group: "alumni"})}},
		{"AccountExtended", change{possible: accounts, prepare: account(circulation.Account{Expires: ended}), once: account(circulation.Account{Expires: now})}},
		{"AccountEnded", change{possible: accounts, prepare: account(circulation.Account{Expires: now}), once: account(circulation.Account{Expires: ended})}},
		{"WishExpressed", change{possible: accounts, prepare: account(circulation.Account{Group: "staff"}), once: account(circulation.Account{Group: "staff", Wish: circulation.WishForget})}},
		{"WishDated", change{possible: accounts, prepare: account(circulation.Account{Wish: circulation.WishKeep}), once: account(circulation.Account{Wish: circulation.WishKeep, WishSince: ended})}},

		{"HoldAdded", change{possible: holds, once: hold("case 1", time.Time{})}},
		{"HoldReleased", change{possible: func(f *fixture) bool { return f.AddHold != nil && f.ReleaseHold != nil }, prepare: hold("case 1", time.Time{}), once: func(s scene) {
			s.Helper()
			if released, err := s.ReleaseHold(s.Context(), s.person(0), "case 1"); err != nil || !released {
				s.Fatalf("ReleaseHold: %v, error %v; want true", released, err)
			}
		}}},

		{"NewerLoan", change{kinds: loans, once: func(s scene) { s.Helper(); s.save(another(s, s.person(0), 1)) }}},
		{"OtherLoanBecameNewer", change{kinds: loans, prepare: func(s scene) { s.Helper(); s.save(another(s, s.person(0), -1)) },
			once: func(s scene) { s.Helper(); s.save(another(s, s.person(0), 1)) }}},
		{"NewerLoanOfAnotherGivenToTheBorrower", change{kinds: loans, prepare: func(s scene) { s.Helper(); s.save(another(s, s.person(2), 1)) },
			once: func(s scene) { s.Helper(); s.save(another(s, s.person(0), 1)) }}},
		{"NewerLoanOfTheItem", change{kinds: loans, once: func(s scene) {
			s.Helper()
			s.save(with(another(s, s.person(2), 1), "Item", "item-"+s.id(0)))
		}}},
		{"NewerLoanWasOfTheItem", change{kinds: loans, prepare: func(s scene) { s.Helper(); s.save(another(s, s.person(2), 1)) }, once: func(s scene) {
			s.Helper()
			s.save(with(another(s, s.person(2), 1), "Item", "item-"+s.id(0)))
		}}},
	} {
		can := func(k circulation.Kind) bool { return f.holds(k) }
		if c.possible != nil && !c.possible(f) || slices.ContainsFunc(c.of(f), func(k circulation.Kind) bool { return !can(k) }) ||
			slices.ContainsFunc(c.with, func(k circulation.Kind) bool { return !can(k) }) {
			continue
		}
		c.change.name = c.name
		possible = append(possible, c.change)
	}
	return possible
}

// sets the scenes of all changes, with everything read and put off until something changes.
func (f *fixture) setScenes(changes []change) {
	f.Helper()
	for n, c := range changes {
		s := scene{f, n}
		for _, k := range c.of(f) {
			e := s.entry(k)
			if c.before != nil {
				e = c.before(s, k)
			}
			f.save(e)
		}
		if c.prepare != nil {
			c.prepare(s)
		}
	}
	f.resume(planA, anonymize.NeedEverything)
}

// happen lets a change happen.
func (c change) happen(s scene) {
	s.Helper()
	if c.once != nil {
		c.once(s)
		return
	}
	for _, k := range c.of(s.fixture) {
		c.happens(s, k)
	}
}

// each runs a subtest for every change, all on the same store.
func (f *fixture) eachChange(changes []change, run func(s scene, c change)) {
	for n, c := range changes {
		f.T.Run(c.name, func(t *testing.T) {
			run(scene{&fixture{T: t, open: f.open, Circulation: f.Circulation}, n}, c)
		})
	}
}

func testChangesWake(f *fixture) {
	changes := f.changes()
	f.setScenes(changes)
	f.putAllOff()
	for _, k := range f.kinds() {
		f.areAwake("all were put off", underPlan(k, planA))
	}
	f.eachChange(changes, func(s scene, c change) {
		c.happen(s)
		s.resume(planA, anonymize.NeedEverything)
		for _, k := range c.of(s.fixture) {
			awake := s.awake(k)
			if _, ok := awake[s.id(0)]; !ok {
				s.Errorf("a %s sleeps on after this: %s", k, c.name)
			}
			for other := range changes {
				if o := (scene{f, other}); other != s.n {
					if _, ok := awake[o.id(0)]; ok {
						s.Errorf("the %s of somebody else woke, of the scene %s", k, changes[other].name)
					}
				}
			}
		}
		s.putAllOff()
		s.resume(planA, anonymize.NeedEverything)
		for _, k := range c.of(s.fixture) {
			s.areAwake("put off again", underPlan(k, planA))
		}
	})
}

// With each need alone, for a store may look at both or at one of them, and settle them in places of their own.
func testNewerLoansWake(f *fixture) {
	for _, per := range []struct {
		name string
		need anonymize.Needs
		of   func(i int) (circulation.Borrower, string)
	}{
		{"PerBorrower", anonymize.NeedNewerByBorrower, func(i int) (circulation.Borrower, string) { return person(1), fmt.Sprintf("copy-%d", i) }},
		{"PerItem", anonymize.NeedNewerOfItem, func(i int) (circulation.Borrower, string) { return person(100 + i), "copy" }},
	} {
		f.sub(per.name, func(f *fixture) {
			nth := func(i int) circulation.Entry {
				b, item := per.of(i)
				return with(with(loan(f.id(i), b), "Item", item), "Loaned", began.AddDate(0, 0, i))
			}
			q := underPlan(circulation.KindLoan, planA)
			q.Needs = per.need
			f.save(nth(0), loan(f.id(50), person(50)))
			for i := 1; i < 4; i++ { // more than once: what was settled must count anew
				f.resume(planA, per.need)
				for _, r := range f.linkedIn(q) {
					f.putOff(planA, per.need, time.Time{}, r)
				}
				f.areAwake("all were put off", q)
				f.save(nth(i))
				f.resume(planA, per.need)
				var want []string
				for j := range i + 1 {
					want = append(want, f.id(j))
				}
				for id, r := range f.linkedIn(q) {
					got := r.NewerByBorrower
					if per.need == anonymize.NeedNewerOfItem {
						got = r.NewerOfItem
					}
					if j := slices.Index(want, id); j >= 0 && got != i-j {
						f.Errorf("a loan that woke has %d newer loans, want %d", got, i-j)
					}
				}
				f.areAwake("a newer loan came", q, want...)
			}
		})
	}
}

func testAnotherPlan(f *fixture) {
	for _, k := range f.kinds() {
		f.fill(k, 5)
	}
	f.resume(planA, anonymize.NeedEverything)
	f.putAllOff()
	for _, k := range f.kinds() {
		f.areAwake("under the plan under which it was put off", underPlan(k, planA))
		if n := len(f.linkedIn(underPlan(k, planB))); n != 5 {
			f.Errorf("the pages under a plan that nobody has begun have %d records of the kind %s, want all 5", n, k)
		}
	}
	f.resume(planB, anonymize.NeedEverything)
	for _, k := range f.kinds() {
		all := f.linkedIn(underPlan(k, planB))
		if len(all) != 5 {
			f.Errorf("the pages under another plan have %d records of the kind %s, want all 5", len(all), k)
		}
		// A sweep under the first plan that is still on its way must not put off what the second one has to read.
		for _, r := range all {
			f.putOff(planA, anonymize.NeedEverything, time.Time{}, r)
		}
		if n := len(f.linkedIn(underPlan(k, planB))); n != 5 {
			f.Errorf("after a Defer under the plan before, the pages have %d records of the kind %s, want all 5", n, k)
		}
	}
}

// A plan that does not ask for newer loans need not let them wake anybody; one that does is another plan, even if it was there before.
func testBackToTheFirstPlan(f *fixture) {
	k := circulation.KindLoan
	f.save(loan(f.id(0), person(1)))
	needs := anonymize.NeedNewerByBorrower
	f.resume(planA, needs)
	f.putOff(planA, needs, time.Time{}, f.awake(k)[f.id(0)])
	f.areAwake("put off", underPlan(k, planA))
	f.resume(planB, 0)
	f.putOff(planB, 0, time.Time{}, f.linkedIn(underPlan(k, planB))[f.id(0)])
	f.save(with(loan(f.id(1), person(1)), "Loaned", began.AddDate(0, 0, 1)))
	f.resume(planB, 0)
	f.resume(planA, needs)
	if r, ok := f.awake(k)[f.id(0)]; !ok || r.NewerByBorrower != 1 {
		f.Errorf("back under the first plan, a loan sleeps on, of whose borrower a newer loan came in between")
	}
}

// staleDeferral tests that a record is not put off when something happened after it was read; also when a Resume in between, of another
// worker, has already dealt with that.
func staleDeferral(settled bool) func(*fixture) {
	return func(f *fixture) {
		changes := f.changes()
		for _, k := range f.kinds() { // something that nothing happens to
			f.save(entry(k, f.id(0), person(1)))
		}
		f.setScenes(changes)
		var read []circulation.Record
		for _, k := range f.kinds() {
			for _, r := range f.awake(k) {
				read = append(read, r)
			}
		}
		for n, c := range changes {
			c.happen(scene{f, n})
		}
		if settled {
			f.resume(planA, anonymize.NeedEverything)
		}
		for some := range slices.Chunk(read, 7) {
			f.putOff(planA, anonymize.NeedEverything, time.Time{}, some...)
		}
		f.resume(planA, anonymize.NeedEverything)
		f.eachChange(changes, func(s scene, c change) {
			for _, k := range c.of(s.fixture) {
				if _, ok := s.awake(k)[s.id(0)]; !ok {
					s.Errorf("a %s was put off though this happened after it was read: %s", k, c.name)
				}
			}
		})
		for _, k := range f.kinds() {
			if _, ok := f.awake(k)[f.id(0)]; ok && !settled { // a store may leave alone all that was read before the last Resume
				f.Errorf("a %s to which nothing happened was not put off together with others that had changed", k)
			}
		}
	}
}

func testDeferOfUnlinked(f *fixture) {
	f.resume(planA, anonymize.NeedEverything)
	f.putOff(planA, anonymize.NeedEverything, now)
	for _, k := range f.kinds() {
		f.save(entry(k, f.id(0), person(1)), entry(k, f.id(1), person(1)), entry(k, f.id(2), person(1)))
		f.resume(planA, anonymize.NeedEverything)
		read := f.awake(k)
		f.unlink(k, f.id(0))
		unknown := read[f.id(1)]
		unknown.ID = f.id(99)
		f.putOff(planA, anonymize.NeedEverything, time.Time{}, read[f.id(0)], unknown, read[f.id(2)])
		f.areAwake("deferred together with records that are gone or unknown", underPlan(k, planA), f.id(1))
		if f.isLinked(k, f.id(0)) {
			f.Errorf("Defer brought the borrower of an unlinked %s back", k)
		}
	}
	if err := f.deferrer().Defer(f.Context(), anonymize.Deferral{Plan: planA, Kind: f.kinds()[0]}); err != nil {
		f.Errorf("Defer of nothing: %v", err)
	}
}

// mixed makes n records of which some are awake because they are new, some because they are due, some because they changed; the others
// sleep until different times. It returns the IDs of those that are awake.
func (f *fixture) mixed(k circulation.Kind, n int) (awake []string) {
	f.Helper()
	f.fill(k, n)
	f.resume(planA, anonymize.NeedEverything)
	read := f.awake(k)
	if len(read) != n {
		f.Fatalf("the pages under a plan have %d records of the kind %s, want %d", len(read), k, n)
	}
	var changed []circulation.Entry
	for i := range n {
		id := f.id(i)
		switch i % 6 {
		case 0: // new
		case 1, 2:
			f.putOff(planA, anonymize.NeedEverything, now.AddDate(0, 0, -(i*5)%7), read[id]) // due, at several times, now among them
		case 3:
			f.putOff(planA, anonymize.NeedEverything, now.AddDate(0, 0, i), read[id])
			changed = append(changed, with(entry(k, id, person(i%3)), "Library", "elsewhere"))
		case 4:
			f.putOff(planA, anonymize.NeedEverything, now.Add(time.Duration(1+i)*time.Microsecond), read[id])
			continue
		case 5:
			f.putOff(planA, anonymize.NeedEverything, time.Time{}, read[id])
			continue
		}
		awake = append(awake, id)
	}
	f.save(changed...)
	f.resume(planA, anonymize.NeedEverything)
	return awake
}

func testPagesUnderAPlan(f *fixture) {
	const n = 26
	for _, size := range []int{1, 2, 3, 7, 100} {
		f.sub(fmt.Sprintf("by %d", size), func(f *fixture) {
			for _, k := range f.kinds() {
				awake := f.mixed(k, n)
				q := underPlan(k, planA)
				q.Limit = size
				f.areAwake("page by page", q, awake...)

				// The same while what was read is unlinked, put off and left alone in turn.
				var seen []string
				f.pages(q, func(records []circulation.Record) {
					var due, kept []circulation.Record
					for _, r := range records {
						switch seen = append(seen, r.ID); len(seen) % 4 {
						case 0:
							due = append(due, r)
						case 1:
							kept = append(kept, r)
						case 2:
							f.putOff(planA, anonymize.NeedEverything, now.AddDate(0, 0, len(seen)), r)
						}
					}
					f.putOff(planA, anonymize.NeedEverything, time.Time{}, kept...)
					if len(due) > 0 {
						if conflicts := f.try(due...); len(conflicts) > 0 {
							f.Errorf("Unlink of records that were read under a plan: conflicts %q, want none", conflicts)
						}
					}
				})
				slices.Sort(seen)
				slices.Sort(awake)
				if !slices.Equal(seen, awake) {
					f.Errorf("while they were unlinked and put off, the pages of the kind %s had %q, want each of %q once", k, seen, awake)
				}
			}
		})
	}
}

func testShardsUnderAPlan(f *fixture) {
	const n, of = 40, 3
	for _, k := range f.kinds() {
		awake := f.mixed(k, n)
		home := make(map[string]int)
		q := query(k)
		for q.Shard = (anonymize.Shard{Of: of}); q.Shard.Index < of; q.Shard.Index++ {
			for id := range f.linkedIn(q) {
				home[id] = q.Shard.Index
			}
		}
		q = underPlan(k, planA)
		q.Limit = 4
		found := 0
		for q.Shard = (anonymize.Shard{Of: of}); q.Shard.Index < of; q.Shard.Index++ {
			for id := range f.linkedIn(q) {
				if found++; home[id] != q.Shard.Index || !slices.Contains(awake, id) {
					f.Errorf("under a plan %s %s is in shard %d, which it does not belong to or should sleep in", k, id, q.Shard.Index)
				}
			}
		}
		if found != len(awake) {
			f.Errorf("the shards have %d records of the kind %s together, want the %d that are awake", found, k, len(awake))
		}
	}
}

func testCount(f *fixture) {
	const n, of = 20, 3
	count := func(k circulation.Kind, shard anonymize.Shard) int {
		f.Helper()
		c, err := f.deferrer().Count(f.Context(), k, shard)
		if err != nil {
			f.Fatalf("Count: %v", err)
		}
		return c
	}
	for _, k := range f.kinds() {
		f.same("Count of nothing", count(k, anonymize.Shard{}), 0)
		f.mixed(k, n)
		f.same("Count", count(k, anonymize.Shard{}), n)
		f.same("Count of the only shard", count(k, anonymize.Shard{Of: 1}), n)
		sum := 0
		for i := range of {
			q := query(k)
			q.Shard = anonymize.Shard{Index: i, Of: of}
			c := count(k, q.Shard)
			f.same("Count of a shard", c, len(f.linkedIn(q)))
			sum += c
		}
		f.same("Count of all shards", sum, n)
		f.unlink(k, f.id(0), f.id(4))
		f.same("Count after two were unlinked", count(k, anonymize.Shard{}), n-2)
	}
	for _, k := range circulation.Kinds() {
		if !f.holds(k) {
			f.same("Count of a kind that the store does not hold", count(k, anonymize.Shard{}), 0)
		}
	}
}

func testCanceledDeferral(f *fixture) {
	k := f.kinds()[0]
	f.fill(k, 3)
	f.resume(planA, anonymize.NeedEverything)
	read := f.awake(k)
	canceled, cancel := context.WithCancel(f.Context())
	cancel()
	if f.deferrer().Resume(canceled, planB, 0) == nil {
		f.Error("Resume with a canceled context returned no error")
	}
	d := anonymize.Deferral{Plan: planA, Kind: k, Needs: anonymize.NeedEverything}
	for _, r := range read {
		d.Records = append(d.Records, anonymize.Deferred{ID: r.ID, Version: r.Version})
	}
	if f.deferrer().Defer(canceled, d) == nil {
		f.Error("Defer with a canceled context returned no error")
	}
	if n, err := f.deferrer().Count(canceled, k, anonymize.Shard{}); err == nil {
		f.Errorf("Count with a canceled context returned %d and no error", n)
	}
	if n := len(f.awake(k)); n != 3 {
		f.Errorf("after a Defer with a canceled context %d records are awake, want all 3", n)
	}
	f.must(f.deferrer().Defer(f.Context(), d))
	f.areAwake("put off after Resume with a canceled context named another plan", underPlan(k, planA))
}

// The desk works while a sweep puts records off. Whatever the desk was told is saved, the sweep has seen or will see.
func testChangesRaceDeferral(f *fixture) {
	const n, rounds = 12, 15
	k := f.kinds()[0]
	f.fill(k, n)
	f.resume(planA, anonymize.NeedEverything)
	value := func(i, round int) string { return fmt.Sprintf("v-%d-%d", i, round) }
	current := func(r circulation.Record) string {
		if f.SaveAccount != nil && r.GroupNow != "" {
			return r.Library + " " + r.GroupNow
		}
		return r.Library
	}

	var mu sync.Mutex
	seen := make(map[string]bool) // what some sweep read of a record before it put it off
	done := make(chan struct{})
	var sweeps sync.WaitGroup
	for worker := range 2 {
		sweeps.Go(func() { // the second one only begins, again and again: what it settles the first one must not lose
			for {
				select {
				case <-done:
					return
				default:
				}
				err := f.deferrer().Resume(f.Context(), planA, anonymize.NeedEverything)
				var page anonymize.Page
				if err == nil && worker == 0 {
					page, err = f.Store.Linked(f.Context(), underPlan(k, planA))
				}
				d := anonymize.Deferral{Plan: planA, Kind: k, Needs: anonymize.NeedEverything}
				for _, r := range page.Records {
					d.Records = append(d.Records, anonymize.Deferred{ID: r.ID, Version: r.Version})
					mu.Lock()
					seen[r.ID+" "+current(r)] = true
					mu.Unlock()
				}
				time.Sleep(time.Millisecond) // as long as it takes to unlink the others of the page
				if err == nil {
					err = f.deferrer().Defer(f.Context(), d)
				}
				if err != nil {
					f.Errorf("a sweep in a race: %v", err)
					return
				}
			}
		})
	}
	for round := range rounds {
		want := make(map[string]string)
		for i := range n {
			e := with(entry(k, f.id(i), person(i)), "Library", value(i, round))
			if err := f.Save(f.Context(), e); err != nil {
				f.Errorf("Save in a race: %v", err)
			}
			want[f.id(i)] = value(i, round)
			time.Sleep(300 * time.Microsecond) // some sweep has read it by now, and not put it off yet
			if f.SaveAccount != nil {
				if err := f.SaveAccount(f.Context(), circulation.Account{Borrower: person(i), Group: value(i, round)}); err != nil {
					f.Errorf("SaveAccount in a race: %v", err)
				}
				want[f.id(i)] += " " + value(i, round)
			}
		}
		time.Sleep(2 * time.Millisecond)
		f.resume(planA, anonymize.NeedEverything)
		awake := f.awake(k)
		mu.Lock()
		for id, v := range want {
			if _, ok := awake[id]; !ok && !seen[id+" "+v] {
				f.Errorf("%s %s sleeps with %q, and no sweep has seen that", k, id, v)
			}
		}
		mu.Unlock()
	}
	close(done)
	sweeps.Wait()
}
