package main

import (
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/internal/oracle"
)

// reedPolicies have different shapes on purpose; the kinds are those of the data.
func reedPolicies() map[string]*oracle.Policy {
	kinds := func(loans, fees []oracle.Rule) []oracle.KindRules {
		list := []oracle.KindRules{{Kind: circulation.KindLoan, Rules: loans}}
		if fees != nil {
			list = append(list, oracle.KindRules{Kind: circulation.KindFee, Rules: fees})
		}
		return list
	}
	twoYears := []oracle.Rule{{Name: "settled", After: "P2Y"}}
	return map[string]*oracle.Policy{
		"first": {Kinds: kinds([]oracle.Rule{
			{Name: "equipment", Location: []string{"IMC Equipment"}, After: "at once"},
			{Name: "money", Fee: "had", Since: "fee-closed", After: "P1Y"},
			{Name: "students", Group: []string{"students"}, After: "P30D"},
			{Name: "partners", Group: []string{"ill-partner"}, After: "never"},
			{Name: "everyone-else", After: "P90D"},
		}, []oracle.Rule{
			{Name: "cash", PaidMethod: []string{"cash"}, After: "P1Y"},
			{Name: "lost", Type: []string{"lost"}, After: "P18M"},
			{Name: "settled", After: "P6M"},
		}), Groups: []oracle.Set{{Name: "students", Members: []string{"student", "senior"}}}},

		"shortest": {Match: "shortest", Zone: "America/Los_Angeles", DayEnds: "03:00", Kinds: kinds([]oracle.Rule{
			{Name: "all", After: "P1Y"},
			{Name: "hauser", Library: []string{"hauser"}, After: "P6M"},
			{Name: "alumni-now", GroupNow: []string{"alumni"}, After: "P45D"},
			{Name: "paid", Fee: "had", Since: "fee-closed", After: "P2W"},
		}, []oracle.Rule{{Name: "a", After: "P1Y"}, {Name: "b", Library: []string{"imc", "parc"}, After: "P100D"}})},

		"longest": {Match: "longest", Zone: "Europe/Stockholm", Default: "unlink", Kinds: kinds([]oracle.Rule{
			{Name: "hauser", Library: []string{"hauser"}, After: "P30D"},
			{Name: "reserve", Location: []string{"Reserve Fall 3 hr", "Reserve Spring 3 hr"}, After: "P1D"},
			{Name: "staff", Group: []string{"staff", "alumni"}, After: "P1Y1M"},
			{Name: "paid", Fee: "had", Since: "fee-closed", After: "P400DT12H"},
		}, []oracle.Rule{{Name: "waived-or-exported", PaidMethod: []string{"nothing"}, After: "never"}, {Name: "all", Type: []string{"overdue"}, After: "P1M"}})},

		"keep the last five of a patron": {Kinds: kinds([]oracle.Rule{
			{Name: "students", Group: []string{"student", "senior"}, After: "P30D", KeepLast: 5, Per: "patron", AtMost: "P1Y"},
			{Name: "others", After: "P60D", KeepLast: 5, Per: "patron"},
		}, twoYears)},

		"keep the last of an item": {Kinds: kinds([]oracle.Rule{
			{Name: "item", After: "at once", KeepLast: 1, Per: "item", AtMost: "P1Y"},
		}, nil)},

		"accounts that have ended": {Kinds: kinds([]oracle.Rule{
			{Name: "left-us", PatronExpired: "P3M", Fee: "none", After: "at once"},
			{Name: "leaving", Group: []string{"senior"}, Since: "expired", After: "P1M"},
			{Name: "everyone-else", After: "P1Y"},
		}, []oracle.Rule{{Name: "left-us", PatronExpired: "P6M", After: "at once"}, {Name: "settled", After: "P2Y"}})},

		"wishes": {ShortenTo: "P1D", ExtendTo: "P1Y", Kinds: kinds([]oracle.Rule{
			{Name: "money", Fee: "had", Since: "fee-closed", After: "P200D"},
			{Name: "everyone", After: "P90D"},
		}, twoYears)},

		"wishes without end": {ShortenTo: "at once", ExtendTo: "forever", Kinds: kinds([]oracle.Rule{
			{Name: "stacks", Location: []string{"Stacks"}, After: "P1Y"},
		}, twoYears)},

		"holds on items and records": {Holds: []oracle.Hold{
			{Ref: "to the day", Items: []string{"449755fd343e"}, Until: "2020-06-29"},
			{Ref: "a day more", Items: []string{"00007d871483", "ffff5c0bf10c"}, Until: "2020-06-30"},
			{Ref: "no end", Record: []string{"l000002", "l000003", "f00002", "f00003"}},
		}, Kinds: kinds([]oracle.Rule{{Name: "month", After: "P1M"}}, []oracle.Rule{{Name: "month", After: "P1M"}})},

		"at once": {Kinds: kinds([]oracle.Rule{{Name: "now", After: "at once"}}, []oracle.Rule{{Name: "now", After: "at once"}})},
	}
}

