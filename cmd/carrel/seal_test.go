package main

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What identifies somebody is in no file of the database in plain after the import of real exports, nor in the audit trail.
func TestNothingPersonalIsStoredInPlain(t *testing.T) {
	data := dataDir(t)
	for name, c := range map[string]struct {
		patrons  string
		args     []string
		personal []string // columns of patrons.csv
		persons  []string // columns of other files that hold borrowers
		others   []string
	}{
		"concerto": {
			patrons:  "concerto/patrons.csv",
			args:     []string{"--map", file(t, "evergreen.yaml", concertoMap), "--zone", "America/Chicago", "--phone-region", "US"},
			personal: words("id barcode username prefix first middle last suffix email day_phone evening_phone dob street1 street2 city state postcode"),
			others:   []string{"--loans", "concerto/loans.csv", "--requests", "concerto/holds.csv"},
		},
		"reed": {
			patrons:  "reed/patrons.csv.gz",
			personal: []string{"patron"},
			others:   []string{"--loans", "reed/loans.csv.gz", "--fees", "reed/fees.csv.gz"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := newDB(t)
			args := append([]string{"import", "--db", db, "--patrons", filepath.Join(data, c.patrons)}, c.args...)
			for i := 0; i < len(c.others); i += 2 {
				args = append(args, c.others[i], filepath.Join(data, c.others[i+1]))
			}
			good(t, carrel(t, args...))
			stored := databaseBytes(t, db)
			plain, allowed := map[string]bool{}, map[string]bool{}
			all := records(t, filepath.Join(data, c.patrons))
			for i := 0; i < len(c.others); i += 2 {
				for _, r := range records(t, filepath.Join(data, c.others[i+1])) {
					plain[r["borrower"]] = true
					plain[r["requestor"]] = true
					for column, v := range r {
						if column != "borrower" && column != "requestor" { // what stands in a plain operational column as well
							allowed[v] = true
						}
					}
				}
			}
			for _, r := range all {
				for _, column := range []string{"group", "home_library"} {
					allowed[r[column]] = true
				}
				for _, column := range c.personal {
					plain[r[column]] = true
				}
			}
			sought, short := map[string]bool{}, 0
			for v := range plain {
				switch {
				case allowed[v] || v == "":
				case len(v) <= 4: // four bytes are somewhere among so many random ones; of those, only whole values of columns count
					short++
				default:
					for _, form := range forms(v) {
						sought[form] = true
					}
				}
			}
			hits := among(stored, sought)
			if len(hits) > 0 {
				// Random letters spell short words now and then, but not the same ones under other keys.
				args[2] = newDB(t)
				good(t, carrel(t, args...))
				hits = among(databaseBytes(t, args[2]), hits)
			}
			for v := range hits {
				t.Errorf("%s: a value of %d characters is there", name, len(v))
			}
			t.Logf("%d values sought in %d bytes, %d more as whole values", len(sought), len(stored), short)
			assert.Greater(t, len(sought), 370)
			values := map[string]bool{}
			if short > 0 || !raceDetector { // which takes minutes for a large file
				values = wholeValues(t, db)
			}
			for v := range values {
				if plain[v] && !allowed[v] && v != "" {
					t.Errorf("%s: a value of %d characters stands in a column", name, len(v))
				}
			}
			group := all[0]["group"]
			assert.Len(t, among(stored, map[string]bool{group: true}), 1, "the search finds what is there")
		})
	}
}

// forms are the ways in which a value could lie there that is not sealed.
func forms(v string) []string {
	list := []string{v, hex.EncodeToString([]byte(v))}
	if len(v) >= 8 { // shorter names are also words of the schema
		list = append(list, strings.ToLower(v))
	}
	if digits := strings.Map(onlyDigits, v); len(digits) >= 7 {
		list = append(list, digits)
	}
	return list
}

func onlyDigits(r rune) rune {
	if r < '0' || r > '9' {
		return -1
	}
	return r
}

