package storetest

import (
	"time"

	"github.com/carrel-project/carrel/circulation"
)

func conflictCases() []testcase {
	loans := []circulation.Kind{circulation.KindLoan}
	fees := []circulation.Kind{circulation.KindLoan, circulation.KindFee}
	return []testcase{
		{name: "StaleVersionConflicts", run: testStaleVersion},
		{name: "FeeOpenedInBetweenConflicts", kinds: fees, run: testFeeOpened},
		{name: "LoanReopenedInBetweenConflicts", kinds: loans, run: inBetween("was reopened", func(f *fixture) {
			f.save(unfinished(circulation.KindLoan, f.id(0), person(1)))
		})},
		{name: "LostInBetweenConflicts", kinds: loans, run: inBetween("was declared lost", func(f *fixture) {
			f.save(with(loan(f.id(0), person(1)), "Lost", true))
		})},
		{name: "BorrowerChangedInBetweenConflicts", run: testBorrowerChanged},
		{name: "HoldInBetweenConflicts", holds: true, run: testHoldInBetween},
		{name: "ProtectedNeverUnlinked", run: testProtected},
		{name: "UnknownTargetIsAConflict", run: testUnknownTarget},
	}
}

func testStaleVersion(f *fixture) {
	for _, name := range []string{"Library", "Note"} { // what happened, and what was written about it
		f.sub(name, func(f *fixture) {
			f.eachKind(func(f *fixture, k circulation.Kind) {
				e := entry(k, f.id(0), person(1))
				f.save(e, entry(k, f.id(1), person(1)))
				stale, other := f.get(k, f.id(0)), f.get(k, f.id(1))
				f.save(with(e, name, "changed"))
				conflicts := f.try(stale, other)
				if len(conflicts) != 1 || conflicts[0] != stale.ID {
					f.Errorf("Unlink with a stale version of %s and a good one: conflicts %q, want %q", k, conflicts, stale.ID)
				}
				if !f.isLinked(k, stale.ID) {
					f.Errorf("a %s was unlinked though it had changed since it was read", k)
				}
				if f.isLinked(k, other.ID) {
					f.Errorf("a conflict of one record kept another one from being unlinked")
				}
				if got := f.receipts(); len(got) != 1 || got[0].Unlinked != 1 || got[0].Conflicts != 1 {
					f.Errorf("the receipts are %+v, want one that counts 1 unlinked and 1 conflict", got)
				}
				if fresh := f.get(k, stale.ID); fresh.Version == stale.Version {
					f.Errorf("the version of a %s did not change with its %s", k, name)
				}
				f.unlink(k, stale.ID)
			})
		})
	}
}

func testFeeOpened(f *fixture) {
	b := person(1)
	for _, c := range []struct {
		name          string
		before, after func(f *fixture) circulation.Fee
	}{
		{"Opened", nil, func(f *fixture) circulation.Fee { return openFee(f.id(5), b) }},
		// A fee that came and was settled is not open, but rules may ask whether there was one.
		{"OpenedAndPaid", nil, func(f *fixture) circulation.Fee { return fee(f.id(5), b) }},
		{"Reopened", func(f *fixture) circulation.Fee { return fee(f.id(5), b) },
			func(f *fixture) circulation.Fee { return openFee(f.id(5), b) }},
		{"ClosedLater", func(f *fixture) circulation.Fee { return fee(f.id(5), b) },
			func(f *fixture) circulation.Fee {
				later := fee(f.id(5), b)
				later.Closed = later.Closed.Add(time.Microsecond)
				return later
			}},
	} {
		f.sub(c.name, func(f *fixture) {
			f.save(loan(f.id(0), b))
			if c.before != nil {
				f.save(with(c.before(f), "Loan", f.id(0)))
			}
			stale := f.get(circulation.KindLoan, f.id(0))
			f.save(with(c.after(f), "Loan", f.id(0)))
			f.refused(stale, "has another fee now")
		})
	}
}

// inBetween tests that what happens to a loan between read and write keeps the link.
func inBetween(what string, happens func(f *fixture)) func(*fixture) {
	return func(f *fixture) {
		f.save(loan(f.id(0), person(1)))
		stale := f.get(circulation.KindLoan, f.id(0))
		happens(f)
		f.refused(stale, what+" in between")
	}
}

