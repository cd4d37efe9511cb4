//go:build unix

package main

import (
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/internal/pgtest"
	"github.com/carrel-project/carrel/store/postgres"
)

// Four workers in four processes sweep a night. Two of them are killed somewhere in it, and the server crashes. The night ends all the same, without anybody's help, and in the same rows as a sweep that
// nobody disturbed; the receipts add up to what was unlinked, and the trail verifies. The long version does it with a million loans.
func TestWorkersOutliveKillsAndCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("takes about two minutes")
	}
	loans := 20_000
	if os.Getenv("CARREL_TEST_LONG") != "" {
		loans = 1_000_000
	}
	server := pgtest.Start(t)
	t.Setenv(serverVariable, server.DSN(""))
	n := newNightly(t, loans)
	due := n.plan()
	total := 0
	for _, k := range due {
		total += k
	}
	t.Logf("%d records are due", total)
	alone := twin(t, n)

	minute := n.thisMinute()
	var workers []*process
	for range 4 {
		workers = append(workers, n.start(minute, "--workers", "1"))
	}
	receipts := func() (sum int) {
		for _, k := range n.unlinked() {
			sum += k
		}
		return sum
	}
	reach := func(part float64) {
		n.wait(fmt.Sprintf("%.0f %% are unlinked", 100*part), 5*time.Minute, func() bool { return float64(receipts()) >= part*float64(total) })
	}
	kill := func() {
		i := rand.IntN(len(workers))
		require.NoError(t, workers[i].Process.Kill())
		workers[i].Wait()
		workers = append(workers[:i], workers[i+1:]...)
	}
	reach(0.1 + 0.2*rand.Float64())
	kill()
	t.Logf("a worker was killed when %d were unlinked", receipts())
	server.RestartImmediate()
	t.Logf("the server has crashed and is there again; %d are unlinked", receipts())
	time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
	kill()
	t.Logf("another worker was killed; %d are unlinked", receipts())
	n.wait("the night is over", 10*time.Minute, func() bool {
		return maps.Equal(n.states(), all(rivertype.JobStateCompleted))
	})

	assert.Equal(t, due, n.unlinked(), "the receipts add up")
	nights, err := lastNights(t.Context(), n.client, 1)
	require.NoError(t, err)
	s, err := anonymize.NewSweep(postgres.New(alone), n.policy, anonymize.Config{})
	require.NoError(t, err)
	_, err = s.Run(t.Context(), nights[0].At)
	require.NoError(t, err)
	want, got := whatIsLeft(t, alone), whatIsLeft(t, n.db)
	for table := range want {
		assert.Equal(t, want[table], got[table], table)
	}
	for _, w := range workers {
		n.stop(w)
	}
	assert.Contains(t, good(t, carrel(t, "log", "verify", "--db", n.dsn)), "entries")
}

// what is copied, and compared: everything but what says how often and when a row was written.
var contents = map[string]string{
	"records":       "n, id, started, ended, due, amount, renewals, status, fee_status, lost, claimed_returned, grp, library, location, type, item, categories, method, outcome",
	"links":         "n, person, seq, item_seq",
	"companions":    "n, role, person",
	"personal":      "n, field, value",
	"ties":          "n, target",
	"fee_summaries": "loan, closed, status, method",
	"persons":       "p, borrower, expires, wish, wish_since, loans, listed, grp",
	"items":         "item, loans",
	"holds":         "person, until, ref",
}

// twin copies the records of a night into a schema of their own.
func twin(t *testing.T, n *nightly) *sql.DB {
	dsn := newSchema(t)
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	good(t, carrel(t, "migrate", "--db", dsn))
	var schema string
	require.NoError(t, n.db.QueryRow("SELECT current_schema()").Scan(&schema))
	for table, columns := range contents {
		into, from := columns, columns
		for _, column := range map[string][]string{"persons": {"changed", "counted"}, "items": {"counted"}, "holds": {"changed"}}[table] {
			into, from = into+", "+column, from+", pg_current_xact_id()"
		}
		_, err := db.Exec("INSERT INTO " + table + " (" + into + ") SELECT " + from + " FROM " + schema + "." + table)
		require.NoError(t, err, table)
	}
	return db
}

// whatIsLeft returns a checksum of each table.
func whatIsLeft(t *testing.T, db *sql.DB) map[string]string {
	sums := map[string]string{}
	for table, columns := range contents {
		var sum string
		err := db.QueryRow("SELECT count(*) || ' ' || coalesce(md5(string_agg(md5(CAST(ROW(" + columns + ") AS text)), '' ORDER BY md5(CAST(ROW(" + columns + ") AS text)))), '') FROM " + table).Scan(&sum)
		require.NoError(t, err, table)
		sums[table] = sum
	}
	return sums
}
