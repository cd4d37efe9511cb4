package main

import (
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/store/postgres"
	"github.com/carrel-project/carrel/store/sqlite"
)

func TestMigrate(t *testing.T) {
	db := newSchema(t)
	want, err := newest(postgres.Migrations())
	require.NoError(t, err)
	r := carrel(t, "migrate", "--db", db, "--status")
	assert.Equal(t, exitFound, r.code)
	assert.Regexp(t, `^PostgreSQL schema carrel_test_\w+ of database \w+ on [\w.]+: there are no tables yet; carrel migrate makes those of version \d+\n$`, r.out)
	assert.JSONEq(t, fmt.Sprintf(`{"from":0,"to":%d,"migrated":false,"behind":true}`, want), carrel(t, "migrate", "--db", db, "--status", "--json").out)
	refused(t, carrel(t, "hold", "list", "--db", db), "carrel migrate makes them")

	assert.Contains(t, good(t, carrel(t, "migrate", "--db", db)), fmt.Sprintf("made the tables of version %d", want))
	assert.Contains(t, good(t, carrel(t, "migrate", "--db", db)), "up to date")
	assert.JSONEq(t, fmt.Sprintf(`{"from":%d,"to":%[1]d,"migrated":false,"behind":false}`, want), good(t, carrel(t, "migrate", "--db", db, "--status", "--json")))
	good(t, carrel(t, "migrate", "--db", newFile(t))) // and a file
}

// newFile is a SQLite file with tables and nothing in it.
func newFile(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "test.db")
	good(t, carrel(t, "import", "--db", path, "--loans", file(t, "l.csv", "loan,borrower,returned\n")))
	return path
}

func TestMigrateAFile(t *testing.T) {
	db := newFile(t)
	want, err := newest(sqlite.Migrations())
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("%s: the schema is of version %d, up to date\n", db, want), good(t, carrel(t, "migrate", "--db", db)))
	execSQL(t, db, fmt.Sprint("PRAGMA user_version = ", want+1))
	refused(t, carrel(t, "migrate", "--db", db), "migrated by a newer carrel; update this program")
	refused(t, carrel(t, "migrate", "--db", filepath.Join(t.TempDir(), "none.db")), "no such database")
}

// An older file is brought up to date with what is in it.
func TestMigrateAnOlderFile(t *testing.T) {
	db := filepath.Join(t.TempDir(), "old.db")
	f, err := os.OpenFile(db, os.O_CREATE|os.O_EXCL, 0o600)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	d, err := connectSQLite(db, createIt)
	require.NoError(t, err)
	_, err = d.migrate(t.Context())
	require.NoError(t, err)
	require.NoError(t, d.close())
	want, err := newest(sqlite.Migrations())
	require.NoError(t, err)
	// The last step is taken back, as if this had been another carrel's.
	text, err := os.ReadFile(filepath.Join("..", "..", "store", "sqlite", "migrations", lastOf(t, want)))
	require.NoError(t, err)
	_, down, _ := strings.Cut(string(text), "-- +goose Down")
	execSQL(t, db, down)
	execSQL(t, db, fmt.Sprint("DELETE FROM goose_db_version WHERE version_id = ", want))
	execSQL(t, db, "INSERT INTO persons (p, borrower, version) VALUES (1, 'sealed', 1)")

	r := carrel(t, "migrate", "--db", db, "--status")
	assert.Equal(t, exitFound, r.code, r.stderr)
	assert.Contains(t, r.out, fmt.Sprintf("the schema is of version %d; carrel migrate brings it to version %d", want-1, want))
	assert.Contains(t, good(t, carrel(t, "migrate", "--db", db)), fmt.Sprintf("migrated from version %d to version %d", want-1, want))
	assert.Contains(t, good(t, carrel(t, "migrate", "--db", db)), "up to date")
}

func lastOf(t *testing.T, version int) string {
	names, err := filepath.Glob(filepath.Join("..", "..", "store", "sqlite", "migrations", fmt.Sprintf("%05d_*.sql", version)))
	require.NoError(t, err)
	require.Len(t, names, 1)
	return filepath.Base(names[0])
}

// Several machines may be updated at the same time.
func TestMigrateByTwoAtOnce(t *testing.T) {
	db := newSchema(t)
	out := make([]result, 4)
	var all sync.WaitGroup
	for i := range out {
		all.Go(func() { out[i] = carrel(t, "migrate", "--db", db) })
	}
	all.Wait()
	made := 0
	for _, r := range out {
		if strings.Contains(good(t, r), "made the tables") {
			made++
		}
	}
	assert.Equal(t, 1, made, "one does it and the others wait: %v", out)
	good(t, carrel(t, "migrate", "--db", db, "--status"))
}

