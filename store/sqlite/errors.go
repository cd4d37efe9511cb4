package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/carrel-project/carrel/circulation"
)

var (
	// ErrConflict says that an entry's Version is not the stored record's: somebody else changed it, or
	// it was unlinked.
	ErrConflict = errors.New("sqlite: the record was changed or unlinked since it was read")
	// ErrNoSchema says that the database has no tables of carrel's: run the migrations.
	ErrNoSchema = errors.New("sqlite: the database has no carrel schema: run the migrations")
	// ErrNewerSchema says that a newer version of carrel migrated the database.
	ErrNewerSchema = errors.New("sqlite: the database's schema is newer than this program: update the program")
)

// An UnknownPointerError says that an entry points at a record that is not there.
type UnknownPointerError struct{ From, To circulation.Pointer }

func (e *UnknownPointerError) Error() string {
	return fmt.Sprintf("sqlite: %s %s points at %s %s, which is not known", e.From.Kind, e.From.ID, e.To.Kind, e.To.ID)
}

// An Error is the driver's, without its text, which may hold what is in the row.
type Error struct {
	Op   string // what the store was doing
	Code int    // SQLite's result code; 0: not known
}

// The primary result codes that an operator can do something about, from sqlite.org/rescode.html.
const (
	codeBusy     = 5
	codeLocked   = 6
	codeReadOnly = 8
	codeIO       = 10
	codeCorrupt  = 11
	codeFull     = 13
	codeOpen     = 14
	codeNotADB   = 26
)

func (e *Error) Error() string {
	class := "the database refused"
	switch e.Code & 0xff { // extended codes carry the primary one in the lowest byte
	case codeBusy, codeLocked:
		class = "the database is busy: another connection holds it"
	case codeReadOnly:
		class = "the database is read-only"
	case codeIO:
		class = "reading or writing the disk failed"
	case codeCorrupt, codeNotADB:
		class = "the file is damaged or no SQLite database"
	case codeFull:
		class = "the disk is full"
	case codeOpen:
		class = "the file cannot be opened"
	case 0:
		return fmt.Sprintf("sqlite: %s: the database connection failed", e.Op)
	}
	return fmt.Sprintf("sqlite: %s: %s (code %d)", e.Op, class, e.Code)
}

// failed translates a driver's error; it never wraps it.
func failed(op string, err error) error {
	var coded interface{ Code() int }
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("sqlite: %s: %w", op, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("sqlite: %s: %w", op, context.DeadlineExceeded)
	case errors.Is(err, sql.ErrTxDone), errors.Is(err, sql.ErrConnDone), errors.Is(err, driver.ErrBadConn):
		return fmt.Errorf("sqlite: %s: the connection or transaction is already closed", op)
	case errors.As(err, &coded):
		return &Error{Op: op, Code: coded.Code()}
	}
	return &Error{Op: op}
}
