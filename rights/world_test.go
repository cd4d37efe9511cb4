package rights_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/internal/pgtest"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/rights"
	"github.com/carrel-project/carrel/store/postgres"
	"github.com/carrel-project/carrel/store/sqlite"
)

// A store is what both databases can do with circulation records.
type store interface {
	rights.Circulation
	rights.Holder
	anonymize.Finisher
	crypto.TokenStore
	Save(context.Context, iter.Seq2[circulation.Entry, error]) (circulation.Saved, error)
	SaveAccounts(context.Context, iter.Seq2[circulation.Account, error]) (circulation.Saved, error)
	Receipts(context.Context) ([]anonymize.Receipt, error)
}

// A library is a database with its keys, its trail and its office, as one process has it open.
type library struct {
	t     testing.TB
	path  string // what the files beside it begin with; of a SQLite database also its own
	db    *sql.DB
	store store
	keys  *crypto.Keyring
	log   audit.Store
	trail *audit.Trail
	dir   *patron.Directory
	*rights.Office
}

const rules = `
carrel-access: 1
id: test
revision: 1
title: All of it, and some of it
purposes: {legal: What the law lets a patron ask for, checkout: Lending}
roles:
  all:
    why: Tests
    for:
      legal: {names: full, addresses: full, phones: full, emails: full, identifiers: full, birth: full, blocks: full, notes: full, roles: full, campus: full, statistics: full, photo: full, may: [create, change, import, export, find, erase, restrict]}
  desk:
    why: Lends
    for:
      checkout: {names: full, emails: masked, identifiers: full, may: [find, change, export]}
  self:
    why: The patron
    for:
      legal: {names: full, addresses: full, phones: full, emails: full, identifiers: full, birth: full, blocks: full, notes: full, roles: full, campus: full, statistics: full, photo: full, may: [export]}
`

var (
	officer = patron.Call{Actor: "dpo-1", Role: "all", Purpose: "legal", Channel: audit.CLI}
	desk    = patron.Call{Actor: "staff-17", Role: "desk", Purpose: "checkout", Channel: audit.UI}

	demand = rights.Request{Approval: "demand 31"}
)

// eachDatabase runs a test on SQLite and, where there is a server, on PostgreSQL.
func eachDatabase(t *testing.T, run func(t *testing.T, l *library)) {
	t.Run("SQLite", func(t *testing.T) { run(t, newLibrary(t)) })
	t.Run("PostgreSQL", func(t *testing.T) {
		server := os.Getenv("CARREL_TEST_POSTGRES")
		if server == "" {
			t.Skip("SKIPPED, NOTHING WAS TESTED: CARREL_TEST_POSTGRES names no server")
		}
		db, _ := pgtest.Schema(t, server, postgres.Migrations())
		l := &library{t: t, path: filepath.Join(t.TempDir(), "library"), db: db, store: postgres.New(db), log: postgres.NewLog(db)}
		l.install()
		l.open(rights.Config{}, postgres.NewKeys(db), postgres.NewPatrons(db))
		run(t, l)
	})
}

func newLibrary(t testing.TB) *library {
	path := filepath.Join(t.TempDir(), "library")
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	names, err := fs.Glob(sqlite.Migrations(), "*.sql")
	require.NoError(t, err)
	for _, name := range names {
		text, err := fs.ReadFile(sqlite.Migrations(), name)
		require.NoError(t, err)
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		_, err = db.Exec(up)
		require.NoError(t, err, name)
	}
	require.NoError(t, db.Close())
	l := &library{t: t, path: path}
	l.install()
	return openLibrary(t, path, rights.Config{})
}

// openLibrary opens a SQLite database with its keys, like a process of its own.
func openLibrary(t testing.TB, path string, cfg rights.Config) *library {
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	l := &library{t: t, path: path, db: db, store: sqlite.New(db), log: sqlite.NewLog(db)}
	l.open(cfg, sqlite.NewKeys(db), sqlite.NewPatrons(db))
	return l
}

func (l *library) install() {
	require.NoError(l.t, crypto.CreateKEK(l.path+".kek"))
	kek, err := crypto.OpenKEK(l.path + ".kek")
	require.NoError(l.t, err)
	require.NoError(l.t, crypto.CreateKeyring(l.path+".keys", kek))
}

