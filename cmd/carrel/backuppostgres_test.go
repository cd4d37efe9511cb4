//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/internal/pgtest"
)

// The steps of docs/backups.md for PostgreSQL: pg_dump, some are forgotten, the schema is lost, pg_restore. Nobody who was forgotten comes back, at no time of it; the database
// is known to be restored until what is to be done then is done.
func TestPostgresBackup(t *testing.T) {
	server := pgtest.Start(t)
	dump, restore := server.Program("pg_dump"), server.Program("pg_restore")
	t.Setenv(serverVariable, server.DSN(""))
	db := newSchema(t)
	u, err := url.Parse(db)
	require.NoError(t, err)
	schema := u.Query().Get("search_path")
	const patrons, erased = 20, 5
	var csv strings.Builder
	csv.WriteString("patron,barcode,last\n")
	for n := range patrons {
		fmt.Fprintf(&csv, "p%d,2900000%06d,Lastname%d\n", n, n, n)
	}
	good(t, carrel(t, "import", "--db", db, "--patrons", file(t, "p.csv", csv.String())))
	ids := keySubjectsIn(t, db)
	require.Len(t, ids, patrons)
	older, err := os.ReadFile(keysOf(db) + ".ledger")
	require.NoError(t, err)

	backup := filepath.Join(t.TempDir(), "carrel.dump")
	run := func(program string, args ...string) {
		t.Helper()
		out, err := exec.Command(program, args...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	run(dump, "--dbname", server.DSN(""), "--schema", schema, "--format", "custom", "--file", backup)
	dumped, err := os.ReadFile(backup)
	require.NoError(t, err)
	assert.NotContains(t, string(dumped), "Lastname")
	for _, id := range ids[:erased] {
		good(t, carrel(t, "keys", "shred", "--db", db, "--id", string(id), "--actor", "dpo", "--approval", "erasure"))
	}

	execPG(t, server.DSN(""), "DROP SCHEMA "+schema+" CASCADE")
	run(restore, "--dbname", server.DSN(""), "--exit-on-error", backup)

	// As it came back, before anybody has done anything.
	for what, defect := range ledgerDefects {
		ledger := keysOf(db) + ".ledger"
		whole, err := os.ReadFile(ledger)
		require.NoError(t, err)
		defect(t, ledger, older)
		refused(t, carrel(t, "keys", "status", "--db", db), "ledger")
		refused(t, carrel(t, atDesk(db, "patron", "show", "--id", string(ids[erased]))...), "ledger")
		require.NoError(t, os.WriteFile(ledger, whole, 0o600), what)
	}
	doctor := carrel(t, "doctor", "--db", db, "--json")
	assert.Equal(t, exitFound, doctor.code)
	assert.Regexp(t, `"check":"checkpoint","state":"failed"`, doctor.out)
	gone, there := 0, 0
	show := func(want string, which int) {
		for n, id := range ids {
			if n%which > 0 {
				continue
			}
			r := carrel(t, atDesk(db, "patron", "show", "--id", string(id))...)
			if n < erased {
				assert.Contains(t, r.stderr, "this patron was forgotten: the key is destroyed", n)
				assert.NotContains(t, r.out, "Lastname")
				gone++
				continue
			}
			assert.Contains(t, r.out, "Lastname", n)
			assert.Contains(t, r.stderr, want)
			there++
		}
	}
	show("the database has fewer trail entries than the anchor", 1)
	assert.Equal(t, []int{erased, patrons - erased}, []int{gone, there})

	// What is to be done.
	assert.Regexp(t, `Recorded: the entries \d+ to \d+ are lost`, good(t, carrel(t, "log", "restored", "--db", db, "--actor", "systems-2", "--approval", "incident 7")))
	var r rotationReport
	require.NoError(t, json.Unmarshal([]byte(good(t, carrel(t, "keys", "rotate", "--db", db, "--json"))), &r))
	assert.Equal(t, erased, r.Shredded)
	assert.Equal(t, patrons-erased, r.Rewrapped)
	show("", erased-1)
	good(t, carrel(t, "rights", "purge", "--db", db, "--actor", "systems-2", "--role", "systems", "--purpose", "legal"))
	after := carrel(t, "doctor", "--db", db, "--json").out
	assert.Regexp(t, `"check":"checkpoint","state":"ok"`, after)
	assert.Regexp(t, `"check":"keyring","state":"ok"`, after)
	assert.Len(t, keySubjectsIn(t, db), patrons-erased)
}

// keySubjectsIn returns whose keys there are.
func keySubjectsIn(t *testing.T, db string) []crypto.Subject {
	t.Helper()
	d, err := openDatabase(t.Context(), db, readOnly)
	require.NoError(t, err)
	defer d.close()
	all, err := d.keySubjects(t.Context(), "")
	require.NoError(t, err)
	return all
}
