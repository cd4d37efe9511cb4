package civil_test

import (
	"testing"
	"time"
	_ "time/tzdata" // the tests name zones

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/internal/civil"
)

// Zones with whatever can be hard: midnight skipped or repeated, half hours, a negative summer time,
// Ramadan, rules given up, a whole day skipped.
func zones(t testing.TB) []*time.Location {
	var all []*time.Location
	for _, name := range []string{"UTC", "America/Havana", "America/Santiago", "Europe/Stockholm", "Europe/Dublin", "Australia/Lord_Howe",
		"Africa/Casablanca", "Asia/Tehran", "Pacific/Apia", "Asia/Gaza"} {
		loc, err := time.LoadLocation(name)
		require.NoError(t, err)
		all = append(all, loc)
	}
	return all
}

const minute = 60 * civil.Second

// wall is what the clock shows at an instant, as the time package has it, in microseconds since day 0 on the clock.
func wall(t int64, loc *time.Location) int64 {
	_, offset := time.UnixMicro(t).In(loc).Zone()
	return t + int64(offset)*civil.Second
}

// Around every transition of 2000 to 2040, Instant is what going through the minutes says: the last
// minute at which the clock shows the time or, when there is none, the first at which it shows more.
func TestInstantAgainstTheMinutes(t *testing.T) {
	for _, loc := range zones(t) {
		z := civil.In(loc)
		transitions := 0
		end := time.Date(2041, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
		const hour = 60 * minute
		for at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro(); at < end; at += hour {
			if wall(at+hour, loc)-wall(at, loc) == hour {
				continue
			}
			transitions++
			// A day of slack on both sides holds the widest gap there was.
			from, to := at-50*hour, at+50*hour
			latest := make(map[int64]int64) // clock: the last minute that shows it
			for m := from; m <= to; m += minute {
				latest[wall(m, loc)] = m
			}
			low, high := at-26*hour, at+26*hour
			for m := low; m <= high; m += minute {
				w := wall(m, loc)
				day, clock := z.Local(m)
				if day*civil.Day+clock != w || clock < 0 || clock >= civil.Day {
					t.Fatalf("%s: Local(%s) = %d, %d", loc, time.UnixMicro(m).UTC(), day, clock)
				}
			}
			after := to // of the minutes that show more than w, the first: it moves down with w
			for w := wall(high, loc); w >= wall(low, loc); w -= minute {
				want, shown := latest[w]
				if shown {
					after = want
				} else {
					want = after
				}
				if got := z.Instant(floor(w)); got != want {
					t.Fatalf("%s: clock %s, shown %v: %d, want %d", loc, time.UnixMicro(w).UTC(), shown, got, want)
				}
			}
		}
		t.Logf("%s: %d transitions", loc, transitions)
		if loc.String() == "Europe/Stockholm" {
			require.Equal(t, 2*41, transitions)
		}
	}
}

func floor(w int64) (day, clock int64) {
	day, clock = w/civil.Day, w%civil.Day
	if clock < 0 {
		day, clock = day-1, clock+civil.Day
	}
	return day, clock
}

// Local is the time package's clock at any instant of the years the tables cover, and Instant leads back to
// it or, when the clock showed that twice, to the later one.
func TestLocalAndInstantAreInverse(t *testing.T) {
	locs := zones(t)
	tables := make([]*civil.Zone, len(locs))
	for i, loc := range locs {
		tables[i] = civil.In(loc)
	}
	low, high := time.Date(1900, 1, 2, 0, 0, 0, 0, time.UTC).UnixMicro(), time.Date(2399, 12, 30, 0, 0, 0, 0, time.UTC).UnixMicro()
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.IntRange(0, len(locs)-1).Draw(t, "zone")
		at := rapid.Int64Range(low, high).Draw(t, "instant")
		day, clock := tables[i].Local(at)
		require.Equal(t, wall(at, locs[i]), day*civil.Day+clock)
		back := tables[i].Instant(day, clock)
		require.GreaterOrEqual(t, back, at)
		require.Equal(t, wall(at, locs[i]), wall(back, locs[i]))
		require.Less(t, back-at, 2*civil.Day)
	})
}

