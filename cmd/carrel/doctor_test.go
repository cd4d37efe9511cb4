package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/store/postgres"
)

// examined returns how each check came out, and what was said.
func examined(t *testing.T, db string, args ...string) (states, words map[string]string, code int) {
	t.Helper()
	r := carrel(t, append([]string{"doctor", "--db", db, "--json"}, args...)...)
	require.Empty(t, r.stderr)
	var report struct {
		Checks []struct{ Check, State, What string }
		Worst  string
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &report), r.out)
	states, words = map[string]string{}, map[string]string{}
	worst := map[string]int{"ok": 0, "warning": 1, "failed": 2}
	most := 0
	for _, c := range report.Checks {
		require.Contains(t, worst, c.State)
		require.NotContains(t, states, c.Check, "once")
		require.NotContains(t, c.What, "\n")
		states[c.Check], words[c.Check] = c.State, c.What
		most = max(most, worst[c.State])
	}
	assert.Equal(t, most, worst[report.Worst])
	return states, words, r.code
}

const weekPolicy = "carrel-retention: 1\nid: test/week\nrevision: 1\nrecords:\n  loans:\n    - {name: week, after: P7D}\n"

func TestDoctor(t *testing.T) { onBoth(t, testDoctor) }

func testDoctor(t *testing.T) {
	db, policy, ring := newDB(t), file(t, "p.yaml", weekPolicy), filepath.Join(t.TempDir(), "ring")
	good(t, carrel(t, "keys", "init", "--keys", ring))
	loans := "loan,borrower,returned\nl1,p-canary,2026-01-02\nl2,p-canary," + time.Now().AddDate(0, 0, -8).UTC().Format(time.RFC3339) + "\nl3,p-canary,\n"
	keyed := []string{"--keys", ring, "--anchor", filepath.Join(t.TempDir(), "anchor")}
	all := append(keyed, "--policy", policy)
	good(t, carrel(t, append([]string{"import", "--db", db, "--patrons", file(t, "p.csv", patronsCSV), "--loans", file(t, "l.csv", loans)}, keyed...)...))

	states, words, code := examined(t, db, all...)
	assert.Equal(t, exitFound, code)
	assert.Equal(t, "warning", states["overdue"])
	assert.Regexp(t, `^2 records due, the oldest for \d+ days: the sweep has not run; carrel sweep$`, words["overdue"])
	assert.Equal(t, "warning", states["last-receipt"])
	for _, name := range []string{"schema", "indexes", "keyring", "key-age", "key-place", "checkpoint", "spool", "file-modes"} {
		assert.Equal(t, "ok", states[name], "%s: %s", name, words[name])
	}
	good(t, carrel(t, append([]string{"sweep", "--db", db, "--policy", policy}, keyed...)...))
	states, words, code = examined(t, db, all...)
	for name, state := range states {
		if name != "role" && name != "autovacuum" && name != "fsync" && name != "connection" { // what the server of the tests is like
			assert.Equal(t, "ok", state, "%s: %s", name, words[name])
		}
	}
	if !onPostgres(t) {
		assert.Equal(t, exitGood, code)
		assert.Contains(t, good(t, carrel(t, append([]string{"doctor", "--db", db}, all...)...)), "CHECK")
	}
	text := carrel(t, append([]string{"doctor", "--db", db}, all...)...)
	for _, secret := range []string{"canary", "29000000000077", "l1", "postgres://"} {
		assert.NotContains(t, text.out+text.stderr, secret)
	}
	assert.NotContains(t, states, "no-such")

	// What is wrong is found.
	index := "DROP INDEX records_item"
	if onPostgres(t) {
		execPG(t, db, index)
	} else {
		execSQL(t, db, index)
	}
	require.NoError(t, os.Chmod(ring+".ledger", 0o644))
	spool := besideOf(db) + ".spool" // of a file, beside the database
	if onPostgres(t) {
		spool = ring + ".spool"
	}
	require.NoError(t, os.MkdirAll(spool, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(spool, strings.Repeat("a", 32)+".spool"), []byte("events"), 0o600))
	states, words, code = examined(t, db, "--keys", ring, "--anchor", filepath.Join(t.TempDir(), "other"))
	assert.Equal(t, exitFound, code)
	assert.Equal(t, "failed", states["indexes"])
	assert.Contains(t, words["indexes"], "records_item")
	assert.Equal(t, "warning", states["file-modes"])
	assert.Contains(t, words["file-modes"], "ring.ledger: chmod 600")
	assert.Equal(t, "warning", states["spool"])
	assert.Equal(t, "failed", states["checkpoint"])
	assert.NotContains(t, states, "overdue", "there is no policy")

	require.NoError(t, os.Remove(ring+".kek"))
	states, _, _ = examined(t, db, "--keys", ring)
	assert.Equal(t, "failed", states["keyring"])
}

