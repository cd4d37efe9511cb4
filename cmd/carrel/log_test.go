package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
)

// reviewing are the flags of whoever may report.
func reviewing(db string, args ...string) []string {
	return append(args, "--db", db, "--actor", "dpo", "--role", "reviewer", "--purpose", "review")
}

// atDesk are the flags of the desk.
func atDesk(db string, args ...string) []string {
	return append(args, "--db", db, "--actor", "staff-17", "--role", "circulation", "--purpose", "checkout")
}

// trailDB is a database with patrons who were looked at.
func trailDB(t *testing.T) (db, id string) {
	t.Helper()
	db = newDB(t)
	good(t, carrel(t, "import", "--db", db, "--patrons", file(t, "p.csv", patronsCSV)))
	id = strings.TrimSpace(good(t, carrelIn(t, "29000000000077\n", atDesk(db, "patron", "find", "--identifier-file", "-")...)))
	good(t, carrel(t, atDesk(db, "patron", "show", "--id", id)...))
	refused(t, carrel(t, "patron", "show", "--id", id, "--db", db, "--actor", "staff-18", "--role", "cataloguing", "--purpose", "checkout"), "no-right")
	return db, id
}

func verify(t *testing.T, db string, args ...string) (v verified, code int) {
	t.Helper()
	r := carrel(t, append([]string{"log", "verify", "--db", db, "--json"}, args...)...)
	require.NoError(t, json.Unmarshal([]byte(r.out), &v), "%s%s", r.out, r.stderr)
	return v, r.code
}

func changeDB(t *testing.T, db, query string, args ...any) {
	t.Helper()
	driver, source := "sqlite", "file:"+db
	if onServer(db) {
		driver, source = "pgx", db
	}
	d, err := sql.Open(driver, source)
	require.NoError(t, err)
	defer d.Close()
	r, err := d.Exec(query, args...)
	require.NoError(t, err)
	n, err := r.RowsAffected()
	require.NoError(t, err)
	require.Positive(t, n)
}

func TestLogReports(t *testing.T) { onBoth(t, testLogReports) }

