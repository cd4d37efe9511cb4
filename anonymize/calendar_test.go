package anonymize_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/internal/oracle"
)

// calendarCases are computed by hand from the zones' published rules.
//
//	Havana    2026-03-08 00:00 → 01:00 at 05:00Z, 2026-11-01 01:00 → 00:00 at 05:00Z: midnight is skipped, and occurs twice
//	Santiago  2026-04-04 24:00 → 23:00 at 03:00Z, 2026-09-05 24:00 → 01:00 at 04:00Z: 23 h occurs twice, midnight is skipped
//	Stockholm 2026-03-29 02:00 → 03:00 at 01:00Z, 2026-10-25 03:00 → 02:00 at 01:00Z
//	Lord Howe 2026-04-05 02:00 → 01:30 (+11 → +10:30), 2026-10-04 02:00 → 02:30
//	Apia      had no 2011-12-30
var calendarCases = []struct {
	name, zone, dayEnds, from, period, want string
}{
	{"date-only 31 January + P1M", "", "", "2026-01-31", "P1M", "2026-02-28"},
	{"date-only 31 January + P1M, leap year", "", "", "2028-01-31", "P1M", "2028-02-29"},
	{"31 January 10:00 + P1M", "", "", "2026-01-31T10:00Z", "P1M", "2026-03-01"},
	{"31 January 10:00 + P1M, leap year", "", "", "2028-01-31T10:00Z", "P1M", "2028-03-01"},
	{"one microsecond past midnight", "", "", "2026-01-31T00:00:00.000001Z", "P1M", "2026-03-01"},
	{"30 January + P1M", "", "", "2026-01-30", "P1M", "2026-02-28"},
	{"28 February + P1M", "", "", "2026-02-28", "P1M", "2026-03-28"},
	{"31 May + P1M", "", "", "2026-05-31", "P1M", "2026-06-30"},
	{"31 August + P6M", "", "", "2026-08-31", "P6M", "2027-02-28"},
	{"31 December + P2M", "", "", "2027-12-31", "P2M", "2028-02-29"},
	{"29 February + P1Y", "", "", "2028-02-29", "P1Y", "2029-02-28"},
	{"29 February + P4Y", "", "", "2028-02-29", "P4Y", "2032-02-29"},
	{"29 February 2096 + P4Y: 2100 is no leap year", "", "", "2096-02-29", "P4Y", "2100-02-28"},
	{"29 February 1996 + P4Y: 2000 is one", "", "", "1996-02-29", "P4Y", "2000-02-29"},
	{"months are clamped before days are added", "", "", "2026-01-31", "P1M1D", "2026-03-01"},
	{"months are clamped once, not after every month", "", "", "2026-01-31", "P2M", "2026-03-31"},
	{"years and months are clamped together", "", "", "2028-02-29", "P1Y1M", "2029-03-29"},
	{"weeks", "", "", "2026-01-01T00:00:01Z", "P2W", "2026-01-16"},
	{"weeks and days", "", "", "2026-01-01", "P1W3D", "2026-01-11"},
	{"everything", "", "", "2026-01-31", "P1Y1M1W1D", "2027-03-08"},

	{"exactly the boundary is the boundary", "", "03:00", "2026-01-01T03:00Z", "P30D", "2026-01-31T03:00Z"},
	{"before the day ends", "", "03:00", "2026-01-01T02:59:59Z", "P30D", "2026-01-31T03:00Z"},
	{"after the day ended", "", "03:00", "2026-01-01T03:00:01Z", "P30D", "2026-02-01T03:00Z"},
	{"day-ends and a date", "", "03:00", "2026-01-31", "P1M", "2026-02-28T03:00Z"},
	{"the day ends late", "", "23:59", "2026-01-01T12:00Z", "P1D", "2026-01-02T23:59Z"},
	{"the example of the design", "Europe/Stockholm", "03:00", "2026-10-01T09:30Z", "P30D", "2026-11-01T02:00Z"},
	{"summer's midnight", "Europe/Stockholm", "", "2026-06-30T22:00Z", "P1D", "2026-07-01T22:00Z"},
	{"summer to winter keeps the wall clock", "Europe/Stockholm", "", "2026-09-30T22:00Z", "P1M", "2026-10-31T23:00Z"},
	{"the local date decides what a month is", "Europe/Stockholm", "", "2026-01-30T23:00Z", "P1M", "2026-02-27T23:00Z"},

	{"a time part is exact", "", "", "2026-01-01T10:11:12.000013Z", "PT24H", "2026-01-02T10:11:12.000013Z"},
	{"days and a time part", "", "03:00", "2026-01-01T10:00Z", "P1DT1M", "2026-01-02T10:01Z"},
	{"the calendar part first", "", "", "2026-01-31T23:00Z", "P1MT2H", "2026-03-01T01:00Z"},
	{"elapsed hours over a gap", "Europe/Stockholm", "", "2026-03-28T11:00Z", "PT24H", "2026-03-29T11:00Z"},
	{"a wall day and hours over a gap", "Europe/Stockholm", "", "2026-03-28T11:00Z", "P1DT1H", "2026-03-29T11:00Z"},
	{"exact, from the first of two equal wall times", "Europe/Stockholm", "", "2026-10-25T00:30Z", "PT1H", "2026-10-25T01:30Z"},
	{"exact, calendar part into the gap", "Europe/Stockholm", "", "2026-03-28T01:30Z", "P1DT1H", "2026-03-29T02:00Z"},
	{"exact, calendar part to a time that occurs twice", "Europe/Stockholm", "", "2026-10-24T00:30Z", "P1DT1S", "2026-10-25T01:30:01Z"},
	{"minutes and seconds", "", "", "2026-01-01", "PT1H1M1S", "2026-01-01T01:01:01Z"},

	{"Havana: a midnight that is skipped", "America/Havana", "", "2026-03-07T05:00Z", "P1D", "2026-03-08T05:00Z"},
	{"Havana: into the gap", "America/Havana", "", "2026-03-07T05:30Z", "P1D", "2026-03-08T05:00Z"},
	{"Havana: the last instant of the gap", "America/Havana", "", "2026-03-07T05:59:59.999999Z", "P1D", "2026-03-08T05:00Z"},
	{"Havana: just after the gap", "America/Havana", "", "2026-03-07T06:00:00.000001Z", "P1D", "2026-03-09T04:00Z"},
	{"Havana: a midnight that occurs twice", "America/Havana", "", "2026-10-31T04:00Z", "P1D", "2026-11-01T05:00Z"},
	{"Havana: half past midnight occurs twice", "America/Havana", "", "2026-10-31T04:30Z", "P1D", "2026-11-02T05:00Z"},
	{"Havana: from the first of the two midnights", "America/Havana", "", "2026-11-01T04:00Z", "P1D", "2026-11-02T05:00Z"},
	{"Havana: from the second of the two midnights", "America/Havana", "", "2026-11-01T05:00Z", "P1D", "2026-11-02T05:00Z"},
	{"Havana: the evening before is due at the later midnight", "America/Havana", "", "2026-10-30T20:00Z", "P1D", "2026-11-01T05:00Z"},
	{"Havana: a month to the double midnight", "America/Havana", "", "2026-10-01T04:00Z", "P1M", "2026-11-01T05:00Z"},
	{"Havana: a day that ends in the gap", "America/Havana", "00:30", "2026-03-07T06:00Z", "P1D", "2026-03-08T05:00Z"},
	{"Havana: just after a day that ended in the gap", "America/Havana", "00:30", "2026-03-07T06:00:01Z", "P1D", "2026-03-09T04:30Z"},
	{"Havana: due in the gap where the day ends", "America/Havana", "00:30", "2026-03-07T05:10Z", "P1D", "2026-03-08T05:00Z"},
	{"Havana: a day that ends twice", "America/Havana", "00:30", "2026-10-31T04:30Z", "P1D", "2026-11-01T05:30Z"},

	{"Santiago: a midnight that is skipped", "America/Santiago", "", "2026-09-05T04:00Z", "P1D", "2026-09-06T04:00Z"},
	{"Santiago: into the gap", "America/Santiago", "", "2026-09-05T04:30Z", "P1D", "2026-09-06T04:00Z"},
	{"Santiago: 23:30 occurs twice", "America/Santiago", "", "2026-04-04T02:30Z", "P1D", "2026-04-05T04:00Z"},
	{"Santiago: 23:00 occurs twice and ends the day", "America/Santiago", "23:00", "2026-04-04T02:00Z", "P1D", "2026-04-05T03:00Z"},
	{"Santiago: 23:30 twice, exact", "America/Santiago", "", "2026-04-04T02:30Z", "P1DT1S", "2026-04-05T03:30:01Z"},
	{"Santiago: P1M to a skipped midnight", "America/Santiago", "", "2026-08-06T04:00Z", "P1M", "2026-09-06T04:00Z"},

	{"Lord Howe: half an hour is skipped", "Australia/Lord_Howe", "02:15", "2026-10-02T15:45Z", "P1D", "2026-10-03T15:30Z"},
	{"Lord Howe: half an hour occurs twice", "Australia/Lord_Howe", "01:45", "2026-04-03T14:45Z", "P1D", "2026-04-04T15:15Z"},
	{"Lord Howe: 09:30", "Australia/Lord_Howe", "09:30", "2026-10-03T22:30Z", "P1W", "2026-10-10T22:30Z"},
	{"Lord Howe: after 09:30", "Australia/Lord_Howe", "09:30", "2026-10-03T23:00Z", "P1W", "2026-10-11T22:30Z"},

	{"Stockholm: a day that ends in the gap", "Europe/Stockholm", "02:30", "2026-03-28T01:30Z", "P1D", "2026-03-29T01:00Z"},
	{"Stockholm: a day that ends twice", "Europe/Stockholm", "02:30", "2026-10-24T00:30Z", "P1D", "2026-10-25T01:30Z"},
	{"Apia: a day that never was", "Pacific/Apia", "", "2011-12-29T10:00Z", "P1D", "2011-12-30T10:00Z"},
}

