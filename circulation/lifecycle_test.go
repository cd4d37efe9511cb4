package circulation_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
)

// A lifeCycle says what every step makes of every state. A step that is not in a state's row is illegal
// there: it gives ErrTransition and changes nothing.
type lifeCycle[T any] struct {
	states map[string]T
	steps  map[string]func(*T) error
	legal  map[string]map[string]T // state, step: what it becomes
}

func (c lifeCycle[T]) test(t *testing.T) {
	for name, from := range c.states {
		for step := range c.legal[name] {
			require.Contains(t, c.steps, step, "the table names a step that is not tried")
		}
		for step, do := range c.steps {
			t.Run(name+"/"+step, func(t *testing.T) {
				got := from
				err := do(&got)
				if want, ok := c.legal[name][step]; ok {
					require.NoError(t, err)
					require.Equal(t, want, got)
					return
				}
				require.ErrorIs(t, err, circulation.ErrTransition)
				require.Equal(t, from, got, "an illegal step changes nothing")
			})
		}
	}
	for name := range c.legal {
		require.Contains(t, c.states, name)
	}
}

// at and later are when the steps below happen.
func at() time.Time    { return time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC) }
func later() time.Time { return at().AddDate(0, 1, 0) }

func TestLoanLifeCycle(t *testing.T) {
	out := circulation.Loan{ID: "l", Borrower: "b", Due: at()}
	with := func(change func(*circulation.Loan)) circulation.Loan {
		l := out
		change(&l)
		return l
	}
	lost := with(func(l *circulation.Loan) { l.Lost = true })
	claimed := with(func(l *circulation.Loan) { l.ClaimedReturned = true })
	both := with(func(l *circulation.Loan) { l.Lost, l.ClaimedReturned = true, true })
	returned := with(func(l *circulation.Loan) { l.Returned = at() })
	withdrawn := with(func(l *circulation.Loan) { l.Returned, l.Withdrawn = at(), true })
	undated := with(func(l *circulation.Loan) { l.Withdrawn = true })
	renewed := with(func(l *circulation.Loan) { l.Due, l.Renewals = later(), 1 })
	end := func(more map[string]circulation.Loan) map[string]circulation.Loan {
		more["return"], more["withdraw"] = returned, withdrawn // both marks are cleared
		return more
	}
	lifeCycle[circulation.Loan]{
		states: map[string]circulation.Loan{"out": out, "lost": lost, "claimed": claimed, "lost and claimed": both,
			"returned": returned, "withdrawn": withdrawn, "withdrawn, not known when": undated},
		steps: map[string]func(*circulation.Loan) error{
			"renew":               func(l *circulation.Loan) error { return l.Renew(later()) },
			"renew to same date":  func(l *circulation.Loan) error { return l.Renew(at()) },
			"declare lost":        (*circulation.Loan).DeclareLost,
			"claim":               (*circulation.Loan).ClaimReturned,
			"return":              func(l *circulation.Loan) error { return l.Return(at()) },
			"return without time": func(l *circulation.Loan) error { return l.Return(time.Time{}) },
			"withdraw":            func(l *circulation.Loan) error { return l.Withdraw(at()) },
			"reopen":              (*circulation.Loan).Reopen,
		},
		legal: map[string]map[string]circulation.Loan{
			"out":                       end(map[string]circulation.Loan{"renew": renewed, "declare lost": lost, "claim": claimed}),
			"lost":                      end(map[string]circulation.Loan{"claim": both}),
			"claimed":                   end(map[string]circulation.Loan{"declare lost": both}),
			"lost and claimed":          end(map[string]circulation.Loan{}),
			"returned":                  {"reopen": out},
			"withdrawn":                 {"reopen": out},
			"withdrawn, not known when": {"reopen": out},
		},
	}.test(t)

	for l, want := range map[*circulation.Loan]struct {
		status  circulation.Status
		outcome string
	}{
		&out: {circulation.Open, ""}, &lost: {circulation.Open, ""}, &claimed: {circulation.Open, ""},
		&returned: {circulation.Ended, "returned"}, &withdrawn: {circulation.Ended, "withdrawn"}, &undated: {circulation.Ended, "withdrawn"},
	} {
		p, err := l.Parts()
		require.NoError(t, err)
		require.Equal(t, want.status, p.Facts.Status)
		require.Equal(t, want.outcome, p.Facts.Outcome)
	}
}

func TestRequestLifeCycle(t *testing.T) {
	open := circulation.Request{ID: "r", Borrower: "b"}
	ended := func(o circulation.RequestOutcome, loan string) circulation.Request {
		r := open
		r.Closed, r.Outcome, r.Loan = at(), o, loan
		return r
	}
	filled, cancelled, expired := ended(circulation.RequestFilled, "l"), ended(circulation.RequestCancelled, ""), ended(circulation.RequestExpired, "")
	lifeCycle[circulation.Request]{
		states: map[string]circulation.Request{"open": open, "filled": filled, "cancelled": cancelled, "expired": expired},
		steps: map[string]func(*circulation.Request) error{
			"fill":              func(r *circulation.Request) error { return r.Fill(at(), "l") },
			"fill without loan": func(r *circulation.Request) error { return r.Fill(at(), "") },
			"cancel":            func(r *circulation.Request) error { return r.Cancel(at()) },
			"expire":            func(r *circulation.Request) error { return r.Expire(at()) },
		},
		legal: map[string]map[string]circulation.Request{"open": {"fill": filled,
			"fill without loan": ended(circulation.RequestFilled, ""), "cancel": cancelled, "expire": expired}},
	}.test(t)
}

