package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
)

// A sqliteFile is a database in a file.
type sqliteFile struct {
	db      *sql.DB
	path    string
	created bool        // by this run
	info    os.FileInfo // of the file as it was opened
}

func connectSQLite(path string, mode openMode) (*database, error) {
	s := &sqliteFile{path: path}
	if err := s.prepare(mode); err != nil {
		return nil, err
	}
	source := sqlite.DSN(path)
	if mode == readOnly {
		source = sqlite.DSNReadOnly(path)
	}
	var err error
	if s.db, err = sql.Open("sqlite", source); err != nil {
		return nil, fmt.Errorf("%s: cannot be opened: %w", path, err)
	}
	return &database{circulationStore: s.circulation(s.db), backend: s, db: s.db, path: path, beside: path}, nil
}

func (*sqliteFile) circulation(h handle) circulationStore { return sqlite.New(h) }
func (*sqliteFile) recorded(h handle, t *audit.Trail, by audit.Event) circulationStore {
	return sqlite.New(h).WithTrail(t, by)
}
func (*sqliteFile) patrons(h handle) patron.Store   { return sqlite.NewPatrons(h) }
func (*sqliteFile) keys(h handle) crypto.KeyStore   { return sqlite.NewKeys(h) }
func (*sqliteFile) grants(h handle) patron.Grants   { return sqlite.NewGrants(h) }
func (*sqliteFile) log(h handle) audit.Store        { return sqlite.NewLog(h) }
func (*sqliteFile) lockouts(h handle) lockout.Store { return sqlite.NewLockouts(h) }
func (*sqliteFile) migrations() fs.FS               { return sqlite.Migrations() }

const sqliteMagic = "SQLite format 3\x00"

// prepare looks at the file before SQLite does, because SQLite creates what is missing, and because its messages
// do not say which of many things is wrong.
func (s *sqliteFile) prepare(mode openMode) error {
	info, err := os.Stat(s.path)
	if errors.Is(err, os.ErrNotExist) {
		if mode != createIt {
			return fmt.Errorf("%s: there is no such database; carrel import makes one", s.path)
		}
		f, err := os.OpenFile(s.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("%s: the database cannot be created: %w", s.path, reason(err))
		}
		s.created = true
		s.info, err = f.Stat()
		return errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, reason(err))
	}
	if info.IsDir() {
		return fmt.Errorf("%s: is a directory, not a SQLite file", s.path)
	}
	flag := os.O_RDWR
	if mode == readOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(s.path, flag, 0)
	if err != nil {
		return fmt.Errorf("%s: the database cannot be opened: %w", s.path, reason(err))
	}
	defer f.Close()
	s.info = info
	magic := make([]byte, len(sqliteMagic))
	switch n, err := io.ReadFull(f, magic); {
	case n == 0 && mode == createIt: // as mktemp leaves it
	case n == 0 && err == io.EOF:
		return fmt.Errorf("%s: is empty, not a database; carrel import fills it", s.path)
	case string(magic[:n]) != sqliteMagic:
		return fmt.Errorf("%s: is not a SQLite file", s.path)
	}
	return nil
}

// ready implements backend. An older schema is brought up to date by who may create one: nobody else works on the file meanwhile.
func (s *sqliteFile) ready(ctx context.Context, mode openMode) error {
	if ours, err := s.ours(ctx); err != nil {
		return err
	} else if !ours {
		return fmt.Errorf("%s: is a SQLite database of something else; give carrel a file of its own", s.path)
	}
	err := sqlite.New(s.db).CheckSchema(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sqlite.ErrNewerSchema):
		return fmt.Errorf("%s: was written by a newer carrel; use that one", s.path)
	case !errors.Is(err, sqlite.ErrNoSchema):
		return fmt.Errorf("%s: %w", s.path, err)
	case mode != createIt:
		return fmt.Errorf("%s: has no tables of carrel's yet, or those of an older carrel; carrel import makes them", s.path)
	}
	from, err := s.version(ctx)
	if err != nil {
		return err
	}
	if err := s.upgradable(ctx, from); err != nil {
		return err
	}
	if _, err := s.migrate(ctx); err != nil {
		return err
	}
	return sqlite.New(s.db).CheckSchema(ctx)
}

// version implements backend.
func (s *sqliteFile) version(ctx context.Context) (v int, err error) {
	if err := s.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&v); err != nil {
		return 0, s.refused(ctx, err)
	}
	return v, nil
}

// sealing is the first version of the schema that keeps who somebody is sealed.
const sealing = 2

// upgradable implements backend.
func (s *sqliteFile) upgradable(ctx context.Context, from int) error {
	if ours, err := s.ours(ctx); err != nil {
		return err
	} else if !ours {
		return fmt.Errorf("%s: is a SQLite database of something else; give carrel a file of its own", s.path)
	}
	if from < 1 || from >= sealing {
		return nil
	}
	if named, err := s.namesSomebody(ctx); err != nil {
		return err
	} else if named {
		return fmt.Errorf("%s: was filled by an older carrel, which kept borrowers in plain; import your exports into a new file and delete this one", s.path)
	}
	return nil
}

// namesSomebody reports that records name borrowers, or a list of patrons was imported.
func (s *sqliteFile) namesSomebody(ctx context.Context) (named bool, err error) {
	if err := s.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM persons)").Scan(&named); err != nil {
		return false, s.refused(ctx, err)
	}
	return named, nil
}

