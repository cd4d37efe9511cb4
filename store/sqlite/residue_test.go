package sqlite_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/sqlite"
)

// TestNothingIsLeftInTheFiles plants borrowers and texts of many lengths in random order, unlinks most of
// them in random order and looks for each in every byte of the database's files. Borrowers come and go in
// three rounds, so that pages of the trees are split and merged, which is what leaves copies behind.
func TestNothingIsLeftInTheFiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	defer db.Close()
	migrate(t, db)
	s := sqlite.New(db)
	_, err = db.Exec("ANALYZE")
	require.NoError(t, err)

	canary := func() string {
		b := make([]byte, 8+r.IntN(50))
		for i := range b {
			b[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[r.IntN(36)]
		}
		return "<" + string(b) + ">"
	}
	planted := map[string]string{} // what was planted, by the loan that names it
	texts := map[string]string{}
	for round := range 3 {
		var entries []circulation.Entry
		for i := range 3000 {
			id := fmt.Sprintf("%d-%d", round, i)
			planted[id], texts[id] = canary(), canary()
			entries = append(entries, circulation.Loan{ID: id, Borrower: circulation.Borrower(planted[id]), Loaned: day(i % 50), Returned: day(60), Note: texts[id]})
		}
		r.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		save(t, s, entries[:1500]...)
		save(t, s, entries[1500:]...)
		_, err = db.Exec("ANALYZE")
		require.NoError(t, err)

		all := linked(t, s, circulation.KindLoan)
		var targets []circulation.Record
		for id, rec := range all { // in random order
			if r.IntN(3) > 0 {
				targets = append(targets, rec)
				delete(all, id)
			}
		}
		for len(targets) > 0 {
			n := min(len(targets), 500)
			require.Empty(t, unlink(t, s, targets[:n]...))
			targets = targets[n:]
		}
		require.NoError(t, s.Finish(t.Context()))
		left := func() (hits int) {
			files, err := filepath.Glob(filepath.Join(dir, "*"))
			require.NoError(t, err)
			for _, f := range files {
				content, err := os.ReadFile(f)
				require.NoError(t, err)
				for id := range planted {
					if _, kept := all[id]; !kept {
						hits += bytes.Count(content, []byte(planted[id])) + bytes.Count(content, []byte(texts[id]))
					} else if f == path {
						require.True(t, bytes.Contains(content, []byte(planted[id])), "the search finds what is there")
					}
				}
			}
			return hits
		}
		require.Zero(t, left(), "round %d, open", round)
		if round == 2 {
			require.NoError(t, db.Close())
			require.Zero(t, left(), "closed")
		}
	}
}
