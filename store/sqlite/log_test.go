package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/sqlite"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestLog(t *testing.T) {
	storetest.TestLog(t, func(t *testing.T) audit.Store { db, _, _ := open(t); return sqlite.NewLog(db) })
}

// handles spreads the calls over several handles on one file, as several processes have them.
type handles []*sqlite.Log

func (h handles) any() *sqlite.Log { return h[int(time.Now().UnixNano()/1000)%len(h)] }

func (h handles) Append(ctx context.Context, entries []audit.Entry) error {
	return h.any().Append(ctx, entries)
}
func (h handles) Entries(ctx context.Context, q audit.Query) (audit.Page, error) {
	return h.any().Entries(ctx, q)
}
func (h handles) Tree(ctx context.Context, tiles ...audit.TileID) (audit.Tree, error) {
	return h.any().Tree(ctx, tiles...)
}
func (h handles) Advance(ctx context.Context, a audit.Advance) error { return h.any().Advance(ctx, a) }

func TestLogOnSeveralHandles(t *testing.T) {
	if os.Getenv("CARREL_TEST_LONG") == "" {
		t.Skip("what TestLog checks, once more, but slower: handles wait for each other by sleeping")
	}
	storetest.TestLog(t, func(t *testing.T) audit.Store {
		db, _, path := open(t)
		h := handles{sqlite.NewLog(db), sqlite.NewLog(db)}
		other, err := sql.Open("sqlite", sqlite.DSN(path))
		require.NoError(t, err)
		t.Cleanup(func() { other.Close() })
		return append(h, sqlite.NewLog(other))
	})
}

func logEntry(n int) audit.Entry {
	return audit.Entry{Action: audit.View, Time: day(n % 300), Tags: []audit.Tag{{byte(n % 300 / 28), 1, byte(n)}}, Body: fmt.Appendf(nil, "canary %d", n)}
}

func logEntries(from, to int) (list []audit.Entry) {
	for n := from; n < to; n++ {
		list = append(list, logEntry(n))
	}
	return list
}

func nextNumber(t testing.TB, log *sqlite.Log) int {
	tree, err := log.Tree(t.Context())
	require.NoError(t, err)
	return int(tree.Next)
}

// What is appended in the caller's transaction is there with it, or not at all and without a gap.
func TestLogJoinsTransaction(t *testing.T) {
	db, _, _ := open(t)
	log := sqlite.NewLog(db)
	require.NoError(t, log.Append(t.Context(), logEntries(0, 250)))
	for _, commit := range []bool{false, true} {
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		inside := sqlite.NewLog(tx)
		require.NoError(t, inside.Append(t.Context(), logEntries(250, 251)))
		require.NoError(t, inside.Append(t.Context(), logEntries(251, 254)))
		for n := 254; n < 260; n++ { // past what is indexed at a time
			require.NoError(t, inside.Append(t.Context(), logEntries(n, n+1)))
		}
		require.Equal(t, 260, nextNumber(t, inside))
		require.Equal(t, 250, nextNumber(t, log), "nobody else sees it yet")
		page, err := inside.Entries(t.Context(), audit.Query{Tags: logEntry(259).Tags, Limit: 10})
		require.NoError(t, err)
		require.Len(t, page.Entries, 1)
		if commit {
			require.NoError(t, tx.Commit())
		} else {
			require.NoError(t, tx.Rollback())
			require.Equal(t, 250, nextNumber(t, log))
		}
	}
	require.NoError(t, log.Append(t.Context(), logEntries(260, 261)))
	page, err := log.Entries(t.Context(), audit.Query{Limit: 1000})
	require.NoError(t, err)
	require.Len(t, page.Entries, 261)
	for i, e := range page.Entries {
		require.Equal(t, uint64(i), e.Number)
		require.Equal(t, logEntry(i).Body, e.Body)
	}
	for _, n := range []int{3, 252, 258, 260} {
		page, err := log.Entries(t.Context(), audit.Query{Tags: logEntry(n).Tags, Limit: 10})
		require.NoError(t, err)
		require.Len(t, page.Entries, 1, n)
	}
}

