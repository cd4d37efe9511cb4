package storetest

import (
	"fmt"
	"strings"

	"github.com/carrel-project/carrel/circulation"
)

func pointerCases() []testcase {
	fees := []circulation.Kind{circulation.KindLoan, circulation.KindFee}
	return []testcase{
		{name: "NothingLinksBack", run: testNothingLinksBack},
		{name: "FeeSummarySurvivesFee", kinds: fees, run: testFeeSummary},
		{name: "UnlinkedLoanKeepsNoSummary", kinds: fees, run: testNoSummary},
	}
}

// A pointer is an ID in a place where it need not be. So the suite counts IDs in the dump and compares
// with a second store, in which the same happened to the same records without the pointer.
func testNothingLinksBack(f *fixture) {
	for _, k := range f.kinds() {
		for _, fd := range circulation.Fields(k) {
			to := pointsAt(fd)
			if to == 0 || !f.holds(to) {
				continue
			}
			f.sub(fmt.Sprintf("%s to %s", k, to), func(f *fixture) {
				f.sub("the one that points goes first", func(f *fixture) { testPointer(f, k, to, fd.Name, k, to) })
				f.sub("the one pointed at goes first", func(f *fixture) { testPointer(f, k, to, fd.Name, to, k) })
			})
		}
	}
}

func testPointer(f *fixture, from, to circulation.Kind, name string, order ...circulation.Kind) {
	ids := map[circulation.Kind]string{from: f.id(7000001), to: f.id(7000002)}
	control := f.another()
	plain := entry(from, ids[from], person(1))
	pointing := with(plain, name, ids[to])
	f.save(entry(to, ids[to], person(1)), pointing)
	control.save(entry(to, ids[to], person(1)), plain)

	surplus := func() int {
		n := 0
		dump, controlDump := f.dump(), control.dump()
		for _, id := range ids {
			n += strings.Count(dump, id) - strings.Count(controlDump, id)
		}
		return n
	}
	if surplus() < 1 {
		f.Fatalf("Dump does not show that a %s points at a %s: it must show the ID pointed at", from, to)
	}
	f.unlink(order[0], ids[order[0]])
	control.unlink(order[0], ids[order[0]])
	allowed := 0
	if order[0] == circulation.KindFee && to == circulation.KindLoan {
		allowed = 1 // the loan's summary of the fee, which may well be filed under the loan's own ID
	}
	if n := surplus(); n > allowed {
		f.Errorf("the %s was unlinked and Dump still shows a pointer between it and the %s (%+d IDs)", order[0], order[1], n)
	}
	// A late export says it again. What it says of a removed notice, the store may not know to be late.
	if order[0] != circulation.KindNotice {
		if err := f.Save(f.Context(), pointing); err != nil {
			f.Logf("saving the %s again: %v", from, err)
		}
		if err := control.Save(f.Context(), plain); err != nil {
			f.Logf("saving the %s again: %v", from, err)
		}
		if n := surplus(); n > allowed {
			f.Errorf("the %s was unlinked and Dump shows a pointer between it and the %s again (%+d IDs)", order[0], order[1], n)
		}
	}
	f.unlink(order[1], ids[order[1]])
	control.unlink(order[1], ids[order[1]])
	if n := surplus(); n > 0 {
		f.Errorf("%s and %s were both unlinked and Dump still shows a pointer between them (%+d IDs)", from, to, n)
	}
}

// A rule on fees must still work when the fee has lost its name before the loan has.
func testFeeSummary(f *fixture) {
	b := person(1)
	card := fee(f.id(2), b)
	card.Method, card.Closed = "card", ended.AddDate(0, 1, 0)
	byCard := paid
	byCard.Method, byCard.Closed = card.Method, card.Closed
	f.save(loan(f.id(0), b), loan(f.id(1), b))
	f.save(with(fee(f.id(1), b), "Loan", f.id(0)), with(card, "Loan", f.id(0)))
	f.unlink(circulation.KindFee, f.id(1))
	f.fees("a loan one of whose fees was unlinked", f.get(circulation.KindLoan, f.id(0)), paid, byCard)
	f.unlink(circulation.KindFee, f.id(2))
	f.fees("a loan all of whose fees were unlinked", f.get(circulation.KindLoan, f.id(0)), paid, byCard)
	if err := f.Save(f.Context(), with(card, "Loan", f.id(0))); err != nil {
		f.Logf("saving an unlinked fee again: %v", err)
	}
	f.fees("a loan of which an unlinked fee was said again", f.get(circulation.KindLoan, f.id(0)), paid, byCard)
	f.fees("another loan of the borrower", f.get(circulation.KindLoan, f.id(1)))
	f.unlink(circulation.KindLoan, f.id(0))
}

func testNoSummary(f *fixture) {
	const method = "canary-method-3b9e"
	for _, order := range [][]circulation.Kind{
		{circulation.KindFee, circulation.KindLoan},
		{circulation.KindLoan, circulation.KindFee},
	} {
		f.sub(fmt.Sprintf("%s first", order[0]), func(f *fixture) {
			control := f.another()
			plain := with(fee(f.id(1), person(1)), "Method", method)
			f.save(loan(f.id(0), person(1)), with(plain, "Loan", f.id(0)))
			control.save(loan(f.id(0), person(1)), plain)
			ids := map[circulation.Kind]string{circulation.KindLoan: f.id(0), circulation.KindFee: f.id(1)}
			for _, k := range order {
				f.unlink(k, ids[k])
				control.unlink(k, ids[k])
			}
			got, want := strings.Count(f.dump(), method), strings.Count(control.dump(), method)
			if got != want {
				f.Errorf("Dump shows how a fee was paid %d times after loan and fee were unlinked, want %d: in the fee", got, want)
			}
		})
	}
}
