package storetest

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

func factCases() []testcase {
	loans := []circulation.Kind{circulation.KindLoan}
	fees := []circulation.Kind{circulation.KindFee}
	return []testcase{
		{name: "FactsComeBack", run: testFacts},
		{name: "AccountsComeBack", accounts: true, run: testAccounts},
		{name: "HoldsComeBack", holds: true, run: testHolds},
		{name: "FeesComeBack", kinds: fees, run: testFees},
		{name: "NewerLoans", kinds: loans, run: testNewerLoans},
	}
}

func (f *fixture) same(what string, got, want any) {
	f.Helper()
	if got != want {
		f.Errorf("%s is %v, want %v", what, got, want)
	}
}

// instant compares times to the microsecond, whatever their zone.
func (f *fixture) instant(what string, got, want time.Time) {
	f.Helper()
	if got.IsZero() != want.IsZero() || !want.IsZero() && got.UnixMicro() != want.UnixMicro() {
		f.Errorf("%s is %v, want %v", what, got, want)
	}
}

func testFacts(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		e := entry(k, f.id(0), person(1))
		f.save(e, unfinished(k, f.id(1), person(1)))
		p, err := e.Parts()
		f.must(err)
		want := p.Facts

		// Asked for one fact at a time, a store must bring that one, and always what exceptions look at.
		for need := anonymize.Needs(1); need <= anonymize.NeedEverything; need <<= 1 {
			q := query(k)
			q.Needs = need
			r := f.linkedIn(q)[f.id(0)]
			f.same("Kind", r.Kind, k)
			f.same("ID", r.ID, want.ID)
			f.same("Status", r.Status, circulation.Ended)
			f.instant("Ended", r.Ended, ended)
			if r.Version == "" || r.Borrower == "" {
				f.Errorf("Version is %q and Borrower is %q: both must be filled in", r.Version, r.Borrower)
			}
			switch need {
			case anonymize.NeedGroup:
				f.same("Group", r.Group, want.Group)
			case anonymize.NeedLibrary:
				f.same("Library", r.Library, want.Library)
			case anonymize.NeedLocation:
				f.same("Location", r.Location, want.Location)
			case anonymize.NeedType:
				f.same("Type", r.Type, want.Type)
			case anonymize.NeedItem:
				f.same("Item", r.Item, want.Item)
			}
			if !r.Started.IsZero() {
				f.instant("Started, which nobody asked for,", r.Started, began)
			}
		}
		open := f.get(k, f.id(1))
		f.same("Status of an unfinished record", open.Status, circulation.Open)
		f.instant("Ended of an unfinished record", open.Ended, time.Time{})
		f.same("Hold", open.Hold, false)

		if k == circulation.KindLoan {
			f.save(with(loan(f.id(2), person(2)), "Lost", true), with(loan(f.id(3), person(2)), "ClaimedReturned", true))
			lost, claimed := f.get(k, f.id(2)), f.get(k, f.id(3))
			f.same("Lost of a lost loan", lost.Lost, true)
			f.same("ClaimedReturned of a lost loan", lost.ClaimedReturned, false)
			f.same("ClaimedReturned of a claimed loan", claimed.ClaimedReturned, true)
			f.same("Lost of a claimed loan", claimed.Lost, false)
		}

		// Finer than a microsecond is cut off, not rounded into tomorrow; the zone does not matter.
		endField := map[circulation.Kind]string{circulation.KindLoan: "Returned", circulation.KindNotice: "Sent"}
		midnight := time.Date(2026, 3, 18, 1, 59, 59, 999_999_999, time.FixedZone("", 2*60*60))
		f.save(with(e, cmp.Or(endField[k], "Closed"), midnight))
		f.instant("Ended a nanosecond before midnight", f.get(k, f.id(0)).Ended, midnight.Truncate(time.Microsecond))
	})
}

func testAccounts(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		f.save(entry(k, f.id(0), person(1)), entry(k, f.id(1), person(2)))
		a := circulation.Account{Borrower: person(1), Group: "alumni", Expires: ended.AddDate(1, 0, 0),
			Wish: circulation.WishForget, WishSince: began}
		check := func(when string) {
			f.Helper()
			for need := anonymize.Needs(1); need <= anonymize.NeedEverything; need <<= 1 {
				q := query(k)
				q.Needs = need
				r := f.linkedIn(q)[f.id(0)]
				switch need {
				case anonymize.NeedGroupNow:
					f.same("GroupNow "+when, r.GroupNow, a.Group)
				case anonymize.NeedExpires:
					f.instant("BorrowerExpires "+when, r.BorrowerExpires, a.Expires)
				case anonymize.NeedWish:
					f.same("Wish "+when, r.Wish, a.Wish)
					f.instant("WishSince "+when, r.WishSince, a.WishSince)
				}
			}
			other := f.get(k, f.id(1))
			if other.GroupNow != "" || !other.BorrowerExpires.IsZero() || other.Wish != circulation.WishNone || !other.WishSince.IsZero() {
				f.Errorf("%s: a borrower without account has facts of one: %+v", when, other)
			}
		}
		f.must(f.SaveAccount(f.Context(), a))
		check("of an account")
		a = circulation.Account{Borrower: person(1), Group: "staff", Wish: circulation.WishKeep}
		f.must(f.SaveAccount(f.Context(), a))
		check("of a changed account")
	})
}

