package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func entriesIn(t *testing.T, db string) uint64 {
	t.Helper()
	var s logStatus
	require.NoError(t, json.Unmarshal([]byte(carrel(t, "log", "status", "--db", db, "--json").out), &s))
	return s.Entries
}

// An anchor that is gone is not begun anew by whoever comes along: nothing would show that it was.
func TestAnchorIsGone(t *testing.T) { onBoth(t, testAnchorIsGone) }

func testAnchorIsGone(t *testing.T) {
	db, id := trailDB(t)
	before := entriesIn(t, db)
	old := filepath.Join(t.TempDir(), "old")
	require.NoError(t, os.Rename(besideOf(db)+".anchor", old))
	policy := file(t, "strict.yaml", good(t, carrel(t, "policy", "init", "--preset", "strict")))
	loans := file(t, "l.csv", "loan,borrower,returned\nl1,p-77,2020-01-01\n")
	for _, args := range [][]string{
		atDesk(db, "patron", "show", "--id", id),
		{"import", "--db", db, "--loans", loans}, {"import", "--db", db, "--patrons", file(t, "p.csv", patronsCSV)},
		{"sweep", "--db", db, "--policy", policy}, {"hold", "add", "--db", db, "--borrower", "p-77", "--ref", "r"}, {"hold", "list", "--db", db, "--show-borrowers"},
		{"keys", "rotate", "--db", db}, {"log", "prune", "--db", db, "--keep", "views=P1Y", "--actor", "dpo"},
		{"log", "restored", "--db", db, "--actor", "dpo", "--approval", "x"},
	} {
		refused(t, carrel(t, args...), ".anchor: there is none, but the trail has ", "is the share mounted? carrel log anchor --new begins a new one")
	}
	require.Equal(t, before, entriesIn(t, db))
	require.NoFileExists(t, besideOf(db)+".anchor")
	r := carrel(t, "log", "verify", "--db", db)
	assert.Equal(t, exitFound, r.code)
	assert.Contains(t, r.out, "Nothing is anchored in ")
	r = carrel(t, "log", "status", "--db", db, "--json")
	assert.Equal(t, exitFound, r.code)
	assert.Contains(t, r.out, `"anchored":null`)

	// An empty file and a misspelt variable are no better.
	require.NoError(t, os.WriteFile(besideOf(db)+".anchor", nil, 0o600))
	refused(t, carrel(t, atDesk(db, "patron", "show", "--id", id)...), "there is none")
	require.NoError(t, os.Remove(besideOf(db)+".anchor"))
	cmd := command(t, atDesk(db, "patron", "show", "--id", id)...)
	cmd.Env = append(cmd.Env, "CARREL_ANCHOR="+old+"-typo")
	refused(t, finish(t, cmd), "old-typo: there is none")
	refused(t, carrel(t, append(atDesk(db, "patron", "show", "--id", id), "--anchor", old, "--anchor", old+"-2")...), "old-2: there is none")
	good(t, carrel(t, append(atDesk(db, "patron", "show", "--id", id), "--anchor", old)...))

	// Somebody says that a new one begins.
	anew := []string{"log", "anchor", "--db", db, "--actor", "systems-2"}
	refused(t, carrel(t, append(anew, "--new")...), "--approval is missing")
	anew = append(anew, "--approval", "incident 7")
	refused(t, carrel(t, anew...), "--new is missing")
	assert.Equal(t, "begun: "+besideOf(db)+".anchor\n", good(t, carrel(t, append(anew, "--new")...)))
	refused(t, carrel(t, append(anew, "--new")...), "is there already")
	good(t, carrel(t, atDesk(db, "patron", "show", "--id", id)...))
	v, code := verify(t, db)
	require.Equal(t, exitGood, code)
	require.Zero(t, v.Unanchored)
	assert.Contains(t, good(t, carrel(t, reviewing(db, "log", "export", "--action", "anchor")...)), `"action":"anchor","outcome":"done","actor":"systems-2"`)

	// The old one has not seen what came after it.
	v, code = verify(t, db, "--anchor", old)
	require.Equal(t, exitFound, code)
	require.Positive(t, v.Unanchored)
	require.Empty(t, v.Findings)
	assert.Contains(t, carrel(t, "log", "verify", "--db", db, "--anchor", old).out, "after it are under no anchored checkpoint")
	_, code = verify(t, db, "--anchor", old, "--anchor", besideOf(db)+".anchor")
	require.Equal(t, exitGood, code)
	past := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(old, past, past))
	assert.Equal(t, exitFound, carrel(t, "log", "status", "--db", db, "--anchor", old).code)
	refused(t, carrel(t, "log", "status", "--db", db, "--anchor", old, "--anchor", old), "one --anchor at a time")

	// Two anchors at once get the same.
	second := old + "-second"
	good(t, carrel(t, append(anew, "--anchor", second, "--anchor", besideOf(db)+".anchor", "--new")...))
	good(t, carrel(t, append(atDesk(db, "patron", "find", "--identifier-file", file(t, "i", "29000000000077\n")), "--anchor", second, "--anchor", besideOf(db)+".anchor")...))
	for _, one := range []string{second, besideOf(db) + ".anchor"} {
		_, code = verify(t, db, "--anchor", one)
		assert.Equal(t, exitGood, code, one)
	}
}

