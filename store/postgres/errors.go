package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"github.com/carrel-project/carrel/circulation"
)

var (
	// ErrConflict says that an entry's Version is not the stored record's: somebody else changed it, or
	// it was unlinked.
	ErrConflict = errors.New("postgres: the record was changed or unlinked since it was read")
	// ErrNoSchema says that the database has no tables of carrel's in its search path: run the migrations.
	ErrNoSchema = errors.New("postgres: there is no carrel schema in the search path: run the migrations")
	// ErrNewerSchema says that a newer version of carrel migrated the database.
	ErrNewerSchema = errors.New("postgres: the database's schema is newer than this program: update the program")
	// ErrOlderSchema says that an earlier version of carrel migrated the database.
	ErrOlderSchema = errors.New("postgres: the database's schema is older than this program: run the migrations")
)

// An UnknownPointerError says that an entry points at a record that is not there.
type UnknownPointerError struct{ From, To circulation.Pointer }

func (e *UnknownPointerError) Error() string {
	return fmt.Sprintf("postgres: %s %s points at %s %s, which is not known", e.From.Kind, e.From.ID, e.To.Kind, e.To.ID)
}

// An Error is the server's, without its text, which may hold what is in the row.
type Error struct {
	Op    string // what the store was doing
	State string // SQLSTATE, of five characters; empty: the connection failed
}

// Classes and codes that somebody can do something about, from appendix A of PostgreSQL's documentation.
const (
	classConnection = "08"
	classResources  = "53" // the disk is full, too many connections …
	classIntervened = "57" // the server is shut down, or a statement canceled
	classReadOnly   = "25006"
	codeSerialize   = "40001"
	codeDeadlock    = "40P01"
	codeUnique      = "23505"
	codeDiskFull    = "53100"
	codeCanceled    = "57014"
	codeNoTable     = "42P01"
	codeNoRight     = "42501"
	codeLockTimeout = "55P03"
)

func (e *Error) Error() string {
	class := "the server refused"
	switch {
	case e.State == "", strings.HasPrefix(e.State, classConnection):
		class = "the connection to the server failed"
	case e.State == codeSerialize, e.State == codeDeadlock:
		class = "others changed the same rows, again and again"
	case e.State == codeDiskFull:
		class = "the server's disk is full"
	case strings.HasPrefix(e.State, classResources):
		class = "the server has no room for this"
	case e.State == codeCanceled:
		class = "the statement took too long"
	case strings.HasPrefix(e.State, classIntervened):
		class = "the server is being shut down"
	case e.State == classReadOnly:
		class = "the server is read-only: a standby?"
	case e.State == codeNoTable:
		class = "a table is missing: run the migrations, and look at search_path"
	case e.State == codeNoRight:
		class = "the role may not do this"
	}
	if e.State == "" {
		return fmt.Sprintf("postgres: %s: %s", e.Op, class)
	}
	return fmt.Sprintf("postgres: %s: %s (SQLSTATE %s)", e.Op, class, e.State)
}

// undone reports that the server says that the transaction was not committed.
func (e *Error) undone() bool {
	return e.State != "" && !strings.HasPrefix(e.State, classConnection) && !strings.HasPrefix(e.State, classIntervened)
}

// isGone reports that the server is not there, or does not take anybody in yet.
func isGone(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	return e.State == "" || strings.HasPrefix(e.State, classConnection) || strings.HasPrefix(e.State, classIntervened) && e.State != codeCanceled
}

// again reports that the same may succeed when it is done once more.
func again(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	return e.State == codeSerialize || e.State == codeDeadlock || isGone(err)
}

// failed translates a driver's error; it never wraps it.
func failed(op string, err error) error {
	var coded interface{ SQLState() string } // pgx and lib/pq both have it
	var ours *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return err
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("postgres: %s: %w", op, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("postgres: %s: %w", op, context.DeadlineExceeded)
	case errors.As(err, &coded):
		return &Error{Op: op, State: coded.SQLState()}
	case errors.Is(err, sql.ErrTxDone):
		return fmt.Errorf("postgres: %s: the transaction is already closed", op)
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone):
		return &Error{Op: op}
	}
	return &Error{Op: op}
}
