package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/carrel-project/carrel/audit"
)

const opAppend = "append to the trail"

// The first free number is given by the statement that takes it. So there are no gaps, and numbers follow the order of commits, for
// SQLite has one writer.
const appendEntry = `
	INSERT INTO trail_entries (number, action, time, tags, key, body)
	SELECT max(next, ` + afterLast + `), ?, ?, ?, ?, ? FROM (SELECT next FROM trail_tree LIMIT 1) WHERE true
	ON CONFLICT (key) WHERE key IS NOT NULL DO NOTHING`

// afterLast is the number after that of the last entry. Numbers from 2^48 on are none of ours: somebody put them there, and the next would be none that
// SQLite has.
const afterLast = "ifnull((SELECT max(number) + 1 FROM trail_entries WHERE number < 281474976710656), 0)"

// isThere asks whether an entry with a key is one that was appended before.
const isThere = "SELECT count(*) FROM trail_entries WHERE key = ?"

// manyEntries is how many entries without a key one statement appends.
const manyEntries = 16

var appendMany = "INSERT INTO trail_entries (number, action, time, tags, body) VALUES (?, ?, ?, ?, ?)" + strings.Repeat(", (?, ?, ?, ?, ?)", manyEntries-1)

// Append implements audit.Store. One entry is one statement that writes one row, which costs little more than the commit.
func (l *Log) Append(ctx context.Context, entries []audit.Entry) error {
	switch len(entries) {
	case 0:
		return failed(opAppend, ctx.Err())
	case 1:
		number, added, err := inserted(l.exec(ctx, opAppend, appendEntry, entryArgs(&entries[0])...))
		if err != nil {
			return err
		}
		if !added {
			return l.repeated(ctx, &entries[0])
		}
		if fills(number, number+1) {
			// The entry is there, whatever becomes of the index: if it is not brought up to date now, it is the next time.
			_ = l.write(ctx, opAppend, indexing, (*tx).indexTrail)
		}
		return nil
	}
	err := l.write(ctx, opAppend, append([]string{appendEntry, appendMany}, indexing...), func(t *tx) error { return t.appendEntries(entries) })
	if err == nil {
		l.checkpoint(len(entries))
	}
	return err
}

// checkpointEvery is how many entries are appended together before what is in the write-ahead log is brought into the database beside them. Left to itself, SQLite does so
// in the commit that makes the log too long, and everybody waits for ten milliseconds and more.
const checkpointEvery = 2048

func (l *Log) checkpoint(n int) {
	db, ok := l.db.(*sql.DB)
	if !ok || l.appended.Add(int64(n)) < checkpointEvery || !l.checkpointing.CompareAndSwap(false, true) {
		return
	}
	l.appended.Store(0)
	go func() {
		defer l.checkpointing.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var busy, frames, done int
		_ = db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &frames, &done) // if not, the next one does
	}()
}

// repeated returns nil for an entry that was not inserted because it is there already. Otherwise the table of the tree is damaged, or a trigger keeps entries
// out, and nothing was appended.
func (l *Log) repeated(ctx context.Context, e *audit.Entry) error {
	if e.Key == [16]byte{} {
		return errTrailTree
	}
	var n int
	if err := l.db.QueryRowContext(ctx, isThere, e.Key[:]).Scan(&n); err != nil {
		return failed(opAppend, err)
	}
	if n == 0 {
		return errTrailTree
	}
	return nil
}

func entryArgs(e *audit.Entry) []any {
	var key []byte
	if e.Key != ([16]byte{}) {
		key = e.Key[:]
	}
	return []any{string(e.Action), e.Time.UnixMicro(), packTags(e.Tags), key, solid(e.Body)}
}

// packTags never returns nil, which would be NULL. Nor does solid.
func packTags(tags []audit.Tag) []byte {
	b := make([]byte, 0, len(tags)*tagSize)
	for i := range tags {
		b = append(b, tags[i][:]...)
	}
	return b
}

func solid(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

const tagSize = len(audit.Tag{})

// inserted returns the number of the row that a statement inserted, if it did.
func inserted(r sql.Result, err error) (number int64, ok bool, _ error) {
	if err != nil {
		return 0, false, err
	}
	n, err := r.RowsAffected()
	if err != nil || n == 0 {
		return 0, false, failed(opAppend, err)
	}
	number, err = r.LastInsertId()
	return number, true, failed(opAppend, err)
}

var errTrailTree = errors.New("sqlite: the tables of the trail are damaged, or a trigger keeps entries out")

func (t *tx) appendEntries(entries []audit.Entry) error {
	begin, end := int64(0), int64(-1) // of the numbers that were given
	for len(entries) > 0 {
		if end >= 0 && withoutKey(entries) {
			args := make([]any, 0, 5*manyEntries)
			for i := range entries[:manyEntries] {
				e := &entries[i]
				args = append(args, end+int64(i), string(e.Action), e.Time.UnixMicro(), packTags(e.Tags), solid(e.Body))
			}
			if n, err := t.exec(appendMany, args...); err != nil {
				return err
			} else if n != manyEntries {
				return errTrailTree
			}
			end += manyEntries
			entries = entries[manyEntries:]
			continue
		}
		number, added, err := inserted(t.result(appendEntry, entryArgs(&entries[0])...))
		switch {
		case err != nil:
			return err
		case !added:
			if entries[0].Key == [16]byte{} {
				return errTrailTree
			}
			var n int
			if err := t.get(isThere, []any{entries[0].Key[:]}, &n); err != nil || n == 0 {
				return cmp.Or(err, errTrailTree)
			}
		case added:
			if end < 0 {
				begin = number
			}
			end = number + 1
		}
		entries = entries[1:]
	}
	if end < 0 {
		var size int64
		if err := t.get("SELECT size FROM trail_tree", nil, &size); errors.Is(err, errNone) {
			return errTrailTree
		} else if err != nil {
			return err
		}
	}
	if end >= 0 && fills(begin, end) {
		return t.indexTrail()
	}
	return nil
}

// withoutKey reports whether the next entries are enough for one statement.
func withoutKey(entries []audit.Entry) bool {
	if len(entries) < manyEntries {
		return false
	}
	for i := range entries[:manyEntries] {
		if entries[i].Key != ([16]byte{}) {
			return false
		}
	}
	return true
}

// result is exec for who needs more than the number of rows.
func (t *tx) result(query string, args ...any) (sql.Result, error) {
	s, err := t.prepare(query)
	if err != nil {
		return nil, err
	}
	var r sql.Result
	if s != nil {
		r, err = s.ExecContext(t.ctx, args...)
	} else {
		r, err = t.db.ExecContext(t.ctx, query, args...)
	}
	return r, failed(t.op, err)
}