func TestCalendar(t *testing.T) {
	for _, c := range calendarCases {
		t.Run(c.name, func(t *testing.T) {
			p := loans(oracle.Rule{Name: "rule", After: c.period})
			p.Zone, p.DayEnds = c.zone, c.dayEnds
			policy, err := anonymize.ParsePolicy(p.YAML())
			require.NoError(t, err)
			r := loan(c.from)
			due := utc(c.want)
			require.Equal(t, due, policy.Decide(&r, due).EligibleAt.UTC())
			require.True(t, policy.Decide(&r, due).Unlink)
			require.False(t, policy.Decide(&r, due.Add(-time.Microsecond)).Unlink)
		})
	}
}

// A date without a time is 00:00 of that day in the zone: the in-file tests must see the same calendar.
func TestCalendarInFile(t *testing.T) {
	text := func(zone, dayEnds, after, ended, on, want string) []byte {
		return fmt.Appendf(nil, `carrel-retention: 1
id: calendar
revision: 1
clock: {zone: %s, day-ends: %q}
records:
  loans:
    - {name: rule, after: %s}
tests:
  - name: one
    record: {kind: loan, ended: %s}
    on: %s
    want: %s
`, zone, dayEnds, after, ended, on, want)
	}
	for _, c := range []struct{ zone, dayEnds, after, ended, before, due string }{
		{"UTC", "00:00", "P1M", "2026-01-31", "2026-02-27", "2026-02-28"},
		{"UTC", "00:00", "P1M", "2026-01-31T10:00:00Z", "2026-02-28", "2026-03-01"},
		{"Europe/Stockholm", "00:00", "P1M", "2026-01-31", "2026-02-27", "2026-02-28"},
		{"Europe/Stockholm", "00:00", "P1D", "2026-01-30T23:00:00Z", "2026-01-31", "2026-02-01"},
		{"Europe/Stockholm", "03:00", "P1M", "2026-01-31", "2026-02-28", "2026-03-01"},
		{"Europe/Stockholm", "03:00", "P1M", "2026-01-31", "2026-02-28T01:59:59Z", "2026-02-28T02:00:00Z"},
		{"America/Havana", "00:00", "P1D", "2026-10-31", "2026-11-01T04:59:59Z", "2026-11-01"},
		{"America/Havana", "00:00", "P1D", "2026-03-07", "2026-03-08T04:59:59Z", "2026-03-08"},
		{"America/Santiago", "00:00", "P1D", "2026-09-05", "2026-09-06T03:59:59Z", "2026-09-06"},
		// The day of the gap begins at 01:00, and a wall day later 01:00 is past the boundary.
		{"America/Santiago", "00:00", "P1D", "2026-09-06", "2026-09-07", "2026-09-08"},
	} {
		t.Run(c.zone+" "+c.after+" "+c.ended, func(t *testing.T) {
			_, err := anonymize.ParsePolicy(text(c.zone, c.dayEnds, c.after, c.ended, c.before, "keep"))
			require.NoError(t, err)
			_, err = anonymize.ParsePolicy(text(c.zone, c.dayEnds, c.after, c.ended, c.due, "unlink"))
			require.NoError(t, err)
			_, err = anonymize.ParsePolicy(text(c.zone, c.dayEnds, c.after, c.ended, c.before, "unlink"))
			require.Error(t, err)
			_, err = anonymize.ParsePolicy(text(c.zone, c.dayEnds, c.after, c.ended, c.due, "keep"))
			require.Error(t, err)
		})
	}
}
