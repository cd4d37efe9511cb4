package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/store/sqlite"
)

// What commands do that ask for nobody's name is in the trail all the same, with who ran them.
func TestCommandsSayWhoRanThem(t *testing.T) { onBoth(t, testCommandsSayWhoRanThem) }

func testCommandsSayWhoRanThem(t *testing.T) {
	db := newDB(t)
	cmd := command(t, "import", "--db", db, "--patrons", file(t, "p.csv", patronsCSV), "--loans", file(t, "l.csv", "loan,borrower,returned\nl1,p-77,2020-01-01\nl2,p-78,\n"))
	cmd.Env = append(cmd.Env, "CARREL_ACTOR=night-job")
	good(t, finish(t, cmd))
	good(t, carrel(t, "import", "--db", db, "--loans", file(t, "l.csv", "loan,borrower,returned\nl3,p-77,\n")))
	good(t, carrelIn(t, "p-77\n", "hold", "add", "--db", db, "--borrower-file", "-", "--ref", "case 7", "--actor", "counsel"))
	good(t, carrel(t, "hold", "list", "--db", db))
	good(t, carrel(t, "hold", "list", "--db", db, "--show-borrowers", "--actor", "staff-9"))
	refused(t, carrelIn(t, "p-78\n", "hold", "release", "--db", db, "--borrower-file", "-", "--ref", "case 7"), "nothing was released")
	good(t, carrelIn(t, "p-77\n", "hold", "release", "--db", db, "--borrower-file", "-", "--ref", "case 7", "--actor", "counsel"))
	good(t, carrel(t, "keys", "rotate", "--db", db, "--actor", "systems-2"))
	good(t, carrel(t, "keys", "rotate", "--db", db, "--index", "identifier", "--actor", "systems-3"))
	policy := file(t, "strict.yaml", good(t, carrel(t, "policy", "init", "--preset", "strict")))
	good(t, carrel(t, "sweep", "--db", db, "--policy", policy, "--actor", "systems-4"))

	log := good(t, carrel(t, reviewing(db, "log", "export")...))
	lines := strings.Split(log, "\n")
	for _, want := range []string{
		`"action":"import","outcome":"done","actor":"night-job","role":"integration","purpose":"sync","channel":"cli","segments":`,
		`"action":"import","outcome":"done","actor":"night-job","role":"integration","purpose":"sync","channel":"cli","count":2,"kind":"loan"`,
		`"action":"import","outcome":"done","actor":"carrel","role":"integration","purpose":"sync","channel":"cli","count":1,"kind":"loan"`,
		`"action":"hold","outcome":"done","actor":"counsel","role":"systems","channel":"cli","count":1,"object":"case 7"`,
		`"action":"report","outcome":"done","actor":"staff-9","role":"systems","channel":"cli","count":1,"object":"holds"`,
		`"action":"release","outcome":"done","actor":"counsel","role":"systems","channel":"cli","count":1,"object":"case 7"`,
		`"action":"rotate","outcome":"done","actor":"systems-2"`, `"action":"reindex","outcome":"done","actor":"systems-3"`, `"action":"sweep","outcome":"done","actor":"systems-4"`,
	} {
		assert.Equal(t, 1, strings.Count(log, want), want)
	}
	for _, line := range lines {
		if strings.Contains(line, `"kind":"loan"`) || strings.Contains(line, `"action":"hold"`) {
			assert.NotContains(t, line, "subjects")
		}
	}
	_, code := verify(t, db)
	assert.Equal(t, exitGood, code)
}

type refusing struct{}

func (refusing) Record(context.Context, audit.Event) error { return errors.New("no") }

// Half an export is none: whatever ends it, the file goes.
func TestHalfAnExportIsRemoved(t *testing.T) {
	db, _ := trailDB(t)
	out := filepath.Join(t.TempDir(), "out")
	d, err := openDatabase(t.Context(), db, readOnly)
	require.NoError(t, err)
	defer d.close()
	k, err := d.openKeys(t.Context(), "")
	require.NoError(t, err)
	rep, err := audit.NewReporter(audit.ReporterConfig{Store: sqlite.NewLog(d.db), Keys: k, Recorder: refusing{}})
	require.NoError(t, err)
	one := &reporting{Reporter: rep, cmd: newLogExport(), flags: new(reportFlags), by: audit.By{Actor: "dpo", Channel: audit.CLI}}
	one.cmd.SetContext(t.Context())
	require.Error(t, one.export(out, "jsonl", audit.LogFilter{}, audit.FHIR{}))
	require.NoFileExists(t, out)

	refused(t, carrel(t, atDesk(db, "patron", "export", "--out", out)...), "no-right")
	require.NoFileExists(t, out)
	refused(t, carrel(t, "patron", "export", "--out", out, "--db", db, "--actor", "job", "--role", "sistems", "--purpose", "export"), `role "sistems" is not in the file; did you mean "systems"?`)
	refused(t, carrel(t, "log", "report", "logins", "--db", db, "--actor", "job", "--role", "reviewr", "--purpose", "review"), "log report logins: not allowed", `did you mean "reviewer"?`)
	require.NoError(t, os.WriteFile(out, nil, 0o600))
	refused(t, carrel(t, reviewing(db, "log", "export", "--out", out)...), "is not overwritten")
	require.FileExists(t, out, "it is not ours")
}

func TestTablesFitOnAScreen(t *testing.T) {
	db, id := trailDB(t)
	for range 2 { // each process records its own
		good(t, carrel(t, atDesk(db, "patron", "show", "--id", id)...))
	}
	out := good(t, carrel(t, reviewing(db, "log", "report", "views", "--id", id)...))
	head, _, _ := strings.Cut(out, "\n")
	assert.Equal(t, words("TIME UNTIL ACTOR ROLE PURPOSE SEGMENTS ACTION OUTCOME WHY"), strings.Fields(head))
	assert.Regexp(t, `(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ +\+30m +staff-17`, out)
	assert.Contains(t, out, "channel of all: cli\n")
	assert.Contains(t, good(t, carrel(t, reviewing(db, "log", "report", "views-by", "--staff", "staff-17")...)), id)
	csv := good(t, carrel(t, reviewing(db, "log", "report", "views", "--id", id, "--csv")...))
	assert.True(t, strings.HasPrefix(csv, "time,until,subject,actor,self,role,purpose,channel,segments,"), csv)
	assert.Contains(t, csv, ",cli,")
	assert.Regexp(t, `checkout +circulation +identifiers, names +×3`, good(t, carrel(t, reviewing(db, "log", "report", "seen", "--id", id)...)))
	assert.NotContains(t, good(t, carrel(t, reviewing(db, "log", "report", "exposure", "--all")...)), "TIMES")
	assert.Contains(t, good(t, carrel(t, reviewing(db, "log", "report", "exposure", "--as", "circulation")...)), "TIMES")
	assert.Equal(t, "10s", shortly(10e9))
	assert.Equal(t, "1h30m", shortly(90*60e9))
}
