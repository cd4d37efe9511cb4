package synth

import (
	"cmp"
	"fmt"
	"time"
)

// Params says which library to make up. The zero value is a small one.
type Params struct {
	Seed uint64
	// Patrons or Loans says how large the library is; the other follows, about 35 loans a patron. Set one
	// of them. Both zero: 1,000 patrons.
	Patrons, Loans int
	// Until is the day at whose beginning (UTC) the records end: what would come later is still open. Zero: 2026-07-01,
	// and never today, so that the same Params stay the same library.
	Until time.Time
	// Years is how many years before Until the records begin. Zero: 3.
	Years int
}

const (
	maxPatrons = 1 << 22
	maxYears   = 30
)

func (p Params) withDefaults() (Params, error) {
	switch {
	case p.Patrons < 0, p.Patrons > maxPatrons:
		return p, fmt.Errorf("synth: Patrons is %d, want 1 to %d", p.Patrons, maxPatrons)
	case p.Loans < 0:
		return p, fmt.Errorf("synth: Loans is %d, must not be negative", p.Loans)
	case p.Patrons > 0 && p.Loans > 0:
		return p, fmt.Errorf("synth: Patrons and Loans are both set; one follows from the other")
	case p.Years < 0, p.Years > maxYears:
		return p, fmt.Errorf("synth: Years is %d, want 1 to %d", p.Years, maxYears)
	}
	if p.Loans == 0 {
		p.Patrons = cmp.Or(p.Patrons, 1000)
	}
	p.Years = cmp.Or(p.Years, 3)
	if p.Until.IsZero() {
		p.Until = time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	}
	p.Until = p.Until.UTC().Truncate(24 * time.Hour)
	if y := p.Until.Year(); y < 1900 || y > 2200 {
		return p, fmt.Errorf("synth: Until is in the year %d, want 1900 to 2200", y)
	}
	return p, nil
}

// What was measured; the package comment names the sources.
const (
	loansMu, loansSigma, loansMost = 1.82, 1.90, 3571
	popularitySlope                = 0.91
	renewalsPerLoan                = 0.47
	shareLost                      = 0.004
	fineLeast, fineMost, fineCap   = 10, 15, 600 // hundredths, a day and in all
	lostFeeLeast, lostFeeMost      = 4900, 7200
)

type group uint8

const (
	undergraduate group = iota
	graduate
	faculty
	other
	groups
)

// How the groups differ. Share and period are assumed, overdue and hold times measured.
func (g group) traits() traits {
	return [groups]traits{
		undergraduate: {"undergraduate", 0.19, 3.3, 1.3, 28, 4},
		graduate:      {"graduate", 0.07, 3.3, 1.3, 56, 3},
		faculty:       {"faculty", 0.02, 3.9, 1.6, 180, 12},
		other:         {"other", 0.10, 3.3, 1.3, 21, 2},
	}[g]
}

type traits struct {
	name           string
	overdue        float64
	holdMu, holdSD float64
	period         int64 // days
	years          int   // of an account
}

func groupShares() []float64 { return []float64{0.55, 0.20, 0.10, 0.15} }

// Assumed.
const (
	titles         = 60_000
	shareClaimed   = 0.001
	claimedFound   = 0.5
	lostComeBack   = 0.3
	feeNever       = 0.15
	feeMeanDays    = 60
	lateMeanDays   = 10
	sameVisit      = 0.4
	shareRequest   = 0.15
	shareUnfilled  = 0.03
	shareBorrowed  = 0.02
	shareLent      = 0.01
	leastDays      = 180 // of an account within the years asked for
	declaredLost   = 60 * day
	claimedAfter   = 14 * day
	secondNotice   = 15 * day
	day            = int64(24 * 60 * 60)
	never          = int64(1) << 60
	longestHold    = 25 * 365 * day
	accountsEndDay = 30 // of June
)

// A college's year and week, in thousandths, and day.
func monthShares() [12]uint64  { return [12]uint64{65, 132, 104, 78, 38, 21, 21, 55, 154, 128, 127, 77} }
func weekdayShares() [7]uint64 { return [7]uint64{77, 196, 182, 186, 173, 134, 52} } // from Sunday
func hourShares() []float64 { // from 8
	return []float64{0.03, 0.07, 0.10, 0.11, 0.09, 0.09, 0.11, 0.10, 0.09, 0.07, 0.05, 0.04, 0.03, 0.02}
}
