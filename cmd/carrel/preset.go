package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/internal/nearest"
)

// presets are files that come with carrel, for people to begin with.
type presets struct {
	names []string
	text  func(name string) ([]byte, error)
	title func(text []byte) (string, error)
	usual string // written when none is named; "": one has to be named
}

// init completes a command that writes one of them.
func (p presets) init(cmd *cobra.Command, what string) *cobra.Command {
	var preset, out string
	var list bool
	cmd.Args = noArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case list:
			return p.list(cmd.OutOrStdout())
		case preset == "":
			return fmt.Errorf("%s--preset is missing; there are %s", place(cmd), strings.Join(p.names, ", "))
		case !slices.Contains(p.names, preset):
			return fmt.Errorf("%sno preset %q%s; there are %s", place(cmd), preset, nearest.Hint(preset, p.names), strings.Join(p.names, ", "))
		}
		text, err := p.text(preset)
		if err != nil {
			return err
		}
		if out == "" || out == "-" {
			_, err = cmd.OutOrStdout().Write(text)
			return err
		}
		return writeNew(out, text, 0o644)
	}
	cmd.Flags().StringVar(&preset, "preset", p.usual, "name of "+what+" that comes with carrel")
	cmd.Flags().StringVar(&out, "out", "", "file to write, which must not exist (default standard output)")
	cmd.Flags().BoolVar(&list, "list", false, "list the presets")
	return cmd
}

func (p presets) list(out io.Writer) error {
	t := table{columns: []string{"PRESET", "TITLE"}}
	for _, name := range p.names {
		text, err := p.text(name)
		if err != nil {
			return err
		}
		title, err := p.title(text)
		if err != nil {
			return fileProblem("preset "+name, err)
		}
		t.add(name, title)
	}
	return t.print(out)
}
