package rights_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/rights"
)

// Somebody with records of every kind is forgotten: nothing names them, nothing opens, others keep theirs, and the certificate says so.
func TestErase(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *library) {
		id, other := l.join(1), l.join(2)
		records := l.history(1)
		l.save(loan("others", l.borrower(2)))
		_, err := l.store.SaveAccounts(t.Context(), one(circulation.Account{Borrower: l.borrower(1), Group: "students"}))
		require.NoError(t, err)
		require.Equal(t, records+1, l.named(id, 1))
		_, err = l.dir.View(t.Context(), officer, id, 0)
		require.NoError(t, err)

		c := l.opened(l.erase(id))
		require.Equal(t, id, c.Patron)
		require.Equal(t, "demand 31", c.Approval)
		require.Equal(t, map[string]int{"loan": 3, "request": 1, "sharing": 1, "fee": 1, "notice": 1}, c.Erased.Records)
		require.Equal(t, 1, c.Erased.Mentions)
		require.True(t, c.Erased.Key)
		require.Empty(t, c.Kept)
		require.WithinDuration(t, time.Now(), c.Unreachable.Here, time.Minute)
		require.Zero(t, c.Unreachable.InBackups, "the schedule has no horizon")

		require.Zero(t, l.named(id, 1))
		require.Equal(t, 2, l.named(other, 2), "the loan that the forgotten one collected is still the other's")
		_, err = l.dir.View(t.Context(), officer, id, 0)
		require.ErrorIs(t, err, patron.ErrNotFound)
		_, err = l.dir.Find(t.Context(), officer, secret("2900%06d", 1))
		require.ErrorIs(t, err, patron.ErrNotFound)
		_, err = l.keys.Open(t.Context(), id.Subject())
		require.ErrorIs(t, err, crypto.ErrShredded)
		view, err := l.dir.View(t.Context(), officer, other, 0)
		require.NoError(t, err)
		require.Equal(t, canary(2), view.Profile.Names[0].Last.Reveal())

		events := l.events()
		require.NotContains(t, events, id.String())
		require.NotContains(t, events, canary(1))
		require.Contains(t, events, c.Number)
		require.Contains(t, events, other.String())

		again := l.opened(l.erase(id)) // says it once more
		require.True(t, again.Erased.Key)
		require.Empty(t, again.Erased.Records)
		_, err = l.Erase(t.Context(), officer, patron.NewID(), demand)
		require.ErrorIs(t, err, patron.ErrNotFound)
	})
}

func one[V any](v V) func(func(V, error) bool) {
	return func(yield func(V, error) bool) { yield(v, nil) }
}

// Nothing of the patron's is in the database's files when the clearing-up is done: tokens, ID, names.
func TestEraseLeavesNoBytes(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	l.join(2)
	l.history(1)
	search := [][]byte{[]byte(l.borrower(1)), []byte(l.token(id.String())), []byte(l.text("Dear " + canary(1))), []byte(id.String()), id[:], []byte(canary(1)), []byte("2900000001")}
	l.erase(id)
	require.NoError(t, l.store.Finish(t.Context()))
	require.NoError(t, l.trail.Close(t.Context()))
	_, err := l.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	require.NoError(t, err)
	for _, suffix := range []string{"", "-wal", ".anchor", ".keys.ledger"} {
		data, err := os.ReadFile(l.path + suffix)
		require.NoError(t, err)
		for i, b := range search {
			require.NotContains(t, string(data), string(b), "%q is in library%s (%d)", b, suffix, i)
		}
	}
	data, err := os.ReadFile(l.path)
	require.NoError(t, err)
	require.Contains(t, string(data), string(l.borrower(2)), "the search finds what is there")
}