// TestReed compares the whole command, from the import of real data to the report, with what the oracle
// counts straight from the files.
func TestReed(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "data", "reed")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		t.Skip("SKIPPED, NOT PASSED: the Reed College data is not at " + dir + "; nothing proves here that the command counts right")
	}
	records := reedRecords(t, dir)
	require.Len(t, records[circulation.KindLoan], 93_564)
	require.Len(t, records[circulation.KindFee], 6_680)

	tmp := t.TempDir()
	binary := filepath.Join(tmp, "carrel-under-test")
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	run := func(t *testing.T, args ...string) []byte {
		t.Helper()
		var stderr strings.Builder
		cmd := exec.Command(binary, args...)
		cmd.Stderr = &stderr
		start := time.Now()
		out, err := cmd.Output()
		require.NoError(t, err, "carrel %s\n%s%s", strings.Join(args, " "), out, stderr.String())
		t.Logf("carrel %s: %.1f s", args[0], time.Since(start).Seconds())
		return out
	}
	db := filepath.Join(tmp, "reed.db")
	run(t, "import", "--db", db, "--patrons", filepath.Join(dir, "patrons.csv.gz"),
		"--loans", filepath.Join(dir, "loans.csv.gz"), "--fees", filepath.Join(dir, "fees.csv.gz"))

	for name, p := range reedPolicies() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file, copied := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "reed.db")
			require.NoError(t, os.WriteFile(file, p.YAML(), 0o600))
			for _, at := range []string{"2019-02-01", "2020-06-30", "2021-01-15T12:34:56Z", "2023-09-01"} {
				report := sweepReport(t, run(t, "sweep", "--db", db, "--policy", file, "--at", at, "--json", "--dry-run"))
				require.True(t, report.DryRun)
				expectCounts(t, p, records, at, report)
			}

			text, err := os.ReadFile(db) // closed, so all of it is in the one file
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(copied, text, 0o600))
			const at = "2020-06-30"
			report := sweepReport(t, run(t, "sweep", "--db", copied, "--policy", file, "--at", at, "--json"))
			require.False(t, report.DryRun)
			expectCounts(t, p, records, at, report)

			// Once more: nothing is left to do, and the rest is kept for the same reasons. Those of records that are not read again a plan says.
			for _, dry := range []bool{false, true} {
				again := sweepReport(t, run(t, "sweep", "--db", copied, "--policy", file, "--at", at, "--json", fmt.Sprintf("--dry-run=%t", dry)))
				for kind, k := range again.Kinds {
					require.Zero(t, k.Unlinked, kind)
					require.Equal(t, report.Kinds[kind].Kept, k.LinkedBefore, kind)
					require.Equal(t, report.Kinds[kind].Kept, k.Kept, kind)
					if dry {
						require.Equal(t, report.Kinds[kind].ByReason, k.ByReason, kind)
					}
				}
			}

			// In three parts, in any order, and at a later time on what the first run left.
			whole, parts := map[string]int{}, map[string]int{}
			for _, shard := range []string{"2/3", "0/3", "1/3"} {
				part := sweepReport(t, run(t, "sweep", "--db", copied, "--policy", file, "--at", "2023-09-01", "--shard", shard, "--json"))
				left := sweepReport(t, run(t, "sweep", "--db", copied, "--policy", file, "--at", "2023-09-01", "--shard", shard, "--json", "--dry-run"))
				for kind, k := range part.Kinds {
					require.Equal(t, k.Kept, left.Kinds[kind].Kept, kind)
				}
				for kind, k := range left.Kinds {
					parts[kind+" kept"] += k.Kept
					for reason, n := range k.ByReason {
						parts[kind+" "+reason] += n
					}
				}
			}
			expected := countBy(p, records, policyTime(p, "2023-09-01"), func(r *circulation.Record) bool {
				return !p.Decide(r, policyTime(p, at)).Unlink // those that the first run left
			})
			for kind, k := range expected {
				whole[kind+" kept"] += k.Kept
				for reason, n := range k.ByReason {
					whole[kind+" "+reason] += n
				}
			}
			require.Equal(t, nonZero(whole), nonZero(parts))
		})
	}
}

