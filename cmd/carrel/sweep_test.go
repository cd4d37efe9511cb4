package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
)

func sweepJSON(t testing.TB, args ...string) (report anonymize.Report) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(good(t, carrel(t, append([]string{"sweep", "--json"}, args...)...))), &report))
	return report
}

func filledDB(t testing.TB) string {
	t.Helper()
	db := newDB(t)
	good(t, carrel(t, "import", "--db", db, "--loans", file(t, "loans.csv", loansCSV)))
	return db
}

func TestSweep(t *testing.T) {
	db, policy := filledDB(t), file(t, "p.yaml", simplePolicy)
	before, err := os.ReadFile(db)
	require.NoError(t, err)

	require.Contains(t, carrel(t, "sweep", "--db", db, "--policy", policy, "--dry-run").out, "no fee was ever imported")
	plan := good(t, carrel(t, "sweep", "--db", "sqlite:"+db, "--policy", policy, "--dry-run", "--at", "2026-03-06"))
	for _, want := range []string{"Policy test/simple, revision 3, sha256:", "At 2026-03-05T23:00:00Z  (dry run: nothing was written)",
		"loan                 3         2     1          0", "loan  month        2  A month is enough", "loan  unfinished        1  still out"} {
		assert.Contains(t, plan, want)
	}
	sweepJSON(t, "--db", db, "--policy", policy, "--dry-run", "--at", "2100-01-01")
	after, err := os.ReadFile(db)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(before, after), "a dry run writes nothing")

	refused(t, carrel(t, "sweep", "--db", db, "--policy", policy, "--at", "2100-01-01"), "lies in the future; only --dry-run")
	early := file(t, "early.yaml", strings.Replace(simplePolicy, "revision: 3", "effective: 2100-01-01", 1))
	refused(t, carrel(t, "sweep", "--db", db, "--policy", early), "effective")
	refused(t, carrel(t, "sweep", "--db", db, "--policy", file(t, "bad.yaml", "id: x\n")), "bad.yaml:1:1: ")

	raw := good(t, carrel(t, "sweep", "--db", db, "--policy", policy, "--json"))
	for _, key := range []string{`"policy":{"id":"test/simple","revision":3,"digest":"sha256:`, `"at":"`, `"dry_run":false`,
		`"kinds":{`, `"loan":{"linked_before":3,"unlinked":2,"kept":1,"deferred":0,"conflicts":0,"by_rule":{"month":2},"by_reason":{"lost":1,"unfinished":1}}`, `"seconds":`} {
		assert.Contains(t, raw, key)
	}
	assert.Equal(t, 1, strings.Count(raw, "\n"))
	again := sweepJSON(t, "--db", db, "--policy", policy)
	assert.Equal(t, 1, again.Kinds["loan"].LinkedBefore)
	assert.Equal(t, 0, again.Kinds["loan"].Unlinked)
}

// What an earlier night put off is kept without being read, and is counted all the same; not with --fast.
func TestSweepFast(t *testing.T) { onBoth(t, testSweepFast) }

func testSweepFast(t *testing.T) {
	db, policy := filledDB(t), file(t, "p.yaml", strings.Replace(simplePolicy, "P30D", "P90Y", 1))
	first := sweepJSON(t, "--db", db, "--policy", policy, "--fast")
	assert.Equal(t, 3, first.Kinds["loan"].LinkedBefore)
	assert.True(t, first.Partial)
	counted := sweepJSON(t, "--db", db, "--policy", policy)
	assert.False(t, counted.Partial)
	assert.Equal(t, 3, counted.Kinds["loan"].Kept)
	assert.Equal(t, 3, counted.Kinds["loan"].Deferred)
	assert.Contains(t, good(t, carrel(t, "sweep", "--db", db, "--policy", policy)), "3 records kept without being read")
	fast := good(t, carrel(t, "sweep", "--db", db, "--policy", policy, "--fast"))
	assert.Contains(t, fast, "only what was read is counted (--fast)")
	assert.Contains(t, fast, "loan                 0         0     0          0")
	assert.Zero(t, sweepJSON(t, "--db", db, "--policy", policy, "--fast").Kinds["loan"].LinkedBefore)
	plan := sweepJSON(t, "--db", db, "--policy", policy, "--dry-run", "--fast")
	assert.Equal(t, 3, plan.Kinds["loan"].LinkedBefore)
	assert.False(t, plan.Partial)
}

func TestSweepShards(t *testing.T) { onBoth(t, testSweepShards) }

func testSweepShards(t *testing.T) {
	db, policy := filledDB(t), file(t, "p.yaml", simplePolicy)
	unlinked := 0
	for i := range 3 {
		unlinked += sweepJSON(t, "--db", db, "--policy", policy, "--shard", fmt.Sprintf("%d/3", i)).Kinds["loan"].Unlinked
	}
	assert.Equal(t, 2, unlinked)
}