// obligations are what keeps a patron, each with the reason that has to be told.
var obligations = map[string]struct {
	reason string
	make   func(l *library, b circulation.Borrower)
}{
	"open loan": {"unfinished", func(l *library, b circulation.Borrower) { x := loan("x", b); x.Returned = time.Time{}; l.save(x) }},
	"lost item": {"lost", func(l *library, b circulation.Borrower) {
		x := loan("x", b)
		x.Returned, x.Lost = time.Time{}, true
		l.save(x)
	}},
	"claimed": {"claimed-returned", func(l *library, b circulation.Borrower) {
		x := loan("x", b)
		x.Returned, x.ClaimedReturned = time.Time{}, true
		l.save(x)
	}},
	"open fee": {"open-fee", func(l *library, b circulation.Borrower) {
		l.save(circulation.Fee{ID: "x", Borrower: b, Charged: began})
	}},
	"fee in dispute": {"fee-in-process", func(l *library, b circulation.Borrower) {
		l.save(circulation.Fee{ID: "x", Borrower: b, Charged: began, Status: circulation.FeeInProcess})
	}},
	"loan with a fee of nobody's": {"open-fee", func(l *library, b circulation.Borrower) {
		l.save(loan("x", b), circulation.Fee{ID: "y", Charged: began, Loan: "x"})
	}},
	"request": {"unfinished", func(l *library, b circulation.Borrower) {
		l.save(circulation.Request{ID: "x", Borrower: b, Requested: began})
	}},
	"sharing": {"unfinished", func(l *library, b circulation.Borrower) {
		l.save(circulation.Sharing{ID: "x", Borrower: b, Requested: began, State: circulation.SharingShipped})
	}},
	"waiting notice": {"unfinished", func(l *library, b circulation.Borrower) {
		l.save(circulation.Notice{ID: "x", Borrower: b, Created: began, Outcome: circulation.NoticeWaiting})
	}},
	"legal hold": {"legal-hold", func(l *library, b circulation.Borrower) {
		require.NoError(l.t, l.store.AddHold(l.t.Context(), circulation.Hold{Borrower: b, Ref: "case 7"}))
	}},
}

func TestEraseRefuses(t *testing.T) {
	for what, o := range obligations {
		t.Run(what, func(t *testing.T) {
			eachDatabase(t, func(t *testing.T, l *library) {
				id := l.join(1)
				l.history(1)
				o.make(l, l.borrower(1))
				before := l.named(id, 1)
				var owed *rights.ObligationsError
				_, err := l.Erase(t.Context(), officer, id, demand)
				require.ErrorAs(t, err, &owed)
				reasons := map[string]bool{}
				for _, k := range owed.Kept {
					for _, r := range k.Reasons {
						reasons[r] = true
					}
				}
				require.Contains(t, reasons, o.reason)
				require.Contains(t, err.Error(), o.reason)
				require.NotContains(t, err.Error(), canary(1))
				// Nothing was done.
				require.Equal(t, before, l.named(id, 1))
				view, err := l.dir.View(t.Context(), officer, id, 0)
				require.NoError(t, err)
				require.Equal(t, profile(1).Notes[0].Text.Reveal(), view.Profile.Notes[0].Text.Reveal())
				require.Contains(t, l.events(), `"why":"obligations"`)
				p, err := l.Purge(t.Context(), officer, rights.Purge{Request: demand})
				require.NoError(t, err)
				require.Zero(t, p.Looked, "a refused erasure does not wait for anything")
			})
		})
	}
}

// A legal hold, an erasure, the release: the next run does the rest, and nothing is forgotten before.
func TestEraseWaitsForHold(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *library) {
		id := l.join(1)
		records := l.history(1)
		require.NoError(t, l.store.AddHold(t.Context(), circulation.Hold{Borrower: l.borrower(1), Ref: "case 7"}))
		c, err := l.Erase(t.Context(), officer, id, rights.Request{Approval: "demand 31", Partial: true})
		require.NoError(t, err)
		c = l.opened(c)
		require.False(t, c.Erased.Key)
		require.Zero(t, c.Unreachable)
		require.ElementsMatch(t, []string{"birth", "notes"}, c.Erased.Segments)
		require.ElementsMatch(t, []string{"names", "emails", "identifiers"}, c.KeptSegments)
		require.Equal(t, map[string]int{"loan": 1}, c.Erased.Records, "the loan under the other token is under no hold")
		require.Len(t, c.Kept, records-1+1, "six records, and the hold itself")
		require.Equal(t, []string{"legal-hold"}, c.Kept[0].Reasons)

		view, err := l.dir.View(t.Context(), officer, id, 0)
		require.NoError(t, err, "the key is needed still")
		require.Equal(t, canary(1), view.Profile.Names[0].Last.Reveal())
		require.Empty(t, view.Profile.Notes)
		require.ErrorIs(t, l.dir.Update(t.Context(), officer, id, patron.Update{Segments: view.Profile.Segments(), Profile: view.Profile}), patron.ErrDenied, "nobody changes who waits to be erased")

		// Runs before the release change nothing.
		p, err := l.Purge(t.Context(), officer, rights.Purge{Request: demand})
		require.NoError(t, err)
		require.Equal(t, rights.Purged{Looked: 1, Partly: 1, Reasons: map[string]int{"legal-hold": records}}, p)
		require.Equal(t, records-1, l.named(id, 1))

		released, err := l.store.ReleaseHold(t.Context(), l.borrower(1), "case 7")
		require.NoError(t, err)
		require.True(t, released)
		var done []rights.Certificate
		p, err = l.Purge(t.Context(), officer, rights.Purge{Request: demand, Done: func(_ patron.ID, c rights.Certificate, err error) {
			require.NoError(t, err)
			done = append(done, c)
		}})
		require.NoError(t, err)
		require.Equal(t, 1, p.Erased)
		require.Len(t, done, 1)
		require.WithinDuration(t, time.Now(), done[0].Asked, time.Minute)
		require.True(t, l.opened(done[0]).Erased.Key)
		require.Zero(t, l.named(id, 1))
		_, err = l.keys.Open(t.Context(), id.Subject())
		require.ErrorIs(t, err, crypto.ErrShredded)
		p, err = l.Purge(t.Context(), officer, rights.Purge{Request: demand})
		require.NoError(t, err)
		require.Zero(t, p.Looked)
	})
}

