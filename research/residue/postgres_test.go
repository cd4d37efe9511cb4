package residue_test

import (
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/internal/pgtest"
	"github.com/carrel-project/carrel/research/residue"
)

const serverVariable = "CARREL_TEST_POSTGRES"

// newSchema returns a connection whose search path is a schema of the test's own, and the name of that.
func newSchema(t testing.TB) (*sql.DB, string) {
	t.Helper()
	server := os.Getenv(serverVariable)
	if server == "" {
		t.Skip("SKIPPED, NOTHING WAS TESTED: set " + serverVariable + " to a PostgreSQL database that may be written to, as in postgres://127.0.0.1:5432/test?sslmode=disable")
	}
	dsn, schema := pgtest.NewSchema(t, server)
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	return db, schema
}

func searchPG(t testing.TB, db *sql.DB, schema string, s *residue.Sample) *residue.Report {
	t.Helper()
	r, err := residue.New(s, residue.Config{Schemas: []string{schema}}).Postgres(t.Context(), db)
	require.NoError(t, err)
	return r
}

func TestPlantedLeaksInPostgres(t *testing.T) {
	db, first := newSchema(t)
	db.SetMaxOpenConns(1) // a new connection has to learn what tables there are
	n := 0
	both := "'loan of " + what + " to " + who + "'"
	for name, c := range map[string]struct {
		plant []string
		want  string
	}{
		"fee that points at a loan": {[]string{`CREATE TABLE loans (id serial PRIMARY KEY, item text)`, `INSERT INTO loans VALUES (17, '39000000012345'), (18, '39000000012346')`,
			`CREATE TABLE fees (borrower text, loan integer REFERENCES loans)`, `INSERT INTO fees VALUES ('29000000000077', 17), ('29000000000078', 18)`}, "join fees.borrower loans.item [fees.loan = loans.id] [plain] false"},
		"statistics table":      {[]string{`CREATE TABLE statistics (at date, item bigint, borrower text)`, `INSERT INTO statistics VALUES (now(), 39000000012345, '29000000000077')`}, "row statistics.borrower .item [] [plain] false"},
		"action log text":       {[]string{`CREATE TABLE action_logs (info text)`, "INSERT INTO action_logs VALUES (" + both + ")"}, "value action_logs.info .info [] [plain] false"},
		"last-borrower table":   {[]string{`CREATE TABLE last (item text PRIMARY KEY, who text)`, `INSERT INTO last VALUES ('39000000012345', '29000000000077')`}, "row last.who .item [] [plain] false"},
		"message body":          {[]string{`CREATE TABLE messages (who text, body text)`, `INSERT INTO messages VALUES ('29000000000077', 'Dear "reader", \bring back (39000000012345), please')`}, "row messages.who .body [] [plain] false"},
		"search index":          {[]string{`CREATE TABLE found (words tsvector)`, "INSERT INTO found VALUES (to_tsvector('simple', " + both + "))"}, "value found.words .words [] [plain] false"},
		"JSON column":           {[]string{`CREATE TABLE storage (id uuid, jsonb jsonb)`, `INSERT INTO storage VALUES ('6b0d9e0e-6a3a-4a4e-8f6e-111111111111', '{"userId": "29000000000077", "item": {"barcode": "39000000012345"}}')`}, "value storage.jsonb .jsonb [] [plain] false"},
		"array":                 {[]string{`CREATE TABLE lists (them text[])`, `INSERT INTO lists VALUES (ARRAY['x y', '39000000012345', '29000000000077'])`}, "value lists.them .them [] [plain] false"},
		"base64":                {[]string{`CREATE TABLE mail (body text)`, "INSERT INTO mail VALUES (encode(" + both + ", 'base64'))"}, "value mail.body .body [] [base64] false"},
		"hex":                   {[]string{`CREATE TABLE mail (body text)`, "INSERT INTO mail VALUES (encode(" + both + ", 'hex'))"}, "value mail.body .body [] [hex] false"},
		"bytea":                 {[]string{`CREATE TABLE mail (n int, body bytea)`, "INSERT INTO mail VALUES (1, convert_to(" + both + ", 'UTF8'))"}, "value mail.body .body [] [plain] false"},
		"base64 in bytea":       {[]string{`CREATE TABLE mail (n int, body bytea)`, "INSERT INTO mail VALUES (1, convert_to(encode(" + both + ", 'base64'), 'UTF8'))"}, "value mail.body .body [] [base64] false"},
		"spelt backwards":       {[]string{`CREATE TABLE mail (body text)`, "INSERT INTO mail VALUES (reverse(" + both + "))"}, "value mail.body .body [] [backwards] false"},
		"audit row":             {[]string{`CREATE TABLE audit (who text, before jsonb)`, `INSERT INTO audit VALUES ('29000000000077', '{"item": "39000000012345"}')`}, "row audit.who .before [] [plain] false"},
		"materialized view":     {[]string{`CREATE MATERIALIZED VIEW seen AS SELECT '29000000000077'::text AS a, '39000000012345'::text AS b`}, "row seen.a .b [] [plain] false"},
		"partition":             {[]string{`CREATE TABLE years (a text, b text) PARTITION BY LIST (a)`, `CREATE TABLE y2026 PARTITION OF years DEFAULT`, `INSERT INTO years VALUES ('29000000000077', '39000000012345')`}, "row y2026.a .b [] [plain] false"},
		"names that are quoted": {[]string{`CREATE TABLE "Odd ""name" ("carrel residue" text, "select" text)`, `INSERT INTO "Odd ""name" VALUES ('29000000000077', '39000000012345')`}, `row Odd "name.carrel residue .select [] [plain] false`},
		"samples of a column": {[]string{`CREATE TABLE logs (info text) WITH (autovacuum_enabled = off)`, "INSERT INTO logs SELECT " + both + " FROM generate_series(1, 100)", "INSERT INTO logs SELECT 'other' FROM generate_series(1, 100)",
			`ANALYZE logs`, `DELETE FROM logs`}, "value pg_stats.value .value [] [plain] false"},
		"samples of two columns": {[]string{`CREATE TABLE logs (a text, b text) WITH (autovacuum_enabled = off)`, `CREATE STATISTICS ab (mcv) ON a, b FROM logs`, "INSERT INTO logs SELECT '29000000000077', '39000000012345' FROM generate_series(1, 100)", "INSERT INTO logs SELECT 'x', 'y' FROM generate_series(1, 100)",
			`ANALYZE logs`, `DELETE FROM logs`}, "value pg_stats_ext.value .value [] [plain] false"},
	} {
		t.Run(name, func(t *testing.T) {
			n++
			schema := fmt.Sprint(first, "_", n)
			exec(t, db, "CREATE SCHEMA "+schema, "SET search_path = "+schema)
			t.Cleanup(func() { exec(t, db, "DROP SCHEMA "+schema+" CASCADE") })
			exec(t, db, strings.NewReplacer("INTEGER PRIMARY KEY", "integer PRIMARY KEY").Replace(decoys))
			assert.Empty(t, searchPG(t, db, schema, onePair()).Findings, "before it is planted")
			exec(t, db, c.plant...)
			r := searchPG(t, db, schema, onePair())
			got := ""
			for _, f := range r.Findings {
				got += f.Where() + "\n"
			}
			require.Len(t, r.Findings, 1, got)
			assert.Equal(t, c.want, strings.ReplaceAll(outline(r.Findings[0]), schema+".", ""))
			assert.Equal(t, 1, r.Findings[0].Pairs)
			for _, g := range r.Gaps {
				assert.False(t, g.Warning, g)
			}
		})
	}
}

