package postgres_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/postgres"
)

// What an attacker, or a crowded night, tried on the store, and what came of it once.

func oneLoan(id, borrower, item string, at time.Time) circulation.Entry {
	return circulation.Loan{ID: id, Borrower: circulation.Borrower(borrower), Item: item, Loaned: at, Returned: at}
}

func loansPage(t *testing.T, s *postgres.Circulation, plan string, needs anonymize.Needs, cursor string, limit int) anonymize.Page {
	t.Helper()
	p, err := s.Linked(t.Context(), anonymize.Query{Kind: circulation.KindLoan, Limit: limit, At: day0.AddDate(1, 0, 0), Needs: needs, Plan: plan, Cursor: cursor})
	require.NoError(t, err)
	return p
}

func idsOf(p anonymize.Page) string {
	var list []string
	for _, r := range p.Records {
		list = append(list, r.ID)
	}
	return strings.Join(list, " ")
}

func unlinkLoans(t *testing.T, s *postgres.Circulation, records ...circulation.Record) (conflicts []string) {
	t.Helper()
	b := anonymize.Batch{Kind: circulation.KindLoan, At: day0.AddDate(1, 0, 0)}
	for _, r := range records {
		b.Targets = append(b.Targets, anonymize.Target{ID: r.ID, Version: r.Version})
	}
	conflicts, err := s.Unlink(t.Context(), b)
	require.NoError(t, err)
	return conflicts
}

func putOff(t *testing.T, s *postgres.Circulation, plan string, needs anonymize.Needs, until time.Time, records ...circulation.Record) {
	t.Helper()
	d := anonymize.Deferral{Plan: plan, Kind: circulation.KindLoan, Needs: needs}
	for _, r := range records {
		d.Records = append(d.Records, anonymize.Deferred{ID: r.ID, Version: r.Version, Until: until})
	}
	require.NoError(t, s.Defer(t.Context(), d))
}

// joins finds borrowers and items whose rows bear one transaction's number.
const joins = `SELECT p.borrower || ' ' || i.item FROM persons p JOIN items i
	ON CAST(i.counted AS text) IN (CAST(p.changed AS text), CAST(p.counted AS text), CAST(p.xmin AS text)) AND i.counted <> '3' OR CAST(i.xmin AS text) IN (CAST(p.changed AS text), CAST(p.counted AS text), CAST(p.xmin AS text))`

func TestBeginningOfASweepJoinsNobody(t *testing.T) {
	db, _ := open(t)
	s := postgres.New(db)
	for i := range 5 {
		_, err := s.SaveAccounts(t.Context(), all(circulation.Account{Borrower: circulation.Borrower(fmt.Sprint("b", i))}))
		require.NoError(t, err)
		_, err = s.Save(t.Context(), all(oneLoan(fmt.Sprint("l", i), fmt.Sprint("b", i), fmt.Sprint("i", i), day0)))
		require.NoError(t, err)
	}
	require.NoError(t, s.Resume(t.Context(), "p", anonymize.NeedNewerOfItem))
	require.NoError(t, s.Finish(t.Context()))
	_, err := s.Save(t.Context(), all(oneLoan("secret", "b0", "i3", day0.Add(time.Hour))))
	require.NoError(t, err)
	require.NotEmpty(t, texts(t, db, joins), "until the next sweep")
	require.NoError(t, s.Resume(t.Context(), "p", anonymize.NeedNewerOfItem))
	require.Empty(t, unlinkLoans(t, s, loansPage(t, s, "", 0, "", 10).Records...))
	require.NoError(t, s.Finish(t.Context()))
	require.Empty(t, texts(t, db, joins))
}

