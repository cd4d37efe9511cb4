package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/store/postgres"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestLog(t *testing.T) {
	storetest.TestLog(t, func(t *testing.T) audit.Store { db, _ := open(t); return postgres.NewLog(db) })
}

// logHandles spreads the calls over several handles on one database, as several processes have them.
type logHandles []*postgres.Log

func (h logHandles) any() *postgres.Log { return h[int(time.Now().UnixNano()/1000)%len(h)] }

func (h logHandles) Append(ctx context.Context, entries []audit.Entry) error {
	return h.any().Append(ctx, entries)
}
func (h logHandles) Entries(ctx context.Context, q audit.Query) (audit.Page, error) {
	return h.any().Entries(ctx, q)
}
func (h logHandles) Tree(ctx context.Context, tiles ...audit.TileID) (audit.Tree, error) {
	return h.any().Tree(ctx, tiles...)
}
func (h logHandles) Advance(ctx context.Context, a audit.Advance) error {
	return h.any().Advance(ctx, a)
}

func TestLogOnSeveralHandles(t *testing.T) {
	storetest.TestLog(t, func(t *testing.T) audit.Store { db, at := open(t); return logOnHandles(t, db, at, 3) })
}

func logOnHandles(t *testing.T, db *sql.DB, at string, n int) (h logHandles) {
	h = logHandles{postgres.NewLog(db)}
	for len(h) < n {
		other, err := sql.Open("pgx", at)
		require.NoError(t, err)
		other.SetMaxOpenConns(len(h))
		t.Cleanup(func() { other.Close() })
		h = append(h, postgres.NewLog(other))
	}
	return h
}

func logEntry(n int) audit.Entry {
	return audit.Entry{Action: audit.View, Time: time.Date(2026, 1, 1, 10, 0, n, 0, time.UTC), Tags: []audit.Tag{{byte(n >> 8), 1, byte(n)}}, Body: fmt.Appendf(nil, "canary %d", n)}
}

func logEntries(from, to int) (list []audit.Entry) {
	for n := from; n < to; n++ {
		list = append(list, logEntry(n))
	}
	return list
}

func logNext(t testing.TB, log audit.Store) int {
	t.Helper()
	tree, err := log.Tree(t.Context())
	require.NoError(t, err)
	return int(tree.Next)
}

// wholeLog returns the bodies of all entries, whose numbers have no gaps.
func wholeLog(t testing.TB, log audit.Store) (bodies []string) {
	t.Helper()
	for q := (audit.Query{Limit: 1000}); ; {
		page, err := log.Entries(t.Context(), q)
		require.NoError(t, err)
		for _, e := range page.Entries {
			require.Equal(t, uint64(len(bodies)), e.Number)
			bodies = append(bodies, string(e.Body))
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return bodies
		}
	}
}

// What is appended in the caller's transaction is there when that commits, or not at all and without a gap.
func TestLogJoinsTransaction(t *testing.T) {
	db, _ := open(t)
	log := postgres.NewLog(db)
	require.NoError(t, log.Append(t.Context(), logEntries(0, 250)))
	require.Equal(t, 250, logNext(t, log))
	for _, commit := range []bool{false, true} {
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		inside := postgres.NewLog(tx)
		require.NoError(t, inside.Append(t.Context(), logEntries(250, 251)))
		require.NoError(t, inside.Append(t.Context(), logEntries(251, 260)))
		require.Equal(t, 250, logNext(t, inside), "nothing has a number before it is committed")
		require.Len(t, wholeLog(t, inside), 250)
		require.Equal(t, 250, logNext(t, log), "nobody else sees it yet")
		if commit {
			require.NoError(t, tx.Commit())
		} else {
			require.NoError(t, tx.Rollback())
			require.Equal(t, 250, logNext(t, log))
		}
	}
	require.NoError(t, log.Append(t.Context(), logEntries(260, 261)))
	for n, body := range wholeLog(t, log) {
		require.Equal(t, string(logEntry(n).Body), body)
	}
	require.Equal(t, 261, logNext(t, log))
}

