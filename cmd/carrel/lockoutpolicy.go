package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/carrel-project/carrel/lockout"
)

func newLockoutPolicyCheck() *cobra.Command {
	var l limitFlags
	var s secretFlags
	var list, asJSON bool
	cmd := &cobra.Command{
		Use:   "policy-check [--profile P] [--attempts N] [--duration D] [--daily N] [--sources N] [--pin-digits N]",
		Short: "Say whether limits of guesses are allowed, and what they mean in numbers",
		Long: `Says whether a lockout.Config with these limits is accepted, how many wrong guesses it lets through at most,
and for how long somebody who only mistyped is locked out. With --pin-digits or --secret-space it also says
how long a PIN or password stands that is drawn at random; those that people choose are found much sooner.
It warns when somebody who guesses for a year finds such a PIN or password with a chance of one half or more.
It needs no database.

The numbers are upper bounds for somebody who guesses the moment it is possible, day and night, while the
owner does not log in. A wrong guess counts for the duration at least and twice as long at most, and for the
limit in 24 hours one to two days.

A PIN of 4 digits is warned of by the profile pin, too, at 73 %: 20 guesses a day are 7,300 of 10,000 PINs in
a year. Take 6 digits, or --daily 13.

Exit status: 0 the limits are accepted, 1 they are not, or there is a warning, 2 misuse.`,
		Example: `  carrel lockout policy-check --list
  carrel lockout policy-check --profile alma --attempts 3 --duration 20m
  carrel lockout policy-check --profile pin --pin-digits 4
  carrel lockout policy-check --profile nist --daily 50 --secret-space 1000000 --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if list {
				if err := listAlone(cmd); err != nil {
					return err
				}
				return listProfiles(cmd, asJSON)
			}
			space, err := s.space(cmd)
			if err != nil {
				return err
			}
			cfg, err := l.config(cmd)
			var no refusedLimits
			if err != nil && !errors.As(err, &no) {
				return err
			}
			c := checkLimits(cfg, no.why, space)
			if asJSON {
				err = printJSON(cmd, c)
			} else {
				err = c.print(cmd.OutOrStdout())
			}
			if err == nil && (!c.Accepted || len(c.Warnings) > 0) {
				err = errFound
			}
			return err
		},
	}
	l.register(cmd)
	cmd.Flags().Int64Var(&s.secrets, "secret-space", 0, "so many secrets there are, each as likely as the others")
	cmd.Flags().IntVar(&s.digits, "pin-digits", 0, "the secrets are PINs of so many digits")
	cmd.Flags().BoolVar(&list, "list", false, "list the profiles: what each allows and takes")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// listAlone refuses other flags beside --list, which would change nothing.
func listAlone(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if err == nil && f.Name != "list" && f.Name != "json" {
			err = fmt.Errorf("%s--list takes only --json, got --%s", place(cmd), f.Name)
		}
	})
	return err
}

// secretFlags say what is guessed at.
type secretFlags struct {
	secrets int64
	digits  int
}

// mostDigits keeps all numbers of this file within 64 bits.
const mostDigits = 12

// A secretSpace is what is guessed at: so many secrets, drawn at random. The zero value is not known.
type secretSpace struct {
	secrets int64
	digits  int // 0: they are no PINs
}

func (s *secretFlags) space(cmd *cobra.Command) (secretSpace, error) {
	digits, secrets := cmd.Flags().Changed("pin-digits"), cmd.Flags().Changed("secret-space")
	most := int64(math.Pow10(mostDigits))
	switch {
	case digits && secrets:
		return secretSpace{}, fmt.Errorf("%swant either --pin-digits or --secret-space", place(cmd))
	case digits && (s.digits < 1 || s.digits > mostDigits):
		return secretSpace{}, fmt.Errorf("%s--pin-digits: want 1 to %d", place(cmd), mostDigits)
	case secrets && (s.secrets < 2 || s.secrets > most):
		return secretSpace{}, fmt.Errorf("%s--secret-space: want 2 to %d; more than that nobody guesses", place(cmd), most)
	case digits:
		return secretSpace{int64(math.Pow10(s.digits)), s.digits}, nil
	}
	return secretSpace{secrets: s.secrets}, nil
}

func (s secretSpace) String() string {
	if s.digits > 0 {
		return "PIN of " + plural(s.digits, "digit")
	}
	return "secret out of " + thousands(int(s.secrets))
}

// A checkedLimits is what `lockout policy-check --json` says.
type checkedLimits struct {
	Accepted bool   `json:"accepted"`
	Profile  string `json:"profile"`
	Reason   string `json:"reason,omitempty"` // why not

	Limits   *limitsReport `json:"limits,omitempty"`
	Secret   *secretOdds   `json:"secret,omitempty"`
	Warnings []string      `json:"warnings"`

	cfg   lockout.Config
	space secretSpace
}

type limitsReport struct {
	Attempts  int         `json:"attempts"`
	Duration  int64       `json:"duration_seconds"`
	Daily     int         `json:"daily,omitempty"` // absent: not limited
	Sources   int         `json:"sources"`
	Locked    int64       `json:"locked_seconds"` // after that many
	DayLocked int64       `json:"locked_daily_seconds,omitempty"`
	Forgiven  int         `json:"forgiven"` // wrong guesses that a right login takes back, at most
	AtAccount guessCounts `json:"at_one_account"`
	AtSource  guessCounts `json:"from_one_source"`
}

// guessCounts are wrong guesses that get through, at most.
type guessCounts struct {
	Hour int64 `json:"hour"`
	Day  int64 `json:"day"`
	Week int64 `json:"week"`
	Year int64 `json:"year"`
}

const aYear = 365 * aDay

func (b guessBound) counts() guessCounts {
	return guessCounts{b.within(time.Hour), b.within(aDay), b.within(7 * aDay), b.within(aYear)}
}

// secretOdds are how long a secret stands that is drawn at random.
type secretOdds struct {
	Space  int64   `json:"space"`
	Day    float64 `json:"chance_in_a_day"`
	Year   float64 `json:"chance_in_a_year"`
	Half   int64   `json:"half_seconds"` // until the chance is one half, at the earliest; also on average
	All    int64   `json:"all_seconds"`  // until all are tried, at the earliest
	Source float64 `json:"accounts_a_day_from_one_source"`
}

func checkLimits(cfg lockout.Config, refusal string, space secretSpace) checkedLimits {
	c := checkedLimits{Accepted: refusal == "", Profile: cfg.Profile.String(), Reason: refusal, Warnings: []string{}, cfg: cfg, space: space}
	if !c.Accepted {
		return c
	}
	account, source := accountBound(cfg), sourceBound(cfg)
	seconds := int64(cfg.Duration / time.Second)
	c.Limits = &limitsReport{cfg.Attempts, seconds, cfg.Daily, cfg.Sources, seconds, 0, cfg.Attempts - 1, account.counts(), source.counts()}
	if cfg.Daily > 0 {
		c.Limits.DayLocked = int64(aDay / time.Second)
	}
	if n := space.secrets; n > 0 {
		c.Secret = &secretOdds{n, chance(account.within(aDay), n), chance(account.within(aYear), n),
			account.earliest(half(n)), account.earliest(n), float64(source.within(aDay)) / float64(n)}
		c.warn()
	}
	return c
}

// warn says when a secret is found within a year more likely than not, and what would help.
func (c *checkedLimits) warn() {
	if c.Secret.Year < 0.5 {
		return
	}
	advice := "longer ones or a lower --daily help"
	pins := lockout.Config{Profile: lockout.PIN}
	if err := pins.Check(); err == nil && (c.cfg.Daily == 0 || c.cfg.Daily > pins.Daily) {
		if p := chance(accountBound(pins).within(aYear), c.Secret.Space); p < 1 {
			advice = fmt.Sprintf("the profile %v, with %d guesses a day, makes that %s", lockout.PIN, pins.Daily, percent(p))
		} else {
			advice = fmt.Sprintf("it is too short also for the profile %v", lockout.PIN)
		}
	}
	c.Warnings = append(c.Warnings, fmt.Sprintf("within a year, guesses at one account find a random %v with a chance of %s; %s", c.space, percent(c.Secret.Year), advice))
}

func (c *checkedLimits) print(out io.Writer) error {
	w := &errWriter{out: out}
	if !c.Accepted {
		w.printf("refused: %s\n", c.Reason)
		return w.err
	}
	l := c.Limits
	daily := "no limit in 24h"
	if l.Daily > 0 {
		daily = fmt.Sprintf("%d in 24h", l.Daily)
	}
	w.printf("accepted: profile %s, %d wrong guesses in %s, %s; %s from one source in %s\n\n",
		c.Profile, l.Attempts, period(c.cfg.Duration), daily, thousands(l.Sources), period(c.cfg.Duration))
	t := table{columns: []string{"WRONG GUESSES AT MOST", "HOUR", "DAY", "WEEK", "YEAR"}}
	t.add(append([]string{"at one account"}, l.AtAccount.cells()...)...)
	t.add(append([]string{"from one source, at all accounts"}, l.AtSource.cells()...)...)
	w.table(t)
	w.printf("\nWhoever mistypes is locked out for %s after %d", period(c.cfg.Duration), l.Attempts)
	if l.Daily > 0 {
		w.printf(", for 24h after %d in a day", l.Daily)
	}
	w.printf(".\nGuesses of others lock an owner out as well, but not at a remembered device or in a known network:\neach of them has as many guesses again. Each right login gives back up to %d wrong ones", l.Forgiven)
	if l.Daily > 0 {
		w.printf(",\nbut none of those in 24h")
	}
	w.printf(".\n")
	if o := c.Secret; o != nil {
		w.printf("\nA random %v stands against somebody who guesses day and night at one account:\n", c.space)
		w.printf("  found within a day    %s\n  found within a year   %s\n", percent(o.Day), percent(o.Year))
		w.printf("  found on average      after %s at the earliest\n  all are tried         after %s at the earliest\n", span(o.Half), span(o.All))
		w.printf("One source that guesses at many accounts opens %s of them a day.\n", digits(o.Source))
	}
	if len(c.Warnings) > 0 {
		w.printf("\n")
	}
	for _, text := range c.Warnings {
		w.printf("warning: %s\n", text)
	}
	return w.err
}

func (g guessCounts) cells() (cells []string) {
	for _, n := range []int64{g.Hour, g.Day, g.Week, g.Year} {
		cells = append(cells, thousands(int(n)))
	}
	return cells
}

// percent writes a chance with two digits that say something. What is not certain is not 100 %.
func percent(p float64) string {
	if p < 1 && p > 0.99 {
		return "over 99 %"
	}
	return digits(100*p) + " %"
}

// digits writes a number with two digits that say something, 37 or 0.0048, and no more than six after the point.
func digits(x float64) string {
	const places = 6
	if x > 0 && x < math.Pow10(-places) {
		return "less than " + strconv.FormatFloat(math.Pow10(-places), 'f', places, 64)
	}
	if x >= 10 {
		return thousands(int(math.Round(x)))
	}
	n := 0
	for n < places && x > 0 && x*math.Pow10(n) < 10 {
		n++
	}
	s := strconv.FormatFloat(x, 'f', n, 64)
	if n == 0 {
		return s
	}
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// span writes a long time in its largest unit, and not as longer than it is.
func span(seconds int64) string {
	const minute, hour, day, year = 60, 3600, 24 * 3600, 365 * 24 * 3600
	switch {
	case seconds == 0:
		return "no time"
	case seconds < minute:
		return plural(int(seconds), "second")
	case seconds < 2*hour:
		return plural(int(seconds/minute), "minute")
	case seconds < 2*day:
		return plural(int(seconds/hour), "hour")
	case seconds < 2*year:
		return plural(int(seconds/day), "day")
	case seconds < 10*year:
		return digits(math.Floor(10*float64(seconds)/year)/10) + " years"
	}
	return plural(int(seconds/year), "year")
}
