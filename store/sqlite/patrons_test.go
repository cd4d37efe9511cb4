package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
	"github.com/carrel-project/carrel/store/storetest"
)

// threeOps is a DB with the three methods and no more, as somebody's wrapper may be.
type threeOps struct{ sqlite.DB }

// inTx returns a transaction of a new database that ends with the test.
func inTx(t *testing.T) *sql.Tx {
	db, _, _ := open(t)
	tx, err := db.Begin()
	require.NoError(t, err)
	t.Cleanup(func() { tx.Rollback() })
	return tx
}

// In a caller's transaction a batch that is refused is undone by itself, also where statements cannot be prepared.
func TestStoresJoinATransaction(t *testing.T) {
	for name, db := range map[string]func(t *testing.T) sqlite.DB{
		"Tx":   func(t *testing.T) sqlite.DB { return inTx(t) },
		"bare": func(t *testing.T) sqlite.DB { return threeOps{inTx(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			s := sqlite.NewPatrons(db(t))
			batch := sealedBatch(120)
			require.NoError(t, s.Write(t.Context(), batch))
			other := sealedBatch(3)
			other.Writes[2].Row.Tokens[1] = batch.Writes[7].Row.Tokens[0]
			err := s.Write(t.Context(), other)
			require.ErrorIs(t, err, patron.ErrDuplicate)
			_, err = s.Get(t.Context(), other.Writes[0].Row.ID)
			require.ErrorIs(t, err, patron.ErrNotFound, "what was refused is undone")
			row, err := s.Get(t.Context(), batch.Writes[7].Row.ID)
			require.NoError(t, err, "and the caller's transaction lives")
			require.Equal(t, batch.Writes[7].Row.Segments, row.Segments)

			k := sqlite.NewKeys(db(t))
			lost, err := k.PutKeys(t.Context(), []crypto.KeyChange{{Key: crypto.WrappedKey{Subject: "a", Epoch: 1, Wrapped: []byte("w")}}})
			require.NoError(t, err)
			require.Empty(t, lost)
			g := sqlite.NewGrants(db(t))
			require.NoError(t, g.AddGrant(t.Context(), patron.Grant{Grant: access.Grant{ID: "1", Actor: "ann"}}))
			require.ErrorIs(t, g.AddGrant(t.Context(), patron.Grant{Grant: access.Grant{ID: "2", Actor: "ann"}}), access.ErrUnreviewed)
		})
	}
}

// What the caller rolls back takes ours with it.
func TestCallerRollsPatronsBack(t *testing.T) {
	db, _, _ := open(t)
	tx, err := db.Begin()
	require.NoError(t, err)
	b := sealedBatch(1)
	require.NoError(t, sqlite.NewPatrons(tx).Write(t.Context(), b))
	require.NoError(t, tx.Rollback())
	_, err = sqlite.NewPatrons(db).Get(t.Context(), b.Writes[0].Row.ID)
	require.ErrorIs(t, err, patron.ErrNotFound)
	require.Zero(t, count(t, db, "SELECT newest FROM patron_indexes"))
}

// Without the DSN's immediate transactions the first statement takes the write lock, or racing writers would fail.
func TestStoresWithDeferredTransactions(t *testing.T) {
	deferred := func(t *testing.T) *sql.DB {
		path := filepath.Join(t.TempDir(), "x.db")
		db, err := sql.Open("sqlite", strings.Replace(sqlite.DSN(path), "_txlock=immediate&", "", 1))
		require.NoError(t, err)
		t.Cleanup(func() { db.Close() })
		migrate(t, db)
		return db
	}
	t.Run("Keys", func(t *testing.T) {
		storetest.TestKeys(t, func(t *testing.T) crypto.KeyStore { return sqlite.NewKeys(deferred(t)) })
	})
	t.Run("Patrons", func(t *testing.T) {
		storetest.TestPatrons(t, func(t *testing.T) patron.Store { return sqlite.NewPatrons(deferred(t)) })
	})
	t.Run("Grants", func(t *testing.T) {
		storetest.TestGrants(t, func(t *testing.T) patron.Grants { return sqlite.NewGrants(deferred(t)) })
	})
}

func TestOlderSchema(t *testing.T) {
	db, _, _ := open(t)
	ups := migrateDown(t, db, 1)
	err := sqlite.New(db).CheckSchema(t.Context())
	require.ErrorIs(t, err, sqlite.ErrOlderSchema)
	require.ErrorIs(t, err, sqlite.ErrNoSchema)
	require.Regexp(t, `its version is 1, this program's \d+`, err.Error())
	require.Zero(t, count(t, db, "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'patron%' OR name LIKE 'subject_keys%' OR name LIKE 'grants%' OR name LIKE 'trail%'"))
	for _, up := range ups {
		_, err = db.Exec(up)
		require.NoError(t, err)
	}
	require.NoError(t, sqlite.New(db).CheckSchema(t.Context()))
}

// A row that does not say what it should is refused, whatever is wrong, and the error does not repeat it.
func TestDamagedRows(t *testing.T) {
	db, _, _ := open(t)
	s := sqlite.NewPatrons(db)
	b := sealedBatch(1)
	id := b.Writes[0].Row.ID
	require.NoError(t, s.Write(t.Context(), b))
	damage := func(column string, value any) {
		t.Helper()
		var was any
		require.NoError(t, db.QueryRow("SELECT "+column+" FROM patrons").Scan(&was))
		_, err := db.Exec("UPDATE patrons SET "+column+" = ?", value)
		require.NoError(t, err)
		_, err = s.Get(t.Context(), id)
		require.Error(t, err, "%s = %v", column, value)
		require.NotContains(t, err.Error(), "canary")
		_, err = s.Rows(t.Context(), patron.Query{Limit: 1})
		require.Error(t, err, "%s = %v", column, value)
		_, err = db.Exec("UPDATE patrons SET "+column+" = ?", was)
		require.NoError(t, err)
		_, err = s.Get(t.Context(), id)
		require.NoError(t, err)
	}
	var whole []byte
	require.NoError(t, db.QueryRow("SELECT segments FROM patrons").Scan(&whole))
	for cut := range whole {
		if cut%83 != 0 { // where a segment ends, all is well as far as it goes
			damage("segments", whole[:cut])
		}
	}
	damage("segments", append(bytes.Clone(whole), whole...))                      // each twice
	damage("segments", []byte{0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}) // longer than there is
	damage("segments", []byte{0, 0x81, 0, 0})                                     // a number longer than it must be
	damage("segments", bytes.Repeat([]byte{0xff}, 20))
	damage("tokens", []byte("canary"))
	damage("lookups", []byte("canary"))
	damage("categories", "canary")
	damage("version", "canary")
	damage("version", 0)
	damage("indexed", -1)
	_, err := db.Exec("DELETE FROM patron_indexes")
	require.NoError(t, err)
	_, err = s.Find(t.Context(), nil)
	require.Error(t, err)
	require.Error(t, s.Write(t.Context(), sealedBatch(1)))
}

func TestBatchesThatAreNone(t *testing.T) {
	db, _, _ := open(t)
	s := sqlite.NewPatrons(db)
	for name, spoil := range map[string]func(b *patron.Batch){
		"an ID twice":      func(b *patron.Batch) { b.Writes[1].Row.ID = b.Writes[0].Row.ID },
		"no ID":            func(b *patron.Batch) { b.Writes[1].Row.ID = patron.ID{} },
		"a token twice":    func(b *patron.Batch) { b.Writes[1].Row.Tokens[1] = b.Writes[1].Row.Tokens[0] },
		"a lookup twice":   func(b *patron.Batch) { b.Writes[1].Row.Lookups[1] = b.Writes[1].Row.Lookups[0] },
		"a segment twice":  func(b *patron.Batch) { b.Writes[1].Row.Segments[1].Segment = b.Writes[1].Row.Segments[0].Segment },
		"a version":        func(b *patron.Batch) { b.Writes[1].Old = 1<<64 - 1 },
		"a change of keys": func(b *patron.Batch) { b.Indexed = 1 << 63 },
	} {
		b := sealedBatch(2)
		spoil(&b)
		require.Error(t, s.Write(t.Context(), b), name)
		require.Zero(t, count(t, db, "SELECT count(*) FROM patrons"), name)
	}
}

// IDs of one place live beside each other, and pages leave none of them out.
func TestIDsOfOnePlace(t *testing.T) {
	db, _, _ := open(t)
	s := sqlite.NewPatrons(db)
	var ids []patron.ID
	for i := range byte(17) { // the lowest bits of the first half do not count
		id := patron.ID{0x11, 7: i & 15, 8: 0x80}
		if i == 16 {
			id[7] = 0
			id[0] = 0x12
		}
		ids = append(ids, id)
	}
	write := func(i int, old uint64, remove bool) error {
		row := patron.Row{ID: ids[i], Version: old + 1, Tokens: []crypto.Token{{byte(i), 1}}}
		return s.Write(t.Context(), patron.Batch{Writes: []patron.Write{{Row: row, Old: old, Remove: remove}}})
	}
	for i := range ids {
		require.NoError(t, write(i, 0, false))
	}
	require.ErrorIs(t, write(5, 0, false), patron.ErrConflict)
	require.NoError(t, write(5, 1, false))
	require.NoError(t, write(3, 1, true))
	require.NoError(t, write(3, 0, false))
	seen := map[patron.ID]bool{}
	q := patron.Query{Limit: 2}
	for n := 0; ; n++ {
		require.Less(t, n, 40)
		page, err := s.Rows(t.Context(), q)
		require.NoError(t, err)
		for _, r := range page {
			seen[r.ID] = true
		}
		if len(page) < q.Limit {
			break
		}
		q.After = page[1].ID
		if n == 2 { // the one that the next page comes after goes
			require.NoError(t, s.Write(t.Context(), patron.Batch{Writes: []patron.Write{{Row: patron.Row{ID: q.After}, Old: page[1].Version, Remove: true}}}))
		}
	}
	require.Len(t, seen, len(ids))
	for i, id := range ids {
		found, err := s.Find(t.Context(), []crypto.Token{{byte(i), 1}})
		require.NoError(t, err)
		if owners := found.Owners[crypto.Token{byte(i), 1}]; len(owners) > 0 {
			require.Equal(t, []patron.ID{id}, owners)
		}
	}
	// More than sixteen of one place: an error, and nothing written.
	before := count(t, db, "SELECT count(*) FROM patrons")
	for i := range 2 { // one of the sixteen was removed
		more := patron.ID{8: 0x80, 15: byte(1 + i)}
		c, half := uint64(0x9e3779b97f4a7c15), uint64(0x80)<<56
		second := binary.BigEndian.Uint64(more[8:])
		binary.BigEndian.PutUint64(more[:], 0x11<<56^half*c^second*c)
		err := s.Write(t.Context(), patron.Batch{Writes: []patron.Write{{Row: patron.Row{ID: more}}}})
		if i == 0 {
			require.NoError(t, err)
			_, err = s.Get(t.Context(), more)
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, "sqlite: write patrons: too many IDs have the same place")
		}
	}
	require.Equal(t, before+1, count(t, db, "SELECT count(*) FROM patrons"))
}

