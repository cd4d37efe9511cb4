package anonymize_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/internal/oracle"
)

// utc reads the instants in these tests: 2026-10-01, 2026-10-01T09:30Z or with seconds and fractions.
func utc(s string) time.Time {
	if s == "" {
		return time.Time{}
	}
	for _, layout := range []string{"2006-01-02", "2006-01-02T15:04Z07:00", time.RFC3339Nano} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC()
		}
	}
	panic("not a time: " + s)
}

// loan is an ended loan of somebody.
func loan(ended string) circulation.Record {
	return circulation.Record{Kind: circulation.KindLoan, ID: "l1", Version: "1", Borrower: "p-1",
		Status: circulation.Ended, Ended: utc(ended)}
}

func loans(rules ...oracle.Rule) *oracle.Policy {
	return &oracle.Policy{Kinds: []oracle.KindRules{{Kind: circulation.KindLoan, Rules: rules}}}
}

// The oracle is judged by hand-computed cases from the text before it judges anybody.
func TestOracleCalendar(t *testing.T) {
	for _, c := range calendarCases {
		t.Run(c.name, func(t *testing.T) {
			got := oracle.NewClock(c.zone, c.dayEnds).Add(utc(c.from), c.period)
			require.Equal(t, utc(c.want), got.UTC())
		})
	}
	c := oracle.NewClock("America/Havana", "")
	require.Equal(t, utc("2026-11-01T05:00Z"), c.Date("2026-11-01").UTC(), "midnight occurs twice: the later")
	require.Equal(t, utc("2026-03-08T05:00Z"), c.Date("2026-03-08").UTC(), "midnight is skipped: the first instant after")
	require.Equal(t, utc("2026-11-01T05:00Z"), c.EndOf("2026-10-31").UTC())
	require.Equal(t, utc("2027-02-01T02:00Z"), oracle.NewClock("Europe/Stockholm", "03:00").EndOf("2027-01-31").UTC())
}

