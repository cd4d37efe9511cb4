//go:build unix

package main

import (
	"bytes"
	"context"
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
	"github.com/carrel-project/carrel/circulation"
)

// A column that is missing by mistake must not take the borrowers from records that are there; one that is
// missing on purpose may.
func TestImportWithoutABorrower(t *testing.T) { onBoth(t, testImportWithoutABorrower) }

func testImportWithoutABorrower(t *testing.T) {
	db := filledDB(t)
	require.Equal(t, 3, linked(t, db, circulation.KindLoan))
	noBorrower := file(t, "l.csv", "loan,returned\nl1,2026-02-01\n")
	refused(t, carrel(t, "import", "--db", db, "--loans", noBorrower), "has no column borrower")
	require.Equal(t, 3, linked(t, db, circulation.KindLoan))
	for _, nobody := range []string{"~", `{constant: ""}`} {
		good(t, carrel(t, "import", "--db", db, "--loans", noBorrower, "--map", file(t, "m.yaml", "carrel-map: 1\nloans: {borrower: "+nobody+"}\n")))
	}
	require.Equal(t, 2, linked(t, db, circulation.KindLoan))
	jsonl := file(t, "l.jsonl", `{"loan":"l9","borrower":null,"returned":null}`)
	good(t, carrel(t, "import", "--db", db, "--loans", jsonl))
}

func TestImportUnknownPointers(t *testing.T) { onBoth(t, testImportUnknownPointers) }

func testImportUnknownPointers(t *testing.T) {
	db := filledDB(t)
	var csv strings.Builder
	csv.WriteString("fee,loan,borrower,status\nf0,l1,p1,open\n")
	for i := range 25 {
		fmt.Fprintf(&csv, "x%d,gone%d,p1,open\n", i, i)
	}
	fees := file(t, "f.csv", csv.String())
	r := carrel(t, "import", "--db", db, "--fees", fees)
	assert.Equal(t, exitFailed, r.code)
	assert.Equal(t, 21, strings.Count(r.stderr, "\n"), r.stderr)
	assert.Contains(t, r.stderr, "f.csv:22: column loan: names a loan that is not in the database")
	assert.Contains(t, r.stderr, "25 bad rows, of which the first 20 are listed")
	assert.Contains(t, r.stderr, "--drop-unknown-pointers")
	assert.NotContains(t, r.stderr, "gone1")
	assert.Equal(t, 0, linked(t, db, circulation.KindFee))

	report := importJSON(t, "--db", db, "--fees", fees, "--drop-unknown-pointers")
	assert.Equal(t, 26, report.Files[0].Added)
	assert.Equal(t, 25, report.Files[0].PointersDropped)
	plan := sweepJSON(t, "--db", db, "--policy", file(t, "p.yaml", simplePolicy), "--dry-run")
	assert.Equal(t, 1, plan.Kinds["loan"].ByReason["open-fee"], "a pointer that is known stays")
}

// While somebody reads an older state, the log keeps what was erased: the report is complete, but not all is well.
func TestSweepBesideAReader(t *testing.T) {
	for _, asJSON := range []bool{true, false} {
		t.Run(fmt.Sprint(asJSON), func(t *testing.T) {
			t.Parallel() // each waits ten seconds for the reader
			db, policy := filledDB(t), file(t, "p.yaml", simplePolicy)
			reader, err := sql.Open("sqlite", db)
			require.NoError(t, err)
			defer reader.Close()
			tx, err := reader.BeginTx(context.Background(), nil)
			require.NoError(t, err)
			var n int
			require.NoError(t, tx.QueryRow("SELECT count(*) FROM links").Scan(&n))

			r := carrel(t, "sweep", "--db", db, "--policy", policy, fmt.Sprintf("--json=%t", asJSON))
			assert.Equal(t, exitFailed, r.code)
			assert.Equal(t, "carrel: sweep: the records were unlinked, but copies of what was erased stay in "+db+"-wal while another program reads the database; run it again\n", r.stderr)
			if asJSON {
				var report anonymize.Report
				require.NoError(t, json.Unmarshal([]byte(r.out), &report))
				assert.Equal(t, 2, report.Kinds["loan"].Unlinked)
			} else {
				assert.Contains(t, r.out, "Unlinked, by the rule that decided")
			}
			require.NoError(t, tx.Rollback())
			good(t, carrel(t, "sweep", "--db", db, "--policy", policy))
		})
	}
}

