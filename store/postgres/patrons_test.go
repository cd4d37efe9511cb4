package postgres_test

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/postgres"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestKeys(t *testing.T) {
	storetest.TestKeys(t, func(t *testing.T) crypto.KeyStore { db, _ := open(t); return postgres.NewKeys(db) })
}

func TestPatrons(t *testing.T) {
	storetest.TestPatrons(t, func(t *testing.T) patron.Store { db, _ := open(t); return postgres.NewPatrons(db) })
}

func TestGrants(t *testing.T) {
	storetest.TestGrants(t, func(t *testing.T) patron.Grants { db, _ := open(t); return postgres.NewGrants(db) })
}

// threeOps is a DB with the three methods and no more, as somebody's wrapper may be.
type threeOps struct{ postgres.DB }

// In a caller's transaction what is refused is undone by itself, and the rest of the transaction lives: to PostgreSQL, one statement that failed would be the end of all.
func TestPatronStoresJoinATransaction(t *testing.T) {
	for _, bare := range []bool{false, true} {
		db, _ := open(t)
		tx := begin(t, db)
		var in postgres.DB = tx
		if bare {
			in = threeOps{tx}
		}
		ctx := t.Context()
		s := postgres.NewPatrons(in)
		first, other, third := somebody(), somebody(), somebody()
		require.NoError(t, s.Write(ctx, batchOf(1, first)))
		third.Tokens[1] = first.Tokens[0]
		require.ErrorIs(t, s.Write(ctx, batchOf(2, other, third)), patron.ErrDuplicate)
		_, err := s.Get(ctx, other.ID)
		require.ErrorIs(t, err, patron.ErrNotFound, "what was refused is undone")
		require.ErrorIs(t, s.Write(ctx, batchOf(1, other, first)), patron.ErrConflict)
		found, err := s.Find(ctx, first.Tokens)
		require.NoError(t, err)
		require.Equal(t, uint64(1), found.Indexed)
		require.Equal(t, []patron.ID{first.ID}, found.Owners[first.Tokens[0]])

		k := postgres.NewKeys(in)
		change := crypto.KeyChange{Key: crypto.WrappedKey{Subject: "a", Epoch: 1, Wrapped: []byte("w")}}
		for _, want := range [][]crypto.Subject{nil, {"a"}} {
			lost, err := k.PutKeys(ctx, []crypto.KeyChange{change})
			require.NoError(t, err)
			require.Equal(t, want, lost)
		}
		require.NoError(t, k.DeleteKey(ctx, "b"))

		g := postgres.NewGrants(in)
		ann := patron.Grant{Grant: access.Grant{ID: "1", Actor: "ann"}}
		require.NoError(t, g.AddGrant(ctx, ann))
		require.ErrorIs(t, g.AddGrant(ctx, ann), access.ErrUnreviewed)
		require.EqualError(t, g.AddGrant(ctx, patron.Grant{Grant: access.Grant{ID: "1", Actor: "bob"}}), "postgres: add a grant: there is one with this ID")
		require.ErrorIs(t, g.ReviewGrant(ctx, "2", "rex", time.Now()), patron.ErrNotFound)
		require.NoError(t, tx.Commit())
		require.EqualValues(t, 1, number(t, db, "SELECT count(*) FROM patrons"))
		require.EqualValues(t, 1, number(t, db, "SELECT count(*) FROM subject_keys"))
		require.EqualValues(t, 1, number(t, db, "SELECT count(*) FROM grants"))
	}
}

// What the server refuses in the middle of a batch takes the batch with it, and not the caller's transaction.
func TestServerRefusesWithinATransaction(t *testing.T) {
	db, _ := open(t)
	_, err := db.Exec("ALTER TABLE patron_lookups ADD CHECK (length(token) < 16)")
	require.NoError(t, err)
	tx := begin(t, db)
	s := postgres.NewPatrons(tx)
	row := somebody()
	var refused *postgres.Error
	require.ErrorAs(t, s.Write(t.Context(), batchOf(1, row)), &refused)
	require.Equal(t, "23514", refused.State)
	_, err = s.Get(t.Context(), row.ID)
	require.ErrorIs(t, err, patron.ErrNotFound)
	row.Lookups = nil
	require.NoError(t, s.Write(t.Context(), batchOf(1, row)))
	require.NoError(t, tx.Commit())
	indexIsWhatRowsSay(t, db)
}

