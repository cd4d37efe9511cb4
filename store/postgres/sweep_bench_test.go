package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/postgres"
)

var day0 = time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)

func setting(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// benchLoans are loans of borrowers of whom few borrow much.
func benchLoans(loans int) func(func(circulation.Entry, error) bool) {
	r := rand.New(rand.NewPCG(1, 2))
	borrowers := max(loans*27/1000, 1)
	return func(yield func(circulation.Entry, error) bool) {
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
	}
}

func execute(t testing.TB, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		_, err := db.Exec(s)
		require.NoError(t, err, s)
	}
}

// BenchmarkSweep compares a sweep that unlinks four of five loans with the one statement that would do the same to the same rows, and with what an UPDATE costs where the borrower
// is a column of the loans. CARREL_LOANS sets the number of loans.
func BenchmarkSweep(b *testing.B) {
	loans := setting("CARREL_LOANS", 1_000_000)
	db, _ := open(b)
	store := postgres.New(db)
	_, err := store.Save(b.Context(), benchLoans(loans))
	require.NoError(b, err)
	var cut int64
	require.NoError(b, db.QueryRow("SELECT ended FROM records WHERE ended IS NOT NULL ORDER BY ended LIMIT 1 OFFSET $1", loans*8/10).Scan(&cut))
	at := time.UnixMicro(cut).UTC()
	var before []string // what puts back all that a sweep changes
	for table, order := range map[string]string{"links": "n", "persons": "p", "items": "item", "plans": "number"} {
		execute(b, db, fmt.Sprintf("CREATE TABLE whole_%[1]s AS SELECT * FROM %[1]s", table))
		before = append(before, "TRUNCATE "+table, fmt.Sprintf("INSERT INTO %[1]s OVERRIDING SYSTEM VALUE SELECT * FROM whole_%[1]s ORDER BY %[2]s", table, order))
	}

	var sweep, two, bulk, update time.Duration
	for b.Loop() {
		b.StopTimer()
		var gone, gone2, bare, updated int64
		measure := func(fill []string, work func()) time.Duration {
			execute(b, db, fill...)
			execute(b, db, "VACUUM ANALYZE", "CHECKPOINT")
			start := time.Now()
			work()
			return time.Since(start)
		}
		statement := func(query string, args ...any) int64 {
			r, err := db.Exec(query, args...)
			require.NoError(b, err)
			n, err := r.RowsAffected()
			require.NoError(b, err)
			return n
		}
		bulk += measure(before, func() {
			bare = statement("DELETE FROM links WHERE n IN (SELECT n FROM records WHERE n < 1::bigint << 40 AND ended <= $1)", cut)
		})
		update += measure([]string{
			"DROP TABLE IF EXISTS conventional",
			`CREATE TABLE conventional (id text PRIMARY KEY, borrower text, grp text, library text, location text, type text, item text,
				started bigint, due bigint, ended bigint, status smallint, lost boolean, claimed_returned boolean, renewals integer)`,
			`INSERT INTO conventional SELECT id, borrower, r.grp, library, location, type, item, started, due, ended, status, lost, claimed_returned, renewals
				FROM records r JOIN whole_links l USING (n) JOIN whole_persons p ON p.p = l.person ORDER BY n`,
			"CREATE INDEX ON conventional (borrower)",
		}, func() { updated = statement("UPDATE conventional SET borrower = NULL WHERE ended <= $1", cut) })
		sweep += measure(before, func() { gone = benchSweep(b, store, at, anonymize.Shard{}) })
		two += measure(before, func() {
			var wg sync.WaitGroup
			var sum [2]int64
			for i := range sum {
				wg.Go(func() { sum[i] = benchSweep(b, store, at, anonymize.Shard{Index: i, Of: len(sum)}) })
			}
			wg.Wait()
			gone2 = sum[0] + sum[1]
		})
		require.Equal(b, bare, gone)
		require.Equal(b, bare, gone2)
		require.Equal(b, updated, gone)
		b.ReportMetric(float64(gone)/float64(loans), "unlinked/loan")
		b.StartTimer()
	}
	n := time.Duration(b.N)
	b.ReportMetric((sweep / n).Seconds(), "sweep-s")
	b.ReportMetric((two / n).Seconds(), "two-workers-s")
	b.ReportMetric((bulk / n).Seconds(), "delete-s")
	b.ReportMetric((update / n).Seconds(), "update-s")
	b.ReportMetric(sweep.Seconds()/bulk.Seconds(), "sweep/delete")
	b.ReportMetric(update.Seconds()/sweep.Seconds(), "update/sweep")
	b.ReportMetric(sweep.Seconds()/two.Seconds(), "one/two-workers")
}