func testBorrowerChanged(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		f.save(entry(k, f.id(0), person(1)))
		stale := f.get(k, f.id(0))
		f.save(entry(k, f.id(0), person(2)))
		f.refused(stale, "was given to another borrower in between")
	})
}

func testHoldInBetween(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		hold := func(n int, ref string, until time.Time) {
			f.Helper()
			f.must(f.AddHold(f.Context(), circulation.Hold{Borrower: person(n), Ref: ref, Until: until}))
		}
		f.save(entry(k, f.id(0), person(1)), entry(k, f.id(1), person(2)), entry(k, f.id(2), person(3)))
		first, second, third := f.get(k, f.id(0)), f.get(k, f.id(1)), f.get(k, f.id(2))
		hold(1, "case 1", time.Time{})
		hold(2, "case 1", now.Add(time.Microsecond))
		hold(3, "case 1", now) // over, at the time of the decision
		f.refused(first, "came under a legal hold in between")
		f.refused(second, "came under a legal hold until a moment later in between")
		if conflicts := f.try(third); len(conflicts) > 0 {
			f.Errorf("Unlink of a %s whose borrower's hold is over: conflict", k)
		}
	})
}

// A caller that has the right version and asks for a protected record is wrong, and is refused (law 2).
func testProtected(f *fixture) {
	b := person(1)
	protected := func(what string, k circulation.Kind, id string, entries ...circulation.Entry) {
		f.Helper()
		f.save(entries...)
		f.refused(f.get(k, id), what)
	}
	for _, k := range f.kinds() {
		protected("is unfinished", k, f.id(0), unfinished(k, f.id(0), b))
	}
	if f.holds(circulation.KindLoan) {
		l := loan(f.id(1), b)
		l.Lost = true
		protected("is marked lost", circulation.KindLoan, l.ID, l)
		l = loan(f.id(2), b)
		l.ClaimedReturned = true
		protected("is marked claimed returned", circulation.KindLoan, l.ID, l)
	}
	if f.holds(circulation.KindFee) {
		disputed := openFee(f.id(1), b)
		disputed.Status = circulation.FeeInProcess
		protected("is in process", circulation.KindFee, disputed.ID, disputed)
	}
	if f.holds(circulation.KindLoan) && f.holds(circulation.KindFee) {
		disputed := openFee(f.id(3), b)
		disputed.Status, disputed.Loan = circulation.FeeInProcess, f.id(3)
		protected("has a fee in process", circulation.KindLoan, f.id(3), loan(f.id(3), b), disputed)
		protected("has an open fee", circulation.KindLoan, f.id(4), loan(f.id(4), b), with(openFee(f.id(4), b), "Loan", f.id(4)))
		// One that is settled does not make up for one that is not, nor does who owes it matter.
		protected("has an open fee of somebody else", circulation.KindLoan, f.id(5), loan(f.id(5), b),
			with(fee(f.id(5), b), "Loan", f.id(5)), with(openFee(f.id(6), person(2)), "Loan", f.id(5)))
	}
	if f.AddHold != nil {
		f.must(f.AddHold(f.Context(), circulation.Hold{Borrower: person(7), Ref: "case 1"}))
		for _, k := range f.kinds() {
			protected("is under a legal hold", k, f.id(7), entry(k, f.id(7), person(7)))
		}
	}
}

func testUnknownTarget(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		f.save(entry(k, f.id(0), person(1)))
		known := f.get(k, f.id(0))
		unknown := known
		unknown.ID = f.id(99)
		conflicts := f.try(unknown, known)
		if len(conflicts) != 1 || conflicts[0] != unknown.ID {
			f.Errorf("Unlink of an unknown and a known %s: conflicts %q, want %q", k, conflicts, unknown.ID)
		}
		if f.isLinked(k, known.ID) {
			f.Error("an unknown target kept a known one from being unlinked")
		}
		if got := f.receipts(); len(got) != 1 || got[0].Unlinked != 1 || got[0].Conflicts != 1 {
			f.Errorf("the receipts are %+v, want one that counts 1 unlinked and 1 conflict", got)
		}
	})
}
