package sqlite_test

import (
	"database/sql"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/internal/histories"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/sqlite"
)

// empties returns functions that open an empty store of each sort.
func empties(t *testing.T) map[string]func(t *rapid.T) histories.Library {
	_, s, template := open(t)
	require.NoError(t, s.Finish(t.Context()))
	dir, n := t.TempDir(), 0
	return map[string]func(t *rapid.T) histories.Library{
		"Memory": func(*rapid.T) histories.Library { return memory.NewCirculation() },
		"SQLite": func(rt *rapid.T) histories.Library {
			n++
			path := filepath.Join(dir, fmt.Sprint(n, ".db"))
			from, err := os.Open(template)
			require.NoError(rt, err)
			to, err := os.Create(path)
			require.NoError(rt, err)
			_, err = io.Copy(to, from)
			require.NoError(rt, err)
			require.NoError(rt, from.Close())
			require.NoError(rt, to.Close())
			db, err := sql.Open("sqlite", sqlite.DSN(path)+"&_pragma=synchronous(OFF)")
			require.NoError(rt, err)
			rt.Cleanup(func() { db.Close(); os.Remove(path); os.Remove(path + "-wal"); os.Remove(path + "-shm") })
			return gapped{sqlite.New(db), db}
		},
	}
}

// gapped can make it as if many records had come and gone, so that a handful of them fill several blocks of the indexes.
type gapped struct {
	*sqlite.Circulation
	db *sql.DB
}

func (g gapped) Gap() error {
	_, err := g.db.Exec("UPDATE serials SET last = last + 70000")
	return err
}

// each runs a property on each sort of store.
func each(t *testing.T, property func(t *rapid.T, open func(*rapid.T) histories.Library)) {
	for name, open := range empties(t) {
		t.Run(name, func(t *testing.T) {
			checks := map[string]int{"Memory": 300, "SQLite": 30}[name]
			if os.Getenv("CARREL_TEST_LONG") != "" {
				checks *= 100
			}
			if given := flag.Lookup("rapid.checks"); given.Value.String() == given.DefValue {
				require.NoError(t, flag.Set("rapid.checks", fmt.Sprint(checks)))
				defer flag.Set("rapid.checks", given.DefValue)
			}
			rapid.Check(t, func(rt *rapid.T) { property(rt, open) })
		})
	}
}

// Two copies of a library live through the same.
func TestNightsForgetWhatTheyWould(t *testing.T) {
	each(t, func(t *rapid.T, open func(*rapid.T) histories.Library) {
		histories.NightsForgetWhatTheyWould(t, open(t), open(t))
	})
}

func TestNothingDueSleeps(t *testing.T) {
	each(t, func(t *rapid.T, open func(*rapid.T) histories.Library) { histories.NothingDueSleeps(t, open(t)) })
}

func TestSavedTogetherOrOneByOne(t *testing.T) {
	each(t, func(t *rapid.T, open func(*rapid.T) histories.Library) { histories.OneSaveOrMany(t, open(t), open(t)) })
}
