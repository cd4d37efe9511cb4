package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/rights"
)

// How a database is opened.
type openMode int

const (
	readOnly  openMode = iota // nothing is written, not even a newer schema
	readWrite                 // it must exist
	createIt                  // it may be new
	upgradeIt                 // its schema may be an older one; it takes as long as it takes
)

// A database is carrel's embedded store: a SQLite file, or a schema of a PostgreSQL server. What commands say to it in SQL
// is the same for both, or is a method of the backend.
type database struct {
	circulationStore
	backend
	db     *sql.DB
	path   string // of the file; of a database on a server, what messages call it: never its address, in which a password may be
	beside string // what the names of files beside the database begin with. "": nothing is beside a server, and the keyring takes its place
}

// circulationStore is what the command wants of circulation records, over and above what a sweep does.
type circulationStore interface {
	rights.Circulation
	anonymize.Finisher
	anonymize.Deferrer
	crypto.TokenStore
	Save(context.Context, iter.Seq2[circulation.Entry, error]) (circulation.Saved, error)
	SaveAccounts(context.Context, iter.Seq2[circulation.Account, error]) (circulation.Saved, error)
	AddHold(context.Context, circulation.Hold) error
	ReleaseHold(ctx context.Context, borrower circulation.Borrower, ref string) (bool, error)
	Holds(context.Context) ([]circulation.Hold, error)
	Receipts(context.Context) ([]anonymize.Receipt, error)
}

// A handle is a database, a connection to it or a transaction on it.
type handle interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// A backend is a kind of database.
type backend interface {
	// The stores, on the database or in a transaction on it.
	circulation(handle) circulationStore
	recorded(handle, *audit.Trail, audit.Event) circulationStore // its Unlink leaves events in the trail
	patrons(handle) patron.Store
	keys(handle) crypto.KeyStore
	grants(handle) patron.Grants
	log(handle) audit.Store
	lockouts(handle) lockout.Store

	// ready refuses a database whose schema this program does not know, unless mode says what else to do.
	ready(ctx context.Context, mode openMode) error
	// version returns the version of the schema; 0: there are no tables of carrel's.
	version(ctx context.Context) (int, error)
	// migrations returns the schema as the files of which it is made.
	migrations() fs.FS
	// upgradable refuses a database that migrate must not touch.
	upgradable(ctx context.Context, from int) error
	// migrate brings the schema up to date, and returns the version that it found: another process may have been faster.
	migrate(ctx context.Context) (from int, err error)
	// jobs makes the tables of the worker's jobs or brings them up to date, or only looks, and reports whether they were not.
	jobs(ctx context.Context, look bool) (behind bool, err error)
	// check makes the checks of doctor that are about this kind of database.
	check(ctx context.Context, d *doctor)

	// lookUp returns a function that looks for records in the database, apart from any transaction.
	lookUp(ctx context.Context) (exists func(circulation.Kind, string) (bool, error), done func(), err error)
	// load prepares a transaction for many writes.
	load(context.Context, *sql.Tx) error
	// points says of which kinds two records are of which one points at the other, which is not there, if that is what err is about.
	points(err error) (from, to circulation.Kind, ok bool)
	// refused says what it means when the database does not do what it was asked to. The driver's own text may hold rows.
	refused(ctx context.Context, err error) error
	// unfinished says what is left of what a sweep erased when clearing up after it failed.
	unfinished(err error) string

	// abandon closes the database and takes back that this run created it, if it holds nothing.
	abandon()
	// isThere returns an error when the database was removed since it was opened.
	isThere() error
	close() error
}

func addDBFlag(cmd *cobra.Command, dsn *string) {
	cmd.Flags().StringVar(dsn, "db", "", "the database: the path of a SQLite file, or postgres://USER@HOST/DATABASE?search_path=SCHEMA (its password is better in PGPASSWORD or ~/.pgpass than here)")
}

// openDatabase opens what a DSN names, with a schema that is this program's. Every error is one line that says what to do.
func openDatabase(ctx context.Context, dsn string, mode openMode) (*database, error) {
	d, err := connect(ctx, dsn, mode)
	if err != nil {
		return nil, err
	}
	if err := d.ready(ctx, mode); err != nil {
		d.abandon()
		return nil, err
	}
	return d, nil
}

// connect opens what a DSN names, whatever its schema.
func connect(ctx context.Context, dsn string, mode openMode) (*database, error) {
	if onServer(dsn) {
		return connectPostgres(ctx, dsn, mode)
	}
	path, err := databasePath(dsn)
	if err != nil {
		return nil, err
	}
	return connectSQLite(path, mode)
}

