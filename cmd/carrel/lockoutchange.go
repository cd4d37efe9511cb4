package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/lockout"
)

func newLockoutUnlock() *cobra.Command {
	var f lockoutFlags
	var why reasonFlag
	cmd := &cobra.Command{
		Use:   "unlock --db DSN (--id ID | --identifier-file FILE | --login-file FILE | --source ADDR) --actor A --reason TEXT",
		Short: "End a lock, and forget the wrong guesses",
		Long: `Forgets the wrong guesses at an account, at all its devices, or from a source, and ends what staff locked. It
says how many were kept there, at no particular device, also those that no longer counted. Who does it and
why goes to the audit trail first. A login program that has just refused somebody notices it a second later.
When nothing was counted or locked there, nothing is done, and no unlock is recorded.

--identifier-file takes --role and --purpose, too, as in carrel patron find. The access file decides about the
look-up of an identifier, and not about --id, --login-file and --source. With --login-file nobody is looked
up: what was counted while the login led to no account is forgotten, and nothing of an account.

The reason is sealed with the patron's data when it is about a patron. About staff, a login without an
account and a source it is kept as it is: name nobody in it.

Exit status: 0 unlocked, 1 nothing was counted or locked there, 2 misuse or failure.`,
		Example: `  carrel lockout unlock --db library.db --id 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --actor staff-17 --reason "showed the card at the desk"
  carrel lockout unlock --db library.db --source 192.0.2.17 --actor staff-17 --reason "reading room was locked out"
  echo 99999395390 | carrel lockout unlock --db library.db --identifier-file - --actor staff-17 --role circulation --purpose checkout --reason "showed the card at the desk"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.change(cmd, &why, func(o *openedLockout, by audit.Event) error { return f.unlock(cmd, o, by, why.text) })
		},
	}
	f.register(cmd, true)
	why.register(cmd)
	return cmd
}

// widest are limits by which everything counts that counts by any: a period of 24 hours.
var widest = lockout.Config{Profile: lockout.NIST, Duration: aDay}

// unlock unlocks, if there is something to unlock.
func (f *lockoutFlags) unlock(cmd *cobra.Command, o *openedLockout, by audit.Event, why string) error {
	s, err := o.status(cmd.Context())
	if err != nil {
		return err
	}
	if s.Until.IsZero() && max(s.Failed, s.Daily, s.Lanes) == 0 {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "nothing was counted or locked there; %s\n", f.elsewhere()); err != nil {
			return err
		}
		return errFound
	}
	o.recorded = true
	if o.source.IsValid() {
		err = o.UnlockSource(cmd.Context(), by, o.source, why)
	} else {
		err = o.Unlock(cmd.Context(), by, o.account, why)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "unlocked: %s\n", forgotten(s))
	return err
}

// forgotten says what an unlock made forgotten.
func forgotten(s lockout.Status) string {
	var done []string
	if s.Hold {
		done = append(done, "the lock by staff ended")
	}
	if n := max(s.Failed, s.Daily); n > 0 || len(done) == 0 && s.Lanes == 0 {
		done = append(done, pluralOf(n, "wrong guess", "wrong guesses")+" forgotten")
	}
	if s.Lanes > 0 {
		done = append(done, "those in "+pluralOf(s.Lanes, "place of its own", "places of their own")+" forgotten")
	}
	return strings.Join(done, ", ")
}

// elsewhere says where else what was not found may be.
func (f *lockoutFlags) elsewhere() string {
	place := "if guesses are counted in Redis, name it with --store and --prefix"
	if f.at() != "" {
		place = "are --store and --prefix those of the login program?"
	}
	switch {
	case f.whom.loginFile != "":
		return "of a login that leads to an account, unlock the account, with --identifier-file; " + place
	case f.whom.id != "" && !f.whom.staff:
		return place + "; for the account of a member of staff add --staff"
	}
	return place
}

func newLockoutLock() *cobra.Command {
	const least, most = 3 * time.Minute, 24 * time.Hour
	var f lockoutFlags
	var why reasonFlag
	var lasts time.Duration
	cmd := &cobra.Command{
		Use:   "lock --db DSN (--id ID | --identifier-file FILE) --for DURATION --actor A --reason TEXT",
		Short: "Lock an account for a while, at all its devices",
		Long: `Lets nobody log in to an account, from no device, until the time is over or somebody unlocks it: for the
hours after a card was stolen or a password was read out. It takes 3 minutes to 24 hours; whoever shall stay
out longer needs a block in the library system. Called again, it begins anew. Who does it and why goes to
the audit trail first, the reason as in carrel lockout unlock.

The access file decides about the look-up of an identifier, and not about --id. A login that leads to no
account and a source cannot be locked.`,
		Example: `  carrel lockout lock --db library.db --id 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --for 24h --actor staff-17 --reason "card was stolen"
  carrel lockout lock --db library.db --id staff-9 --staff --for 2h --actor systems-2 --reason "case 2026-114"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lasts < least || lasts > most {
				return fmt.Errorf("%s--for: want %s to %s, as in 2h", place(cmd), period(least), period(most))
			}
			return f.change(cmd, &why, func(o *openedLockout, by audit.Event) error {
				o.recorded = true
				if err := o.Lock(cmd.Context(), by, o.account, why.text, lasts); err != nil {
					return err
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "locked")
				return err
			})
		},
	}
	f.register(cmd, false)
	why.register(cmd)
	cmd.Flags().DurationVar(&lasts, "for", 0, "how long, from 3m to 24h")
	return cmd
}

// A reasonFlag is why somebody changes a lock.
type reasonFlag struct{ text string }

// maxReason is how long a text the trail takes.
const maxReason = 1024

func (r *reasonFlag) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.text, "reason", "", "why, for the audit trail")
}

// check refuses what the trail would, before anything is opened.
func (r *reasonFlag) check(cmd *cobra.Command) error {
	r.text = strings.TrimSpace(r.text)
	if err := needed(cmd, "reason"); err != nil {
		return err
	}
	if len(r.text) > maxReason || !plain(r.text) || oneLine(r.text) != r.text {
		return fmt.Errorf("%s--reason: want a text of one line in UTF-8, at most %d bytes", place(cmd), maxReason)
	}
	return nil
}

// change does something to a lock, by whom the flags name.
func (f *lockoutFlags) change(cmd *cobra.Command, why *reasonFlag, do func(*openedLockout, audit.Event) error) error {
	if err := why.check(cmd); err != nil {
		return err
	}
	who, named, err := f.whom.read(cmd)
	if err != nil {
		return err
	}
	if !named {
		return f.whom.missing(cmd)
	}
	// The limits do not matter: a hold has none, and forgetting forgets all.
	return f.open(cmd, who, widest, true, func(o *openedLockout) error {
		return do(o, audit.Event{Actor: f.actor, Role: f.role, Purpose: f.purpose, Channel: audit.CLI})
	})
}