// among returns which of the words, none shorter than five bytes, occur anywhere in data.
func among(data []byte, words map[string]bool) map[string]bool {
	const key = 5
	hits, byStart := map[string]bool{}, map[[key]byte][]string{}
	var maybe [1 << 16]bool
	for w := range words {
		k := [key]byte([]byte(w[:key]))
		byStart[k] = append(byStart[k], w)
		maybe[uint16(k[0])<<8|uint16(k[1])] = true
	}
	for i := 0; i+key <= len(data); i++ {
		if !maybe[uint16(data[i])<<8|uint16(data[i+1])] {
			continue
		}
		for _, w := range byStart[[key]byte(data[i:i+key])] {
			if bytes.HasPrefix(data[i:], []byte(w)) {
				hits[w] = true
			}
		}
	}
	return hits
}

// databaseBytes returns all bytes of a database and of what lies beside it.
func databaseBytes(t *testing.T, db string) (all []byte) {
	t.Helper()
	files, err := filepath.Glob(db + "*")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 5, "database, anchor, keyring, ledger, KEK")
	for _, name := range files {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		all = append(all, data...)
	}
	return all
}

// wholeValues returns every text in every column of every table.
func wholeValues(t *testing.T, path string) map[string]bool {
	t.Helper()
	d, err := openDatabase(t.Context(), path, readOnly)
	require.NoError(t, err)
	defer d.close()
	tables, err := d.db.QueryContext(t.Context(), "SELECT name FROM sqlite_schema WHERE type = 'table'")
	require.NoError(t, err)
	var names []string
	for tables.Next() {
		var name string
		require.NoError(t, tables.Scan(&name))
		names = append(names, name)
	}
	require.NoError(t, tables.Close())
	values := map[string]bool{}
	for _, name := range names {
		rows, err := d.db.QueryContext(t.Context(), `SELECT * FROM "`+name+`"`)
		require.NoError(t, err)
		columns, err := rows.Columns()
		require.NoError(t, err)
		cells, dest := make([]any, len(columns)), make([]any, len(columns))
		for i := range cells {
			dest[i] = &cells[i]
		}
		for rows.Next() {
			require.NoError(t, rows.Scan(dest...))
			for _, v := range cells {
				switch v := v.(type) {
				case string:
					values[v] = true
				case []byte:
					values[string(v)] = true
				}
			}
		}
		require.NoError(t, rows.Close())
	}
	return values
}

// records reads a CSV file.
func records(t *testing.T, name string) (list []map[string]string) {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	in := io.Reader(f)
	if strings.HasSuffix(name, ".gz") {
		in, err = gzip.NewReader(f)
		require.NoError(t, err)
	}
	rows, err := csv.NewReader(in).ReadAll()
	require.NoError(t, err)
	for _, row := range rows[1:] {
		r := map[string]string{}
		for i, column := range rows[0] {
			r[column] = row[i]
		}
		list = append(list, r)
	}
	return list
}

const patronsCSV = `patron,group,barcode,username,first,last,email,day_phone,street,city,postcode,birth,expires
p-77,students,29000000000077,Fola.Tunda,Fola,Tunda,fola@example.org,070-174 06 05,Storgatan 12 B,Lund,22350,1984-02-29,2030-01-01
p-78,staff,29000000000078,beno,Beno,Rikalu,beno@example.org,+46701740606,Kyrkogatan 3,Lund,22222,1990-05-01,
`

func TestPatronCommands(t *testing.T) { onBoth(t, testPatronCommands) }