func testLogReports(t *testing.T) {
	db, id := trailDB(t)
	var views audit.Table[audit.ViewRow]
	require.NoError(t, json.Unmarshal([]byte(good(t, carrel(t, reviewing(db, "log", "report", "views", "--id", id, "--json")...))), &views))
	require.Len(t, views.Rows, 3)
	assert.Equal(t, audit.Find, views.Rows[0].Action)
	assert.Equal(t, []string{"identifiers", "names"}, views.Rows[1].Segments)
	assert.Equal(t, "staff-17", views.Rows[1].Actor)
	assert.Equal(t, audit.Denied, views.Rows[2].Outcome)

	seen := good(t, carrel(t, reviewing(db, "log", "report", "seen", "--id", id, "--csv")...))
	assert.Contains(t, seen, "date,purpose,role,segments,recipient\n")
	assert.Contains(t, seen, ",checkout,circulation,\"identifiers, names\",")
	assert.NotContains(t, seen, "staff-1")

	changes := good(t, carrel(t, reviewing(db, "log", "report", "changes", "--id", id)...))
	assert.Contains(t, changes, "SEGMENT")
	assert.Regexp(t, `names +added +carrel +integration +sync +cli +import +done`, changes)

	var x audit.Exposure
	require.NoError(t, json.Unmarshal([]byte(good(t, carrel(t, reviewing(db, "log", "report", "exposure", "--staff", "staff-17", "--json")...))), &x))
	assert.Equal(t, 1, x.Patrons)
	assert.Equal(t, 3, x.Records)
	assert.Equal(t, map[string]int{"identity": 1, "identifiers": 1, "names": 1}, x.Segments)
	r := carrel(t, reviewing(db, "log", "report", "exposure", "--staff", "staff-18")...)
	assert.Contains(t, r.out, "no patrons, no records")
	assert.NotContains(t, r.out, "nothing")
	assert.Equal(t, "carrel: nothing: is --staff staff-18 spelt as in the trail?\n", r.stderr)
	assert.Contains(t, good(t, carrel(t, reviewing(db, "log", "report", "exposure", "--all")...)), "2 patrons")

	refused(t, carrel(t, atDesk(db, "log", "report", "views", "--id", id)...), "no-right", "may: [report]")
	refused(t, carrel(t, reviewing(db, "log", "report", "views", "--id", id, "--json", "--csv")...), "either --json or --csv")
	refused(t, carrel(t, reviewing(db, "log", "report", "exposure")...), "carrel: log report exposure: say what is out: --staff, --as, --grant, --recipient, --since or --all")
	refused(t, carrel(t, reviewing(db, "log", "report", "exposure", "--all", "--staff", "x")...), "--all stands alone: leave out --staff")
	refused(t, carrel(t, reviewing(db, "log", "report", "logins", "--result", "sucess")...), `log report logins: --result sucess: want success, restricted or failed; did you mean "success"?`)
	refused(t, carrel(t, reviewing(db, "log", "report", "views", "--id", id, "--segments", "adresses")...), `--segments adresses: want some of`, `did you mean "addresses"?`)
	refused(t, carrel(t, reviewing(db, "log", "report", "exports", "--since", "yesterday")...), "--since yesterday: not a time")
	refused(t, carrel(t, reviewing(db, "log", "report", "exports", "--since", "2026-02-01", "--until", "2026-01-01")...), "--until is not after")
	reports := good(t, carrel(t, reviewing(db, "log", "report", "reports")...))
	assert.Regexp(t, `views +dpo +reviewer +review +cli +3 +1 +done`, reports)
	assert.Regexp(t, `staff-17 +circulation +checkout +cli +0 +0 +denied +no-right`, reports)

	out := filepath.Join(t.TempDir(), "trail.ndjson")
	r = carrel(t, reviewing(db, "log", "export", "--format", "fhir", "--site", "Main Library", "--out", out)...)
	require.Equal(t, exitGood, r.code, r.stderr)
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	assert.Contains(t, string(data), "IHE.BasicAudit.PatientRead")
	assert.NotContains(t, string(data), id)
	refused(t, carrel(t, reviewing(db, "log", "export", "--name-patrons")...), "--approval")
	assert.Contains(t, good(t, carrel(t, reviewing(db, "log", "export", "--name-patrons", "--approval", "x")...)), id)

	// Who is forgotten is gone from all of it, and the proof stands.
	good(t, carrel(t, "keys", "shred", "--db", db, "--id", id, "--actor", "dpo", "--approval", "erasure 2026-31"))
	refused(t, carrel(t, reviewing(db, "log", "report", "views", "--id", id)...), "was forgotten")
	assert.NotContains(t, good(t, carrel(t, reviewing(db, "log", "export", "--name-patrons", "--approval", "x")...)), id)
	r = carrel(t, reviewing(db, "log", "report", "exposure", "--staff", "staff-17")...)
	assert.Contains(t, r.out, "at most 1 patron who was forgotten")
	v, code := verify(t, db)
	assert.Equal(t, exitGood, code, v.Findings)
}

