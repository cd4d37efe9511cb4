package residue_test

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/research/residue"
)

// numbersFile makes a database of small numbers that have nothing to do with each other, and a sample of loans in numbers of the same size.
func numbersFile(t testing.TB, rows, loans int) (path string, db *sql.DB, sample *residue.Sample, pairs [][2]int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 4))
	path, db = newFile(t, `CREATE TABLE borrowers (borrowernumber INTEGER PRIMARY KEY, branch INTEGER, visits INTEGER)`,
		`CREATE TABLE items (itemnumber INTEGER PRIMARY KEY, biblionumber INTEGER, branch INTEGER, issues INTEGER)`,
		`CREATE TABLE old_issues (issue_id INTEGER PRIMARY KEY, itemnumber INTEGER, borrowernumber INTEGER, renewals INTEGER)`,
		`CREATE TABLE noise (id INTEGER PRIMARY KEY, a INTEGER, b INTEGER, c INTEGER, d TEXT, e REAL)`)
	tx, err := db.Begin()
	require.NoError(t, err)
	for i := range 2000 {
		_, err = tx.Exec(`INSERT INTO borrowers VALUES (?, ?, ?)`, i+1, rng.IntN(20), rng.IntN(3000))
		require.NoError(t, err)
	}
	for i := range 5000 {
		_, err = tx.Exec(`INSERT INTO items VALUES (?, ?, ?, ?)`, i+1, rng.IntN(4000), rng.IntN(20), rng.IntN(100))
		require.NoError(t, err)
	}
	noise, err := tx.Prepare(`INSERT INTO noise VALUES (?, ?, ?, ?, ?, ?)`)
	require.NoError(t, err)
	for i := range rows {
		_, err = noise.Exec(i+1, rng.IntN(2000), rng.IntN(5000), rng.IntN(50), fmt.Sprint(rng.IntN(2000)), float64(rng.IntN(5000)))
		require.NoError(t, err)
	}
	sample = residue.NewSample(0)
	for i := range loans {
		who, what := 1+rng.IntN(2000), 1+rng.IntN(5000)
		_, err = tx.Exec(`INSERT INTO old_issues VALUES (?, ?, NULL, ?)`, 90_000+i, what, rng.IntN(4))
		require.NoError(t, err)
		sample.Add(residue.Pair{Person: []string{fmt.Sprint(who)}, Thing: []string{fmt.Sprint(what)}})
		pairs = append(pairs, [2]int{who, what})
	}
	require.NoError(t, tx.Commit())
	return path, db, sample, pairs
}

// A hundred thousand rows of small numbers join people to things ten thousand times by chance, and that is not a finding. The same
// numbers in two columns that belong together are one, and so is a fee that points at a loan.
func TestNumbersNeedMany(t *testing.T) {
	rows := 100_000
	if residue.RaceDetector {
		rows = 10_000
	}
	path, db, sample, pairs := numbersFile(t, rows, 1000)
	assert.Empty(t, search(t, path, sample).Findings)

	exec(t, db, `CREATE TABLE statistics (datetime TEXT, branch INTEGER, itemnumber INTEGER, borrowernumber INTEGER)`)
	for i, p := range pairs {
		if i%4 == 0 {
			_, err := db.Exec(`INSERT INTO statistics VALUES ('2026', ?, ?, ?)`, i%20, p[1], p[0])
			require.NoError(t, err)
		}
	}
	r := search(t, path, sample)
	require.Len(t, r.Findings, 1)
	assert.Equal(t, "statistics.borrowernumber beside statistics.itemnumber", r.Findings[0].Where())
	assert.InDelta(t, 250, r.Findings[0].Pairs, 5)
	assert.Less(t, r.Findings[0].Expected, 5.)

	// What was dropped is in free pages, whose rows still look like rows.
	exec(t, db, `PRAGMA secure_delete = OFF`, `DROP TABLE statistics`)
	r = search(t, path, sample)
	require.Len(t, r.Findings, 1)
	assert.Equal(t, "free pages.column 4 beside free pages.column 3", r.Findings[0].Where())
	exec(t, db, `VACUUM`)
	assert.Empty(t, search(t, path, sample).Findings)

	exec(t, db, `CREATE TABLE accountlines (accountlines_id INTEGER PRIMARY KEY, borrowernumber INTEGER, issue_id INTEGER, amount INTEGER)`)
	for i, p := range pairs {
		if i%10 == 0 {
			_, err := db.Exec(`INSERT INTO accountlines VALUES (?, ?, ?, ?)`, i, p[0], 90_000+i, i%300)
			require.NoError(t, err)
		}
	}
	r = search(t, path, sample)
	require.Len(t, r.Findings, 1)
	assert.Equal(t, "accountlines.issue_id = old_issues.issue_id, old_issues.itemnumber", r.Findings[0].Where())
	assert.InDelta(t, 100, r.Findings[0].Pairs, 5)
}

// One loan by numbers is found, and said to be weak.
func TestOneLoanInNumbers(t *testing.T) {
	path, db := newFile(t, `CREATE TABLE statistics (id INTEGER PRIMARY KEY, itemnumber INTEGER, borrowernumber INTEGER)`)
	for i := range 1000 {
		exec(t, db, fmt.Sprintf(`INSERT INTO statistics VALUES (%d, %d, %d)`, 70_000+i, i*7919%1000, i*104729%1000))
	}
	s := residue.NewSample(0)
	s.Add(residue.Pair{Person: []string{fmt.Sprint(5 * 104729 % 1000)}, Thing: []string{fmt.Sprint(5 * 7919 % 1000)}})
	r := search(t, path, s)
	require.Len(t, r.Findings, 1)
	assert.True(t, r.Findings[0].Weak)
}

// Of more loans than it keeps, a sample keeps some, each with the same chance.
func TestSampleIsDrawn(t *testing.T) {
	s := residue.NewSample(100)
	assert.False(t, s.Add(residue.Pair{Person: []string{" "}, Thing: []string{"x"}}))
	for i := range 10_000 {
		s.Add(residue.Pair{Person: []string{fmt.Sprintf("p-%06d", i)}, Thing: []string{"x"}})
	}
	assert.Equal(t, 100, s.Len())
	assert.Equal(t, 10_000, s.Given())
	late := 0
	require.NoError(t, s.Extend(func(id string) ([]string, error) {
		if id >= "p-005000" {
			late++
		}
		return nil, nil
	}))
	assert.InDelta(t, 50, late, 25)
}
