package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/postgres"
)

// A postgresSchema is a database in the first schema of a connection's search path.
type postgresSchema struct {
	db     *sql.DB
	cfg    *pgx.ConnConfig
	name   string // what messages call it
	schema string // what search_path begins with, as the DSN or the server has it
}

// patience is how long a command waits for one statement, and for one lock, if the DSN says nothing else: what takes longer is stuck.
var patience = map[string]string{"statement_timeout": "10min", "lock_timeout": "30s"}

func connectPostgres(ctx context.Context, dsn string, mode openMode) (*database, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, unreadable(err)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 30 * time.Second
	}
	settings := cfg.RuntimeParams
	settle := func(name, value string) { // unless whoever wrote the DSN, or PGOPTIONS, knows better
		if settings[name] == "" && !strings.Contains(settings["options"], name) {
			settings[name] = value
		}
	}
	settle("application_name", "carrel")
	settle("default_transaction_isolation", "read committed") // what store/postgres is made for
	for name, value := range patience {
		if mode != upgradeIt || name != "statement_timeout" { // a migration takes as long as it takes, but keeps nobody waiting for its locks
			settle(name, value)
		}
	}
	// A DSN with target_session_attrs may ask for a session that can write: one that says at once that it will not would be refused by its own client.
	if mode == readOnly && cfg.ValidateConnect == nil {
		settings["default_transaction_read_only"] = "on"
	}
	p := &postgresSchema{db: stdlib.OpenDB(*cfg), cfg: cfg, name: nameOf(cfg)}
	if err := p.find(ctx); err != nil {
		p.db.Close()
		return nil, err
	}
	return &database{circulationStore: p.circulation(p.db), backend: p, db: p.db, path: p.name}, nil
}

// unreadable says that a DSN is none, without a word of it or of what the driver says, which repeats it.
func unreadable(err error) error {
	var file *fs.PathError
	if errors.As(err, &file) {
		return fmt.Errorf("--db: a file that the connection to PostgreSQL needs (certificate, service or password file) cannot be read: %w", file.Err)
	}
	return errors.New("--db: not an address of PostgreSQL that can be read; want postgres://USER@HOST:PORT/DATABASE?search_path=SCHEMA, with special characters written as in %40")
}

// nameOf returns what messages call a database. Of an address that was mistyped, parts of a password may come to stand where host and database
// should be, so only names are repeated that look like some.
func nameOf(cfg *pgx.ConnConfig) string {
	plain := func(s string) bool {
		return s != "" && len(s) < 64 && !strings.ContainsFunc(s, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-:/", r))
		})
	}
	name := "PostgreSQL"
	if plain(cfg.Database) && !strings.Contains(cfg.Database, "/") {
		name += " database " + cfg.Database
	}
	if plain(cfg.Host) {
		name += " on " + cfg.Host
	}
	return name
}

// find looks which schema the tables are in, and whether the server is there at all.
func (p *postgresSchema) find(ctx context.Context) error {
	var schema sql.NullString
	var path string
	if err := p.db.QueryRowContext(ctx, "SELECT current_schema(), current_setting('search_path')").Scan(&schema, &path); err != nil {
		return p.refused(ctx, err)
	}
	if !schema.Valid {
		return fmt.Errorf("%s: no schema of search_path is there: CREATE SCHEMA makes one", p.name)
	}
	p.schema = schema.String
	p.name = strings.Replace(p.name, "PostgreSQL", "PostgreSQL schema "+oneLine(p.schema)+" of", 1)
	// What comes first may be missing; then the tables would go to another schema than the one that was named.
	if first := strings.Trim(strings.TrimSpace(strings.Split(path, ",")[0]), `"`); first != "$user" && first != p.schema {
		return fmt.Errorf("%s: the first schema of search_path is not there: CREATE SCHEMA makes it", p.name)
	}
	return nil
}

func (*postgresSchema) circulation(h handle) circulationStore { return postgres.New(h) }
func (*postgresSchema) recorded(h handle, t *audit.Trail, by audit.Event) circulationStore {
	return postgres.New(h).WithTrail(t, by)
}