// What the caller rolls back takes ours with it.
func TestCallerRollsPatronsBack(t *testing.T) {
	db, _ := open(t)
	tx := begin(t, db)
	row := somebody()
	require.NoError(t, postgres.NewPatrons(tx).Write(t.Context(), batchOf(1, row)))
	require.NoError(t, tx.Rollback())
	_, err := postgres.NewPatrons(db).Get(t.Context(), row.ID)
	require.ErrorIs(t, err, patron.ErrNotFound)
	require.Zero(t, number(t, db, "SELECT newest FROM patron_indexes"))
	require.Zero(t, number(t, db, "SELECT count(*) FROM patron_tokens"))
}

// A caller who reads as of one moment is told by the server that this moment has passed, and by nobody that all is well.
func TestCallersSnapshot(t *testing.T) {
	db, _ := open(t)
	row := somebody()
	require.NoError(t, postgres.NewPatrons(db).Write(t.Context(), batchOf(1, row)))
	tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	require.NoError(t, err)
	defer tx.Rollback()
	s := postgres.NewPatrons(tx)
	_, err = s.Get(t.Context(), row.ID)
	require.NoError(t, err)
	require.NoError(t, postgres.NewPatrons(db).Write(t.Context(), batchOf(2)))
	var e *postgres.Error
	require.ErrorAs(t, s.Write(t.Context(), batchOf(1, somebody())), &e)
	require.Equal(t, "40001", e.State)
}

// The server repeats the row that violates a constraint in the text of its error, and in more fields of it.
func TestPatronErrorsRepeatNoRow(t *testing.T) {
	const canary = "canary@example.org"
	db, _ := open(t)
	for _, statement := range []string{
		"CREATE UNIQUE INDEX ON patrons (grp) WHERE version = 2", "CREATE UNIQUE INDEX ON subject_keys (wrapped) WHERE epoch = 2", "CREATE UNIQUE INDEX ON grants (reviewer)",
		"ALTER TABLE patrons ADD CHECK (library <> '" + canary + "')", "ALTER TABLE grants ADD CHECK (role <> '" + canary + "')",
	} {
		_, err := db.Exec(statement)
		require.NoError(t, err)
	}
	_, err := db.Exec("INSERT INTO grants VALUES ('1', 'a', '', '', '', 0, NULL, NULL, 1, $1, NULL), ('2', 'b', '', '', '', 0, NULL, NULL, NULL, '', NULL)", canary)
	require.NoError(t, err)
	_, err = db.Exec("UPDATE grants SET reviewer = $1 WHERE id = '2'", canary)
	require.ErrorContains(t, err, "SQLSTATE 23505", "the server does refuse it")

	ctx := t.Context()
	s, k := postgres.NewPatrons(db), postgres.NewKeys(db)
	a, b, c := somebody(), somebody(), somebody()
	require.NoError(t, s.Write(ctx, batchOf(1, a, b)))
	a.Version, a.Facts.Group, b.Version, b.Facts.Group = 2, canary, 2, canary
	c.Facts.Library = canary
	_, err = k.PutKeys(ctx, []crypto.KeyChange{{Key: crypto.WrappedKey{Subject: "a", Wrapped: []byte("1")}}, {Key: crypto.WrappedKey{Subject: canary, Wrapped: []byte("2")}}})
	require.NoError(t, err)
	_, err = k.PutKeys(ctx, []crypto.KeyChange{{Key: crypto.WrappedKey{Subject: "a", Epoch: 2, Wrapped: []byte(canary)}, Old: []byte("1")},
		{Key: crypto.WrappedKey{Subject: canary, Epoch: 2, Wrapped: []byte(canary)}, Old: []byte("2")}})
	for state, errs := range map[string][]error{
		"23505": {s.Write(ctx, batchOf(1, a, b)), err, postgres.NewGrants(db).ReviewGrant(ctx, "2", canary, time.Now())},
		"23514": {s.Write(ctx, batchOf(1, c)), postgres.NewGrants(db).AddGrant(ctx, patron.Grant{Grant: access.Grant{ID: "3", Actor: "c", Role: canary}})},
	} {
		for _, err := range errs {
			var e *postgres.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, state, e.State)
			for e := err; e != nil; e = errors.Unwrap(e) {
				require.NotContains(t, fmt.Sprintf("%+v %#v", e, e), "canary")
			}
		}
	}
	// Identifiers are no errors of the server's at all.
	d := somebody()
	d.Tokens = a.Tokens[:1]
	err = s.Write(ctx, batchOf(1, d))
	require.ErrorIs(t, err, patron.ErrDuplicate)
	require.NotContains(t, err.Error(), fmt.Sprintf("%x", d.Tokens[0][:]))
}

