package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver

	"github.com/carrel-project/carrel/store/sqlite"
)

// How a database is opened.
type openMode int

const (
	readOnly  openMode = iota // nothing is written, not even a newer schema
	readWrite                 // it must exist
	createIt                  // it may be new, and its schema older
)

// A database is carrel's embedded store in a SQLite file.
type database struct {
	*sqlite.Circulation
	db      *sql.DB
	path    string
	created bool
	info    os.FileInfo // of the file as it was opened
}

// openDatabase opens what a DSN names. Every error is one line that says what to do.
func openDatabase(ctx context.Context, dsn string, mode openMode) (*database, error) {
	path, err := databasePath(dsn)
	if err != nil {
		return nil, err
	}
	d := &database{path: path}
	if err := d.prepare(mode); err != nil {
		return nil, err
	}
	source := sqlite.DSN(path)
	if mode == readOnly {
		source = sqlite.DSNReadOnly(path)
	}
	if d.db, err = sql.Open("sqlite", source); err != nil {
		return nil, fmt.Errorf("%s: cannot be opened: %w", path, err)
	}
	d.Circulation = sqlite.New(d.db)
	if err := d.schema(ctx, mode); err != nil {
		d.abandon()
		return nil, err
	}
	return d, nil
}

// databasePath reads a DSN. Its errors do not repeat one that may hold a password.
func databasePath(dsn string) (string, error) {
	path, named := strings.CutPrefix(dsn, "sqlite:")
	scheme, _, isURL := strings.Cut(path, "://")
	switch {
	case scheme == "postgres" && isURL, scheme == "postgresql" && isURL:
		return "", errors.New("--db: PostgreSQL is not in this version of carrel; name a SQLite file, or embed carrel's packages and implement its store on your tables")
	case isURL && !named:
		return "", errors.New("--db: unknown kind of database; name a SQLite file: a path, or sqlite: and a path")
	case path == "":
		return "", errors.New("--db: names no file; want a path, or sqlite: and a path")
	case path == ":memory:", strings.HasPrefix(path, "file:"):
		return "", errors.New("--db: want the plain path of a SQLite file")
	}
	return path, nil
}

const sqliteMagic = "SQLite format 3\x00"

// prepare looks at the file before SQLite does, because SQLite creates what is missing, and because its messages
// do not say which of many things is wrong.
func (d *database) prepare(mode openMode) error {
	info, err := os.Stat(d.path)
	if errors.Is(err, os.ErrNotExist) {
		if mode != createIt {
			return fmt.Errorf("%s: there is no such database; carrel import makes one", d.path)
		}
		f, err := os.OpenFile(d.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("%s: the database cannot be created: %w", d.path, reason(err))
		}
		d.created = true
		d.info, err = f.Stat()
		return errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d.path, reason(err))
	}
	if info.IsDir() {
		return fmt.Errorf("%s: is a directory, not a SQLite file", d.path)
	}
	flag := os.O_RDWR
	if mode == readOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(d.path, flag, 0)
	if err != nil {
		return fmt.Errorf("%s: the database cannot be opened: %w", d.path, reason(err))
	}
	defer f.Close()
	d.info = info
	magic := make([]byte, len(sqliteMagic))
	switch n, err := io.ReadFull(f, magic); {
	case n == 0 && mode == createIt: // as mktemp leaves it
	case n == 0 && err == io.EOF:
		return fmt.Errorf("%s: is empty, not a database; carrel import fills it", d.path)
	case string(magic[:n]) != sqliteMagic:
		return fmt.Errorf("%s: is not a SQLite file", d.path)
	}
	return nil
}

// schema checks that the database is of this carrel's schema, or brings it there.
func (d *database) schema(ctx context.Context, mode openMode) error {
	if ours, err := d.ours(ctx); err != nil {
		return err
	} else if !ours {
		return fmt.Errorf("%s: is a SQLite database of something else; give carrel a file of its own", d.path)
	}
	err := d.CheckSchema(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sqlite.ErrNewerSchema):
		return fmt.Errorf("%s: was written by a newer carrel; use that one", d.path)
	case !errors.Is(err, sqlite.ErrNoSchema):
		return fmt.Errorf("%s: %w", d.path, err)
	case mode != createIt:
		return fmt.Errorf("%s: has no tables of carrel's yet, or those of an older carrel; carrel import makes them", d.path)
	}
	if errors.Is(err, sqlite.ErrOlderSchema) {
		if named, err := d.namesSomebody(ctx); err != nil {
			return err
		} else if named {
			return fmt.Errorf("%s: was filled by an older carrel, which kept borrowers in plain; import your exports into a new file and delete this one", d.path)
		}
	}
	if err := migrate(ctx, d.db); err != nil {
		return fmt.Errorf("%s: the tables cannot be made: %w", d.path, err)
	}
	return d.CheckSchema(ctx)
}