// An Append that fails in the caller's transaction takes back its own part only. So does an Advance that comes too late.
func TestLogFailsInTransaction(t *testing.T) {
	db, _, _ := open(t)
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, sqlite.NewLog(conn).Append(t.Context(), logEntries(0, 2)))
	tx, err := conn.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	log := sqlite.NewLog(tx)
	require.NoError(t, log.Append(t.Context(), logEntries(2, 4)))
	require.ErrorIs(t, log.Advance(t.Context(), audit.Advance{From: 1, Size: 4, Checkpoint: []byte("c")}), audit.ErrConflict)
	_, err = tx.Exec("CREATE TEMP TRIGGER refuse BEFORE INSERT ON trail_entries WHEN NEW.body = x'63616e6172792036' BEGIN SELECT raise(ABORT, 'canary'); END")
	require.NoError(t, err)
	err = log.Append(t.Context(), logEntries(4, 8)) // number 6 is refused
	var e *sqlite.Error
	require.ErrorAs(t, err, &e)
	require.NotContains(t, err.Error(), "canary")
	_, err = tx.Exec("DROP TRIGGER refuse")
	require.NoError(t, err)
	require.Equal(t, 4, nextNumber(t, log))
	require.NoError(t, log.Append(t.Context(), logEntries(4, 5)))
	require.NoError(t, tx.Commit())
	require.Equal(t, 5, nextNumber(t, sqlite.NewLog(conn)))
}

// What was removed is in no table and not in the file.
func TestRemovedEntriesLeaveNoBytes(t *testing.T) {
	db, s, path := open(t)
	log := sqlite.NewLog(db)
	var several audit.Entry = logEntry(7)
	several.Body, several.Key = []byte("canary several"), [16]byte{'k', 'e', 'y', 'c', 'a', 'n', 'a', 'r', 'y'}
	several.Tags = []audit.Tag{{0, 1, 'c', 'a', 'n', 'a', 'r', 'y', 1}, {0, 1, 'c', 'a', 'n', 'a', 'r', 'y', 2}, {9, 1, 'c', 'a', 'n', 'a', 'r', 'y', 3}}
	require.NoError(t, log.Append(t.Context(), append(logEntries(0, 300), several)))
	for n := range 300 {
		require.NoError(t, log.Append(t.Context(), logEntries(n, n+1)))
	}
	require.Greater(t, strings.Count(dump(t, db), "trail_tags"), 300, "something is indexed")
	const n = 601
	require.Equal(t, n, nextNumber(t, log))
	require.NoError(t, log.Advance(t.Context(), audit.Advance{Size: n, Checkpoint: []byte("c"), Remove: []audit.Range{{From: 0, To: n}}}))
	for _, line := range strings.Split(dump(t, db), "\n") {
		require.False(t, strings.HasPrefix(line, "trail_") && !strings.HasPrefix(line, "trail_tree"), line)
	}
	require.NoError(t, s.Finish(t.Context()))
	require.NoError(t, db.Close())
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + suffix)
		if err == nil {
			require.NotContains(t, string(data), "canary", suffix)
		}
	}
}

func TestLogWithoutSchema(t *testing.T) {
	db, err := sql.Open("sqlite", sqlite.DSN(filepath.Join(t.TempDir(), "empty.db")))
	require.NoError(t, err)
	defer db.Close()
	log := sqlite.NewLog(db)
	for _, err := range []error{
		log.Append(t.Context(), logEntries(0, 1)),
		log.Append(t.Context(), logEntries(0, 2)),
		log.Advance(t.Context(), audit.Advance{}),
		second(log.Tree(t.Context())),
		second(log.Entries(t.Context(), audit.Query{Limit: 1})),
	} {
		var e *sqlite.Error
		require.ErrorAs(t, err, &e)
	}
	migrate(t, db) // from then on it works
	require.NoError(t, log.Append(t.Context(), logEntries(0, 1)))
}

func second[T any](_ T, err error) error { return err }

// Without the one row of the tree nothing is appended, and nobody is told that it was.
func TestLogWithoutTree(t *testing.T) {
	db, _, _ := open(t)
	log := sqlite.NewLog(db)
	_, err := db.Exec("DELETE FROM trail_tree")
	require.NoError(t, err)
	keyed := logEntry(1)
	keyed.Key[0] = 1
	require.Error(t, log.Append(t.Context(), logEntries(0, 1)))
	require.Error(t, log.Append(t.Context(), logEntries(0, 40)))
	require.Error(t, log.Append(t.Context(), []audit.Entry{keyed}))
	require.Error(t, log.Append(t.Context(), []audit.Entry{keyed, keyed}))
	tree, err := log.Tree(t.Context())
	require.NoError(t, err, "it is what the loss of the whole log looks like")
	require.Zero(t, tree.Size+tree.Next)
	require.Error(t, second(log.Entries(t.Context(), audit.Query{Limit: 1, Tags: keyed.Tags})))
}