func TestLogVerify(t *testing.T) {
	db, _ := trailDB(t)
	v, code := verify(t, db)
	require.Equal(t, exitGood, code)
	require.True(t, v.Good)
	require.Zero(t, v.Pending)
	key := strings.TrimSpace(good(t, carrel(t, "log", "key", "--db", db)))
	assert.Contains(t, good(t, carrel(t, "log", "verify", "--db", db)), "Nothing was changed.")

	// An auditor has a copy, the anchor and the public key.
	copied := filepath.Join(t.TempDir(), "copy.db")
	copyDB(t, db, copied)
	v, code = verify(t, copied, "--anchor", db+".anchor", "--key", key)
	require.Equal(t, exitGood, code)
	require.Equal(t, v.Anchored, v.Size)
	changeDB(t, copied, "UPDATE trail_entries SET body = CAST(replace(CAST(body AS TEXT), 'staff-17', 'staff-19') AS BLOB) WHERE number = 2")
	v, code = verify(t, copied, "--anchor", db+".anchor", "--key", key)
	require.Equal(t, exitFound, code)
	require.Len(t, v.Findings, 1)
	assert.Equal(t, audit.Finding{Kind: audit.Edited, From: 2, To: 3}, audit.Finding{Kind: v.Findings[0].Kind, From: v.Findings[0].From, To: v.Findings[0].To})
	v, code = verify(t, copied, "--anchor", db+".anchor", "--key", key, "--known", "2-3")
	require.Equal(t, exitFound, code, "only a declared loss can be known")
	require.Len(t, v.Findings, 1)
	refused(t, carrel(t, "log", "verify", "--db", copied, "--key", "x"), "--key")
	assert.Contains(t, carrel(t, "log", "verify", "--db", copied, "--anchor", db+".anchor", "--key", key).out, "edited")

	// The end is cut off, and then the database restored as it was: found, said, and the trail goes on.
	old := filepath.Join(t.TempDir(), "old.db")
	copyDB(t, db, old)
	before := v.Size
	good(t, carrelIn(t, "29000000000077\n", atDesk(db, "patron", "find", "--identifier-file", "-")...))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		os.Remove(db + suffix)
	}
	data, err := os.ReadFile(old)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(db, data, 0o600))
	v, code = verify(t, db)
	require.Equal(t, exitFound, code)
	require.Equal(t, audit.Cut, v.Findings[0].Kind)
	require.Equal(t, before, v.Findings[0].From)
	r := carrelIn(t, "29000000000077\n", atDesk(db, "patron", "find", "--identifier-file", "-")...)
	assert.Equal(t, exitFailed, r.code)
	assert.Contains(t, r.stderr, "the database has fewer trail entries than the anchor")
	assert.Equal(t, 1, strings.Count(carrel(t, "log", "prune", "--db", db, "--keep", "views=P1Y", "--actor", "dpo").stderr, "fewer trail entries"), "said once")
	status := carrel(t, "log", "status", "--db", db)
	assert.Equal(t, exitFound, status.code)
	assert.Regexp(t, `the anchor is over \d+ entries, the trail has \d+: see carrel log verify`, status.out)
	assert.NotEmpty(t, r.out, "what was recorded is shown")
	assert.Contains(t, good(t, carrel(t, "log", "restored", "--db", db, "--actor", "systems-2", "--approval", "incident 7")), "are lost")
	good(t, carrelIn(t, "29000000000077\n", atDesk(db, "patron", "find", "--identifier-file", "-")...))
	v, code = verify(t, db)
	require.Equal(t, exitFound, code)
	require.NotEmpty(t, v.Findings)
	for _, f := range v.Findings {
		assert.Equal(t, audit.Declared, f.Kind, f.Detail)
	}
	assert.Equal(t, exitGood, carrel(t, "log", "status", "--db", db).code)

	// What was declared can be known, exactly as it is printed, and then all is good.
	var known []string
	for _, f := range v.Findings {
		known = append(known, "--known", fmt.Sprintf("%d-%d", f.From, f.To))
	}
	n := len(v.Findings)
	v, code = verify(t, db, known...)
	require.Equal(t, exitGood, code)
	require.True(t, v.Good)
	require.Len(t, v.Known, n)
	require.Empty(t, v.Findings)
	assert.Contains(t, good(t, carrel(t, append([]string{"log", "verify", "--db", db}, known...)...)), "Otherwise nothing was changed.")
	r = carrel(t, "log", "verify", "--db", db, "--known", "0-1")
	assert.Equal(t, exitFound, r.code)
	assert.Contains(t, r.stderr, "--known 0-1: no such loss was declared")
	refused(t, carrel(t, "log", "verify", "--db", db, "--known", "67"), "want FROM-TO")
}

// copyDB copies a database with what is in its log.
func copyDB(t *testing.T, from, to string) {
	t.Helper()
	d, err := sql.Open("sqlite", "file:"+from)
	require.NoError(t, err)
	defer d.Close()
	_, err = d.Exec("VACUUM INTO ?", to)
	require.NoError(t, err)
}

func TestLogPrune(t *testing.T) { onBoth(t, testLogPrune) }

