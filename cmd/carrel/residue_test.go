package main

import (
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/research/residue"
)

func residueJSON(t testing.TB, want int, args ...string) (report residue.Report) {
	t.Helper()
	r := carrel(t, append([]string{"residue", "--json"}, args...)...)
	require.Equal(t, want, r.code, r.stderr+r.out)
	require.NoError(t, json.Unmarshal([]byte(r.out), &report))
	return report
}

// What carrel demo makes is searched before its sweep and after it, for the loans that the sweep unlinks.
func TestResidueOfTheDemo(t *testing.T) {
	cmd := newDemo()
	cmd.SetContext(context.Background())
	cmd.SetErr(io.Discard)
	dir := t.TempDir()
	path := filepath.Join(dir, "library.db")
	d := &demo{dir: dir, loans: 4000, seed: 1, cmd: cmd, say: io.Discard, at: time.Now().Truncate(time.Second)}
	var err error
	d.policy, err = anonymize.ParsePolicy(demoPolicy)
	require.NoError(t, err)
	require.NoError(t, d.fill(t.Context(), &demoResult{Database: path}))
	require.NoError(t, d.db.close())
	before := filepath.Join(dir, "before.db")
	copyFile(t, path, before)

	d.db, err = openDatabase(t.Context(), path, readWrite)
	require.NoError(t, err)
	_, err = d.db.sweepRecorded(cmd, d.keys, trailFlags{anchors: d.anchors()}, d.policy, anonymize.Shard{}, d.at)
	require.NoError(t, err)
	after, err := d.look(t.Context())
	require.NoError(t, err)
	require.NoError(t, d.db.close())

	sample, loans := sampleOf(t, d, after)
	require.Greater(t, loans, 500)

	control := residueJSON(t, exitFound, "--db", before, "--sample", sample, "--keys", path+".keys")
	require.NotEmpty(t, control.Findings)
	assert.Equal(t, []string{"persons.p = links.person", "links.n = records.n"}, control.Findings[0].Joins)
	assert.Equal(t, loans, control.Findings[0].Pairs, "the search finds what is there")

	clean := residueJSON(t, exitGood, "--db", path, "--sample", sample, "--keys", path+".keys")
	assert.Empty(t, clean.Findings)
	assert.Equal(t, control.Pairs, clean.Pairs)
	assert.Greater(t, clean.Bytes, int64(1<<20))

	blind := carrel(t, "residue", "--db", before, "--sample", sample)
	assert.Equal(t, exitGood, blind.code, "pseudonyms are not found without the keyring")
	assert.Contains(t, blind.stderr, "without its keyring (--keys) these are not looked for")
	assert.Contains(t, blind.out, "Nothing found")
}

// sampleOf writes a file of the loans that a sweep of the demo unlinked. What its borrower has on another record that is still linked
// may be joined to them.
func sampleOf(t *testing.T, d *demo, after demoView) (path string, loans int) {
	t.Helper()
	type both struct {
		who  circulation.Borrower
		item string
	}
	still := map[both]bool{}
	for e := range d.lib.Entries() {
		parts, err := e.Parts()
		require.NoError(t, err)
		if after.linked[circulation.Pointer{Kind: parts.Facts.Kind, ID: parts.Facts.ID}] {
			for _, l := range parts.Links {
				still[both{l.Person, parts.Facts.Item}] = true
			}
		}
	}
	path = filepath.Join(t.TempDir(), "sample.csv")
	f, err := os.Create(path)
	require.NoError(t, err)
	w := csv.NewWriter(f)
	require.NoError(t, w.Write([]string{"borrower", "item", "loan"}))
	for e := range d.lib.Entries() {
		l, ok := e.(circulation.Loan)
		if !ok || after.linked[circulation.Pointer{Kind: circulation.KindLoan, ID: l.ID}] || still[both{l.Borrower, l.Item}] {
			continue
		}
		loans++
		require.NoError(t, w.Write([]string{string(l.Borrower), l.Item, l.ID}))
	}
	w.Flush()
	require.NoError(t, w.Error())
	require.NoError(t, f.Close())
	return path, loans
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, b, 0o600))
}

// leaky makes a database of some other system that remembers who borrowed what.
func leaky(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ils.db")
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec(`CREATE TABLE items_last_borrower (itemnumber TEXT PRIMARY KEY, borrowernumber TEXT); INSERT INTO items_last_borrower VALUES ('39000000012345', '29000000000077')`)
	require.NoError(t, err)
	return path
}

