// Package sqlite keeps circulation records in a SQLite database and unlinks them there, and keeps patrons, sealed, with
// their wrapped keys: [NewPatrons], [NewKeys], [NewGrants].
//
// Open the file with the driver of your choice ([DSN] writes what modernc.org/sqlite wants), bring the
// schema up to date with the files in [Migrations], and hand the [*sql.DB] to [New]:
//
//	db, err := sql.Open("sqlite", sqlite.DSN("carrel.db"))
//	…
//	store := sqlite.New(db)
//	saved, err := store.Save(ctx, entries)
//
// A [Circulation] implements anonymize.Store. What identifies lives apart from what happened: a record is
// anonymous from birth, and its borrower, the other persons it names, what was written about them and its
// pointers are rows of small tables beside it, which unlinking deletes. With the pragmas of [Pragmas] what
// is deleted is overwritten with zeros; [Circulation.Finish] then empties the write-ahead log, in which
// copies live on. Backups and snapshots of the file are outside its reach.
//
// [Patrons], [Keys] and [Grants] hold nothing that says who somebody is without the keyring. All stores may share a database, and join the
// caller's transaction.
//
// The package imports no driver. It repeats no driver's error text, because drivers put rows into it.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
)

// DB is what the store needs of a database: a *sql.DB, *sql.Conn or *sql.Tx.
type DB interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Circulation is a store of circulation records. It is safe for concurrent use if its DB is.
type Circulation struct {
	db    DB
	trail *audit.Trail // nil: none
	by    audit.Event
}

var (
	_ anonymize.Store    = (*Circulation)(nil)
	_ anonymize.Finisher = (*Circulation)(nil)
	_ anonymize.Deferrer = (*Circulation)(nil)
)

// New returns the store in db. It neither creates nor migrates tables.
//
// If db is a *sql.DB or *sql.Conn, each method that writes is one transaction. If it is a *sql.Tx, it
// becomes part of that transaction, all of it or nothing, so that the library system's rows and the
// store's are committed together; make that transaction an immediate one (see [DSN]).
func New(db DB) *Circulation { return &Circulation{db: db} }

// WithTrail returns the same store, which writes an event into the trail for every batch that it unlinks, in the same transaction: the receipt,
// where nobody can change it. The Actor, Role, Channel and Approval of by say who sweeps. The trail's entries must be in the same database.
func (c *Circulation) WithTrail(trail *audit.Trail, by audit.Event) *Circulation {
	return &Circulation{db: c.db, trail: trail, by: by}
}

// write runs f in a transaction and numbers the change, which as the first statement also takes the write lock.
func (c *Circulation) write(ctx context.Context, op string, f func(*tx) error) error {
	return c.numbered(ctx, op, "UPDATE changes SET last = last + 1, unfinished = unfinished + 1", f)
}

// aside is write for what concerns sweeps alone: it leaves nothing behind that Finish would have to clear up.
func (c *Circulation) aside(ctx context.Context, op string, f func(*tx) error) error {
	return c.numbered(ctx, op, "UPDATE changes SET last = last + 1", f)
}

func (c *Circulation) numbered(ctx context.Context, op, number string, f func(*tx) error) error {
	return transact(ctx, c.db, op, func(t *tx) error {
		n, err := t.exec(number)
		if err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("sqlite: %s: the table of changes has %d rows, want 1", op, n)
		}
		if err := t.get("SELECT last FROM changes", nil, &t.change); err != nil {
			return err
		}
		return f(t)
	})
}

// A tx is a write transaction. Its errors are fit to be shown.
type tx struct {
	ctx    context.Context // of the one call that the transaction serves
	op     string
	db     DB
	stmts  map[string]*sql.Stmt
	change int64  // the number of this change to the store
	tokens uint32 // the epoch of the store's tokens; 0: not asked yet
}

func (t *tx) close() {
	for _, s := range t.stmts {
		s.Close()
	}
}

// prepare returns nil when the DB cannot prepare statements.
func (t *tx) prepare(query string) (*sql.Stmt, error) {
	if s := t.stmts[query]; s != nil {
		return s, nil
	}
	p, ok := t.db.(interface {
		PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
	})
	if !ok {
		return nil, nil
	}
	s, err := p.PrepareContext(t.ctx, query)
	if err != nil {
		return nil, failed(t.op, err)
	}
	t.stmts[query] = s
	return s, nil
}

// exec returns the number of rows changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	s, err := t.prepare(query)
	if err != nil {
		return 0, err
	}
	var r sql.Result
	if s != nil {
		r, err = s.ExecContext(t.ctx, args...)
	} else {
		r, err = t.db.ExecContext(t.ctx, query, args...)
	}
	if err != nil {
		return 0, failed(t.op, err)
	}
	n, err := r.RowsAffected()
	return n, failed(t.op, err)
}

// errNone is what get returns when there is no row. It never leaves the package.
var errNone = errors.New("sqlite: no row")

// get reads one row.
func (t *tx) get(query string, args []any, dest ...any) error {
	s, err := t.prepare(query)
	if err != nil {
		return err
	}
	if s != nil {
		err = s.QueryRowContext(t.ctx, args...).Scan(dest...)
	} else {
		err = t.db.QueryRowContext(t.ctx, query, args...).Scan(dest...)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return errNone
	}
	return failed(t.op, err)
}

// each calls f for every row of a query, after it was scanned into dest.
func each(ctx context.Context, op string, db DB, query string, args, dest []any, f func() error) error {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return failed(op, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return failed(op, err)
		}
		if err := f(); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return failed(op, err)
	}
	return failed(op, rows.Close())
}
