package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
)

func runLimits(t testing.TB, args ...string) result {
	t.Helper()
	return carrel(t, append([]string{"lockout", "policy-check"}, args...)...)
}

func TestLockoutPolicyCheck(t *testing.T) {
	out := good(t, runLimits(t))
	assert.True(t, strings.HasPrefix(out, `accepted: profile alma, 5 wrong guesses in 15m, no limit in 24h; 100 from one source in 15m

WRONG GUESSES AT MOST             HOUR    DAY    WEEK       YEAR
at one account                      20    480   3,360    175,200
from one source, at all accounts   400  9,600  67,200  3,504,000

`), out)
	assert.NotContains(t, out, "random")

	out = good(t, runLimits(t, "--profile", "pin", "--pin-digits", "6"))
	assert.Contains(t, out, "15m after 5, for 24h after 20 in a day")
	assert.Contains(t, out, "but none of those in 24h.\n")
	assert.Contains(t, out, "A random PIN of 6 digits stands")
	assert.Contains(t, out, "found within a year   0.73 %\n")
	assert.NotContains(t, out, "warning")

	r := runLimits(t, "--pin-digits", "4")
	assert.Equal(t, result{exitFound, r.out, ""}, r)
	assert.Contains(t, r.out, "found within a year   100 %\n  found on average      after 10 days at the earliest\n")
	assert.Contains(t, r.out, "\nwarning: within a year, guesses at one account find a random PIN of 4 digits with a chance of 100 %; the profile pin, with 20 guesses a day, makes that 73 %\n")
	r = runLimits(t, "--profile", "pin", "--pin-digits", "4")
	assert.Equal(t, exitFound, r.code)
	assert.Contains(t, r.out, "73 %; longer ones or a lower --daily help\n")
	good(t, runLimits(t, "--profile", "pin", "--pin-digits", "4", "--daily", "13"))
	assert.Equal(t, exitFound, runLimits(t, "--profile", "pin", "--pin-digits", "4", "--daily", "14").code)
	help := good(t, runLimits(t, "--help"))
	assert.Contains(t, help, "with a chance of one half or more")
	assert.Contains(t, help, "Take 6 digits, or --daily 13.")
	assert.Contains(t, runLimits(t, "--secret-space", "1000").out, "a random secret out of 1,000 with a chance of 100 %; it is too short also for the profile pin\n")
}

// What a profile does not allow is found, and what nobody can mean is misuse.
func TestLockoutPolicyCheckRefuses(t *testing.T) {
	for _, c := range []struct{ args, why string }{
		{"--attempts 2", "--attempts is 2, the profile alma allows 3 to 20"},
		{"--attempts 0", "--attempts is 0; leave it out for what the profile takes"},
		{"--attempts -1", "--attempts is -1, the profile alma allows 3 to 20"},
		{"--duration 21m", "--duration is 21m, the profile alma allows 3m to 20m"},
		{"--profile pci --duration 20m", "--duration is 20m, the profile pci allows 30m to 24h"},
		{"--profile nist --duration 5m500ms", "--duration is 5m0.5s, want whole seconds"},
		{"--daily 0", "--daily is 0; leave it out for what the profile takes"},
		{"--profile pin --daily 21", "--daily is 21, the profile pin allows 5 (the attempts) to 20"},
		{"--sources 4", "--sources is 4, want 5 (the attempts) to 1000"},
	} {
		r := runLimits(t, strings.Fields(c.args)...)
		assert.Equal(t, result{exitFound, "refused: " + c.why + "\n", ""}, r, c.args)
		refused(t, carrel(t, append([]string{"lockout", "status", "--db", "x.db"}, strings.Fields(c.args)...)...), "lockout status: "+c.why)
	}
	refused(t, runLimits(t, "--profile", "pni"), "--profile pni: want one of alma, nist, pci, pin", "did you mean")
	refused(t, runLimits(t, "--profile", "almaa"), `did you mean "alma"?`)
	refused(t, runLimits(t, "--attempts", "many"), "--attempts: want a whole number\n")
	refused(t, runLimits(t, "--duration", "15"), "--duration: want a number and a unit, as in 15m\n")
	refused(t, runLimits(t, "--pin-digits", "four"), "--pin-digits: want a whole number\n")
	refused(t, runLimits(t, "--secret-space", "1e6"), "--secret-space: want a whole number\n")
	refused(t, runLimits(t, "--list", "--profile", "pin"), "lockout policy-check: --list takes only --json, got --profile\n")
	refused(t, runLimits(t, "--list", "--json", "--pin-digits", "4"), "--list takes only --json, got --pin-digits\n")
	refused(t, runLimits(t, "--pin-digits", "4", "--secret-space", "10000"), "either --pin-digits or --secret-space")
	refused(t, runLimits(t, "--pin-digits", "0"), "--pin-digits: want 1 to 12")
	refused(t, runLimits(t, "--pin-digits", "13"), "--pin-digits: want 1 to 12")
	refused(t, runLimits(t, "--secret-space", "1"), "--secret-space: want 2 to 1000000000000")
	refused(t, runLimits(t, "4"), "takes no argument")
}