// While the machines are updated one after the other, some programs are older than the database and some newer. None of them works on it.
func TestRollingUpgrade(t *testing.T) {
	db := newSchema(t)
	good(t, carrel(t, "migrate", "--db", db))
	want, err := newest(postgres.Migrations())
	require.NoError(t, err)
	policy, loans := file(t, "p.yaml", simplePolicy), file(t, "l.csv", loansCSV)
	commands := [][]string{
		{"import", "--loans", loans}, {"sweep", "--policy", policy}, {"sweep", "--policy", policy, "--dry-run"},
		{"hold", "list"}, {"hold", "add", "--borrower", "p1", "--ref", "r"}, {"keys", "status"}, {"keys", "rotate"}, {"log", "verify"}, {"log", "status"}, {"log", "key"},
		{"log", "hold", "list"}, {"lockout", "status"}, atDesk(db, "patron", "find", "--identifier-file", file(t, "i", "1\n")), reviewing(db, "log", "report", "views"), reviewing(db, "log", "export"),
	}
	for _, c := range []struct {
		version int
		says    string
	}{
		{want + 1, "this database was migrated by a newer carrel; update this program"},
		{want - 1, fmt.Sprintf("its schema is of version %d, this program's of %d: run carrel migrate", want-1, want)},
	} {
		execPG(t, db, fmt.Sprintf("UPDATE carrel_schema SET version = %d", c.version))
		for _, args := range commands {
			t.Run(fmt.Sprint(c.version-want, " ", strings.Join(args[:2], " ")), func(t *testing.T) {
				if args[len(args)-1] != "review" && args[len(args)-1] != "checkout" {
					args = append(args, "--db", db)
				}
				r := carrel(t, args...)
				refused(t, r, c.says)
				assert.NotContains(t, r.stderr, "postgres://")
			})
		}
	}
	execPG(t, db, fmt.Sprintf("UPDATE carrel_schema SET version = %d", want+1))
	refused(t, carrel(t, "migrate", "--db", db), "newer carrel")
	refused(t, carrel(t, "migrate", "--db", db, "--status"), "newer carrel")
	r := carrel(t, "doctor", "--db", db)
	assert.Equal(t, exitFound, r.code)
	assert.Regexp(t, `(?m)^schema +failed +is of version \d+, this program's of \d+: a newer carrel`, r.out)
}

// The tables of a library system may be in the same schema, and what it migrates them with.
func TestMigrateBesideOtherTables(t *testing.T) {
	db := newSchema(t)
	execPG(t, db, "CREATE TABLE goose_db_version (version_id bigint); CREATE TABLE circ (id bigint)")
	refused(t, carrel(t, "import", "--db", db, "--loans", file(t, "l.csv", loansCSV)), "holds tables of something else", "?search_path=carrel")
	good(t, carrel(t, "migrate", "--db", db))
	other := newSchema(t)
	execPG(t, other, "CREATE TABLE patrons (name text)")
	refused(t, carrel(t, "migrate", "--db", other), "has a table or a function of a name that carrel's have")
	assert.Equal(t, exitFound, carrel(t, "migrate", "--db", other, "--status").code)
}

// Tables that another tool than goose has made are known by what they say of themselves.
func TestMigrateKnowsWhatIsThere(t *testing.T) {
	db := newSchema(t)
	good(t, carrel(t, "migrate", "--db", db))
	execPG(t, db, "DROP TABLE carrel_goose")
	assert.Contains(t, good(t, carrel(t, "migrate", "--db", db)), "up to date")
}

// An older schema is brought up to date with what is in it, by whatever tool its first versions were made.
func TestMigrateAnOlderSchema(t *testing.T) {
	want, err := newest(postgres.Migrations())
	require.NoError(t, err)
	names, err := fs.Glob(postgres.Migrations(), fmt.Sprintf("%05d_*.sql", want))
	require.NoError(t, err)
	require.Len(t, names, 1)
	text, err := fs.ReadFile(postgres.Migrations(), names[0])
	require.NoError(t, err)
	_, down, _ := strings.Cut(string(text), "-- +goose Down")
	for _, tool := range []string{fmt.Sprint("DELETE FROM carrel_goose WHERE version_id = ", want), "DROP TABLE carrel_goose"} {
		db := newSchema(t)
		good(t, carrel(t, "migrate", "--db", db))
		execPG(t, db, down)
		execPG(t, db, tool)
		execPG(t, db, "INSERT INTO trail_keys VALUES ('\\x00')")
		refused(t, carrel(t, "import", "--db", db, "--loans", file(t, "l.csv", loansCSV)), "run carrel migrate")
		assert.Equal(t, exitFound, carrel(t, "migrate", "--db", db, "--status").code)
		assert.Contains(t, good(t, carrel(t, "migrate", "--db", db)), fmt.Sprintf("migrated from version %d to version %d", want-1, want))
		assert.Contains(t, good(t, carrel(t, "migrate", "--db", db)), "up to date")
		good(t, carrel(t, "import", "--db", db, "--loans", file(t, "l.csv", loansCSV)))
	}
}

