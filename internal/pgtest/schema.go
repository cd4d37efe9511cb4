// Package pgtest makes schemas for tests on PostgreSQL, and starts servers for those that crash them.
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

// NewSchema makes an empty schema of the test's own on a server and drops it afterwards. It returns its address and its name. The driver "pgx" is the caller's to import.
func NewSchema(t testing.TB, server string) (dsn, schema string) {
	t.Helper()
	var raw [6]byte
	rand.Read(raw[:])
	schema = "carrel_test_" + hex.EncodeToString(raw[:])
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
	return u.String(), schema
}

// Schema is NewSchema with the tables of migrations, files as pressly/goose reads them. It returns it open, and its address.
func Schema(t testing.TB, server string, migrations fs.FS) (db *sql.DB, dsn string) {
	t.Helper()
	dsn, _ = NewSchema(t, server)
	db, err := sql.Open("pgx", dsn)
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
	return db, dsn
}

func must(t testing.TB, err error, format string, args ...any) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v "+format, append([]any{err}, args...)...)
	}
}