func nonZero(m map[string]int) map[string]int {
	n := map[string]int{}
	for k, v := range m {
		if v != 0 {
			n[k] = v
		}
	}
	return n
}

// policyTime reads --at as the command does: a date is 00:00 in the policy's zone.
func policyTime(p *oracle.Policy, s string) time.Time {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t
	}
	return p.Clock().Date(s)
}

func sweepReport(t *testing.T, out []byte) (r anonymize.Report) {
	t.Helper()
	require.NoError(t, json.Unmarshal(out, &r), "%s", out)
	return r
}

func expectCounts(t *testing.T, p *oracle.Policy, records map[circulation.Kind][]circulation.Record, at string, got anonymize.Report) {
	t.Helper()
	everything := func(*circulation.Record) bool { return true }
	for kind, want := range countBy(p, records, policyTime(p, at), everything) {
		k := got.Kinds[kind]
		require.NotNil(t, k, "%s at %s", kind, at)
		require.Equal(t, want.LinkedBefore, k.LinkedBefore, "%s at %s: linked before", kind, at)
		require.Equal(t, want.Unlinked, k.Unlinked, "%s at %s: unlinked", kind, at)
		require.Equal(t, want.Kept, k.Kept, "%s at %s: kept", kind, at)
		require.Equal(t, want.ByRule, nonZero(k.ByRule), "%s at %s: by rule", kind, at)
		require.Equal(t, want.ByReason, nonZero(k.ByReason), "%s at %s: by reason", kind, at)
		require.Zero(t, k.Conflicts, "%s at %s", kind, at)
		t.Logf("%s at %s: of %d unlinked %d by %v, kept %d because %v", kind, at, k.LinkedBefore, k.Unlinked, k.ByRule, k.Kept, k.ByReason)
	}
}

// countBy counts what the oracle says of the records that are wanted.
func countBy(p *oracle.Policy, records map[circulation.Kind][]circulation.Record, at time.Time, wanted func(*circulation.Record) bool) map[string]anonymize.KindReport {
	reports := map[string]anonymize.KindReport{}
	for kind, list := range records {
		k := anonymize.KindReport{ByRule: map[string]int{}, ByReason: map[string]int{}}
		for i := range list {
			if !wanted(&list[i]) {
				continue
			}
			k.LinkedBefore++
			a := p.Decide(&list[i], at)
			if a.Unlink {
				k.Unlinked++
				k.ByRule[a.Rule]++
			} else {
				k.Kept++
			}
			for _, reason := range a.Reasons {
				k.ByReason[reason]++
			}
		}
		reports[kind.String()] = k
	}
	return reports
}