func TestOracleDecides(t *testing.T) {
	type step struct {
		at, rule, reasons string // no reasons: unlink
	}
	type testCase struct {
		name   string
		policy *oracle.Policy
		record func(*circulation.Record)
		ended  string
		first  string // "never", "any", an instant
		steps  []step
	}
	ninety := oracle.Rule{Name: "ninety", After: "P90D"}
	cases := []testCase{{
		name: "a period, rounded up", policy: loans(ninety), ended: "2026-01-01T10:00Z", first: "2026-04-02",
		steps: []step{{"2026-04-01T23:59:59.999999Z", "ninety", "period-not-passed"}, {"2026-04-02", "ninety", ""}},
	}, {
		name: "at once is not rounded", policy: loans(oracle.Rule{Name: "now", After: "at once"}),
		ended: "2026-01-01T10:00:00.5Z", first: "2026-01-01T10:00:00.5Z",
		steps: []step{{"2026-01-01T10:00Z", "now", "period-not-passed"}, {"2026-01-01T10:00:00.5Z", "now", ""}},
	}, {
		name: "exceptions are all reported, and the rule", policy: loans(ninety), ended: "2026-01-01", first: "never",
		record: func(r *circulation.Record) {
			r.Lost, r.Hold = true, true
			r.Fees = []circulation.FeeSummary{{}, {Status: circulation.FeeInProcess}, {}}
		},
		steps: []step{{"2030-01-01", "ninety", "fee-in-process legal-hold lost open-fee"}},
	}, {
		name: "nobody", policy: loans(ninety), ended: "2026-01-01", first: "never",
		record: func(r *circulation.Record) { r.Borrower, r.Lost = "", true },
		steps:  []step{{"2030-01-01", "", "already-unlinked"}},
	}, {
		name: "switched off", policy: loans(ninety), ended: "2026-01-01", first: "never",
		record: func(r *circulation.Record) { r.Kind = circulation.KindNotice },
		steps:  []step{{"2030-01-01", "", "switched-off"}},
	}, {
		name:   "no rule matches",
		policy: loans(oracle.Rule{Name: "law", Library: []string{"law"}, After: "at once"}), ended: "2026-01-01", first: "never",
		steps: []step{{"2030-01-01", "", "no-rule"}},
	}, {
		name:   "default unlink",
		policy: &oracle.Policy{Default: "unlink", Kinds: loans(oracle.Rule{Name: "law", Library: []string{"law"}, After: "never"}).Kinds},
		ended:  "2026-01-01T10:00Z", first: "2026-01-01T10:00Z",
		steps: []step{{"2026-01-01", "default", "period-not-passed"}, {"2026-01-01T10:00Z", "default", ""}},
	}, {
		name: "keep-last waits", policy: loans(oracle.Rule{Name: "five", After: "P30D", KeepLast: 5, Per: "patron"}),
		ended: "2026-01-01", first: "never",
		record: func(r *circulation.Record) { r.NewerByBorrower = 4 },
		steps:  []step{{"2026-01-30", "five", "newer-loans period-not-passed"}, {"2026-01-31", "five", "newer-loans"}},
	}, {
		name:   "keep-last has its bound",
		policy: loans(oracle.Rule{Name: "one", After: "P30D", KeepLast: 1, Per: "item", AtMost: "P2Y"}),
		ended:  "2026-01-01", first: "2028-01-01",
		record: func(r *circulation.Record) { r.NewerByBorrower = 9 },
		steps:  []step{{"2027-12-31", "one", "newer-loans"}, {"2028-01-01", "one", ""}},
	}, {
		name: "fee clock",
		policy: loans(oracle.Rule{Name: "money", Fee: "had", After: "P1Y", Since: "fee-closed"},
			oracle.Rule{Name: "rest", After: "at once"}),
		ended: "2026-01-01", first: "2027-03-01",
		record: func(r *circulation.Record) {
			r.Fees = []circulation.FeeSummary{{Status: circulation.FeeClosed, Closed: utc("2026-03-01")},
				{Status: circulation.FeeClosed, Closed: utc("2026-02-01")}}
		},
		steps: []step{{"2027-02-28", "money", "fee-period-not-passed"}, {"2027-03-01", "money", ""}},
	}, {
		name: "an expired account comes first, then the rule for it",
		policy: loans(oracle.Rule{Name: "left", PatronExpired: "P3M", After: "never"},
			oracle.Rule{Name: "rest", After: "P30D"}),
		ended: "2026-01-01", first: "2026-01-31",
		record: func(r *circulation.Record) { r.BorrowerExpires = utc("2026-02-01") },
		steps: []step{{"2026-01-30", "rest", "period-not-passed"}, {"2026-04-30", "rest", ""},
			{"2026-05-01", "left", "rule-says-never"}},
	}, {
		name: "shortest", ended: "2026-01-01", first: "2026-01-11",
		policy: &oracle.Policy{Match: "shortest", Kinds: loans(oracle.Rule{Name: "never", After: "never"},
			oracle.Rule{Name: "ten", After: "P10D"}, oracle.Rule{Name: "too", After: "P10D"}).Kinds},
		steps: []step{{"2026-01-10", "ten", "period-not-passed"}, {"2026-01-11", "ten", ""}},
	}, {
		name: "longest", ended: "2026-01-01", first: "2026-01-21",
		policy: &oracle.Policy{Match: "longest", Kinds: loans(oracle.Rule{Name: "ten", After: "P10D"},
			oracle.Rule{Name: "twenty", After: "P20D"}, oracle.Rule{Name: "too", After: "P20D"}).Kinds},
		steps: []step{{"2026-01-15", "twenty", "period-not-passed"}, {"2026-01-21", "twenty", ""}},
	}, {
		name: "forget", ended: "2026-01-01T10:00Z", first: "2026-01-03",
		policy: &oracle.Policy{ShortenTo: "P1D", Kinds: loans(ninety).Kinds},
		record: func(r *circulation.Record) { r.Wish, r.WishSince = circulation.WishForget, utc("2029-01-01") },
		steps:  []step{{"2026-01-02T10:00Z", "patron-wish", "period-not-passed"}, {"2026-01-03", "patron-wish", ""}},
	}, {
		name: "forget does not shorten never", ended: "2026-01-01", first: "never",
		policy: &oracle.Policy{ShortenTo: "P1D", Kinds: loans(oracle.Rule{Name: "n", After: "never"}).Kinds},
		record: func(r *circulation.Record) { r.Wish = circulation.WishForget },
		steps:  []step{{"2036-01-01", "n", "rule-says-never"}},
	}, {
		name: "keep", ended: "2026-01-01", first: "2027-01-01",
		policy: &oracle.Policy{ExtendTo: "P1Y", Kinds: loans(ninety).Kinds},
		record: func(r *circulation.Record) { r.Wish, r.WishSince = circulation.WishKeep, utc("2026-01-01") },
		steps:  []step{{"2026-01-02", "patron-wish", "patron-wish"}, {"2027-01-01", "patron-wish", ""}},
	}, {
		name: "keep, but only since later", ended: "2026-01-01", first: "2026-04-01",
		policy: &oracle.Policy{ExtendTo: "forever", Kinds: loans(ninety).Kinds},
		record: func(r *circulation.Record) { r.Wish, r.WishSince = circulation.WishKeep, utc("2026-01-02") },
		steps:  []step{{"2026-01-02", "ninety", "period-not-passed"}, {"2026-04-01", "ninety", ""}},
	}, {
		name: "no end date", policy: loans(ninety), first: "never",
		steps: []step{{"2036-01-01", "ninety", "no-end-date"}},
	}, {
		name: "no end date, at once", policy: loans(oracle.Rule{Name: "now", After: "at once"}), first: "any",
		steps: []step{{"1999-01-01", "now", ""}},
	}, {
		name: "a hold to the end of a day", ended: "2026-01-01", first: "2027-02-01T02:00Z",
		policy: &oracle.Policy{Zone: "Europe/Stockholm", DayEnds: "03:00", Kinds: loans(ninety).Kinds,
			Holds: []oracle.Hold{{Ref: "case", Items: []string{"i9"}, Until: "2027-01-31"}}},
		record: func(r *circulation.Record) { r.Item = "i9" },
		steps:  []step{{"2027-02-01T01:59:59.999999Z", "ninety", "legal-hold"}, {"2027-02-01T02:00Z", "ninety", ""}},
	}}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := loan(c.ended)
			if c.record != nil {
				c.record(&r)
			}
			for _, s := range c.steps {
				want := oracle.Answer{Unlink: s.reasons == "", Rule: s.rule, Reasons: strings.Fields(s.reasons)}
				got := c.policy.Decide(&r, utc(s.at))
				require.Equal(t, want.Unlink, got.Unlink, s.at)
				require.Equal(t, want.Rule, got.Rule, s.at)
				require.ElementsMatch(t, want.Reasons, got.Reasons, s.at)
			}
			first, found := c.policy.FirstUnlink(&r)
			switch c.first {
			case "never":
				require.False(t, found)
			case "any":
				require.True(t, found)
				require.True(t, first.IsZero())
			default:
				require.True(t, found)
				require.Equal(t, utc(c.first), first.UTC())
			}
			if problem := disagreement(c.policy, &r); problem != "" { // and the policy language says the same
				t.Error(problem)
			}
		})
	}
	require.True(t, slices.IsSorted(circulation.Kinds()))
}
