package sqlite

import (
	"context"
	"database/sql"
)

// beginner is a DB that is not yet in a transaction.
type beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// transact runs f in a transaction: its own, or, when the caller is in one, a savepoint of that. The first statement of f must be
// one that writes, whether it finds anything to write or not: that takes the write lock. A transaction that reads first and
// writes later fails when another one wrote in between, however long it may wait.
func transact(ctx context.Context, db DB, op string, f func(*tx) error) error {
	run := func(db DB) error {
		t := &tx{ctx: ctx, op: op, db: db, stmts: map[string]*sql.Stmt{}}
		defer t.close()
		return f(t)
	}
	if b, ok := db.(beginner); ok {
		own, err := b.BeginTx(ctx, nil)
		if err != nil {
			return failed(op, err)
		}
		defer own.Rollback() // does nothing after Commit
		if err := run(own); err != nil {
			return err
		}
		return failed(op, own.Commit())
	}
	if _, err := db.ExecContext(ctx, "SAVEPOINT carrel"); err != nil {
		return failed(op, err)
	}
	err := run(db)
	if err == nil {
		_, err = db.ExecContext(ctx, "RELEASE carrel")
		err = failed(op, err)
	}
	if err != nil {
		ctx := context.WithoutCancel(ctx)
		db.ExecContext(ctx, "ROLLBACK TO carrel")
		db.ExecContext(ctx, "RELEASE carrel")
	}
	return err
}

// change executes one statement that is a transaction by itself, and returns the number of rows changed.
func change(ctx context.Context, db DB, op, query string, args ...any) (int64, error) {
	r, err := db.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, failed(op, err)
	}
	n, err := r.RowsAffected()
	return n, failed(op, err)
}
