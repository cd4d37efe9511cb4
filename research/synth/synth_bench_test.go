package synth_test

import (
	"testing"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/research/synth"
)

// BenchmarkGenerate makes up a million loans and writes down every record that comes with them.
func BenchmarkGenerate(b *testing.B) {
	const loans = 1_000_000
	entries := 0
	b.ReportAllocs()
	for b.Loop() {
		l, err := synth.Generate(synth.Params{Seed: 1, Loans: loans})
		if err != nil {
			b.Fatal(err)
		}
		for range l.Entries() {
			entries++
		}
	}
	b.ReportMetric(float64(b.N)*loans/b.Elapsed().Seconds(), "loans/s")
	b.ReportMetric(float64(entries)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkLay is the part of it before the first record.
func BenchmarkLay(b *testing.B) {
	const loans = 1_000_000
	b.ReportAllocs()
	for b.Loop() {
		if _, err := synth.Generate(synth.Params{Seed: 1, Loans: loans}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*loans/b.Elapsed().Seconds(), "loans/s")
}

func BenchmarkLoans(b *testing.B) {
	l, err := synth.Generate(synth.Params{Seed: 1, Loans: 100_000})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for e := range l.Entries() {
			if _, ok := e.(circulation.Loan); !ok {
				break
			}
			n++
		}
	}
}
