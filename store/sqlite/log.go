package sqlite

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"

	"github.com/carrel-project/carrel/audit"
)

// Log keeps an audit trail. It is safe for concurrent use if its DB is. Keep one for as long as the database is open: on a *sql.DB it prepares its
// statements once.
type Log struct {
	db DB

	// Who writes waits here for the others of this process. SQLite would let it sleep for milliseconds at a time.
	turn chan struct{}

	appended      atomic.Int64 // since the last checkpoint of the write-ahead log
	checkpointing atomic.Bool

	mu    sync.Mutex
	stmts map[string]*sql.Stmt // on a *sql.DB
}

var _ audit.Store = (*Log)(nil)

// NewLog returns the trail in db. It neither creates nor migrates tables. What [New] says of transactions holds here, too.
func NewLog(db DB) *Log {
	return &Log{db: db, turn: make(chan struct{}, 1), stmts: map[string]*sql.Stmt{}}
}

// wait waits for the turn to write. After it without an error, call done.
func (l *Log) wait(ctx context.Context, op string) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return failed(op, ctx.Err())
	}
}

func (l *Log) done() { <-l.turn }

// statement returns a statement that is prepared for good; nil when the DB is not one that outlives its transactions.
func (l *Log) statement(ctx context.Context, op, query string) (*sql.Stmt, error) {
	db, ok := l.db.(*sql.DB)
	if !ok {
		return nil, nil
	}
	l.mu.Lock()
	s := l.stmts[query]
	l.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := db.PrepareContext(ctx, query)
	if err != nil {
		return nil, failed(op, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if first := l.stmts[query]; first != nil {
		s.Close()
		return first, nil
	}
	l.stmts[query] = s
	return s, nil
}

// exec executes a statement that is a transaction by itself, or a part of the caller's.
func (l *Log) exec(ctx context.Context, op, query string, args ...any) (sql.Result, error) {
	s, err := l.statement(ctx, op, query)
	if err != nil {
		return nil, err
	}
	if err := l.wait(ctx, op); err != nil {
		return nil, err
	}
	defer l.done()
	var r sql.Result
	if s != nil {
		r, err = s.ExecContext(ctx, args...)
	} else {
		r, err = l.db.ExecContext(ctx, query, args...)
	}
	return r, failed(op, err)
}

func (l *Log) query(ctx context.Context, op, query string, args ...any) (*sql.Rows, error) {
	s, err := l.statement(ctx, op, query)
	if err != nil {
		return nil, err
	}
	var rows *sql.Rows
	if s != nil {
		rows, err = s.QueryContext(ctx, args...)
	} else {
		rows, err = l.db.QueryContext(ctx, query, args...)
	}
	return rows, failed(op, err)
}

// write runs f in a transaction that uses the prepared statements. They are prepared before it begins, for it holds the write lock.
func (l *Log) write(ctx context.Context, op string, queries []string, f func(*tx) error) error {
	prepared := make([]*sql.Stmt, len(queries))
	for i, query := range queries {
		var err error
		if prepared[i], err = l.statement(ctx, op, query); err != nil {
			return err
		}
	}
	if err := l.wait(ctx, op); err != nil {
		return err
	}
	defer l.done()
	return transact(ctx, l.db, op, func(t *tx) error {
		if own, ok := t.db.(*sql.Tx); ok {
			for i, query := range queries {
				if prepared[i] != nil {
					t.stmts[query] = own.StmtContext(ctx, prepared[i])
				}
			}
		}
		return f(t)
	})
}