func TestForeignCursor(t *testing.T) {
	db, _, _ := open(t)
	log := sqlite.NewLog(db)
	require.NoError(t, log.Append(t.Context(), logEntries(0, 3)))
	for _, cursor := range []string{"x", "n", "5", "t.0.0.9.0.0", "t.1.1.-1.0.0", "a.0.0.0.0.0", "n.0.0.0.0.0 ", "n.0.0.0.0.0.0", "z.0.0.0.0.0", "n.0.0.0.0.99999999999999999999"} {
		_, err := log.Entries(t.Context(), audit.Query{Limit: 1, Cursor: cursor})
		require.Error(t, err, cursor)
	}
}

func TestMigrationFromVersion2(t *testing.T) {
	db, s, path := open(t)
	save(t, s, loan("a", "p1", 0, 1))
	ups := migrateDown(t, db, 2)
	require.NotContains(t, dump(t, db), "trail_")
	require.ErrorIs(t, s.CheckSchema(t.Context()), sqlite.ErrOlderSchema)
	before := dump(t, db)
	for _, up := range ups {
		_, err := db.Exec(up)
		require.NoError(t, err)
	}
	require.NoError(t, s.CheckSchema(t.Context()))
	migrateDown(t, db, 4) // which adds columns to what was there; see TestDeferralMigrates
	require.Equal(t, before, strings.NewReplacer("trail_tree [0 0 0 <nil>]\n", "", "lockout_clock [0 0]\n", "").Replace(dump(t, db)))
	_, err := db.Exec(ups[len(ups)-1])
	require.NoError(t, err)
	again, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	defer again.Close()
	require.NoError(t, sqlite.NewLog(again).Append(t.Context(), logEntries(0, 1)))
}

// A page reads no more of the index than it needs: no statement sorts or reads a whole table.
func TestLogPlans(t *testing.T) {
	db, _, _ := open(t)
	log := sqlite.NewLog(db)
	if raceEnabled {
		t.Skip("the race detector makes SQLite fifty times slower; the run without it checks this")
	}
	for n := 0; n < 40_000; n += 1000 {
		require.NoError(t, log.Append(t.Context(), logEntries(n, n+1000)))
	}
	for name, q := range map[string]audit.Query{
		"tag": {Tags: logEntry(3).Tags, Limit: 10}, "action": {Actions: []audit.Action{audit.View}, Since: day(200), Until: day(201), Limit: 10},
		"numbers": {From: 30_000, To: 39_000, Limit: 10},
	} {
		began := time.Now()
		const times = 50
		for range times {
			page, err := log.Entries(t.Context(), q)
			require.NoError(t, err)
			require.Len(t, page.Entries, 10, name)
		}
		t.Logf("%s: %v a page", name, time.Since(began)/times)
		require.Less(t, time.Since(began)/times, 10*time.Millisecond, name)
	}
}

func createRing(t testing.TB, dir string) {
	require.NoError(t, crypto.CreateKEK(filepath.Join(dir, "kek")))
	kek, err := crypto.OpenKEK(filepath.Join(dir, "kek"))
	require.NoError(t, err)
	require.NoError(t, crypto.CreateKeyring(filepath.Join(dir, "keys"), kek))
}

func ringIn(t testing.TB, dir string) *crypto.Keyring {
	kek, err := crypto.OpenKEK(filepath.Join(dir, "kek"))
	require.NoError(t, err)
	keys, err := crypto.OpenKeyring(t.Context(), crypto.Config{Path: filepath.Join(dir, "keys"), KEK: kek, Store: memory.NewKeys()})
	require.NoError(t, err)
	return keys
}

// trailIn returns a trail on the database in a directory, with the keyring and anchor beside it.
func trailIn(t testing.TB, dir string) (*audit.Trail, *audit.FileAnchor, *sql.DB) {
	db, err := sql.Open("sqlite", sqlite.DSN(filepath.Join(dir, "trail.db")))
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	anchor := audit.NewFileAnchor(filepath.Join(dir, "anchor"))
	trail, err := audit.New(t.Context(), audit.Config{Store: sqlite.NewLog(db), Keys: ringIn(t, dir), Anchors: []audit.Anchor{anchor}, Interval: 5 * time.Millisecond})
	require.NoError(t, err)
	return trail, anchor, db
}

func runLogChild(self, dir string, events int) (failure string) {
	cmd := exec.Command(self, "-test.run=^TestLogChild$")
	cmd.Env = append(os.Environ(), logChildEnv+"="+dir, fmt.Sprint("CARREL_TRAIL_EVENTS=", events))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Sprint(err, string(out))
	}
	return ""
}