func testHolds(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		f.save(entry(k, f.id(0), person(1)), entry(k, f.id(1), person(2)))
		f.must(f.AddHold(f.Context(), circulation.Hold{Borrower: person(1), Ref: "case 1", Until: now}))
		check := func(at time.Time, want bool) {
			f.Helper()
			q := query(k)
			q.At = at
			records := f.linkedIn(q)
			f.same(fmt.Sprintf("Hold at %v", at), records[f.id(0)].Hold, want)
			f.same("Hold of somebody else", records[f.id(1)].Hold, false)
		}
		check(now.Add(-time.Microsecond), true)
		check(now, false) // Until is the first instant at which it no longer holds
		f.must(f.AddHold(f.Context(), circulation.Hold{Borrower: person(1), Ref: "case 2"}))
		check(now, true)
		check(now.AddDate(100, 0, 0), true)
	})
}

// feesOf returns a record's fees in a fixed order.
func feesOf(r circulation.Record) []circulation.FeeSummary {
	return slices.SortedFunc(slices.Values(r.Fees), func(a, b circulation.FeeSummary) int {
		return cmp.Or(cmp.Compare(a.Status, b.Status), a.Closed.Compare(b.Closed), cmp.Compare(a.Method, b.Method))
	})
}

func (f *fixture) fees(what string, r circulation.Record, want ...circulation.FeeSummary) {
	f.Helper()
	got := feesOf(r)
	if len(got) != len(want) {
		f.Errorf("%s has %d fees, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		f.same(what+": status of a fee", got[i].Status, want[i].Status)
		f.same(what+": method of a fee", got[i].Method, want[i].Method)
		f.instant(what+": closing of a fee", got[i].Closed, want[i].Closed)
	}
}

var (
	owed      = circulation.FeeSummary{Status: circulation.FeeOpen}
	inProcess = circulation.FeeSummary{Status: circulation.FeeInProcess}
	paid      = circulation.FeeSummary{Status: circulation.FeeClosed, Closed: ended, Method: "cash"}
)

func testFees(f *fixture) {
	alone := openFee(f.id(9), person(1))
	disputed := openFee(f.id(1), person(1))
	disputed.Status = circulation.FeeInProcess
	undated := fee(f.id(4), person(3))
	undated.Closed = time.Time{}
	f.save(alone, disputed, undated, fee(f.id(2), person(2)))
	f.fees("an open fee", f.get(circulation.KindFee, f.id(9)), owed)
	f.fees("a fee in process", f.get(circulation.KindFee, f.id(1)), inProcess)
	f.fees("a paid fee", f.get(circulation.KindFee, f.id(2)), paid)
	f.fees("a fee closed nobody knows when", f.get(circulation.KindFee, f.id(4)),
		circulation.FeeSummary{Status: circulation.FeeClosed, Method: "cash"})
	if !f.holds(circulation.KindLoan) {
		return
	}
	f.save(loan(f.id(0), person(1)), loan(f.id(3), person(1)))
	f.fees("a loan without fees", f.get(circulation.KindLoan, f.id(0)))
	f.save(with(alone, "Loan", f.id(0)), with(disputed, "Loan", f.id(0)), with(fee(f.id(2), person(2)), "Loan", f.id(0)))
	f.fees("a loan with three fees", f.get(circulation.KindLoan, f.id(0)), owed, inProcess, paid)
	f.fees("another loan of the borrower", f.get(circulation.KindLoan, f.id(3)))
	f.save(with(fee(f.id(9), person(1)), "Loan", f.id(0)))
	f.fees("a loan of which a fee was paid", f.get(circulation.KindLoan, f.id(0)), inProcess, paid, paid)
}

// newer checks the numbers of newer loans, by the loans' numbers.
func (f *fixture) newer(what string, count func(circulation.Record) int, want map[int]int) {
	f.Helper()
	loans := f.linked(circulation.KindLoan)
	for i, n := range want {
		r, ok := loans[f.id(i)]
		if !ok {
			f.Fatalf("%s: loan %s does not name a borrower any more", what, f.id(i))
		}
		if count(r) != n {
			f.Errorf("%s: loan %s has %d newer loans, want %d", what, f.id(i), count(r), n)
		}
	}
}

func testNewerLoans(f *fixture) {
	day := func(d int) time.Time { return began.AddDate(0, 0, d) }
	for _, per := range []struct {
		name  string
		need  anonymize.Needs
		count func(circulation.Record) int
		// loan makes the nth loan, of the queue's borrower or item, the other one being its own.
		loan func(f *fixture, n, queue, start int) circulation.Entry
	}{
		{"PerBorrower", anonymize.NeedNewerByBorrower, func(r circulation.Record) int { return r.NewerByBorrower },
			func(f *fixture, n, queue, start int) circulation.Entry {
				return with(loan(f.id(n), person(queue)), "Loaned", day(start))
			}},
		{"PerItem", anonymize.NeedNewerOfItem, func(r circulation.Record) int { return r.NewerOfItem },
			func(f *fixture, n, queue, start int) circulation.Entry {
				l := loan(f.id(n), person(1000+n))
				l.Item = fmt.Sprintf("copy-%d", queue)
				return with(l, "Loaned", day(start))
			}},
	} {
		f.sub(per.name, func(f *fixture) {
			f.sub("InOrder", func(f *fixture) {
				for n, start := range []int{1, 2, 2, 3} { // two of the same start are not newer than each other
					f.save(per.loan(f, n, 0, start))
				}
				f.save(per.loan(f, 4, 1, 9)) // somebody else's
				f.newer("in order", per.count, map[int]int{0: 3, 1: 1, 2: 1, 3: 0, 4: 0})
				q := query(circulation.KindLoan)
				q.Needs = per.need
				f.same("the number when only it is asked for", per.count(f.linkedIn(q)[f.id(0)]), 3)
			})
			f.sub("OutOfOrder", func(f *fixture) {
				for _, n := range []int{3, 0, 2, 1} {
					f.save(per.loan(f, n, 0, []int{1, 2, 2, 3}[n]))
				}
				f.newer("out of order", per.count, map[int]int{0: 3, 1: 1, 2: 1, 3: 0})
				f.save(per.loan(f, 1, 0, 2)) // said again
				f.newer("said again", per.count, map[int]int{0: 3, 1: 1, 2: 1, 3: 0})
			})
			f.sub("Moved", func(f *fixture) {
				for n := range 4 {
					f.save(per.loan(f, n, 0, n))
				}
				f.save(per.loan(f, 2, 0, 9)) // it started later than was said
				f.newer("another start", per.count, map[int]int{0: 3, 1: 2, 3: 1, 2: 0})
				f.save(per.loan(f, 2, 1, 2)) // it was somebody else's
				f.newer("in another queue", per.count, map[int]int{0: 2, 1: 1, 3: 0, 2: 0})
			})
			f.sub("UnlinkedCount", func(f *fixture) {
				// Each order of unlinking has a queue of its own: what is said of the rest must not depend on it.
				orders := permutations(4)
				for i := range orders {
					for n := range 4 {
						f.save(per.loan(f, 4*i+n, i, n))
					}
				}
				for step := range 4 {
					want := make(map[int]int)
					for i, order := range orders {
						for _, n := range order[step:] {
							want[4*i+n] = 3 - n
						}
					}
					f.newer(fmt.Sprintf("%d unlinked", step), per.count, want)
					all := f.linked(circulation.KindLoan)
					var due []circulation.Record
					for i, order := range orders {
						due = append(due, all[f.id(4*i+order[step])])
					}
					if conflicts := f.try(due...); len(conflicts) > 0 {
						f.Fatalf("Unlink: conflicts %q, want none", conflicts)
					}
				}
			})
			f.sub("ArrivingAfterUnlink", func(f *fixture) {
				for n := range 5 {
					f.save(per.loan(f, n, 0, 10*n))
				}
				f.unlink(circulation.KindLoan, f.id(2))
				f.save(per.loan(f, 5, 0, 99))
				f.newer("one newer than all", per.count, map[int]int{0: 5, 1: 4, 3: 2, 4: 1, 5: 0})
				f.save(per.loan(f, 6, 0, 15)) // older than the unlinked one, if the store still knows when that was
				f.newer("one older than the unlinked", per.count, map[int]int{0: 6, 1: 5, 3: 2, 4: 1, 5: 0})
				if got := per.count(f.get(circulation.KindLoan, f.id(6))); got != 3 && got != 4 {
					f.Errorf("a loan that arrived beside an unlinked one has %d newer loans, want 3 (or 4)", got)
				}
			})
		})
	}
}

// permutations returns all orders of 0 … n-1.
func permutations(n int) [][]int {
	if n == 0 {
		return [][]int{{}}
	}
	var all [][]int
	for _, p := range permutations(n - 1) {
		for i := range n {
			all = append(all, slices.Insert(slices.Clone(p), i, n-1))
		}
	}
	return all
}
