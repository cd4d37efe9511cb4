package residue_test

import (
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/carrel-project/carrel/research/residue"
)

// newFile returns the path of a new SQLite database and a connection to it.
func newFile(t testing.TB, statements ...string) (string, *sql.DB) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ils.db")
	db, err := sql.Open("sqlite", "file:"+filepath.ToSlash(path)+"?_pragma=synchronous(off)") // no test cuts the power
	require.NoError(t, err)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	exec(t, db, statements...)
	return path, db
}

func exec(t testing.TB, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		_, err := db.Exec(s)
		require.NoError(t, err, s)
	}
}

// The pair that every leak is of, among people and things that are together with nobody of the sample.
const (
	who  = "29000000000077"
	what = "39000000012345"

	uuidWho  = "6b0d9e0e-6a3a-4a4e-8f6e-0123456789ab"
	uuidWhat = "0e8a3b5c-1d2f-4c6b-9a7d-ba9876543210"
)

func onePair() *residue.Sample {
	s := residue.NewSample(0)
	s.Add(residue.Pair{Person: []string{who}, Thing: []string{what}})
	return s
}

func search(t testing.TB, path string, s *residue.Sample) *residue.Report {
	t.Helper()
	r, err := residue.New(s, residue.Config{}).SQLite(t.Context(), path)
	require.NoError(t, err)
	return r
}

// decoys are rows in which the person is without the thing, and the thing without the person.
const decoys = `CREATE TABLE borrowers (borrowernumber INTEGER PRIMARY KEY, cardnumber TEXT UNIQUE, surname TEXT);
	INSERT INTO borrowers VALUES (1001, '29000000000077', 'Doe'), (1002, '29000000000078', 'Roe');
	CREATE TABLE items (itemnumber INTEGER PRIMARY KEY, barcode TEXT UNIQUE, homebranch TEXT);
	INSERT INTO items VALUES (5001, '39000000012345', 'main'), (5002, '39000000012346', 'main');`

func backwards(s string) string {
	b := []byte(s)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}

// A leak is something that library systems leave behind, planted in a database that has the person and the thing apart from each other.
type leak struct {
	plant []string
	want  residue.Finding // without counts
	uuid  bool            // of people and things with UUIDs
	close bool            // the database is closed, so that its log is gone
}

