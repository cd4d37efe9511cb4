package sqlite_test

import (
	"database/sql"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/sqlite"
)

func fee(id, borrower, loan string, status circulation.FeeStatus) circulation.Fee {
	f := circulation.Fee{ID: id, Borrower: circulation.Borrower(borrower), Loan: loan, Charged: day(1), Amount: 100, Status: status}
	if status == circulation.FeeClosed {
		f.Closed, f.Outcome, f.Method = day(2), circulation.FeePaid, "cash"
	}
	return f
}

func count(t testing.TB, db *sql.DB, query string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow(query, args...).Scan(&n))
	return n
}

// An export that leaves out a borrower does not undo an exception.
func TestNamelessEntryKeepsWhatIsProtected(t *testing.T) {
	lost, claimed := loan("l1", "b1", 0, 10), loan("l1", "b1", 0, 10)
	lost.Lost, claimed.ClaimedReturned = true, true
	hold := func(until time.Time) func(*testing.T, *sqlite.Circulation) {
		return func(t *testing.T, s *sqlite.Circulation) {
			require.NoError(t, s.AddHold(t.Context(), circulation.Hold{Borrower: "b1", Ref: "c", Until: until}))
		}
	}
	none := func(*testing.T, *sqlite.Circulation) {}
	for name, c := range map[string]struct {
		loan   circulation.Loan
		fee    circulation.FeeStatus
		before func(*testing.T, *sqlite.Circulation)
		kept   bool
	}{
		"nothing":       {loan("l1", "b1", 0, 10), circulation.FeeClosed, none, false},
		"unfinished":    {loan("l1", "b1", 0, -1), circulation.FeeClosed, none, true},
		"lost":          {lost, circulation.FeeClosed, none, true},
		"claimed":       {claimed, circulation.FeeClosed, none, true},
		"fee open":      {loan("l1", "b1", 0, 10), circulation.FeeOpen, none, true},
		"fee disputed":  {loan("l1", "b1", 0, 10), circulation.FeeInProcess, none, true},
		"hold":          {loan("l1", "b1", 0, 10), circulation.FeeClosed, hold(time.Time{}), true},
		"hold for long": {loan("l1", "b1", 0, 10), circulation.FeeClosed, hold(time.Now().Add(time.Hour)), true},
		"hold over":     {loan("l1", "b1", 0, 10), circulation.FeeClosed, hold(time.Now().Add(-time.Hour)), false},
	} {
		t.Run(name, func(t *testing.T) {
			db, s, _ := open(t)
			c.loan.Comment = "canary"
			save(t, s, c.loan, fee("f1", "b1", "l1", c.fee))
			c.before(t, s)
			before := linked(t, s, circulation.KindLoan)["l1"]
			c.loan.Borrower, c.loan.Comment, c.loan.Library, c.loan.Loaned = "", "", "annex", day(5)
			if !c.kept {
				require.Equal(t, circulation.Saved{Updated: 1}, save(t, s, c.loan))
				require.Empty(t, linked(t, s, circulation.KindLoan))
				require.NotContains(t, dump(t, db), "canary")
				return
			}
			require.Equal(t, circulation.Saved{KeptLinked: 1}, save(t, s, c.loan))
			require.Contains(t, dump(t, db), "canary")
			after := linked(t, s, circulation.KindLoan)["l1"]
			require.Equal(t, "annex", after.Library)
			require.Equal(t, before.Fees, after.Fees)
			require.Equal(t, []string{"l1"}, unlink(t, s, before), "it is another version")
			require.Equal(t, circulation.Saved{KeptLinked: 1}, save(t, s, c.loan))
			require.Zero(t, count(t, db, "SELECT count(*) FROM links WHERE seq IS NULL OR item_seq IS NULL"))
		})
	}
	t.Run("the fee itself", func(t *testing.T) {
		db, s, _ := open(t)
		save(t, s, loan("l1", "b1", 0, 10), fee("f1", "b1", "l1", circulation.FeeOpen))
		require.Equal(t, circulation.Saved{KeptLinked: 1}, save(t, s, fee("f1", "", "l1", circulation.FeeInProcess)))
		require.Equal(t, circulation.FeeInProcess, linked(t, s, circulation.KindFee)["f1"].Fees[0].Status)
		require.Zero(t, count(t, db, "SELECT count(*) FROM fee_summaries"))
		require.Equal(t, circulation.Saved{Updated: 1}, save(t, s, fee("f1", "", "l1", circulation.FeeClosed)))
		require.Empty(t, linked(t, s, circulation.KindFee))
		require.Equal(t, 1, count(t, db, "SELECT count(*) FROM fee_summaries WHERE status = 2"))
		require.Len(t, linked(t, s, circulation.KindLoan)["l1"].Fees, 1)
	})
}

