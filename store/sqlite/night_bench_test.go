package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/internal/histories"
	"github.com/carrel-project/carrel/store/sqlite"
)

// BenchmarkNight measures an ordinary night: of many loans that are kept, 1,000 have become due. It compares a store that puts off what it keeps, with the totals
// of what was not read and without, with the same night on the same store when everything is read. What Finish costs, which writes the tables that
// identify anew, is told apart: it is in proportion to what is kept, in all of them. CARREL_LOANS sets the number of loans.
func BenchmarkNight(b *testing.B) {
	loans, due := number("CARREL_LOANS", 200_000), 1000
	base := filepath.Join(b.TempDir(), "base.db")
	start := time.Now()
	p := parse(b, ninety)
	db, err := sql.Open("sqlite", sqlite.DSN(base))
	require.NoError(b, err)
	migrate(b, db)
	s := sqlite.New(db)
	r := rand.New(rand.NewPCG(5, 6))
	_, err = s.Save(b.Context(), func(yield func(circulation.Entry, error) bool) {
		for i := range loans {
			l := circulation.Loan{ID: fmt.Sprintf("loan-%08d", i), Borrower: circulation.Borrower(fmt.Sprintf("b-%08x", r.IntN(max(loans/40, 1)))), Group: "students", Library: "main",
				Item: fmt.Sprintf("i%07d", r.IntN(max(loans/5, 1))), Loaned: day(0), Returned: day(20 + i%80)}
			if i%(loans/due) == 0 {
				l.Returned = day(10)
			}
			if !yield(l, nil) {
				return
			}
		}
	})
	require.NoError(b, err)
	b.Logf("%d loans saved in %v", loans, time.Since(start))
	start = time.Now()
	first := sweepAt(b, s, p, day(99), anonymize.Config{Fast: true})
	require.Equal(b, loans, first.Kept)
	b.Logf("first night, in which all are put off: %v", time.Since(start))
	_, err = db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	require.NoError(b, err)
	require.NoError(b, db.Close())
	b.ResetTimer()

	var took [3]time.Duration
	var finish time.Duration
	var read [3]int
	for b.Loop() {
		for i := range took {
			onCopy(b, base, func(db *sql.DB) {
				store := &timed{Circulation: sqlite.New(db)}
				var asked anonymize.Store = store
				if i == 2 {
					asked = histories.Awakeful{Store: store, Finisher: store}
				}
				began := time.Now()
				report := sweepAt(b, asked, p, day(101), anonymize.Config{Fast: i == 0})
				took[i] += time.Since(began) - store.finish
				finish += store.finish
				read[i] = report.LinkedBefore - report.Deferred
				require.GreaterOrEqual(b, report.Unlinked, due)
			})
		}
	}
	for i, name := range []string{"fast", "counted", "all-read"} {
		b.ReportMetric(took[i].Seconds()/float64(b.N), name+"-s")
		b.ReportMetric(float64(read[i]), name+"-rows")
	}
	b.ReportMetric(finish.Seconds()/float64(len(took)*b.N), "finish-s")
}

// timed tells what Finish takes.
type timed struct {
	*sqlite.Circulation
	finish time.Duration
}

func (t *timed) Finish(ctx context.Context) error {
	start := time.Now()
	err := t.Circulation.Finish(ctx)
	t.finish = time.Since(start)
	return err
}