// namesSomebody reports that records name borrowers, or a list of patrons was imported.
func (d *database) namesSomebody(ctx context.Context) (named bool, err error) {
	if err := d.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM persons)").Scan(&named); err != nil {
		return false, d.refused(ctx, err)
	}
	return named, nil
}

// ours reports whether the database is empty or has carrel's tables. Its version alone does not say so: every
// program numbers its own.
func (d *database) ours(ctx context.Context) (bool, error) {
	var tables, known int
	err := d.db.QueryRowContext(ctx, `SELECT count(*), count(CASE WHEN name IN ('records', 'links', 'persons') THEN 1 END)
		FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'goose_%'`).Scan(&tables, &known)
	if err != nil {
		return false, d.refused(ctx, err)
	}
	return tables == 0 || known == 3, nil
}

// refused says what it means when SQLite does not do what it was asked to. The driver's own text may hold rows.
func (d *database) refused(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return interruption(d.path + ": interrupted")
	}
	var coded interface{ Code() int }
	if errors.As(err, &coded) {
		switch coded.Code() & 0xff {
		case 8, 14: // SQLITE_READONLY, SQLITE_CANTOPEN
			return fmt.Errorf("%s: cannot be opened; SQLite keeps files beside it, so its directory must be writable", d.path)
		case 5, 6: // SQLITE_BUSY, SQLITE_LOCKED
			return fmt.Errorf("%s: is busy: another program holds it; try again later", d.path)
		case 11, 26: // SQLITE_CORRUPT, SQLITE_NOTADB
			return fmt.Errorf("%s: is damaged or not a SQLite file", d.path)
		case 13: // SQLITE_FULL
			return fmt.Errorf("%s: the disk is full", d.path)
		}
		return fmt.Errorf("%s: SQLite refuses (code %d)", d.path, coded.Code())
	}
	return fmt.Errorf("%s: SQLite refuses", d.path)
}

// migrate brings the schema up to date; it does nothing when it is.
func migrate(ctx context.Context, db *sql.DB) error {
	p, err := goose.NewProvider(goose.DialectSQLite3, db, sqlite.Migrations(), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// abandon closes the database and, when this run created it and it holds nothing, removes it: nothing is left
// half done. Another import may have filled it meanwhile, so the file goes only while nobody else has it.
func (d *database) abandon() {
	d.db.Close()
	if !d.created {
		return
	}
	ctx := context.Background()
	db, err := sql.Open("sqlite", sqlite.DSN(d.path))
	if err != nil {
		return
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, "PRAGMA busy_timeout = 50; PRAGMA locking_mode = EXCLUSIVE"); err != nil {
		return
	}
	// SQLite leaves the write-ahead log only when this is the only connection, and keeps the lock it takes for it.
	var mode string
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode = DELETE").Scan(&mode); err != nil || mode != "delete" {
		return
	}
	if _, err := db.ExecContext(ctx, "BEGIN EXCLUSIVE"); err != nil {
		return
	}
	if (&database{db: db, path: d.path}).isEmpty(ctx) {
		if os.Remove(d.path) != nil { // Windows removes no file that is open, by us or by others
			db.Close()
			os.Remove(d.path)
		}
		for _, suffix := range []string{"-wal", "-shm", "-journal"} {
			os.Remove(d.path + suffix)
		}
	}
}

// isEmpty reports whether the database holds no record and nobody, or has no tables at all.
func (d *database) isEmpty(ctx context.Context) bool {
	if ours, err := d.ours(ctx); err != nil || !ours {
		return false
	}
	var tables, filled bool
	if err := d.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'records')").Scan(&tables); err != nil {
		return false
	}
	if !tables {
		return true
	}
	nothing, err := d.sealsNothing(ctx)
	if err != nil || !nothing {
		return false
	}
	err = d.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM records)").Scan(&filled)
	return err == nil && !filled
}

// isThere returns an error when the file was removed or replaced since it was opened: then what was written is
// in a file without a name.
func (d *database) isThere() error {
	if now, err := os.Stat(d.path); err != nil || !os.SameFile(now, d.info) {
		return fmt.Errorf("%s: was removed or replaced by another program meanwhile; what was imported is lost; run it again", d.path)
	}
	return nil
}

func (d *database) close() error {
	if err := d.db.Close(); err != nil {
		return fmt.Errorf("%s: %w", d.path, err)
	}
	return nil
}

// knowsNoFees reports that there are loans but was never a fee: then no loan is kept for money owed, and fees that
// are imported after a sweep come too late.
func (d *database) knowsNoFees(ctx context.Context) (bool, error) {
	var loans, fees bool
	err := d.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM loans), EXISTS (SELECT 1 FROM fees)").Scan(&loans, &fees)
	if err != nil {
		return false, fmt.Errorf("%s: cannot be read", d.path)
	}
	return loans && !fees, nil
}
