package postgres

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"time"
)

// beginner is a DB that is not yet in a transaction.
type beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// tries is how often a transaction is begun, and pause how long, at first, nothing is done in between. Patience is how long a commit may take when nobody waits for it any more.
const (
	tries    = 5
	pause    = 10 * time.Millisecond
	patience = 5 * time.Second
)

// transact runs f in a transaction: its own, or, when the caller is in one, a savepoint of that. One of its own is begun again when the server undid it for others' sake (deadlock,
// serialization) or the connection was lost before the commit was sent. When it is lost during the commit nobody knows whether it happened: then it is only done again if it is
// repeatable, which is to say that doing it twice is the same as doing it once.
func transact(ctx context.Context, db DB, op string, repeatable bool, f func(DB) error) error {
	b, ok := db.(beginner)
	if !ok {
		return nested(ctx, db, op, f)
	}
	for n := 0; ; n++ {
		err, unsure := once(ctx, b, op, f)
		if err == nil || n+1 == tries || !again(err) || unsure && !repeatable {
			return err
		}
		select {
		case <-time.After(pause<<n/2 + rand.N(pause<<n)):
		case <-ctx.Done():
			return failed(op, ctx.Err())
		}
	}
}

// once runs f in one transaction. Unsure means that it may have been committed all the same. A commit is not cut off with ctx, but some time later: else the server
// may still be committing when the caller is told that it failed.
func once(ctx context.Context, b beginner, op string, f func(DB) error) (err error, unsure bool) {
	whole, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	waiting := context.AfterFunc(ctx, cancel)
	tx, err := b.BeginTx(whole, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if !waiting() {
		if err == nil {
			tx.Rollback()
		}
		return failed(op, ctx.Err()), false
	}
	if err != nil {
		return failed(op, err), false
	}
	defer tx.Rollback() // does nothing after Commit
	defer context.AfterFunc(ctx, func() { time.AfterFunc(patience, cancel) })()
	if err := f(tx); err != nil {
		return err, false
	}
	if ctx.Err() != nil {
		return failed(op, ctx.Err()), false
	}
	err = failed(op, tx.Commit())
	var known *Error
	return err, err != nil && !(errors.As(err, &known) && known.undone())
}

func nested(ctx context.Context, db DB, op string, f func(DB) error) error {
	if _, err := db.ExecContext(ctx, "SAVEPOINT carrel"); err != nil {
		return failed(op, err)
	}
	err := f(db)
	if err == nil {
		_, err = db.ExecContext(ctx, "RELEASE SAVEPOINT carrel")
		err = failed(op, err)
	}
	if err != nil {
		ctx := context.WithoutCancel(ctx)
		db.ExecContext(ctx, "ROLLBACK TO SAVEPOINT carrel")
		db.ExecContext(ctx, "RELEASE SAVEPOINT carrel")
	}
	return err
}
