package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/sqlite"
)

// BenchmarkSweep compares, on copies of one file, a sweep that unlinks four of five loans with the one
// statement that would do the same to the same rows, and with what an UPDATE costs where the borrower
// is a column of the loans. CARREL_LOANS sets the number of loans, CARREL_PAGE the page size (0: what a sweep takes by itself).
func BenchmarkSweep(b *testing.B) {
	loans, page := number("CARREL_LOANS", 1_000_000), number("CARREL_PAGE", 0)
	base := filepath.Join(b.TempDir(), "base.db")
	start := time.Now()
	cut := prepare(b, base, loans)
	b.Logf("%d loans prepared in %v", loans, time.Since(start))
	b.ResetTimer()

	var sweep, bulk, update time.Duration
	for b.Loop() {
		var rows, bare, updated int64
		sweep += onCopy(b, base, func(db *sql.DB) { rows = runSweep(b, sqlite.New(db), cut, page) })
		bulk += onCopy(b, base, func(db *sql.DB) {
			bare = run(b, db, "DELETE FROM links WHERE n IN (SELECT n FROM records WHERE n < 1 << 40 AND ended <= ?)", cut.UnixMicro())
		})
		update += onCopy(b, base, func(db *sql.DB) {
			updated = run(b, db, "UPDATE conventional SET borrower = NULL WHERE ended <= ?", cut.UnixMicro())
		})
		require.Equal(b, bare, rows)
		require.Equal(b, updated, rows)
		b.ReportMetric(float64(rows)/float64(loans), "unlinked/loan")
	}
	n := time.Duration(b.N)
	b.ReportMetric((sweep / n).Seconds(), "sweep-s")
	b.ReportMetric((bulk / n).Seconds(), "delete-s")
	b.ReportMetric((update / n).Seconds(), "update-s")
	b.ReportMetric(sweep.Seconds()/bulk.Seconds(), "sweep/delete")
	b.ReportMetric(sweep.Seconds()/update.Seconds(), "sweep/update")
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// prepare fills a file through the store and returns the instant before which four of five loans ended.
func prepare(b *testing.B, path string, loans int) time.Time {
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(b, err)
	defer db.Close()
	migrate(b, db)
	r := rand.New(rand.NewPCG(1, 2))
	borrowers := max(loans*27/1000, 1)
	_, err = sqlite.New(db).Save(b.Context(), func(yield func(circulation.Entry, error) bool) {
		for i := range loans {
			x := r.Float64()
			at := day0.Add(time.Duration(i) * time.Minute)
			l := circulation.Loan{ID: fmt.Sprintf("loan-%08d", i),
				Borrower: circulation.Borrower(fmt.Sprintf("b-%016x", uint64(x*x*x*float64(borrowers))*0x9e3779b97f4a7c15)),
				Group:    []string{"students", "staff", "alumni"}[r.IntN(3)], Library: "main", Location: "stacks", Type: "book",
				Item: fmt.Sprintf("i%07d", r.IntN(max(loans/5, 1))), Loaned: at, Due: at.AddDate(0, 0, 28)}
			if r.IntN(50) > 0 {
				l.Returned = at.Add(time.Duration(r.IntN(30*24)) * time.Hour)
			}
			if !yield(l, nil) {
				return
			}
		}
	})
	require.NoError(b, err)
	var micros int64
	require.NoError(b, db.QueryRow("SELECT ended FROM records WHERE ended IS NOT NULL ORDER BY ended LIMIT 1 OFFSET ?", loans*8/10).Scan(&micros))
	for _, statement := range []string{
		`CREATE TABLE conventional (id TEXT PRIMARY KEY, borrower TEXT, grp TEXT, library TEXT, location TEXT, type TEXT, item TEXT,
			started INTEGER, due INTEGER, ended INTEGER, status INTEGER, lost INTEGER, claimed_returned INTEGER, renewals INTEGER)`,
		`INSERT INTO conventional SELECT id, borrower, r.grp, library, location, type, item, started, due, ended, status, lost, claimed_returned, renewals
			FROM records r JOIN links l USING (n) JOIN persons p ON p.p = l.person ORDER BY n`,
		`CREATE INDEX conventional_borrower ON conventional (borrower)`,
		`PRAGMA wal_checkpoint(TRUNCATE)`,
	} {
		_, err := db.Exec(statement)
		require.NoError(b, err)
	}
	return time.UnixMicro(micros).UTC()
}

func onCopy(b *testing.B, base string, work func(*sql.DB)) time.Duration {
	b.StopTimer()
	defer b.StartTimer()
	path := filepath.Join(b.TempDir(), "copy.db")
	defer os.Remove(path)
	from, err := os.Open(base)
	require.NoError(b, err)
	defer from.Close()
	to, err := os.Create(path)
	require.NoError(b, err)
	_, err = io.Copy(to, from)
	require.NoError(b, err)
	require.NoError(b, to.Sync())
	require.NoError(b, to.Close())
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(b, err)
	defer db.Close()
	require.NoError(b, db.Ping())
	start := time.Now()
	work(db)
	return time.Since(start)
}

func run(b *testing.B, db *sql.DB, statement string, args ...any) int64 {
	r, err := db.Exec(statement, args...)
	require.NoError(b, err)
	n, err := r.RowsAffected()
	require.NoError(b, err)
	_, err = db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	require.NoError(b, err)
	return n
}

// runSweep is what `carrel sweep` does: the real thing, with rules that look at the group and at fees.
func runSweep(b *testing.B, s *sqlite.Circulation, at time.Time, pageSize int) int64 {
	p, err := anonymize.ParsePolicy([]byte(`
carrel-retention: 1
id: bench/sweep
records:
  loans:
    - {name: money, fee: had, since: fee-closed, after: P7Y}
    - {name: students, group: [students], after: at once}
    - {name: rest, after: at once}
`))
	require.NoError(b, err)
	sweep, err := anonymize.NewSweep(s, p, anonymize.Config{PageSize: pageSize, Now: func() time.Time { return at }})
	require.NoError(b, err)
	report, err := sweep.Run(context.Background(), at)
	require.NoError(b, err)
	return int64(report.Kinds["loan"].Unlinked)
}