const logChildEnv = "CARREL_LOG_CHILD"

// TestLogChild is no test: it is one of the processes that TestTwoProcessesKeepOneTree starts.
func TestLogChild(t *testing.T) {
	dir := os.Getenv(logChildEnv)
	if dir == "" {
		t.Skip("only as a child process of TestTwoProcessesKeepOneTree")
	}
	trail, _, db := trailIn(t, dir)
	defer db.Close()
	for i := range number("CARREL_TRAIL_EVENTS", 100) {
		require.NoError(t, trail.Record(t.Context(), audit.Event{Time: day(i), Action: audit.LogIn, Outcome: audit.Done, Actor: strconv.Itoa(os.Getpid()), Channel: audit.UI}))
		if i%40 == 0 {
			_, err := trail.Sequence(t.Context())
			require.NoError(t, err)
		}
	}
	require.NoError(t, trail.Close(t.Context()))
}

// Two processes append and sequence at once: one tree without gaps, and every checkpoint that either signed is of it.
func TestTwoProcessesKeepOneTree(t *testing.T) {
	each := 300
	if raceEnabled {
		each = 60
	}
	if os.Getenv("CARREL_TEST_LONG") != "" {
		each = 20_000
	}
	dir := t.TempDir()
	createRing(t, dir)
	trail, anchor, db := trailIn(t, dir)
	migrate(t, db)
	self, err := os.Executable()
	require.NoError(t, err)
	outputs := make(chan string, 2)
	for range 2 {
		go func() { outputs <- runLogChild(self, dir, each) }()
	}
	for range 2 {
		require.Empty(t, <-outputs)
	}
	_, err = trail.Sequence(t.Context())
	require.NoError(t, err)
	log := sqlite.NewLog(db)
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (list []tlog.Hash, err error) {
		for _, i := range indexes {
			list = append(list, hashes[i])
		}
		return list, nil
	})
	total := int64(0)
	for q := (audit.Query{Limit: 100}); ; {
		page, err := log.Entries(t.Context(), q)
		require.NoError(t, err)
		for _, e := range page.Entries {
			require.Equal(t, uint64(total), e.Number)
			more, err := tlog.StoredHashes(total, e.Body, reader) // nobody is in it, so that the leaf is the body
			require.NoError(t, err)
			hashes = append(hashes, more...)
			total++
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			break
		}
	}
	require.Equal(t, int64(2*each), total)
	key, err := audit.VerifierKey(t.Context(), ringIn(t, dir))
	require.NoError(t, err)
	verifier, err := note.NewVerifier(key)
	require.NoError(t, err)
	checkpoints, err := anchor.Checkpoints()
	require.NoError(t, err)
	require.Greater(t, len(checkpoints), 3)
	for _, c := range checkpoints {
		tree, err := audit.OpenCheckpoint(c, verifier)
		require.NoError(t, err)
		root, err := tlog.TreeHash(tree.N, reader)
		require.NoError(t, err)
		require.Equal(t, root, tree.Hash, "of %d entries", tree.N)
	}
}

// Somebody who owns the database keeps entries out of it, or puts some in that no number comes after.
func TestLogIsNotFooled(t *testing.T) {
	db, _, _ := open(t)
	log := sqlite.NewLog(db)
	require.NoError(t, log.Append(t.Context(), logEntries(0, 3)))
	_, err := db.Exec("INSERT INTO trail_entries (number, action, time, tags, body) VALUES (9223372036854775807, 'view', 1, x'', x'00')")
	require.NoError(t, err)
	_, err = db.Exec("INSERT INTO trail_tree SELECT * FROM trail_tree")
	require.NoError(t, err)
	require.NoError(t, log.Append(t.Context(), logEntries(3, 5)))
	require.NoError(t, log.Append(t.Context(), logEntries(5, 6)))
	tree, err := log.Tree(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(6), tree.Next)

	_, err = db.Exec("CREATE TRIGGER x BEFORE INSERT ON trail_entries BEGIN SELECT RAISE(IGNORE); END")
	require.NoError(t, err)
	keyed := logEntry(7)
	keyed.Key[0] = 1
	require.Error(t, log.Append(t.Context(), logEntries(6, 7)))
	require.Error(t, log.Append(t.Context(), logEntries(6, 47)))
	require.Error(t, log.Append(t.Context(), []audit.Entry{keyed}))
	require.Error(t, log.Append(t.Context(), []audit.Entry{keyed, keyed}))
	require.ErrorIs(t, sqlite.New(db).CheckSchema(t.Context()), sqlite.ErrTrailTriggers)
}
