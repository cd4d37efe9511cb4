package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

func newLog() *cobra.Command {
	return group(&cobra.Command{
		Use:   "log",
		Short: "Verify, read, prune and export the audit trail",
		Long: `The audit trail says who looked at, changed or exported whose data, who logged in, and what was swept,
pruned or shredded. It is a part of the database, and nobody can change it unnoticed: its checkpoints are
signed and appended to an anchor, a file that belongs where the database's owner can append but not
overwrite (--anchor or CARREL_ANCHOR).`,
		Example: `  carrel log verify --db library.db --anchor /mnt/anchor/library
  carrel log report views --db library.db --identifier-file - --actor dpo --role reviewer --purpose review
  carrel log prune --db library.db --keep views=P1Y --keep logins=P6M --actor dpo --approval "retention 2026"`,
	}, newLogVerify(), newLogReport(), newLogPrune(), newLogHold(), newLogExport(), newLogStatus(), newLogKey(), newLogRestored(), newLogAnchor())
}

func newLogKey() *cobra.Command {
	var dsn, keys string
	cmd := &cobra.Command{
		Use:   "key --db DSN",
		Short: "Print the public key by which anybody can check the trail's checkpoints",
		Long: `Prints the verifier key of the trail's checkpoints, in the form of golang.org/x/mod/sumdb/note. It is no
secret: give it to the auditor before it is needed, so that nobody can hand them another one.`,
		Example: `  carrel log key --db library.db`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			return withDatabase(cmd.Context(), dsn, readOnly, func(d *database) error {
				k, err := d.openKeys(cmd.Context(), keys)
				if err != nil {
					return err
				}
				text, err := audit.VerifierKey(cmd.Context(), k)
				if err != nil {
					return keyProblem(err)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
				return err
			})
		},
	}
	addDBFlag(cmd, &dsn)
	addKeysFlag(cmd, &keys)
	return cmd
}

// upkeepFlags are what commands have that write to the trail itself.
type upkeepFlags struct {
	dsn, keys, actor, approval string
	anchors                    []string
}

func (u *upkeepFlags) register(cmd *cobra.Command, approval string) {
	addDBFlag(cmd, &u.dsn)
	addKeysFlag(cmd, &u.keys)
	addAnchorFlag(cmd, &u.anchors)
	cmd.Flags().StringVar(&u.actor, "actor", "", "who does it: the reference of a member of staff, no name")
	if approval != "" {
		cmd.Flags().StringVar(&u.approval, "approval", "", approval)
	}
}

func (u *upkeepFlags) by() audit.Event {
	return audit.Event{Time: time.Now(), Outcome: audit.Done, Actor: u.actor, Approval: u.approval, Channel: audit.CLI}
}

// open opens the database and the keyring that the flags name. Errors of do begin with the command.
func (u *upkeepFlags) open(cmd *cobra.Command, do func(*database, *crypto.Keyring) error) error {
	if err := needed(cmd, "db", "actor"); err != nil {
		return err
	}
	return withDatabase(cmd.Context(), u.dsn, readWrite, func(d *database) error {
		k, err := d.openKeys(cmd.Context(), u.keys)
		if err != nil {
			return err
		}
		err = do(d, k)
		if err != nil && cmd.Context().Err() != nil {
			return interruption(place(cmd) + "interrupted; run it again and it goes on")
		}
		return placed(cmd, err)
	})
}

// placed begins an error with the command it is about, unless it does so already.
func placed(cmd *cobra.Command, err error) error {
	if err == nil || errors.Is(err, errFound) || strings.HasPrefix(err.Error(), place(cmd)) {
		return err
	}
	return rewordedError{place(cmd) + err.Error(), err}
}

// with opens the trail that the flags name.
func (u *upkeepFlags) with(cmd *cobra.Command, do func(*database, *crypto.Keyring, *audit.Trail) error) error {
	return u.open(cmd, func(d *database, k *crypto.Keyring) error {
		return d.withTrail(cmd.Context(), k, u.anchors, func(t *audit.Trail) error { return do(d, k, t) })
	})
}

func newLogRestored() *cobra.Command {
	var u upkeepFlags
	cmd := &cobra.Command{
		Use:   "restored --db DSN --actor A --approval REF",
		Short: "Say in the trail that a part of it was lost, so that it goes on",
		Long: `After the database was restored from a backup, its trail lacks entries that the anchor knows of, and no
checkpoint is signed over the gap. This records the gap, with who said so and under which reference, and
the trail goes on. carrel log verify names the gap for ever; its --known says that you know of it.`,
		Example: `  carrel log restored --db library.db --actor systems-2 --approval "incident 2026-7"`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "approval"); err != nil {
				return err
			}
			return u.with(cmd, func(_ *database, _ *crypto.Keyring, t *audit.Trail) error {
				lost, err := t.Restore(cmd.Context(), u.by())
				if err != nil {
					return trailProblem(err)
				}
				text := "Nothing is lost: the trail has all that the anchor knows of.\n"
				if lost.To > lost.From {
					text = fmt.Sprintf("Recorded: the entries %d to %d are lost. For carrel log verify: --known %d-%d\n", lost.From, lost.To-1, lost.From, lost.To)
				}
				_, err = fmt.Fprint(cmd.OutOrStdout(), text)
				return err
			})
		},
	}
	u.register(cmd, "reference under which the loss is documented")
	return cmd
}
