package postgres_test

import (
	"database/sql"
	"os"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/carrel-project/carrel/internal/pgtest"
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
	db, dsn := pgtest.Schema(t, server, postgres.Migrations())
	db.SetMaxOpenConns(20)
	return db, dsn
}
