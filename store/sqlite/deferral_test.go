package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/sqlite"
)

const ninety = `
carrel-retention: 1
id: test/ninety
records:
  loans: [{name: ninety, after: P90D}]
`

func parse(t testing.TB, text string) *anonymize.Policy {
	p, err := anonymize.ParsePolicy([]byte(text))
	require.NoError(t, err)
	return p
}

func sweepAt(t testing.TB, s anonymize.Store, p *anonymize.Policy, at time.Time, cfg anonymize.Config) *anonymize.KindReport {
	cfg.Now = func() time.Time { return at }
	sweep, err := anonymize.NewSweep(s, p, cfg)
	require.NoError(t, err)
	report, err := sweep.Run(context.Background(), at)
	require.NoError(t, err)
	return report.Kinds["loan"]
}

// A spy notes every query.
type spy struct {
	*sql.DB
	queries []spied
}

type spied struct {
	text string
	args []any
}

func (s *spy) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	s.queries = append(s.queries, spied{query, args})
	return s.DB.QueryContext(ctx, query, args...)
}

// A night reads no more than what is due: it says so itself, and so does SQLite of how it would find the rows.
func TestNightReadsWhatIsDue(t *testing.T) {
	db, s, _ := open(t)
	var entries []circulation.Entry
	for i := range 3000 {
		entries = append(entries, loan(fmt.Sprint("l", i), fmt.Sprint("b", i%50), 0, i%100))
	}
	save(t, s, entries...)
	// As if many more had come and gone.
	_, err := db.Exec("UPDATE serials SET last = last + 70000 WHERE kind = 1")
	require.NoError(t, err)
	p := parse(t, ninety)
	first := sweepAt(t, s, p, day(85), anonymize.Config{})
	require.Equal(t, 3000, first.Kept)
	require.Zero(t, first.Deferred)
	fast := sweepAt(t, s, p, day(95), anonymize.Config{Fast: true, PageSize: 7})
	require.Equal(t, 150, fast.LinkedBefore, "returned on days 0 to 4")
	require.Equal(t, 150, fast.Unlinked)
	again := sweepAt(t, s, p, day(95), anonymize.Config{})
	require.Equal(t, 2850, again.Kept)
	require.Equal(t, 2850, again.Deferred)

	q := anonymize.Query{Kind: circulation.KindLoan, Limit: 20, At: day(97), Needs: anonymize.NeedEverything}
	require.NoError(t, db.QueryRow("SELECT name FROM plan").Scan(&q.Plan))
	watched := &spy{DB: db}
	through := sqlite.New(watched)
	read := 0
	for {
		page, err := through.Linked(t.Context(), q)
		require.NoError(t, err)
		read += len(page.Records)
		if q.Cursor = page.Cursor; q.Cursor == "" {
			break
		}
	}
	require.Equal(t, 60, read, "returned on days 5 and 6")
	indexed := 0
	for _, query := range watched.queries {
		if !strings.Contains(query.text, "links_plan") {
			continue
		}
		indexed++
		rows, err := db.Query("EXPLAIN QUERY PLAN "+query.text, query.args...)
		require.NoError(t, err)
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
			plan = append(plan, detail)
		}
		require.NoError(t, rows.Err())
		require.Regexp(t, `^SEARCH l USING INDEX links_plan \(<expr>=\? AND ((plan>\?|\(plan,next\)>\(\?,\?\)) AND \(plan,next\)<\(\?,\?\)|plan=\? AND next=\? AND rowid>\?( AND rowid<\?)?)\)$`, plan[0])
		require.NotContains(t, strings.Join(plan, "\n"), "ORDER BY", "nothing has to be sorted")
	}
	require.Greater(t, indexed, 3)
}

// The policy is changed in the middle of a pass: what the pass has left out so far is read after all.
func TestPlanReplacedInTheMiddle(t *testing.T) {
	_, s, _ := open(t)
	for i := range 9 {
		save(t, s, loan(fmt.Sprint("l", i), "b", 0, 1))
	}
	defers := func(plan string) {
		require.NoError(t, s.Resume(t.Context(), plan, 0))
		d := anonymize.Deferral{Plan: plan, Kind: circulation.KindLoan}
		for _, r := range linked(t, s, circulation.KindLoan) {
			if r.ID < "l5" {
				d.Records = append(d.Records, anonymize.Deferred{ID: r.ID, Version: r.Version})
			}
		}
		require.NoError(t, s.Defer(t.Context(), d))
	}
	defers("one")
	q := anonymize.Query{Kind: circulation.KindLoan, Limit: 2, At: day(9), Plan: "one"}
	page, err := s.Linked(t.Context(), q)
	require.NoError(t, err)
	require.Len(t, page.Records, 2)
	defers("two")
	defers("one")
	require.NoError(t, s.Resume(t.Context(), "two", 0))
	seen := map[string]bool{}
	for q.Cursor = page.Cursor; q.Cursor != ""; q.Cursor = page.Cursor {
		page, err = s.Linked(t.Context(), q)
		require.NoError(t, err)
		for _, r := range page.Records {
			require.False(t, seen[r.ID])
			seen[r.ID] = true
		}
	}
	require.Len(t, seen, 9)
}

