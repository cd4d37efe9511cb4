package patron

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
)

// silence records nothing.
type silence struct{}

func (silence) Record(context.Context, audit.Event) error { return nil }

// oneRow is a store of one patron that costs nothing.
type oneRow struct {
	Store
	row Row
}

func (s oneRow) Get(context.Context, ID) (Row, error) { return s.row, nil }

// BenchmarkView opens, decodes and shows all twelve segments, with the key in the cache.
func BenchmarkView(b *testing.B) {
	w := newWorld(b, withRecorder(silence{}))
	id := w.create(canaries())
	w.cfg.Store = oneRow{row: w.store.row(id)}
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		v, err := w.View(ctx, anyone, id, 0)
		if err != nil || v.Present != allSegments {
			b.Fatal(err)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	w := newWorld(b, withRecorder(silence{}))
	w.create(person("99999395390"))
	ctx := context.Background()
	s := secret("99999395390")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Find(ctx, anyone, s); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkImport adds 1,000 patrons and then finds all of them unchanged.
func BenchmarkImport(b *testing.B) {
	var list []Profile
	for i := range 1000 {
		p := canaries()
		p.Identifiers = person(fmt.Sprint("b", i), fmt.Sprint("l", i)).Identifiers
		list = append(list, p)
	}
	for _, again := range []bool{false, true} {
		b.Run(map[bool]string{false: "new", true: "same"}[again], func(b *testing.B) {
			w := newWorld(b, withRecorder(silence{}))
			b.ReportAllocs()
			for b.Loop() {
				if !again {
					w.store.mu.Lock()
					clear(w.store.rows)
					clear(w.store.owners)
					w.store.mu.Unlock()
				}
				_, err := w.Import(context.Background(), anyone, Source{}, one(list...), nil)
				require.NoError(b, err)
			}
			b.ReportMetric(float64(b.N*len(list))/b.Elapsed().Seconds(), "patrons/s")
		})
	}
}

func BenchmarkNormalize(b *testing.B) {
	for _, s := range []string{"99999395390", "Müller@Example.org"} {
		b.Run(s, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Normalize(s)
			}
		})
	}
}
