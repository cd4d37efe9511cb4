// Package postgres keeps in PostgreSQL what store/sqlite keeps in a file: for library systems with millions of records, and with several machines.
//
// Open the database with the driver of your choice (pgx with its stdlib package is what carrel is tested with), bring the schema up to date with the files in [Migrations], and hand the
// [*sql.DB] to the stores: [New] for circulation, [NewPatrons], [NewKeys], [NewGrants], [NewLog], [NewLockouts].
//
// The tables want a schema of their own: their names are short. Name it in search_path, in the connection string or for the role that the program connects as.
//
// If db is a *sql.DB or *sql.Conn, each method that writes is one transaction of its own, at READ COMMITTED, which is tried again after a deadlock, a serialization failure or a lost connection where that is safe. If it is a
// *sql.Tx, the method becomes part of that transaction, all of it or nothing, so that the library system's rows and the store's are committed together.
//
// The package imports no driver. It repeats no driver's error text, because PostgreSQL puts rows into it. Times are UTC microseconds, as integers.
package postgres

import (
	"context"
	"database/sql"
)

// DB is what the stores need of a database: a *sql.DB, *sql.Conn or *sql.Tx.
type DB interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// each runs a query, scans each row into dest and calls f.
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
	return failed(op, rows.Err())
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
