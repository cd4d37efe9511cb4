package main

import (
	"io"
	"time"

	"github.com/spf13/cobra"
)

func newLockoutStatus() *cobra.Command {
	var f lockoutFlags
	var l limitFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status --db DSN [--id ID | --identifier-file FILE | --login-file FILE | --source ADDR]",
		Short: "Say whether an account or a source is locked, or how many are",
		Long: `Without anybody named, counts whom wrong guesses are held against and how many of them are locked; they
cannot be listed. For one it says until when it is locked and how many guesses are left. Looking changes
nothing and is not recorded. The look-up of a patron by --identifier-file is, and takes --actor, --role and
--purpose as in carrel patron find. The access file decides about the look-up of an identifier, and not about
--id, --login-file and --source. With --login-file nobody is looked up: if it leads to an account, ask for
that.

The limits must be those of the login program, as --profile pin where its lockout.Config has the profile PIN:
by others the wrong guesses are counted wrongly, and what is left, too. Times are by the clock of this
machine.

Exit status: 0 not locked, 1 locked, be it only at a remembered device or in a known network, 2 misuse or
failure.`,
		Example: `  carrel lockout status --db library.db
  carrel lockout status --db library.db --source 192.0.2.17 --profile pin
  carrel lockout status --db library.db --id staff-17 --staff --json
  echo 99999395390 | carrel lockout status --db library.db --identifier-file - --actor staff-17 --role circulation --purpose checkout`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := l.config(cmd)
			if err != nil {
				return placed(cmd, err)
			}
			who, named, err := f.whom.read(cmd)
			if err != nil {
				return err
			}
			return f.open(cmd, who, cfg, false, func(o *openedLockout) error {
				if !named {
					return lockoutOverview(cmd, o, asJSON)
				}
				return lockoutOf(cmd, o, asJSON)
			})
		},
	}
	f.register(cmd, true)
	l.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A lockoutStatus is what `lockout status --json` says of one account or source.
type lockoutStatus struct {
	Locked      bool   `json:"locked"`
	Until       string `json:"locked_until,omitempty"`
	Hold        bool   `json:"hold"`
	Failed      int    `json:"failed"`
	Left        int    `json:"left"`
	Daily       *int   `json:"daily,omitempty"` // absent: none counts by the day
	Lanes       int    `json:"lanes"`
	LockedLanes int    `json:"locked_lanes"`
}

func lockoutOf(cmd *cobra.Command, o *openedLockout, asJSON bool) error {
	s, err := o.status(cmd.Context())
	if err != nil {
		return err
	}
	out := lockoutStatus{!s.Until.IsZero(), stamp(s.Until), s.Hold, s.Failed, s.Left, nil, s.Lanes, s.LockedLanes}
	if s.Daily > 0 {
		out.Daily = &s.Daily
	}
	if asJSON {
		err = printJSON(cmd, out)
	} else {
		err = out.print(cmd, s.Until)
		if err == nil && o.account.Login != "" && !out.Locked && max(s.Failed, s.Daily, s.Lanes) == 0 {
			_, err = io.WriteString(cmd.OutOrStdout(), "if it leads to an account, ask for that, with --identifier-file\n")
		}
	}
	if err == nil && (out.Locked || out.LockedLanes > 0) {
		err = errFound
	}
	return err
}

func (s *lockoutStatus) print(cmd *cobra.Command, until time.Time) error {
	w := &errWriter{out: cmd.OutOrStdout()}
	switch {
	case s.Hold:
		w.printf("locked by staff until %s (%s)\n", seconds(until), fromNow(until))
	case s.Locked:
		w.printf("locked until %s (%s)\n", seconds(until), fromNow(until))
	default:
		w.printf("not locked, %s left\n", pluralOf(s.Left, "guess", "guesses"))
	}
	daily := ""
	if s.Daily != nil {
		daily = ", in 24 hours " + thousands(*s.Daily)
	}
	w.printf("counted: %s%s\n", pluralOf(s.Failed, "wrong guess", "wrong guesses"), daily)
	if s.Lanes > 0 {
		w.printf("apart from that: wrong guesses in %s, %s locked\n", pluralOf(s.Lanes, "place of its own (a remembered device or a known network)",
			"places of their own (remembered devices and known networks)"), thousands(s.LockedLanes))
	}
	return w.err
}

// A lockoutOverviewReport is what `lockout status --json` says when nobody is named.
type lockoutOverviewReport struct {
	Names   int    `json:"names"`
	Sources int    `json:"sources"`
	Locked  int    `json:"locked"`
	Holds   int    `json:"holds"`
	Last    string `json:"last_lock_ends,omitempty"`
}

func lockoutOverview(cmd *cobra.Command, o *openedLockout, asJSON bool) error {
	v, err := o.Overview(cmd.Context())
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(cmd, lockoutOverviewReport{v.Names, v.Sources, v.Locked, v.Holds, stamp(v.Last)})
	} else {
		w := &errWriter{out: cmd.OutOrStdout()}
		t := table{columns: []string{"ACCOUNTS, LOGINS AND SOURCES", "HOW MANY"}}
		t.add("with wrong guesses that count, or locked", thousands(v.Names))
		t.add("of these sources", thousands(v.Sources))
		t.add("locked", thousands(v.Locked))
		t.add("of these by staff", thousands(v.Holds))
		w.table(t)
		if !v.Last.IsZero() {
			w.printf("\nThe last lock ends at %s (%s).\n", seconds(v.Last), fromNow(v.Last))
		}
		err = w.err
	}
	if err == nil && v.Locked > 0 {
		err = errFound
	}
	return err
}

// seconds writes a time for people, who need no microseconds: the next full second, at which a lock has ended.
func seconds(t time.Time) string { return stamp(t.Add(time.Second - 1).Truncate(time.Second)) }

// fromNow says in how long a time comes.
func fromNow(t time.Time) string {
	return "in " + period(max(time.Until(t).Round(time.Second), time.Second))
}

// pluralOf is plural for words that do not only take an s.
func pluralOf(n int, one, many string) string {
	switch n {
	case 0:
		return "no " + many
	case 1:
		return "1 " + one
	}
	return thousands(n) + " " + many
}
