package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

func newLogAnchor() *cobra.Command {
	var u upkeepFlags
	var begin bool
	cmd := &cobra.Command{
		Use:   "anchor --db DSN --actor A --approval REF --new",
		Short: "Begin a new anchor for a trail that has one, or had",
		Long: `Commands that write to the trail refuse an anchor that is not there, because it may be on a share that is
not mounted, or misspelt. This writes the present checkpoint to a new file, and records that in the trail,
with who did it and under which reference. What came before is proved by the old anchor alone: keep it.`,
		Example: `  carrel log anchor --db library.db --actor systems-2 --approval "incident 2026-7" --anchor /mnt/new/library --new`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db", "actor", "approval"); err != nil {
				return err
			}
			if !begin {
				return fmt.Errorf("%s--new is missing: say that a new anchor is to begin", place(cmd))
			}
			return u.withNewAnchor(cmd, func(d *database, _ *crypto.Keyring, t *audit.Trail) error {
				e := u.by()
				e.Action = audit.NewAnchor
				return trailProblem(t.Record(cmd.Context(), e))
			})
		},
	}
	u.register(cmd, "reference under which it is documented")
	cmd.Flags().BoolVar(&begin, "new", false, "begin a new anchor")
	return cmd
}

// withNewAnchor is with for anchors of which one at least is not there yet.
func (u *upkeepFlags) withNewAnchor(cmd *cobra.Command, do func(*database, *crypto.Keyring, *audit.Trail) error) error {
	return u.open(cmd, func(d *database, k *crypto.Keyring) error {
		paths, err := d.anchorPaths(u.anchors)
		if err != nil {
			return err
		}
		var begun, there []string
		for _, path := range paths {
			if firstWithout([]string{path}) != "" {
				begun = append(begun, path)
			} else {
				there = append(there, path)
			}
		}
		if len(begun) == 0 {
			return fmt.Errorf("anchor %s: is there already; carrel log verify checks it", there[0])
		}
		if err := d.withAnchors(cmd.Context(), k, u.anchors, func(t *audit.Trail) error { return do(d, k, t) }); err != nil {
			return err
		}
		for _, path := range begun {
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "begun: %s\n", oneLine(path)); err != nil {
				return err
			}
		}
		return nil
	})
}