func TestSharingLifeCycle(t *testing.T) {
	in := func(s circulation.SharingState, closed time.Time) circulation.Sharing {
		return circulation.Sharing{ID: "s", Borrower: "b", State: s, Closed: closed}
	}
	requested, shipped, received := in(circulation.SharingRequested, time.Time{}), in(circulation.SharingShipped, time.Time{}), in(circulation.SharingReceived, time.Time{})
	completed, cancelled, rejected := in(circulation.SharingCompleted, at()), in(circulation.SharingCancelled, at()), in(circulation.SharingRejected, at())
	c := lifeCycle[circulation.Sharing]{
		states: map[string]circulation.Sharing{"requested": requested, "shipped": shipped, "received": received,
			"completed": completed, "cancelled": cancelled, "rejected": rejected},
		steps: map[string]func(*circulation.Sharing) error{
			"ship": (*circulation.Sharing).Ship, "receive": (*circulation.Sharing).Receive,
			"complete": func(s *circulation.Sharing) error { return s.Complete(at()) },
			"cancel":   func(s *circulation.Sharing) error { return s.Cancel(at()) },
			"reject":   func(s *circulation.Sharing) error { return s.Reject(at()) },
		},
		legal: map[string]map[string]circulation.Sharing{
			"requested": {"ship": shipped, "cancel": cancelled, "reject": rejected},
			"shipped":   {"receive": received, "complete": completed},
			"received":  {"complete": completed},
		},
	}
	c.test(t)
	for name, s := range c.states {
		p, err := s.Parts()
		require.NoError(t, err)
		require.Equal(t, !s.Closed.IsZero(), p.Facts.Status == circulation.Ended, name)
	}
}

func TestFeeLifeCycle(t *testing.T) {
	open := circulation.Fee{ID: "f", Borrower: "b"}
	inProcess := open
	inProcess.Status = circulation.FeeInProcess
	closed := func(o circulation.FeeOutcome, method string) circulation.Fee {
		f := open
		f.Status, f.Outcome, f.Closed, f.Method = circulation.FeeClosed, o, at(), method
		return f
	}
	paid, waived, exported := closed(circulation.FeePaid, "cash"), closed(circulation.FeeWaived, ""), closed(circulation.FeeExported, "")
	settle := func(more map[string]circulation.Fee) map[string]circulation.Fee {
		more["pay"], more["waive"], more["export"] = paid, waived, exported
		return more
	}
	lifeCycle[circulation.Fee]{
		states: map[string]circulation.Fee{"open": open, "in process": inProcess, "paid": paid, "waived": waived, "exported": exported},
		steps: map[string]func(*circulation.Fee) error{
			"process": (*circulation.Fee).Process, "return": (*circulation.Fee).Return,
			"pay":    func(f *circulation.Fee) error { return f.Pay(at(), "cash") },
			"waive":  func(f *circulation.Fee) error { return f.Waive(at()) },
			"export": func(f *circulation.Fee) error { return f.Export(at()) },
		},
		legal: map[string]map[string]circulation.Fee{
			"open":       settle(map[string]circulation.Fee{"process": inProcess}),
			"in process": settle(map[string]circulation.Fee{"return": open}),
		},
	}.test(t)
}

func TestNoticeLifeCycle(t *testing.T) {
	waiting := circulation.Notice{ID: "n", Borrower: "b"}
	sent, failed := waiting, waiting
	sent.Sent, sent.Outcome = at(), circulation.NoticeSent
	failed.Sent, failed.Outcome = at(), circulation.NoticeFailed
	lifeCycle[circulation.Notice]{
		states: map[string]circulation.Notice{"waiting": waiting, "sent": sent, "failed": failed},
		steps: map[string]func(*circulation.Notice) error{
			"send": func(n *circulation.Notice) error { return n.Send(at()) },
			"fail": func(n *circulation.Notice) error { return n.Fail(at()) },
		},
		legal: map[string]map[string]circulation.Notice{"waiting": {"send": sent, "fail": failed}},
	}.test(t)
}

// An error says what is wrong with which record and names nobody.
func TestTransitionErrorsNameNobody(t *testing.T) {
	l := circulation.Loan{ID: "l1", Borrower: "CANARY", Proxy: "CANARY", Returned: at()}
	require.EqualError(t, l.Return(at()), "circulation: illegal transition: cannot return loan l1, which is returned")
	require.EqualError(t, (&circulation.Loan{ID: "l1"}).Return(time.Time{}), "circulation: illegal transition: cannot return loan l1 without a time")
	f := circulation.Fee{ID: "f1", Borrower: "CANARY", Status: circulation.FeeClosed}
	require.EqualError(t, f.Process(), "circulation: illegal transition: cannot process fee f1, which is closed")
}
