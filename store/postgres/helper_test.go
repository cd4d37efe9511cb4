package postgres_test

import (
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/store/postgres"
)

const serverVariable = "CARREL_TEST_POSTGRES"

// open returns a database whose search path is a schema of the test's own, with all tables, and where it is.
func open(t testing.TB) (*sql.DB, string) {
	t.Helper()
	server := os.Getenv(serverVariable)
	if server == "" {
		t.Skip("SKIPPED, NOTHING WAS TESTED: set " + serverVariable + " to a PostgreSQL database that may be written to, as in postgres://127.0.0.1:5432/test?sslmode=disable")
	}
	return openAt(t, server)
}

// openAt is open on a server of the caller's choice.
func openAt(t testing.TB, server string) (*sql.DB, string) {
	t.Helper()
	var raw [6]byte
	rand.Read(raw[:])
	schema := "carrel_test_" + hex.EncodeToString(raw[:])
	admin, err := sql.Open("pgx", server)
	require.NoError(t, err)
	_, err = admin.Exec("CREATE SCHEMA " + schema)
	require.NoError(t, err)
	t.Cleanup(func() {
		admin.Exec("DROP SCHEMA " + schema + " CASCADE")
		admin.Close()
	})
	u, err := url.Parse(server)
	require.NoError(t, err)
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	db, err := sql.Open("pgx", u.String())
	require.NoError(t, err)
	db.SetMaxOpenConns(20)
	t.Cleanup(func() { db.Close() })
	names, err := fs.Glob(postgres.Migrations(), "*.sql") // in order
	require.NoError(t, err)
	for _, name := range names {
		text, err := fs.ReadFile(postgres.Migrations(), name)
		require.NoError(t, err)
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		_, err = db.Exec(up)
		require.NoError(t, err, name)
	}
	return db, u.String()
}
