package anonymize_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/memory"
)

const ninetyDays = `
carrel-retention: 1
id: test/ninety
revision: 3
effective: 2026-01-01
records:
  loans: [{name: ninety, after: P90D}]
  fees: [{name: money, after: P7Y}]
`

var now = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func parse(t testing.TB, text string) *anonymize.Policy {
	t.Helper()
	p, err := anonymize.ParsePolicy([]byte(text))
	require.NoError(t, err)
	return p
}

func manyLoans(n int, returned func(i int) time.Time) iter.Seq2[circulation.Entry, error] {
	return func(yield func(circulation.Entry, error) bool) {
		for i := range n {
			ok := yield(circulation.Loan{ID: fmt.Sprintf("l%06d", i), Borrower: circulation.Borrower(fmt.Sprintf("p%d", i%97)),
				Item: fmt.Sprintf("i%d", i%1009), Loaned: now.AddDate(-1, 0, -i%300), Returned: returned(i)}, nil)
			if !ok {
				return
			}
		}
	}
}

func sweepOver(t testing.TB, store anonymize.Store, p *anonymize.Policy, cfg anonymize.Config) *anonymize.Sweep {
	t.Helper()
	s, err := anonymize.NewSweep(store, p, cfg)
	require.NoError(t, err)
	return s
}

func TestSweepReportsWhatHappened(t *testing.T) {
	store := memory.NewCirculation()
	_, err := store.Save(t.Context(), manyLoans(1000, func(i int) time.Time {
		switch i % 4 {
		case 0:
			return time.Time{}
		case 1:
			return now.AddDate(0, 0, -10)
		}
		return now.AddDate(0, 0, -200)
	}))
	require.NoError(t, err)
	var seen []anonymize.Progress
	s := sweepOver(t, store, parse(t, ninetyDays), anonymize.Config{PageSize: 64, Progress: func(p anonymize.Progress) { seen = append(seen, p) }})

	plan, err := s.Plan(t.Context(), now)
	require.NoError(t, err)
	require.True(t, plan.DryRun)
	report, err := s.Run(t.Context(), now)
	require.NoError(t, err)
	require.Equal(t, &anonymize.KindReport{LinkedBefore: 1000, Unlinked: 500, Kept: 500,
		ByRule: map[string]int{"ninety": 500}, ByReason: map[string]int{"unfinished": 250, "period-not-passed": 250}}, report.Kinds["loan"])
	require.Equal(t, plan.Kinds, report.Kinds, "a plan says what a run does")
	require.Contains(t, report.Kinds, "fee", "a kind with rules is reported even when there is nothing of it")
	require.NotContains(t, report.Kinds, "request")
	require.Contains(t, seen, anonymize.Progress{Kind: circulation.KindLoan, Read: 1000, Unlinked: 500})

	again, err := s.Run(t.Context(), now)
	require.NoError(t, err)
	require.Zero(t, again.Kinds["loan"].Unlinked, "idempotent")
	require.Equal(t, 500, again.Kinds["loan"].LinkedBefore)

	receipts, err := store.Receipts(t.Context())
	require.NoError(t, err)
	sum := 0
	for _, r := range receipts {
		require.Equal(t, "test/ninety", r.Policy.ID)
		require.Equal(t, 3, r.Policy.Revision)
		sum += r.Unlinked
	}
	require.Equal(t, 500, sum, "receipts add up to the rows changed")

	out, err := json.Marshal(report)
	require.NoError(t, err)
	require.Regexp(t, `^\{"policy":\{"id":"test/ninety","revision":3,"digest":"sha256:[0-9a-f]{64}"\},"at":"2026-11-01T00:00:00Z","dry_run":false,"kinds":\{.*"loan":\{"linked_before":1000,"unlinked":500,"kept":500,"deferred":0,"conflicts":0,"by_rule":\{"ninety":500\},"by_reason":\{"period-not-passed":250,"unfinished":250\}\}.*\},"seconds":`, string(out))
}

// However many records are retained before them, the eligible ones go in the first run.
func TestNoStarvation(t *testing.T) {
	const retained = 200_000
	store := memory.NewCirculation()
	_, err := store.Save(t.Context(), manyLoans(retained+10, func(i int) time.Time {
		if i < retained {
			return now.AddDate(0, 0, -1)
		}
		return now.AddDate(-2, 0, 0)
	}))
	require.NoError(t, err)
	report, err := sweepOver(t, store, parse(t, ninetyDays), anonymize.Config{}).Run(t.Context(), now)
	require.NoError(t, err)
	require.Equal(t, 10, report.Kinds["loan"].Unlinked)
	require.Equal(t, retained, report.Kinds["loan"].Kept)
}

