package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/postgres"
	"github.com/carrel-project/carrel/store/storetest"
)

// A pool is databases that are emptied and used again: to make one takes longer than most tests.
type pool struct {
	t    testing.TB // for as long as which they are there
	mu   sync.Mutex
	free []*sql.DB
}

// take returns an empty database, which goes back when t ends.
func (p *pool) take(t testing.TB) *sql.DB {
	db, clean := p.open(t)
	t.Cleanup(func() {
		clean()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.free = append(p.free, db)
	})
	return db
}

// open returns an empty database and what empties it again.
func (p *pool) open(t testing.TB) (db *sql.DB, clean func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		db, p.free = p.free[n-1], p.free[:n-1]
	} else {
		db, _ = open(p.t)
	}
	return db, func() {
		for _, table := range texts(t, db, "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename IN ("+circulationTables+")") {
			_, err := db.Exec("DELETE FROM " + table)
			require.NoError(t, err)
		}
		_, err := db.Exec("UPDATE token_epoch SET epoch = 1")
		require.NoError(t, err)
	}
}

const circulationTables = `'records', 'links', 'companions', 'personal', 'ties', 'fee_summaries', 'persons', 'holds', 'items', 'leavers', 'plans', 'receipts'`

// hands gives the suite the store and the hands it needs.
func hands(t testing.TB, p *pool) storetest.Circulation {
	db := p.take(t)
	s := postgres.New(db)
	return storetest.Circulation{
		Store: s,
		Save: func(ctx context.Context, entries ...circulation.Entry) error {
			_, err := s.Save(ctx, all(entries...))
			return err
		},
		SaveAccount: func(ctx context.Context, a circulation.Account) error {
			_, err := s.SaveAccounts(ctx, all(a))
			return err
		},
		AddHold:  s.AddHold,
		Receipts: s.Receipts,
		Dump: func(context.Context) (string, error) {
			return dump(t, db) + pointers(t, db), nil
		},
	}
}

func all[T any](list ...T) func(func(T, error) bool) {
	return func(yield func(T, error) bool) {
		for _, x := range list {
			if !yield(x, nil) {
				return
			}
		}
	}
}

// dump lists all rows of all tables as text.
func dump(t testing.TB, db *sql.DB) string {
	t.Helper()
	var b strings.Builder
	for _, table := range texts(t, db, "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1") {
		for _, row := range texts(t, db, "SELECT CAST(x AS text) FROM "+table+" x") {
			fmt.Fprintln(&b, table, row)
		}
	}
	return b.String()
}

// pointers shows ties by the IDs they join.
func pointers(t testing.TB, db *sql.DB) string {
	return strings.Join(texts(t, db, "SELECT 'tie ' || a.id || ' points at ' || b.id FROM ties t JOIN records a ON a.n = t.n JOIN records b ON b.n = t.target"), "\n")
}

func texts(t testing.TB, db *sql.DB, query string) (list []string) {
	t.Helper()
	rows, err := db.Query(query)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var s string
		require.NoError(t, rows.Scan(&s))
		list = append(list, s)
	}
	require.NoError(t, rows.Err())
	return list
}

func TestStore(t *testing.T) {
	p := &pool{t: t}
	storetest.TestCirculation(t, func(t *testing.T) storetest.Circulation { return hands(t, p) })
}

func BenchmarkStore(b *testing.B) {
	p := &pool{t: b}
	storetest.BenchmarkCirculation(b, func(b *testing.B) storetest.Circulation { return hands(b, p) })
}

// A loan is counted at its borrower and its item in one transaction. No number of that is left, after a sweep, by which they could be joined.
func TestNoChangeJoinsBorrowerAndItem(t *testing.T) {
	db, _ := open(t)
	s := postgres.New(db)
	for i := range 5 {
		l := circulation.Loan{ID: fmt.Sprint("l", i), Borrower: circulation.Borrower(fmt.Sprint("b", i)), Item: fmt.Sprint("i", i), Loaned: day0, Returned: day0}
		_, err := s.Save(t.Context(), all(circulation.Entry(l)))
		require.NoError(t, err)
	}
	// The numbers of transactions that a borrower's row bears, the server's own among them, and a loan's or an item's does, too.
	const joined = `SELECT CAST(count(*) AS text) FROM persons p JOIN (
		SELECT CAST(xmin AS text) AS x FROM records UNION SELECT CAST(xmin AS text) FROM items UNION SELECT CAST(counted AS text) FROM items WHERE counted <> '3') y
		ON x IN (CAST(p.xmin AS text), CAST(p.changed AS text), CAST(p.counted AS text))`
	require.Equal(t, []string{"5"}, texts(t, db, joined), "before that they can")
	require.NoError(t, s.Finish(t.Context()))
	require.Equal(t, []string{"0"}, texts(t, db, joined))
	for i := range 5 { // and the same for loans that are not their first
		_, err := s.Save(t.Context(), all(circulation.Entry(circulation.Loan{ID: fmt.Sprint("m", i), Borrower: circulation.Borrower(fmt.Sprint("b", i)), Item: fmt.Sprint("i", (i+1)%5), Loaned: day0, Returned: day0})))
		require.NoError(t, err)
	}
	require.NotEqual(t, []string{"0"}, texts(t, db, joined))
	require.NoError(t, s.Finish(t.Context()))
	require.Equal(t, []string{"0"}, texts(t, db, joined))
}

// Many new records are inserted without asking for each whether somebody else has just saved it. If somebody has, that one is brought up to date, and the others are there.
func TestManyMeetOneJustSaved(t *testing.T) {
	db, _ := open(t)
	loan := func(i int, item string) circulation.Loan {
		return circulation.Loan{ID: fmt.Sprint("l", i), Borrower: circulation.Borrower(fmt.Sprint("b", i%50)), Item: item, Loaned: day0}
	}
	var many []circulation.Entry
	for i := range 3000 {
		many = append(many, loan(i, "many"))
	}
	theirs, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer theirs.Rollback()
	_, err = postgres.New(theirs).Save(t.Context(), all[circulation.Entry](loan(1500, "theirs"), loan(9999, "theirs")))
	require.NoError(t, err)
	done := make(chan error, 1)
	var saved circulation.Saved
	go func() {
		var err error
		saved, err = postgres.New(db).Save(t.Context(), all(many...))
		done <- err
	}()
	require.Eventually(t, func() bool {
		var waiting bool
		err := db.QueryRow("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO %' AND datname = current_database())").Scan(&waiting)
		return err == nil && waiting
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, theirs.Commit())
	require.NoError(t, <-done)
	require.Equal(t, circulation.Saved{Added: 2999, Updated: 1}, saved)
	require.Equal(t, []string{"3001"}, texts(t, db, "SELECT CAST(count(*) AS text) FROM records r JOIN links l ON l.n = r.n"))
	require.Equal(t, []string{"many"}, texts(t, db, "SELECT item FROM records WHERE id = 'l1500'"))
	require.Equal(t, []string{"3001"}, texts(t, db, "SELECT CAST(sum(loans) AS text) FROM persons"))
}
