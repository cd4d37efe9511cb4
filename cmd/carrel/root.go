package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"

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
	}, newDemo(), newPolicy(), newExplain(), newImport(), newSweep(), newWorker(), newMigrate(), newDoctor(), newResidue(), newHold(), newPatron(), newRights(), newKeys(), newBackup(), newRestore(), newLog(), newLockout(), newAccess(), newVersion())
	root.Version = versionText()
	root.SetVersionTemplate("{{.Version}}\n")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// group makes a command that only holds others.
func group(c *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	c.AddCommand(subs...)
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return noCommand(cmd, args[0])
	}
	return c
}

// noCommand says that a group has no command of that name.
func noCommand(cmd *cobra.Command, name string) error {
	var known []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			known = append(known, sub.Name())
		}
	}
	return fmt.Errorf("%sno command %q%s", place(cmd), name, nearest.Hint(name, known))
}

// place begins an error with the command it is about: run says "carrel: " before it.
func place(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return ""
	}
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ") + ": "
}

// noArgs refuses arguments without repeating them: one may be a borrower that lost its flag.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%stakes no argument besides its flags, got %d", place(cmd), len(args))
	}
	return nil
}

// flagError says what is wrong with a flag and never what its value was: -b123 would name a borrower.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var value *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		return fmt.Errorf("%sno flag -%.1s; see %s --help", place(cmd), unknown.GetSpecifiedShortnames(), cmd.CommandPath())
	case errors.As(err, &unknown):
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		name, hint := unknown.GetSpecifiedName(), ""
		if w := nearest.Word(name, known); w != "" {
			hint = fmt.Sprintf("; did you mean \"--%s\"?", w)
		}
		return fmt.Errorf("%sno flag --%s%s", place(cmd), name, hint)
	case errors.As(err, &value):
		return fmt.Errorf("%s--%s is not a good %s", place(cmd), value.GetFlag().Name, value.GetFlag().Value.Type())
	}
	return fmt.Errorf("%s%v", place(cmd), err)
}

// needed returns an error when a flag that a command cannot do without is empty.
func needed(cmd *cobra.Command, flags ...string) error {
	for _, name := range flags {
		if f := cmd.Flags().Lookup(name); f.Value.String() == "" {
			return fmt.Errorf("%s--%s is missing: %s", place(cmd), name, f.Usage)
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
		if unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, s)
}