func (l *library) open(cfg rights.Config, keys crypto.KeyStore, patrons patron.Store) {
	t := l.t
	kek, err := crypto.OpenKEK(l.path + ".kek")
	require.NoError(t, err)
	l.keys, err = crypto.OpenKeyring(t.Context(), crypto.Config{Path: l.path + ".keys", KEK: kek, Store: keys, Tokens: l.store, CacheTTL: time.Second})
	require.NoError(t, err)
	l.trail, err = audit.New(t.Context(), audit.Config{Store: l.log, Keys: l.keys, Anchors: []audit.Anchor{audit.NewFileAnchor(l.path + ".anchor")}})
	require.NoError(t, err)
	t.Cleanup(func() { l.trail.Close(context.Background()) })
	matrix, err := access.ParseMatrix([]byte(rules))
	require.NoError(t, err)
	l.dir, err = patron.New(patron.Config{Store: patrons, Keys: l.keys, Access: matrix, Recorder: l.trail})
	require.NoError(t, err)
	l.with(cfg)
}

// with makes the office anew.
func (l *library) with(cfg rights.Config) {
	reporter, err := audit.NewReporter(audit.ReporterConfig{Store: l.log, Keys: l.keys, Recorder: l.trail})
	require.NoError(l.t, err)
	cfg.Directory, cfg.Circulation, cfg.Keys, cfg.Trail, cfg.Reporter = l.dir, l.store, l.keys, l.trail, reporter
	l.Office, err = rights.New(cfg)
	require.NoError(l.t, err)
}

func secret(format string, args ...any) crypto.Secret {
	return crypto.NewSecret(fmt.Sprintf(format, args...))
}

// canary is in everything that is written about the nth patron, and about nobody else.
func canary(n int) string { return fmt.Sprintf("Quetzalcoatl%04dx", n) }

// profile is a patron with something in many segments.
func profile(n int) patron.Profile {
	return patron.Profile{
		Facts:       patron.Facts{Group: "students", Library: "main", Expires: time.Now().AddDate(0, 0, -n-1).UTC().Truncate(time.Second)},
		Names:       []patron.Name{{Use: "legal", First: secret("Anna"), Last: secret("%s", canary(n))}},
		Emails:      []patron.Email{{Use: "school", Address: secret("%s@example.org", canary(n))}},
		Identifiers: []patron.Identifier{{Use: "barcode", Value: secret("2900%06d", n)}, {Use: "patron", Value: secret("%d", n)}},
		Birth:       secret("1984-02-29"),
		Notes:       []patron.Note{{Use: "general", Text: secret("note on %s", canary(n))}},
	}
}

// join makes the nth patron.
func (l *library) join(n int) patron.ID {
	l.t.Helper()
	id, err := l.dir.Create(l.t.Context(), officer, profile(n))
	require.NoError(l.t, err)
	return id
}

// borrower is the token by which an import names the nth patron, by the number that the library system has for them.
func (l *library) borrower(n int) circulation.Borrower {
	return l.token(patron.Reference("patron", fmt.Sprint(n)))
}

func (l *library) token(reference string) circulation.Borrower {
	l.t.Helper()
	p, err := l.keys.Pseudonyms(patron.Borrowers)
	require.NoError(l.t, err)
	epoch, err := l.store.TokenEpoch(l.t.Context())
	require.NoError(l.t, err)
	p, err = p.Of(epoch)
	require.NoError(l.t, err)
	token, err := p.Token(reference)
	require.NoError(l.t, err)
	return circulation.Borrower(token)
}

func (l *library) text(s string) string {
	p, err := l.keys.Pseudonyms(patron.Texts)
	require.NoError(l.t, err)
	token, err := p.Token(s)
	require.NoError(l.t, err)
	return token
}