// pool opens connections of another kind to the same database: the job queue's, which uses what database/sql does not have.
func (p *postgresSchema) pool(ctx context.Context, most int) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, unreadable(err)
	}
	cfg.ConnConfig, cfg.MaxConns = p.cfg.Copy(), int32(most)
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, p.refused(ctx, err)
	}
	return pool, nil
}

// jobs implements backend.
func (p *postgresSchema) jobs(ctx context.Context, look bool) (behind bool, err error) {
	pool, err := p.pool(ctx, 2)
	if err != nil {
		return false, err
	}
	defer pool.Close()
	if look {
		behind, err = jobTablesBehind(ctx, pool)
	} else {
		behind, err = migrateJobs(ctx, pool)
	}
	if err != nil {
		return false, p.refused(ctx, err)
	}
	return behind, nil
}

func (*postgresSchema) patrons(h handle) patron.Store   { return postgres.NewPatrons(h) }
func (*postgresSchema) keys(h handle) crypto.KeyStore   { return postgres.NewKeys(h) }
func (*postgresSchema) grants(h handle) patron.Grants   { return postgres.NewGrants(h) }
func (*postgresSchema) log(h handle) audit.Store        { return postgres.NewLog(h) }
func (*postgresSchema) lockouts(h handle) lockout.Store { return postgres.NewLockouts(h) }
func (*postgresSchema) migrations() fs.FS               { return postgres.Migrations() }

var errNewerSchema = errors.New("this database was migrated by a newer carrel; update this program")

// ready implements backend. Only a schema without tables is filled, and only by who may create one: other programs may be working with tables of an
// earlier version, so that carrel migrate alone changes those.
func (p *postgresSchema) ready(ctx context.Context, mode openMode) error {
	have, err := p.version(ctx)
	if err != nil {
		return err
	}
	want, err := newest(p.migrations())
	switch {
	case err != nil:
		return err
	case have == want:
		return nil
	case have > want:
		return fmt.Errorf("%s: %w", p.name, errNewerSchema)
	case have > 0:
		return fmt.Errorf("%s: its schema is of version %d, this program's of %d: run carrel migrate", p.name, have, want)
	case mode != createIt:
		return fmt.Errorf("%s: there are no tables of carrel's: carrel migrate makes them", p.name)
	}
	var taken bool
	if err := p.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename <> 'carrel_goose')").Scan(&taken); err != nil {
		return p.refused(ctx, err)
	}
	if taken {
		return fmt.Errorf("%s: holds tables of something else: give carrel a schema of its own and name it in the address, as in ?search_path=carrel; or, to have them side by side, run carrel migrate", p.name)
	}
	_, err = p.migrate(ctx)
	return err
}

// version implements backend.
func (p *postgresSchema) version(ctx context.Context) (v int, err error) {
	var where sql.NullString // the schema in which a table of this name is found
	var here bool
	err = p.db.QueryRowContext(ctx, `SELECT n.nspname, n.nspname = current_schema()
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('carrel_schema')`).Scan(&where, &here)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return 0, nil
	case err != nil:
		return 0, p.refused(ctx, err)
	case !here:
		return 0, fmt.Errorf("%s: carrel's tables are in schema %s, which is not the first of search_path: name it there", p.name, oneLine(where.String))
	}
	if err := p.db.QueryRowContext(ctx, "SELECT version FROM carrel_schema").Scan(&v); err != nil {
		return 0, p.refused(ctx, err)
	}
	return v, nil
}

// upgradable implements backend. Tables of a library system may be in the same schema, as long as their names are others.
func (p *postgresSchema) upgradable(context.Context, int) error { return nil }

