package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/carrel-project/carrel/internal/nearest"
	"github.com/carrel-project/carrel/lockout"
)

func newLockout() *cobra.Command {
	return group(&cobra.Command{
		Use:   "lockout",
		Short: "Show, end and set locks after wrong guesses, and check the limits",
		Long: `The program in which people log in limits wrong guesses at passwords and PINs with package lockout, and
locks an account or a source for a while when they are used up. These commands look at its locks, end one
early, or lock an account by hand. What is counted is kept under keyed hashes: nobody can list whose account
is locked, only ask about one that they name.`,
		Example: `  carrel lockout status --db library.db
  carrel lockout status --db library.db --id 6f9619ff-8b86-4d01-b42d-00cf4fc964ff
  carrel lockout unlock --db library.db --source 192.0.2.17 --actor staff-17 --reason "reading room was locked out"
  carrel lockout policy-check --profile pin --pin-digits 4`,
	}, newLockoutStatus(), newLockoutUnlock(), newLockoutLock(), newLockoutPolicyCheck())
}

// limitFlags are the limits of guesses, as the login program has them in its lockout.Config.
type limitFlags struct {
	profile                  string
	attempts, daily, sources int
	duration                 time.Duration
}

func (l *limitFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&l.profile, "profile", lockout.Alma.String(), "bounds and defaults of the limits: "+strings.Join(profileWords(), ", "))
	f.IntVar(&l.attempts, "attempts", 0, "wrong guesses at one account (default the profile's)")
	f.DurationVar(&l.duration, "duration", 0, "in which they are counted and for which it is then locked, as in 15m (default the profile's)")
	f.IntVar(&l.daily, "daily", 0, "wrong guesses at one account in 24 hours (default the profile's)")
	cmd.SetFlagErrorFunc(lockoutFlagError)
	f.IntVar(&l.sources, "sources", 0, "wrong guesses from one source in the duration, at all accounts (default 100)")
}

// limitNames are the flags of limitFlags.
var limitNames = []string{"profile", "attempts", "duration", "daily", "sources"}

// lockoutFlagError is flagError in the words of these commands. It never says what a value was, either.
func lockoutFlagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "" {
		switch name := unknown.GetSpecifiedName(); {
		case name == "source" && cmd.Name() == "lock":
			return fmt.Errorf("%s--source: a source cannot be locked; refuse it in the web server or the firewall", place(cmd))
		case name == "login-file" && cmd.Name() == "lock":
			return fmt.Errorf("%s--login-file: a login without an account cannot be locked; name a patron's account with --identifier-file, that of a member of staff with --id and --staff", place(cmd))
		case slices.Contains(limitNames, name):
			return fmt.Errorf("%s--%s: limits make no difference here; they are those of the login program", place(cmd), name)
		}
	}
	var value *pflag.InvalidValueError
	if errors.As(err, &value) {
		switch f := value.GetFlag(); f.Value.Type() {
		case "duration":
			return fmt.Errorf("%s--%s: want a number and a unit, as in %s", place(cmd), f.Name, map[bool]string{true: "2h", false: "15m"}[f.Name == "for"])
		case "int", "int64":
			return fmt.Errorf("%s--%s: want a whole number", place(cmd), f.Name)
		}
	}
	return flagError(cmd, err)
}

func profileWords() (list []string) {
	for _, p := range lockout.Profiles() {
		list = append(list, p.String())
	}
	return list
}

// A refusedLimits is limits that the profile does not allow.
type refusedLimits struct{ why string }

func (e refusedLimits) Error() string { return e.why }

// config returns the limits with what they leave to the profile filled in. The error is a refusedLimits when they are plain and
// only not allowed.
func (l *limitFlags) config(cmd *cobra.Command) (cfg lockout.Config, err error) {
	if cfg.Profile, err = lockout.ParseProfile(l.profile); err != nil {
		return cfg, fmt.Errorf("%s--profile%s: want one of %s%s", place(cmd), naming(l.profile), strings.Join(profileWords(), ", "), nearest.Hint(l.profile, profileWords()))
	}
	cfg.Attempts, cfg.Duration, cfg.Daily, cfg.Sources = l.attempts, l.duration, l.daily, l.sources
	for _, name := range []string{"attempts", "duration", "daily", "sources"} {
		// Zero is what a Config has that says nothing: here somebody said it, and did not mean that.
		if f := cmd.Flags().Lookup(name); f.Changed && (f.Value.String() == "0" || f.Value.String() == "0s") {
			return cfg, refusedLimits{fmt.Sprintf("--%s is 0; leave it out for what the profile takes", name)}
		}
	}
	if err := cfg.Check(); err != nil {
		return cfg, refusedLimits{asFlags(err)}
	}
	return cfg, nil
}

// asFlags says what is wrong with a lockout.Config in the words of the flags.
func asFlags(err error) string {
	return shorten.Replace(strings.NewReplacer("lockout: ", "", "Config.Attempts", "--attempts", "Config.Duration", "--duration",
		"Config.Daily", "--daily", "Config.Sources", "--sources").Replace(err.Error()))
}

// shorten writes 24h0m0s as 24h and 15m0s as 15m.
var shorten = strings.NewReplacer("h0m0s", "h", "m0s", "m")

// period writes a duration for people.
func period(d time.Duration) string { return cmp.Or(shorten.Replace(d.String()), "0s") }
