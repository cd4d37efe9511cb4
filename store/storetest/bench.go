package storetest

import (
	"fmt"
	"testing"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// BenchmarkCirculation measures what a night costs: reading what is due, and unlinking it.
func BenchmarkCirculation(b *testing.B, open func(b *testing.B) Circulation) {
	const n = 10_000
	fill := func(b *testing.B, s Circulation, k circulation.Kind) {
		b.Helper()
		id := s.ID
		if id == nil {
			id = defaultID
		}
		entries := make([]circulation.Entry, n)
		for i := range entries {
			entries[i] = entry(k, id(i), person(i%1000))
		}
		if err := s.Save(b.Context(), entries...); err != nil {
			b.Fatal(err)
		}
	}
	kind := func(s Circulation) circulation.Kind {
		if s.Kinds == nil {
			return circulation.KindLoan
		}
		return s.Kinds[0]
	}
	// read goes through the whole store, a page at a time.
	read := func(b *testing.B, s Circulation, size int, do func([]circulation.Record)) {
		b.Helper()
		q := query(kind(s))
		q.Limit, q.Needs = size, anonymize.NeedGroup|anonymize.NeedNewerByBorrower
		for {
			page, err := s.Store.Linked(b.Context(), q)
			if err != nil {
				b.Fatal(err)
			}
			do(page.Records)
			if q.Cursor = page.Cursor; q.Cursor == "" {
				return
			}
		}
	}
	for _, size := range []int{100, 1000, n} {
		b.Run(fmt.Sprintf("Linked/%d", size), func(b *testing.B) {
			s := open(b)
			fill(b, s, kind(s))
			b.ReportAllocs()
			for b.Loop() {
				read(b, s, size, func([]circulation.Record) {})
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "records/s")
		})
		b.Run(fmt.Sprintf("Unlink/%d", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				s := open(b)
				fill(b, s, kind(s))
				var batches []anonymize.Batch
				read(b, s, size, func(records []circulation.Record) { batches = append(batches, batch(records...)) })
				b.StartTimer()
				for _, due := range batches {
					if conflicts, err := s.Store.Unlink(b.Context(), due); err != nil || len(conflicts) > 0 {
						b.Fatalf("Unlink: %d conflicts, error %v", len(conflicts), err)
					}
				}
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