func sqliteLeaks() map[string]leak {
	b64, url64 := base64.StdEncoding.EncodeToString, base64.URLEncoding.EncodeToString
	row := func(table, column, thing string, forms ...string) residue.Finding {
		return residue.Finding{Kind: residue.Row, Table: table, Column: column, Thing: thing, Forms: forms}
	}
	value := func(table, column string, forms ...string) residue.Finding {
		return residue.Finding{Kind: residue.Value, Table: table, Column: column, Thing: column, Forms: forms}
	}
	text := func(value string) []string {
		return []string{"CREATE TABLE letters (id INTEGER PRIMARY KEY, body)", "INSERT INTO letters (body) VALUES (" + value + "), ('Nothing of that')"}
	}
	quoted := func(s string) string { return "'" + s + "'" }
	return map[string]leak{
		"fee that points at a loan": {plant: []string{
			`CREATE TABLE loans (id INTEGER PRIMARY KEY, item TEXT, returned TEXT)`, `INSERT INTO loans VALUES (17, '39000000012345', '2026-01-02'), (18, '39000000012346', '2026-01-02')`,
			`CREATE TABLE fees (id INTEGER PRIMARY KEY, borrower TEXT, loan_id INTEGER REFERENCES loans, amount INTEGER)`, `INSERT INTO fees VALUES (3, '29000000000077', 17, 250), (4, '29000000000078', 18, 250)`},
			want: residue.Finding{Kind: residue.Join, Table: "fees", Column: "borrower", ThingTable: "loans", Thing: "item", Joins: []string{"fees.loan_id = loans.id"}, Forms: []string{"plain"}}},
		"statistics table":          {plant: []string{`CREATE TABLE statistics (at TEXT, itemnumber TEXT, branch TEXT, borrower TEXT)`, `INSERT INTO statistics VALUES ('2026', '39000000012345', 'main', '29000000000077'), ('2026', '39000000012346', 'main', '29000000000078')`}, want: row("statistics", "borrower", "itemnumber", "plain")},
		"numbers in columns":        {plant: []string{`CREATE TABLE statistics (at TEXT, item INTEGER, borrower BIGINT)`, `INSERT INTO statistics VALUES ('2026', 39000000012345, 29000000000077), ('2026', 39000000012346, 29000000000078)`}, want: row("statistics", "borrower", "item", "plain")},
		"action log text":           {plant: []string{`CREATE TABLE action_logs (id INTEGER PRIMARY KEY, module TEXT, info TEXT)`, `INSERT INTO action_logs VALUES (1, 'CIRCULATION', 'ISSUE by 29000000000077 of 39000000012345 at main')`}, want: value("action_logs", "info", "plain")},
		"last-borrower table":       {plant: []string{`CREATE TABLE items_last_borrower (itemnumber TEXT PRIMARY KEY, borrowernumber TEXT) WITHOUT ROWID`, `INSERT INTO items_last_borrower VALUES ('39000000012345', '29000000000077'), ('39000000012346', '29000000000078')`}, want: row("items_last_borrower", "borrowernumber", "itemnumber", "plain")},
		"message body":              {plant: []string{`CREATE TABLE message_queue (id INTEGER PRIMARY KEY, borrower TEXT, content TEXT)`, `INSERT INTO message_queue VALUES (1, '29000000000077', 'Dear reader, please bring back "Secret" (39000000012345) soon.')`}, want: row("message_queue", "borrower", "content", "plain")},
		"long message body":         {plant: text("'Dear 29000000000077," + strings.Repeat(" and furthermore,", 2000) + " 39000000012345'"), want: value("letters", "body", "plain")},
		"search index":              {plant: []string{`CREATE VIRTUAL TABLE found USING fts5(what)`, `INSERT INTO found VALUES ('loan of 39000000012345 to 29000000000077')`}, want: value("found_content", "c0", "plain")},
		"search index without text": {plant: append([]string{`CREATE VIRTUAL TABLE found USING fts5(what, content='')`}, manyWords("found")...), want: value("found", "words", "plain")},
		"JSON column":               {plant: []string{`CREATE TABLE storage (id TEXT PRIMARY KEY, jsonb TEXT)`, `INSERT INTO storage VALUES ('x', '{"id":"x","userId":"29000000000077","item":{"barcode":"39000000012345"}}')`}, want: value("storage", "jsonb", "plain")},
		"base64":                    {plant: text(quoted(b64([]byte("loan of " + what + " to " + who)))), want: value("letters", "body", "base64")},
		"base64, moved by 1":        {plant: text(quoted("see " + url64([]byte("a loan of "+what+" to ?? "+who+"?>")))), want: value("letters", "body", "base64")},
		"base64, each by itself":    {plant: []string{`CREATE TABLE cards (a TEXT, b TEXT)`, `INSERT INTO cards VALUES ('` + b64([]byte(who)) + `', '` + b64([]byte("x"+what)) + `')`}, want: row("cards", "a", "b", "base64")},
		"hex":                       {plant: text(quoted(hex.EncodeToString([]byte(what + "/" + who)))), want: value("letters", "body", "hex")},
		"hex in capitals":           {plant: text(quoted(strings.ToUpper(hex.EncodeToString([]byte("/" + what + "/" + who + "/"))))), want: value("letters", "body", "hex")},
		"thing before person":       {plant: text(quoted(what + " " + who)), want: value("letters", "body", "plain")},
		"spelt backwards":           {plant: text(quoted(backwards(who + ":" + what))), want: value("letters", "body", "backwards")},
		"UTF-16 in a blob":          {plant: text("x'" + hex.EncodeToString([]byte(wide(who+" "+what))) + "'"), want: value("letters", "body", "utf-16")},
		"UUID as bytes":             {uuid: true, plant: text("x'" + strings.ReplaceAll(uuidWho+uuidWhat, "-", "") + "'"), want: value("letters", "body", "binary")},
		"key in JSON": {uuid: true, plant: []string{`CREATE TABLE loan (id TEXT PRIMARY KEY, jsonb TEXT)`, `CREATE TABLE accounts (id TEXT PRIMARY KEY, jsonb TEXT)`,
			`INSERT INTO loan VALUES ('aaaaaaaa-0000-4000-8000-000000000001', '{"itemId":"` + uuidWhat + `"}'), ('aaaaaaaa-0000-4000-8000-000000000002', '{"itemId":"x"}')`,
			`INSERT INTO accounts VALUES ('bbbbbbbb-0000-4000-8000-000000000001', '{"userId":"` + uuidWho + `","loanId":"aaaaaaaa-0000-4000-8000-000000000001"}')`},
			want: residue.Finding{Kind: residue.Join, Table: "accounts", Column: "jsonb", ThingTable: "loan", Thing: "jsonb", Joins: []string{"accounts.jsonb = loan.id"}, Forms: []string{"plain"}}},
		"audit row":                {plant: []string{`CREATE TABLE audit (seq INTEGER PRIMARY KEY, actor TEXT, object TEXT, before BLOB)`, `INSERT INTO audit VALUES (1, 'staff', '29000000000077', x'` + hex.EncodeToString([]byte("\x00\x01item="+what+"\xff")) + `')`}, want: row("audit", "object", "before", "plain")},
		"sampled statistics":       {plant: []string{`PRAGMA secure_delete = ON`, `CREATE TABLE seen (a TEXT, b TEXT)`, `CREATE INDEX seen_ab ON seen (a, b)`, `INSERT INTO seen VALUES ('29000000000077', '39000000012345'), ('29000000000079', '39000000012349')`, `ANALYZE`, `DELETE FROM seen`}, want: row("sqlite_stat4", "sample 1", "sample 2", "plain")},
		"row on overflow pages":    {plant: []string{`CREATE TABLE big (a TEXT, b TEXT, c TEXT)`, `INSERT INTO big VALUES ('29000000000077', '` + strings.Repeat("x", 20_000) + `', '39000000012345')`}, want: row("big", "a", "c", "plain")},
		"free page":                {close: true, plant: append(fill("gone", 2000), `PRAGMA secure_delete = OFF`, `DROP TABLE gone`), want: residue.Finding{Kind: residue.Bytes, Table: "free pages", Forms: []string{"plain"}}},
		"free space in a page":     {close: true, plant: []string{`PRAGMA secure_delete = OFF`, `CREATE TABLE few (a TEXT, b TEXT)`, `INSERT INTO few VALUES ('x', 'y'), ('29000000000077', '39000000012345'), ('z', 'u')`, `DELETE FROM few WHERE a LIKE '29%'`}, want: residue.Finding{Kind: residue.Bytes, Table: "unused space in pages", Forms: []string{"plain"}}},
		"write-ahead log":          {plant: []string{`PRAGMA journal_mode = WAL`, `PRAGMA wal_autocheckpoint = 0`, `PRAGMA secure_delete = ON`, `CREATE TABLE few (a TEXT, b TEXT)`, `INSERT INTO few VALUES ('29000000000077', '39000000012345')`, `DELETE FROM few`}, want: residue.Finding{Kind: residue.Bytes, Table: "write-ahead log", Forms: []string{"plain"}}},
		"numbers in the log":       {plant: []string{`PRAGMA journal_mode = WAL`, `PRAGMA wal_autocheckpoint = 0`, `PRAGMA secure_delete = ON`, `CREATE TABLE few (a INTEGER, b INTEGER)`, `INSERT INTO few VALUES (29000000000077, 39000000012345)`, `DELETE FROM few`}, want: row("write-ahead log", "column 1", "column 2", "plain")},
		"log that was begun again": {plant: []string{`PRAGMA journal_mode = WAL`, `PRAGMA secure_delete = ON`, `CREATE TABLE other (a TEXT)`, `CREATE TABLE few (a TEXT, b TEXT)`, `INSERT INTO few VALUES ('29000000000077', '39000000012345')`, `DELETE FROM few`, `PRAGMA wal_checkpoint(RESTART)`, `INSERT INTO other VALUES ('x')`}, want: residue.Finding{Kind: residue.Bytes, Table: "write-ahead log", Forms: []string{"plain"}}},
		"rollback journal":         {plant: []string{`PRAGMA journal_mode = PERSIST`, `PRAGMA secure_delete = ON`, `CREATE TABLE few (a TEXT, b TEXT)`, `INSERT INTO few VALUES ('29000000000077', '39000000012345')`, `DELETE FROM few`}, want: residue.Finding{Kind: residue.Bytes, Table: "rollback journal", Forms: []string{"plain"}}},
	}
}