// The last days of leap years, where time.Time.ZoneBounds of Go 1.26 ends a period before it began.
func TestInEndsAndKnowsLeapYears(t *testing.T) {
	for _, loc := range zones(t) {
		z := civil.In(loc)
		for year := 2036; year < 2400; year += 4 {
			for _, d := range []time.Time{time.Date(year, 12, 30, 23, 59, 59, 0, time.UTC), time.Date(year, 12, 31, 12, 0, 0, 0, time.UTC),
				time.Date(year+1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(year+1, 7, 1, 0, 0, 0, 0, time.UTC)} {
				day, clock := z.Local(d.UnixMicro())
				require.Equal(t, wall(d.UnixMicro(), loc), day*civil.Day+clock, "%s %s", loc, d)
			}
		}
	}
}

func TestOutsideTheTables(t *testing.T) {
	stockholm := civil.In(zones(t)[3])
	for _, year := range []int64{1, 1000, 1899, 2401, 9999} {
		day := civil.DayOf(year, 7, 1)
		got, clock := stockholm.Local(stockholm.Instant(day, 0))
		require.Equal(t, day, got)
		require.Zero(t, clock)
	}
}

func TestCalm(t *testing.T) {
	at, calm := civil.UTC().Calm(1, 7)
	require.True(t, calm)
	require.Equal(t, civil.Day+7, at)
	for _, loc := range zones(t) {
		z := civil.In(loc)
		unsteady := 0
		for day := civil.DayOf(2000, 1, 1); day < civil.DayOf(2040, 1, 1); day++ {
			at, calm := z.Calm(day, 9*60*minute)
			if !calm {
				unsteady++
				continue
			}
			require.Equal(t, z.Instant(day, 9*60*minute), at)
			offset := wall(day*civil.Day, loc) - day*civil.Day
			for h := int64(-36); h <= 60; h += 4 { // the local day and both its neighbours, wherever the zone is
				at := day*civil.Day - offset + h*60*minute
				if wall(at, loc)-at != offset {
					t.Fatalf("%s, day %d, hour %d", loc, day, h)
				}
			}
		}
		require.Less(t, unsteady, 40*28+1, "%s: Calm must not be pessimistic", loc) // 2 or, in Morocco and Gaza, 4 transitions a year
	}
}

func TestUTCAndLocation(t *testing.T) {
	require.Equal(t, time.UTC, civil.In(nil).Location())
	require.Equal(t, time.UTC, civil.In(time.UTC).Location())
	stockholm := zones(t)[3]
	require.Equal(t, stockholm, civil.In(stockholm).Location())
	fixed := civil.In(time.FixedZone("", -5*3600))
	require.Equal(t, 5*3600*civil.Second, fixed.Instant(0, 0))
	day, clock := fixed.Local(0)
	require.Equal(t, int64(-1), day)
	require.Equal(t, 19*3600*civil.Second, clock)
}

func TestDatesAgainstTheTimePackage(t *testing.T) {
	for day := civil.DayOf(-5, 1, 1); day < civil.DayOf(2500, 1, 1); day++ {
		y, m, d := civil.Date(day)
		want := time.Unix(day*86400, 0).UTC()
		if int(y) != want.Year() || time.Month(m) != want.Month() || int(d) != want.Day() || civil.DayOf(y, m, d) != day {
			t.Fatalf("day %d: %d-%d-%d, want %s", day, y, m, d, want)
		}
	}
	for year := int64(1896); year < 2110; year++ {
		for month := int64(1); month <= 12; month++ {
			require.Equal(t, int64(time.Date(int(year), time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()), civil.DaysIn(year, month))
			require.Equal(t, civil.DayOf(year, month, 1)+40, civil.DayOf(year, month, 41), "the day may run over")
		}
	}
}

func BenchmarkInstant(b *testing.B) {
	z := civil.In(zones(b)[3])
	day := civil.DayOf(2026, 7, 1)
	b.ReportAllocs()
	for b.Loop() {
		z.Instant(day, 0)
	}
}

func BenchmarkIn(b *testing.B) {
	loc := zones(b)[3]
	b.ReportAllocs()
	for b.Loop() {
		civil.In(loc)
	}
}