func TestDoctorOfAFile(t *testing.T) {
	db := filledDB(t)
	states, words, code := examined(t, db)
	assert.Equal(t, exitFound, code)
	assert.Equal(t, "warning", states["key-place"])
	assert.Contains(t, words["key-place"], "the keyring and the key-encryption key")
	for _, name := range []string{"secure-delete", "journal-mode", "synchronous"} {
		assert.Equal(t, "ok", states[name])
	}
	copied := filepath.Join(t.TempDir(), "copy.db")
	execSQL(t, db, "VACUUM INTO '"+copied+"'")
	before, err := os.ReadFile(copied)
	require.NoError(t, err)
	states, _, _ = examined(t, copied)
	assert.Equal(t, "warning", states["journal-mode"])
	after, err := os.ReadFile(copied)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(before, after), "nothing is written")
	execSQL(t, db, "PRAGMA user_version = 3")
	states, _, code = examined(t, db)
	assert.Equal(t, exitFound, code)
	assert.Equal(t, "failed", states["schema"])
	refused(t, carrel(t, "doctor", "--db", filepath.Join(t.TempDir(), "none.db")), "no such database")
	refused(t, carrel(t, "doctor", "--db", file(t, "text.db", "this is a text and no database")), "is not a SQLite file")
}

func TestDoctorOfAServer(t *testing.T) {
	db := newSchema(t)
	states, words, code := examined(t, db)
	assert.Equal(t, exitFound, code)
	assert.Equal(t, "failed", states["schema"])
	assert.Contains(t, words["schema"], "carrel migrate")
	good(t, carrel(t, "migrate", "--db", db))
	for setting, check := range map[string]string{
		"synchronous_commit=off": "synchronous-commit", "log_statement=mod": "statement-log", "log_min_duration_statement=250ms": "statement-log", "log_parameter_max_length_on_error=100": "statement-log",
	} {
		states, words, _ = examined(t, db+"&options=-c%20"+strings.ReplaceAll(setting, "=", "%3D"))
		assert.Equal(t, "warning", states[check], "%s: %s", setting, words[check])
	}
	states, _, _ = examined(t, db+"&log_statement=all&log_parameter_max_length=0")
	assert.Equal(t, "ok", states["statement-log"])
	states, _, _ = examined(t, db)
	for _, check := range []string{"schema", "indexes", "connection", "synchronous-commit", "full-page-writes", "commit-timestamps", "statement-log"} {
		assert.Equal(t, "ok", states[check], check)
	}
	execPG(t, db, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'grants_unreviewed'::regclass") // as CREATE INDEX CONCURRENTLY leaves it
	states, words, _ = examined(t, db)
	assert.Equal(t, "failed", states["indexes"])
	assert.Contains(t, words["indexes"], "grants_unreviewed; REINDEX")
}

// Every index that the migrations make is one that doctor knows of, and no other.
func TestDoctorKnowsAllIndexes(t *testing.T) {
	db := newSchema(t)
	good(t, carrel(t, "migrate", "--db", db))
	d, err := connect(t.Context(), db, readOnly)
	require.NoError(t, err)
	defer d.close()
	version, err := d.version(t.Context())
	require.NoError(t, err)
	want, err := indexesMade(postgres.Migrations(), version)
	require.NoError(t, err)
	rows, err := d.db.Query("SELECT indexname FROM pg_indexes WHERE schemaname = current_schema() AND tablename <> 'carrel_goose' AND tablename NOT LIKE 'river%'")
	require.NoError(t, err)
	defer rows.Close()
	var have []string
	for rows.Next() {
		var name string
		require.NoError(t, rows.Scan(&name))
		have = append(have, name)
	}
	require.NoError(t, rows.Err())
	var known []string
	for name := range want {
		known = append(known, name)
	}
	assert.ElementsMatch(t, have, known)
}

func TestMetrics(t *testing.T) {
	db, policy := filledDB(t), file(t, "p.yaml", simplePolicy)
	dir := t.TempDir()
	out := filepath.Join(dir, "carrel.prom")
	refused(t, carrel(t, "sweep", "--db", db, "--policy", policy, "--dry-run", "--metrics", out), "--dry-run does nothing")
	assert.NoFileExists(t, out)
	good(t, carrel(t, "sweep", "--db", db, "--policy", policy, "--shard", "0/1", "--metrics", out))
	text, err := os.ReadFile(out)
	require.NoError(t, err)
	for _, want := range []string{`carrel_sweep_unlinked{kind="loan"} 2`, `carrel_sweep_kept{kind="loan"} 1`, `carrel_sweep_conflicts{kind="loan"} 0`, `carrel_sweep_deferred{kind="loan"} 0`,
		"# TYPE carrel_sweep_seconds gauge"} {
		assert.Contains(t, string(text), want+"\n")
	}
	assert.Regexp(t, `(?m)^carrel_sweep_last_success_timestamp_seconds [\d.e+]+$`, string(text))
	info, err := os.Stat(out)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o644), info.Mode().Perm(), "the collector is somebody else")

	// A sweep that fails leaves the time of the last success as it was.
	refused(t, carrel(t, "sweep", "--db", filepath.Join(dir, "none.db"), "--policy", policy, "--metrics", out), "no such database")
	after, err := os.ReadFile(out)
	require.NoError(t, err)
	assert.Equal(t, string(text), string(after))

	r := carrel(t, "doctor", "--db", db, "--policy", policy, "--metrics", out)
	assert.Equal(t, exitFound, r.code)
	text, err = os.ReadFile(out)
	require.NoError(t, err)
	assert.Contains(t, string(text), `carrel_check{name="schema"} 0`)
	assert.Contains(t, string(text), `carrel_check{name="key-place"} 1`)
	assert.Regexp(t, `(?m)^carrel_oldest_overdue_seconds 0$`, string(text))
	line := regexp.MustCompile(`^(# (HELP|TYPE) carrel_\w+ .+|carrel_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [-+\d.e]+)$`)
	for l := range strings.Lines(string(text)) {
		assert.Regexp(t, line, strings.TrimSuffix(l, "\n"))
	}
	names, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, names, 1, "nothing half written stays")
	r = carrel(t, "sweep", "--db", db, "--policy", policy, "--metrics", filepath.Join(dir, "no", "such"))
	assert.Equal(t, exitFailed, r.code)
	assert.Contains(t, r.stderr, "cannot be written: no such file or directory")
	assert.Contains(t, r.out, "Policy", "what was done is told all the same")
}

func TestExpose(t *testing.T) {
	text := string(expose([]metric{
		{name: "a", help: "An a.", samples: []sample{{[]string{"x", "q\"\\\n", "y", "å"}, 1.5}, {nil, 1e12}}}, {name: "b", help: "Nothing."}}))
	assert.Equal(t, "# HELP a An a.\n# TYPE a gauge\na{x=\"q\\\"\\\\\\n\",y=\"å\"} 1.5\na 1e+12\n", text)

	r := anonymize.Report{Kinds: map[string]*anonymize.KindReport{"loan": {Unlinked: 3, Kept: 9}}, Seconds: 2}
	text = string(expose(sweepMetrics(r, anonymize.Shard{Index: 1, Of: 4}, time.Unix(1_800_000_000, 0))))
	assert.Contains(t, text, "carrel_sweep_unlinked{kind=\"loan\",shard=\"1/4\"} 3\n")
	assert.Contains(t, text, "carrel_sweep_seconds{shard=\"1/4\"} 2\n")
	r.Partial = true
	text = string(expose(sweepMetrics(r, anonymize.Shard{}, time.Now())))
	assert.NotContains(t, text, "carrel_sweep_kept", "what was not read was not counted")
}