func TestCorrectionJoinsNobody(t *testing.T) {
	db, _ := open(t)
	s := postgres.New(db)
	_, err := s.SaveAccounts(t.Context(), all(circulation.Account{Borrower: "b"}))
	require.NoError(t, err)
	_, err = s.Save(t.Context(), all(oneLoan("l", "b", "i", day0)))
	require.NoError(t, err)
	require.NoError(t, s.Resume(t.Context(), "p", 0))
	_, err = s.Save(t.Context(), all(oneLoan("l", "b", "i", day0.Add(-time.Hour)))) // its start is corrected, while the sweep is on
	require.NoError(t, err)
	require.Empty(t, unlinkLoans(t, s, loansPage(t, s, "p", 0, "", 10).Records...))
	require.NoError(t, s.Finish(t.Context()))
	require.Empty(t, texts(t, db, joins))
}

// Whoever has an item's row is about to commit a loan of it: its count stays.
func TestCountOfAnItemThatIsBeingSavedStays(t *testing.T) {
	db, _ := open(t)
	s := postgres.New(db)
	_, err := s.Save(t.Context(), all(oneLoan("a", "x", "i", day0)))
	require.NoError(t, err)
	r := loansPage(t, s, "", 0, "", 10).Records[0]
	theirs, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer theirs.Rollback()
	_, err = postgres.New(theirs).Save(t.Context(), all(oneLoan("b", "y", "i", day0.Add(time.Hour))))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := s.Unlink(context.Background(), anonymize.Batch{Kind: circulation.KindLoan, At: day0.AddDate(1, 0, 0), Keep: &anonymize.Keep{}, Targets: []anonymize.Target{{ID: "a", Version: r.Version}}})
		done <- err
	}()
	require.Eventually(t, func() bool {
		return texts(t, db, "SELECT CAST(count(*) > 0 AS text) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FROM items%'")[0] == "true"
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, theirs.Commit())
	require.NoError(t, <-done)
	_, err = s.Save(t.Context(), all(oneLoan("c", "z", "i", day0.Add(2*time.Hour))))
	require.NoError(t, err)
	for _, r := range loansPage(t, s, "", anonymize.NeedNewerOfItem, "", 10).Records {
		require.Equal(t, map[string]int{"b": 1, "c": 0}[r.ID], r.NewerOfItem, r.ID)
	}
}

// A borrower who borrows while a sweep begins has been marked before: that is not passed over, night for night.
func TestMarksOfTheBusyWake(t *testing.T) {
	const needs = anonymize.NeedNewerByBorrower | anonymize.NeedNewerOfItem
	db, _ := open(t)
	s := postgres.New(db)
	_, err := s.Save(t.Context(), all(oneLoan("old", "b", "i", day0)))
	require.NoError(t, err)
	require.NoError(t, s.Resume(t.Context(), "p", needs))
	putOff(t, s, "p", needs, time.Time{}, loansPage(t, s, "p", needs, "", 10).Records...)
	require.Empty(t, idsOf(loansPage(t, s, "p", needs, "", 10)))
	for i, newer := range []circulation.Entry{oneLoan("by", "b", "j", day0.Add(time.Hour)), oneLoan("of", "c", "i", day0.Add(time.Hour))} {
		_, err = s.Save(t.Context(), all(newer))
		require.NoError(t, err)
		theirs, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = postgres.New(theirs).Save(t.Context(), all(oneLoan(fmt.Sprint("open", i), "b", "i", day0.Add(time.Hour))))
		require.NoError(t, err)
		require.NoError(t, s.Resume(t.Context(), "p", needs))
		page := loansPage(t, s, "p", needs, "", 10)
		require.Contains(t, idsOf(page), "old")
		require.NoError(t, theirs.Rollback())
		require.NoError(t, s.Resume(t.Context(), "p", needs))
		putOff(t, s, "p", needs, time.Time{}, loansPage(t, s, "p", needs, "", 10).Records...)
		require.NotContains(t, idsOf(loansPage(t, s, "p", needs, "", 10)), "old")
	}
}