// What the law makes the library keep stays, with the rule, its reason and a date, and goes after it.
func TestEraseRetains(t *testing.T) {
	retain, err := anonymize.ParsePolicy([]byte(`
carrel-retention: 1
id: bookkeeping
revision: 3
title: What the law makes us keep
effective: 2020-01-01
records:
  fees:
    - {name: accounts, why: Accounts are kept for seven years, after: P7Y}
`))
	require.NoError(t, err)
	policy, err := anonymize.ParsePolicy([]byte(`
carrel-retention: 1
id: house
revision: 1
title: Ours
effective: 2020-01-01
records:
  loans: [{name: all, after: P90D}]
keep-fields:
  loans: {library: keep, returned: month}
`))
	require.NoError(t, err)
	eachDatabase(t, func(t *testing.T, l *library) {
		at := time.Now()
		l.with(rights.Config{Retain: retain, Policy: policy, Now: func() time.Time { return at }})
		id := l.join(1)
		l.history(1)
		_, err := l.Erase(t.Context(), officer, id, demand)
		var owed *rights.ObligationsError
		require.ErrorAs(t, err, &owed)
		require.Equal(t, []rights.Kept{{Kind: "fee", ID: "fee1", Reasons: []string{"period-not-passed"}, Rule: "accounts", Why: "Accounts are kept for seven years",
			Until: time.Date(2033, 3, 18, 0, 0, 0, 0, time.UTC)}}, owed.Kept)
		c, err := l.Erase(t.Context(), officer, id, rights.Request{Partial: true})
		require.NoError(t, err)
		require.Equal(t, owed.Kept, c.Kept)
		require.Equal(t, 1, l.named(id, 1))
		// What was unlinked is as coarse as after a sweep: nothing would come by later and make it so.
		var item string
		var ended int64
		require.NoError(t, l.db.QueryRow("SELECT item, ended FROM records WHERE id = 'loan1'").Scan(&item, &ended))
		require.Empty(t, item)
		require.Equal(t, time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).UnixMicro(), ended)

		at = time.Date(2033, 3, 18, 0, 0, 0, 0, time.UTC)
		p, err := l.Purge(t.Context(), officer, rights.Purge{})
		require.NoError(t, err)
		require.Equal(t, 1, p.Erased)
		require.Zero(t, l.named(id, 1))
	})
}

// An item that is held by the policy file keeps its loan, too.
func TestEraseHeedsHoldsInThePolicy(t *testing.T) {
	policy, err := anonymize.ParsePolicy([]byte(`
carrel-retention: 1
id: house
revision: 1
title: Ours
effective: 2020-01-01
holds: [{ref: case 9, item: [item-loan1], until: 2099-01-01}]
records: {loans: [{name: all, after: P90D}]}
`))
	require.NoError(t, err)
	l := newLibrary(t)
	l.with(rights.Config{Policy: policy})
	id := l.join(1)
	l.history(1)
	_, err = l.Erase(t.Context(), officer, id, demand)
	var owed *rights.ObligationsError
	require.ErrorAs(t, err, &owed)
	require.Len(t, owed.Kept, 1)
	require.Equal(t, []string{"legal-hold"}, owed.Kept[0].Reasons)
}

