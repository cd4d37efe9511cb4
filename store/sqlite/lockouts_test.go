package sqlite_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/sqlite"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestLockouts(t *testing.T) {
	storetest.TestLockouts(t, func(t *testing.T) lockout.Store {
		db, _, _ := open(t)
		return sqlite.NewLockouts(db)
	})
}

// A login program that forgot the migrations hears what is missing, and not that the database refused.
func TestLockoutsWithoutSchema(t *testing.T) {
	db, err := sql.Open("sqlite", sqlite.DSN(filepath.Join(t.TempDir(), "empty.db")))
	require.NoError(t, err)
	defer db.Close()
	g, err := lockout.New(sqlite.NewLockouts(db), lockout.Config{Key: randomKey()})
	require.NoError(t, err)
	_, err = g.Reserve(t.Context(), lockout.Attempt{})
	require.ErrorIs(t, err, lockout.ErrUnavailable)
	require.ErrorIs(t, err, sqlite.ErrNoSchema)
}
