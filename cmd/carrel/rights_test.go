package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/rights"
)

var legal = []string{"--actor", "staff-3", "--role", "patron-services", "--purpose", "legal"}

const demandingPatrons = `patron,group,barcode,last,first,email,expires
p1,students,2900000001,Zapatista,Anna,anna@example.org,2030-01-01
p2,staff,2900000002,Quixote,Bo,bo@example.org,2020-01-01
p3,students,2900000003,Xenakis,Cy,cy@example.org,2020-01-01
`

const demandingLoans = `loan,borrower,proxy,item,loaned,returned
l1,p1,,i1,2026-01-02,2026-02-03
l2,p1,,i2,2026-01-02,2026-02-04
l3,p2,p1,i3,2026-01-02,2026-02-05
l4,p3,,i4,2026-01-02,
`

// findPatron returns the ID of who has a bar code.
func findPatron(t testing.TB, db, barcode string) string {
	return strings.TrimSpace(good(t, carrelIn(t, barcode+"\n", append([]string{"patron", "find", "--db", db, "--identifier-file", "-"}, legal...)...)))
}

func rightsCommand(t testing.TB, name, db string, args ...string) result {
	return carrel(t, append(append([]string{"rights", name, "--db", db}, args...), legal...)...)
}

// From the demand to the certificate, on the command line.
func TestRights(t *testing.T) { onBoth(t, testRights) }

