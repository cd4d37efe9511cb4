package anonymize_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// An answer is what another system does with one record, or where we differ on purpose.
type answer struct {
	name   string
	ended  string
	record func(*circulation.Record)
	at     string
	want   string // "unlink by RULE", "keep by RULE because REASON…"
}

func (a answer) check(t *testing.T, policy *anonymize.Policy) {
	t.Helper()
	t.Run(a.name, func(t *testing.T) {
		r := loan(a.ended)
		if a.record != nil {
			a.record(&r)
		}
		d := policy.Decide(&r, utc(a.at))
		got := "unlink by " + d.Rule
		if !d.Unlink {
			reasons := d.Reasons.Names()
			slices.Sort(reasons)
			got = strings.TrimSpace("keep by " + d.Rule + " because " + strings.Join(reasons, " "))
		}
		require.Equal(t, a.want, got)
	})
}

func forget(r *circulation.Record)  { r.Wish = circulation.WishForget }
func wantsIt(r *circulation.Record) { r.Wish = circulation.WishKeep }
func lost(r *circulation.Record)    { r.Lost = true }
func claimed(r *circulation.Record) { r.ClaimedReturned = true }
func open(r *circulation.Record)    { r.Status, r.Ended = circulation.Open, time.Time{} }
func owing(r *circulation.Record) {
	r.Fees = append(r.Fees, circulation.FeeSummary{Status: circulation.FeeOpen})
}
func disputed(r *circulation.Record) {
	r.Fees = append(r.Fees, circulation.FeeSummary{Status: circulation.FeeInProcess})
}

func paid(on string) func(*circulation.Record) {
	return func(r *circulation.Record) {
		r.Fees = append(r.Fees, circulation.FeeSummary{Status: circulation.FeeClosed, Closed: utc(on), Method: "cash"})
	}
}

func of(k circulation.Kind, also ...func(*circulation.Record)) func(*circulation.Record) {
	return func(r *circulation.Record) {
		r.Kind = k
		for _, f := range also {
			f(r)
		}
	}
}

// daysBefore is an instant so many times 24 hours before t.
func daysBefore(t string, days int) string {
	return utc(t).Add(-time.Duration(days) * 24 * time.Hour).Format(time.RFC3339Nano)
}

