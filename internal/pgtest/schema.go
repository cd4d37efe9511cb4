package pgtest

import (
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"io/fs"
	"net/url"
	"strings"
	"testing"
)

// Schema makes a schema of the test's own on a server, with the tables of migrations (files as pressly/goose reads them), and drops it afterwards. It returns it open, and its address. The driver
// "pgx" is the caller's to import.
func Schema(t testing.TB, server string, migrations fs.FS) (db *sql.DB, dsn string) {
	t.Helper()
	var raw [6]byte
	rand.Read(raw[:])
	schema := "carrel_test_" + hex.EncodeToString(raw[:])
	admin, err := sql.Open("pgx", server)
	must(t, err, "open the server")
	_, err = admin.Exec("CREATE SCHEMA " + schema)
	must(t, err, "create a schema")
	t.Cleanup(func() {
		admin.Exec("DROP SCHEMA " + schema + " CASCADE")
		admin.Close()
	})
	u, err := url.Parse(server)
	must(t, err, "read the server's address")
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	db, err = sql.Open("pgx", u.String())
	must(t, err, "open the schema")
	t.Cleanup(func() { db.Close() })
	names, err := fs.Glob(migrations, "*.sql") // in order
	must(t, err, "list the migrations")
	for _, name := range names {
		text, err := fs.ReadFile(migrations, name)
		must(t, err, "read a migration")
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		_, err = db.Exec(up)
		must(t, err, "migrate %s", name)
	}
	return db, u.String()
}
