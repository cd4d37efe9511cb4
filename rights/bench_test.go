package rights_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/rights"
)

// BenchmarkErase erases a patron with 1,000 records (900 loans and 100 fees) in a SQLite database that holds 100,000 loans of 1,000 others: durably, with the trail, the tombstones and the signature.
func BenchmarkErase(b *testing.B) {
	l := newLibrary(b)
	fill := func(from, n, patron int, more func(i int) []circulation.Entry) {
		_, err := l.store.Save(b.Context(), func(yield func(circulation.Entry, error) bool) {
			for i := range n {
				for _, e := range more(from + i) {
					if !yield(e, nil) {
						return
					}
				}
			}
		})
		require.NoError(b, err)
	}
	others := make([]circulation.Borrower, 1000)
	for n := range others {
		others[n] = l.borrower(1_000_000 + n)
	}
	fill(0, 100_000, 0, func(i int) []circulation.Entry {
		return []circulation.Entry{loan(fmt.Sprint("o", i), others[i*7919%1000])}
	})
	n := 0
	for b.Loop() {
		b.StopTimer()
		id := l.join(n)
		who := l.borrower(n)
		fill(n*1000, 900, n, func(i int) []circulation.Entry {
			id := fmt.Sprint("l", i)
			list := []circulation.Entry{loan(id, who)}
			if i%9 == 0 {
				list = append(list, circulation.Fee{ID: "f" + id, Borrower: who, Type: "overdue", Amount: 100, Charged: began, Closed: over, Status: circulation.FeeClosed, Outcome: circulation.FeePaid, Method: "cash", Loan: id})
			}
			return list
		})
		n++
		b.StartTimer()
		c, err := l.Erase(b.Context(), officer, id, rights.Request{})
		b.StopTimer()
		require.NoError(b, err)
		require.Equal(b, map[string]int{"loan": 900, "fee": 100}, c.Erased.Records)
		b.StartTimer()
	}
}
