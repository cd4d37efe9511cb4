package synth_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/research/synth"
)

func generate(t testing.TB, p synth.Params) *synth.Library {
	t.Helper()
	l, err := synth.Generate(p)
	require.NoError(t, err)
	return l
}

// all is a library taken apart by kind.
type all struct {
	accounts []circulation.Account
	loans    []circulation.Loan
	requests []circulation.Request
	sharing  []circulation.Sharing
	fees     []circulation.Fee
	notices  []circulation.Notice
}

func collect(l *synth.Library) (a all) {
	a.accounts = slices.Collect(l.Accounts())
	for e := range l.Entries() {
		switch e := e.(type) {
		case circulation.Loan:
			a.loans = append(a.loans, e)
		case circulation.Request:
			a.requests = append(a.requests, e)
		case circulation.Sharing:
			a.sharing = append(a.sharing, e)
		case circulation.Fee:
			a.fees = append(a.fees, e)
		case circulation.Notice:
			a.notices = append(a.notices, e)
		}
	}
	return a
}

func digest(l *synth.Library, n int) string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	for a := range l.Accounts() {
		_ = enc.Encode(a)
	}
	for e := range l.Entries() {
		if n--; n < 0 {
			break
		}
		_ = enc.Encode(e)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:12])
}

// The same bytes on every machine and with every version of Go. If this fails without a deliberate change to
// what is made up, published figures can no longer be repeated; a deliberate change is worth a line in the changelog.
func TestGolden(t *testing.T) {
	p := synth.Params{Seed: 1, Patrons: 200}
	require.Equal(t, "0d4ce14dd5dbcc536554e528", digest(generate(t, p), math.MaxInt))
	require.Equal(t, digest(generate(t, p), 1000), digest(generate(t, p), 1000))
	p.Seed = 2
	require.NotEqual(t, digest(generate(t, synth.Params{Seed: 1, Patrons: 200}), 1000), digest(generate(t, p), 1000))
}

func TestParams(t *testing.T) {
	require.Equal(t, 1000, generate(t, synth.Params{}).Patrons())
	l := generate(t, synth.Params{Loans: 12_345})
	require.Equal(t, 12_345, l.Loans())
	require.Equal(t, 1, generate(t, synth.Params{Loans: 1}).Loans())
	for want, p := range map[string]synth.Params{
		"Patrons":  {Patrons: -1},
		"Loans":    {Loans: -1},
		"Years":    {Years: 31},
		"both set": {Loans: 1, Patrons: 1},
		"Until":    {Until: time.Date(1, 2, 3, 0, 0, 0, 0, time.UTC)},
	} {
		_, err := synth.Generate(p)
		require.ErrorContains(t, err, want)
	}
	// Until is a day, and the years before it are those asked for.
	a := collect(generate(t, synth.Params{Patrons: 300, Years: 1, Until: time.Date(2025, 3, 9, 17, 0, 0, 0, time.UTC)}))
	require.True(t, a.loans[0].Loaned.After(time.Date(2024, 3, 9, 0, 0, 0, 0, time.UTC)))
	require.True(t, a.loans[len(a.loans)-1].Loaned.Before(time.Date(2025, 3, 9, 0, 0, 0, 0, time.UTC)))
	require.True(t, a.loans[0].Loaned.Before(time.Date(2024, 3, 20, 0, 0, 0, 0, time.UTC)))
}

// A larger library is the smaller one and more: no patron's history changes, only ids and copies do.
func TestMoreDoesNotReshuffle(t *testing.T) {
	small, large := collect(generate(t, synth.Params{Seed: 4, Patrons: 100})), collect(generate(t, synth.Params{Seed: 4, Patrons: 300}))
	require.Equal(t, small.accounts, large.accounts[:100])
	known := map[circulation.Borrower]bool{}
	for _, a := range small.accounts {
		known[a.Borrower] = true
	}
	var same []circulation.Loan
	for _, l := range large.loans {
		if known[l.Borrower] {
			same = append(same, l)
		}
	}
	require.Len(t, same, len(small.loans))
	for i, l := range small.loans {
		l.ID, l.Item, same[i].ID, same[i].Item = "", "", "", ""
		require.Equal(t, l, same[i])
	}
}