// A large object is nobody's: it lies beside all schemas, so that this test leaves none behind.
func TestLargeObject(t *testing.T) {
	db, schema := newSchema(t)
	var oid int64
	canary := fmt.Sprintf("canary-%s", schema)
	require.NoError(t, db.QueryRow("SELECT lo_from_bytea(0, convert_to($1 || repeat('.', 100) || $2, 'UTF8'))", canary, what).Scan(&oid))
	t.Cleanup(func() { db.Exec("SELECT lo_unlink($1)", oid) })
	s := residue.NewSample(0)
	s.Add(residue.Pair{Person: []string{canary}, Thing: []string{what}})
	r := searchPG(t, db, schema, s)
	require.Len(t, r.Findings, 1)
	assert.Equal(t, "bytes large objects. . [] [plain] false", outline(r.Findings[0]))
}

// What a role may not read, or not all of, is a warning, and the rest is searched.
func TestForbiddenTables(t *testing.T) {
	db, schema := newSchema(t)
	exec(t, db, `CREATE TABLE closed (a text)`, `INSERT INTO closed VALUES ('x')`, `CREATE TABLE policed (a text, b text)`, `INSERT INTO policed VALUES ('29000000000077', '39000000012345')`,
		`ALTER TABLE policed ENABLE ROW LEVEL SECURITY`, `CREATE POLICY few ON policed USING (false)`, `CREATE TABLE zopen (a text, b text)`, `INSERT INTO zopen VALUES ('29000000000077', '39000000012345')`,
		"CREATE ROLE "+schema+" LOGIN", "GRANT USAGE ON SCHEMA "+schema+" TO "+schema, "GRANT SELECT ON policed, zopen TO "+schema)
	t.Cleanup(func() { db.Exec("DROP OWNED BY " + schema); db.Exec("DROP ROLE " + schema) })
	u, err := url.Parse(os.Getenv(serverVariable))
	require.NoError(t, err)
	u.User = url.User(schema)
	as, err := sql.Open("pgx", u.String())
	require.NoError(t, err)
	defer as.Close()
	if as.Ping() != nil {
		t.Skip("SKIPPED, NOTHING WAS TESTED: the server lets nobody in without a password")
	}
	r := searchPG(t, as, schema, onePair())
	require.Len(t, r.Findings, 1)
	assert.Equal(t, schema+".zopen", r.Findings[0].Table)
	warned := ""
	for _, g := range r.Gaps {
		if g.Warning {
			warned += strings.TrimPrefix(g.What, schema+".") + ": " + g.Why + "\n"
		}
	}
	assert.Equal(t, "closed: the role may not read it, or not all of its rows\npoliced: the role may not read it, or not all of its rows\n", warned)
}