// reedRecords makes records of the files without any of the command's code.
func reedRecords(t *testing.T, dir string) map[circulation.Kind][]circulation.Record {
	t.Helper()
	date := func(s string) time.Time {
		if s == "" {
			return time.Time{}
		}
		d, err := time.Parse("2006-01-02", s)
		require.NoError(t, err)
		return d
	}
	type account struct {
		group   string
		expires time.Time
		wish    circulation.Wish
	}
	accounts := map[string]account{}
	for _, p := range readTable(t, filepath.Join(dir, "patrons.csv.gz")) {
		a := account{group: p["group"], expires: date(p["expires"])}
		switch p["history"] {
		case "keep":
			a.wish = circulation.WishKeep
		case "forget":
			a.wish = circulation.WishForget
		default:
			require.Empty(t, p["history"])
		}
		accounts[p["patron"]] = a
	}
	of := func(r circulation.Record, borrower string) circulation.Record {
		a := accounts[borrower]
		r.Borrower, r.GroupNow = circulation.Borrower(borrower), a.group
		r.BorrowerExpires, r.Wish = a.expires, a.wish
		return r
	}

	feesOf := map[string][]circulation.FeeSummary{}
	var fees []circulation.Record
	for _, f := range readTable(t, filepath.Join(dir, "fees.csv.gz")) {
		s := circulation.FeeSummary{Closed: date(f["closed"]), Method: f["payment_method"]}
		switch f["status"] {
		case "paid", "waived", "exported":
			s.Status = circulation.FeeClosed
		case "in-process":
			s.Status = circulation.FeeInProcess
		default:
			require.Equal(t, "open", f["status"])
		}
		feesOf[f["loan"]] = append(feesOf[f["loan"]], s)
		r := circulation.Record{Kind: circulation.KindFee, ID: f["fee"], Library: f["library"], Type: f["kind"],
			Started: date(f["charged"]), Ended: s.Closed, Fees: []circulation.FeeSummary{s}}
		if s.Status == circulation.FeeClosed {
			r.Status = circulation.Ended
		}
		fees = append(fees, of(r, f["borrower"]))
	}

	var loans []circulation.Record
	byBorrower, byItem := map[circulation.Borrower][]int{}, map[string][]int{}
	for _, l := range readTable(t, filepath.Join(dir, "loans.csv.gz")) {
		r := circulation.Record{Kind: circulation.KindLoan, ID: l["loan"], Group: l["group"], Library: l["library"],
			Location: l["location"], Item: l["item"], Started: date(l["loaned"]), Ended: date(l["returned"]),
			Fees: feesOf[l["loan"]]}
		if r.Ended.IsZero() {
			r.Lost, r.ClaimedReturned = l["lost"] != "", l["claimed_returned"] != ""
		} else {
			r.Status = circulation.Ended
		}
		r = of(r, l["borrower"])
		byBorrower[r.Borrower] = append(byBorrower[r.Borrower], len(loans))
		byItem[r.Item] = append(byItem[r.Item], len(loans))
		loans = append(loans, r)
	}
	// The newer ones, by looking at each.
	newer := func(same []int, i int) (n int) {
		for _, j := range same {
			if loans[j].Started.After(loans[i].Started) {
				n++
			}
		}
		return n
	}
	for i := range loans {
		loans[i].NewerByBorrower = newer(byBorrower[loans[i].Borrower], i)
		loans[i].NewerOfItem = newer(byItem[loans[i].Item], i)
	}
	return map[circulation.Kind][]circulation.Record{circulation.KindLoan: loans, circulation.KindFee: fees}
}

// readTable reads a gzipped CSV file with a header.
func readTable(t *testing.T, path string) (rows []map[string]string) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	list, err := csv.NewReader(z).ReadAll()
	require.NoError(t, err)
	for _, line := range list[1:] {
		row := map[string]string{}
		for i, column := range list[0] {
			row[column] = line[i]
		}
		rows = append(rows, row)
	}
	require.False(t, slices.Contains(list[0], ""), fmt.Sprint(list[0]))
	return rows
}