// A page of older keys is looked up in indexes: nothing is scanned, and only what was found is sorted.
func TestOlderKeysScanNothing(t *testing.T) {
	db, _, _ := open(t)
	text, err := os.ReadFile("keys.go")
	require.NoError(t, err)
	_, query, _ := strings.Cut(string(text), "olderKeys = `")
	query, _, _ = strings.Cut(query, "`")
	rows, err := db.Query("EXPLAIN QUERY PLAN "+query, 1, "", 1000)
	require.NoError(t, err)
	defer rows.Close()
	n := 0
	for rows.Next() {
		var id, parent, unused int
		var detail string
		require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
		if strings.HasPrefix(detail, "SCAN") {
			require.Contains(t, []string{"SCAN old", "SCAN CONSTANT ROW"}, detail, "old is the list of earlier epochs")
		}
		n++
	}
	require.NoError(t, rows.Err())
	require.Greater(t, n, 5)
}

// Rows do not lie in the order in which they came: after a sorted export that would be the order of names.
func TestRowsTellNoOrder(t *testing.T) {
	db, _, _ := open(t)
	s := sqlite.NewPatrons(db)
	const n = 400
	came := map[patron.ID]int{}
	for i := range n {
		b := sealedBatch(1)
		came[b.Writes[0].Row.ID] = i
		require.NoError(t, s.Write(t.Context(), b))
	}
	ascending := 0
	last := -1
	rows, err := db.Query("SELECT id FROM patrons ORDER BY rowid")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var id []byte
		require.NoError(t, rows.Scan(&id))
		at := came[patron.ID(id)]
		if at > last {
			ascending++
		}
		last = at
	}
	require.NoError(t, rows.Err())
	require.InDelta(t, n/2, ascending, 80, "of neighbours, half came in this order and half in the other")
}