// Finish neither hides marks while it waits for a long transaction, nor undoes it.
func TestFinishBesideALongSave(t *testing.T) {
	const needs = anonymize.NeedNewerByBorrower
	db, _ := open(t)
	s := postgres.New(db)
	_, err := s.Save(t.Context(), all(oneLoan("old", "b", "i", day0), oneLoan("other", "x", "i", day0)))
	require.NoError(t, err)
	require.NoError(t, s.Resume(t.Context(), "p", needs))
	putOff(t, s, "p", needs, time.Time{}, loansPage(t, s, "p", needs, "", 10).Records...)
	_, err = s.Save(t.Context(), all(oneLoan("new", "b", "j", day0.Add(time.Hour))))
	require.NoError(t, err)
	theirs, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer theirs.Rollback()
	long := postgres.New(theirs)
	_, err = long.Save(t.Context(), all(oneLoan("other", "y", "i", day0))) // another borrower: x may have to be forgotten
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Finish(context.Background()) }()
	require.Eventually(t, func() bool {
		return texts(t, db, "SELECT CAST(count(*) > 0 AS text) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE leavers%'")[0] == "true"
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, s.Resume(t.Context(), "p", needs))
	require.Contains(t, idsOf(loansPage(t, s, "p", needs, "", 10)), "old")
	_, err = long.Save(t.Context(), all(oneLoan("more", "b", "k", day0))) // of one whom Finish has settled
	require.NoError(t, err)
	require.NoError(t, theirs.Commit())
	require.NoError(t, <-done)
}

func TestDeferLeavesACallersTransactionDurable(t *testing.T) {
	db, _ := open(t)
	s := postgres.New(db)
	_, err := s.Save(t.Context(), all(oneLoan("old", "b", "i", day0)))
	require.NoError(t, err)
	require.NoError(t, s.Resume(t.Context(), "p", 0))
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	x := postgres.New(tx)
	r := loansPage(t, x, "p", 0, "", 10).Records[0]
	require.NoError(t, x.Defer(t.Context(), anonymize.Deferral{Plan: "p", Kind: circulation.KindLoan, Records: []anonymize.Deferred{{ID: r.ID, Version: r.Version}}}))
	var v string
	require.NoError(t, tx.QueryRow("SHOW synchronous_commit").Scan(&v))
	require.Equal(t, "on", v)
}

// What was read is out of date when a newer loan of the item turns out to be one of another.
func TestNewerLoanOfTheItemGoesAway(t *testing.T) {
	db, _ := open(t)
	s := postgres.New(db)
	_, err := s.Save(t.Context(), all(oneLoan("old", "b", "i", day0), oneLoan("new", "c", "i", day0.Add(time.Hour))))
	require.NoError(t, err)
	var r circulation.Record
	for _, x := range loansPage(t, s, "", anonymize.NeedNewerOfItem, "", 10).Records {
		if x.ID == "old" {
			r = x
		}
	}
	require.Equal(t, 1, r.NewerOfItem)
	_, err = s.Save(t.Context(), all(oneLoan("new", "c", "j", day0.Add(time.Hour))))
	require.NoError(t, err)
	require.Equal(t, []string{"old"}, unlinkLoans(t, s, r))
}

// A late export of an unlinked loan does not leave its borrower in the database.
func TestLateExportBringsNobodyBack(t *testing.T) {
	db, _ := open(t)
	s := postgres.New(db)
	_, err := s.Save(t.Context(), all(oneLoan("old", "b", "i", day0)))
	require.NoError(t, err)
	require.Empty(t, unlinkLoans(t, s, loansPage(t, s, "", 0, "", 10).Records...))
	require.NoError(t, s.Finish(t.Context()))
	require.Empty(t, texts(t, db, "SELECT borrower FROM persons"))
	saved, err := s.Save(t.Context(), all(oneLoan("old", "b", "i", day0)))
	require.NoError(t, err)
	require.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, saved)
	require.NoError(t, s.Finish(t.Context()))
	require.Empty(t, texts(t, db, "SELECT borrower FROM persons"))
}