func testPatronCommands(t *testing.T) {
	db := newDB(t)
	imported := func(text string) fileReport {
		return importJSON(t, "--db", db, "--phone-region", "SE", "--patrons", file(t, "p.csv", text)).Files[0]
	}
	r := imported(patronsCSV)
	assert.Equal(t, []int{2, 0, 0}, []int{r.Added, r.Updated, r.Same})
	r = imported(strings.Replace(patronsCSV, "Kyrkogatan 3", "Kyrkogatan 4", 1))
	assert.Equal(t, []int{0, 1, 1}, []int{r.Added, r.Updated, r.Same})

	at := func(role, purpose string, args ...string) []string {
		return append([]string{"patron", args[0], "--db", db, "--actor", "staff-17", "--role", role, "--purpose", purpose}, args[1:]...)
	}
	id := strings.TrimSpace(good(t, carrelIn(t, "FOLA.tunda \n", at("circulation", "checkout", "find", "--identifier-file", "-")...)))
	assert.Len(t, id, 36)
	assert.Contains(t, good(t, carrel(t, at("patron-services", "account", "show", "--id", id)...)), "+46701740605")
	masked := good(t, carrel(t, at("patron-services", "support", "show", "--id", id)...))
	for _, want := range []string{"…0605", "f…@example.org", "Storgatan Lund 223…", "1984"} {
		assert.Contains(t, masked, want)
	}
	for _, not := range []string{"12 B", "02-29", "fola@", "22350"} {
		assert.NotContains(t, masked, not)
	}
	var shown shownPatron
	require.NoError(t, json.Unmarshal([]byte(good(t, carrel(t, at("circulation", "checkout", "show", "--id", id, "--json")...))), &shown))
	assert.Equal(t, "Tunda", shown.Segments[0].Entries[0]["last"])

	refused(t, carrel(t, at("cataloguing", "checkout", "show", "--id", id)...), "not allowed", "no-right")
	refused(t, carrel(t, at("nobody", "checkout", "show", "--id", id)...), "not allowed")
	refused(t, carrel(t, at("circulation", "checkout", "show", "--id", "29000000000077")...), "--id: not an ID")
	refused(t, carrel(t, "patron", "show", "--db", db, "--id", id, "--role", "circulation", "--purpose", "checkout"), "--actor is missing")
	nobody := carrelIn(t, "29000000000099\n", at("circulation", "checkout", "find", "--identifier-file", "-")...)
	assert.Equal(t, result{exitFound, "nobody\n", ""}, nobody)
	refused(t, carrelIn(t, "29000000000077\n", at("circulation", "checkout", "find", "--identifier-file", "-", "--anchor", keysOf(db))...), "is not an anchor")
	refused(t, carrelIn(t, "29000000000077\n", at("circulation", "checkout", "find", "--identifier-file", "-", "--anchor", filepath.Join(keysOf(db), "no"))...), "not a directory")

	// A borrower of a loan, back to the patron.
	good(t, carrel(t, "import", "--db", db, "--loans", file(t, "l.csv", "loan,borrower,returned\nl1,p-77,\n")))
	good(t, carrelIn(t, "p-77\n", "hold", "add", "--db", db, "--borrower-file", "-", "--ref", "case"))
	var holds struct{ Holds []listedHold }
	require.NoError(t, json.Unmarshal([]byte(good(t, carrel(t, "hold", "list", "--db", db, "--json", "--show-borrowers"))), &holds))
	token := holds.Holds[0].Who[0]
	assert.Equal(t, id+"\n", good(t, carrelIn(t, token, at("circulation", "overdue", "resolve", "--token-file", "-")...)))
	assert.Equal(t, exitFound, carrelIn(t, token[:len(token)-2]+"AA", at("circulation", "overdue", "resolve", "--token-file", "-")...).code)

	// Exports.
	out := filepath.Join(t.TempDir(), "out.jsonl")
	outside := at("systems", "export", "export", "--recipient", "survey-office", "--out", out)
	refused(t, carrel(t, outside...), "--approval")
	assert.NoFileExists(t, out)
	require.Equal(t, exitGood, carrel(t, append(outside, "--approval", "2026-17")...).code)
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	assert.Equal(t, 2, bytes.Count(data, []byte(`"pseudonym"`)))
	assert.NotContains(t, string(data), id)
	assert.NotContains(t, string(data), "2030")
	refused(t, carrel(t, append(outside, "--approval", "2026-17")...), "not overwritten")

	log := good(t, carrel(t, "log", "export", "--db", db, "--actor", "dpo", "--role", "reviewer", "--purpose", "review"))
	for _, want := range []string{`"action":"view","outcome":"denied","why":"no-right"`, `"approval":"2026-17"`, `"action":"resolve","outcome":"done"`, `"outcome":"not-found"`} {
		assert.Contains(t, log, want)
	}
	for _, not := range []string{"Tunda", "29000000000077", "p-77", "Kyrkogatan", "fola"} {
		assert.NotContains(t, strings.ToLower(log), strings.ToLower(not))
	}
}

func TestImportRefusesSharedIdentifiers(t *testing.T) { onBoth(t, testImportRefusesSharedIdentifiers) }