// Removed rows, their tokens and deleted keys are not in the files any more.
func TestRemovedPatronsAreOverwritten(t *testing.T) {
	db, c, path := open(t)
	s, k := sqlite.NewPatrons(db), sqlite.NewKeys(db)
	b := sealedBatch(20) // few enough that no page of the database is split for them
	var canaries [][]byte
	for i := range b.Writes {
		r := &b.Writes[i].Row
		r.Segments = r.Segments[:1]
		wrapped := bytes.Repeat([]byte{byte(i)}, 60)
		copy(wrapped, fmt.Sprintf("canary-of-a-key-%02d", i))
		_, err := k.PutKeys(t.Context(), []crypto.KeyChange{{Key: crypto.WrappedKey{Subject: r.ID.Subject(), Epoch: 1, Wrapped: wrapped}}})
		require.NoError(t, err)
		canaries = append(canaries, r.Tokens[0][:], r.Lookups[0][:], r.Segments[0].Data, wrapped, []byte(r.ID.String()), r.ID[:])
	}
	require.NoError(t, s.Write(t.Context(), b))
	hits := func() (n int) {
		for _, suffix := range []string{"", "-wal"} {
			file, err := os.ReadFile(path + suffix)
			require.NoError(t, err)
			for _, c := range canaries {
				n += bytes.Count(file, c)
			}
		}
		return n
	}
	require.GreaterOrEqual(t, hits(), len(canaries), "the search finds what is there")
	remove := patron.Batch{Indexed: 1}
	for _, w := range b.Writes {
		remove.Writes = append(remove.Writes, patron.Write{Row: patron.Row{ID: w.Row.ID}, Old: 1, Remove: true})
		require.NoError(t, k.DeleteKey(t.Context(), w.Row.ID.Subject()))
	}
	require.NoError(t, s.Write(t.Context(), remove))
	save(t, c, loan("l1", "b1", 0, 10)) // or there is nothing to finish
	require.NoError(t, c.Finish(t.Context()))
	require.Zero(t, hits())
}

