package postgres_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/postgres"
)

// aboutReal is a batch of patrons of the usual size.
func aboutReal(n int) patron.Batch {
	b := patron.Batch{Indexed: 1}
	for range n {
		r := somebody()
		r.Tokens, r.Lookups = append(r.Tokens, randomToken(), randomToken()), append(r.Lookups, randomToken(), randomToken())
		r.Segments = nil
		for seg := range access.Segment(8) {
			r.Segments = append(r.Segments, patron.SealedSegment{Segment: seg, Revision: 1, Data: bytes.Repeat([]byte{byte(seg)}, 150)})
		}
		b.Writes = append(b.Writes, patron.Write{Row: r})
	}
	return b
}

// BenchmarkWritePatrons adds a batch of 500.
func BenchmarkWritePatrons(b *testing.B) {
	db, _ := open(b)
	s := postgres.NewPatrons(db)
	n := 0
	for b.Loop() {
		b.StopTimer()
		batch := aboutReal(500)
		b.StartTimer()
		require.NoError(b, s.Write(b.Context(), batch))
		n += 500
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "patrons/s")
}

// BenchmarkReplacePatron changes one patron and one of their identifiers.
func BenchmarkReplacePatron(b *testing.B) {
	db, _ := open(b)
	s := postgres.NewPatrons(db)
	batch := aboutReal(500)
	require.NoError(b, s.Write(b.Context(), batch))
	one := patron.Batch{Indexed: 1, Writes: batch.Writes[7:8]}
	for b.Loop() {
		w := &one.Writes[0]
		w.Old++
		w.Row.Tokens[0] = randomToken()
		require.NoError(b, s.Write(b.Context(), one))
	}
}

// BenchmarkFindTokens looks for 4,000 tokens, of which one in ten is somebody's.
func BenchmarkFindTokens(b *testing.B) {
	db, _ := open(b)
	s := postgres.NewPatrons(db)
	var tokens []crypto.Token
	for range 10 {
		batch := aboutReal(400)
		require.NoError(b, s.Write(b.Context(), batch))
		for i := range batch.Writes[:40] {
			tokens = append(tokens, batch.Writes[i].Row.Tokens[0])
		}
	}
	for range 3600 {
		tokens = append(tokens, randomToken())
	}
	for b.Loop() {
		found, err := s.Find(b.Context(), tokens)
		require.NoError(b, err)
		require.Len(b, found.Owners, 400)
	}
}