// A fee that names nobody any more and is owed again protects its loan, without a borrower of its own.
func TestUnlinkedFeeThatOpensAgain(t *testing.T) {
	for i, named := range []string{"canary", "", "canary", ""} {
		db, s, _ := open(t)
		closed := fee("f1", "canary", "l1", circulation.FeeClosed)
		save(t, s, loan("l1", "b1", 0, 10), loan("l2", "b2", 0, 10), closed)
		b := batch(linked(t, s, circulation.KindFee)["f1"])
		remembered := 0
		if i < 2 {
			b.Keep, remembered = new(anonymize.Keep), 1 // it cannot be told which summary was this fee's
		}
		conflicts, err := s.Unlink(t.Context(), b)
		require.NoError(t, err)
		require.Empty(t, conflicts)
		closed.Borrower = circulation.Borrower(named)
		before := linked(t, s, circulation.KindLoan)["l1"]
		require.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, closed))
		after := linked(t, s, circulation.KindLoan)["l1"]
		after.Version = before.Version
		require.Equal(t, before, after, "a late export changes nothing")
		require.Equal(t, 3, count(t, db, "SELECT (SELECT count(*) FROM records) + (SELECT count(*) FROM ties)"))

		for _, status := range []circulation.FeeStatus{circulation.FeeInProcess, circulation.FeeOpen} {
			stale := linked(t, s, circulation.KindLoan)["l1"]
			require.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, fee("f1", named, "l1", status)))
			require.Equal(t, []string{"l1"}, unlink(t, s, stale))
			now := linked(t, s, circulation.KindLoan)["l1"]
			require.Len(t, now.Fees, 1+remembered)
			require.True(t, slices.ContainsFunc(now.Fees, func(f circulation.FeeSummary) bool { return f.Status == status }))
			require.Equal(t, []string{"l1"}, unlink(t, s, now), "protected")
			require.Empty(t, linked(t, s, circulation.KindFee))
			require.Equal(t, circulation.Saved{KeptLinked: 1}, save(t, s, loan("l1", "", 0, 10)))
		}
		require.Equal(t, circulation.Saved{Added: 1, PointersDropped: 1}, save(t, s, circulation.Notice{ID: "n1", Borrower: "b1", Fee: "f1", Outcome: circulation.NoticeSent}))
		require.Empty(t, unlink(t, s, linked(t, s, circulation.KindLoan)["l2"]))

		stale := linked(t, s, circulation.KindLoan)["l1"]
		require.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, closed))
		require.Equal(t, []string{"l1"}, unlink(t, s, stale))
		now := linked(t, s, circulation.KindLoan)["l1"]
		require.True(t, slices.Contains(now.Fees, circulation.FeeSummary{Status: circulation.FeeClosed, Closed: day(2), Method: "cash"}))
		require.Zero(t, count(t, db, "SELECT count(*) FROM ties"))
		require.Len(t, now.Fees, 1+remembered)
		require.Equal(t, 1-remembered, count(t, db, "SELECT count(*) FROM records WHERE id = 'f1' AND started IS NOT NULL"), "what keep-fields took does not come back")
		require.Empty(t, unlink(t, s, now))
		require.NoError(t, s.Finish(t.Context()))
		require.NotContains(t, dump(t, db), "canary")
	}
}

// A fee that was imported without a borrower protects and releases its loan whomever it names later.
func TestFeeWithoutBorrowerFollowsItsStatus(t *testing.T) {
	db, s, _ := open(t)
	save(t, s, loan("l1", "b1", 0, 10), fee("f1", "", "l1", circulation.FeeClosed))
	require.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, fee("f1", "canary", "l1", circulation.FeeOpen)))
	require.Equal(t, []string{"l1"}, unlink(t, s, linked(t, s, circulation.KindLoan)["l1"]))
	require.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, fee("f1", "canary", "", circulation.FeeOpen)))
	require.Empty(t, linked(t, s, circulation.KindLoan)["l1"].Fees)
	require.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, fee("f1", "canary", "l1", circulation.FeeClosed)))
	require.Equal(t, circulation.FeeClosed, linked(t, s, circulation.KindLoan)["l1"].Fees[0].Status)
	require.Empty(t, linked(t, s, circulation.KindFee))
	require.Empty(t, unlink(t, s, linked(t, s, circulation.KindLoan)["l1"]))
	require.NotContains(t, dump(t, db), "canary")
}

