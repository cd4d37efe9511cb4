package lockout_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

func TestLimitsAreEnforced(t *testing.T) {
	type config = lockout.Config
	for name, c := range map[string]struct {
		cfg   config
		wrong string // what the error says; empty: it is good
	}{
		"nothing said":                 {config{}, ""},
		"alma, least":                  {config{Attempts: 3, Duration: 3 * time.Minute}, ""},
		"alma, most":                   {config{Attempts: 20, Duration: 20 * time.Minute}, ""},
		"alma, 2":                      {config{Attempts: 2}, "Config.Attempts is 2, the profile alma allows 3 to 20"},
		"alma, 21":                     {config{Attempts: 21}, "Config.Attempts is 21"},
		"alma, negative":               {config{Attempts: -1}, "Config.Attempts is -1"},
		"alma, too short":              {config{Duration: 3*time.Minute - time.Second}, "Config.Duration is 2m59s, the profile alma allows 3m to 20m"},
		"alma, too long":               {config{Duration: 20*time.Minute + time.Second}, "Config.Duration is 20m1s"},
		"for ever":                     {config{Duration: -1}, "Config.Duration"},
		"half a second":                {config{Duration: 3*time.Minute + time.Second/2}, "whole seconds"},
		"nist, most":                   {config{Profile: lockout.NIST, Attempts: 100, Duration: 24 * time.Hour}, ""},
		"nist, 101":                    {config{Profile: lockout.NIST, Attempts: 101}, "3 to 100"},
		"nist, too long":               {config{Profile: lockout.NIST, Duration: 24*time.Hour + time.Second}, "24h"},
		"pci, most":                    {config{Profile: lockout.PCI, Attempts: 10, Duration: 24 * time.Hour}, ""},
		"pci, 11":                      {config{Profile: lockout.PCI, Attempts: 11}, "3 to 10"},
		"pci, too short":               {config{Profile: lockout.PCI, Duration: 29 * time.Minute}, "30m"},
		"pin, least":                   {config{Profile: lockout.PIN, Attempts: 3, Duration: 15 * time.Minute, Daily: 3}, ""},
		"pin, too short":               {config{Profile: lockout.PIN, Duration: 14 * time.Minute}, "15m"},
		"pin, more a day":              {config{Profile: lockout.PIN, Daily: 21}, "Config.Daily is 21, the profile pin allows 5 (the attempts) to 20"},
		"fewer a day than at once":     {config{Attempts: 6, Daily: 5}, "Config.Daily is 5"},
		"a source has less than one":   {config{Attempts: 6, Sources: 5}, "Config.Sources is 5"},
		"a source has more":            {config{Sources: 1001}, "Config.Sources is 1001"},
		"no profile":                   {config{Profile: 9}, "Config.Profile is Profile(9)"},
		"known is everything":          {config{Known: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}, "Config.Known"},
		"a key of text":                {config{Key: crypto.NewSecret(strings.Repeat("secret key ", 4))}, "Config.Key"},
		"a key too short":              {config{Key: crypto.NewSecret("\x01\x99")}, "Config.Key"},
		"a fallback that others share": {config{Fallback: shared{memory.NewLockouts()}}, "Config.Fallback"},
	} {
		_, err := lockout.New(memory.NewLockouts(), c.cfg)
		if c.wrong == "" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, c.wrong, name)
		require.NotContains(t, err.Error(), "secret key")
	}
	_, err := lockout.New(nil, lockout.Config{})
	require.ErrorContains(t, err, "no store")
	_, err = lockout.New(shared{memory.NewLockouts()}, lockout.Config{})
	require.ErrorContains(t, err, "Config.Key is empty")
}

// shared is a store that others may see.
type shared struct{ lockout.Store }

// Locks end: no configuration that is taken locks for ever, or never.
func TestEveryLockEnds(t *testing.T) {
	for _, p := range lockout.Profiles() {
		l := p.Limits()
		for _, attempts := range []int{l.MinAttempts, l.MaxAttempts} {
			for _, d := range []time.Duration{l.MinDuration, l.MaxDuration} {
				w := newWorld(t, lockout.Config{Profile: p, Attempts: attempts, Duration: d})
				require.Equal(t, attempts, w.guesses(login("a"), 1000), "%v", p)
				w.pass(d - time.Microsecond)
				w.locked(login("a"))
				w.pass(time.Microsecond)
				if attempts < l.Daily || l.Daily == 0 {
					require.True(t, w.wrong(login("a")), "%v %d %v", p, attempts, d)
				}
				w.pass(24 * time.Hour)
				require.True(t, w.wrong(login("a")))
			}
		}
	}
}

func TestProfileNames(t *testing.T) {
	for _, p := range lockout.Profiles() {
		got, err := lockout.ParseProfile(p.String())
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	_, err := lockout.ParseProfile("Alma")
	require.Error(t, err)
}

// In no stretch of Duration more guesses are checked than Attempts, and in no 24 hours more than Daily, whatever the rhythm of who guesses.
func TestNoRhythmHelps(t *testing.T) {
	for _, p := range lockout.Profiles() {
		for _, pause := range []time.Duration{time.Second, 100 * time.Second, 179 * time.Second, 181 * time.Second, 5 * time.Minute, 14*time.Minute + 59*time.Second, 15*time.Minute + time.Second, time.Hour, 0} {
			t.Run(fmt.Sprint(p, pause), func(t *testing.T) {
				w := newWorld(t, lockout.Config{Profile: p})
				l := p.Limits()
				var at []time.Time
				for n := 0; w.clock().Sub(t0) < 72*time.Hour && n < 3000; n++ {
					if w.wrong(login("a")) {
						at = append(at, w.clock())
					}
					if pause > 0 {
						w.pass(pause)
					} else { // bursts just before a period is over
						w.pass([]time.Duration{time.Millisecond, time.Millisecond, time.Millisecond, l.Duration - 3*time.Millisecond}[n%4])
					}
				}
				for i := range at {
					recent, daily := 0, 0
					for j := i; j < len(at); j++ {
						if at[j].Sub(at[i]) < l.Duration {
							recent++
						}
						if at[j].Sub(at[i]) < 24*time.Hour {
							daily++
						}
					}
					require.LessOrEqual(t, recent, l.Attempts)
					if l.Daily > 0 {
						require.LessOrEqual(t, daily, l.Daily)
					}
				}
			})
		}
	}
}
