package memory_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/memory"
)

// What every store must do is proved by storetest, whose own tests run on this store. Here is what
// only carrel's own stores promise.

var (
	ctx   = context.Background()
	began = time.Date(2026, 2, 3, 9, 0, 0, 0, time.UTC)
	ended = time.Date(2026, 3, 17, 10, 0, 0, 0, time.UTC)
	now   = time.Date(2026, 6, 1, 2, 0, 0, 0, time.UTC)
)

func loan(id string, b circulation.Borrower) circulation.Loan {
	return circulation.Loan{ID: id, Borrower: b, Item: "i" + id, Loaned: began, Returned: ended}
}

func entries(all ...circulation.Entry) iter.Seq2[circulation.Entry, error] {
	return func(yield func(circulation.Entry, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func save(t *testing.T, s *memory.Circulation, all ...circulation.Entry) circulation.Saved {
	t.Helper()
	saved, err := s.Save(ctx, entries(all...))
	require.NoError(t, err)
	return saved
}

func linked(t *testing.T, s *memory.Circulation, k circulation.Kind) map[string]circulation.Record {
	t.Helper()
	page, err := s.Linked(ctx, anonymize.Query{Kind: k, Limit: 1000, At: now, Needs: anonymize.NeedEverything})
	require.NoError(t, err)
	require.Empty(t, page.Cursor)
	records := make(map[string]circulation.Record)
	for _, r := range page.Records {
		records[r.ID] = r
	}
	return records
}

func unlink(t *testing.T, s *memory.Circulation, k circulation.Kind, id string) {
	t.Helper()
	conflicts, err := s.Unlink(ctx, anonymize.Batch{Kind: k, At: now,
		Targets: []anonymize.Target{{ID: id, Version: linked(t, s, k)[id].Version}}})
	require.NoError(t, err)
	require.Empty(t, conflicts)
}

func TestSaveCounts(t *testing.T) {
	s := memory.NewCirculation()
	a, b := loan("a", "p1"), loan("b", "p1")
	assert.Equal(t, circulation.Saved{Added: 2}, save(t, s, a, b))
	b.Renewals++
	assert.Equal(t, circulation.Saved{Same: 1, Updated: 1}, save(t, s, a, b))
	unlink(t, s, circulation.KindLoan, "a")
	a.Renewals++
	f := circulation.Fee{ID: "f", Borrower: "p1", Loan: "a"}
	assert.Equal(t, circulation.Saved{AlreadyUnlinked: 1, Same: 1, Added: 1, PointersDropped: 1}, save(t, s, a, b, f))
	assert.Equal(t, circulation.Saved{Same: 1, PointersDropped: 1}, save(t, s, f), "a dropped pointer is no change")
}

func TestSavePointsForward(t *testing.T) {
	s := memory.NewCirculation()
	save(t, s, circulation.Notice{ID: "n", Borrower: "p1", Fee: "f"}, circulation.Fee{ID: "f", Borrower: "p1", Loan: "a"}, loan("a", "p1"))
	assert.Len(t, linked(t, s, circulation.KindLoan)["a"].Fees, 1)
}

func TestSaveIsAllOrNothing(t *testing.T) {
	s := memory.NewCirculation()
	save(t, s, loan("old", "p1"))
	before, err := s.Dump(ctx)
	require.NoError(t, err)
	changed := loan("old", "p2")
	stale := loan("old", "p3")
	stale.Version = "99"
	versioned := loan("new", "p3")
	versioned.Version = "1"
	torn := errors.New("line 3 is torn")
	for name, seq := range map[string]iter.Seq2[circulation.Entry, error]{
		"an error of the sequence": func(yield func(circulation.Entry, error) bool) {
			_ = yield(changed, nil) && yield(loan("new", "p3"), nil) && yield(nil, torn)
		},
		"an unfit entry":             entries(changed, circulation.Loan{}),
		"a proxy without borrower":   entries(changed, circulation.Loan{ID: "new", Proxy: "p3"}),
		"a stale version":            entries(changed, stale),
		"a version of a new record":  entries(changed, versioned),
		"a pointer at nothing known": entries(changed, circulation.Fee{ID: "f", Borrower: "p3", Loan: "nowhere"}),
	} {
		saved, err := s.Save(ctx, seq)
		require.Error(t, err, name)
		assert.Zero(t, saved, name)
		after, err := s.Dump(ctx)
		require.NoError(t, err)
		assert.Equal(t, before, after, name)
	}
	_, err = s.Save(ctx, func(yield func(circulation.Entry, error) bool) { yield(nil, torn) })
	assert.Same(t, torn, err)
	_, err = s.Save(ctx, entries(stale))
	assert.ErrorIs(t, err, memory.ErrConflict)
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	_, err = s.Save(canceled, entries(changed))
	assert.ErrorIs(t, err, context.Canceled)
}

func TestSaveWithVersion(t *testing.T) {
	s := memory.NewCirculation()
	l := loan("a", "p1")
	save(t, s, l)
	l.Version = linked(t, s, circulation.KindLoan)["a"].Version
	l.Renewals = 1
	save(t, s, l)
	_, err := s.Save(ctx, entries(l))
	assert.ErrorIs(t, err, memory.ErrConflict, "the version has changed")
	unlink(t, s, circulation.KindLoan, "a")
	assert.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, l), "a late write is counted, not refused")
}

// A record may never have named anybody: lending to a library, or an export that was anonymous already.
func TestNobody(t *testing.T) {
	s := memory.NewCirculation()
	lending := circulation.Sharing{ID: "s", Library: "main"}
	assert.Equal(t, circulation.Saved{Added: 1}, save(t, s, lending))
	lending.State = circulation.SharingShipped
	assert.Equal(t, circulation.Saved{Updated: 1}, save(t, s, lending))
	lending.Borrower = "p1"
	assert.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, lending))
	assert.Empty(t, linked(t, s, circulation.KindSharing))

	// The library system itself took the name away. What pointed at the loan would give it back.
	save(t, s, loan("a", "p1"), circulation.Request{ID: "r", Borrower: "p1", Loan: "a"})
	save(t, s, loan("a", ""))
	assert.Empty(t, linked(t, s, circulation.KindLoan))
	assert.Equal(t, circulation.Saved{Same: 1, PointersDropped: 1}, save(t, s, circulation.Request{ID: "r", Borrower: "p1", Loan: "a"}))
}

