package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/store/sqlite"
)

// While others write and move the log into the file as hard as they can, every copy is the database of one moment; and what copies without holding
// that moment is found out, so that this test sees what it is there for.
func TestSnapshotsAreOfOneMoment(t *testing.T) {
	copies, least := 25, 3
	if os.Getenv("CARREL_TEST_LONG") != "" {
		copies, least = 1000, 30
	}
	path := filepath.Join(t.TempDir(), "busy.db")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	good := func(name string, held bool) error {
		s, close := openSnapshots(t, path)
		defer close()
		return s.copied(t.Context(), name, held)
	}
	s, closeFirst := openSnapshots(t, path)
	_, err = s.db.Exec(`CREATE TABLE pairs (k INTEGER PRIMARY KEY, a INTEGER NOT NULL, b INTEGER NOT NULL, filler BLOB NOT NULL);
		CREATE TABLE copies (k INTEGER PRIMARY KEY, a INTEGER NOT NULL);
		CREATE TABLE total (n INTEGER NOT NULL); INSERT INTO total VALUES (0);
		WITH RECURSIVE i (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM i WHERE k < 1000)
			INSERT INTO pairs SELECT k, 0, 0, zeroblob(1000) FROM i;
		INSERT INTO copies SELECT k, a FROM pairs`)
	require.NoError(t, err)
	closeFirst()

	writers := startBusyWriters(t, path)
	require.Eventually(t, func() bool { return total(path) > 100 }, time.Minute, 10*time.Millisecond)
	dir := t.TempDir()
	for i := range copies {
		name := filepath.Join(dir, fmt.Sprint(i))
		require.NoError(t, good(name, true))
		require.NoError(t, consistent(name), "copy %d", i)
		require.NoError(t, os.Remove(name))
	}
	bad, loose := 0, 0
	for ; loose < 40*copies && bad < least; loose++ {
		name := filepath.Join(dir, fmt.Sprint("loose", loose))
		require.NoError(t, good(name, false))
		if consistent(name) != nil {
			bad++
		}
		require.NoError(t, os.Remove(name))
	}
	written, moved := writers.stop(t)
	require.GreaterOrEqual(t, bad, least, "copies that were made without a read transaction and are not of one moment")
	t.Logf("%d copies beside %d transactions and %d checkpoints; of %d that were not held %d are not of one moment", copies, written, moved, loose, bad)
	require.Positive(t, moved)
}

// snapshots makes copies of a file in which there is nothing of carrel's.
type snapshots struct{ *sqliteFile }

func openSnapshots(t *testing.T, path string) (snapshots, func()) {
	s := &sqliteFile{path: path}
	var err error
	s.info, err = os.Stat(path)
	require.NoError(t, err)
	s.db, err = sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	return snapshots{s}, func() { require.NoError(t, s.db.Close()) }
}

