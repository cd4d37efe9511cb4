package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/sqlite"
)

func TestUnlinkLeavesWhatHappened(t *testing.T) {
	db, s, _ := open(t)
	l := loan("l1", "canary-b", 0, 10)
	l.Proxy, l.Sponsor, l.Staff, l.Comment, l.Note = "canary-p", "canary-s", "canary-t", "canary-c", "canary-n"
	f := circulation.Fee{ID: "f1", Borrower: "canary-b", Loan: "l1", Charged: day(1), Closed: day(2), Status: circulation.FeeClosed, Outcome: circulation.FeePaid, Method: "cash"}
	r := circulation.Request{ID: "r1", Borrower: "canary-b", Recipient: "canary-r", Loan: "l1", Requested: day(0), Closed: day(1), Outcome: circulation.RequestFilled, Address: "canary-a"}
	n := circulation.Notice{ID: "n1", Borrower: "canary-b", Loan: "l1", Request: "r1", Fee: "f1", Created: day(1), Sent: day(1), Outcome: circulation.NoticeSent, Body: "canary-m"}
	require.Equal(t, circulation.Saved{Added: 4}, save(t, s, l, f, r, n))
	require.Equal(t, circulation.Saved{Same: 4}, save(t, s, l, f, r, n))

	fees := linked(t, s, circulation.KindFee)
	summary := []circulation.FeeSummary{{Status: circulation.FeeClosed, Closed: day(2), Method: "cash"}}
	require.Equal(t, summary, fees["f1"].Fees)
	require.Equal(t, summary, linked(t, s, circulation.KindLoan)["l1"].Fees)
	require.Empty(t, unlink(t, s, fees["f1"]))
	require.Equal(t, summary, linked(t, s, circulation.KindLoan)["l1"].Fees, "the loan remembers its fee")

	require.Empty(t, unlink(t, s, linked(t, s, circulation.KindNotice)["n1"]))
	require.NotContains(t, dump(t, db), "canary-m")
	require.Empty(t, unlink(t, s, linked(t, s, circulation.KindLoan)["l1"]))
	require.Empty(t, unlink(t, s, linked(t, s, circulation.KindRequest)["r1"]))
	require.NoError(t, s.Finish(t.Context()))
	require.NotContains(t, dump(t, db), "canary")
	require.Contains(t, dump(t, db), "students")
	for _, table := range []string{"links", "companions", "personal", "ties", "fee_summaries", "persons"} {
		require.NotContains(t, dump(t, db), "\n"+table+" ")
	}
	receipts, err := s.Receipts(t.Context())
	require.NoError(t, err)
	require.Len(t, receipts, 4)
	require.Equal(t, 1, receipts[3].Unlinked)
	require.Equal(t, "request", receipts[3].Kind)

	// A late export brings nobody back, and no pointer to them.
	f2 := f
	f2.ID = "f2"
	require.Equal(t, circulation.Saved{Added: 1, AlreadyUnlinked: 3, PointersDropped: 1}, save(t, s, l, f, r, f2))
	require.Empty(t, linked(t, s, circulation.KindLoan))
}

