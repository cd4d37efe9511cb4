package postgres_test

import (
	"database/sql"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/internal/histories"
	"github.com/carrel-project/carrel/store/postgres"
	"github.com/carrel-project/carrel/store/sqlite"
)

// eachHistory runs a property so many times, a hundred times as often in the long version, with empty stores in two databases.
func eachHistory(t *testing.T, checks int, property func(t *rapid.T, one, other histories.Library)) {
	p := &pool{t: t}
	var stores [2]histories.Library
	var empty [2]func()
	for i := range stores {
		db, clean := p.open(t)
		stores[i], empty[i] = postgres.New(db), clean
	}
	if os.Getenv("CARREL_TEST_LONG") != "" {
		checks *= 100
	}
	if given := flag.Lookup("rapid.checks"); given.Value.String() == given.DefValue {
		require.NoError(t, flag.Set("rapid.checks", fmt.Sprint(checks)))
		defer flag.Set("rapid.checks", given.DefValue)
	}
	rapid.Check(t, func(rt *rapid.T) {
		for i := range empty {
			empty[i]()
		}
		property(rt, stores[0], stores[1])
	})
}

// Two copies of a library live through the same; the nights of one read what is due, those of the other everything.
func TestNightsForgetWhatTheyWould(t *testing.T) {
	eachHistory(t, 10, histories.NightsForgetWhatTheyWould)
}

func TestNothingDueSleeps(t *testing.T) {
	eachHistory(t, 10, func(t *rapid.T, one, _ histories.Library) { histories.NothingDueSleeps(t, one) })
}

// PostgreSQL makes of it what SQLite does, to the last count: they have no statement in common.
func TestHistoriesAreThoseInSQLite(t *testing.T) {
	dir, n := t.TempDir(), 0
	eachHistory(t, 10, func(t *rapid.T, one, _ histories.Library) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n, ".db"))
		db, err := sql.Open("sqlite", sqlite.DSN(path)+"&_pragma=synchronous(OFF)")
		require.NoError(t, err)
		t.Cleanup(func() { db.Close(); os.Remove(path) })
		names, err := fs.Glob(sqlite.Migrations(), "*.sql") // in order
		require.NoError(t, err)
		for _, name := range names {
			text, err := fs.ReadFile(sqlite.Migrations(), name)
			require.NoError(t, err)
			up, _, _ := strings.Cut(string(text), "-- +goose Down")
			_, err = db.Exec(up)
			require.NoError(t, err)
		}
		histories.OfTwoKinds(t, one, sqlite.New(db))
	})
}

func TestSavedTogetherOrOneByOne(t *testing.T) { eachHistory(t, 20, histories.OneSaveOrMany) }
