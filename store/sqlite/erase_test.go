package sqlite_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
)

// BenchmarkErase unlinks the 1,000 loans of one borrower, strewn among 100,000.
func BenchmarkErase(b *testing.B) {
	_, s, _ := open(b)
	_, err := s.Save(b.Context(), func(yield func(circulation.Entry, error) bool) {
		for i := range 100_000 {
			who := fmt.Sprint("b", i%100)
			if !yield(loan(fmt.Sprint(i), who, 0, 1), nil) {
				return
			}
		}
	})
	require.NoError(b, err)
	records := linked(b, s, circulation.KindLoan)
	for b.Loop() {
		b.StopTimer()
		var mine []circulation.Record
		for id, r := range records {
			if len(id) > 1 && id[len(id)-2:] == fmt.Sprintf("%02d", b.N%100) {
				mine = append(mine, r)
			}
		}
		b.StartTimer()
		start := time.Now()
		conflicts, err := s.Unlink(b.Context(), batch(mine...))
		require.NoError(b, err)
		require.Empty(b, conflicts)
		b.Log(len(mine), time.Since(start))
		break
	}
}