// A failing import removes the database that it made, unless somebody put something into it or has it open.
func TestAbandon(t *testing.T) {
	ctx := context.Background()
	made := func() *database {
		d, err := openDatabase(ctx, newDB(t), createIt)
		require.NoError(t, err)
		return d
	}
	d := made()
	d.abandon()
	assert.NoFileExists(t, d.path)
	assert.NoFileExists(t, d.path+"-wal")
	assert.ErrorContains(t, d.isThere(), "was removed")

	d = made()
	_, err := d.db.Exec("DROP TABLE patrons") // as a migration leaves it that was interrupted
	require.NoError(t, err)
	d.abandon()
	assert.NoFileExists(t, d.path)

	d = made()
	tx, err := d.db.BeginTx(ctx, nil)
	require.NoError(t, err)
	time.AfterFunc(200*time.Millisecond, func() { tx.Rollback() }) // as one is that was interrupted
	d.abandon()
	assert.NoFileExists(t, d.path)

	d = made()
	good(t, carrel(t, "import", "--db", d.path, "--loans", file(t, "l.csv", loansCSV)))
	d.abandon()
	assert.Equal(t, 3, linked(t, d.path, circulation.KindLoan))

	d = made()
	good(t, carrel(t, "import", "--db", d.path, "--patrons", file(t, "p.csv", "patron\np1\n")))
	d.abandon()
	assert.FileExists(t, d.path)

	d = made()
	other, err := openDatabase(ctx, d.path, readWrite)
	require.NoError(t, err)
	d.abandon()
	assert.FileExists(t, d.path)
	require.NoError(t, other.isThere())
	require.NoError(t, other.close())
}

// A pipe whose other end never comes, or never says anything, does not outlive Ctrl-C.
func TestInterruptedAtAPipe(t *testing.T) {
	for _, c := range []struct {
		name string
		open bool // somebody holds the other end
	}{{"open", false}, {"read", true}} {
		t.Run(c.name, func(t *testing.T) {
			pipe, db := filepath.Join(t.TempDir(), "loans.csv"), newDB(t)
			require.NoError(t, syscall.Mkfifo(pipe, 0o600))
			if c.open {
				f, err := os.OpenFile(pipe, os.O_RDWR, 0)
				require.NoError(t, err)
				defer f.Close()
				_, err = f.WriteString("loan,borrower,returned\nl1,p1,\n")
				require.NoError(t, err)
			}
			cmd := command(t, "import", "--db", db, "--loans", pipe)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			require.NoError(t, cmd.Start())
			time.Sleep(700 * time.Millisecond)
			cmd.Process.Signal(os.Interrupt)
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				cmd.Process.Kill()
				<-done
				t.Fatal("still waits")
			}
			assert.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode(), stderr.String())
			assert.Contains(t, stderr.String(), "interrupted")
			assert.NoFileExists(t, db)
		})
	}
}

func TestWellFormed(t *testing.T) {
	for _, good := range []string{`{"a":"\ud83d\ude00"}`, `{"a":"\\ud83d"}`, `{"a":"\\\\"}`, `{"a":"\u00e5å"}`, `{"a":"\`, `{"a":"\u12`} {
		assert.NoError(t, wellFormed([]byte(good)), good)
	}
	for _, bad := range []string{`{"a":"\ud83d"}`, `{"a":"\ude00"}`, `{"a":"\ud83d\ud83d"}`, `{"a":"\ud83dx\ude00"}`, `{"a":"\ud83d\n"}`, `"\ud83d`, "\"\xe5\""} {
		assert.Error(t, wellFormed([]byte(bad)), bad)
	}
}

func TestControlCharactersStayOffTheTerminal(t *testing.T) {
	policy := file(t, "p.yaml", strings.NewReplacer("test/simple", `"a\e[31mb"`, "name: month", `name: "m\e[31mo\u009bn"`).Replace(simplePolicy))
	r := carrel(t, "sweep", "--db", filledDB(t), "--policy", policy)
	assert.NotContains(t, r.out+r.stderr, "\x1b")
	assert.NotContains(t, r.out+r.stderr, "\u009b")
	t.Log(r.out, r.stderr)
}
