package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/carrel-project/carrel/internal/nearest"
)

func newRoot() *cobra.Command {
	root := group(&cobra.Command{
		Use:   "carrel",
		Short: "Forget on time who borrowed what",
		Long: `Carrel applies a library's retention policy to loans, requests, resource sharing, fees and notices:
what is due is unlinked from its borrower for good, what must stay says why and until when.

Exit status: 0 good, 1 found something, 2 misuse, bad input or failure, 130 interrupted.`,
		Example: `  carrel demo
  carrel policy init --preset strict --out policy.yaml
  carrel policy check policy.yaml
  carrel import --db library.db --patrons patrons.csv --loans loans.csv.gz --fees fees.csv
  carrel sweep --db library.db --policy policy.yaml --dry-run`,
	}, newDemo(), newPolicy(), newExplain(), newImport(), newSweep(), newHold(), newVersion())
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(flagError)
	return root
}

// group makes a command that only holds others.
func group(c *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	c.AddCommand(subs...)
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(cmd *cobra.Command, args []string) error {
		var known []string
		for _, sub := range subs {
			known = append(known, sub.Name())
		}
		if len(args) == 0 && !cmd.HasParent() {
			return cmd.Help()
		}
		if len(args) == 0 {
			return fmt.Errorf("%s: want one of its commands: %s", cmd.CommandPath(), strings.Join(known, ", "))
		}
		return fmt.Errorf("%s: no command %q%s", cmd.CommandPath(), args[0], nearest.Hint(args[0], known))
	}
	return c
}

// noArgs refuses arguments without repeating them: one may be a borrower that lost its flag.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s: takes no argument besides its flags, got %d", cmd.CommandPath(), len(args))
	}
	return nil
}

// flagError says what is wrong with a flag and never what its value was: -b123 would name a borrower.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var value *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		return fmt.Errorf("%s: no flag -%.1s; see %[1]s --help", cmd.CommandPath(), unknown.GetSpecifiedShortnames())
	case errors.As(err, &unknown):
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		name := unknown.GetSpecifiedName()
		return fmt.Errorf("%s: no flag --%s%s", cmd.CommandPath(), name, nearest.Hint(name, known))
	case errors.As(err, &value):
		return fmt.Errorf("%s: --%s is not a good %s", cmd.CommandPath(), value.GetFlag().Name, value.GetFlag().Value.Type())
	}
	return fmt.Errorf("%s: %v", cmd.CommandPath(), err)
}

// needed returns an error when a flag that a command cannot do without is empty.
func needed(cmd *cobra.Command, flags ...string) error {
	for _, name := range flags {
		if f := cmd.Flags().Lookup(name); f.Value.String() == "" {
			return fmt.Errorf("%s: --%s is missing: %s", cmd.CommandPath(), name, f.Usage)
		}
	}
	return nil
}

// reason returns what is wrong with a file without repeating its name, which the caller says in its own way.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// oneLine keeps a message on its line, whatever a file name or a library put into it.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
