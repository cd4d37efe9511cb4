package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/sqlite"
)

var day0 = time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)

func day(n int) time.Time { return day0.AddDate(0, 0, n) }

// open returns a database with the schema, in a file of its own.
func open(t testing.TB) (*sql.DB, *sqlite.Circulation, string) {
	path := filepath.Join(t.TempDir(), "a path #1 with 100% odd?characters.db")
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	migrate(t, db)
	return db, sqlite.New(db), path
}

func migrate(t testing.TB, db *sql.DB) {
	t.Helper()
	names, err := fs.Glob(sqlite.Migrations(), "*.sql") // in order
	require.NoError(t, err)
	for _, name := range names {
		text, err := fs.ReadFile(sqlite.Migrations(), name)
		require.NoError(t, err)
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		_, err = db.Exec(up)
		require.NoError(t, err)
	}
}

// migrateDown takes the schema back to what it was at a version, and returns what brings it up again.
func migrateDown(t testing.TB, db *sql.DB, version int) (ups []string) {
	t.Helper()
	names, err := fs.Glob(sqlite.Migrations(), "*.sql")
	require.NoError(t, err)
	for _, name := range slices.Backward(names[version:]) {
		text, err := fs.ReadFile(sqlite.Migrations(), name)
		require.NoError(t, err)
		up, down, found := strings.Cut(string(text), "-- +goose Down")
		require.True(t, found)
		_, err = db.Exec(down)
		require.NoError(t, err)
		ups = append(ups, up)
	}
	slices.Reverse(ups)
	return ups
}

func all[T any](list ...T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, x := range list {
			if !yield(x, nil) {
				return
			}
		}
	}
}

func save(t testing.TB, s *sqlite.Circulation, entries ...circulation.Entry) circulation.Saved {
	t.Helper()
	saved, err := s.Save(t.Context(), all(entries...))
	require.NoError(t, err)
	return saved
}

func loan(id, borrower string, from, to int) circulation.Loan {
	l := circulation.Loan{ID: id, Borrower: circulation.Borrower(borrower), Item: "i-" + id, Group: "students", Library: "main"}
	if from >= 0 {
		l.Loaned = day(from)
	}
	if to >= 0 {
		l.Returned = day(to)
	}
	return l
}

func linked(t testing.TB, s anonymize.Store, kind circulation.Kind) map[string]circulation.Record {
	t.Helper()
	got := map[string]circulation.Record{}
	q := anonymize.Query{Kind: kind, Limit: 1000, At: day(40_000), Needs: anonymize.NeedEverything}
	for {
		p, err := s.Linked(context.Background(), q)
		require.NoError(t, err)
		for _, r := range p.Records {
			_, twice := got[r.ID]
			require.False(t, twice, r.ID)
			got[r.ID] = r
		}
		if q.Cursor = p.Cursor; q.Cursor == "" {
			return got
		}
	}
}

func unlink(t testing.TB, s anonymize.Store, records ...circulation.Record) []string {
	t.Helper()
	b := batch(records...)
	conflicts, err := s.Unlink(t.Context(), b)
	require.NoError(t, err)
	return conflicts
}

func batch(records ...circulation.Record) anonymize.Batch {
	b := anonymize.Batch{Kind: records[0].Kind, At: day(40_000), Policy: anonymize.PolicyRef{ID: "p", Revision: 1}}
	for _, r := range records {
		b.Targets = append(b.Targets, anonymize.Target{ID: r.ID, Version: r.Version, Rule: "all"})
	}
	return b
}

// dump lists all rows of all tables as text.
func dump(t testing.TB, db sqlite.DB) string {
	t.Helper()
	var tables []string
	rows, err := db.QueryContext(context.Background(), "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
	require.NoError(t, err)
	for rows.Next() {
		var name string
		require.NoError(t, rows.Scan(&name))
		tables = append(tables, name)
	}
	require.NoError(t, rows.Close())
	var b strings.Builder
	for _, table := range tables {
		rows, err := db.QueryContext(context.Background(), "SELECT * FROM "+table)
		require.NoError(t, err)
		columns, err := rows.Columns()
		require.NoError(t, err)
		values := make([]any, len(columns))
		dest := make([]any, len(columns))
		for i := range values {
			dest[i] = &values[i]
		}
		for rows.Next() {
			require.NoError(t, rows.Scan(dest...))
			fmt.Fprintln(&b, table, values)
		}
		require.NoError(t, rows.Close())
	}
	return b.String()
}