func TestResidueCommand(t *testing.T) {
	db := leaky(t)
	found := carrel(t, "residue", "--db", db, "--person", "29000000000077", "--item", "39000000012345")
	assert.Equal(t, exitFound, found.code)
	assert.Empty(t, found.stderr)
	for _, want := range []string{"TABLE", "items_last_borrower  borrowernumber", "1  1 row  plain", "items_last_borrower.borrowernumber beside items_last_borrower.itemnumber", "not looked at: "} {
		assert.Contains(t, found.out, want)
	}
	assert.NotContains(t, found.out, "29000000000077", "who it is is never printed")
	assert.NotContains(t, found.out, "39000000012345")

	sample := file(t, "s.csv", "borrower,borrower2,item,branch\n1001,29000000000077,39000000012345,main\n1002,,39000000012346,main\n,x,,\n")
	r := carrel(t, "residue", "--db", db, "--sample", sample)
	assert.Equal(t, exitFound, r.code)
	assert.Equal(t, "carrel: "+sample+": columns that are not looked for: branch\ncarrel: "+sample+": 1 row without a borrower or without a thing are left out\n", r.stderr)
	lines := file(t, "s.jsonl", `{"borrower":"29000000000077","title":"The Secret Garden","item":"39000000012345"}`+"\n")
	assert.Equal(t, exitFound, carrel(t, "residue", "--db", db, "--sample", lines).code)
	packed := filepath.Join(t.TempDir(), "s.csv.gz")
	f, err := os.Create(packed)
	require.NoError(t, err)
	z := gzip.NewWriter(f)
	z.Write([]byte("borrower,item\n29000000000077,39000000012345\n"))
	require.NoError(t, z.Close())
	require.NoError(t, f.Close())
	assert.Equal(t, exitFound, carrel(t, "residue", "--db", db, "--sample", packed).code)
	assert.Contains(t, carrel(t, "residue", "--db", db, "--sample", sample, "--limit", "1").out, "were drawn at random; --limit takes more")
	assert.Contains(t, good(t, carrel(t, "residue", "--db", db, "--person", "29000000000078", "--item", "39000000012345")), "Nothing found: no place in ")

	names, err := filepath.Glob(db + "*")
	require.NoError(t, err)
	assert.Equal(t, []string{db}, names, "nothing was made beside it")

	missing := filepath.Join(t.TempDir(), "none.db")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--sample", sample}, "--db is missing"},
		{[]string{"--db", db}, "--sample is missing"},
		{[]string{"--db", db, "--sample", sample, "--person", "x"}, "either --sample, or --person"},
		{[]string{"--db", db, "--person", "canary-77"}, "--person needs --item or --loan"},
		{[]string{"--db", db, "--item", "x"}, "--person needs --item or --loan"},
		{[]string{"--db", db, "--sample", file(t, "s.csv", "patron,item\n1,2\n")}, "want a column borrower"},
		{[]string{"--db", db, "--sample", file(t, "s.csv", "borrower,item\n1,2,canary\n")}, "s.csv:2: not as many fields"},
		{[]string{"--db", db, "--sample", file(t, "s.csv", "borrower,item\n1,\n")}, "no row names both"},
		{[]string{"--db", db, "--sample", "nowhere.csv"}, "no such file"},
		{[]string{"--db", db, "--sample", sample, "--limit", "0"}, "--limit must be"},
		{[]string{"--db", db, "--sample", sample, "--near", "0"}, "--near must be"},
		{[]string{"--db", db, "--sample", sample, "--schema", "x"}, "--schema is for PostgreSQL"},
		{[]string{"--db", db, "--sample", sample, "--keys", "x"}, "--keys is for a database of carrel's"},
		{[]string{"--db", missing, "--sample", file(t, "s.csv", "borrower,item\n1,2\n")}, "there is no such database"},
		{[]string{"--db", sample, "--sample", file(t, "s.csv", "borrower,item\n1,2\n")}, "is not a SQLite file"},
	} {
		r := carrel(t, append([]string{"residue"}, c.args...)...)
		assert.Equal(t, exitFailed, r.code, c.args)
		assert.Contains(t, r.stderr, c.want)
		assert.NotContains(t, r.stderr, "canary")
		last := strings.Split(strings.TrimSpace(r.stderr), "\n")
		assert.LessOrEqual(t, len(last), 3)
	}
	assert.NoFileExists(t, missing)
}

func TestResidueOnPostgres(t *testing.T) {
	dsn := newSchema(t)
	execPG(t, dsn, `CREATE TABLE last (item text, who text); INSERT INTO last VALUES ('39000000012345', '29000000000077')`)
	schema := dsn[strings.LastIndex(dsn, "carrel_test_"):]
	schema, _, _ = strings.Cut(schema, "&")
	r := residueJSON(t, exitFound, "--db", dsn, "--schema", schema, "--person", "29000000000077", "--item", "39000000012345")
	require.Len(t, r.Findings, 1)
	assert.Equal(t, schema+".last", r.Findings[0].Table)
	assert.Equal(t, "PostgreSQL", r.Database)

	// And in tables of carrel's own, with the keyring.
	t.Run("postgres", func(t *testing.T) {
		db := filledDB(t)
		schema := db[strings.LastIndex(db, "carrel_test_"):]
		schema, _, _ = strings.Cut(schema, "&")
		sample := file(t, "s.csv", loansCSV)
		r := carrel(t, "residue", "--json", "--db", db, "--schema", schema, "--sample", sample)
		assert.Contains(t, []int{exitGood, exitFound}, r.code, r.stderr)
	})
}