// benchSweep is what `carrel sweep` does: the real thing, with rules that look at the group and at fees.
func benchSweep(b *testing.B, s anonymize.Store, at time.Time, shard anonymize.Shard) int64 {
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
	sweep, err := anonymize.NewSweep(s, p, anonymize.Config{Shard: shard, PageSize: setting("CARREL_PAGE", 0), Now: func() time.Time { return at }})
	require.NoError(b, err)
	report, err := sweep.Run(context.Background(), at)
	require.NoError(b, err)
	return int64(report.Kinds["loan"].Unlinked)
}

// BenchmarkImport compares saving new loans with a COPY of the same rows into the same tables, with the same indexes.
func BenchmarkImport(b *testing.B) {
	var entries []circulation.Entry
	for e := range benchLoans(setting("CARREL_LOANS", 200_000)) {
		entries = append(entries, e)
	}
	var saved, bare time.Duration
	for b.Loop() {
		b.StopTimer()
		db, _ := open(b)
		execute(b, db, "CHECKPOINT")
		start := time.Now()
		_, err := postgres.New(db).Save(b.Context(), all(entries...))
		require.NoError(b, err)
		saved += time.Since(start)

		to, _ := open(b)
		var tables [][][]any
		names := []string{"persons", "items", "records", "links"}
		columns := make([][]string, len(names))
		for i, name := range names {
			order := map[string]string{"persons": "p", "items": "item"}[name]
			if order == "" {
				order = "n"
			}
			rows, err := db.Query("SELECT * FROM " + name + " ORDER BY " + order)
			require.NoError(b, err)
			columns[i], err = rows.Columns()
			require.NoError(b, err)
			var table [][]any
			for rows.Next() {
				values, dest := make([]any, len(columns[i])), make([]any, len(columns[i]))
				for j := range values {
					dest[j] = &values[j]
				}
				require.NoError(b, rows.Scan(dest...))
				for j, c := range columns[i] {
					if c == "changed" || c == "counted" {
						values[j] = uint64(1)
					}
				}
				table = append(table, values)
			}
			require.NoError(b, rows.Err())
			tables = append(tables, table)
		}
		execute(b, db, "CHECKPOINT")
		conn, err := to.Conn(b.Context())
		require.NoError(b, err)
		start = time.Now()
		require.NoError(b, conn.Raw(func(c any) error {
			tx, err := c.(*stdlib.Conn).Conn().Begin(b.Context())
			if err != nil {
				return err
			}
			for i, name := range names {
				if _, err := tx.CopyFrom(b.Context(), pgx.Identifier{name}, columns[i], pgx.CopyFromRows(tables[i])); err != nil {
					return err
				}
			}
			return tx.Commit(b.Context())
		}))
		bare += time.Since(start)
		conn.Close()
		b.StartTimer()
	}
	n := time.Duration(b.N)
	b.ReportMetric((saved / n).Seconds(), "save-s")
	b.ReportMetric((bare / n).Seconds(), "copy-s")
	b.ReportMetric(bare.Seconds()/saved.Seconds(), "copy/save")
}