func testRights(t *testing.T) {
	db, dir := newDB(t), t.TempDir()
	patrons, loans := file(t, "patrons.csv", demandingPatrons), file(t, "loans.csv", demandingLoans)
	good(t, carrel(t, "import", "--db", db, "--patrons", patrons, "--loans", loans))
	one, three := findPatron(t, db, "2900000001"), findPatron(t, db, "2900000003")
	in := func(name string) string { return filepath.Join(dir, name) }
	phrase := file(t, "phrase", "open sesame\n")

	out := good(t, rightsCommand(t, "export", db, "--id", one, "--out", in("copy.age"), "--passphrase-file", phrase, "--approval", "demand 30"))
	assert.Contains(t, out, "circulation.jsonl")
	var m rights.Manifest
	require.NoError(t, json.Unmarshal([]byte(good(t, carrelIn(t, "2900000001\n", append([]string{"rights", "export", "--db", db, "--identifier-file", "-", "--out", in("copy2.age"), "--passphrase-file", phrase, "--json"}, legal...)...))), &m))
	require.Equal(t, 3, m.Files[1].Rows)
	data, err := os.ReadFile(in("copy.age"))
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(string(data), "age-encryption.org/v1"))
	refused(t, rightsCommand(t, "export", db, "--id", one, "--out", in("copy.age"), "--passphrase-file", phrase), "is there already")
	refused(t, rightsCommand(t, "export", db, "--id", one, "--out", in("copy3.age")), "--recipient is missing")

	// Refused, with the list; nothing is written.
	r := rightsCommand(t, "erase", db, "--id", three, "--certificate", in("three.txt"), "--approval", "demand 31")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.out, "loan  l4  unfinished")
	assert.NoFileExists(t, in("three.txt"))
	r = rightsCommand(t, "erase", db, "--id", three, "--certificate", in("three.txt"), "--approval", "demand 31", "--json")
	assert.Equal(t, 1, r.code)
	assert.JSONEq(t, `{"erased":false,"refused":[{"kind":"loan","id":"l4","reasons":["unfinished"]}]}`, r.out)
	assert.Contains(t, good(t, rightsCommand(t, "erase", db, "--id", three, "--certificate", in("three.txt"), "--approval", "demand 31", "--partial")), "Kept, with the key: names, emails, identifiers")

	good(t, rightsCommand(t, "restrict", db, "--id", one, "--approval", "demand 32"))
	r = carrel(t, "patron", "show", "--db", db, "--id", one, "--actor", "staff-17", "--role", "circulation", "--purpose", "checkout")
	assert.Equal(t, 2, r.code)
	assert.Contains(t, r.stderr, "restricted")
	r = rightsCommand(t, "erase", db, "--id", one, "--certificate", in("one.txt"), "--approval", "demand 33", "--partial")
	assert.Equal(t, 2, r.code)
	again := good(t, carrel(t, "import", "--db", db, "--patrons", patrons))
	assert.Contains(t, again, "2 patrons restricted or about to be erased, and left as they are")
	assert.Contains(t, r.stderr, "the record is restricted")
	good(t, rightsCommand(t, "lift", db, "--id", one, "--approval", "demand 32"))

	out = good(t, rightsCommand(t, "erase", db, "--id", one, "--certificate", in("one.txt"), "--approval", "demand 33"))
	assert.Contains(t, out, "Unlinked: 2 records; taken out of 1 record of others.")
	assert.Contains(t, out, "the schedule has no horizon")
	r = carrelIn(t, "2900000001\n", append([]string{"patron", "find", "--db", db, "--identifier-file", "-"}, legal...)...)
	assert.Equal(t, 1, r.code)
	refused(t, rightsCommand(t, "export", db, "--id", one, "--out", in("late.age"), "--passphrase-file", phrase), "no such patron")
	assert.NoFileExists(t, in("late.age"))
	good(t, rightsCommand(t, "erase", db, "--id", one, "--certificate", in("again.txt"), "--approval", "demand 33")) // says it once more

	// The certificate, with the keyring and with the public key only.
	out = good(t, carrel(t, "rights", "verify", in("one.txt"), "--keys", keysOf(db)))
	assert.Contains(t, out, "tombstone is in the erasure ledger")
	key := strings.TrimSpace(good(t, carrel(t, "log", "key", "--db", db)))
	assert.Contains(t, good(t, carrel(t, "rights", "verify", in("one.txt"), "--key", key, "--json")), `"approval":"demand 33"`)
	changed, err := os.ReadFile(in("one.txt"))
	require.NoError(t, err)
	r = carrel(t, "rights", "verify", file(t, "changed.txt", strings.Replace(string(changed), "demand 33", "demand 34", 1)), "--key", key)
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.stderr, "changed since")

	// The list of patrons still has who was erased: left out, and counted.
	assert.Contains(t, good(t, carrel(t, "import", "--db", db, "--patrons", patrons)), "1 patron erased before, and left out; with --returning they are taken in")

	// An export of before comes late: its loan is new here, and names who is forgotten.
	good(t, carrel(t, "import", "--db", db, "--loans", file(t, "late.csv", "loan,borrower,item,loaned,returned\nl9,p1,i9,2026-01-02,2026-02-03\n")))
	night := []string{"rights", "purge", "--db", db, "--actor", "job-night", "--role", "systems", "--purpose", "legal"}
	refused(t, carrel(t, append(night, "--expired-before", "2021-01-01")...), "--approval is missing")
	out = good(t, carrel(t, append(night, "--expired-before", "2021-01-01", "--approval", "rule 4", "--dry-run")...))
	assert.Contains(t, out, "2 patrons looked at: 1 would be erased, 1 partly")
	out = good(t, carrel(t, append(night, "--expired-before", "2021-01-01", "--approval", "rule 4", "--certificates", dir)...))
	assert.Contains(t, out, "2 patrons looked at: 1 erased, 1 partly, 0 refused, 0 not there, 0 failed.")
	assert.Contains(t, out, "Came back and erased again: 1 record, no rows of patrons.")
	var p purgeReport
	good(t, carrel(t, "import", "--db", db, "--loans", file(t, "loans.csv", strings.Replace(demandingLoans, "2026-01-02,\n", "2026-01-02,2026-11-01\n", 1))))
	require.NoError(t, json.Unmarshal([]byte(good(t, carrel(t, append(night, "--json")...))), &p))
	assert.Equal(t, 1, p.Erased, "what was owed is settled")
	assert.Empty(t, p.Again.Records, "what was unlinked is not linked again")

	events := good(t, carrel(t, "log", "export", "--db", db, "--out", "-", "--actor", "auditor", "--role", "reviewer", "--purpose", "review"))
	assert.Contains(t, events, `"action":"erase"`)
	for _, who := range []string{one, three, "Zapatista", "Xenakis", "2900000001"} {
		assert.NotContains(t, events, who)
	}
	good(t, carrel(t, "log", "verify", "--db", db))
	d, err := openDatabase(t.Context(), db, readOnly)
	require.NoError(t, err)
	defer d.close()
	for _, table := range []string{"links WHERE person IS NOT NULL", "companions", "patrons", "persons", "holds"} {
		var left int
		require.NoError(t, d.db.QueryRow("SELECT count(*) FROM "+table).Scan(&left))
		assert.Zero(t, left, "nobody is left in this library: %s", table)
	}

	assert.Contains(t, good(t, carrel(t, "rights", "inventory")), "| patron record | names |")
	refused(t, rightsCommand(t, "erase", db, "--id", "x", "--certificate", in("x.txt"), "--approval", "y"), "--id: not an ID")
	refused(t, carrel(t, append(night, "--expired-before", "2999-01-01", "--approval", "x")...), "lies in the future")
	refused(t, carrel(t, append(night, "--approval", "x", "--patrons-file", file(t, "ids", "not one\n"))...), "line 1", "not an ID")
	r = carrel(t, "rights", "erase", "--db", db, "--id", three, "--certificate", in("y.txt"), "--approval", "z", "--actor", "staff-17", "--role", "circulation", "--purpose", "checkout")
	assert.Equal(t, 2, r.code)
	assert.Contains(t, r.stderr, "not allowed in this role")
}