// fill makes a table of many rows, of which one is the pair.
func fill(table string, rows int) []string {
	return []string{"CREATE TABLE " + table + " (a TEXT, b TEXT)",
		fmt.Sprintf("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO %s SELECT CASE i WHEN %d THEN '%s' ELSE 28000000000000 + i END, CASE i WHEN %[3]d THEN '%[5]s' ELSE 38000000000000 + i END FROM n", rows, table, rows/2, who, what)}
}

// manyWords fills an index with documents, of which one has the pair; many words begin like theirs.
func manyWords(table string) (statements []string) {
	for i := range 2000 {
		text := fmt.Sprintf("loan %d to 2900000%07d of %s", i, i*77, text(i))
		if i == 1234 {
			text = "loan of " + what + " to " + who
		}
		statements = append(statements, fmt.Sprintf("INSERT INTO %s (rowid, what) VALUES (%d, '%s')", table, 7*i+1, text))
	}
	return append([]string{"BEGIN"}, append(statements, "COMMIT")...)
}

func text(i int) string { return fmt.Sprintf("3900000%07d, word%d", i*12345+1, i%50) }

// wide returns a text in UTF-16.
func wide(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteByte(s[i])
		b.WriteByte(0)
	}
	return b.String()
}

// Every kind of leak is found in the database in which it is planted, and where it is; and nothing is found where none is.
func TestPlantedLeaks(t *testing.T) {
	for name, c := range sqliteLeaks() {
		t.Run(name, func(t *testing.T) {
			path, db := newFile(t, decoys)
			sample := onePair()
			if c.uuid {
				sample = residue.NewSample(0)
				sample.Add(residue.Pair{Person: []string{uuidWho}, Thing: []string{uuidWhat}})
			}
			assert.Empty(t, search(t, path, sample).Findings, "before it is planted")
			exec(t, db, c.plant...)
			if c.close {
				require.NoError(t, db.Close())
			}
			r := search(t, path, sample)
			got := ""
			for _, f := range r.Findings {
				got += f.Where() + "\n"
				assert.Equal(t, 1, f.Pairs)
			}
			require.Len(t, r.Findings, 1, got)
			assert.Equal(t, outline(c.want), outline(r.Findings[0]), got)
			for _, g := range r.Gaps {
				assert.False(t, g.Warning, g)
			}
		})
	}
}

// outline is what a finding is, without counts.
func outline(f residue.Finding) string {
	return fmt.Sprint(f.Kind, " ", f.Table, ".", f.Column, " ", f.ThingTable, ".", f.Thing, " ", f.Joins, f.Forms, f.Weak)
}