func TestKnownAnswers(t *testing.T) {
	head := "carrel-retention: 1\nid: known\nrevision: 1\n"
	for _, system := range []struct {
		name, policy string
		answers      []answer
	}{{
		// Koha: a loan returned before midnight N days ago goes, one returned at exactly that midnight or later
		// stays. Ours: the period is rounded up to the day boundary, and exactly at the boundary goes.
		name:   "Koha, 30 days",
		policy: "clock: {zone: Europe/Paris}\nrecords: {loans: [{name: days, after: P30D}]}\n",
		answers: []answer{
			{"before that midnight", "2026-08-31T21:59:59Z", nil, "2026-09-30T22:00Z", "unlink by days"},
			{"exactly that midnight: ours goes", "2026-08-31T22:00Z", nil, "2026-09-30T22:00Z", "unlink by days"},
			{"after that midnight", "2026-08-31T22:00:01Z", nil, "2026-09-30T22:00Z", "keep by days because period-not-passed"},
			{"after that midnight, later that day", "2026-08-31T22:00:01Z", nil, "2026-10-01T21:59:59Z", "keep by days because period-not-passed"},
			{"and a day later", "2026-08-31T22:00:01Z", nil, "2026-10-01T22:00Z", "unlink by days"},
		},
	}, {
		name:   "Koha, privacy levels",
		policy: "patron-may: {shorten-to: at once, extend-to: forever}\nrecords: {loans: [{name: days, after: P30D}]}\n",
		answers: []answer{
			{"forever", "2001-01-01", wantsIt, "2026-10-01", "keep by patron-wish because patron-wish"},
			{"default, 30 days", "2026-09-01", nil, "2026-10-01", "unlink by days"},
			{"default, 29 days", "2026-09-02", nil, "2026-10-01", "keep by days because period-not-passed"},
			{"never: at return", "2026-10-01T09:17Z", forget, "2026-10-01T09:17Z", "unlink by patron-wish"},
			{"never: not before", "2026-10-01T09:17Z", forget, "2026-10-01T09:16:59Z", "keep by patron-wish because period-not-passed"},
			{"never, still out", "", func(r *circulation.Record) { forget(r); open(r) }, "2026-10-01", "keep by patron-wish because unfinished"},
		},
	}, {
		name:   "Alma, lost and claimed returned",
		policy: "records: {loans: [{name: completed, after: at once}]}\n",
		answers: []answer{
			{"marked lost", "2020-01-01", lost, "2026-10-01", "keep by completed because lost"},
			{"claimed returned", "2020-01-01", claimed, "2026-10-01", "keep by completed because claimed-returned"},
			{"marked lost and still out", "", func(r *circulation.Record) { lost(r); open(r) }, "2026-10-01", "keep by completed because lost unfinished"},
			{"checked in: an old mark is cleared", "2026-09-30T08:00Z", nil, "2026-09-30T08:00Z", "unlink by completed"},
			{"a fee is owed", "2020-01-01", owing, "2026-10-01", "keep by completed because open-fee"},
		},
	}, {
		// Floor 91.25 days, ceiling 182.5, whole days: 93 and 183.
		name:   "RERO",
		policy: "patron-may: {shorten-to: P92DT24H}\nrecords: {loans: [{name: ceiling, after: P182DT24H}]}\n",
		answers: []answer{
			{"183 d, wants history", daysBefore("2026-10-01T12:00Z", 183), wantsIt, "2026-10-01T12:00Z", "unlink by ceiling"},
			{"182 d, wants history", daysBefore("2026-10-01T12:00Z", 182), wantsIt, "2026-10-01T12:00Z", "keep by ceiling because period-not-passed"},
			{"92 d, refuses", daysBefore("2026-10-01T12:00Z", 92), forget, "2026-10-01T12:00Z", "keep by patron-wish because period-not-passed"},
			{"93 d, refuses", daysBefore("2026-10-01T12:00Z", 93), forget, "2026-10-01T12:00Z", "unlink by patron-wish"},
			{"93 d less a microsecond, refuses", daysBefore("2026-10-01T12:00:00.000001Z", 93), forget, "2026-10-01T12:00Z", "keep by patron-wish because period-not-passed"},
			{"93 d, wants history", daysBefore("2026-10-01T12:00Z", 93), wantsIt, "2026-10-01T12:00Z", "keep by ceiling because period-not-passed"},
			{"93 d, no choice", daysBefore("2026-10-01T12:00Z", 93), nil, "2026-10-01T12:00Z", "keep by ceiling because period-not-passed"},
			{"183 d, no choice", daysBefore("2026-10-01T12:00Z", 183), nil, "2026-10-01T12:00Z", "unlink by ceiling"},
			{"900 d, refuses, open fee", daysBefore("2026-10-01T12:00Z", 900), func(r *circulation.Record) { forget(r); owing(r) },
				"2026-10-01T12:00Z", "keep by patron-wish because open-fee"},
		},
	}, {
		name: "Polaris, 30 August with 30 days, by branch",
		policy: "clock: {zone: America/Chicago}\nrecords:\n  loans:\n" +
			"    - {name: main, library: [main], after: P30D}\n    - {name: branch, library: [branch], after: P60D}\n",
		answers: []answer{
			{"30 July 23:59:59", "2026-07-31T04:59:59Z", at("main"), "2026-08-30T05:00Z", "unlink by main"},
			{"31 July 00:00: ours goes", "2026-07-31T05:00Z", at("main"), "2026-08-30T05:00Z", "unlink by main"},
			{"31 July 00:00:01", "2026-07-31T05:00:01Z", at("main"), "2026-08-30T05:00Z", "keep by main because period-not-passed"},
			{"another branch's setting", "2026-07-31T04:59:59Z", at("branch"), "2026-08-30T05:00Z", "keep by branch because period-not-passed"},
			{"a branch without one", "2026-07-01", at("other"), "2026-08-30T05:00Z", "keep by  because no-rule"},
		},
	}, {
		name:   "Evergreen, a year",
		policy: "records: {loans: [{name: year, after: P1Y}]}\n",
		answers: []answer{
			{"400 d", daysBefore("2026-10-01", 400), nil, "2026-10-01", "unlink by year"},
			{"300 d", daysBefore("2026-10-01", 300), nil, "2026-10-01", "keep by year because period-not-passed"},
			{"unpaid", daysBefore("2026-10-01", 400), owing, "2026-10-01", "keep by year because open-fee"},
			{"still out", "", open, "2026-10-01", "keep by year because unfinished"},
			{"lost, unpaid", "", func(r *circulation.Record) { open(r); lost(r); owing(r) }, "2026-10-01", "keep by year because lost open-fee unfinished"},
			{"claims returned", "", func(r *circulation.Record) { open(r); claimed(r) }, "2026-10-01", "keep by year because claimed-returned unfinished"},
			{"lost, paid, never returned: ours stays", daysBefore("2026-10-01", 400),
				func(r *circulation.Record) { lost(r); paid("2025-09-01")(r) }, "2026-10-01", "keep by year because lost"},
			{"lost, paid, withdrawn: the mark is cleared", daysBefore("2026-10-01", 400), paid("2025-09-01"), "2026-10-01", "unlink by year"},
			{"an unpaid bill on a finished loan: ours stays", daysBefore("2026-10-01", 400),
				func(r *circulation.Record) { paid("2025-09-01")(r); owing(r) }, "2026-10-01", "keep by year because open-fee"},
		},
	}, {
		name: "CARLI",
		policy: "records:\n  loans: [{name: week, after: P7D}]\n  requests: [{name: week, after: P7D}]\n" +
			"  sharing: [{name: week, after: P7D}]\n  fees: [{name: money, after: P7Y}]\n",
		answers: []answer{
			{"a loan, day 7", "2026-10-01", nil, "2026-10-08", "unlink by week"},
			{"a loan, day 6", "2026-10-01", nil, "2026-10-07T23:59Z", "keep by week because period-not-passed"},
			{"a request, day 7", "2026-10-01", of(circulation.KindRequest), "2026-10-08", "unlink by week"},
			{"sharing, day 7", "2026-10-01", of(circulation.KindSharing), "2026-10-08", "unlink by week"},
			{"money, 7 years less a day", "2019-10-02", of(circulation.KindFee, paid("2019-10-02")), "2026-10-01", "keep by money because period-not-passed"},
			{"money, 7 years", "2019-10-01", of(circulation.KindFee, paid("2019-10-01")), "2026-10-01", "unlink by money"},
			{"money owed", "", of(circulation.KindFee, open, owing), "2046-10-01", "keep by money because open-fee unfinished"},
			{"a notice", "2006-10-01", of(circulation.KindNotice), "2026-10-01", "keep by  because switched-off"},
		},
	}, {
		name:   "months",
		policy: "records: {loans: [{name: month, after: P1M}]}\n",
		answers: []answer{
			{"date-only 31 January, 28 February", "2026-01-31", nil, "2026-02-28", "unlink by month"},
			{"leap year, 28 February", "2028-01-31", nil, "2028-02-28", "keep by month because period-not-passed"},
			{"leap year, 29 February", "2028-01-31", nil, "2028-02-29", "unlink by month"},
			{"31 January 10:00, 28 February 10:00", "2026-01-31T10:00Z", nil, "2026-02-28T10:00Z", "keep by month because period-not-passed"},
			{"31 January 10:00, 1 March", "2026-01-31T10:00Z", nil, "2026-03-01", "unlink by month"},
		},
	}, {
		name: "FOLIO, loans never, with fees immediately",
		policy: "records:\n  loans:\n    - {name: with-fees, fee: had, since: fee-closed, after: at once}\n" +
			"    - {name: closed, fee: none, after: never}\n",
		answers: []answer{
			{"never", "2006-10-01", nil, "2026-10-01", "keep by closed because rule-says-never"},
			{"never does not govern loans with fees", "2026-09-01", paid("2026-10-01T08:30Z"), "2026-10-01T08:30Z", "unlink by with-fees"},
			{"the fee closes later", "2026-09-01", paid("2026-10-01T08:30Z"), "2026-10-01T08:29:59Z", "keep by with-fees because fee-period-not-passed"},
			{"the fee closed before the return", "2026-10-01", paid("2026-09-01"), "2026-09-30T23:59Z", "keep by with-fees because fee-period-not-passed"},
			{"open fee", "2026-09-01", func(r *circulation.Record) { paid("2026-09-02")(r); owing(r) }, "2026-10-01", "keep by with-fees because open-fee"},
			{"disputed fee", "2026-09-01", disputed, "2026-10-01", "keep by with-fees because fee-in-process"},
			{"a fee of unknown date", "2026-09-01", paid(""), "2026-10-01", "unlink by with-fees"},
		},
	}, {
		name: "FOLIO, 30 days after the return, with fees 60 days after the last fee",
		policy: "records:\n  loans:\n    - {name: with-fees, fee: had, since: fee-closed, after: P60D}\n" +
			"    - {name: closed, fee: none, after: P30D}\n",
		answers: []answer{
			{"30 days", "2026-09-01", nil, "2026-10-01", "unlink by closed"},
			{"no return date is kept, and counted", "", nil, "2026-10-01", "keep by closed because no-end-date"},
			{"with fees, 30 days", "2026-09-01", paid("2026-09-01"), "2026-10-01", "keep by with-fees because fee-period-not-passed"},
			{"with fees, 60 days after the last", "2026-01-01", func(r *circulation.Record) { paid("2026-08-02")(r); paid("2026-02-02")(r) },
				"2026-10-01", "unlink by with-fees"},
			{"a fee of unknown date", "2026-01-01", func(r *circulation.Record) { paid("2026-02-02")(r); paid("")(r) },
				"2026-10-01", "keep by with-fees because no-fee-date"},
		},
	}} {
		t.Run(system.name, func(t *testing.T) {
			policy, err := anonymize.ParsePolicy([]byte(head + system.policy))
			require.NoError(t, err)
			for _, a := range system.answers {
				a.check(t, policy)
			}
		})
	}
}