// copied copies the file, slowly enough for others to do much meanwhile. When the moment is not held, it is the same without the transaction.
func (s snapshots) copied(ctx context.Context, to string, held bool) error {
	snap, err := s.still(ctx, time.Minute)
	if err != nil {
		return err
	}
	// As in the command: the file is closed after the database.
	defer func() { s.db.Close(); snap.release() }()
	if !held {
		snap.end()
	} else {
		defer snap.end()
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	for at := int64(0); at < snap.size; at += 64 << 10 {
		if _, err := io.Copy(out, io.NewSectionReader(snap.file, at, min(64<<10, snap.size-at))); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// consistent checks a copy: its pages belong together, and so do rows that one transaction wrote.
func consistent(path string) error {
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	if err != nil {
		return err
	}
	defer db.Close()
	var check string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&check); err != nil || check != "ok" {
		return fmt.Errorf("integrity: %.60s %v", check, err)
	}
	var rows, apart, sum, total int
	err = db.QueryRow(`SELECT count(*), count(CASE WHEN p.a <> p.b OR p.a <> c.a OR c.a IS NULL THEN 1 END), sum(p.a), (SELECT n FROM total)
		FROM pairs p LEFT JOIN copies c USING (k)`).Scan(&rows, &apart, &sum, &total)
	if err != nil || apart > 0 || sum != total || rows < 1000 {
		return fmt.Errorf("%d rows, %d not as one transaction wrote them, %d and %d in all: %v", rows, apart, sum, total, err)
	}
	return nil
}

// total returns how much was written.
func total(path string) (n int) {
	db, err := sql.Open("sqlite", sqlite.DSNReadOnly(path))
	if err == nil {
		defer db.Close()
		db.QueryRow("SELECT n FROM total").Scan(&n)
	}
	return n
}

// busyWriters is another process that writes and moves the log. What it has done it says at the end.
type busyWriters struct {
	*exec.Cmd
	in  io.Closer
	out bytes.Buffer
}

const busyVariable = "CARREL_TEST_BUSY" // names the file to that process

func startBusyWriters(t *testing.T, path string) *busyWriters {
	w := &busyWriters{Cmd: exec.Command(os.Args[0], "-test.run=^TestBusyWriters$", "-test.v")}
	w.Env = append(os.Environ(), busyVariable+"="+path)
	w.Stdout = &w.out
	in, err := w.StdinPipe()
	require.NoError(t, err)
	w.in = in
	require.NoError(t, w.Start())
	t.Cleanup(func() { w.Process.Kill() })
	return w
}

// stop ends them and returns how many transactions were written, and how often the log was moved.
func (w *busyWriters) stop(t *testing.T) (written, moved int) {
	w.in.Close()
	require.NoError(t, w.Wait(), w.out.String())
	m := regexp.MustCompile(`wrote (\d+), moved (\d+)`).FindStringSubmatch(w.out.String())
	require.NotNil(t, m, w.out.String())
	written, _ = strconv.Atoi(m[1])
	moved, _ = strconv.Atoi(m[2])
	return written, moved
}

// TestBusyWriters is that process: several write pairs, each in one transaction, and one moves the log into the file in all ways that there are, until the
// standard input ends.
func TestBusyWriters(t *testing.T) {
	path := os.Getenv(busyVariable)
	if path == "" {
		return // it is a part of TestSnapshotsAreOfOneMoment
	}
	var quit atomic.Bool
	go func() { io.Copy(io.Discard, os.Stdin); quit.Store(true) }()
	var written, moved atomic.Int64
	var all sync.WaitGroup
	begin := func(do func(db *sql.DB, i int)) {
		db, err := sql.Open("sqlite", strings.NewReplacer("FULL", "OFF", "4000", "100").Replace(sqlite.DSN(path)))
		require.NoError(t, err)
		all.Go(func() {
			defer db.Close()
			for i := 0; !quit.Load(); i++ {
				do(db, i)
			}
		})
	}
	for n := range 2 {
		begin(func(db *sql.DB, i int) {
			tx, err := db.Begin()
			if err != nil {
				return
			}
			defer tx.Rollback()
			// Far apart in the file, and now and then where it grows.
			for _, k := range []int{1 + (i*7+n)%300, 700 + (i*11+n)%300} {
				tx.Exec("UPDATE pairs SET a = a + 1, b = b + 1 WHERE k = ?", k)
				tx.Exec("UPDATE copies SET a = a + 1 WHERE k = ?", k)
			}
			tx.Exec("UPDATE total SET n = n + 2")
			switch i % 100 {
			case 98:
				tx.Exec("INSERT INTO pairs SELECT max(k) + 1, 0, 0, zeroblob(90000) FROM pairs")
				tx.Exec("INSERT INTO copies SELECT max(k), 0 FROM pairs")
			case 99:
				tx.Exec("DELETE FROM pairs WHERE k > 1000")
				tx.Exec("DELETE FROM copies WHERE k > 1000")
			}
			if tx.Commit() == nil {
				written.Add(1)
			}
			time.Sleep(100 * time.Microsecond)
		})
	}
	begin(func(db *sql.DB, i int) {
		var busy, pages, done int
		mode := []string{"PASSIVE", "FULL", "RESTART", "TRUNCATE"}[i%4]
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if err := db.QueryRowContext(ctx, "PRAGMA wal_checkpoint("+mode+")").Scan(&busy, &pages, &done); err == nil && busy == 0 && done > 0 {
			moved.Add(1)
		}
		time.Sleep(time.Millisecond)
	})
	all.Wait()
	fmt.Printf("wrote %d, moved %d\n", written.Load(), moved.Load())
}

// Who reads an older state for long is waited for, but not for ever; and writers do not wait for that.
func TestSnapshotWaitsForReaders(t *testing.T) {
	path := newFile(t)
	d, err := openDatabase(t.Context(), path, readWrite)
	require.NoError(t, err)
	defer d.close()
	reader, err := d.db.Conn(t.Context())
	require.NoError(t, err)
	defer reader.Close()
	old := func() {
		_, err = reader.ExecContext(t.Context(), "BEGIN")
		require.NoError(t, err)
		var n int
		require.NoError(t, reader.QueryRowContext(t.Context(), "SELECT count(*) FROM records").Scan(&n))
		execSQL(t, path, "UPDATE changes SET last = last + 1")
	}
	old()
	s := d.backend.(*sqliteFile)
	_, err = s.still(t.Context(), 150*time.Millisecond)
	require.ErrorContains(t, err, "is busy")
	time.AfterFunc(200*time.Millisecond, func() { reader.ExecContext(context.Background(), "ROLLBACK") })
	snap, err := s.still(t.Context(), time.Minute)
	require.NoError(t, err)
	execSQL(t, path, "UPDATE changes SET last = last + 1")
	snap.end()

	old()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = s.still(ctx, time.Minute)
	require.ErrorIs(t, err, context.Canceled)
	_, err = reader.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	require.NoError(t, d.close())
	snap.release()
}