// PostgreSQL keeps no NUL byte in a text, and only UTF-8. SQLite keeps both. It is said before the server is asked, and what cannot be there is not there.
func TestTextsThatCannotBeKept(t *testing.T) {
	db, _ := open(t)
	ctx := t.Context()
	s, k, g := postgres.NewPatrons(db), postgres.NewKeys(db), postgres.NewGrants(db)
	require.NoError(t, g.AddGrant(ctx, patron.Grant{Grant: access.Grant{ID: "1", Actor: "ann"}}))
	for _, text := range []string{"can\x00ary", "canary\xff"} {
		var errs []error
		for _, spoil := range []func(f *patron.Facts){
			func(f *patron.Facts) { f.Group = text },
			func(f *patron.Facts) { f.Library = text },
			func(f *patron.Facts) { f.Wish = patron.Wish(text) },
			func(f *patron.Facts) { f.Categories = []string{"a", "canary\xff"} },
		} {
			row := somebody()
			spoil(&row.Facts)
			errs = append(errs, s.Write(ctx, batchOf(1, somebody(), row)))
		}
		_, err := k.PutKeys(ctx, []crypto.KeyChange{{Key: crypto.WrappedKey{Subject: "a"}}, {Key: crypto.WrappedKey{Subject: crypto.Subject(text)}}})
		_, err2 := k.OlderKeys(ctx, 1, crypto.Subject(text), 1)
		errs = append(errs, err, err2, g.ReviewGrant(ctx, "1", text, time.Now()))
		for _, grant := range []access.Grant{{ID: text}, {Actor: text}, {Role: text}, {Purpose: text}, {Subject: text}, {Reviewer: text}} {
			errs = append(errs, g.AddGrant(ctx, patron.Grant{Grant: grant}))
		}
		for _, err := range errs {
			require.ErrorContains(t, err, "a text has a NUL byte in it or is not UTF-8")
			require.NotContains(t, err.Error(), "can")
		}
		_, err = k.Key(ctx, crypto.Subject(text))
		require.ErrorIs(t, err, crypto.ErrNoKey)
		require.NoError(t, k.DeleteKey(ctx, crypto.Subject(text)))
		_, err = g.Grant(ctx, text)
		require.ErrorIs(t, err, patron.ErrNotFound)
		list, err := g.Unreviewed(ctx, text)
		require.NoError(t, err)
		require.Empty(t, list)
		require.ErrorIs(t, g.ReviewGrant(ctx, text, "rex", time.Now()), patron.ErrNotFound)
	}
	require.Zero(t, number(t, db, "SELECT count(*) FROM patrons"))
	require.Zero(t, number(t, db, "SELECT count(*) FROM subject_keys"))
	// In a list of categories a NUL byte is escaped, and what looks like an escaped one is not taken for it.
	row := somebody()
	row.Facts.Categories, row.Facts.Group = []string{"\x00", `\u0000`, `\x00`}, `\u0000 'quoted' "and" \ {}`
	require.NoError(t, s.Write(ctx, batchOf(1, row)))
	got, err := s.Get(ctx, row.ID)
	require.NoError(t, err)
	require.Equal(t, row.Facts, got.Facts)
}