func TestDatabasesThatAreNone(t *testing.T) {
	policy, loans := file(t, "p.yaml", simplePolicy), file(t, "loans.csv", loansCSV)
	dir := t.TempDir()
	other, newer, junk, empty := filepath.Join(dir, "other.db"), filepath.Join(dir, "newer.db"), filepath.Join(dir, "junk.db"), filepath.Join(dir, "empty.db")
	execSQL(t, other, "CREATE TABLE bookmarks (url TEXT)")
	execSQL(t, other, "PRAGMA user_version = 77")
	good(t, carrel(t, "import", "--db", newer, "--loans", loans))
	execSQL(t, newer, "PRAGMA user_version = 99")
	require.NoError(t, os.WriteFile(junk, []byte("this is a text and no database"), 0o600))
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	damaged := filepath.Join(dir, "damaged.db")
	require.NoError(t, os.WriteFile(damaged, append([]byte(sqliteMagic), bytes.Repeat([]byte{7}, 8000)...), 0o600))

	for _, c := range []struct{ name, dsn, want string }{
		{"missing", filepath.Join(dir, "none.db"), "no such database"},
		{"directory", dir, "is a directory"},
		{"text", junk, "is not a SQLite file"},
		{"empty", empty, "is empty, not a database"},
		{"something else's", other, "of something else"},
		{"newer", newer, "newer carrel"},
		{"damaged", damaged, "damaged"},
		{"postgres", "postgres://u:secret@127.0.0.1:1/db", "PostgreSQL database db on 127.0.0.1: cannot be reached"},
		{"postgresql", "postgresql://u:sec%ret@host/db", "not an address of PostgreSQL"},
		{"url", "mysql://u:secret@host/db", "unknown kind of database"},
		{"colon", "postgres//u:secret@host/db", "begins with postgres://"},
		{"keywords", "host=127.0.0.1 user=u password=secret dbname=db", "begins with postgres://"},
		{"keyword", "password = secret", "begins with postgres://"},
		{"memory", ":memory:", "want the plain path"},
		{"nothing", "sqlite:", "names no file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, args := range [][]string{
				{"sweep", "--policy", policy}, {"sweep", "--policy", policy, "--dry-run"}, {"hold", "list"},
				{"hold", "add", "--borrower", "p1", "--ref", "r"}, {"hold", "release", "--borrower", "p1", "--ref", "r"},
			} {
				r := carrel(t, append(args, "--db", c.dsn)...)
				refused(t, r, c.want)
				assert.NotContains(t, r.stderr, "sec")
			}
			if c.name != "missing" && c.name != "empty" {
				refused(t, carrel(t, "import", "--loans", loans, "--db", c.dsn), c.want)
			}
		})
	}
	assert.NoFileExists(t, filepath.Join(dir, "none.db"))
	good(t, carrel(t, "import", "--db", empty, "--loans", loans)) // as mktemp leaves it
	refused(t, carrel(t, "import", "--db", filepath.Join(dir, "no", "such.db"), "--loans", loans), "cannot be created: no such file or directory")
}

func execSQL(t testing.TB, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = db.Exec(query)
	require.NoError(t, err)
	require.NoError(t, db.Close())
}

// Interrupted at a random moment, a sweep leaves nothing half done and is simply run again.
func TestSweepInterrupted(t *testing.T) { onBoth(t, testSweepInterrupted) }

func testSweepInterrupted(t *testing.T) {
	var db string
	policy := file(t, "p.yaml", simplePolicy)
	var csv strings.Builder
	csv.WriteString("loan,borrower,returned\n")
	const loans = 50_000
	for i := range loans {
		fmt.Fprintf(&csv, "l%d,p%d,2026-01-%02d\n", i, i%1000, 1+i%28)
	}
	export := file(t, "loans.csv", csv.String())
	fill := func() {
		db = newDB(t)
		good(t, carrel(t, "import", "--db", db, "--loans", export))
	}
	fill()
	stopped, tooLate := false, 0
	for wait := 40 * time.Millisecond; !stopped && tooLate < 10 && wait < 5*time.Second; wait += 40 * time.Millisecond {
		cmd := command(t, "sweep", "--db", db, "--policy", policy)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		require.NoError(t, cmd.Start())
		time.Sleep(wait)
		cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		if err == nil { // it was done before: a busy machine takes long to start it, and not the next time
			tooLate++
			wait -= 150 * time.Millisecond
			fill()
			continue
		}
		if cmd.ProcessState.ExitCode() == -1 {
			continue // before carrel listened to signals
		}
		require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode(), stderr.String())
		require.Regexp(t, `\Acarrel: .*\n\z`, stderr.String())
		stopped = strings.Contains(stderr.String(), "simply run it again")
	}
	assert.True(t, stopped)
	left := sweepJSON(t, "--db", db, "--policy", policy).Kinds["loan"]
	assert.Equal(t, left.LinkedBefore, left.Unlinked)
	assert.Equal(t, 0, sweepJSON(t, "--db", db, "--policy", policy).Kinds["loan"].LinkedBefore)
}