func at(library string) func(*circulation.Record) {
	return func(r *circulation.Record) { r.Library = library }
}

// Every preset gives its system's answers. Rule names are the preset's business, so only the outcome counts.
func TestPresets(t *testing.T) {
	type row struct {
		name, ended string
		record      func(*circulation.Record)
		at          string
		unlink      bool
		reason      anonymize.Reasons // that must be among them
	}
	const never = "2199-01-01"
	for name, rows := range map[string][]row{
		"alma-default": {
			{"returned", "2026-10-01T08:00Z", nil, "2026-10-01T08:00Z", true, 0},
			{"marked lost", "2016-10-01", lost, "2026-10-01", false, anonymize.Lost},
			{"claimed returned", "2016-10-01", claimed, "2026-10-01", false, anonymize.ClaimedReturned},
			{"a fee is owed", "2016-10-01", owing, "2026-10-01", false, anonymize.OpenFee},
			{"a fee was paid", "2026-10-01", paid("2026-09-01"), "2026-10-01", true, 0},
			{"a request", "2026-10-01", of(circulation.KindRequest), "2026-10-01", true, 0},
			{"sharing", "2026-10-01", of(circulation.KindSharing), "2026-10-01", true, 0},
		},
		"carli": {
			{"a loan, a week less", "2026-10-01T05:00Z", nil, "2026-10-08T04:59:59Z", false, anonymize.PeriodNotPassed},
			{"a loan, a week", "2026-10-01T05:00Z", nil, "2026-10-08T05:00Z", true, 0},
			{"a request, a week", "2026-10-01T05:00Z", of(circulation.KindRequest), "2026-10-08T05:00Z", true, 0},
			{"sharing, a week", "2026-10-01T05:00Z", of(circulation.KindSharing), "2026-10-08T05:00Z", true, 0},
			{"money, 7 years less", "2019-10-02T05:00Z", of(circulation.KindFee, paid("2019-10-02T05:00Z")), "2026-10-01T05:00Z", false, 0},
			{"money, 7 years", "2019-10-01T05:00Z", of(circulation.KindFee, paid("2019-10-01T05:00Z")), "2026-10-01T05:00Z", true, 0},
			{"money owed", "", of(circulation.KindFee, open, owing), never, false, anonymize.OpenFee},
		},
		"koha-default": {
			{"forever", "1999-10-01", wantsIt, never, false, anonymize.PatronWish},
			{"never", "2026-10-01T08:00Z", forget, "2026-10-01T08:00Z", true, 0},
			{"default, on the day", "2026-10-01T08:00Z", nil, "2026-10-02", false, anonymize.PeriodNotPassed},
			{"default, in the end", "2026-10-01T08:00Z", nil, never, true, 0},
		},
		"evergreen-default": {
			{"400 d", daysBefore("2026-10-01", 400), nil, "2026-10-01", true, 0},
			{"300 d", daysBefore("2026-10-01", 300), nil, "2026-10-01", false, anonymize.PeriodNotPassed},
			{"still out", "", open, never, false, anonymize.Unfinished},
			{"unpaid", daysBefore("2026-10-01", 400), owing, never, false, anonymize.OpenFee},
			{"claims returned", "", func(r *circulation.Record) { open(r); claimed(r) }, never, false, anonymize.ClaimedReturned},
			{"lost and paid: ours stays", daysBefore("2026-10-01", 400), func(r *circulation.Record) { lost(r); paid("2025-09-01")(r) }, never, false, anonymize.Lost},
			{"payments stay linked", "2001-10-01", of(circulation.KindFee, paid("2001-10-01")), never, false, 0},
		},
		"folio-never": {
			{"a loan", "1999-10-01", nil, never, false, anonymize.RuleSaysNever},
			{"a loan with fees", "1999-10-01", paid("1999-10-01"), never, false, anonymize.RuleSaysNever},
		},
		"folio-immediate": {
			{"a loan", "2026-10-01T08:00Z", nil, "2026-10-01T08:00Z", true, 0},
			{"no return date", "", nil, "2026-10-01", true, 0},
			{"a loan with a fee", "2026-10-01T08:00Z", paid("2026-10-02T09:00Z"), "2026-10-02T09:00Z", true, 0},
			{"a loan with a fee, sooner", "2026-10-01T08:00Z", paid("2026-10-02T09:00Z"), "2026-10-02T08:59Z", false, anonymize.FeePeriodNotPassed},
			{"open fee", "2026-10-01T08:00Z", owing, never, false, anonymize.OpenFee},
		},
		"rero": {
			{"183 d, wants history", daysBefore("2026-10-01T12:00Z", 183), wantsIt, "2026-10-01T12:00Z", true, 0},
			{"92 d, refuses", daysBefore("2026-10-01T12:00Z", 92), forget, "2026-10-01T12:00Z", false, anonymize.PeriodNotPassed},
			{"93 d, refuses", daysBefore("2026-10-01T12:00Z", 93), forget, "2026-10-01T12:00Z", true, 0},
			{"93 d, wants it", daysBefore("2026-10-01T12:00Z", 93), wantsIt, "2026-10-01T12:00Z", false, anonymize.PeriodNotPassed},
			{"93 d, no choice", daysBefore("2026-10-01T12:00Z", 93), nil, "2026-10-01T12:00Z", false, anonymize.PeriodNotPassed},
			{"182 d, no choice", daysBefore("2026-10-01T12:00Z", 182), nil, "2026-10-01T12:00Z", false, anonymize.PeriodNotPassed},
			{"900 d, refuses, open fee", daysBefore("2026-10-01T12:00Z", 900), func(r *circulation.Record) { forget(r); owing(r) }, never, false, anonymize.OpenFee},
		},
		"strict": {
			{"a loan", "2026-10-01T08:00Z", nil, "2026-10-01T08:00Z", true, 0},
			{"a request", "2026-10-01T08:00Z", of(circulation.KindRequest), "2026-10-01T08:00Z", true, 0},
			{"sharing", "2026-10-01T08:00Z", of(circulation.KindSharing), "2026-10-01T08:00Z", true, 0},
			{"a fee", "2026-10-01T08:00Z", of(circulation.KindFee, paid("2026-10-01T08:00Z")), "2026-10-01T08:00Z", true, 0},
			{"a notice", "2026-10-01T08:00Z", of(circulation.KindNotice), "2026-10-01T08:00Z", true, 0},
			{"who wants it kept", "2026-10-01T08:00Z", wantsIt, "2026-10-01T08:00Z", true, 0},
			{"money owed", "2026-10-01T08:00Z", owing, never, false, anonymize.OpenFee},
			{"a hold", "2026-10-01T08:00Z", func(r *circulation.Record) { r.Hold = true }, never, false, anonymize.LegalHold},
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, anonymize.Presets(), name)
			text, err := anonymize.Preset(name)
			require.NoError(t, err)
			policy, err := anonymize.ParsePolicy(text) // which runs its tests
			require.NoError(t, err)
			require.Contains(t, string(text), "\ntests:")
			for _, row := range rows {
				r := loan(row.ended)
				if row.record != nil {
					row.record(&r)
				}
				d := policy.Decide(&r, utc(row.at))
				require.Equal(t, row.unlink, d.Unlink, "%s: %v", row.name, d)
				require.Equal(t, row.reason, d.Reasons&row.reason, "%s: %v", row.name, d.Reasons.Names())
			}
		})
	}
	require.Len(t, anonymize.Presets(), 8)
	_, err := anonymize.Preset("alma-defualt")
	require.ErrorContains(t, err, "alma-default")
}

// Koha's and RERO's last word: a whole number of days, none more, whatever the hour.
func TestPresetPeriodsAreWholeDays(t *testing.T) {
	for name, days := range map[string]int{"carli": 7, "koha-default": 90} {
		text, err := anonymize.Preset(name)
		require.NoError(t, err)
		policy, err := anonymize.ParsePolicy(text)
		require.NoError(t, err)
		midnight := time.Date(2026, 5, 1, 0, 0, 0, 0, policy.Zone())
		for _, hour := range []time.Duration{0, time.Microsecond, 9 * time.Hour, 24*time.Hour - time.Microsecond} {
			r := loan("")
			r.Ended = midnight.Add(hour)
			want := midnight.AddDate(0, 0, days)
			if hour > 0 {
				want = midnight.AddDate(0, 0, days+1)
			}
			require.True(t, want.Equal(policy.Decide(&r, midnight).EligibleAt), "%s %v", name, hour)
		}
	}
}