// migrate implements backend. Of several that migrate at once, one does, and the others wait for it.
func (p *postgresSchema) migrate(ctx context.Context) (from int, err error) {
	id := fnv.New64a()
	fmt.Fprintf(id, "carrel migrate %s", p.schema)
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(int64(id.Sum64())), lock.WithLockTimeout(1, 3600))
	if err != nil {
		return 0, err
	}
	if from, err = p.version(ctx); err != nil {
		return 0, err
	}
	// What the schema says of itself counts: its files may have been applied by another tool than this, whose table of what was applied is empty then.
	var done []int64
	for v := range from {
		done = append(done, int64(v)+1)
	}
	// The table has a name of its own, so that a library system that uses goose, too, may have its tables beside it.
	g, err := goose.NewProvider(goose.DialectPostgres, p.db, p.migrations(), goose.WithTableName("carrel_goose"), goose.WithSessionLocker(locker),
		goose.WithExcludeVersions(done), goose.WithLogger(goose.NopLogger()))
	if errors.Is(err, goose.ErrNoMigrations) {
		return from, nil
	}
	if err != nil {
		return 0, err
	}
	results, err := g.Up(ctx)
	if err != nil {
		var code interface{ SQLState() string }
		if errors.As(err, &code) && (code.SQLState() == "42P07" || code.SQLState() == "42723") { // a table or a function of that name
			return 0, fmt.Errorf("%s: has a table or a function of a name that carrel's have: give carrel a schema of its own", p.name)
		}
		return 0, p.refused(ctx, err)
	}
	if len(results) == 0 {
		return newest(p.migrations())
	}
	return int(results[0].Source.Version) - 1, nil
}

// lookUp implements backend.
func (p *postgresSchema) lookUp(ctx context.Context) (exists func(circulation.Kind, string) (bool, error), done func(), err error) {
	find, err := p.db.PrepareContext(ctx, "SELECT 1 FROM records WHERE n >> 40 = $1 AND id = $2")
	if err != nil {
		return nil, nil, p.refused(ctx, err)
	}
	return finder(ctx, find, p.refused), func() { find.Close() }, nil
}

// points implements backend.
func (*postgresSchema) points(err error) (from, to circulation.Kind, ok bool) {
	var u *postgres.UnknownPointerError
	if !errors.As(err, &u) {
		return 0, 0, false
	}
	return u.From.Kind, u.To.Kind, true
}

// load implements backend.
func (*postgresSchema) load(context.Context, *sql.Tx) error { return nil }

// refused implements backend.
func (p *postgresSchema) refused(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return interruption(p.name + ": interrupted")
	}
	var connecting *pgconn.ConnectError
	var code interface{ SQLState() string }
	var known *postgres.Error
	state := ""
	switch {
	case errors.As(err, &code):
		state = code.SQLState()
	case errors.As(err, &known):
		state = known.State
	}
	why := "PostgreSQL refuses (SQLSTATE " + state + ")"
	switch {
	case state == "" && errors.As(err, &connecting):
		why = "cannot be reached: is the server running, are host and port right, and does it take TLS or the lack of it?"
		if errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err) {
			why = "does not answer"
		}
	case state == "":
		why = "the connection to the server failed"
	case strings.HasPrefix(state, "28"):
		why = "the server does not let this user in, or not with this password; PGPASSWORD and ~/.pgpass are read"
	case state == "3D000":
		why = "there is no such database"
	case state == "53300":
		why = "the server has no connection left"
	case state == "53100":
		why = "the server's disk is full"
	case state == "57P03":
		why = "the server is starting up or shutting down; try again later"
	case state == "57014":
		why = "a statement took longer than statement_timeout, which can be set in the address"
	case state == "55P03":
		why = "another program holds a lock for longer than lock_timeout; try again later"
	case state == "25006":
		why = "the server is read-only: a standby?"
	case state == "42501":
		why = "the role may not do this; it must own the tables, or be granted what it needs"
	case state == "42P01":
		why = "a table is missing: run carrel migrate, and look at search_path"
	case state == "42704", state == "22023":
		why = "the server does not know a setting in the address"
	}
	return fmt.Errorf("%s: %s", p.name, why)
}

// unfinished implements backend.
func (p *postgresSchema) unfinished(err error) string {
	return fmt.Sprintf("clearing up after it failed (%v)", err)
}

// abandon implements backend. Tables without a row are nothing half done, and others may have begun to fill them.
func (p *postgresSchema) abandon() { p.db.Close() }

func (*postgresSchema) isThere() error { return nil }

func (p *postgresSchema) close() error {
	if err := p.db.Close(); err != nil {
		return fmt.Errorf("%s: the connection could not be closed", p.name)
	}
	return nil
}