func testImportRefusesSharedIdentifiers(t *testing.T) {
	db := newDB(t)
	good(t, carrel(t, "import", "--db", db, "--patrons", file(t, "p.csv", patronsCSV)))
	for name, rows := range map[string]string{
		"of two patrons":             "p-77,29000000000078\n",
		"of another type":            "p-79,29000000000079\nP-79,BENO\np-80,beno\n",
		"a new one with an old name": "p-77,x1\np-78,X 1\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := carrel(t, "import", "--db", db, "--patrons", file(t, "q.csv", "patron,barcode\n"+rows))
			assert.Equal(t, exitFailed, r.code, r.stderr)
			assert.Contains(t, r.stderr, "belongs to another patron")
			assert.Contains(t, r.stderr, "nothing of the file was imported")
			assert.NotContains(t, r.stderr, "29000")
		})
	}
	found := carrelIn(t, "p-79\n", "patron", "find", "--db", db, "--identifier-file", "-", "--actor", "a", "--role", "circulation", "--purpose", "checkout")
	assert.Equal(t, exitFound, found.code, "nothing half imported")
}

func TestKeysAreMadeOnce(t *testing.T) { onBoth(t, testKeysAreMadeOnce) }

func testKeysAreMadeOnce(t *testing.T) {
	db := newDB(t)
	loans := file(t, "l.csv", "loan,borrower,returned\nl1,p-77,\n")
	cmd := command(t, "import", "--db", db, "--loans", loans)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Run())
	assert.Regexp(t, madeKeys, stderr.String())
	for _, suffix := range []string{"", ".kek", ".ledger"} {
		info, err := os.Stat(keysOf(db) + suffix)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), suffix)
	}
	cmd = command(t, "import", "--db", db, "--loans", loans)
	stderr.Reset()
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Run())
	assert.Empty(t, stderr.String())

	elsewhere := filepath.Join(t.TempDir(), "ring")
	require.NoError(t, os.Rename(keysOf(db), elsewhere))
	require.NoError(t, os.Rename(keysOf(db)+".ledger", elsewhere+".ledger"))
	require.NoError(t, os.Rename(keysOf(db)+".kek", elsewhere+".kek"))
	if onPostgres(t) { // there it goes with the keyring
		require.NoError(t, os.Rename(keysOf(db)+".anchor", elsewhere+".anchor"))
	}
	refused(t, carrel(t, "import", "--db", db, "--loans", loans), "there is no keyring", "holds what one has sealed")
	everything := filepath.Join(t.TempDir(), "policy.yaml")
	require.NoError(t, os.WriteFile(everything, []byte("carrel-retention: 1\nid: x/everything\nrecords:\n  loans: [{name: all, after: at once}]\n"), 0o600))
	cmd = command(t, "sweep", "--db", db, "--policy", everything)
	cmd.Env = append(cmd.Env, "CARREL_KEYS="+keysOf(db)) // mistaken: the trail would miss what it unlinks
	stderr.Reset()
	cmd.Stderr = &stderr
	require.Error(t, cmd.Run())
	assert.Contains(t, stderr.String(), "there is no keyring; say where it is")
	good(t, carrel(t, "import", "--db", db, "--keys", elsewhere, "--loans", loans))

	status := good(t, carrel(t, "keys", "status", "--db", db, "--keys", elsewhere))
	assert.Contains(t, status, "1 (current)")
	good(t, carrel(t, "keys", "rotate", "--db", db, "--keys", elsewhere))
	good(t, carrel(t, "keys", "rotate", "--db", db, "--keys", elsewhere, "--index", "identifier"))
	refused(t, carrel(t, "keys", "rotate", "--db", db, "--keys", elsewhere, "--index", "birth"), "no such index")
	refused(t, carrel(t, "keys", "init", "--keys", elsewhere), "not overwritten")

	require.NoError(t, os.Chmod(elsewhere+".kek", 0o644))
	refused(t, carrel(t, "keys", "status", "--db", db, "--keys", elsewhere), "others than its owner")
	require.NoError(t, os.Chmod(elsewhere+".kek", 0o600))
	require.NoError(t, os.Remove(elsewhere+".ledger"))
	refused(t, carrel(t, "keys", "status", "--db", db, "--keys", elsewhere), "erasure ledger", "restore it")
	require.NoError(t, os.WriteFile(elsewhere+".kek", []byte("carrel-kek-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"), 0o600))
	refused(t, carrel(t, "keys", "status", "--db", db, "--keys", elsewhere), "default or test key")
}
