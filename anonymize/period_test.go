package anonymize

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/internal/civil"
)

// A period so long that somebody means "for ever" must never come out short.
func TestPeriodsThatAreTooLongAreRefused(t *testing.T) {
	for _, s := range []string{"P999999999D", "P999999Y", "P292278Y", "P500000Y", "P106751992D", "P300000000M", "P999999999W",
		"P999999999M", "P999999999Y", "P999999999DT1H", "P213503983D", "PT999999999H", "P1DT999999999H999999999M999999999S", "P201Y"} {
		_, err := parsePeriod(s)
		require.ErrorContains(t, err, "write never", s)
	}
	_, err := parsePeriod("P200Y")
	require.NoError(t, err)
}

// Whatever is accepted is a wait.
func TestAcceptedPeriodsPass(t *testing.T) {
	clocks := []clock{{zone: civil.UTC()}}
	for _, name := range []string{"Europe/Stockholm", "America/Havana", "Pacific/Apia"} {
		loc, err := time.LoadLocation(name)
		require.NoError(t, err)
		clocks = append(clocks, clock{zone: civil.In(loc), dayEnds: 3 * 3600 * civil.Second})
	}
	rapid.Check(t, func(t *rapid.T) {
		part := func(unit string) string {
			if !rapid.Bool().Draw(t, unit) {
				return ""
			}
			digits := rapid.IntRange(1, 9).Draw(t, "digits")
			return fmt.Sprint(rapid.Int64Range(0, int64(pow10(digits))-1).Draw(t, "n"), unit)
		}
		s := "P" + part("Y") + part("M") + part("W") + part("D")
		if clockPart := part("H") + part("M") + part("S"); clockPart != "" {
			s += "T" + clockPart
		}
		p, err := parsePeriod(s)
		if err != nil {
			return
		}
		base := rapid.Int64Range(-2e15, 6e15).Draw(t, "base")
		for _, c := range clocks {
			due := c.after(base, p)
			longest := int64(longestYears+1) * 366 * civil.Day
			if due <= base-civil.Day || due > base+2*longest || !strings.Contains(s, "T") && due < base {
				t.Fatalf("%s after %d is %d", s, base, due)
			}
		}
	})
}

func pow10(n int) int {
	if n == 0 {
		return 1
	}
	return 10 * pow10(n-1)
}
