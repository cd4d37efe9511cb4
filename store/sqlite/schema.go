package sqlite

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/carrel-project/carrel/circulation"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schemaVersion is what the last migration sets as PRAGMA user_version. It does not depend on the
// migration tool's own bookkeeping, which a library system may replace with another.
const schemaVersion = 7

// Migrations returns the schema as numbered files for pressly/goose or any tool that reads its format.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return sub
}

// ErrOlderSchema says that an earlier version of carrel migrated the database. The error is an [ErrNoSchema] as well, for what
// helps is the same.
var ErrOlderSchema = errors.New("sqlite: the database's schema is older than this program: run the migrations")

type olderSchemaError struct{ version int }

func (e *olderSchemaError) Error() string {
	return fmt.Sprintf("%v (its version is %d, this program's %d)", ErrOlderSchema, e.version, schemaVersion)
}

func (e *olderSchemaError) Is(target error) bool {
	return target == ErrOlderSchema || target == ErrNoSchema
}

// CheckSchema reports whether the database has the schema this program knows: [ErrNoSchema], [ErrOlderSchema] or
// [ErrNewerSchema] if not. It looks at the tables of all stores of this package, not only at those of circulation.
func (c *Circulation) CheckSchema(ctx context.Context) error {
	var v int
	if err := c.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&v); err != nil {
		return failed("check schema", err)
	}
	switch {
	case v <= 0:
		return ErrNoSchema
	case v > schemaVersion:
		return fmt.Errorf("%w (its version is %d, this program's %d)", ErrNewerSchema, v, schemaVersion)
	case v < schemaVersion:
		return &olderSchemaError{v}
	}
	var others int
	err := c.db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE tbl_name LIKE 'trail!_%' ESCAPE '!' AND type NOT IN ('table', 'index')`).Scan(&others)
	if err == nil && others > 0 {
		return ErrTrailTriggers
	}
	return failed("check schema", err)
}

// ErrTrailTriggers means that somebody has put triggers on the tables of the audit trail, or views in their place: they could keep entries out.
var ErrTrailTriggers = errors.New("sqlite: there are triggers on the tables of the audit trail, or views in their place, which are not carrel's: look at them and drop them")

// A record's number begins with its kind, so that a kind is one range of every table and a page one
// sequential read. Loans begin at 0, because most records are loans and small numbers take less room.
const kindShift = 40

func firstOf(k circulation.Kind) int64 { return (int64(k) - 1) << kindShift }
func lastOf(k circulation.Kind) int64  { return int64(k)<<kindShift - 1 }

// unknownStart stands in for a loan's start that is not known: it counts as older than all others.
const unknownStart = math.MinInt64