// Rows that somebody wrote with SQL of their own, without a status.
func TestFeeOfUnknownStatusProtects(t *testing.T) {
	db, s, _ := open(t)
	save(t, s, loan("l1", "b1", 0, 10), fee("f1", "b1", "", circulation.FeeClosed))
	_, err := db.Exec(`UPDATE records SET fee_status = NULL WHERE id = 'f1';
		INSERT INTO records (n, id, status) VALUES (3 << 40 | 77, 'raw', 1); INSERT INTO ties SELECT 3 << 40 | 77, n FROM records WHERE id = 'l1'`)
	require.NoError(t, err)
	l := linked(t, s, circulation.KindLoan)["l1"]
	require.Equal(t, []circulation.FeeSummary{{Status: circulation.FeeOpen}}, l.Fees)
	require.Equal(t, []string{"l1"}, unlink(t, s, l))
	require.Equal(t, circulation.Saved{KeptLinked: 1}, save(t, s, loan("l1", "", 0, 10)))
	f := linked(t, s, circulation.KindFee)["f1"]
	require.Equal(t, circulation.FeeOpen, f.Fees[0].Status)
	require.Equal(t, []string{"f1"}, unlink(t, s, f))
	save(t, s, fee("f2", "b1", "l1", circulation.FeeClosed))
	require.Empty(t, unlink(t, s, linked(t, s, circulation.KindFee)["f2"]))
	require.Equal(t, []string{"l1"}, unlink(t, s, linked(t, s, circulation.KindLoan)["l1"]), "the tie of a row without a link still protects")
}

// A record that names somebody must not point at one that names nobody and has ended.
func TestNobodysLoanIsNotPointedAt(t *testing.T) {
	db, s, _ := open(t)
	save(t, s, loan("l1", "", 0, 10), loan("l2", "", 0, -1))
	require.Equal(t, circulation.Saved{Added: 2, PointersDropped: 1}, save(t, s, fee("f1", "b1", "l1", circulation.FeeClosed), fee("f2", "b1", "l2", circulation.FeeClosed)))
	require.Equal(t, circulation.Saved{Added: 1}, save(t, s, fee("f3", "", "l1", circulation.FeeClosed)))
	require.Equal(t, 2, count(t, db, "SELECT count(*) FROM ties"))
	require.Equal(t, circulation.Saved{Updated: 1}, save(t, s, loan("l2", "", 0, 10)))
	require.Equal(t, 1, count(t, db, "SELECT count(*) FROM ties"))
	require.Equal(t, circulation.Saved{Same: 1, PointersDropped: 1}, save(t, s, fee("f2", "b1", "l2", circulation.FeeClosed)))
}

func TestFinishForgetsHoldsThatRanOut(t *testing.T) {
	db, s, _ := open(t)
	save(t, s, loan("l1", "canary", 0, 10))
	require.NoError(t, s.AddHold(t.Context(), circulation.Hold{Borrower: "canary", Ref: "over", Until: time.Now().Add(50 * time.Millisecond)}))
	require.NoError(t, s.AddHold(t.Context(), circulation.Hold{Borrower: "other", Ref: "on", Until: time.Now().Add(time.Hour)}))
	require.Empty(t, unlink(t, s, linked(t, s, circulation.KindLoan)["l1"]), "long after it is over")
	_, err := db.Exec("ANALYZE")
	require.NoError(t, err)
	require.NoError(t, s.Finish(t.Context()))
	time.Sleep(60 * time.Millisecond)
	require.NoError(t, s.Finish(t.Context()), "nothing else changed")
	require.NotContains(t, dump(t, db), "canary")
	holds, err := s.Holds(t.Context())
	require.NoError(t, err)
	require.Len(t, holds, 1)
	if count(t, db, "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat4'") > 0 {
		require.Zero(t, count(t, db, "SELECT count(*) FROM sqlite_stat4"))
	}
}