func testLogPrune(t *testing.T) {
	db, id := trailDB(t)
	good(t, carrel(t, "import", "--db", db, "--loans", file(t, "l.csv", "loan,borrower,returned\nl1,p-77,\n")))
	good(t, carrelIn(t, "p-77\n", "hold", "add", "--db", db, "--borrower-file", "-", "--ref", "case"))
	prune := func(args ...string) []string {
		return append([]string{"log", "prune", "--db", db, "--actor", "dpo"}, args...)
	}
	refused(t, carrel(t, prune()...), "--keep is missing")
	refused(t, carrel(t, prune("--keep", "view=P1Y")...), "did you mean \"views\"")
	refused(t, carrel(t, prune("--keep", "views=1y")...), "is no period")
	refused(t, carrel(t, prune("--keep", "views=P0D")...), "is no period")
	refused(t, carrel(t, prune("--keep", "upkeep=P1D")...), "no class")

	// Nothing is old enough; what would be is made so by looking from later on.
	assert.Contains(t, good(t, carrel(t, prune("--keep", "views=P1D", "--dry-run")...)), "nothing was removed")
	assert.Equal(t, "no legal holds on the trail\n", good(t, carrel(t, "log", "hold", "list", "--db", db)))
	assert.Equal(t, "held: case 9\n", good(t, carrel(t, "log", "hold", "add", "--db", db, "--ref", "case 9", "--actor", "counsel")))
	refused(t, carrel(t, prune("--keep", "views=P1D")...), "a legal hold is on the trail: case 9")
	assert.Equal(t, "case 9\n", good(t, carrel(t, "log", "hold", "list", "--db", db)))
	assert.Contains(t, good(t, carrel(t, prune("--keep", "views=P1D", "--dry-run")...)), "a legal hold is on the trail (case 9): nothing would go")
	assert.Contains(t, good(t, carrel(t, prune("--keep", "views=P1D", "--dry-run", "--json")...)), `"trail_held":["case 9"]`)
	refused(t, carrel(t, "log", "hold", "add", "--db", db, "--ref", "case 9", "--actor", "counsel"), `log hold add: "case 9" is on the trail already`)
	refused(t, carrel(t, "log", "hold", "release", "--db", db, "--ref", "case 2", "--actor", "counsel"), `log hold release: no hold "case 2" on the trail; see carrel log hold list`)
	assert.Equal(t, "released: case 9\n", good(t, carrel(t, "log", "hold", "release", "--db", db, "--ref", "case 9", "--actor", "counsel")))
	assert.Contains(t, good(t, carrel(t, prune("--keep", "views=P1D", "--keep", "jobs=P1D", "--json")...)),
		`{"dry_run":false,"removed":{"jobs":0,"views":0},"held":0,"holds_unknown":0,"collapsed":0,"trail_held":[]}`)
	assert.Contains(t, good(t, carrel(t, prune("--keep", "views=P1D")...)), "OLDER THAN")
	// That the holds were read is recorded, with who pruned; nobody looked at the patron.
	log := good(t, carrel(t, reviewing(db, "log", "export")...))
	assert.Regexp(t, `"action":"report","outcome":"done","actor":"dpo","role":"systems",.*"object":"holds"`, log)
	assert.NotContains(t, log, `"action":"resolve"`)
	v, code := verify(t, db)
	require.Equal(t, exitGood, code)
	require.Zero(t, v.Pruned)
	assert.Contains(t, good(t, carrel(t, "log", "status", "--db", db)), "0 not yet under a checkpoint")
	assert.NotEmpty(t, id)
}

func TestAgo(t *testing.T) {
	now := time.Date(2026, 3, 31, 10, 0, 0, 0, time.UTC)
	for period, want := range map[string]string{
		"P1M": "2026-02-28T10:00:00Z", "P1Y": "2025-03-31T10:00:00Z", "P13M": "2025-02-28T10:00:00Z", "P2W": "2026-03-17T10:00:00Z", "P31D": "2026-02-28T10:00:00Z",
		"P1Y1M1W1D": "2025-02-20T10:00:00Z",
	} {
		got, err := ago(period, now)
		require.NoError(t, err, period)
		assert.Equal(t, want, stamp(got), period)
	}
	for _, bad := range []string{"", "P", "P0D", "1Y", "P1H", "PT1H", "P-1D", "P1.5Y", "P1D1Y"} {
		_, err := ago(bad, now)
		assert.Error(t, err, bad)
	}
}

// A sweep leaves an entry for every page, with the policy and the rules and nobody in it.
func TestSweepIsInTheTrail(t *testing.T) { onBoth(t, testSweepIsInTheTrail) }

func testSweepIsInTheTrail(t *testing.T) {
	db, _ := trailDB(t)
	good(t, carrel(t, "import", "--db", db, "--loans", file(t, "l.csv", "loan,borrower,returned\nl1,p-77,2020-01-01\nl2,p-78,2020-01-02\n")))
	policy := file(t, "strict.yaml", good(t, carrel(t, "policy", "init", "--preset", "strict")))
	good(t, carrel(t, "sweep", "--db", db, "--policy", policy))
	log := good(t, carrel(t, reviewing(db, "log", "export", "--action", "sweep")...))
	assert.Equal(t, 1, strings.Count(log, "\n"), log)
	for _, want := range []string{`"action":"sweep"`, `"kind":"loan"`, `"count":2`, `"tally":[{"name":"`, `sha256:`} {
		assert.Contains(t, log, want)
	}
	assert.NotContains(t, log, "subjects")
}
