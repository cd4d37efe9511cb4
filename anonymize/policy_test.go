package anonymize_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

func TestDesignExampleLoads(t *testing.T) {
	data, err := os.ReadFile("testdata/university.yaml")
	require.NoError(t, err)
	p, err := anonymize.ParsePolicy(data)
	require.NoError(t, err)
	for _, w := range p.Lint() {
		t.Log(w)
	}
	require.Equal(t, "Europe/Stockholm", p.Zone().String())
}

// twelveRules is a policy of the size that real libraries write, with a zone that has daylight saving.
const twelveRules = `
carrel-retention: 1
id: bench/twelve
clock: {zone: Europe/Stockholm, day-ends: "03:00"}
groups: {students: [undergraduate, graduate], faculty: [professor, lecturer]}
records:
  loans:
    - {name: left, patron-expired: P3M, fee: none, after: at once}
    - {name: special, location: [special, archive], after: P10Y}
    - {name: money, fee: had, since: fee-closed, after: P7Y}
    - {name: laptops, type: [laptop, tablet], after: P14D}
    - {name: law, library: [law], group: [faculty], after: P2Y}
    - {name: music, library: [music], after: P6M}
    - {name: reserve, location: [reserve, course], after: P7D}
    - {name: alumni, group-now: [alumni], after: P30D}
    - {name: students, group: [students], after: P30D, keep-last: 5, at-most: P2Y}
    - {name: faculty, group: [faculty], after: P1Y}
    - {name: guests, group: [guest, visitor], after: P14D}
    - {name: rest, after: P90D}
patron-may: {shorten-to: P1D, extend-to: P1Y}
`

func BenchmarkDecide(b *testing.B) {
	p, err := anonymize.ParsePolicy([]byte(twelveRules))
	require.NoError(b, err)
	groups := []string{"undergraduate", "graduate", "professor", "guest", "staff", "other"}
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	records := make([]circulation.Record, 1024)
	for i := range records {
		r := &records[i]
		*r = circulation.Record{Kind: circulation.KindLoan, ID: "l" + strconv.Itoa(i), Borrower: "p", Group: groups[i%len(groups)], Library: "main",
			Location: "stacks", Type: "book", Item: "i9", Status: circulation.Ended, Ended: at.Add(-time.Duration(i*7919%20000) * time.Hour), NewerByBorrower: i % 9,
			BorrowerExpires: at.AddDate(0, 0, i*31%1500-200)} // as at a college: one in eight has expired
		if i%14 == 0 {
			r.Fees = []circulation.FeeSummary{{Status: circulation.FeeClosed, Closed: r.Ended.Add(time.Hour), Method: "cash"}}
		}
	}
	b.ReportAllocs()
	unlinked, i := 0, 0
	for b.Loop() {
		if p.Decide(&records[i&1023], at).Unlink {
			unlinked++
		}
		i++
	}
	b.ReportMetric(float64(unlinked)/float64(i), "unlinked/record")
}
