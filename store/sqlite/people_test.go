package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
)

// An installation is a database with its keys, as one process has it open.
type installation struct {
	db   *sql.DB
	keys *crypto.Keyring
	dir  *patron.Directory
}

// install makes the keys beside a database.
func install(t testing.TB, path string) {
	require.NoError(t, crypto.CreateKEK(path+".kek"))
	kek, err := crypto.OpenKEK(path + ".kek")
	require.NoError(t, err)
	require.NoError(t, crypto.CreateKeyring(path+".keys", kek))
}

// A countedKEK notes every call in a file, so that the calls of processes that were killed count, too.
type countedKEK struct {
	tink.AEAD
	path string
}

func (k countedKEK) note() error {
	f, err := os.OpenFile(k.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(".")
	return err
}

func (k countedKEK) Encrypt(plaintext, bound []byte) ([]byte, error) {
	if err := k.note(); err != nil {
		return nil, err
	}
	return k.AEAD.Encrypt(plaintext, bound)
}

func (k countedKEK) Decrypt(ciphertext, bound []byte) ([]byte, error) {
	if err := k.note(); err != nil {
		return nil, err
	}
	return k.AEAD.Decrypt(ciphertext, bound)
}

type quiet struct{}

func (quiet) Record(context.Context, audit.Event) error { return nil }

const everything = `
carrel-access: 1
id: test
revision: 1
title: All of it
purposes: {all: All of it}
roles:
  all:
    why: Tests
    for:
      all: {names: full, addresses: full, phones: full, emails: full, identifiers: full, birth: full, blocks: full, notes: full, roles: full, campus: full, statistics: full, photo: full, may: [create, change, import, export, resolve, find, reindex]}
`

var anybody = patron.Call{Actor: "test", Role: "all", Purpose: "all", Channel: audit.Job}

// openPeople opens a database with its keys, like a process of its own.
func openPeople(path string) (*installation, error) {
	kek, err := crypto.OpenKEK(path + ".kek")
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	if err != nil {
		return nil, err
	}
	keys, err := crypto.OpenKeyring(context.Background(), crypto.Config{Path: path + ".keys", KEK: countedKEK{kek, path + ".calls"}, Store: sqlite.NewKeys(db), Tokens: sqlite.New(db), CacheTTL: time.Second})
	if err != nil {
		return nil, err
	}
	matrix, err := access.ParseMatrix([]byte(everything))
	if err != nil {
		return nil, err
	}
	dir, err := patron.New(patron.Config{Store: sqlite.NewPatrons(db), Keys: keys, Access: matrix, Recorder: quiet{}, Grants: sqlite.NewGrants(db)})
	return &installation{db, keys, dir}, err
}

func people(t testing.TB, path string) *installation {
	i, err := openPeople(path)
	require.NoError(t, err)
	t.Cleanup(func() { i.db.Close() })
	return i
}

func newPeople(t testing.TB) (*installation, string) {
	path := filepath.Join(t.TempDir(), "people.db")
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	migrate(t, db)
	require.NoError(t, db.Close())
	install(t, path)
	return people(t, path), path
}

// afterwards returns the keyring as a program has it open so much later.
func afterwards(t testing.TB, i *installation, path string, d time.Duration) *crypto.Keyring {
	kek, err := crypto.OpenKEK(path + ".kek")
	require.NoError(t, err)
	k, err := crypto.OpenKeyring(t.Context(), crypto.Config{Path: path + ".keys", KEK: kek, Store: sqlite.NewKeys(i.db), Tokens: sqlite.New(i.db),
		Now: func() time.Time { return time.Now().Add(d) }})
	require.NoError(t, err)
	return k
}

// somebody is a profile with nine segments and three identifiers.
func somebody(n int) patron.Profile {
	s := func(format string) crypto.Secret { return crypto.NewSecret(fmt.Sprintf(format, n)) }
	return patron.Profile{
		Facts:       patron.Facts{Group: []string{"students", "staff"}[n%2], Library: "main", Expires: day(n % 700), Categories: []string{"dept-math"}},
		Names:       []patron.Name{{Use: "legal", First: s("First%d"), Last: s("Lastname%d")}},
		Addresses:   []patron.Address{{Use: "home", Street: s("Long street %d"), City: s("City of %d"), Region: s("Region %d"), Postcode: s("%05d"), Country: s("SE")}},
		Phones:      []patron.Phone{{Use: "mobile", Number: s("+4670%07d")}, {Use: "day", Number: s("+4646%07d")}},
		Emails:      []patron.Email{{Use: "school", Address: s("somebody.%d@example.org")}},
		Identifiers: []patron.Identifier{{Use: "barcode", Value: s("2900000%07d")}, {Use: "username", Value: s("user%d")}, {Use: "external", Value: s("ext-%d")}},
		Birth:       crypto.NewSecret(day(-n % 20000).Format(time.DateOnly)),
		Roles:       []patron.Role{{Use: "student", Scope: s("Course %d")}},
		Campus:      []patron.Campus{{Use: "north", Name: s("North %d")}},
		Statistics:  []patron.Statistic{{Use: "funding", Value: s("Grant %d")}},
	}
}

func crowdOf(from, to int) iter.Seq2[patron.Profile, error] {
	return func(yield func(patron.Profile, error) bool) {
		for n := from; n < to; n++ {
			if !yield(somebody(n), nil) {
				return
			}
		}
	}
}

func fillPeople(t testing.TB, i *installation, n int) {
	done, err := i.dir.Import(t.Context(), anybody, patron.Source{}, crowdOf(0, n), nil)
	require.NoError(t, err)
	require.Equal(t, n, done.Added)
}

// borrow gives each of the first n a loan with a note.
func borrow(t *testing.T, i *installation, n int) {
	borrowers, err := i.keys.Pseudonyms(patron.Borrowers)
	require.NoError(t, err)
	texts, err := i.keys.Pseudonyms(patron.Texts)
	require.NoError(t, err)
	_, err = sqlite.New(i.db).Save(t.Context(), func(yield func(circulation.Entry, error) bool) {
		for j := range n {
			b, err := borrowers.Token(fmt.Sprint("user", j))
			if err == nil {
				var note string
				note, err = texts.Token(fmt.Sprint("note", j))
				if !yield(circulation.Loan{ID: fmt.Sprint("l", j), Borrower: circulation.Borrower(b), Note: note}, err) {
					return
				}
			}
		}
	})
	require.NoError(t, err)
}

// borrowersAreKnown checks that the tokens of all records open, and are of one epoch: that which the store says.
func borrowersAreKnown(t *testing.T, path string, n int) {
	i, err := openPeople(path)
	require.NoError(t, err)
	defer i.db.Close()
	epoch, err := sqlite.New(i.db).TokenEpoch(t.Context())
	require.NoError(t, err)
	for name, query := range map[string]string{patron.Borrowers: "SELECT borrower FROM persons", patron.Texts: "SELECT value FROM personal"} {
		p, err := i.keys.Pseudonyms(name)
		require.NoError(t, err)
		rows, err := i.db.Query(query)
		require.NoError(t, err)
		all := map[string]bool{}
		for rows.Next() {
			var token string
			require.NoError(t, rows.Scan(&token))
			reference, err := p.Open(token)
			require.NoError(t, err)
			all[reference.Reveal()] = true
			of, ok := crypto.TokenEpoch(token)
			require.True(t, ok)
			require.Equal(t, epoch, of)
		}
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())
		require.Len(t, all, n)
	}
}

