package audit_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/carrel-project/carrel/audit"
)

// BenchmarkCovered is a look at a patron that an earlier record covers: what it adds to a view.
func BenchmarkCovered(b *testing.B) {
	d := newDesk(b, "p1")
	e := view("p1", noon, "addresses", "identifiers", "names")
	require.NoError(b, d.Record(b.Context(), e))
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Record(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPrepare seals an event about one patron: without and with something to seal.
func BenchmarkPrepare(b *testing.B) {
	d := newDesk(b, "p1")
	plain := view("p1", noon, "addresses", "identifiers", "names")
	version := view("p1", noon, "names")
	version.Action, version.Subjects[0].Version = audit.Update, 7
	for name, e := range map[string]audit.Event{"view": plain, "change": version} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Prepare(b.Context(), e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkProve proves and checks that an entry is in a tree of 100,000, from the tiles of a memory store.
func BenchmarkProve(b *testing.B) {
	d := newDesk(b)
	var list []audit.Entry
	for i := range 100_000 {
		list = append(list, audit.Entry{Action: audit.View, Time: time.UnixMicro(int64(i + 1)), Body: fmt.Append(nil, i)})
	}
	require.NoError(b, d.log.Append(b.Context(), list))
	checkpoint, err := d.Sequence(b.Context())
	require.NoError(b, err)
	tree, err := audit.OpenCheckpoint(checkpoint, verifierOf(b, d))
	require.NoError(b, err)
	for b.Loop() {
		proof, leaf, err := audit.ProveEntry(b.Context(), d.log, tree, 77_777)
		if err == nil {
			err = tlog.CheckRecord(proof, tree.N, tree.Hash, 77_777, leaf)
		}
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(proof)*tlog.HashSize), "proof-B")
	}
}