// Everything a demo or a test can lose is there, in every state of every life cycle.
func TestEveryStateOccurs(t *testing.T) {
	a := collect(generate(t, synth.Params{Seed: 5, Loans: 200_000}))
	seen := map[string]int{}
	note := func(kind string, is bool, what string) {
		if is {
			seen[kind+" "+what]++
		}
	}
	for _, x := range a.accounts {
		note("account", true, x.Wish.String())
		note("account", x.Group == "alumni", "alumni")
		note("account", !x.WishSince.IsZero(), "wish since")
	}
	for _, x := range a.loans {
		note("loan", x.Returned.IsZero() && !x.Lost && !x.ClaimedReturned, "out")
		note("loan", x.Lost, "lost")
		note("loan", x.ClaimedReturned, "claimed")
		note("loan", x.Withdrawn, "withdrawn")
		note("loan", !x.Returned.IsZero() && !x.Withdrawn, "returned")
		note("loan", x.Proxy != "", "proxy")
		note("loan", x.Sponsor != "", "sponsor")
		note("loan", x.Staff != "", "staff")
		note("loan", strings.Contains(x.Comment, string(x.Borrower)), "comment")
		note("loan", strings.Contains(x.Note, string(x.Borrower)), "note")
	}
	for _, x := range a.requests {
		note("request", true, string(x.Outcome))
		note("request", x.Recipient != "", "recipient")
		note("request", strings.Contains(x.Address, string(x.Borrower)), "address")
		note("request", x.Comment != "", "comment")
	}
	for _, x := range a.sharing {
		note("sharing", true, x.Type+" "+string(x.State))
		note("sharing", x.Borrower == "", "nobody")
		note("sharing", x.Request != "", "with request")
		note("sharing", x.Recipient != "", "recipient")
		note("sharing", x.Address != "", "address")
		note("sharing", x.Note != "", "note")
	}
	for _, x := range a.fees {
		note("fee", true, x.Type+" "+x.Status.String()+" "+string(x.Outcome)+" "+x.Method)
		note("fee", x.Comment != "", "comment")
	}
	for _, x := range a.notices {
		note("notice", true, x.Type)
		note("notice", true, "outcome "+string(x.Outcome))
		note("notice", x.Recipient != "", "recipient")
		require.Contains(t, x.Body, string(x.Borrower))
		require.Contains(t, x.Address, string(x.Borrower))
		require.Contains(t, x.Body, "Synthetic")
	}
	for _, want := range []string{
		"account ", "account keep", "account forget", "account alumni", "account wish since",
		"loan out", "loan lost", "loan claimed", "loan withdrawn", "loan returned", "loan proxy", "loan sponsor", "loan staff", "loan comment", "loan note",
		"request ", "request filled", "request cancelled", "request expired", "request recipient", "request address", "request comment",
		"sharing borrowing received", "sharing borrowing completed", "sharing lending ", "sharing lending shipped", "sharing lending completed",
		"sharing lending cancelled", "sharing lending rejected", "sharing nobody", "sharing with request", "sharing recipient", "sharing address", "sharing note",
		"fee overdue open  ", "fee overdue in-process  ", "fee overdue closed paid cash", "fee overdue closed paid card", "fee overdue closed paid online",
		"fee overdue closed waived ", "fee overdue closed exported ", "fee lost open  ", "fee lost closed waived ", "fee lost closed paid card", "fee comment",
		"notice overdue", "notice hold-ready", "notice fee", "notice outcome ", "notice outcome sent", "notice outcome failed", "notice recipient",
	} {
		require.Positive(t, seen[want], "%s; there are %v", want, slices.Sorted(maps.Keys(seen)))
	}
}