func TestVerifyNamesItsAnchors(t *testing.T) { onBoth(t, testVerifyNamesItsAnchors) }

func testVerifyNamesItsAnchors(t *testing.T) {
	db, _ := trailDB(t)
	refused(t, carrel(t, "log", "verify", "--db", db, "--anchor", "nope"), "anchor nope: no such file")
	cmd := command(t, "log", "verify", "--db", db)
	cmd.Env = append(cmd.Env, "CARREL_ANCHOR=nope")
	refused(t, finish(t, cmd), "anchor nope: no such file")
	refused(t, carrel(t, "log", "verify", "--db", db, "--anchor", file(t, "letter", "Dear auditor\n")), "is not an anchor of this trail")
	r := carrel(t, "log", "verify", "--db", db, "--anchor", file(t, "empty", ""))
	assert.Equal(t, exitFound, r.code)
	assert.Contains(t, r.out, "Nothing is anchored in ")

	key := good(t, carrel(t, "log", "key", "--db", db))
	assert.Contains(t, good(t, carrel(t, "log", "verify", "--db", db, "--key", key[:len(key)-1])), "Without the keyring: who wrote the entries was not checked.")
	assert.NotContains(t, good(t, carrel(t, "log", "verify", "--db", db)), "Without the keyring")

	data, err := os.ReadFile(besideOf(db) + ".anchor")
	require.NoError(t, err)
	torn := file(t, "torn", string(data)+string(data[:30]))
	out := good(t, carrel(t, "log", "verify", "--db", db, "--anchor", torn))
	assert.Contains(t, out, "1 checkpoint in the anchor is only begun")
	assert.Contains(t, good(t, carrel(t, "log", "status", "--db", db, "--anchor", torn)), "written last")

	empty := newDB(t)
	good(t, carrel(t, "keys", "init", "--db", empty))
	good(t, carrel(t, "import", "--db", empty, "--loans", file(t, "l.csv", "loan,borrower,returned\n")))
	changeDB(t, empty, "DELETE FROM trail_entries")
	require.NoError(t, os.Remove(besideOf(empty)+".anchor"))
	assert.NotEqual(t, exitGood, carrel(t, "log", "verify", "--db", empty).code)
}

// Looking at holds begins no anchor where there is none.
func TestLogHoldListLeavesNoAnchor(t *testing.T) { onBoth(t, testLogHoldListLeavesNoAnchor) }

func testLogHoldListLeavesNoAnchor(t *testing.T) {
	db := newDB(t)
	anchor := filepath.Join(t.TempDir(), "anchor")
	good(t, carrel(t, "import", "--db", db, "--anchor", anchor, "--patrons", file(t, "p.csv", patronsCSV)))
	good(t, carrel(t, "log", "hold", "add", "--db", db, "--anchor", anchor, "--ref", "case", "--actor", "counsel"))
	assert.Equal(t, "case\n", good(t, carrel(t, "log", "hold", "list", "--db", db, "--anchor", anchor)))
	refused(t, carrel(t, "log", "hold", "list", "--db", db), "is the share mounted?")
	assert.NoFileExists(t, besideOf(db)+".anchor")
}