// Drivers pass parameters in several ways, as binary values or in the text of the statement; whichever it is, the statements are the same.
func TestPatronStoresInOtherProtocols(t *testing.T) {
	_, at := open(t)
	for i, mode := range []string{"simple_protocol", "exec", "describe_exec", "cache_describe"} {
		db, err := sql.Open("pgx", at+"&default_query_exec_mode="+mode)
		require.NoError(t, err)
		defer db.Close()
		ctx := t.Context()
		s := postgres.NewPatrons(db)
		a, b, empty := somebody(), somebody(), patron.Row{ID: somebody().ID, Version: 1}
		a.Facts.Expires = time.Date(1899, 12, 31, 23, 59, 59, 1000, time.UTC)
		a.Facts.Group = `it's \ "quoted" $1 ?`
		require.NoError(t, s.Write(ctx, batchOf(1, a, b, empty)), mode)
		got, err := s.Get(ctx, a.ID)
		require.NoError(t, err, mode)
		got.Indexed = 0
		require.Equal(t, a, got, mode)
		a.Version, b.Version = 2, 2
		a.Tokens[0], b.Tokens[0] = b.Tokens[0], a.Tokens[0]
		require.NoError(t, s.Write(ctx, batchOf(1, a, b)), mode)
		found, err := s.Find(ctx, slices.Concat(a.Tokens, b.Lookups))
		require.NoError(t, err, mode)
		require.Equal(t, []patron.ID{a.ID}, found.Owners[a.Tokens[0]], mode)
		require.Equal(t, []patron.ID{b.ID}, found.Owners[b.Lookups[0]], mode)
		_, err = s.Find(ctx, nil)
		require.NoError(t, err, mode)
		page, err := s.Rows(ctx, patron.Query{Limit: 100})
		require.NoError(t, err, mode)
		require.Len(t, page, 3*(i+1), mode)

		k := postgres.NewKeys(db)
		key := crypto.WrappedKey{Subject: crypto.Subject("it's " + mode), Epoch: 1, Wrapped: []byte("\x00\xff'\\")}
		lost, err := k.PutKeys(ctx, []crypto.KeyChange{{Key: key}})
		require.NoError(t, err, mode)
		require.Empty(t, lost, mode)
		lost, err = k.PutKeys(ctx, []crypto.KeyChange{{Key: key, Old: key.Wrapped}})
		require.NoError(t, err, mode)
		require.Empty(t, lost, mode)
		keys, err := k.OlderKeys(ctx, 2, "", 100)
		require.NoError(t, err, mode)
		require.Contains(t, keys, key, mode)

		g := postgres.NewGrants(db)
		grant := patron.Grant{Grant: access.Grant{ID: mode, Actor: mode, Segments: access.SetOf(access.Names), Issued: a.Facts.Expires}, Reason: []byte{0, 0xff}}
		require.NoError(t, g.AddGrant(ctx, grant), mode)
		list, err := g.Unreviewed(ctx, mode)
		require.NoError(t, err, mode)
		require.Equal(t, []patron.Grant{grant}, list, mode)
		require.NoError(t, g.ReviewGrant(ctx, mode, "rex", time.Now()), mode)
	}
}

func TestPatronTimesAreIntegers(t *testing.T) {
	db, _ := open(t)
	row := somebody()
	row.Facts.Expires = time.Date(2030, 1, 2, 3, 4, 5, 123_456_789, time.FixedZone("far east", 14*3600))
	require.NoError(t, postgres.NewPatrons(db).Write(t.Context(), batchOf(1, row)))
	var us int64
	var since sql.Null[int64]
	require.NoError(t, db.QueryRow("SELECT expires, wish_since FROM patrons WHERE pg_typeof(expires) = 'bigint'::regtype").Scan(&us, &since))
	require.Equal(t, row.Facts.Expires.UnixMicro(), us)
	require.False(t, since.Valid)
}

// A row that does not say what it should is refused, whatever is wrong.
func TestDamagedPatrons(t *testing.T) {
	db, _ := open(t)
	s := postgres.NewPatrons(db)
	row := somebody()
	require.NoError(t, s.Write(t.Context(), batchOf(1, row)))
	for _, set := range []string{
		"segments = segments || segments", `segments = '\x0001ffffff7f'`, `segments = '\x00810000'`, "segments = substring(segments FOR 5)",
		"tokens = 'canary'", "lookups = 'canary'", "categories = 'canary'", "version = 0", "indexed = -1", "id = 'canary'",
	} {
		tx := begin(t, db)
		_, err := tx.Exec("UPDATE patrons SET " + set)
		require.NoError(t, err)
		_, err = postgres.NewPatrons(tx).Rows(t.Context(), patron.Query{Limit: 1})
		require.EqualError(t, err, "carrel: a patron's row is damaged", set)
		require.NoError(t, tx.Rollback())
	}
	// A token in the index that is not in its row.
	_, err := db.Exec("INSERT INTO patron_tokens VALUES ($1, $2)", []byte("0123456789abcdef"), row.ID[:])
	require.NoError(t, err)
	again := row
	again.Version = 2
	again.Tokens = append(slices.Clone(row.Tokens), crypto.Token([]byte("0123456789abcdef")))
	require.EqualError(t, s.Write(t.Context(), batchOf(1, again)), "carrel: a patron's row is damaged")
	_, err = db.Exec("DELETE FROM patron_indexes")
	require.NoError(t, err)
	_, err = s.Find(t.Context(), nil)
	require.Error(t, err)
	require.Error(t, s.Write(t.Context(), batchOf(1)))
}