// An Append that fails in the caller's transaction takes back its own part only, and says nothing of the row. So does an Advance that comes too late.
func TestLogFailsInTransaction(t *testing.T) {
	db, _ := open(t)
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, postgres.NewLog(conn).Append(t.Context(), logEntries(0, 2)))
	require.Equal(t, 2, logNext(t, postgres.NewLog(conn)))
	_, err = conn.ExecContext(t.Context(), "ALTER TABLE trail_incoming ADD CHECK (body <> 'canary 6')")
	require.NoError(t, err)
	tx, err := conn.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	log := postgres.NewLog(tx)
	require.NoError(t, log.Append(t.Context(), logEntries(2, 4)))
	require.ErrorIs(t, log.Advance(t.Context(), audit.Advance{From: 1, Size: 4, Checkpoint: []byte("c")}), audit.ErrConflict)
	for _, list := range [][]audit.Entry{logEntries(4, 8), logEntries(6, 7)} {
		err = log.Append(t.Context(), list)
		var e *postgres.Error
		require.ErrorAs(t, err, &e)
		require.NotContains(t, err.Error(), "canary")
	}
	require.NoError(t, log.Append(t.Context(), logEntries(4, 5)))
	require.NoError(t, log.Advance(t.Context(), audit.Advance{Size: 2, Checkpoint: []byte("two"), Remove: []audit.Range{{From: 0, To: 1}}}))
	require.NoError(t, tx.Commit())
	require.Equal(t, 5, logNext(t, postgres.NewLog(conn)))
	page, err := postgres.NewLog(conn).Entries(t.Context(), audit.Query{Limit: 10})
	require.NoError(t, err)
	require.Len(t, page.Entries, 4)
}

// What was removed is in no table.
func TestRemovedEntriesLeaveNoRows(t *testing.T) {
	db, _ := open(t)
	log := postgres.NewLog(db)
	list := logEntries(0, 300)
	for i := range list {
		list[i].Key = [16]byte{1, byte(i), byte(i >> 8)}
		list[i].Tags = append(list[i].Tags, audit.Tag{9, byte(i)})
	}
	require.NoError(t, log.Append(t.Context(), list))
	require.NoError(t, log.Advance(t.Context(), audit.Advance{Size: 300, Checkpoint: []byte("c"), Remove: []audit.Range{{From: 0, To: 300}}}))
	for _, table := range []string{"trail_incoming", "trail_entries", "trail_tags", "trail_keys"} {
		var n int
		require.NoError(t, db.QueryRow("SELECT count(*) FROM "+table).Scan(&n))
		require.Zero(t, n, table)
	}
	require.Equal(t, 300, logNext(t, log))
}

// One Append of more than a statement takes, and more than gets its numbers at a time, stays together.
func TestLogTakesManyTogether(t *testing.T) {
	db, _ := open(t)
	log := postgres.NewLog(db)
	const n = 10_000
	require.NoError(t, log.Append(t.Context(), logEntries(0, n)))
	for i := range 6000 / 100 {
		require.NoError(t, log.Append(t.Context(), logEntries(n+100*i, n+100*i+100)))
	}
	for i, body := range wholeLog(t, log) {
		require.Equal(t, string(logEntry(i).Body), body)
	}
	require.Equal(t, n+6000, logNext(t, log))
}

// Who may only read reads what has a number.
func TestLogReadsWithoutNumbering(t *testing.T) {
	db, at := open(t)
	log := postgres.NewLog(db)
	require.NoError(t, log.Append(t.Context(), logEntries(0, 5)))
	require.Equal(t, 5, logNext(t, log))
	require.NoError(t, log.Append(t.Context(), logEntries(5, 9)))
	u, err := url.Parse(at)
	require.NoError(t, err)
	q := u.Query()
	q.Set("default_transaction_read_only", "on")
	u.RawQuery = q.Encode()
	reading, err := sql.Open("pgx", u.String())
	require.NoError(t, err)
	defer reading.Close()
	reader := postgres.NewLog(reading)
	require.Len(t, wholeLog(t, reader), 5)
	require.Equal(t, 5, logNext(t, reader))
	require.Error(t, reader.Append(t.Context(), logEntries(0, 1)))
	require.Len(t, wholeLog(t, log), 9)
	require.Len(t, wholeLog(t, reader), 9)
}

// Transactions that see one moment only, by the server's default, do no harm.
func TestLogAtHigherIsolation(t *testing.T) {
	for _, level := range []string{"repeatable read", "serializable"} {
		db, at := open(t)
		u, err := url.Parse(at)
		require.NoError(t, err)
		q := u.Query()
		q.Set("default_transaction_isolation", level)
		u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
		strict, err := sql.Open("pgx", u.String())
		require.NoError(t, err)
		defer strict.Close()
		logs := []audit.Store{postgres.NewLog(strict), postgres.NewLog(db)}
		appendAtOnce(t, logs, 4, 10)
	}
}

