package postgres_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/internal/histories"
	"github.com/carrel-project/carrel/store/postgres"
)

// BenchmarkNight is a night in which 1,000 loans are due of CARREL_LOANS that are kept: with the totals and without, beside it a night on a store that cannot put anything off. The loans are made by one statement, because
// there may be ten millions, and put off by a sweep.
func BenchmarkNight(b *testing.B) {
	const due, nights = 1000, 15
	loans := setting("CARREL_LOANS", 200_000)
	db, _ := open(b)
	store := postgres.New(db)
	first := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	start := time.Now()
	execute(b, db,
		`INSERT INTO persons (p, changed, counted, borrower) SELECT g, pg_current_xact_id(), pg_current_xact_id(), 'b-' || md5(CAST(g AS text)) FROM generate_series(1, 50000) g`)
	// Of each thousand nights' loans, those of night k ended k days after the first of May; all others in July.
	_, err := db.Exec(`INSERT INTO records (n, id, started, ended, due, status, grp, library, location, type, item)
		SELECT n, 'loan-' || n, $1::bigint, CASE WHEN n <= $2 THEN $1::bigint + (n % $3) * 86400000000::bigint ELSE $1::bigint + 86400000000::bigint * 60 END, 1, 1, 'students', 'main', 'stacks', 'book', 'i' || n % 500000
		FROM generate_series(1, $4::bigint) n`, first.AddDate(0, 0, -29).UnixMicro(), due*nights, nights, loans)
	require.NoError(b, err)
	execute(b, db, "INSERT INTO links (n, person, seq, item_seq) SELECT n, n * 7919 % 50000 + 1, 1, 1 FROM records ORDER BY n", "SELECT setval('serials_1', (SELECT max(n) FROM links))",
		"VACUUM ANALYZE")
	policy, err := anonymize.ParsePolicy([]byte("carrel-retention: 1\nid: bench/night\nrecords:\n  loans: [{name: month, after: P30D}]\n"))
	require.NoError(b, err)
	run := func(s anonymize.Store, at time.Time, fast bool) (time.Duration, anonymize.KindReport) {
		sweep, err := anonymize.NewSweep(s, policy, anonymize.Config{Fast: fast, Now: func() time.Time { return at }})
		require.NoError(b, err)
		start := time.Now()
		report, err := sweep.Run(b.Context(), at)
		require.NoError(b, err)
		return time.Since(start), *report.Kinds["loan"]
	}
	filled := time.Since(start)
	night := 0
	tonight := func() time.Time { night++; return first.AddDate(0, 0, night-1) } // 00:00, when a day's loans are due
	took, report := run(store, tonight(), false)
	b.Logf("%d loans made in %v; the first night read %d and unlinked %d in %v", loans, filled, report.LinkedBefore, report.Unlinked, took)
	execute(b, db, "VACUUM ANALYZE", "CHECKPOINT")

	var fast, whole, all time.Duration
	n := 0
	for b.Loop() {
		require.Less(b, night+2, nights, "there are no more nights")
		took, report := run(store, tonight(), true)
		require.Equal(b, due, report.Unlinked)
		require.Equal(b, due, report.LinkedBefore, "it read what was due")
		fast += took
		took, report = run(store, tonight(), false)
		require.Equal(b, due, report.Unlinked)
		require.Equal(b, loans-due*(night-1), report.Kept)
		whole += took
		n++
	}
	all, report = run(histories.Awakeful{Store: store, Finisher: store}, tonight(), false)
	require.Equal(b, due, report.Unlinked)
	b.ReportMetric(float64(fast.Milliseconds())/float64(n), "fast-ms")
	b.ReportMetric(float64(whole.Milliseconds())/float64(n), "with-totals-ms")
	b.ReportMetric(float64(all.Milliseconds()), "reading-all-ms")
}