func TestBatchesThatAreNone(t *testing.T) {
	db, _ := open(t)
	s := postgres.NewPatrons(db)
	for name, spoil := range map[string]func(b *patron.Batch){
		"an ID twice":      func(b *patron.Batch) { b.Writes[1].Row.ID = b.Writes[0].Row.ID },
		"no ID":            func(b *patron.Batch) { b.Writes[1].Row.ID = patron.ID{} },
		"a token twice":    func(b *patron.Batch) { b.Writes[1].Row.Tokens[1] = b.Writes[1].Row.Tokens[0] },
		"a lookup twice":   func(b *patron.Batch) { b.Writes[1].Row.Lookups[1] = b.Writes[1].Row.Lookups[0] },
		"a segment twice":  func(b *patron.Batch) { b.Writes[1].Row.Segments[1].Segment = b.Writes[1].Row.Segments[0].Segment },
		"a version":        func(b *patron.Batch) { b.Writes[1].Old = 1<<64 - 1 },
		"a change of keys": func(b *patron.Batch) { b.Indexed = 1 << 63 },
	} {
		b := batchOf(1, somebody(), somebody())
		spoil(&b)
		require.Error(t, s.Write(t.Context(), b), name)
		require.Zero(t, number(t, db, "SELECT count(*) FROM patrons"), name)
	}
}

// Pages and tokens are looked up in indexes, in a table of some size: nothing is scanned.
func TestPatronReadsScanNothing(t *testing.T) {
	db, _ := open(t)
	for _, statement := range []string{
		"INSERT INTO subject_keys SELECT n::text, n % 3, 'w' FROM generate_series(1, 20000) n",
		`INSERT INTO patrons SELECT decode(md5(n::text), 'hex'), 1, 1, '', '', '', NULL, '', NULL, '', '', '' FROM generate_series(1, 20000) n`,
		"INSERT INTO patron_tokens SELECT decode(md5(n::text), 'hex'), decode(md5(n::text), 'hex') FROM generate_series(1, 20000) n",
		"INSERT INTO patron_lookups SELECT decode(md5((n / 10)::text), 'hex'), decode(md5(n::text), 'hex') FROM generate_series(1, 20000) n",
		"ANALYZE subject_keys, patrons, patron_tokens, patron_lookups",
	} {
		_, err := db.Exec(statement)
		require.NoError(t, err)
	}
	for file, queries := range map[string]map[string][]any{
		"keys.go":    {"olderKeys": {int64(3), "", int64(500)}},
		"patrons.go": {"findPatrons": {make([]byte, 16*500), int64(1000)}},
	} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for name, args := range queries {
			_, query, _ := strings.Cut(string(text), name+" = `")
			query, _, _ = strings.Cut(query, "`")
			rows, err := db.Query("EXPLAIN "+query, args...)
			require.NoError(t, err)
			n := 0
			for rows.Next() {
				var line string
				require.NoError(t, rows.Scan(&line))
				if !strings.Contains(line, "patron_indexes") { // of one row
					require.NotContains(t, line, "Seq Scan", name)
				}
				n++
			}
			require.NoError(t, rows.Err())
			require.Greater(t, n, 3)
		}
	}
}

// The tables of patrons go, and come back, by themselves.
func TestPatronMigrationGoesBack(t *testing.T) {
	db, _ := open(t)
	text, err := fs.ReadFile(postgres.Migrations(), "00002_patrons.sql")
	require.NoError(t, err)
	up, down, _ := strings.Cut(string(text), "-- +goose Down")
	_, err = db.Exec(down)
	require.NoError(t, err)
	require.EqualValues(t, 1, number(t, db, "SELECT version FROM carrel_schema"))
	require.Zero(t, number(t, db, "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename IN ('patrons', 'patron_tokens', 'patron_lookups', 'patron_indexes', 'subject_keys', 'grants')"))
	_, err = postgres.NewPatrons(db).Find(t.Context(), nil)
	require.ErrorContains(t, err, "run the migrations")
	_, err = db.Exec(up)
	require.NoError(t, err)
	later, err := fs.ReadFile(postgres.Migrations(), "00007_rights.sql") // which adds to the table
	require.NoError(t, err)
	up, _, _ = strings.Cut(string(later), "-- +goose Down")
	_, err = db.Exec(up)
	require.NoError(t, err)
	require.NoError(t, postgres.NewPatrons(db).Write(t.Context(), batchOf(1, somebody())))
}
