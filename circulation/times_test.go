package circulation_test

import (
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	require.NoError(t, err)
	return loc
}

// The expected instants are written out from the tz database's rules, not computed by the code under test.
func TestTimes(t *testing.T) {
	for _, c := range []struct{ zone, in, want string }{
		{"UTC", "2026-10-01", "2026-10-01T00:00:00Z"},
		{"UTC", "2026-10-01T09:30:00Z", "2026-10-01T09:30:00Z"},
		{"UTC", "2026-10-01t09:30:00z", "2026-10-01T09:30:00Z"},
		{"UTC", "2026-10-01 09:30", "2026-10-01T09:30:00Z"},
		{"UTC", "2026-10-01T09:30:00+02:00", "2026-10-01T07:30:00Z"},
		{"UTC", "2026-10-01T09:30:00.5-00:30", "2026-10-01T10:00:00.5Z"},
		{"UTC", "2026-10-01T09:30:00,123456789Z", "2026-10-01T09:30:00.123456Z"}, // cut, not rounded
		{"UTC", "2026-10-01T09:30:00.0000009Z", "2026-10-01T09:30:00Z"},
		{"UTC", "1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z"},
		{"UTC", "2024-02-29", "2024-02-29T00:00:00Z"},
		{"UTC", "2000-02-29", "2000-02-29T00:00:00Z"},
		{"UTC", "0001-01-02", "0001-01-02T00:00:00Z"},
		{"UTC", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"},
		// PostgreSQL
		{"UTC", "2020-10-27 09:26:51-05", "2020-10-27T14:26:51Z"},
		{"UTC", "2014-05-14 07:39:13.070326-05", "2014-05-14T12:39:13.070326Z"},
		{"UTC", "2014-05-14 07:39:13.07+05:30", "2014-05-14T02:09:13.07Z"},
		{"UTC", "2014-05-14 07:39:13+0530", "2014-05-14T02:09:13Z"},
		{"UTC", "1880-01-01 00:00:00+00:53:28", "1879-12-31T23:06:32Z"}, // local mean time, as PostgreSQL prints it
		{"UTC", "2020-01-01 00:30:00+14", "2019-12-31T10:30:00Z"},
		{"Asia/Tokyo", "2020-10-27 09:26:51-05", "2020-10-27T14:26:51Z"}, // a zone that is named wins
		// Stockholm: +1, summer +2; 2026-03-29 02:00 skips to 03:00, 2026-10-25 03:00 falls back to 02:00.
		{"Europe/Stockholm", "2026-01-15", "2026-01-14T23:00:00Z"},
		{"Europe/Stockholm", "2026-07-15 12:00:00", "2026-07-15T10:00:00Z"},
		{"Europe/Stockholm", "2026-03-29 01:59:59", "2026-03-29T00:59:59Z"},
		{"Europe/Stockholm", "2026-03-29 02:00:00", "2026-03-29T01:00:00Z"}, // gap: its end
		{"Europe/Stockholm", "2026-03-29 02:30:00", "2026-03-29T01:00:00Z"}, // gap: its end
		{"Europe/Stockholm", "2026-03-29 03:00:00", "2026-03-29T01:00:00Z"},
		{"Europe/Stockholm", "2026-10-25 01:59:59", "2026-10-24T23:59:59Z"},
		{"Europe/Stockholm", "2026-10-25 02:30:00", "2026-10-25T01:30:00Z"}, // fold: the later
		{"Europe/Stockholm", "2026-10-25 03:00:00", "2026-10-25T02:00:00Z"},
		{"Europe/Stockholm", "2026-10-25 02:30:00+02", "2026-10-25T00:30:00Z"}, // the earlier, by name
		// Havana: -5, summer -4; midnight is skipped on 2026-03-08 and repeated on 2026-11-01.
		{"America/Havana", "2026-03-08", "2026-03-08T05:00:00Z"},          // 00:00 skipped: 01:00 -04
		{"America/Havana", "2026-03-08 00:59:59", "2026-03-08T05:00:00Z"}, // still the gap
		{"America/Havana", "2026-03-07 23:59:59", "2026-03-08T04:59:59Z"},
		{"America/Havana", "2026-11-01", "2026-11-01T05:00:00Z"}, // 00:00 twice: the later, -05
		{"America/Havana", "2026-11-01 00:59:59", "2026-11-01T05:59:59Z"},
		{"America/Havana", "2026-10-31 23:59:59", "2026-11-01T03:59:59Z"},
		// Santiago: -4, summer -3; on 2026-09-06 00:00 skips to 01:00, on 2026-04-05 00:00 falls back to 23:00 the day before.
		{"America/Santiago", "2026-09-06", "2026-09-06T04:00:00Z"},
		{"America/Santiago", "2026-09-05 23:59:59", "2026-09-06T03:59:59Z"},
		{"America/Santiago", "2026-04-04 23:30:00", "2026-04-05T03:30:00Z"}, // twice: the later, -04
		{"America/Santiago", "2026-04-05", "2026-04-05T04:00:00Z"},
		// Lord Howe moves by half an hour; Apia had no 2011-12-30.
		{"Australia/Lord_Howe", "2026-10-04 02:15:00", "2026-10-03T15:30:00Z"},
		{"Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00Z"},
		{"Pacific/Apia", "2011-12-30 18:00:00", "2011-12-30T10:00:00Z"},
		{"Pacific/Apia", "2011-12-31", "2011-12-30T10:00:00Z"},
		{"Pacific/Apia", "2011-12-29 23:59:59", "2011-12-30T09:59:59Z"},
	} {
		got, err := circulation.Times(zone(t, c.zone))(c.in)
		require.NoError(t, err, c.in)
		require.Equal(t, c.want, got.Format(time.RFC3339Nano), "%s in %s", c.in, c.zone)
		require.Equal(t, time.UTC, got.Location())
	}
	zero, err := circulation.Times(nil)("")
	require.NoError(t, err)
	require.True(t, zero.IsZero())
}

// Tables of zones with a rule for ever end only because civil.In says where: leap years after 2037 once made it run on.
func TestTimesFarAway(t *testing.T) {
	read := circulation.Times(zone(t, "Europe/Stockholm"))
	for in, want := range map[string]string{
		"2040-12-31 12:00:00": "2040-12-31T11:00:00Z",
		"2041-01-01":          "2040-12-31T23:00:00Z",
		"2096-07-01":          "2096-06-30T22:00:00Z",
		"2399-12-31":          "2399-12-30T23:00:00Z",
	} {
		got, err := read(in)
		require.NoError(t, err)
		require.Equal(t, want, got.Format(time.RFC3339Nano))
	}
}

func TestTimesRefuses(t *testing.T) {
	read := circulation.Times(nil)
	for _, in := range []string{
		" ", "x", "2026", "2026-10", "2026-10-1", "2026-1-01", "26-10-01", "2026/10/01", "20261001", "01.10.2026", "-001-01-01", "12026-01-01",
		"2026-00-01", "2026-13-01", "2026-01-00", "2026-01-32", "2026-04-31", "2026-02-29", "1900-02-29", "0000-01-01",
		"2026-10-01T", "2026-10-01T09", "2026-10-01T9:30", "2026-10-01T24:00:00Z", "2026-10-01T23:60:00Z", "2026-10-01T23:59:60Z", "2026-10-01T09:30:00.",
		"2026-10-01T09:30:00.Z", "2026-10-01T09:30:00 Z", "2026-10-01T09:30:00ZZ", "2026-10-01T09:30:00+2", "2026-10-01T09:30:00+02:", "2026-10-01T09:30:00+02:0",
		"2026-10-01T09:30:00+24", "2026-10-01T09:30:00+02:60", "2026-10-01T09:30:00+02:00:60", "2026-10-01T09:30:00 CET", "2026-10-01 09:30:00 +02", " 2026-10-01", "2026-10-01 ",
		"2026-10-01x", "infinity", "-infinity", "0044-03-15 BC", "２026-10-01",
		"0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", // instants that RFC 3339 cannot say in UTC
	} {
		got, err := read(in)
		require.True(t, got.IsZero(), in)
		// One text for all, so it repeats nothing of what was read.
		require.EqualError(t, err, "not a time: want 2026-10-01, 2026-10-01T09:30:00Z or 2026-10-01 09:30:00+02")
	}
}

// FuzzTimes: what looks like RFC 3339 means what time.Parse says; what we print, we read.
func FuzzTimes(f *testing.F) {
	for _, s := range []string{"2026-10-01T09:30:00Z", "2014-05-14 07:39:13.070326-05", "2026-10-01", "1880-01-01 00:00:00+00:53:28", "9999-12-31T23:59:59-01:00", "2026-10-01T09:30:00,5Z"} {
		f.Add(s)
	}
	strict := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.,]\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)
	read := circulation.Times(nil)
	f.Fuzz(func(t *testing.T, s string) {
		got, err := read(s)
		if strict.MatchString(s) {
			want, wantErr := time.Parse(time.RFC3339, s)
			want = want.UTC()
			if wantErr == nil && (want.Year() < 1 || want.Year() > 9999) {
				wantErr = err // no UTC form: refused
			}
			if (err == nil) != (wantErr == nil) {
				t.Fatalf("%q: %v, time.Parse says %v", s, err, wantErr)
			}
			if err == nil && !got.Equal(want.Truncate(time.Microsecond)) {
				t.Fatalf("%q: %v, time.Parse says %v", s, got, want)
			}
		}
		if err != nil || s == "" {
			return
		}
		again, err := read(got.Format(time.RFC3339Nano))
		if err != nil || !again.Equal(got) {
			t.Errorf("%q: %v read again as %v, %v", s, got, again, err)
		}
	})
}

func BenchmarkTimes(b *testing.B) {
	stockholm := zone(b, "Europe/Stockholm")
	for _, s := range []string{"2026-10-01", "2026-10-01T09:30:00Z", "2020-10-27 09:26:51.426709-05"} {
		b.Run(s, func(b *testing.B) {
			read := circulation.Times(stockholm)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := read(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