func TestShardsMakeTheWhole(t *testing.T) {
	store := memory.NewCirculation()
	_, err := store.Save(t.Context(), manyLoans(1000, func(int) time.Time { return now.AddDate(-2, 0, 0) }))
	require.NoError(t, err)
	total := 0
	for i := range 4 {
		cfg := anonymize.Config{Shard: anonymize.Shard{Index: i, Of: 4}, PageSize: 30}
		report, err := sweepOver(t, store, parse(t, ninetyDays), cfg).Run(t.Context(), now)
		require.NoError(t, err)
		require.Equal(t, report.Kinds["loan"].LinkedBefore, report.Kinds["loan"].Unlinked)
		total += report.Kinds["loan"].Unlinked
	}
	require.Equal(t, 1000, total)
}

func TestSweepRefuses(t *testing.T) {
	store, p := memory.NewCirculation(), parse(t, ninetyDays)
	clock := func() time.Time { return now }
	s := sweepOver(t, store, p, anonymize.Config{Now: clock})
	_, err := s.Run(t.Context(), now.Add(time.Microsecond))
	require.ErrorIs(t, err, anonymize.ErrFuture)
	_, err = s.Plan(t.Context(), now.AddDate(5, 0, 0))
	require.NoError(t, err)
	_, err = s.Run(t.Context(), time.Date(2025, 12, 31, 23, 59, 59, 0, time.UTC))
	require.ErrorIs(t, err, anonymize.ErrNotEffective)

	for _, shard := range []anonymize.Shard{{Index: -1, Of: 2}, {Index: 2, Of: 2}, {Index: 0, Of: -1}, {Index: 1}} {
		_, err := anonymize.NewSweep(store, p, anonymize.Config{Shard: shard})
		require.Error(t, err, shard)
	}
	_, err = anonymize.NewSweep(store, p, anonymize.Config{PageSize: -1})
	require.ErrorContains(t, err, "PageSize")
	_, err = anonymize.NewSweep(nil, p, anonymize.Config{})
	require.Error(t, err)
	_, err = anonymize.NewSweep(store, nil, anonymize.Config{})
	require.Error(t, err)
}

// meddling calls between each read and the write that follows from it.
type meddling struct {
	anonymize.Store
	between func()
}

func (m *meddling) Unlink(ctx context.Context, b anonymize.Batch) ([]string, error) {
	if m.between != nil {
		m.between()
		m.between = nil
	}
	return m.Store.Unlink(ctx, b)
}

func TestConflictsAreKeptAndCounted(t *testing.T) {
	store := memory.NewCirculation()
	old := now.AddDate(-1, 0, 0)
	loan := func(id string) circulation.Loan {
		return circulation.Loan{ID: id, Borrower: "p1", Item: "i" + id, Loaned: old.AddDate(0, -1, 0), Returned: old}
	}
	put := func(entries ...circulation.Entry) {
		_, err := store.Save(t.Context(), func(yield func(circulation.Entry, error) bool) {
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
		})
		require.NoError(t, err)
	}
	put(loan("fee"), loan("reopened"), loan("moved"), loan("quiet"))
	s := sweepOver(t, &meddling{store, func() {
		reopened, moved := loan("reopened"), loan("moved")
		require.NoError(t, reopened.Reopen())
		moved.Borrower = "p2"
		put(circulation.Fee{ID: "f1", Borrower: "p1", Loan: "fee", Charged: now}, reopened, moved)
	}}, parse(t, ninetyDays), anonymize.Config{})
	report, err := s.Run(t.Context(), now)
	require.NoError(t, err)
	k := report.Kinds["loan"]
	require.Equal(t, 4, k.LinkedBefore)
	require.Equal(t, 1, k.Unlinked)
	require.Equal(t, 3, k.Kept)
	require.Equal(t, 3, k.Conflicts)
	require.Equal(t, map[string]int{"ninety": 1}, k.ByRule)
}

func TestCancelStopsBetweenPages(t *testing.T) {
	store := memory.NewCirculation()
	_, err := store.Save(t.Context(), manyLoans(1000, func(int) time.Time { return now.AddDate(-2, 0, 0) }))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	s := sweepOver(t, store, parse(t, ninetyDays), anonymize.Config{PageSize: 10, Progress: func(p anonymize.Progress) {
		if p.Unlinked >= 100 {
			cancel()
		}
	}})
	report, err := s.Run(ctx, now)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 100, report.Kinds["loan"].Unlinked, "the report says what was done before")
	rest, err := sweepOver(t, store, parse(t, ninetyDays), anonymize.Config{}).Run(t.Context(), now)
	require.NoError(t, err)
	require.Equal(t, 900, rest.Kinds["loan"].Unlinked)
}

type failing struct{ anonymize.Store }

var errDown = errors.New("down")

func (failing) Linked(context.Context, anonymize.Query) (anonymize.Page, error) {
	return anonymize.Page{}, errDown
}

func TestStoreErrorsComeThrough(t *testing.T) {
	_, err := sweepOver(t, failing{}, parse(t, ninetyDays), anonymize.Config{}).Run(t.Context(), now)
	require.ErrorIs(t, err, errDown)
}