func (l *library) save(entries ...circulation.Entry) {
	l.t.Helper()
	_, err := l.store.Save(l.t.Context(), func(yield func(circulation.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	})
	require.NoError(l.t, err)
}

var (
	began = time.Date(2026, 2, 3, 9, 8, 7, 0, time.UTC)
	over  = time.Date(2026, 3, 17, 10, 11, 12, 0, time.UTC)
)

func loan(id string, b circulation.Borrower) circulation.Loan {
	return circulation.Loan{ID: id, Borrower: b, Group: "students", Library: "main", Location: "stacks", Type: "book", Item: "item-" + id, Loaned: began, Due: began.AddDate(0, 0, 28), Returned: over}
}

// history gives the nth patron records of all kinds, all of them over, and one in which they collect something for patron n+1.
func (l *library) history(n int) (records int) {
	b := l.borrower(n)
	id := func(s string) string { return fmt.Sprint(s, n) }
	proxied := loan(id("proxied"), l.borrower(n+1))
	proxied.Proxy = b
	noted := loan(id("noted"), b)
	noted.Note = l.text("spoke with " + canary(n))
	byID := loan(id("by-id"), l.token(l.id(n).String()))
	l.save(proxied, noted, loan(id("loan"), b), byID,
		circulation.Request{ID: id("request"), Borrower: b, Item: "item-r", Requested: began, Closed: over, Outcome: circulation.RequestFilled, Loan: id("loan")},
		circulation.Sharing{ID: id("sharing"), Borrower: b, Recipient: b, Item: "item-s", Requested: began, Closed: over, State: circulation.SharingCompleted, Address: l.text("street of " + canary(n))},
		circulation.Fee{ID: id("fee"), Borrower: b, Type: "overdue", Amount: 1250, Charged: began, Closed: over, Status: circulation.FeeClosed, Outcome: circulation.FeePaid, Method: "cash", Loan: id("noted")},
		circulation.Notice{ID: id("notice"), Borrower: b, Type: "hold-ready", Created: began, Sent: over, Outcome: circulation.NoticeSent, Body: l.text("Dear " + canary(n))})
	return 7
}

// id finds the nth patron.
func (l *library) id(n int) patron.ID {
	l.t.Helper()
	id, err := l.dir.Find(l.t.Context(), officer, secret("2900%06d", n))
	require.NoError(l.t, err)
	return id
}

// borrowers are all that the database knows.
func (l *library) borrowers() iter.Seq2[circulation.Borrower, error] {
	return func(yield func(circulation.Borrower, error) bool) {
		rows, err := l.db.Query("SELECT borrower FROM persons")
		require.NoError(l.t, err)
		var all []circulation.Borrower
		for rows.Next() {
			var b circulation.Borrower
			require.NoError(l.t, rows.Scan(&b))
			all = append(all, b)
		}
		require.NoError(l.t, rows.Err())
		for _, b := range all {
			if !yield(b, nil) {
				return
			}
		}
	}
}

// named returns how many records name the nth patron, in whatever role.
func (l *library) named(id patron.ID, n int) int {
	l.t.Helper()
	page, err := l.store.Named(l.t.Context(), rights.Query{Persons: []circulation.Borrower{l.borrower(n), l.token(id.String())}, Limit: 10_000})
	require.NoError(l.t, err)
	return len(page.Records)
}

func (l *library) erase(id patron.ID) rights.Certificate {
	l.t.Helper()
	c, err := l.Erase(l.t.Context(), officer, id, demand)
	require.NoError(l.t, err)
	return c
}

// opened checks the certificate's signature and returns what it says.
func (l *library) opened(c rights.Certificate) rights.Certificate {
	l.t.Helper()
	key, err := audit.VerifierKey(l.t.Context(), l.keys)
	require.NoError(l.t, err)
	got, err := rights.OpenCertificate(c.Signed, key)
	require.NoError(l.t, err)
	return got
}

// events returns the trail as text, with the people in it by their IDs as far as they live.
func (l *library) events() string {
	l.t.Helper()
	r, err := audit.NewReporter(audit.ReporterConfig{Store: l.log, Keys: l.keys, Recorder: l.trail, Thorough: true})
	require.NoError(l.t, err)
	var b bytes.Buffer
	_, err = r.WriteJSONL(l.t.Context(), audit.By{Actor: "auditor", Role: "auditor", Channel: audit.CLI, Approval: "test"}, &b, audit.LogFilter{Name: true})
	require.NoError(l.t, err)
	return b.String()
}