// A database of an earlier schema is read whole in its first night, and goes back.
func TestDeferralMigrates(t *testing.T) {
	db, s, _ := open(t)
	for i := range 5 {
		save(t, s, loan(fmt.Sprint("l", i), "b", 0, 1+i))
	}
	sweepAt(t, s, parse(t, ninety), day(50), anonymize.Config{})
	for range 2 {
		for _, up := range migrateDown(t, db, 4) {
			require.ErrorIs(t, s.CheckSchema(t.Context()), sqlite.ErrOlderSchema)
			_, err := db.Exec(up)
			require.NoError(t, err)
		}
		require.NoError(t, s.CheckSchema(t.Context()))
		night := sweepAt(t, s, parse(t, ninety), day(60), anonymize.Config{})
		require.Equal(t, 5, night.Kept)
		require.Zero(t, night.Deferred)
	}
	save(t, s, loan("gone", "c", 0, 0))
	unlink(t, s, linked(t, s, circulation.KindLoan)["gone"])
	require.NoError(t, s.Finish(t.Context())) // writes the tables anew
	night := sweepAt(t, s, parse(t, ninety), day(93), anonymize.Config{})
	require.Equal(t, 2, night.Unlinked, "returned on days 1 and 2")
	require.Equal(t, 3, night.Deferred)
}

// A number of a change that was never made is of a state that a backup has replaced.
func TestDeferralFromBeforeARestore(t *testing.T) {
	db, s, _ := open(t)
	save(t, s, loan("l", "b", 0, 1))
	require.NoError(t, s.Resume(t.Context(), "plan", 0))
	r := linked(t, s, circulation.KindLoan)["l"]
	d := anonymize.Deferral{Plan: "plan", Kind: circulation.KindLoan, Records: []anonymize.Deferred{{ID: r.ID, Version: r.Version}}}
	_, err := db.Exec("UPDATE changes SET last = last - 1; UPDATE plan SET number = number - 1, settled = settled - 1")
	require.NoError(t, err)
	require.NoError(t, s.Defer(t.Context(), d))
	page, err := s.Linked(t.Context(), anonymize.Query{Kind: circulation.KindLoan, Limit: 9, At: day(1), Plan: "plan"})
	require.NoError(t, err)
	require.Len(t, page.Records, 1)
}

// The desk imports the same file every night: what is as it was sleeps on.
func TestSavedAgainSleepsOn(t *testing.T) {
	_, s, _ := open(t)
	desk := func() {
		save(t, s, loan("l", "b", 0, 1), circulation.Fee{ID: "f", Borrower: "b", Loan: "l", Charged: day(1), Closed: day(2), Status: circulation.FeeClosed})
		_, err := s.SaveAccounts(t.Context(), all(circulation.Account{Borrower: "b", Group: "students"}))
		require.NoError(t, err)
	}
	desk()
	p := parse(t, ninety)
	sweepAt(t, s, p, day(50), anonymize.Config{})
	desk()
	require.Equal(t, 1, sweepAt(t, s, p, day(51), anonymize.Config{}).Deferred)
}

// What makes older loans of a borrower and of an item wake is written beside both. It must not join them when the loan is unlinked.
func TestWakingJoinsNobody(t *testing.T) {
	db, s, _ := open(t)
	p := parse(t, `
carrel-retention: 1
id: test/newer
records:
  loans:
    - {name: item, group: [students], after: at once, keep-last: 1, per: item, at-most: P1Y}
    - {name: borrower, after: at once, keep-last: 1}
`)
	_, err := s.SaveAccounts(t.Context(), all(circulation.Account{Borrower: "a"}, circulation.Account{Borrower: "b"}, circulation.Account{Borrower: "c"}))
	require.NoError(t, err)
	sweepAt(t, s, p, day(1), anonymize.Config{})
	for i, b := range []string{"a", "b", "c"} {
		save(t, s, loan("l"+b, b, 2+i, 3+i))
	}
	require.Equal(t, 3, count(t, db, "SELECT count(*) FROM persons WHERE stirred = 1"))
	require.Equal(t, 3, count(t, db, "SELECT count(*) FROM items WHERE stirred = 1"))
	unlink(t, s, linked(t, s, circulation.KindLoan)["lb"])
	require.NoError(t, s.Finish(t.Context()))
	for _, table := range []string{"persons", "items"} {
		require.Zero(t, count(t, db, "SELECT count(*) FROM "+table+" WHERE stirred <> 0"))
	}
}