// ours reports whether the database is empty or has carrel's tables. Its version alone does not say so: every
// program numbers its own.
func (s *sqliteFile) ours(ctx context.Context) (bool, error) {
	var tables, known int
	err := s.db.QueryRowContext(ctx, `SELECT count(*), count(CASE WHEN name IN ('records', 'links', 'persons') THEN 1 END)
		FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'goose_%'`).Scan(&tables, &known)
	if err != nil {
		return false, s.refused(ctx, err)
	}
	return tables == 0 || known == 3, nil
}

// refused says what it means when SQLite does not do what it was asked to. The driver's own text may hold rows.
func (s *sqliteFile) refused(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return interruption(s.path + ": interrupted")
	}
	var coded interface{ Code() int }
	if errors.As(err, &coded) {
		switch coded.Code() & 0xff {
		case 8, 14: // SQLITE_READONLY, SQLITE_CANTOPEN
			return fmt.Errorf("%s: cannot be opened; SQLite keeps files beside it, so its directory must be writable", s.path)
		case 5, 6: // SQLITE_BUSY, SQLITE_LOCKED
			return fmt.Errorf("%s: is busy: another program holds it; try again later", s.path)
		case 11, 26: // SQLITE_CORRUPT, SQLITE_NOTADB
			return fmt.Errorf("%s: is damaged or not a SQLite file", s.path)
		case 13: // SQLITE_FULL
			return fmt.Errorf("%s: the disk is full", s.path)
		}
		return fmt.Errorf("%s: SQLite refuses (code %d)", s.path, coded.Code())
	}
	return fmt.Errorf("%s: SQLite refuses", s.path)
}

// jobs implements backend. A file has no jobs.
func (*sqliteFile) jobs(context.Context, bool) (bool, error) { return false, nil }

// migrate implements backend.
func (s *sqliteFile) migrate(ctx context.Context) (from int, err error) {
	if from, err = s.version(ctx); err != nil {
		return 0, err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.db, s.migrations(), goose.WithLogger(goose.NopLogger()))
	if err == nil {
		_, err = p.Up(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: the tables cannot be made: %w", s.path, err)
	}
	return from, nil
}

// abandon closes the database and, when this run created it and it holds nothing, removes it: nothing is left
// half done. Another import may have filled it meanwhile, so the file goes only while nobody else has it.
func (s *sqliteFile) abandon() {
	s.db.Close()
	if !s.created {
		return
	}
	// A transaction that was interrupted is rolled back beside us, and would look like somebody else's.
	for end := time.Now().Add(5 * time.Second); s.db.Stats().OpenConnections > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	ctx := context.Background()
	db, err := sql.Open("sqlite", sqlite.DSN(s.path))
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
	if (&sqliteFile{db: db, path: s.path}).isEmpty(ctx) {
		if os.Remove(s.path) != nil { // Windows removes no file that is open, by us or by others
			db.Close()
			os.Remove(s.path)
		}
		for _, suffix := range []string{"-wal", "-shm", "-journal"} {
			os.Remove(s.path + suffix)
		}
	}
}

// isEmpty reports whether the database holds no record and nobody. An interrupted migration leaves some of the tables, or none.
func (s *sqliteFile) isEmpty(ctx context.Context) bool {
	if ours, err := s.ours(ctx); err != nil || !ours {
		return false
	}
	for _, table := range []string{"records", "persons", "subject_keys", "patrons"} {
		var made, filled bool
		if err := s.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = $1)", table).Scan(&made); err != nil {
			return false
		}
		if !made {
			continue
		}
		if err := s.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+table+")").Scan(&filled); err != nil || filled {
			return false
		}
	}
	return true
}

// isThere returns an error when the file was removed or replaced since it was opened: then what was written is
// in a file without a name.
func (s *sqliteFile) isThere() error {
	if now, err := os.Stat(s.path); err != nil || !os.SameFile(now, s.info) {
		return fmt.Errorf("%s: was removed or replaced by another program meanwhile; what was imported is lost; run it again", s.path)
	}
	return nil
}

func (s *sqliteFile) close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	return nil
}

// lookUp implements backend. The transaction that takes a file over is not its own; but no record points at one of its own kind, so
// what that adds does not matter.
func (s *sqliteFile) lookUp(ctx context.Context) (exists func(circulation.Kind, string) (bool, error), done func(), err error) {
	db, err := sql.Open("sqlite", sqlite.DSNReadOnly(s.path))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: cannot be opened: %w", s.path, err)
	}
	find, err := db.PrepareContext(ctx, "SELECT 1 FROM records WHERE n >> 40 = ? AND id = ?")
	if err != nil {
		db.Close()
		return nil, nil, s.refused(ctx, err)
	}
	return finder(ctx, find, s.refused), func() { find.Close(); db.Close() }, nil
}

// load implements backend. Rows, tokens and keys go to random places; with room for them in memory, a page is written once and not once a batch.
func (s *sqliteFile) load(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, "PRAGMA cache_size = -64000"); err != nil {
		return s.refused(ctx, err)
	}
	return nil
}

// points implements backend.
func (*sqliteFile) points(err error) (from, to circulation.Kind, ok bool) {
	var p *sqlite.UnknownPointerError
	if !errors.As(err, &p) {
		return 0, 0, false
	}
	return p.From.Kind, p.To.Kind, true
}

// unfinished implements backend.
func (s *sqliteFile) unfinished(err error) string {
	var known *sqlite.Error
	if errors.As(err, &known) && (known.Code&0xff == 5 || known.Code&0xff == 6) { // SQLITE_BUSY, SQLITE_LOCKED
		return fmt.Sprintf("copies of what was erased stay in %s-wal while another program reads the database", s.path)
	}
	return fmt.Sprintf("copies of what was erased stay in %s and %[1]s-wal (%v)", s.path, err)
}