// onServer reports that a DSN names a database in PostgreSQL.
func onServer(dsn string) bool {
	scheme, _, isURL := strings.Cut(dsn, "://")
	return isURL && (scheme == "postgres" || scheme == "postgresql")
}

// mistyped is what was meant for PostgreSQL and is no address of it: one without its slashes or colon, or in libpq's keywords. As a file's name it would keep the password in it.
var mistyped = regexp.MustCompile(`(?i)^postgres(ql)?(:|//)|(^|\s)(host|hostaddr|port|dbname|user|password|service|sslmode)\s*=`)

// databasePath returns the path of the SQLite file that a DSN names. Its errors do not repeat one that may hold a password.
func databasePath(dsn string) (string, error) {
	path, named := strings.CutPrefix(dsn, "sqlite:")
	_, _, isURL := strings.Cut(path, "://")
	switch {
	case isURL && !named:
		return "", errors.New("--db: unknown kind of database; want postgres://…, or a SQLite file: a path, or sqlite: and a path")
	case !named && mistyped.MatchString(path):
		return "", errors.New("--db: an address of PostgreSQL begins with postgres://")
	case path == "":
		return "", errors.New("--db: names no file; want a path, or sqlite: and a path")
	case path == ":memory:", strings.HasPrefix(path, "file:"):
		return "", errors.New("--db: want the plain path of a SQLite file")
	}
	return path, nil
}

func withDatabase(ctx context.Context, dsn string, mode openMode, do func(*database) error) error {
	d, err := openDatabase(ctx, dsn, mode)
	if err != nil {
		return err
	}
	err = do(d)
	if cerr := d.close(); err == nil {
		err = cerr
	}
	return err
}

// together does several things in one transaction, all or none.
func (d *database) together(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return d.refused(ctx, err)
	}
	defer tx.Rollback() // does nothing after Commit
	if err := do(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return d.refused(ctx, err)
	}
	return nil
}

// newest is the version of the schema of which migrations are: that of the last file.
func newest(migrations fs.FS) (version int, err error) {
	names, err := fs.Glob(migrations, "*.sql")
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		number, _, _ := strings.Cut(name, "_")
		n, err := strconv.Atoi(number)
		if err != nil {
			return 0, fmt.Errorf("migration %s has no number", name)
		}
		version = max(version, n)
	}
	return version, nil
}

// knowsNoFees reports that there are loans but was never a fee: then no loan is kept for money owed, and fees that
// are imported after a sweep come too late.
func (d *database) knowsNoFees(ctx context.Context) (bool, error) {
	var loans, fees bool
	err := d.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM loans), EXISTS (SELECT 1 FROM fees)").Scan(&loans, &fees)
	if err != nil {
		return false, d.refused(ctx, err)
	}
	return loans && !fees, nil
}

// sealsNothing reports that nothing in the database was sealed, so that a new keyring will do.
func (d *database) sealsNothing(ctx context.Context) (nothing bool, err error) {
	err = d.db.QueryRowContext(ctx, "SELECT NOT EXISTS (SELECT 1 FROM persons) AND NOT EXISTS (SELECT 1 FROM subject_keys) AND NOT EXISTS (SELECT 1 FROM patrons)").Scan(&nothing)
	if err != nil {
		return false, d.refused(ctx, err)
	}
	return nothing, nil
}

// unknown returns how many of the borrowers the database has never heard of.
func (d *database) unknown(ctx context.Context, borrowers []circulation.Borrower) (n int, err error) {
	for _, b := range borrowers {
		var one int
		err := d.db.QueryRowContext(ctx, "SELECT 1 FROM persons WHERE borrower = $1", string(b)).Scan(&one)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			n++
		case err != nil:
			return n, d.refused(ctx, err)
		}
	}
	return n, nil
}

// finder looks for records with a statement that takes a kind, counted from 0, and an ID.
func finder(ctx context.Context, find *sql.Stmt, refused func(context.Context, error) error) func(circulation.Kind, string) (bool, error) {
	return func(kind circulation.Kind, id string) (bool, error) {
		var one int
		switch err := find.QueryRowContext(ctx, int64(kind)-1, id).Scan(&one); {
		case errors.Is(err, sql.ErrNoRows):
			return false, nil
		case err != nil:
			return false, refused(ctx, err)
		}
		return true, nil
	}
}
