package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/patron"
)

// A demandCommand is a command that does one thing for one patron, and says that it is done.
type demandCommand struct {
	name, short, long, example string
	done                       string // is printed
	approved                   bool   // it wants an approval
	quietly                    bool   // no event says whom it was looked up for
	do                         func(cmd *cobra.Command, o *openedOffice, r *rightsFlags, id patron.ID) error
}

func (d demandCommand) command() *cobra.Command {
	var r rightsFlags
	var who whoFlags
	cmd := &cobra.Command{
		Use:     d.name + " --db DSN (--id ID | --identifier-file FILE) --approval REF --actor A --role R --purpose P",
		Short:   d.short,
		Long:    d.long,
		Example: "  carrel rights " + d.name + " --db library.db --id 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --approval \"" + d.example + "\" --actor staff-3 --role patron-services --purpose legal",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.approved {
				if err := needed(cmd, "approval"); err != nil {
					return err
				}
			}
			find := who.find
			if d.quietly {
				find = who.findToErase
			}
			err := r.office(cmd, func(o *openedOffice) error {
				id, err := find(cmd, &r.patronFlags, o.dir)
				if err != nil {
					return err
				}
				return d.do(cmd, o, &r, id)
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), d.done)
			return err
		},
	}
	r.register(cmd, "reference of the patron's demand")
	who.register(cmd)
	return cmd
}

func newRightsRestrict() *cobra.Command {
	return demandCommand{
		name: "restrict", short: "Keep a patron's record from everybody who has not the right to restrict",
		long: `Keeps a patron's record from everybody who has not the right to restrict, as the patron may demand while it is disputed whether it is right or lawful, or because they need it
for a claim of their own (article 18). It is stored; it is not shown, exported or changed but by those who may restrict, it is not erased, and no sweep unlinks their records. The patron goes on to see it.`,
		example: "demand 32", done: "restricted",
		do: func(cmd *cobra.Command, o *openedOffice, r *rightsFlags, id patron.ID) error {
			return o.Restrict(cmd.Context(), r.call(), id, r.request())
		},
	}.command()
}

func newRightsLift() *cobra.Command {
	return demandCommand{
		name: "lift", short: "End a restriction",
		long:    "Ends what carrel rights restrict has begun. The patron is to be told before (article 18, 3).",
		example: "demand 32", done: "lifted",
		do: func(cmd *cobra.Command, o *openedOffice, r *rightsFlags, id patron.ID) error {
			return o.Lift(cmd.Context(), r.call(), id, r.request())
		},
	}.command()
}

func newRightsWithdraw() *cobra.Command {
	return demandCommand{
		name: "withdraw", short: "Take back a demand for erasure that waits",
		long: `Takes the mark from a patron whose erasure was asked for with --partial and waits until nothing is owed any more: they do not want to be erased after all. What was erased
stays erased.`,
		example: "letter of 3 May", done: "withdrawn", approved: true, quietly: true,
		do: func(cmd *cobra.Command, o *openedOffice, r *rightsFlags, id patron.ID) error {
			return o.Withdraw(cmd.Context(), r.call(), id, r.request())
		},
	}.command()
}