func TestSearchPath(t *testing.T) {
	db := newSchema(t)
	schema := regexp.MustCompile(`carrel_test_\w+`).FindString(db)
	refused(t, carrel(t, "hold", "list", "--db", strings.Replace(db, schema, "no_such_schema", 1)), "no schema of search_path is there")
	refused(t, carrel(t, "hold", "list", "--db", strings.Replace(db, schema, "no_such_schema,"+schema, 1)), "the first schema of search_path is not there")
	good(t, carrel(t, "migrate", "--db", db))
	refused(t, carrel(t, "hold", "list", "--db", strings.Replace(db, schema, "public,"+schema, 1)), "carrel's tables are in schema "+schema+", which is not the first of search_path")
}

func TestServerNeedsToBeToldWhereTheKeysAre(t *testing.T) {
	db := newSchema(t)
	keyrings.Delete(db)
	good(t, carrel(t, "migrate", "--db", db))
	for _, args := range [][]string{{"import", "--loans", file(t, "l.csv", loansCSV)}, {"keys", "status"}, {"keys", "init"}, {"hold", "add", "--borrower", "p1", "--ref", "r"},
		{"sweep", "--policy", file(t, "p.yaml", simplePolicy)}, {"log", "verify"}, {"lockout", "status"}} {
		refused(t, carrel(t, append(args, "--db", db)...), "--keys or CARREL_KEYS")
	}
	refused(t, carrel(t, "log", "status", "--db", db), "--anchor or CARREL_ANCHOR")
	good(t, carrel(t, "log", "status", "--db", db, "--anchor", filepath.Join(t.TempDir(), "anchor")))
	good(t, carrel(t, "log", "status", "--db", db, "--keys", filepath.Join(t.TempDir(), "keys")))
}

// No message repeats an address, whatever is wrong with it.
func TestNoPasswordIsEverPrinted(t *testing.T) {
	for _, dsn := range []string{
		"postgres://u:hunter2secret@127.0.0.1:1/db", "postgres://u:hunter2secret/x@127.0.0.1/db", "postgres://u:hunter2secret@127.0.0.1:port/db", "postgres://u:hunter2%zz@127.0.0.1/db",
		"postgresql://127.0.0.1:1/db?password=hunter2secret", "postgres://127.0.0.1:1/db?password=hunter2secret&sslmode=hunter2", "postgres://127.0.0.1/db?sslrootcert=/hunter2&sslmode=verify-full",
		"postgres://u:1/hunter2@127.0.0.1/db", "postgres://u:1?hunter2=@127.0.0.1/db", "postgres://[hunter2", "postgres://u@127.0.0.1:1/db?connect_timeout=hunter2", "postgres://127.0.0.1:1/db?options=-c%20hunter2=1",
		"postgres:hunter2", "mysql://u:hunter2@h/d",
	} {
		for _, args := range [][]string{{"hold", "list"}, {"migrate"}, {"doctor"}, {"keys", "init", "--keys", ""}} {
			r := carrel(t, append(args, "--db", dsn)...)
			refused(t, r)
			assert.NotContains(t, r.stderr, "hunter2", "%s %v", dsn, args)
		}
	}
	refused(t, carrel(t, "hold", "list", "--db", "postgres://127.0.0.1/db?sslrootcert=/none&sslmode=verify-full"), "a file that the connection to PostgreSQL needs", "no such file")
}

// The settings of a session that only reads, and how long it waits.
func TestServerSettings(t *testing.T) {
	db := newSchema(t)
	good(t, carrel(t, "migrate", "--db", db))
	setting := func(dsn string, mode openMode, name string) (value string) {
		d, err := connect(t.Context(), dsn, mode)
		require.NoError(t, err)
		defer d.close()
		require.NoError(t, d.db.QueryRow("SELECT current_setting($1)", name).Scan(&value))
		return value
	}
	assert.Equal(t, "10min", setting(db, readWrite, "statement_timeout"))
	assert.Equal(t, "0", setting(db, upgradeIt, "statement_timeout"))
	assert.Equal(t, "30s", setting(db, upgradeIt, "lock_timeout"))
	assert.Equal(t, "7s", setting(db+"&statement_timeout=7s", readWrite, "statement_timeout"))
	assert.Equal(t, "8s", setting(db+"&options=-c%20statement_timeout%3D8s", readWrite, "statement_timeout"))
	assert.Equal(t, "carrel", setting(db, readWrite, "application_name"))
	assert.Equal(t, "on", setting(db, readOnly, "transaction_read_only"))
	assert.Equal(t, "off", setting(db, readWrite, "transaction_read_only"))
	d, err := connect(t.Context(), db, readOnly)
	require.NoError(t, err)
	defer d.close()
	_, err = d.db.Exec("CREATE TABLE x ()")
	require.ErrorContains(t, err, "read-only")
	assert.ErrorContains(t, d.refused(t.Context(), err), "the server is read-only")
	assert.ErrorContains(t, d.refused(t.Context(), sql.ErrConnDone), "the connection to the server failed")
}