// A driver's error does not come through, and says nothing of the row.
func TestPatronErrorsAreTranslated(t *testing.T) {
	db, _, _ := open(t)
	for _, table := range []string{"patrons", "subject_keys", "grants"} {
		_, err := db.Exec("DROP TABLE " + table)
		require.NoError(t, err)
	}
	ctx := context.Background()
	b := sealedBatch(1)
	_, err1 := sqlite.NewPatrons(db).Get(ctx, b.Writes[0].Row.ID)
	_, err2 := sqlite.NewPatrons(db).Rows(ctx, patron.Query{Limit: 1})
	_, err3 := sqlite.NewKeys(db).Key(ctx, "canary")
	_, err4 := sqlite.NewKeys(db).PutKeys(ctx, []crypto.KeyChange{{Key: crypto.WrappedKey{Subject: "canary"}}})
	_, err5 := sqlite.NewGrants(db).Unreviewed(ctx, "canary")
	for _, err := range []error{err1, err2, err3, err4, err5,
		sqlite.NewPatrons(db).Write(ctx, b), sqlite.NewGrants(db).AddGrant(ctx, patron.Grant{}), sqlite.NewKeys(db).DeleteKey(ctx, "canary")} {
		var e *sqlite.Error
		require.ErrorAs(t, err, &e)
		require.NotContains(t, err.Error(), "canary")
		require.NotContains(t, err.Error(), "no such table")
	}
}