// allSealed returns the sealed bytes of every patron, by ID.
func allSealed(t testing.TB, db *sql.DB) map[string]string {
	rows, err := db.QueryContext(t.Context(), "SELECT hex(id), segments FROM patrons")
	require.NoError(t, err)
	defer rows.Close()
	sealed := map[string]string{}
	for rows.Next() {
		var id, segments string
		require.NoError(t, rows.Scan(&id, &segments))
		sealed[id] = segments
	}
	require.NoError(t, rows.Err())
	return sealed
}

// Whoever has the database as it was after a shred, with keyring and KEK, opens nothing of that patron; and a key that an
// older copy brings back is refused because of the ledger.
func TestShreddedIsGoneFromADump(t *testing.T) {
	i, path := newPeople(t)
	fillPeople(t, i, 50)
	ids := map[int]patron.ID{}
	for n := range 50 {
		id, err := i.dir.Find(t.Context(), anybody, crypto.NewSecret(fmt.Sprintf("user%d", n)))
		require.NoError(t, err)
		ids[n] = id
	}
	store := sqlite.NewKeys(i.db)
	before, err := store.Key(t.Context(), ids[7].Subject())
	require.NoError(t, err)
	require.NoError(t, i.keys.Shred(t.Context(), ids[7].Subject()))

	dump := filepath.Join(t.TempDir(), "dump.db")
	_, err = i.db.ExecContext(t.Context(), "VACUUM INTO ?", dump)
	require.NoError(t, err)
	for _, suffix := range []string{".keys", ".keys.ledger", ".kek"} {
		data, err := os.ReadFile(path + suffix)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(dump+suffix, data, 0o600))
	}
	thief := people(t, dump)
	for n, id := range ids {
		v, err := thief.dir.View(t.Context(), anybody, id, 0)
		if n != 7 {
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("Lastname%d", n), v.Profile.Names[0].Last.Reveal())
			continue
		}
		require.ErrorIs(t, err, crypto.ErrShredded)
		require.Empty(t, v)
	}
	// Nor does anything in the files of the database open it: not the wrapped key, which was overwritten.
	for _, file := range []string{dump, path, path + "-wal"} {
		data, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err)
		if file == path+"-wal" {
			continue // emptied by Finish; see below
		}
		require.NotContains(t, string(data), string(before.Wrapped), file)
	}
	require.NoError(t, sqlite.New(i.db).Finish(t.Context()))
	data, err := os.ReadFile(path + "-wal")
	require.NoError(t, err)
	require.NotContains(t, string(data), string(before.Wrapped))

	_, err = store.PutKeys(t.Context(), []crypto.KeyChange{{Key: before}})
	require.NoError(t, err)
	_, err = people(t, path).dir.View(t.Context(), anybody, ids[7], 0)
	require.ErrorIs(t, err, crypto.ErrShredded)
}

// BenchmarkImportPatrons imports 20,000 new patrons with nine segments and three identifiers each.
func BenchmarkImportPatrons(b *testing.B) {
	const n = 20_000
	for b.Loop() {
		b.StopTimer()
		i, _ := newPeople(b)
		b.StartTimer()
		fillPeople(b, i, n)
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "patrons/s")
}
