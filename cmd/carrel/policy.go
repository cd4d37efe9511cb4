package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/anonymize"
)

func newPolicy() *cobra.Command {
	return group(&cobra.Command{
		Use:   "policy",
		Short: "Check a retention policy or begin one",
		Example: `  carrel policy init --list
  carrel policy init --preset strict --out policy.yaml
  carrel policy check policy.yaml`,
	}, newPolicyCheck(), newPolicyInit())
}

// maxPolicy bounds what is read as a policy: a larger file is something else, named by mistake.
const maxPolicy = 8 << 20

// readPolicy reads and validates a policy file; "-" is standard input.
func readPolicy(cmd *cobra.Command, file string) (*anonymize.Policy, error) {
	data, err := readFile(cmd, file, maxPolicy)
	if err != nil {
		return nil, err
	}
	p, err := anonymize.ParsePolicy(data)
	if err != nil {
		return nil, fileProblem(file, err)
	}
	return p, nil
}

// readFile reads a file that a person wrote; "-" is standard input.
func readFile(cmd *cobra.Command, file string, limit int64) ([]byte, error) {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := openFile(cmd.Context(), file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = interruptible{cmd.Context(), f}
	}
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", file, reason(err))
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("%s: is larger than %d MiB; it cannot be what it should be", file, limit>>20)
	}
	return data, nil
}

// A checkedPolicy is what `policy check --json` says of one file.
type checkedPolicy struct {
	File      string        `json:"file"`
	Valid     bool          `json:"valid"`
	ID        string        `json:"id,omitempty"`
	Revision  int           `json:"revision,omitempty"`
	Digest    string        `json:"digest,omitempty"`
	Title     string        `json:"title,omitempty"`
	Effective string        `json:"effective,omitempty"`
	Error     *fileDefect   `json:"error,omitempty"`
	Warnings  []fileWarning `json:"warnings"`
}

func newPolicyCheck() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Validate policy files, run the tests in them and warn of what is probably not meant so",
		Long: `Validates policy files, runs the tests in them and warns of what is probably not meant so.

Exit status: 0 all good, 1 there are warnings, 2 a file is not a valid policy or fails its own tests.`,
		Example: `  carrel policy check policy.yaml
  carrel policy check --json policies/*.yaml
  carrel policy init --preset strict | carrel policy check -`,
		RunE: func(cmd *cobra.Command, files []string) error {
			if len(files) == 0 {
				return fmt.Errorf("%swhich file? Name one or more, or - for standard input", place(cmd))
			}
			var checked []checkedPolicy
			var bad []error
			warned := false
			for _, file := range files {
				c, err := checkPolicy(cmd, file)
				if err != nil {
					bad = append(bad, err)
				}
				warned = warned || len(c.Warnings) > 0
				checked = append(checked, c)
			}
			if asJSON {
				if err := printJSON(cmd, struct {
					Files []checkedPolicy `json:"files"`
				}{checked}); err != nil {
					return err
				}
			} else {
				printChecked(cmd.OutOrStdout(), checked)
			}
			for i, err := range bad {
				if i == len(bad)-1 {
					return err // run prints the last one
				}
				fmt.Fprintln(cmd.ErrOrStderr(), "carrel: "+oneLine(err.Error()))
			}
			if warned {
				return errFound
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func checkPolicy(cmd *cobra.Command, file string) (checkedPolicy, error) {
	c := checkedPolicy{File: file, Warnings: []fileWarning{}}
	p, err := readPolicy(cmd, file)
	if err != nil {
		c.Error = &fileDefect{Message: err.Error()}
		var bad *badFile
		if errors.As(err, &bad) {
			c.Error = &bad.defect
		}
		return c, err
	}
	ref := p.Ref()
	c.Valid, c.ID, c.Revision, c.Digest = true, ref.ID, ref.Revision, ref.Digest
	c.Title, c.Effective = p.Title(), stamp(p.Effective())
	for _, w := range p.Lint() {
		c.Warnings = append(c.Warnings, fileWarning(w))
	}
	return c, nil
}

func printChecked(out io.Writer, checked []checkedPolicy) {
	for _, c := range checked {
		for _, w := range c.Warnings {
			fmt.Fprintf(out, "%s:%d: warning: %s\n", c.File, w.Line, oneLine(w.Message))
		}
		if c.Valid {
			fmt.Fprintf(out, "%s: valid: %s revision %d, %s\n", c.File, oneLine(c.ID), c.Revision, plural(len(c.Warnings), "warning"))
		}
	}
}

func plural(n int, word string) string {
	many := word + "s"
	if stem, ok := strings.CutSuffix(word, "ry"); ok {
		many = stem + "ries"
	}
	switch n {
	case 0:
		return "no " + many
	case 1:
		return "1 " + word
	}
	return thousands(n) + " " + many
}

func newPolicyInit() *cobra.Command {
	title := func(text []byte) (string, error) {
		p, err := anonymize.ParsePolicy(text)
		if err != nil {
			return "", err
		}
		return p.Title(), nil
	}
	return presets{names: anonymize.Presets(), text: anonymize.Preset, title: title}.init(&cobra.Command{
		Use:   "init --preset NAME",
		Short: "Write a policy to begin with",
		Long: `Writes one of the policies that come with carrel, to standard output or to a new file, for you to change.
A file that exists is never overwritten.`,
		Example: `  carrel policy init --list
  carrel policy init --preset strict
  carrel policy init --preset carli --out policy.yaml`,
	}, "a policy")
}

// writeNew writes a file that must not exist, whole or not at all.
func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s: exists already and is left as it is; choose another name", path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, reason(err))
	}
	_, err = io.Copy(f, bytes.NewReader(data))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("%s: %w; nothing was written", path, reason(err))
	}
	return nil
}
