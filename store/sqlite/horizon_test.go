package sqlite_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
)

// TestForgottenStayForgotten is a backup, an erasure of one in ten, and every way back that there is: the database restored, the ledger lost or put back, and
// after the horizon everything at once in the wrong hands.
func TestForgottenStayForgotten(t *testing.T) {
	patrons := 1000
	if raceEnabled { // which makes SQLite fifty times slower
		patrons = 50
	}
	i, path := newPeople(t)
	fillPeople(t, i, patrons)
	borrow(t, i, patrons)
	ids := make([]patron.ID, patrons)
	subjects := make([]crypto.Subject, patrons)
	for n := range ids {
		id, err := i.dir.Find(t.Context(), anybody, crypto.NewSecret(fmt.Sprint("user", n)))
		require.NoError(t, err)
		ids[n], subjects[n] = id, id.Subject()
	}
	backup := filepath.Join(t.TempDir(), "backup.db")
	_, err := i.db.ExecContext(t.Context(), "VACUUM INTO ?", backup)
	require.NoError(t, err)
	read := func(path string) []byte {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		return data
	}
	older := read(path + ".keys.ledger")
	erased := patrons / 10
	require.NoError(t, i.keys.Shred(t.Context(), subjects[:erased]...))
	ledger := read(path + ".keys.ledger")

	// restored puts the backup into a place of its own, with the keys of today and some ledger.
	restored := func(ledger []byte) string {
		at := filepath.Join(t.TempDir(), "restored.db")
		for suffix, data := range map[string][]byte{"": read(backup), ".kek": read(path + ".kek"), ".keys": read(path + ".keys"), ".keys.ledger": ledger} {
			if data != nil {
				require.NoError(t, os.WriteFile(at+suffix, data, 0o600))
			}
		}
		return at
	}
	looksAt := func(i *installation, who func(n int, v patron.View, err error)) {
		for n, id := range ids {
			v, err := i.dir.View(t.Context(), anybody, id, 0)
			who(n, v, err)
		}
	}
	readable := func(n int, v patron.View, err error) {
		if n < erased {
			require.ErrorIs(t, err, crypto.ErrShredded, n)
			require.Empty(t, v)
			return
		}
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint("Lastname", n), v.Profile.Names[0].Last.Reveal())
	}
	looksAt(people(t, restored(ledger)), readable)

	lines := bytes.SplitAfter(ledger, []byte("\n"))
	last := len(lines) - 2
	forged := bytes.Clone(ledger)
	forged[len(forged)-40] ^= 1
	for what, ledger := range map[string][]byte{"missing": nil, "older": older, "forged": forged, "truncated": bytes.Join(lines[:last], nil)} {
		_, err := openPeople(restored(ledger))
		require.ErrorIs(t, err, crypto.ErrLedger, what)
	}

	require.NoError(t, i.keys.SetSchedule(t.Context(), crypto.Schedule{Horizon: 24 * time.Hour}))
	_, err = i.keys.Rotate(t.Context(), nil)
	require.NoError(t, err)
	r, err := afterwards(t, i, path, 25*time.Hour).Tend(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, []uint32{1}, r.Ended)
	looksAt(people(t, path), readable)
	borrowersAreKnown(t, path, patrons)

	// The horizon has passed. Whoever has the backup, the keyring and the KEK takes all marks out of it that would stop them.
	_, err = openPeople(restored(ledger))
	require.ErrorIs(t, err, crypto.ErrEnded)
	thiefs := restored(ledger)
	db, err := openBare(thiefs)
	require.NoError(t, err)
	_, err = db.Exec("DELETE FROM subject_keys WHERE subject LIKE 'carrel %'")
	require.NoError(t, err)
	require.NoError(t, db.Close())
	thief := people(t, thiefs)
	looksAt(thief, func(n int, v patron.View, err error) {
		require.Error(t, err, n)
		require.Empty(t, v)
		if n >= erased {
			require.ErrorIs(t, err, crypto.ErrNoEpoch)
		}
	})
	borrowers, err := thief.keys.Pseudonyms(patron.Borrowers)
	require.NoError(t, err)
	guesses := map[string]bool{}
	for n := range patrons {
		all, err := borrowers.Tokens(fmt.Sprint("user", n))
		require.NoError(t, err)
		for _, token := range all {
			guesses[token] = true
		}
	}
	tokens := 0
	var token string
	rows, err := thief.db.Query("SELECT borrower FROM persons")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		require.NoError(t, rows.Scan(&token))
		tokens++
		_, err := borrowers.Open(token)
		require.ErrorIs(t, err, crypto.ErrNotPseudonym)
		require.False(t, guesses[token])
	}
	require.NoError(t, rows.Err())
	require.Equal(t, patrons, tokens)
}

func openBare(path string) (*sql.DB, error) { return sql.Open("sqlite", sqlite.DSN(path)) }