func TestEraseNeedsTheRight(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	records := l.history(1)
	for what, call := range map[string]patron.Call{
		"the desk":           desk,
		"nobody":             {Role: "all", Purpose: "legal", Channel: audit.CLI},
		"another purpose":    {Actor: "dpo-1", Role: "all", Purpose: "checkout", Channel: audit.CLI},
		"the patron, online": {Self: id, Role: "self", Purpose: "legal", Channel: audit.Self},
	} {
		_, err := l.Erase(t.Context(), call, id, demand)
		require.ErrorIs(t, err, patron.ErrDenied, what)
		require.ErrorIs(t, l.Restrict(t.Context(), call, id, demand), patron.ErrDenied, what)
		_, err = l.Purge(t.Context(), call, rights.Purge{ExpiredBefore: time.Now().AddDate(9, 0, 0)})
		require.ErrorIs(t, err, patron.ErrDenied, what)
	}
	require.Equal(t, records+1, l.named(id, 1))
	require.Equal(t, 4*3, strings.Count(l.events(), `"outcome":"denied"`))
}

// Two officers erase the same patron, and the desk lends to them meanwhile and afterwards: in the end nothing names them.
func TestEraseRaces(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *library) {
		for n := range 8 {
			id := l.join(n)
			l.history(n)
			b := l.borrower(n)
			var wait sync.WaitGroup
			certificates := make([]rights.Certificate, 2)
			failed := make([]error, 2)
			for i := range 2 {
				wait.Go(func() {
					certificates[i], failed[i] = l.Erase(context.Background(), officer, id, rights.Request{Partial: n%2 == 0})
				})
			}
			wait.Go(func() {
				for i := range 5 {
					l.store.Save(context.Background(), func(yield func(circulation.Entry, error) bool) { yield(loan(fmt.Sprint("late", n, "-", i), b), nil) })
				}
			})
			wait.Wait()
			for i, err := range failed {
				if err != nil {
					require.False(t, errors.Is(err, crypto.ErrLedger), err)
				} else {
					require.True(t, certificates[i].Erased.Key)
				}
			}
			c := l.erase(id)
			require.True(t, c.Erased.Key)
			a, err := l.EraseAgain(t.Context(), officer, l.borrowers())
			require.NoError(t, err)
			require.Empty(t, a.Kept)
			require.Zero(t, l.named(id, n))
			_, err = l.keys.Open(t.Context(), id.Subject())
			require.ErrorIs(t, err, crypto.ErrShredded)
		}
	})
}

// The date in a certificate is that at which the last copy of the key dies, if rotations are on time.
func TestCertificateSaysWhen(t *testing.T) {
	l := newLibrary(t)
	require.NoError(t, l.keys.SetSchedule(t.Context(), crypto.Schedule{Every: 30 * 24 * time.Hour, Horizon: 60 * 24 * time.Hour}))
	id := l.join(1)
	c := l.erase(id)
	s, err := l.keys.Status()
	require.NoError(t, err)
	require.Equal(t, s.Due.Add(60*24*time.Hour).UTC(), c.Unreachable.InBackups)
	require.WithinDuration(t, time.Now().AddDate(0, 0, 90), c.Unreachable.InBackups, 26*time.Hour)
}

// Whoever changes a certificate, or has another installation's key, is seen.
func TestCertificateIsSigned(t *testing.T) {
	l := newLibrary(t)
	c := l.erase(l.join(1))
	key, err := audit.VerifierKey(t.Context(), l.keys)
	require.NoError(t, err)
	for i := range c.Signed {
		changed := append([]byte(nil), c.Signed...)
		changed[i] ^= 1
		if got, err := rights.OpenCertificate(changed, key); err == nil {
			// A byte of the key's name or hash in the signature's line may be read past; what is said is the same.
			require.Equal(t, c.Number, got.Number, i)
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(c)
			require.Equal(t, string(b), string(a))
		} else {
			require.ErrorIs(t, err, audit.ErrStatement)
		}
	}
	other, err := audit.VerifierKey(t.Context(), newLibrary(t).keys)
	require.NoError(t, err)
	_, err = rights.OpenCertificate(c.Signed, other)
	require.ErrorIs(t, err, audit.ErrStatement)
	// Nor is a checkpoint a certificate.
	_, err = l.trail.Sequence(t.Context())
	require.NoError(t, err)
	checkpoint, err := os.ReadFile(l.path + ".anchor")
	require.NoError(t, err)
	_, err = rights.OpenCertificate(checkpoint, key)
	require.ErrorIs(t, err, audit.ErrStatement)
}
