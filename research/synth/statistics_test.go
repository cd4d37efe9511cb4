package synth_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/research/synth"
)

// Each parameter of the package comment, found again in what comes out. Shares are of old loans, of which
// the end is known: what was lent last year is often still out.
func TestStatistics(t *testing.T) {
	a := collect(generate(t, synth.Params{Seed: 11, Loans: 600_000, Years: 10}))
	until := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	byID := map[string]*circulation.Loan{}
	perPatron := map[circulation.Borrower]float64{}
	for i := range a.loans {
		byID[a.loans[i].ID] = &a.loans[i]
		perPatron[a.loans[i].Borrower]++
	}
	feeOf := map[string]circulation.Fee{}
	for _, f := range a.fees {
		feeOf[f.Loan] = f
	}
	require.Len(t, feeOf, len(a.fees), "a loan costs once")
	old := func(l *circulation.Loan) bool { return l.Loaned.Before(until.AddDate(-4, 0, 0)) }

	t.Run("loans per patron", func(t *testing.T) {
		var counts []float64
		for _, n := range perPatron {
			counts = append(counts, n)
		}
		slices.Sort(counts)
		require.LessOrEqual(t, counts[len(counts)-1], 3571.0)
		require.Equal(t, len(a.accounts), len(counts), "everybody borrows")
		for _, q := range []struct{ share, z, tolerance float64 }{
			{0.5, 0, 0.05}, {0.75, 0.67449, 0.07}, {0.9, 1.28155, 0.07}, {0.95, 1.64485, 0.10}, {0.99, 2.32635, 0.15}} { // the cut takes 3 % off the last
			want := math.Exp(1.82 + 1.90*q.z)
			require.InEpsilon(t, want, counts[int(q.share*float64(len(counts)))], q.tolerance, "quantile %v", q.share)
		}
	})
	t.Run("groups", func(t *testing.T) {
		groupOf := map[circulation.Borrower]string{}
		for _, l := range a.loans {
			groupOf[l.Borrower] = l.Group
		}
		counts := map[string]float64{}
		for _, g := range groupOf {
			counts[g]++
		}
		for g, share := range map[string]float64{"undergraduate": 0.55, "graduate": 0.20, "faculty": 0.10, "other": 0.15} {
			require.InDelta(t, share, counts[g]/float64(len(groupOf)), 0.012, g)
		}
	})
	t.Run("overdue", func(t *testing.T) {
		loans, late := map[string]float64{}, map[string]float64{}
		for i := range a.loans {
			if l := &a.loans[i]; old(l) {
				loans[l.Group]++
				end := l.Returned
				if end.IsZero() {
					end = until
				}
				if end.After(l.Due) {
					late[l.Group]++
				}
			}
		}
		for g, share := range map[string]float64{"undergraduate": 0.19, "graduate": 0.07, "faculty": 0.02, "other": 0.10} {
			require.InDelta(t, share, late[g]/loans[g], 0.004, g)
		}
	})
	t.Run("renewals", func(t *testing.T) {
		sum := 0
		for _, l := range a.loans {
			sum += l.Renewals
		}
		require.InDelta(t, 0.47, float64(sum)/float64(len(a.loans)), 0.005)
	})
	t.Run("hold times", func(t *testing.T) {
		days := map[string][]float64{} // ln(1+days); what is still out is longer than all
		for i := range a.loans {
			l := &a.loans[i]
			if !l.Loaned.Before(until.AddDate(-8, 0, 0)) || feeOf[l.ID].Type == "lost" {
				continue
			}
			x := math.Inf(1)
			if !l.Returned.IsZero() {
				x = math.Log(1 + l.Returned.Sub(l.Loaned).Hours()/24)
			}
			days[l.Group] = append(days[l.Group], x)
		}
		for g, p := range map[string][2]float64{"undergraduate": {3.3, 1.3}, "graduate": {3.3, 1.3}, "faculty": {3.9, 1.6}, "other": {3.3, 1.3}} {
			x := days[g]
			slices.Sort(x)
			at := func(share float64) float64 { return x[int(share*float64(len(x)))] }
			require.Greater(t, len(x), 3000, g)
			require.InDelta(t, p[0], at(0.5), 0.05, "%s: median", g)
			require.InDelta(t, p[1], (at(0.8413)-at(0.1587))/2, 0.05, "%s: standard deviation", g)
		}
	})
	t.Run("season", func(t *testing.T) {
		var months [13]float64
		var weekdays [7]float64
		for _, l := range a.loans {
			months[l.Loaned.Month()]++
			weekdays[l.Loaned.Weekday()]++
			if h := l.Loaned.Hour(); h < 8 || h > 22 {
				t.Fatalf("lent at %v", l.Loaned)
			}
		}
		for i, share := range []float64{65, 132, 104, 78, 38, 21, 21, 55, 154, 128, 127, 77} {
			require.InDelta(t, share/1000, months[i+1]/float64(len(a.loans)), 0.012, "%s", time.Month(i+1))
		}
		for i, share := range []float64{77, 196, 182, 186, 173, 134, 52} {
			require.InDelta(t, share/1000, weekdays[i]/float64(len(a.loans)), 0.005, "%s", time.Weekday(i))
		}
	})
	t.Run("lost and claimed", func(t *testing.T) {
		var loans, lost, back, claimed float64
		for i := range a.loans {
			l := &a.loans[i]
			if !old(l) {
				continue
			}
			loans++
			if l.ClaimedReturned {
				claimed++ // the half that was not found
			}
			if feeOf[l.ID].Type == "lost" {
				lost++
				if !l.Returned.IsZero() && !l.Withdrawn {
					back++
				}
			}
		}
		require.InDelta(t, 0.004, lost/loans, 0.0005)
		require.InDelta(t, 0.0005, claimed/loans, 0.0002)
		require.InDelta(t, 0.30, back/lost, 0.05)
	})
	t.Run("fees", func(t *testing.T) {
		var fines, unpaid, least, most float64
		least = math.Inf(1)
		var waits []float64
		for _, f := range a.fees {
			l := byID[f.Loan]
			if f.Type == "lost" {
				require.True(t, f.Amount >= 4900 && f.Amount <= 7200)
				least, most = min(least, float64(f.Amount)), max(most, float64(f.Amount))
				continue
			}
			days := math.Ceil(f.Charged.Sub(l.Due).Hours() / 24)
			require.True(t, f.Amount <= 600 && float64(f.Amount) >= min(10*days, 600) && float64(f.Amount) <= 15*days, "%v for %v days", f.Amount, days)
			require.Equal(t, l.Returned, f.Charged)
			if f.Charged.After(until.AddDate(-4, 0, 0)) {
				continue
			}
			fines++
			if f.Status != circulation.FeeClosed {
				unpaid++
			} else {
				waits = append(waits, f.Closed.Sub(f.Charged).Hours()/24)
			}
		}
		require.Less(t, least, 4950.0)
		require.Greater(t, most, 7150.0)
		require.InDelta(t, 0.15, unpaid/fines, 0.01)
		slices.Sort(waits)
		require.InDelta(t, 60*math.Ln2, waits[len(waits)/2], 3, "the median of exp(60 days)")
		for i := range a.loans { // who is late and back pays
			if l := &a.loans[i]; !l.Withdrawn && !l.Returned.IsZero() && l.Returned.After(l.Due) && feeOf[l.ID].ID == "" {
				require.Greater(t, l.Returned.Sub(l.Due), 14*24*time.Hour, "only what was claimed returned and found costs nothing")
			}
		}
	})
	t.Run("proxies, comments, self-service", func(t *testing.T) {
		var facultyLoans, facultyProxies, proxies, comments, notes float64
		for _, l := range a.loans {
			if l.Comment != "" {
				comments++
			}
			if l.Note != "" {
				notes++
			}
			if l.Proxy != "" {
				proxies++
			}
			if l.Group == "faculty" {
				facultyLoans++
				if l.Proxy != "" {
					facultyProxies++
				}
			}
		}
		n := float64(len(a.loans))
		require.InDelta(t, 0.08, facultyProxies/facultyLoans, 0.006)
		require.InDelta(t, 0.01, (proxies-facultyProxies)/(n-facultyLoans), 0.001)
		require.InDelta(t, 0.01, comments/n, 0.001)
		require.InDelta(t, 0.01, notes/n, 0.001)
	})
	t.Run("requests and sharing", func(t *testing.T) {
		var filled, unfilled, borrowed, lent float64
		for _, r := range a.requests {
			if r.Loan != "" {
				filled++
			} else {
				unfilled++
			}
		}
		for _, s := range a.sharing {
			if s.Type == "lending" {
				lent++
			} else {
				borrowed++
			}
		}
		n := float64(len(a.loans))
		require.InDelta(t, 0.15, filled/n, 0.003)
		require.InDelta(t, 0.03, unfilled/n, 0.001)
		require.InDelta(t, 0.02, borrowed/n, 0.001)
		require.InDelta(t, 0.01, lent/n, 0.001)
	})
	t.Run("accounts", func(t *testing.T) {
		wishes := map[circulation.Wish]float64{}
		for _, x := range a.accounts {
			wishes[x.Wish]++
			require.Equal(t, time.June, x.Expires.Month())
			require.Equal(t, 30, x.Expires.Day())
		}
		require.InDelta(t, 0.10, wishes[circulation.WishKeep]/float64(len(a.accounts)), 0.01)
		require.InDelta(t, 0.05, wishes[circulation.WishForget]/float64(len(a.accounts)), 0.01)
	})
}