// Every entry is fit for a store, points only at what came before it and belongs to the same borrower, and
// its times and states go together.
func TestIntegrity(t *testing.T) {
	until := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	l := generate(t, synth.Params{Seed: 6, Loans: 150_000})
	persons := map[circulation.Borrower]circulation.Account{}
	for a := range l.Accounts() {
		require.Len(t, a.Borrower, 16)
		persons[a.Borrower] = a
	}
	require.Len(t, persons, l.Patrons(), "borrowers differ")
	firsts := map[byte]bool{}
	for b := range persons {
		firsts[b[0]] = true
	}
	require.Greater(t, len(firsts), 20, "borrowers have no common beginning")

	type key struct {
		kind circulation.Kind
		id   string
	}
	owner := map[key]circulation.Borrower{}
	started := map[key]time.Time{}
	kind, last := circulation.KindLoan, time.Time{}
	for e := range l.Entries() {
		p, err := e.Parts()
		require.NoError(t, err)
		f := p.Facts
		k := key{f.Kind, f.ID}
		if _, dup := owner[k]; dup || f.Kind < kind {
			t.Fatalf("%v comes twice or too late", k)
		}
		kind = f.Kind
		owner[k], started[k] = "", f.Started
		for _, link := range p.Links {
			if _, ok := persons[link.Person]; !ok {
				t.Fatalf("%v names a %s who is nobody", k, link.Role)
			}
			if link.Role == circulation.RoleBorrower {
				owner[k] = link.Person
			} else if link.Role != circulation.RoleStaff && link.Person == owner[k] {
				t.Fatalf("%v: borrower and %s are one", k, link.Role)
			}
		}
		for _, pt := range p.Points {
			who, ok := owner[key{pt.Kind, pt.ID}]
			if !ok || who != owner[k] || who == "" {
				t.Fatalf("%v points at %v, which is not there or somebody else's", k, pt)
			}
		}
		switch {
		case f.Started.IsZero(), !f.Started.Before(until), f.Ended.After(until), !f.Ended.IsZero() && f.Ended.Before(f.Started),
			(f.Status == circulation.Ended) == f.Ended.IsZero():
			t.Fatalf("%v: started %v, ended %v, %v", k, f.Started, f.Ended, f.Status)
		}
		switch e := e.(type) {
		case circulation.Loan:
			if e.Loaned.Before(last) || !e.Due.After(e.Loaned) || e.Returned.IsZero() == false && (e.Lost || e.ClaimedReturned) {
				t.Fatalf("loan %+v", e)
			}
			last = e.Loaned
			if (e.Lost || e.ClaimedReturned) && !e.Due.Before(until) {
				t.Fatalf("loan %s is lost or claimed before it is due", e.ID)
			}
		case circulation.Fee:
			loan := started[key{circulation.KindLoan, e.Loan}]
			if e.Charged.Before(loan) || (e.Status == circulation.FeeClosed) == (e.Outcome == "") || e.Method != "" && e.Outcome != circulation.FeePaid || e.Amount <= 0 {
				t.Fatalf("fee %+v", e)
			}
		case circulation.Request:
			if e.Outcome == circulation.RequestFilled && !e.Closed.Equal(started[key{circulation.KindLoan, e.Loan}]) {
				t.Fatalf("request %+v", e)
			}
		case circulation.Notice:
			if e.Loan == "" && e.Request == "" {
				t.Fatalf("notice %s is about nothing", e.ID)
			}
		}
	}
	require.Equal(t, circulation.KindNotice, kind)
}

// A copy is with one person at a time.
func TestNoItemIsLentTwiceAtOnce(t *testing.T) {
	busy := map[string]time.Time{}
	copies := 0
	for _, l := range collect(generate(t, synth.Params{Seed: 8, Loans: 200_000})).loans {
		free, known := busy[l.Item]
		if known && !free.Before(l.Loaned) {
			t.Fatalf("%s is lent at %v and free at %v", l.Item, l.Loaned, free)
		}
		if !known {
			copies++
		}
		busy[l.Item] = l.Returned
		if l.Returned.IsZero() || l.Withdrawn {
			busy[l.Item] = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
		}
	}
	require.Less(t, copies, 150_000, "items come back and are lent again")
}

// A reader who has enough stops, in each of the kinds.
func TestEntriesStops(t *testing.T) {
	l := generate(t, synth.Params{Seed: 1, Patrons: 300})
	total := 0
	for range l.Entries() {
		total++
	}
	for stop := 1; stop < total; stop += total / 97 {
		n := 0
		for range l.Entries() {
			if n++; n == stop {
				break
			}
		}
		require.Equal(t, stop, n)
	}
	for range l.Accounts() {
		break
	}
}
