package sqlite_test

import (
	"crypto/rand"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
)

// sealedRow is a new patron of the usual size: nine segments, three identifiers and two other lookups.
func sealedRow() patron.Row {
	r := patron.Row{ID: patron.NewID(), Version: 1, Facts: patron.Facts{Group: "students", Categories: []string{"arts"}, Library: "main", Expires: day(365)}}
	for s := range access.Segment(9) {
		data := make([]byte, 80)
		rand.Read(data)
		r.Segments = append(r.Segments, patron.SealedSegment{Segment: s, Revision: 1, Data: data})
	}
	r.Tokens, r.Lookups = make([]crypto.Token, 3), make([]crypto.Token, 2)
	for i := range r.Tokens {
		rand.Read(r.Tokens[i][:])
	}
	for i := range r.Lookups {
		rand.Read(r.Lookups[i][:])
	}
	return r
}

func sealedBatch(n int) patron.Batch {
	b := patron.Batch{Indexed: 1, Writes: make([]patron.Write, n)}
	for i := range b.Writes {
		b.Writes[i].Row = sealedRow()
	}
	return b
}

// manyPatrons fills a database up to what CARREL_PATRONS says.
func manyPatrons(b *testing.B, db *sql.DB) (last patron.Batch) {
	for range max(number("CARREL_PATRONS", 20_000)/500, 1) {
		last = sealedBatch(500)
		require.NoError(b, sqlite.NewPatrons(db).Write(b.Context(), last))
	}
	return last
}

// BenchmarkWritePatrons adds a batch of 500 to a database that has CARREL_PATRONS already.
func BenchmarkWritePatrons(b *testing.B) {
	db, _, _ := open(b)
	manyPatrons(b, db)
	b.ReportAllocs()
	b.ResetTimer()
	var took time.Duration
	n := 0
	for b.Loop() {
		b.StopTimer()
		batch := sealedBatch(500)
		b.StartTimer()
		start := time.Now()
		if err := sqlite.NewPatrons(db).Write(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		took += time.Since(start)
		n += len(batch.Writes)
	}
	b.ReportMetric(float64(n)/took.Seconds(), "patrons/s")
}

func BenchmarkGetPatron(b *testing.B) {
	db, _, _ := open(b)
	last := manyPatrons(b, db)
	s := sqlite.NewPatrons(db)
	b.Run("Get", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i++
			if _, err := s.Get(b.Context(), last.Writes[i%500].Row.ID); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Find", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i++
			if found, err := s.Find(b.Context(), last.Writes[i%500].Row.Tokens[:1]); err != nil || len(found.Owners) != 1 {
				b.Fatal(len(found.Owners), err)
			}
		}
	})
	b.Run("Find2000", func(b *testing.B) {
		b.ReportAllocs()
		tokens := make([]crypto.Token, 500, 2000)
		for i := range tokens {
			rand.Read(tokens[i][:])
		}
		for i := range last.Writes {
			tokens = append(tokens, last.Writes[i].Row.Tokens...)
		}
		for b.Loop() {
			if found, err := s.Find(b.Context(), tokens); err != nil || len(found.Owners) != 1500 {
				b.Fatal(len(found.Owners), err)
			}
		}
	})
}

// BenchmarkRewrapKeys is a rotation's work at the store: a page of 1,000 keys is read and written. All keys are of
// the old epoch at first (Begin), or all but this page's are wrapped anew already (End).
func BenchmarkRewrapKeys(b *testing.B) {
	const page = 1000
	for _, at := range []string{"Begin", "End"} {
		b.Run(at, func(b *testing.B) {
			db, _, _ := open(b)
			s := sqlite.NewKeys(db)
			total := number("CARREL_PATRONS", 20_000)
			key := func(subject crypto.Subject, epoch uint32) crypto.WrappedKey {
				w := crypto.WrappedKey{Subject: subject, Epoch: epoch, Wrapped: make([]byte, 60)}
				rand.Read(w.Wrapped)
				return w
			}
			epoch := uint32(1)
			for i := 0; i < total; i += page {
				var changes []crypto.KeyChange
				for range page {
					w := key(patron.NewID().Subject(), 1)
					if at == "End" && i > 0 {
						w.Epoch = 1 << 30
					}
					changes = append(changes, crypto.KeyChange{Key: w})
				}
				_, err := s.PutKeys(b.Context(), changes)
				require.NoError(b, err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var after crypto.Subject
			for b.Loop() {
				keys, err := s.OlderKeys(b.Context(), epoch+1, after, page)
				if len(keys) == 0 && err == nil { // the next rotation
					epoch++
					after = ""
					keys, err = s.OlderKeys(b.Context(), epoch+1, after, page)
				}
				if err != nil || len(keys) != page {
					b.Fatal(fmt.Sprint(len(keys), " keys "), err)
				}
				after = keys[page-1].Subject
				changes := make([]crypto.KeyChange, page)
				for i, w := range keys {
					changes[i] = crypto.KeyChange{Key: key(w.Subject, epoch+1), Old: w.Wrapped}
				}
				if lost, err := s.PutKeys(b.Context(), changes); err != nil || len(lost) > 0 {
					b.Fatal(len(lost), err)
				}
			}
		})
	}
}
