package postgres

import (
	"context"
	"database/sql"
	"errors"
	"iter"
	"math/rand/v2"
	"time"
)

// beginner is a DB that is not yet in a transaction.
type beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// How often what others undid is tried, and how long, at first, nothing is done in between. Patience is how long a commit may take when nobody waits for it any more, and failover how long the work
// of a sweep waits for a server that is started again or replaced by another: somebody at the desk would not.
const (
	tries    = 5
	pause    = 10 * time.Millisecond
	longest  = time.Second
	patience = 5 * time.Second
	failover = time.Minute
)

// A repeat says how often a transaction may be done.
type repeat int

const (
	anyTimes  repeat = iota // twice is the same as once
	onceAlone               // again only if it is known that it did not happen
	notAgain                // what it is given is used up
)

// transact runs f in a transaction: its own, or, when the caller is in one, a savepoint of that. One of its own is begun again when the server undid it for others' sake (deadlock,
// serialization) or the connection was lost before the commit was sent. When it is lost during the commit nobody knows whether it happened: then it is only done again if it is
// repeatable, which is to say that doing it twice is the same as doing it once.
func transact(ctx context.Context, db DB, op string, repeatable bool, f func(DB) error) error {
	how := onceAlone
	if repeatable {
		how = anyTimes
	}
	return transactPatiently(ctx, db, op, how, 0, f)
}

// transactPatiently is transact that waits for a server to come back, and asks it then what became of a transaction that is not to be done twice.
func transactPatiently(ctx context.Context, db DB, op string, how repeat, wait time.Duration, f func(DB) error) error {
	b, ok := db.(beginner)
	if !ok {
		return nested(ctx, db, op, f)
	}
	return persist(ctx, op, wait, func() (err error, again bool) {
		err, unsure := once(ctx, b, db, op, how, wait, f)
		return err, how != notAgain && (!unsure || how == anyTimes)
	})
}

// persist does something until it succeeds, or fails in a way that trying again does not mend. Lost connections are tried as often as others' changes, or for as long as wait says.
func persist(ctx context.Context, op string, wait time.Duration, do func() (err error, again bool)) error {
	late := time.Now().Add(wait)
	for n := 0; ; n++ {
		err, may := do()
		if err == nil || !may || !again(err) || n+1 >= tries && !(isGone(err) && time.Now().Before(late)) {
			return err
		}
		d := min(pause<<min(n, 10), longest)
		select {
		case <-time.After(d/2 + rand.N(d)):
		case <-ctx.Done():
			return failed(op, ctx.Err())
		}
	}
}

// once runs f in one transaction. Unsure means that it may have been committed all the same. A commit is not cut off with ctx, but some time later: else the server
// may still be committing when the caller is told that it failed.
func once(ctx context.Context, b beginner, db DB, op string, how repeat, wait time.Duration, f func(DB) error) (err error, unsure bool) {
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
	var id sql.NullString
	if how != anyTimes && wait > 0 {
		if err := tx.QueryRowContext(whole, "SELECT CAST(pg_current_xact_id_if_assigned() AS text)").Scan(&id); err != nil {
			return failed(op, err), false
		}
	}
	err = failed(op, tx.Commit())
	var known *Error
	if err == nil || errors.As(err, &known) && known.undone() {
		return err, false
	}
	if id.Valid {
		switch became(whole, db, id.String, wait) {
		case "committed":
			return nil, false
		case "aborted":
			return err, false
		}
	}
	return err, true
}

// became asks the server, when it is back, what became of a transaction: committed, aborted, or nothing that is known.
func became(ctx context.Context, db DB, id string, wait time.Duration) string {
	var status sql.NullString
	err := persist(ctx, "", wait, func() (error, bool) {
		err := failed("", db.QueryRowContext(ctx, "SELECT pg_xact_status(CAST(CAST($1 AS text) AS xid8))", id).Scan(&status))
		if err == nil && status.String == "in progress" { // the old server process has not noticed yet
			err = &Error{}
		}
		return err, true
	})
	if err != nil {
		return ""
	}
	return status.String
}

// stream runs f on a sequence in one transaction. What comes in one block is kept, so that it can be done again; a longer one is read as it goes, and is not.
func stream[T any](ctx context.Context, db DB, op string, seq iter.Seq2[T, error], f func(*tx, iter.Seq2[T, error]) error) error {
	type pair struct {
		value T
		err   error
	}
	next, stop := iter.Pull2(seq)
	defer stop()
	var head []pair
	more := true
	for more && len(head) <= blockSize {
		var p pair
		if p.value, p.err, more = next(); more {
			head = append(head, p)
		}
	}
	how := onceAlone
	if more {
		how = notAgain
	}
	return transactPatiently(ctx, db, op, how, 0, func(db DB) error {
		return f(&tx{ctx, op, db}, func(yield func(T, error) bool) {
			for _, p := range head {
				if !yield(p.value, p.err) {
					return
				}
			}
			for more {
				value, err, ok := next()
				if !ok || !yield(value, err) {
					return
				}
			}
		})
	})
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
