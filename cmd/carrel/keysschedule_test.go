package main

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
)

// After a rotation everybody is found under the new tokens; when an epoch has ended, nobody is in a backup of it.
func TestEpochsEnd(t *testing.T) { onBoth(t, testEpochsEnd) }

func testEpochsEnd(t *testing.T) {
	db, policy := newDB(t), file(t, "p.yaml", simplePolicy)
	loans, patrons := file(t, "loans.csv", loansCSV), file(t, "patrons.csv", "patron,group\np1,students\np2,staff\n")
	good(t, carrel(t, "import", "--db", db, "--loans", loans, "--patrons", patrons))
	good(t, carrel(t, "hold", "add", "--db", db, "--borrower", "p1", "--ref", "case 1"))
	assert.Equal(t, "nothing is due\n", good(t, carrel(t, "keys", "rotate", "--db", db, "--due")))
	assert.JSONEq(t, `{"due":false,"epoch":0,"rewrapped":0,"renewed":0,"shredded":0,"ended":[]}`, good(t, carrel(t, "keys", "rotate", "--db", db, "--due", "--json")))
	before := listedBorrowers(t, db)

	out := good(t, carrel(t, "keys", "rotate", "--db", db))
	assert.Regexp(t, `\Aepoch 2: 2 keys rewrapped, \d tokens renewed\n\z`, out)
	after := listedBorrowers(t, db)
	assert.Len(t, after, len(before))
	assert.NotContains(t, after, before[0])

	// The same exports change nothing, and nobody has become two.
	again := good(t, carrel(t, "import", "--db", db, "--loans", loans, "--patrons", patrons, "--json"))
	assert.NotContains(t, again, `"added":1`)
	assert.Contains(t, again, `"same":3`)
	assert.Contains(t, good(t, carrel(t, "hold", "release", "--db", db, "--borrower", "p1", "--ref", "case 1")), "released: 1")
	assert.Positive(t, sweepJSON(t, "--db", db, "--policy", policy).Kinds["loan"].Unlinked)

	assert.Contains(t, good(t, carrel(t, "keys", "schedule", "--db", db, "--every", "P1M", "--horizon", "P90D", "--actor", "dpo", "--approval", "2026-2")),
		"an epoch lasts 30 days; its keys are destroyed 90 days after it has ended")
	status := good(t, carrel(t, "keys", "status", "--db", db))
	assert.Contains(t, status, "an epoch lasts 30 days; its keys are destroyed 90 days after it has ended; the next begins ")
	assert.Contains(t, good(t, carrel(t, "keys", "schedule", "--db", db, "--horizon", "none", "--actor", "dpo", "--approval", "2026-3")), "kept for ever")
	refused(t, carrel(t, "keys", "schedule", "--db", db, "--actor", "dpo", "--approval", "x"), "want --every, --horizon or both")
	for _, bad := range []string{"90", "P0D", "-P1D", "P1DT1H", "Y", "PM"} {
		refused(t, carrel(t, "keys", "schedule", "--db", db, "--horizon", bad, "--actor", "dpo", "--approval", "x"), "--horizon", "is no period")
	}
	refused(t, carrel(t, "keys", "rotate", "--db", db, "--due", "--index", "identifier"), "do not go together")

	if onServer(db) {
		return // a backup of it is another tool's: docs/operations.md
	}
	backup := db + ".backup"
	data, err := os.ReadFile(db)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(backup, data, 0o600))
	d, err := openDatabase(t.Context(), db, readWrite)
	require.NoError(t, err)
	defer d.close()
	k, err := d.openKeys(t.Context(), keysOf(db))
	require.NoError(t, err)
	require.NoError(t, k.SetSchedule(t.Context(), crypto.Schedule{Horizon: 24 * time.Hour}))
	assert.JSONEq(t, `{"due":true,"epoch":3,"rewrapped":2,"renewed":2,"shredded":0,"ended":[]}`, good(t, carrel(t, "keys", "rotate", "--db", db, "--json")))
	kek, err := crypto.OpenKEK(keysOf(db) + ".kek")
	require.NoError(t, err)
	k, err = crypto.OpenKeyring(t.Context(), crypto.Config{Path: keysOf(db), KEK: kek, Store: d.keys(d.db), Tokens: d, Now: func() time.Time { return time.Now().Add(48 * time.Hour) }})
	require.NoError(t, err)
	ended, err := k.Tend(t.Context(), nil)
	require.NoError(t, err)
	assert.Equal(t, []uint32{1, 2}, ended.Ended)
	refused(t, carrel(t, "keys", "status", "--db", backup, "--keys", keysOf(db)), "older than the backup horizon")
	refused(t, carrel(t, "hold", "list", "--db", backup, "--show-borrowers", "--keys", keysOf(db)), "older than the backup horizon")
	good(t, carrel(t, "import", "--db", db, "--loans", loans, "--patrons", patrons))
	good(t, carrel(t, "log", "verify", "--db", db))
}

// listedBorrowers returns the tokens of everybody whom the database knows.
func listedBorrowers(t *testing.T, db string) (all []string) {
	t.Helper()
	d, err := openDatabase(t.Context(), db, readOnly)
	require.NoError(t, err)
	defer d.close()
	rows, err := d.db.Query("SELECT borrower FROM persons ORDER BY borrower")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var b string
		require.NoError(t, rows.Scan(&b))
		all = append(all, b)
	}
	require.NoError(t, rows.Err())
	return all
}

func TestLength(t *testing.T) {
	for text, want := range map[string]int{"P1D": 1, "P2W": 14, "P1M": 30, "P18M": 540, "P1Y": 365, "P1Y1M1W1D": 403, "P400D": 400} {
		got, err := length(text)
		require.NoError(t, err, text)
		assert.Equal(t, time.Duration(want)*24*time.Hour, got, text)
	}
}