func TestConflicts(t *testing.T) {
	fee := func(status circulation.FeeStatus) circulation.Fee {
		f := circulation.Fee{ID: "f1", Borrower: "b1", Loan: "l1", Charged: day(1), Status: status}
		if status == circulation.FeeClosed {
			f.Closed, f.Outcome = day(2), circulation.FeePaid
		}
		return f
	}
	changes := map[string]func(t *testing.T, db *sql.DB, s *sqlite.Circulation){
		"fee opened":       func(t *testing.T, db *sql.DB, s *sqlite.Circulation) { save(t, s, fee(circulation.FeeOpen)) },
		"fee in process":   func(t *testing.T, db *sql.DB, s *sqlite.Circulation) { save(t, s, fee(circulation.FeeInProcess)) },
		"closed fee added": func(t *testing.T, db *sql.DB, s *sqlite.Circulation) { save(t, s, fee(circulation.FeeClosed)) },
		"fee with nobody": func(t *testing.T, db *sql.DB, s *sqlite.Circulation) {
			f := fee(circulation.FeeOpen)
			f.Borrower = ""
			save(t, s, f)
		},
		"reopened":         func(t *testing.T, db *sql.DB, s *sqlite.Circulation) { save(t, s, loan("l1", "b1", 0, -1)) },
		"borrower changed": func(t *testing.T, db *sql.DB, s *sqlite.Circulation) { save(t, s, loan("l1", "b2", 0, 10)) },
		"hold added": func(t *testing.T, db *sql.DB, s *sqlite.Circulation) {
			require.NoError(t, s.AddHold(t.Context(), circulation.Hold{Borrower: "b1", Ref: "c", Until: day(40_001)}))
		},
		"account changed": func(t *testing.T, db *sql.DB, s *sqlite.Circulation) {
			_, err := s.SaveAccounts(t.Context(), all(circulation.Account{Borrower: "b1", Wish: circulation.WishKeep}))
			require.NoError(t, err)
		},
		"already unlinked": func(t *testing.T, db *sql.DB, s *sqlite.Circulation) {
			unlink(t, s, linked(t, s, circulation.KindLoan)["l1"])
		},
		"anonymized by LMS": func(t *testing.T, db *sql.DB, s *sqlite.Circulation) { save(t, s, loan("l1", "", 0, 10)) },
		"lost by raw SQL": func(t *testing.T, db *sql.DB, s *sqlite.Circulation) {
			_, err := db.Exec("UPDATE records SET lost = 1 WHERE id = 'l1'")
			require.NoError(t, err)
		},
		"fee by raw SQL": func(t *testing.T, db *sql.DB, s *sqlite.Circulation) {
			_, err := db.Exec("INSERT INTO records (n, id, fee_status) VALUES (3 << 40 | 77, 'raw', 0); INSERT INTO ties SELECT 3 << 40 | 77, n FROM records WHERE id = 'l1'")
			require.NoError(t, err)
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			db, s, _ := open(t)
			save(t, s, loan("l0", "b0", 0, 9), loan("l1", "b1", 0, 10), loan("l2", "b3", 0, 10))
			before := linked(t, s, circulation.KindLoan)
			change(t, db, s)
			b := batch(before["l2"], before["l1"], before["l0"], before["l2"])
			conflicts, err := s.Unlink(t.Context(), b)
			require.NoError(t, err)
			require.Equal(t, []string{"l1"}, conflicts)
			receipts, err := s.Receipts(t.Context())
			require.NoError(t, err)
			last := receipts[len(receipts)-1]
			require.Equal(t, 2, last.Unlinked)
			require.Equal(t, 1, last.Conflicts)
			require.Equal(t, map[string]int{"all": 2}, last.ByRule)
			require.Len(t, b.Targets, 4, "the caller's batch is the caller's")
			_, err = s.Save(t.Context(), all[circulation.Entry](circulation.Loan{ID: "l1", Version: before["l1"].Version, Borrower: "b1"}))
			if name != "lost by raw SQL" && name != "fee by raw SQL" && name != "hold added" {
				require.ErrorIs(t, err, sqlite.ErrConflict)
			}
		})
	}
}

func TestHoldThatRanOutProtectsNothing(t *testing.T) {
	_, s, _ := open(t)
	save(t, s, loan("l1", "b1", 0, 10))
	require.NoError(t, s.AddHold(t.Context(), circulation.Hold{Borrower: "b1", Ref: "c", Until: day(1000)}))
	before := linked(t, s, circulation.KindLoan)
	require.False(t, before["l1"].Hold)
	require.Empty(t, unlink(t, s, before["l1"]))
	require.Equal(t, []string{"l1"}, unlink(t, s, before["l1"]), "twice is not an error")
	require.NoError(t, s.Finish(t.Context()))
	holds, err := s.Holds(t.Context())
	require.NoError(t, err)
	require.Equal(t, []circulation.Hold{{Borrower: "b1", Ref: "c", Until: day(1000)}}, holds)
	released, err := s.ReleaseHold(t.Context(), "b1", "c")
	require.NoError(t, err)
	require.True(t, released)
	released, err = s.ReleaseHold(t.Context(), "b1", "c")
	require.NoError(t, err)
	require.False(t, released)
}

