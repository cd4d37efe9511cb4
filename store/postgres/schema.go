package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schemaVersion is what the last migration writes into carrel_schema. It does not depend on the migration tool's own bookkeeping.
const schemaVersion = 7

// Migrations returns the schema as numbered files for pressly/goose or any tool that reads its format.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return sub
}

// CheckSchema reports whether the database has the schema this program knows: [ErrNoSchema], [ErrOlderSchema] or [ErrNewerSchema] if not.
func CheckSchema(ctx context.Context, db DB) error {
	var v int
	err := failed("check schema", db.QueryRowContext(ctx, "SELECT version FROM carrel_schema").Scan(&v))
	var known *Error
	switch {
	case errors.As(err, &known) && known.State == codeNoTable:
		return ErrNoSchema
	case err != nil:
		return err
	case v > schemaVersion:
		return fmt.Errorf("%w (its version is %d, this program's %d)", ErrNewerSchema, v, schemaVersion)
	case v < schemaVersion:
		return fmt.Errorf("%w (its version is %d, this program's %d)", ErrOlderSchema, v, schemaVersion)
	}
	return nil
}