// A row's number says neither where in the export the record stood nor who was seen first.
func TestNumbersTellNoOrder(t *testing.T) {
	db, s, _ := open(t)
	const loans, perBorrower = 4000, 10
	last := int64(-1)
	for round := range 3 {
		var entries []circulation.Entry
		for i := range loans {
			entries = append(entries, loan(fmt.Sprintf("%d-%04d", round, i), fmt.Sprintf("b%04d", i/perBorrower), 0, 10))
		}
		save(t, s, entries...)
		rows, err := db.Query("SELECT n FROM records WHERE id LIKE ? || '-%' ORDER BY id", round)
		require.NoError(t, err)
		var numbers []int64
		for rows.Next() {
			var n int64
			require.NoError(t, rows.Scan(&n))
			numbers = append(numbers, n)
		}
		require.NoError(t, rows.Close())
		require.Len(t, numbers, loans)
		require.Greater(t, slices.Min(numbers), last, "never given twice")
		last = slices.Max(numbers)
		require.Less(t, slices.Max(numbers)-slices.Min(numbers), int64(2*loans))
		near := 0
		for i := 1; i < loans; i++ {
			if d := numbers[i] - numbers[i-1]; d >= -2 && d <= 2 {
				near++
			}
		}
		require.Less(t, near, loans/20, "neighbours of the export")
	}
	require.LessOrEqual(t, last, int64(count(t, db, "SELECT last FROM serials WHERE kind = 1")))
	require.Zero(t, count(t, db, "SELECT count(*) FROM persons WHERE loans <> ?", 3*perBorrower))
	inOrder := count(t, db, "SELECT count(*) FROM (SELECT p > lag(p) OVER (ORDER BY borrower) AS up FROM persons) WHERE up")
	require.InDelta(t, loans/perBorrower/2, inOrder, loans/perBorrower/4)
	require.Len(t, linked(t, s, circulation.KindLoan), 3*loans)
}

func TestItemsThatNoLoanMentionsGo(t *testing.T) {
	db, s, _ := open(t)
	a, b, c := loan("l1", "b1", 0, 10), loan("l2", "b2", 1, 10), loan("l3", "b3", 0, 10)
	a.Item, b.Item, c.Item = "both", "both", "once"
	save(t, s, a, b, c)
	got := linked(t, s, circulation.KindLoan)
	batch := batch(got["l1"], got["l3"])
	batch.Keep = new(anonymize.Keep)
	conflicts, err := s.Unlink(t.Context(), batch)
	require.NoError(t, err)
	require.Empty(t, conflicts)
	require.NotContains(t, dump(t, db), "once")
	require.Equal(t, 1, count(t, db, "SELECT loans = 2 FROM items WHERE item = 'both'"))
}

func TestTextsAreToldApart(t *testing.T) {
	db, s, _ := open(t)
	l := loan("l1", "b1", 0, 10)
	for _, sep := range []string{"\x1e2\x1f", ",2 1 "} {
		l.Comment, l.Note = "a", "b"
		save(t, s, l)
		l.Comment, l.Note = "a"+sep+"b", ""
		require.Equal(t, circulation.Saved{Updated: 1}, save(t, s, l))
		require.Equal(t, 1, count(t, db, "SELECT count(*) FROM personal"))
		l.Comment = "a\x00b\xff,é"
		save(t, s, l)
		require.Equal(t, circulation.Saved{Same: 1}, save(t, s, l))
	}
}

// Entries of one Save wait to be written by block, but not for one another.
func TestEntriesOfOneSaveSeeEachOther(t *testing.T) {
	_, s, _ := open(t)
	require.Equal(t, circulation.Saved{Added: 6, Updated: 1, Same: 1, KeptLinked: 1}, save(t, s,
		loan("l1", "b1", 0, 10), loan("l2", "b1", 0, 10), loan("l3", "b1", 0, 10), loan("l4", "b1", 1, 10), // two blocks and a rest
		fee("f0", "b1", "", circulation.FeeClosed), fee("f1", "b1", "l4", circulation.FeeOpen),
		loan("l4", "", 1, 10), loan("l2", "", 0, 10), loan("l3", "b1", 0, 10)))
	got := linked(t, s, circulation.KindLoan)
	require.Len(t, got, 3)
	require.Equal(t, 1, got["l1"].NewerByBorrower)
	require.Equal(t, circulation.FeeOpen, got["l4"].Fees[0].Status)
}
