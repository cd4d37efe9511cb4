package sqlite_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
)

// BenchmarkErase unlinks the 1,000 loans of one borrower, strewn among 100,000, for ten borrowers.
func BenchmarkErase(b *testing.B) {
	_, s, _ := open(b)
	_, err := s.Save(b.Context(), func(yield func(circulation.Entry, error) bool) {
		for i := range 100_000 {
			if !yield(loan(fmt.Sprintf("%03d-%d", i%100, i), fmt.Sprint("b", i%100), 0, 1), nil) {
				return
			}
		}
	})
	require.NoError(b, err)
	byBorrower := map[string][]circulation.Record{}
	for id, r := range linked(b, s, circulation.KindLoan) {
		byBorrower[id[:3]] = append(byBorrower[id[:3]], r)
	}
	const borrowers = 10
	start := time.Now()
	for i := range borrowers {
		require.Empty(b, unlink(b, s, byBorrower[fmt.Sprintf("%03d", i)]...))
	}
	b.ReportMetric(float64(time.Since(start).Milliseconds())/borrowers, "ms/borrower")
	b.ReportMetric(0, "ns/op") // most of it is preparation
}