func TestVersionIsOfOneRecord(t *testing.T) {
	_, s, _ := open(t)
	save(t, s, loan("l1", "b1", 0, 10), loan("l2", "b1", 0, 10))
	v := linked(t, s, circulation.KindLoan)
	for _, bad := range []string{"", "7", "1.1", "1.1.x", v["l2"].Version, "99999999999999999999.1.1"} {
		r := v["l1"]
		r.Version = bad
		require.Equal(t, []string{"l1"}, unlink(t, s, r), bad)
		l := loan("l1", "b1", 0, 10)
		l.Version = cmpOr(bad, "0.1.1")
		_, err := s.Save(t.Context(), all[circulation.Entry](l))
		require.ErrorIs(t, err, sqlite.ErrConflict)
	}
	l := loan("l1", "b1", 0, 11)
	l.Version = v["l1"].Version
	require.Equal(t, circulation.Saved{Updated: 1}, save(t, s, l))
	_, err := s.Save(t.Context(), all[circulation.Entry](l))
	require.ErrorIs(t, err, sqlite.ErrConflict)
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func TestSaveIsAllOrNothing(t *testing.T) {
	db, s, _ := open(t)
	before := dump(t, db)
	mine := errors.New("line 7 is bad")
	_, err := s.Save(t.Context(), func(yield func(circulation.Entry, error) bool) {
		_ = yield(loan("l1", "b1", 0, 10), nil) && yield(nil, mine)
	})
	require.Equal(t, mine, err)
	var unknown *sqlite.UnknownPointerError
	_, err = s.Save(t.Context(), all[circulation.Entry](loan("l1", "b1", 0, 10), circulation.Fee{ID: "f1", Loan: "lx"}))
	require.ErrorAs(t, err, &unknown)
	require.Equal(t, circulation.Pointer{Kind: circulation.KindLoan, ID: "lx"}, unknown.To)
	require.Equal(t, "f1", unknown.From.ID)
	require.Panics(t, func() {
		s.Save(t.Context(), func(yield func(circulation.Entry, error) bool) { yield(loan("l1", "b1", 0, 10), nil); panic("x") })
	})
	require.Equal(t, before, dump(t, db))
	ctx, cancel := context.WithCancel(t.Context())
	_, err = s.Save(ctx, func(yield func(circulation.Entry, error) bool) {
		for i := range 100 {
			if i == 50 {
				cancel()
			}
			if !yield(loan(strconv.Itoa(i), "b1", 0, 10), nil) {
				return
			}
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, before, dump(t, db))
}

func TestCallersTransaction(t *testing.T) {
	db, s, _ := open(t)
	save(t, s, loan("l1", "b1", 0, 10), loan("l2", "b2", 0, 10))
	before := dump(t, db)
	sqltx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	in := sqlite.New(sqltx)
	v := linked(t, in, circulation.KindLoan)
	save(t, in, loan("l3", "b3", 0, 10), loan("l2", "b2", 0, 11))
	require.Equal(t, []string{"l2"}, unlink(t, in, v["l1"], v["l2"]))
	held := dump(t, sqltx)
	_, err = in.Save(t.Context(), all[circulation.Entry](loan("l4", "b3", 0, 10), circulation.Fee{ID: "f1", Loan: "lx"}))
	require.Error(t, err)
	require.Equal(t, held, dump(t, sqltx), "the savepoint was rolled back, the caller's work was not")
	require.NoError(t, in.Finish(t.Context()))
	require.NoError(t, sqltx.Rollback())
	require.Equal(t, before, dump(t, db))
}

func TestNobodysRecords(t *testing.T) {
	db, s, _ := open(t)
	lending := circulation.Sharing{ID: "s1", Requested: day(0), Note: "canary"}
	require.Equal(t, circulation.Saved{Added: 1}, save(t, s, lending))
	require.NotContains(t, dump(t, db), "canary", "no sweep would find it")
	lending.State, lending.Closed = circulation.SharingCompleted, day(3)
	require.Equal(t, circulation.Saved{Updated: 1}, save(t, s, lending))
	require.Empty(t, linked(t, s, circulation.KindSharing))
	lending.Borrower = "b1"
	require.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, lending))
	require.NotContains(t, dump(t, db), "b1")
}

func TestSchemaAndReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	defer db.Close()
	require.ErrorIs(t, sqlite.New(db).CheckSchema(t.Context()), sqlite.ErrNoSchema)
	migrate(t, db)
	require.NoError(t, sqlite.New(db).CheckSchema(t.Context()))
	save(t, sqlite.New(db), loan("l1", "b1", 0, 10))
	ro, err := sql.Open("sqlite", sqlite.DSNReadOnly(path))
	require.NoError(t, err)
	defer ro.Close()
	require.Len(t, linked(t, sqlite.New(ro), circulation.KindLoan), 1)
	_, err = sqlite.New(ro).Save(t.Context(), all[circulation.Entry](loan("l2", "b1", 0, 10)))
	require.EqualError(t, err, "sqlite: save: the database is read-only (code 8)")
	_, err = db.Exec("PRAGMA user_version = 99")
	require.NoError(t, err)
	require.ErrorIs(t, sqlite.New(db).CheckSchema(t.Context()), sqlite.ErrNewerSchema)
	down, _ := os.ReadFile("migrations/00001_circulation.sql")
	_, sqlDown, _ := strings.Cut(string(down), "-- +goose Down")
	_, err = db.Exec(sqlDown)
	require.NoError(t, err)
	_, err = sqlite.New(db).Receipts(t.Context())
	var e *sqlite.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, 1, e.Code)
}

