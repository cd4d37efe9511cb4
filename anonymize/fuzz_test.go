package anonymize_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// designExample is the file in section 6 of the design.
const designExample = `carrel-retention: 1            # format version
id: university/layered
revision: 12
effective: 2026-10-01          # a date; before it the file is valid but sweep refuses it
title: By group and place, and sooner when the account has ended
match: first                   # first (default) | shortest | longest
default: keep                  # what happens when no rule matches: keep (default) | unlink
clock: {zone: Europe/Stockholm, day-ends: "03:00"}   # default UTC, 00:00
groups: {students: [undergraduate, graduate]}        # named sets, usable in group:
holds:
  - {ref: "case 2026-114", item: [i9], until: 2027-01-31}
patron-may: {shorten-to: P1D, extend-to: P1Y}
records:
  loans:
    - name: left-us
      why: The account ended three months ago and nothing is owed
      patron-expired: P3M
      fee: none
      after: at once
    - name: special-collections
      location: [special]
      after: P10Y
    - name: money
      fee: had
      after: P7Y
      since: fee-closed
    - name: students
      group: [students]
      after: P30D
      keep-last: 5
      per: patron
      at-most: P2Y
    - {name: everyone-else, after: P90D}
  fees:
    - {name: settled, after: P2Y}
keep-fields:
  loans: {group: set, library: keep, location: keep, returned: month}
tests:
  - name: five newer loans and a month
    record: {kind: loan, group: graduate, ended: 2026-10-01, newer-by-borrower: 5}
    on: 2026-11-01
    want: unlink
    by: students
`

// protected returns records of every kind, each with exactly one exception.
func protected() (list []circulation.Record) {
	for _, k := range circulation.Kinds() {
		for i := range 6 {
			r := circulation.Record{Kind: k, ID: "l1", Version: "1", Borrower: "p-1", Group: "ug", Library: "main", Item: "i9",
				Status: circulation.Ended, Ended: utc("2020-01-01"), BorrowerExpires: utc("2020-06-30"),
				NewerByBorrower: 99, NewerOfItem: 99, Wish: circulation.WishForget,
				Fees: []circulation.FeeSummary{{Status: circulation.FeeClosed, Closed: utc("2020-02-01"), Method: "cash"}}}
			switch i {
			case 0:
				r.Status = circulation.Open
			case 1:
				r.Lost = true
			case 2:
				r.ClaimedReturned = true
			case 3:
				r.Fees[0].Status = circulation.FeeOpen
			case 4:
				r.Fees[0].Status = circulation.FeeInProcess
			case 5:
				r.Hold = true
			}
			list = append(list, r)
		}
	}
	return list
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(designExample))
	for _, name := range anonymize.Presets() {
		text, err := anonymize.Preset(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	head := "carrel-retention: 1\nid: a\nrevision: 1\n"
	for _, s := range []string{"", "\n", "#", "- a", "a: b", "{", "a: &a [*a]", "\xff\xfe", "---\n---\n", "!!binary a", "? [a]\n: b",
		head + "records: {}", head + "records: {loans: []}", head + "records: {loans: [{}]}", head + "records: {loans: [{name: a, after: P30X}]}",
		head + "default: unlink\nmatch: longest\nrecords: {loans: [{name: a, after: at once}], notices: [{name: b, after: PT1S}]}\n",
		head + "records: {loans: [{name: a, after: P999999999Y}]}", head + "records: {loans: [{name: a, after: P292277D}]}",
		head + "records: {loans: [{name: a, after: PT9223372036854775807S}]}", head + "records: {loans: [{name: a, after: P8000Y12M53W366DT99H}]}",
		head + "clock: {zone: America/Havana, day-ends: \"00:30\"}\nrecords: {loans: [{name: a, patron-expired: P1D, since: expired, after: P1M}]}",
		head + "holds: [{ref: a, record: [l1], until: 9999-12-31}]\nrecords: {fees: [{name: a, fee: had, since: fee-closed, after: at once}]}",
		head + "patron-may: {shorten-to: at once, extend-to: forever}\nrecords: {loans: [{name: a, after: never}]}",
		head + "groups: {a: &x [b], c: *x}\nrecords: {loans: [{name: a, group: [a], after: P1D}]}",
		head + "records: {loans: [{name: a, after: P1D, after: P2D}]}",
		head + "records: {loans: [&x {name: a, after: P1D}, {<<: *x, name: b}]}",
	} {
		f.Add([]byte(s))
	}
	guarded := protected()
	free := guarded[0]
	free.Status = circulation.Ended
	f.Fuzz(func(t *testing.T, data []byte) {
		policy, err := anonymize.ParsePolicy(data)
		if err != nil {
			var pe *anonymize.PolicyError
			if policy != nil || !errors.As(err, &pe) {
				t.Fatalf("%T: %v", err, err)
			}
			lines := 1
			for _, b := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} { // YAML 1.1 breaks lines at all of them
				lines += bytes.Count(data, []byte(b))
			}
			if pe.Line < 1 || pe.Line > lines+1 || pe.Column < 0 || pe.Error() == "" {
				t.Fatalf("line %d, column %d of %d lines: %v", pe.Line, pe.Column, lines, err)
			}
			return
		}
		policy.Lint()
		if policy.Ref().ID == "" || policy.Zone() == nil || policy.Ref().Digest == "" {
			t.Fatalf("%+v", policy.Ref())
		}
		ats := []time.Time{utc("1950-01-01"), utc("2020-01-01"), utc("2026-10-01"), utc("2900-01-01")}
		for i := range guarded {
			for _, at := range ats {
				if d := policy.Decide(&guarded[i], at); d.Unlink || d.Reasons.Exceptions() == 0 || !d.EligibleAt.IsZero() {
					t.Fatalf("%v %s", d, describe(&guarded[i]))
				}
			}
		}
		for _, k := range circulation.Kinds() {
			r := clone(free)
			r.Kind = k
			e := policy.Decide(&r, ats[0]).EligibleAt
			if e.IsZero() {
				continue
			}
			if d := policy.Decide(&r, e); !d.Unlink || !d.EligibleAt.Equal(e) || d.Reasons != 0 {
				t.Fatalf("eligible %v, then %v", e, d)
			}
			if policy.Decide(&r, e.Add(-time.Microsecond)).Unlink {
				t.Fatalf("unlinked before %v", e)
			}
			if e.Before(r.Ended) {
				t.Fatalf("eligible %v, before it ended", e)
			}
		}
	})
}