func TestLockoutPolicyCheckJSON(t *testing.T) {
	assert.JSONEq(t, `{"accepted":true,"profile":"pin",
		"limits":{"attempts":5,"duration_seconds":900,"daily":20,"sources":100,"locked_seconds":900,"locked_daily_seconds":86400,"forgiven":4,
			"at_one_account":{"hour":20,"day":20,"week":140,"year":7300},"from_one_source":{"hour":400,"day":9600,"week":67200,"year":3504000}},
		"secret":{"space":1000000,"chance_in_a_day":0.00002,"chance_in_a_year":0.0073,"half_seconds":2159916300,"all_seconds":4319916300,"accounts_a_day_from_one_source":0.0096},
		"warnings":[]}`, good(t, runLimits(t, "--profile", "pin", "--pin-digits", "6", "--json")))
	r := runLimits(t, "--attempts", "2", "--json")
	assert.Equal(t, exitFound, r.code)
	assert.JSONEq(t, `{"accepted":false,"profile":"alma","reason":"--attempts is 2, the profile alma allows 3 to 20","warnings":[]}`, r.out)
	r = runLimits(t, "--pin-digits", "4", "--json")
	assert.Equal(t, exitFound, r.code)
	var c checkedLimits
	require.NoError(t, json.Unmarshal([]byte(r.out), &c))
	assert.Len(t, c.Warnings, 1)
	assert.NotContains(t, r.out, `"daily"`)
}

func TestLockoutProfiles(t *testing.T) {
	out := good(t, runLimits(t, "--list"))
	assert.Contains(t, out, "pin      3 to 10         5  15m to 24h  15m      attempts to 20   20       carrel, for short numbers\n")
	var list struct{ Profiles []listedProfile }
	require.NoError(t, json.Unmarshal([]byte(good(t, runLimits(t, "--list", "--json"))), &list))
	require.Len(t, list.Profiles, len(lockout.Profiles()))
	for _, p := range lockout.Profiles() {
		assert.Contains(t, out, "\n"+p.String()+" ")
		assert.NotEmpty(t, whence[p], p)
	}
	assert.Equal(t, listedProfile{"pci", profileSpan{3, 10, 10}, profileSpan{1800, 86400, 1800}, profileSpan{3, 100, 0}, "PCI DSS v4.0.1, requirement 8.3.4"}, list.Profiles[2])
}

func TestLockoutNumbersForPeople(t *testing.T) {
	for want, p := range map[string]float64{"0 %": 0, "100 %": 1, "over 99 %": 0.9999, "73 %": 0.73, "4.8 %": 0.048, "5 %": 0.05, "0.0024 %": 0.000024, "less than 0.000001 %": 1e-12} {
		assert.Equal(t, want, percent(p))
	}
	const day = 24 * 3600
	for want, seconds := range map[string]int64{"no time": 0, "45 minutes": 2700, "24 hours": day, "2 days": 2 * day, "729 days": 729 * day, "2.7 years": 1000 * day, "2 years": 730 * day, "1,000 years": 365_000 * day} {
		assert.Equal(t, want, span(seconds))
	}
}