func TestHold(t *testing.T) { onBoth(t, testHold) }

func testHold(t *testing.T) {
	db, policy := filledDB(t), file(t, "p.yaml", simplePolicy)
	assert.Equal(t, "no legal holds on borrowers\n", good(t, carrel(t, "hold", "list", "--db", db)))
	assert.Equal(t, "held: 2 borrowers under case 1\n", good(t, carrelIn(t, "p1\n\n p2 \np1\n", "hold", "add", "--db", db, "--borrower-file", "-", "--ref", "case 1")))
	assert.Equal(t, 3, sweepJSON(t, "--db", db, "--policy", policy).Kinds["loan"].ByReason["legal-hold"])

	good(t, carrel(t, "hold", "add", "--db", db, "--borrower", "p1", "--ref", "case 1", "--until", "2099-01-31", "--zone", "Europe/Stockholm"))
	list := good(t, carrel(t, "hold", "list", "--db", db, "--json"))
	assert.JSONEq(t, `{"holds":[{"ref":"case 1","until":"","in_force":true,"borrowers":1},
		{"ref":"case 1","until":"2099-01-31T23:00:00Z","in_force":true,"borrowers":1}]}`, list)
	assert.Contains(t, good(t, carrel(t, "hold", "list", "--db", db)), "case 1  2099-01-31T23:00:00Z          1")

	refused(t, carrelIn(t, "p1\np-unknown\n", "hold", "release", "--db", db, "--borrower-file", "-", "--ref", "case 1"), "1 borrower of 2 without", "nothing was released")
	assert.Equal(t, list, good(t, carrel(t, "hold", "list", "--db", db, "--json")))
	refused(t, carrel(t, "hold", "add", "--db", db, "--borrower", "p1", "--ref", "x", "--until", "2020-01-01"), "has passed")
	assert.Equal(t, "held: 3 borrowers under case 2, 1 of them not known here: check the spelling\n",
		good(t, carrelIn(t, "\ufeffp1\r\np-typo\np2\n", "hold", "add", "--db", db, "--borrower-file", "-", "--ref", "case 2")))
	assert.Contains(t, good(t, carrelIn(t, "\ufeffp1\r\np-typo\np2\n", "hold", "release", "--db", db, "--borrower-file", "-", "--ref", "case 2")), "released: 3")
	assert.JSONEq(t, `{"ref":"case 3","held":1,"unknown":1}`, good(t, carrel(t, "hold", "add", "--db", db, "--borrower", " p-typ0 ", "--ref", "case 3", "--json")))
	assert.JSONEq(t, `{"ref":"case 3","released":1}`, good(t, carrel(t, "hold", "release", "--db", db, "--borrower", "p-typ0", "--ref", "case 3", "--json")))
	for text, want := range map[string]string{"\xff\xfep\x001\x00": "UTF-16", "p\x001\x00\n": ":1: not a text in UTF-8", "p1\np\xe5\n": ":2: not a text in UTF-8", "\ufeff\n": "names no borrower"} {
		refused(t, carrelIn(t, text, "hold", "add", "--db", db, "--borrower-file", "-", "--ref", "x"), want)
		refused(t, carrelIn(t, text, "hold", "release", "--db", db, "--borrower-file", "-", "--ref", "x"), want)
	}
	for _, blank := range []string{"", "  ", "\t"} {
		refused(t, carrel(t, "hold", "add", "--db", db, "--borrower", blank, "--ref", "x"), "--borrower is blank")
	}
	refused(t, carrel(t, "hold", "add", "--db", db, "--borrower", "p1", "--ref", "x", "--until", "9999-12-31"), "leave --until out")
	refused(t, carrelIn(t, "\n", "hold", "add", "--db", db, "--borrower-file", "-", "--ref", "x"), "names no borrower")
	refused(t, carrel(t, "hold", "add", "--db", db, "--borrower-file", "/nonexistent", "--ref", "x"), "no such file")

	out := good(t, carrel(t, "hold", "release", "--db", db, "--borrower-file", file(t, "who", "p1\np2\n"), "--ref", "case 1", "--json"))
	assert.JSONEq(t, `{"ref":"case 1","released":2}`, out)
	assert.Equal(t, 2, sweepJSON(t, "--db", db, "--policy", policy).Kinds["loan"].Unlinked)
}
