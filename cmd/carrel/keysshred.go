package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

func newKeysShred() *cobra.Command {
	var u upkeepFlags
	var id string
	cmd := &cobra.Command{
		Use:   "shred --db DSN --id ID --actor A --approval REF",
		Short: "Destroy the key of one patron, for good",
		Long: `Destroys the key of a patron: nothing that is sealed about them can be opened again, here or in a copy, and nothing in the audit trail can be
told to be about them. It is recorded first, and a tombstone is written beside the keyring, so that a restored backup does not bring them back. Nothing
asks whether something is owed or on loan, and the row that nobody can read stays.`,
		Example: `  carrel keys shred --db library.db --id 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --actor dpo --approval "erasure 2026-31"`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "id", "approval"); err != nil {
				return err
			}
			who, err := patron.ParseID(id)
			if err != nil {
				return fmt.Errorf("%s--id: not an ID, as carrel patron find prints it", place(cmd))
			}
			return u.with(cmd, func(_ *database, _ *crypto.Keyring, t *audit.Trail) error {
				if err := t.Shred(cmd.Context(), u.by(), who.Subject()); err != nil {
					return keyProblem(trailProblem(err))
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "destroyed")
				return err
			})
		},
	}
	u.register(cmd, "reference under which the erasure was decided")
	cmd.Flags().StringVar(&id, "id", "", "the patron's ID, as patron find prints it")
	return cmd
}