// sixUnderWay is a store of six loans, of which a pass under the plan "p1" has read the first page.
func sixUnderWay(t *testing.T) (*postgres.Circulation, anonymize.Page) {
	t.Helper()
	db, _ := open(t)
	s := postgres.New(db)
	var loans []circulation.Entry
	for i := range 6 {
		loans = append(loans, oneLoan(fmt.Sprint("l", i), "b", "i", day0))
	}
	_, err := s.Save(t.Context(), all(loans...))
	require.NoError(t, err)
	require.NoError(t, s.Resume(t.Context(), "p1", 0))
	putOff(t, s, "p1", 0, day0, loansPage(t, s, "p1", 0, "", 1).Records...) // from now on passes read under the plan
	require.NoError(t, s.Resume(t.Context(), "p1", 0))
	return s, loansPage(t, s, "p1", 0, "", 2)
}

// theRest goes on with the pass to its end and returns the IDs of all that it has read.
func theRest(t *testing.T, s *postgres.Circulation, page anonymize.Page) []string {
	t.Helper()
	seen := idsOf(page)
	for page.Cursor != "" {
		page = loansPage(t, s, "p1", 0, page.Cursor, 2)
		seen += " " + idsOf(page)
	}
	return strings.Fields(seen)
}

// A pass goes on with everything when another plan has come into force.
func TestAnotherPlanInTheMiddle(t *testing.T) {
	s, page := sixUnderWay(t)
	require.NoError(t, s.Resume(t.Context(), "p2", 0))
	putOff(t, s, "p2", 0, time.Time{}, loansPage(t, s, "p2", 0, "", 100).Records...)
	require.Subset(t, theRest(t, s, page), []string{"l0", "l1", "l2", "l3", "l4", "l5"})
}

// One that was read, put off and changed in a pass is not read again in it.
func TestChangedInThePassIsReadOnce(t *testing.T) {
	s, page := sixUnderWay(t)
	putOff(t, s, "p1", 0, time.Time{}, page.Records...)
	_, err := s.Save(t.Context(), all[circulation.Entry](circulation.Loan{ID: page.Records[0].ID, Borrower: "b", Item: "i", Loaned: day0, Returned: day0.Add(time.Minute)}))
	require.NoError(t, err)
	require.ElementsMatch(t, theRest(t, s, page), []string{"l0", "l1", "l2", "l3", "l4", "l5"})
}

// What is no version is a conflict, whatever is missing of it.
func TestTruncatedVersions(t *testing.T) {
	db, _ := open(t)
	s := postgres.New(db)
	_, err := s.Save(t.Context(), all(oneLoan("a", "x", "i", day0)))
	require.NoError(t, err)
	require.NoError(t, s.Resume(t.Context(), "p", 0))
	whole := loansPage(t, s, "", 0, "", 10).Records[0].Version
	for n := range len(whole) {
		version := whole[:n]
		if strings.Count(version, ":") == 2 {
			break // the transactions of a snapshot may be fewer
		}
		require.Equal(t, []string{"a"}, unlinkLoans(t, s, circulation.Record{ID: "a", Version: version}), version)
		putOff(t, s, "p", 0, time.Time{}, circulation.Record{ID: "a", Version: version})
		if version != "" {
			_, err = s.Save(t.Context(), all[circulation.Entry](circulation.Loan{ID: "a", Version: version, Borrower: "x", Item: "i", Loaned: day0, Returned: day0.Add(time.Hour)}))
			require.ErrorIs(t, err, postgres.ErrConflict, version)
		}
	}
}

// Numbers that are dealt a second time, because a sequence was not restored, say, are an error.
func TestNumberOfSomebodyElse(t *testing.T) {
	db, _ := open(t)
	s := postgres.New(db)
	_, err := s.Save(t.Context(), all(oneLoan("a", "x", "i", day0)))
	require.NoError(t, err)
	require.Empty(t, unlinkLoans(t, s, loansPage(t, s, "", 0, "", 10).Records...))
	execute(t, db, "ALTER SEQUENCE serials_1 RESTART")
	_, err = s.Save(t.Context(), all(oneLoan("b", "y", "j", day0)))
	require.ErrorContains(t, err, "SQLSTATE 23505")
	require.Equal(t, []string{"0"}, texts(t, db, "SELECT CAST(count(*) AS text) FROM links"))
}
