package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/postgres"
)

const everything = `
carrel-retention: 1
id: test/everything
records:
  loans: [{name: all, after: at once}]
  fees: [{name: all, after: at once}]
`

// feesAgainstSweeps opens a fee on each of n loans at once, while shards of a sweep unlink the loans, and returns of how many loans the fee came first, of how many it came too late, and what is wrong: a loan that was unlinked
// though its fee was there, or one that was not though its fee knows nothing of it.
func feesAgainstSweeps(t *testing.T, n int, save func(db *sql.DB, fee circulation.Fee) (circulation.Saved, error)) (kept, gone int, wrong []string) {
	db, at := open(t)
	db.SetMaxOpenConns(20)
	other, err := sql.Open("pgx", at) // of another process: it does not wait in the desk's line
	require.NoError(t, err)
	defer other.Close()
	store := postgres.New(db)
	loans := make([]circulation.Entry, n)
	for i := range loans {
		loans[i] = circulation.Loan{ID: fmt.Sprint("loan-", i), Borrower: circulation.Borrower(fmt.Sprint("b-", i%50)), Loaned: day0, Returned: day0.Add(time.Hour)}
	}
	_, err = store.Save(t.Context(), all(loans...))
	require.NoError(t, err)
	policy, err := anonymize.ParsePolicy([]byte(everything))
	require.NoError(t, err)

	late := make([]bool, n)
	var saved atomic.Int32
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			s, err := save(db, circulation.Fee{ID: fmt.Sprint("fee-", i), Borrower: "payer", Loan: fmt.Sprint("loan-", i), Charged: day0})
			if err != nil {
				t.Errorf("a fee cannot be saved: %v", err)
			}
			late[i] = s.PointersDropped == 1
			saved.Add(1)
		})
	}
	for _, size := range []int{7, 11} { // two that go the same way, and meet everywhere
		wg.Go(func() {
			for saved.Load() < int32(n/20) { // else the sweep is through before the first
				time.Sleep(time.Millisecond)
			}
			sweep, err := anonymize.NewSweep(postgres.New(other), policy, anonymize.Config{PageSize: size, Now: func() time.Time { return day0.AddDate(1, 0, 0) }})
			if err == nil {
				_, err = sweep.Run(context.Background(), day0.AddDate(1, 0, 0))
			}
			if err != nil {
				t.Errorf("the sweep failed: %v", err)
			}
		})
	}
	wg.Wait()
	linked := map[string]bool{}
	for _, id := range texts(t, db, "SELECT r.id FROM links l JOIN records r USING (n) WHERE r.n >> 40 = 0") {
		linked[id] = true
	}
	tied := map[string]bool{}
	for _, id := range texts(t, db, "SELECT r.id FROM ties t JOIN records r ON r.n = t.target") {
		tied[id] = true
	}
	for i := range n {
		id := fmt.Sprint("loan-", i)
		switch {
		case !late[i] && linked[id] && tied[id]:
			kept++
		case late[i] && !linked[id] && !tied[id]:
			gone++
		default:
			wrong = append(wrong, fmt.Sprintf("%s: late %v, linked %v, tied %v", id, late[i], linked[id], tied[id]))
		}
	}
	var receipts int
	list, err := store.Receipts(t.Context())
	require.NoError(t, err)
	for _, r := range list {
		receipts += r.Unlinked
	}
	require.Equal(t, n-len(linked), receipts, "the receipts add up")
	return kept, gone, wrong
}

// A thousand fees are opened at once while a sweep runs: no loan with an open fee is ever unlinked.
func TestFeesAgainstSweep(t *testing.T) {
	var kept, gone, rounds = 0, 0, 1
	if os.Getenv("CARREL_TEST_LONG") != "" {
		rounds = 10
	}
	for range rounds {
		k, g, wrong := feesAgainstSweeps(t, 1000, func(db *sql.DB, fee circulation.Fee) (circulation.Saved, error) {
			return postgres.New(db).Save(t.Context(), all(circulation.Entry(fee)))
		})
		require.Empty(t, wrong)
		kept, gone = kept+k, gone+g
	}
	t.Logf("of %d loans the fee came first for %d, the sweep for %d", 1000*rounds, kept, gone)
	require.Positive(t, kept)
	require.Positive(t, gone)
}

// A rewriting database runs other statements than it is told to.
type rewriting struct {
	*sql.Tx
	words *strings.Replacer
}

func (r rewriting) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return r.Tx.ExecContext(ctx, r.words.Replace(query), args...)
}

func (r rewriting) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return r.Tx.QueryContext(ctx, r.words.Replace(query), args...)
}

// The test above sees what it is there for: a store that looks whether a loan is linked, and does not keep it so.
func TestFeesAgainstSweepIsSeen(t *testing.T) {
	careless := strings.NewReplacer(" ORDER BY l.n FOR UPDATE OF l", "")
	for range 20 {
		_, _, wrong := feesAgainstSweeps(t, 300, func(db *sql.DB, fee circulation.Fee) (saved circulation.Saved, err error) {
			tx, err := db.Begin()
			if err != nil {
				return saved, err
			}
			defer tx.Rollback()
			if saved, err = postgres.New(rewriting{tx, careless}).Save(context.Background(), all(circulation.Entry(fee))); err != nil {
				return saved, err
			}
			return saved, tx.Commit()
		})
		if len(wrong) > 0 {
			t.Logf("%d wrong, as in %s", len(wrong), wrong[0])
			return
		}
	}
	t.Error("a store that does not lock passed")
}