func TestLogWithoutSchema(t *testing.T) {
	db, _ := open(t)
	_, err := db.Exec("DROP TABLE trail_incoming, trail_tree")
	require.NoError(t, err)
	log := postgres.NewLog(db)
	_, treeErr := log.Tree(t.Context())
	_, entriesErr := log.Entries(t.Context(), audit.Query{Limit: 1})
	for _, err := range []error{log.Append(t.Context(), logEntries(0, 1)), log.Append(t.Context(), logEntries(0, 2)), log.Advance(t.Context(), audit.Advance{}), treeErr, entriesErr} {
		var e *postgres.Error
		require.ErrorAs(t, err, &e)
	}
}

// Somebody who owns the database keeps entries out of it, puts some in that no number comes after, or takes rows away that there must be.
func TestLogIsNotFooled(t *testing.T) {
	db, _ := open(t)
	log := postgres.NewLog(db)
	require.NoError(t, log.Append(t.Context(), logEntries(0, 3)))
	require.Equal(t, 3, logNext(t, log))
	_, err := db.Exec("INSERT INTO trail_entries (number, action, time, tags, body) VALUES (9223372036854775807, 'view', 1, '', 'x'); DELETE FROM trail_numbers; DELETE FROM trail_tree")
	require.NoError(t, err)
	require.NoError(t, log.Append(t.Context(), logEntries(3, 6)))
	require.Equal(t, 6, logNext(t, log))
	require.ErrorIs(t, log.Advance(t.Context(), audit.Advance{Size: 6, Checkpoint: []byte("c")}), audit.ErrConflict)
	_, err = db.Exec("CREATE RULE x AS ON INSERT TO trail_entries DO INSTEAD NOTHING; CREATE TABLE nothing (LIKE trail_incoming); DROP TABLE trail_incoming; " +
		"CREATE VIEW trail_incoming AS SELECT * FROM nothing WHERE false; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; " +
		"CREATE TRIGGER x INSTEAD OF INSERT ON trail_incoming FOR EACH ROW EXECUTE FUNCTION refuse()")
	require.NoError(t, err)
	require.Error(t, log.Append(t.Context(), logEntries(6, 7)))
	require.Error(t, log.Append(t.Context(), logEntries(6, 9)))
}

// A page reads no more of the tables than it needs, though they were never analyzed.
func TestLogPlans(t *testing.T) {
	db, _ := open(t)
	log := postgres.NewLog(db)
	const n = 40_000
	for at := 0; at < n; at += 4000 {
		require.NoError(t, log.Append(t.Context(), logEntries(at, at+4000)))
	}
	rare := logEntry(n)
	rare.Action = audit.Restore
	require.NoError(t, log.Append(t.Context(), []audit.Entry{rare}))
	require.Equal(t, n+1, logNext(t, log))
	var many []audit.Tag
	for i := range 300 {
		many = append(many, logEntry(3*i).Tags...)
	}
	for name, q := range map[string]audit.Query{
		"tag": {Tags: logEntry(3).Tags, Limit: 1}, "tags": {Tags: many, Limit: 100}, "numbers": {From: 30_000, To: 39_000, Limit: 100},
		"action": {Actions: []audit.Action{audit.View}, Since: rare.Time.Add(-time.Hour), Limit: 100}, "rare": {Actions: []audit.Action{audit.Restore}, Limit: 1},
	} {
		began := time.Now()
		const times = 20
		for range times {
			page, err := log.Entries(t.Context(), q)
			require.NoError(t, err)
			require.Len(t, page.Entries, q.Limit, name)
		}
		t.Logf("%s: %v a page", name, time.Since(began)/times)
		require.Less(t, time.Since(began)/times, 50*time.Millisecond, name)
	}
	began := time.Now()
	require.NoError(t, log.Advance(t.Context(), audit.Advance{Size: n, Checkpoint: []byte("c"), Remove: []audit.Range{{From: 10, To: 20}, {From: 100, To: 300}}}))
	t.Logf("210 removed in %v", time.Since(began))
	require.Less(t, time.Since(began), time.Second)
}

// The schema goes up and down.
func TestLogMigration(t *testing.T) {
	db, _ := open(t)
	text, err := fs.ReadFile(postgres.Migrations(), "00003_trail.sql")
	require.NoError(t, err)
	up, down, found := strings.Cut(string(text), "-- +goose Down")
	require.True(t, found)
	for range 2 {
		_, err = db.Exec(down)
		require.NoError(t, err)
		var version, left int
		require.NoError(t, db.QueryRow("SELECT version, (SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname LIKE 'trail%') FROM carrel_schema").Scan(&version, &left))
		require.Equal(t, []int{2, 0}, []int{version, left})
		_, err = db.Exec(up)
		require.NoError(t, err)
	}
	require.NoError(t, postgres.NewLog(db).Append(t.Context(), logEntries(0, 1)))
}