func TestRemovedNoticeStaysRemoved(t *testing.T) {
	s := memory.NewCirculation()
	n := circulation.Notice{ID: "n", Borrower: "p1", Created: began, Sent: ended, Outcome: circulation.NoticeSent, Body: "overdue"}
	save(t, s, n)
	unlink(t, s, circulation.KindNotice, "n")
	assert.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, n))
	assert.Empty(t, linked(t, s, circulation.KindNotice))
}

func TestAccounts(t *testing.T) {
	s := memory.NewCirculation()
	accounts := func(all ...circulation.Account) iter.Seq2[circulation.Account, error] {
		return func(yield func(circulation.Account, error) bool) {
			for _, a := range all {
				if !yield(a, nil) {
					return
				}
			}
		}
	}
	save(t, s, loan("a", "p1"))
	a, b := circulation.Account{Borrower: "p1", Group: "staff"}, circulation.Account{Borrower: "p2"}
	saved, err := s.SaveAccounts(ctx, accounts(a, b))
	require.NoError(t, err)
	assert.Equal(t, circulation.Saved{Added: 2}, saved)
	a.Group = "alumni"
	saved, err = s.SaveAccounts(ctx, accounts(a, b))
	require.NoError(t, err)
	assert.Equal(t, circulation.Saved{Updated: 1, Same: 1}, saved)
	_, err = s.SaveAccounts(ctx, accounts(circulation.Account{Borrower: "p1"}, circulation.Account{}))
	require.Error(t, err)
	assert.Equal(t, "alumni", linked(t, s, circulation.KindLoan)["a"].GroupNow)
}

func TestHolds(t *testing.T) {
	s := memory.NewCirculation()
	require.Error(t, s.AddHold(ctx, circulation.Hold{Ref: "case 1"}))
	require.Error(t, s.AddHold(ctx, circulation.Hold{Borrower: "p1"}))
	require.NoError(t, s.AddHold(ctx, circulation.Hold{Borrower: "p2", Ref: "case 1", Until: now}))
	require.NoError(t, s.AddHold(ctx, circulation.Hold{Borrower: "p1", Ref: "case 2"}))
	require.NoError(t, s.AddHold(ctx, circulation.Hold{Borrower: "p1", Ref: "case 1"}))
	require.NoError(t, s.AddHold(ctx, circulation.Hold{Borrower: "p2", Ref: "case 1"})) // longer now
	holds, err := s.Holds(ctx)
	require.NoError(t, err)
	assert.Equal(t, []circulation.Hold{{Borrower: "p1", Ref: "case 1"}, {Borrower: "p1", Ref: "case 2"}, {Borrower: "p2", Ref: "case 1"}}, holds)

	there, err := s.ReleaseHold(ctx, "p1", "case 1")
	require.NoError(t, err)
	assert.True(t, there)
	there, err = s.ReleaseHold(ctx, "p1", "case 1")
	require.NoError(t, err)
	assert.False(t, there)
	save(t, s, loan("a", "p1"))
	assert.True(t, linked(t, s, circulation.KindLoan)["a"].Hold, "the other case goes on")
}

// The numbers of newer loans against counting, with loans arriving, moving and losing their names in any order.
func TestNewerAgainstCounting(t *testing.T) {
	type truth struct {
		borrower circulation.Borrower
		start    time.Time
		linked   bool
	}
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		s := memory.NewCirculation()
		all := make(map[string]*truth)
		unlinked := false
		for step := range 60 {
			id := fmt.Sprint(rnd.IntN(25))
			l, known := all[id]
			switch {
			case known && !l.linked:
			case known && rnd.IntN(3) == 0:
				unlink(t, s, circulation.KindLoan, id)
				l.linked, unlinked = false, true
			default:
				start := began.AddDate(0, 0, rnd.IntN(8))
				if unlinked { // from here on, arriving in order: what is said of gaps is another test
					start = began.AddDate(0, 0, 10+step)
				}
				if known && unlinked {
					continue
				}
				l = &truth{circulation.Borrower(fmt.Sprint("p", rnd.IntN(3))), start, true}
				all[id] = l
				e := loan(id, l.borrower)
				e.Loaned = start
				save(t, s, e)
			}
			for id, r := range linked(t, s, circulation.KindLoan) {
				want := 0
				for _, other := range all {
					if other.borrower == all[id].borrower && other.start.After(all[id].start) {
						want++
					}
				}
				require.Equal(t, want, r.NewerByBorrower, "seed %d step %d loan %s", seed, step, id)
			}
		}
	}
}
