package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/internal/pgtest"
)

// onBoth runs a test on a SQLite file and on a PostgreSQL server. newDB knows by the name of the test which it is.
func onBoth(t *testing.T, test func(*testing.T)) {
	t.Run("sqlite", test)
	t.Run("postgres", test)
}

func onPostgres(t testing.TB) bool {
	for part := range strings.SplitSeq(t.Name(), "/") {
		if part == "postgres" {
			return true
		}
	}
	return false
}

const serverVariable = "CARREL_TEST_POSTGRES"

// keyrings are those of the databases on a server, by DSN: command names them in the environment.
var keyrings sync.Map

// newSchema returns the DSN of an empty schema of the test's own.
func newSchema(t testing.TB) string {
	t.Helper()
	server := os.Getenv(serverVariable)
	if server == "" {
		t.Skip("SKIPPED, NOTHING WAS TESTED: set " + serverVariable + " to a PostgreSQL database that may be written to, as in postgres://127.0.0.1:5432/test?sslmode=disable")
	}
	dsn, _ := pgtest.NewSchema(t, server)
	keyrings.Store(dsn, filepath.Join(t.TempDir(), "keys"))
	t.Cleanup(func() { keyrings.Delete(dsn) })
	return dsn
}

// keysOf returns where the keyring of a test's database is.
func keysOf(db string) string {
	if path, ok := keyrings.Load(db); ok {
		return path.(string)
	}
	return db + ".keys"
}

// besideOf returns what the names of the other files of a database begin with.
func besideOf(db string) string {
	if path, ok := keyrings.Load(db); ok {
		return path.(string)
	}
	return db
}

// execPG changes what is in a test's schema.
func execPG(t testing.TB, dsn, query string) {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec(query)
	require.NoError(t, err)
}
