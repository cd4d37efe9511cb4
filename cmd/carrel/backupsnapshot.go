package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"
)

// A snapshot is a moment of a SQLite database at which its file, without the write-ahead log, is all of it, and stays so for as long as the snapshot
// is held. Others go on reading, and writing into the log.
type snapshot struct {
	*sql.Conn          // in a read transaction as of that moment
	file      *os.File // to be closed after the database: see release
	size      int64
}

// still waits for such a moment.
//
// What is committed lies in the log until a checkpoint moves it into the file. A checkpoint that has moved all of it while nobody may write leaves a file that is
// the database. A read transaction that begins then sees exactly that file, and while it lasts no checkpoint writes to it: either SQLite has given it the lock of
// those who need no log, which keeps checkpoints out altogether, or a mark at the end of what was moved, beyond which none goes. Later commits stay in
// the log. So whoever writes waits only while the last pages are moved.
func (s *sqliteFile) still(ctx context.Context, patience time.Duration) (*snapshot, error) {
	var mode string
	if err := s.db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return nil, s.refused(ctx, err)
	} else if mode != "wal" {
		return nil, fmt.Errorf("%s: has no write-ahead log, as on some network file systems; a backup needs one", s.path)
	}
	writer, err := s.db.Conn(ctx)
	if err != nil {
		return nil, s.refused(ctx, err)
	}
	defer writer.Close()
	reader, err := s.db.Conn(ctx)
	if err != nil {
		return nil, s.refused(ctx, err)
	}
	is := false
	for end := time.Now().Add(patience); !is; {
		if is, err = hold(ctx, writer, reader); err == nil && !is && time.Now().After(end) {
			err = errBusy
		}
		if err == nil && !is {
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if err != nil {
			reader.Close()
			if errors.Is(err, errBusy) {
				return nil, fmt.Errorf("%s: is busy: for %v another program has been writing, or reading an older state of it; try again later", s.path, patience)
			}
			return nil, s.refused(ctx, err)
		}
	}
	snap := &snapshot{Conn: reader}
	if err := snap.open(ctx, s); err != nil {
		snap.end()
		return nil, err
	}
	return snap, nil
}

var errBusy = errors.New("busy")

// hold begins a read transaction of the file alone, unless somebody reads an older state and so keeps the log from being moved.
func hold(ctx context.Context, writer, reader *sql.Conn) (is bool, err error) {
	// Most of it is moved before anybody has to wait.
	if _, err := moved(ctx, reader); err != nil {
		return false, err
	}
	if _, err := writer.ExecContext(ctx, "BEGIN IMMEDIATE"); isBusy(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer writer.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	if all, err := moved(ctx, reader); err != nil || !all {
		return false, err
	}
	if _, err := reader.ExecContext(ctx, "BEGIN"); err != nil {
		return false, err
	}
	var tables int // what begins the transaction is that something is read
	if err := reader.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		reader.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		return false, err
	}
	return true, nil
}

func isBusy(err error) bool {
	var coded interface{ Code() int }
	return errors.As(err, &coded) && coded.Code()&0xff == 5 // SQLITE_BUSY
}

// moved moves what is in the log into the file, as far as nobody reads an older state, and reports whether that was all.
func moved(ctx context.Context, conn *sql.Conn) (all bool, err error) {
	var busy, pages, done int
	err = conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &pages, &done)
	return err == nil && busy == 0 && pages >= 0 && pages == done, err
}

// open opens the file, which must be as long as SQLite says that it is.
func (s *snapshot) open(ctx context.Context, of *sqliteFile) (err error) {
	if s.file, err = os.Open(of.path); err != nil {
		return fmt.Errorf("%s: the database cannot be opened: %w", of.path, reason(err))
	}
	info, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", of.path, reason(err))
	}
	if !os.SameFile(info, of.info) {
		return fmt.Errorf("%s: was replaced by another program meanwhile; run it again", of.path)
	}
	var pages, size int64
	if err := s.QueryRowContext(ctx, "SELECT page_count, page_size FROM pragma_page_count, pragma_page_size").Scan(&pages, &size); err != nil {
		return of.refused(ctx, err)
	}
	if s.size = info.Size(); s.size != pages*size {
		return fmt.Errorf("%s: is damaged: it has %d bytes and should have %d", of.path, s.size, pages*size)
	}
	return nil
}

// end ends the transaction. The file stays open.
func (s *snapshot) end() {
	s.ExecContext(context.Background(), "ROLLBACK")
	s.Conn.Close()
}

// release closes the file, after the database: closing any descriptor of a file gives up all locks that the process has on it (POSIX), SQLite's as well.
func (s *snapshot) release() {
	if s != nil && s.file != nil {
		s.file.Close()
	}
}

// rowCounts counts the rows of all tables.
func rowCounts(ctx context.Context, h handle) (map[string]int64, error) {
	rows, err := h.QueryContext(ctx, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	counts := map[string]int64{}
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	for _, name := range names {
		var n int64
		if err := h.QueryRowContext(ctx, `SELECT count(*) FROM "`+name+`"`).Scan(&n); err != nil {
			return nil, err
		}
		counts[name] = n
	}
	return counts, nil
}