func TestKeep(t *testing.T) {
	db, s, _ := open(t)
	l := loan("l1", "b1", 0, 10)
	l.Categories = []string{"math", "<html>"}
	save(t, s, l, loan("l2", "b1", 0, 10))
	b := batch(linked(t, s, circulation.KindLoan)["l1"])
	b.Keep = new(anonymize.Keep) // nothing stays
	conflicts, err := s.Unlink(t.Context(), b)
	require.NoError(t, err)
	require.Empty(t, conflicts)
	var n int
	require.NoError(t, db.QueryRow("SELECT count(*) FROM records WHERE id = 'l1' AND grp = '' AND item = '' AND categories = '' AND started IS NULL AND ended IS NULL AND status = 1").Scan(&n))
	require.Equal(t, 1, n)
	require.NoError(t, db.QueryRow("SELECT count(*) FROM records WHERE id = 'l2' AND grp = 'students'").Scan(&n))
	require.Equal(t, 1, n)
}

// TestNewerLoans compares with the definition, counted by hand over everything that ever arrived, as far
// as the definition can be had: a loan that arrives late may count unlinked ones in its gap as older.
func TestNewerLoans(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		_, s, _ := open(t)
		history := map[string]circulation.Loan{}
		floor := -1 // the latest start of an unlinked loan: in this test nothing older arrives after
		for step := range 12 {
			var entries []circulation.Entry
			for range 1 + r.IntN(6) {
				id := strconv.Itoa(r.IntN(40))
				if _, unlinked := history["gone-"+id]; unlinked {
					continue
				}
				l := loan(id, "b"+strconv.Itoa(r.IntN(3)), max(floor+1, r.IntN(20)-1), 50)
				l.Item = "i" + strconv.Itoa(r.IntN(3))
				if r.IntN(8) == 0 {
					l.Item = ""
				}
				if old, ok := history[id]; ok && r.IntN(2) == 0 {
					l.Borrower, l.Loaned, l.Item = old.Borrower, old.Loaned, old.Item
				}
				history[id] = l
				entries = append(entries, l)
			}
			save(t, s, entries...)
			got := linked(t, s, circulation.KindLoan)
			for id, l := range history {
				if strings.HasPrefix(id, "gone-") {
					continue
				}
				byBorrower, ofItem := 0, 0
				for _, o := range history {
					if o.Loaned.After(l.Loaned) && o.Borrower == l.Borrower {
						byBorrower++
					}
					if o.Loaned.After(l.Loaned) && o.Item == l.Item && l.Item != "" {
						ofItem++
					}
				}
				require.Equal(t, byBorrower, got[id].NewerByBorrower, "seed %d step %d loan %s", seed, step, id)
				require.Equal(t, ofItem, got[id].NewerOfItem, "seed %d step %d loan %s", seed, step, id)
			}
			if step%4 == 3 {
				ids := make([]string, 0)
				for id := range got {
					ids = append(ids, id)
				}
				slices.Sort(ids)
				for _, id := range ids[:len(ids)/3] {
					require.Empty(t, unlink(t, s, got[id]))
					l := history[id]
					delete(history, id)
					history["gone-"+id] = l
					for d := 0; d < 30; d++ {
						if l.Loaned.Equal(day(d)) {
							floor = max(floor, d)
						}
					}
				}
			}
		}
	}
}

func TestShards(t *testing.T) {
	_, s, _ := open(t)
	var entries []circulation.Entry
	for i := range 20 {
		entries = append(entries, loan(strconv.Itoa(i), "b", 0, 1))
	}
	save(t, s, entries...)
	seen := map[string]int{}
	for i := range 3 {
		q := anonymize.Query{Kind: circulation.KindLoan, Limit: 2, Shard: anonymize.Shard{Index: i, Of: 3}}
		for {
			p, err := s.Linked(t.Context(), q)
			require.NoError(t, err)
			for _, r := range p.Records {
				seen[r.ID]++
			}
			if q.Cursor = p.Cursor; q.Cursor == "" {
				break
			}
		}
	}
	require.Len(t, seen, 20)
	for _, n := range seen {
		require.Equal(t, 1, n)
	}
	_, err := s.Linked(t.Context(), anonymize.Query{Kind: circulation.KindLoan, Limit: 2, Cursor: "x"})
	require.Error(t, err)
}

func TestLateExportBringsNoNoticeBack(t *testing.T) {
	db, s, _ := open(t)
	n := circulation.Notice{ID: "n1", Borrower: "canary-b", Type: "canary-t", Created: day(1), Sent: day(2), Outcome: circulation.NoticeSent, Body: "canary-m"}
	save(t, s, n)
	require.Empty(t, unlink(t, s, linked(t, s, circulation.KindNotice)["n1"]))
	require.NoError(t, s.Finish(t.Context()))
	require.NotContains(t, dump(t, db), "canary")
	require.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, n))
	require.Empty(t, linked(t, s, circulation.KindNotice))
	require.NotContains(t, dump(t, db), "canary")
}
