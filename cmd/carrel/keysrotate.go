package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

func newKeysRotate() *cobra.Command {
	var dsn, index string
	var in trailFlags
	var due, asJSON bool
	cmd := &cobra.Command{
		Use:   "rotate --db DSN",
		Short: "Begin a new epoch, and end those that are older than the backups",
		Long: `Draws new keys for an epoch, wraps the key of every patron under it and makes the tokens anew by which records name their
borrowers. What was sealed is not touched, so this takes seconds. Then the keys of epochs are destroyed that ended longer ago than the horizon
(carrel keys schedule): backups of then can be opened by nobody any more. It can be interrupted and run again: it goes on with the epoch that was
begun. Other programs may work on the database meanwhile; those that write wait while tokens are made.

With --due it does only what the schedule asks for, most nights nothing: run it every night. With --index it draws a new key for an index instead
and rewrites the tokens of all patrons.`,
		Example: `  carrel keys rotate --db library.db --keys /etc/carrel/keys
  carrel keys rotate --db library.db --due
  carrel keys rotate --db library.db --index identifier`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			if due && index != "" {
				return fmt.Errorf("%s--due and --index do not go together: the schedule is of epochs", place(cmd))
			}
			return withDatabase(cmd.Context(), dsn, readWrite, func(d *database) error {
				k, err := d.openKeys(cmd.Context(), in.keys)
				if err != nil {
					return err
				}
				return d.withTrail(cmd.Context(), k, in.anchors, func(t *audit.Trail) error {
					if index != "" {
						return rotateIndex(cmd, d, k, t, in.actor, index, asJSON)
					}
					return rotateEpoch(cmd, t, in.actor, due, asJSON)
				})
			})
		},
	}
	addDBFlag(cmd, &dsn)
	cmd.Flags().StringVar(&index, "index", "", "rotate the key of this index instead (identifier)")
	cmd.Flags().BoolVar(&due, "due", false, "do only what the schedule asks for")
	in.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A rotationReport is what `keys rotate --json` says.
type rotationReport struct {
	Due       bool     `json:"due"` // false: nothing was to be done
	Epoch     uint32   `json:"epoch"`
	Rewrapped int      `json:"rewrapped"`
	Renewed   int      `json:"renewed"`
	Shredded  int      `json:"shredded"`
	Ended     []uint32 `json:"ended"`
}

func rotateEpoch(cmd *cobra.Command, t *audit.Trail, actor string, due, asJSON bool) error {
	p := newProgress(cmd.ErrOrStderr(), "rewrapping keys", 0)
	rotate := t.Rotate
	if due {
		rotate = t.Tend
	}
	r, err := rotate(cmd.Context(), byCommand(actor, "systems"), func(r crypto.Rotation) { p.set(int64(r.Rewrapped), thousands(r.Rewrapped)+" keys") })
	p.end()
	switch {
	case errors.Is(err, context.Canceled):
		return interruption("keys rotate: interrupted; run it again and it goes on")
	case errors.Is(err, crypto.ErrNotAuthentic):
		return fmt.Errorf("keys rotate: %s cannot be opened and were left as they are; the others are in epoch %d", plural(r.Unopened, "key"), r.Epoch)
	case err != nil:
		return keyProblem(err)
	}
	if asJSON {
		return printJSON(cmd, rotationReport{r.Epoch > 0, r.Epoch, r.Rewrapped, r.Renewed, r.Shredded, append([]uint32{}, r.Ended...)})
	}
	if r.Epoch == 0 {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "nothing is due")
		return err
	}
	more := ""
	if r.Renewed > 0 {
		more += fmt.Sprintf(", %s renewed", plural(r.Renewed, "token"))
	}
	if r.Shredded > 0 {
		more += fmt.Sprintf("; %s of forgotten patrons had come back, and were deleted", plural(r.Shredded, "key"))
	}
	if n := len(r.Ended); n > 0 {
		more += fmt.Sprintf("; the keys of %s that ended before the horizon were destroyed", plural(n, "epoch"))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "epoch %d: %s rewrapped%s\n", r.Epoch, plural(r.Rewrapped, "key"), more)
	return err
}
