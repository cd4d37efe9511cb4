package memory_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/memory"
)

func feeOf(borrower string, status circulation.FeeStatus) circulation.Fee {
	f := circulation.Fee{ID: "f", Borrower: circulation.Borrower(borrower), Loan: "a", Charged: began, Status: status}
	if status == circulation.FeeClosed {
		f.Closed, f.Outcome, f.Method = ended, circulation.FeePaid, "cash"
	}
	return f
}

// An export that leaves out a borrower does not undo an exception.
func TestNamelessEntryKeepsWhatIsProtected(t *testing.T) {
	s := memory.NewCirculation()
	save(t, s, loan("a", "p1"), loan("b", "p2"), feeOf("p1", circulation.FeeOpen))
	require.NoError(t, s.AddHold(ctx, circulation.Hold{Borrower: "p2", Ref: "c"}))
	assert.Equal(t, circulation.Saved{KeptLinked: 3}, save(t, s, loan("a", ""), loan("b", ""), feeOf("", circulation.FeeInProcess)))
	assert.Len(t, linked(t, s, circulation.KindLoan), 2)
	assert.Equal(t, circulation.FeeInProcess, linked(t, s, circulation.KindLoan)["a"].Fees[0].Status)
	_, err := s.ReleaseHold(ctx, "p2", "c")
	require.NoError(t, err)
	assert.Equal(t, circulation.Saved{Updated: 2}, save(t, s, loan("b", ""), feeOf("", circulation.FeeClosed)))
	assert.Len(t, linked(t, s, circulation.KindLoan)["a"].Fees, 1)
	assert.Empty(t, linked(t, s, circulation.KindFee))
	assert.Equal(t, circulation.Saved{Updated: 1}, save(t, s, loan("a", "")))
	assert.Empty(t, linked(t, s, circulation.KindLoan))
}

// A fee that names nobody protects its loan as long as it is owed, whatever it named before or names now.
func TestNobodysFeeFollowsItsStatus(t *testing.T) {
	for _, first := range []string{"p1", ""} {
		s := memory.NewCirculation()
		save(t, s, loan("a", "p1"), feeOf(first, circulation.FeeClosed))
		if first != "" {
			unlink(t, s, circulation.KindFee, "f")
		}
		before := linked(t, s, circulation.KindLoan)["a"]
		assert.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, feeOf("p1", circulation.FeeClosed)))
		assert.Equal(t, before, linked(t, s, circulation.KindLoan)["a"])
		for _, status := range []circulation.FeeStatus{circulation.FeeOpen, circulation.FeeInProcess, circulation.FeeClosed} {
			assert.Equal(t, circulation.Saved{AlreadyUnlinked: 1}, save(t, s, feeOf("p1", status)))
			after := linked(t, s, circulation.KindLoan)["a"]
			assert.NotEqual(t, before.Version, after.Version)
			require.Len(t, after.Fees, 1)
			assert.Equal(t, status, after.Fees[0].Status)
			before = after
			if status != circulation.FeeClosed {
				assert.Equal(t, circulation.Saved{KeptLinked: 1}, save(t, s, loan("a", "")), "protected")
			}
			assert.Empty(t, linked(t, s, circulation.KindFee))
		}
		unlink(t, s, circulation.KindLoan, "a")
		require.NoError(t, s.Finish(ctx))
		text, err := s.Dump(ctx)
		require.NoError(t, err)
		assert.NotContains(t, text, "p1")
	}
}

func TestFinishForgetsHoldsThatRanOut(t *testing.T) {
	s := memory.NewCirculation()
	require.NoError(t, s.AddHold(ctx, circulation.Hold{Borrower: "p1", Ref: "c", Until: time.Now().Add(-time.Hour)}))
	require.NoError(t, s.AddHold(ctx, circulation.Hold{Borrower: "p2", Ref: "c", Until: time.Now().Add(time.Hour)}))
	require.NoError(t, s.Finish(ctx))
	holds, err := s.Holds(ctx)
	require.NoError(t, err)
	require.Len(t, holds, 1)
	assert.Equal(t, circulation.Borrower("p2"), holds[0].Borrower)
}
