package storetest

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/carrel-project/carrel/circulation"
)

func raceCases() []testcase {
	return []testcase{
		{name: "OneWriterWinsARace", run: testOneWriterWins},
		{name: "FeeRacesSweep", kinds: []circulation.Kind{circulation.KindLoan, circulation.KindFee}, run: testFeeRace},
	}
}

func testOneWriterWins(f *fixture) {
	const n, writers = 40, 8
	k := f.kinds()[0]
	f.fill(k, n)
	records := slices.Collect(maps.Values(f.linked(k)))
	var mu sync.Mutex
	claimed := 0
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for some := range slices.Chunk(records, 8) {
				conflicts, err := f.Store.Unlink(f.Context(), batch(some...))
				if err != nil {
					f.Errorf("Unlink in a race: %v", err)
					return
				}
				mu.Lock()
				claimed += len(some) - len(conflicts)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, r := range f.receipts() {
		sum += r.Unlinked
	}
	if left := len(f.linked(k)); claimed != n || sum != n || left != 0 {
		f.Errorf("%d writers unlinked the same %d records: they claim %d, the receipts %d, and %d are left", writers, n, claimed, sum, left)
	}
}

// A sweep and the fees desk work at the same time. Law 2: whoever was told that a fee is saved can rely
// on the loan keeping its borrower.
func testFeeRace(f *fixture) {
	const n, without = 60, 5 // the last few loans never get a fee
	loanID := func(i int) string { return f.id(8000000 + i) }
	var loans []circulation.Entry
	for i := range n {
		loans = append(loans, loan(loanID(i), person(i%7)))
	}
	f.save(loans...)
	all := slices.Collect(maps.Values(f.linked(circulation.KindLoan)))

	var mu sync.Mutex
	charged := make(map[string]bool) // loans of which Save has returned a fee
	underWay := make(chan struct{})  // the sweep waits for a few of them, lest it be over before they begin
	start := sync.OnceFunc(func() { close(underWay) })
	var wg sync.WaitGroup
	wg.Go(func() {
		defer start()
		for i := range n - without {
			if i == 5 {
				start()
			}
			i = i * 7 % (n - without) // in another order than the sweep's
			if err := f.Save(f.Context(), with(openFee(f.id(9000000+i), person(i%7)), "Loan", loanID(i))); err != nil {
				f.Errorf("saving a fee in a race: %v", err)
				return
			}
			mu.Lock()
			charged[loanID(i)] = true
			mu.Unlock()
		}
	})
	stripped := make(map[string]bool)
	<-underWay
	for some := range slices.Chunk(all, 3) {
		mu.Lock()
		before := maps.Clone(charged)
		mu.Unlock()
		conflicts, err := f.Store.Unlink(f.Context(), batch(some...))
		if err != nil {
			f.Errorf("Unlink in a race: %v", err)
			break
		}
		for _, r := range some {
			if slices.Contains(conflicts, r.ID) {
				continue
			}
			stripped[r.ID] = true
			if before[r.ID] {
				f.Errorf("loan %s was unlinked though its open fee had been saved before", r.ID)
			}
		}
	}
	wg.Wait()

	// Whichever came first, no fee points at a loan that was unlinked: their IDs are where they are
	// in the loans that never had one.
	dump, left := f.dump(), f.linked(circulation.KindLoan)
	want := strings.Count(dump, loanID(n-1))
	for i := range n {
		id := loanID(i)
		r, linked := left[id]
		switch {
		case linked == stripped[id]:
			f.Errorf("Unlink said of loan %s that it was unlinked: %v; that it still names a borrower: %v", id, stripped[id], linked)
		case linked && i < n-without:
			f.fees("loan "+id, r, owed)
		case !linked && strings.Count(dump, id) != want:
			f.Errorf("loan %s was unlinked, and its fee still points at it", id)
		}
	}
}
