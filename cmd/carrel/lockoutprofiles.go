package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/lockout"
)

// whence says where the bounds of a profile come from.
var whence = map[lockout.Profile]string{
	lockout.Alma: "as Ex Libris Alma allows",
	lockout.NIST: "NIST SP 800-63B-4, section 3.2.2",
	lockout.PCI:  "PCI DSS v4.0.1, requirement 8.3.4",
	lockout.PIN:  "carrel, for short numbers",
}

// A listedProfile is what `lockout policy-check --list --json` says of one.
type listedProfile struct {
	Profile  string      `json:"profile"`
	Attempts profileSpan `json:"attempts"`
	Duration profileSpan `json:"duration_seconds"`
	Daily    profileSpan `json:"daily"` // default 0: not limited
	From     string      `json:"from"`
}

type profileSpan struct {
	Least   int `json:"least"`
	Most    int `json:"most"`
	Default int `json:"default"`
}

func listProfiles(cmd *cobra.Command, asJSON bool) error {
	list := []listedProfile{}
	t := table{columns: words("PROFILE ATTEMPTS DEFAULT DURATION DEFAULT IN-24H DEFAULT FROM")}
	for _, p := range lockout.Profiles() {
		l := p.Limits()
		seconds := func(d time.Duration) int { return int(d / time.Second) }
		list = append(list, listedProfile{p.String(),
			profileSpan{l.MinAttempts, l.MaxAttempts, l.Attempts},
			profileSpan{seconds(l.MinDuration), seconds(l.MaxDuration), seconds(l.Duration)},
			profileSpan{l.MinAttempts, l.MaxDaily, l.Daily}, whence[p]})
		daily := "none"
		if l.Daily > 0 {
			daily = fmt.Sprint(l.Daily)
		}
		t.add(p.String(), fmt.Sprintf("%d to %d", l.MinAttempts, l.MaxAttempts), fmt.Sprint(l.Attempts),
			period(l.MinDuration)+" to "+period(l.MaxDuration), period(l.Duration),
			fmt.Sprintf("attempts to %d", l.MaxDaily), daily, whence[p])
	}
	if asJSON {
		return printJSON(cmd, struct {
			Profiles []listedProfile `json:"profiles"`
		}{list})
	}
	w := &errWriter{out: cmd.OutOrStdout()}
	w.table(t)
	w.printf("\nThe duration is what attempts are counted in, and for how long an account is then locked.\n")
	return w.err
}
