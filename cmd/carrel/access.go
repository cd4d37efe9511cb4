package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/internal/nearest"
)

func newAccess() *cobra.Command {
	return group(&cobra.Command{
		Use:   "access",
		Short: "Check who may see what of a patron, or begin an access file",
		Long: `An access file says which role sees how much of each segment of a patron record, for which purpose. What it does not
allow is denied. Without a file, these commands look at the one that comes with carrel.`,
		Example: `  carrel access init --out access.yaml
  carrel access check access.yaml
  carrel access check --access access.yaml --role circulation --purpose checkout
  carrel access who-can birth --access access.yaml`,
	}, newAccessCheck(), newAccessWhoCan(), newAccessInit())
}

// defaultAccess is the preset that counts when no access file is named.
const defaultAccess = "default"

// maxAccess bounds what is read as an access file.
const maxAccess = 8 << 20

// An accessFile is an access file that was read: what it is called in messages, what it says, how many tests it passed.
type accessFile struct {
	name   string
	matrix *access.Matrix
	tests  int
}

// chosenAccess returns the file that the flag or the argument names, "" for none.
func chosenAccess(cmd *cobra.Command, flag string, args []string) (string, error) {
	switch {
	case len(args) > 1:
		return "", fmt.Errorf("%sone access file at a time, got %d", place(cmd), len(args))
	case len(args) == 1 && flag != "":
		return "", fmt.Errorf("%swant the access file once: as an argument or as --access", place(cmd))
	case len(args) == 1 && args[0] == "", flag == "" && cmd.Flags().Changed("access"): // a variable that was not set, perhaps
		return "", fmt.Errorf("%sthe access file has no name; leave it out for the one that comes with carrel", place(cmd))
	case len(args) == 1:
		return args[0], nil
	}
	return flag, nil
}

// readAccess reads an access file and runs the tests in it; "-" is standard input, "" the one that comes with carrel.
func readAccess(cmd *cobra.Command, file string) (accessFile, error) {
	a := accessFile{name: cmp.Or(file, "preset "+defaultAccess)}
	var data []byte
	var err error
	if file == "" {
		data, err = access.Preset(defaultAccess)
	} else {
		data, err = readFile(cmd, file, maxAccess)
	}
	if err != nil {
		return a, err
	}
	if a.matrix, err = access.ParseMatrix(data); err != nil {
		return a, fileProblem(a.name, err)
	}
	var counted struct{ Tests []yaml.Node }
	if err := yaml.Unmarshal(data, &counted); err != nil {
		return a, fmt.Errorf("%s: its tests cannot be counted", a.name) // cannot happen: it has just been read
	}
	a.tests = len(counted.Tests)
	return a, nil
}

// A checkedAccess is what `access check --json` says.
type checkedAccess struct {
	File     string          `json:"file"`
	Valid    bool            `json:"valid"`
	ID       string          `json:"id,omitempty"`
	Revision int             `json:"revision,omitempty"`
	Title    string          `json:"title,omitempty"`
	Roles    []string        `json:"roles,omitempty"`
	Purposes []string        `json:"purposes,omitempty"`
	Tests    int             `json:"tests"` // all of them passed, or the file would not be valid
	Error    *fileDefect     `json:"error,omitempty"`
	Warnings []fileWarning   `json:"warnings"`
	Decision *accessDecision `json:"decision,omitempty"`
}

// An accessDecision is what a role sees and may do for a purpose.
type accessDecision struct {
	Role       string           `json:"role"`
	Purpose    string           `json:"purpose"`
	Unknown    []accessUnknown  `json:"unknown,omitempty"`
	Segments   []segmentAtLevel `json:"segments"`
	May        []string         `json:"may"`
	MayChange  []string         `json:"may_change"` // segments
	BreakGlass []string         `json:"break_glass"`
}

type segmentAtLevel struct {
	Segment string `json:"segment"`
	Level   string `json:"level"`
}

// An accessUnknown is a role or purpose that the file does not have.
type accessUnknown struct {
	What    string `json:"what"`
	Word    string `json:"word"`
	Nearest string `json:"nearest,omitempty"`
}

// unknownIn returns which of a role and a purpose a file does not have.
func unknownIn(m *access.Matrix, role, purpose string) (list []accessUnknown) {
	for _, word := range []struct {
		what, word string
		known      []string
	}{{"role", role, m.Roles()}, {"purpose", purpose, m.Purposes()}} {
		if !slices.Contains(word.known, word.word) {
			list = append(list, accessUnknown{word.what, word.word, nearest.Word(word.word, word.known)})
		}
	}
	return list
}

func (u accessUnknown) String() string {
	hint := ""
	if u.Nearest != "" {
		hint = fmt.Sprintf("; did you mean %q?", u.Nearest)
	}
	return fmt.Sprintf("%s %q is not in the file%s", u.What, u.Word, hint)
}

func newAccessCheck() *cobra.Command {
	var file, role, purpose string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Validate an access file, run the tests in it and warn of what is probably not meant so",
		Long: `Validates an access file, runs the tests in it and warns of what is probably not meant so. Without a file, the one that
comes with carrel is checked. With --role and --purpose it also prints what that role sees for that purpose.

Exit status: 0 all good, 1 there are warnings, or the role or purpose is not in the file and so denies everything, 2 the file is not
a valid access file or fails its own tests.`,
		Example: `  carrel access check access.yaml
  carrel access check --access access.yaml --role circulation --purpose checkout
  carrel access check --json access.yaml
  carrel access init | carrel access check -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := chosenAccess(cmd, file, args)
			if err != nil {
				return err
			}
			asked := cmd.Flags().Changed("role") || cmd.Flags().Changed("purpose")
			if asked {
				if err := needed(cmd, "role", "purpose"); err != nil {
					return err
				}
			}
			a, err := readAccess(cmd, name)
			c := describeAccess(a, err)
			if asked && err == nil {
				c.Decision = a.decide(cmd.Context(), role, purpose)
			}
			if asJSON {
				if err := printJSON(cmd, c); err != nil {
					return err
				}
			} else if err := c.print(cmd.OutOrStdout()); err != nil {
				return err
			}
			switch {
			case err != nil:
				return err
			case len(c.Warnings) > 0, c.Decision != nil && len(c.Decision.Unknown) > 0:
				return errFound
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "access", "", "the access file, - for standard input (default the one that comes with carrel)")
	cmd.Flags().StringVar(&role, "role", "", "a role of the file; with --purpose, prints what it sees")
	cmd.Flags().StringVar(&purpose, "purpose", "", "a purpose of the file; with --role, prints what is seen for it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// describeAccess says what an access file is, or what is wrong with it.
func describeAccess(a accessFile, err error) checkedAccess {
	c := checkedAccess{File: a.name, Warnings: []fileWarning{}}
	if err != nil {
		c.Error = &fileDefect{Message: err.Error()}
		var bad *badFile
		if errors.As(err, &bad) {
			c.Error = &bad.defect
		}
		return c
	}
	m := a.matrix
	c.Valid, c.ID, c.Revision, c.Title, c.Tests = true, m.ID(), m.Revision(), m.Title(), a.tests
	c.Roles, c.Purposes = m.Roles(), m.Purposes()
	for _, w := range m.Lint() {
		c.Warnings = append(c.Warnings, fileWarning(w))
	}
	return c
}

// decide says what a role sees and may do for a purpose.
func (a accessFile) decide(ctx context.Context, role, purpose string) *accessDecision {
	d, err := a.matrix.Decide(ctx, access.Request{Role: role, Purpose: purpose})
	if err != nil {
		d = access.Decision{}
	}
	out := &accessDecision{Role: role, Purpose: purpose, Segments: []segmentAtLevel{},
		May: some(d.Acts.Names()), MayChange: []string{}, BreakGlass: some(d.BreakGlass.Names())}
	for _, s := range access.AllSegments() {
		out.Segments = append(out.Segments, segmentAtLevel{s.String(), d.Levels.Of(s).String()})
		if d.MayChange(s) {
			out.MayChange = append(out.MayChange, s.String())
		}
	}
	out.Unknown = unknownIn(a.matrix, role, purpose)
	return out
}

// some returns an empty list for nil, which JSON would call null.
func some(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func (c *checkedAccess) print(out io.Writer) error {
	if !c.Valid {
		return nil // run says why
	}
	var b strings.Builder
	for _, w := range c.Warnings {
		fmt.Fprintf(&b, "%s:%d: warning: %s\n", c.File, w.Line, oneLine(w.Message))
	}
	tests := "no tests"
	if c.Tests > 0 {
		tests = plural(c.Tests, "test") + " passed"
	}
	revision := ""
	if c.Revision > 0 {
		revision = fmt.Sprintf(" revision %d", c.Revision)
	}
	fmt.Fprintf(&b, "%s: valid: %s%s, %s, %s, %s, %s\n", c.File, oneLine(c.ID), revision,
		plural(len(c.Roles), "role"), plural(len(c.Purposes), "purpose"), tests, plural(len(c.Warnings), "warning"))
	if c.Decision != nil {
		if err := c.Decision.print(&b); err != nil {
			return err
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (d *accessDecision) print(out io.Writer) error {
	fmt.Fprintf(out, "\n%s for %s", oneLine(d.Role), oneLine(d.Purpose))
	if len(d.Unknown) > 0 {
		fmt.Fprint(out, " is denied everything:\n")
		for _, u := range d.Unknown {
			fmt.Fprintln(out, oneLine(u.String()))
		}
		return nil
	}
	fmt.Fprint(out, "\n\n")
	t := table{columns: []string{"SEGMENT", "LEVEL"}}
	for _, s := range d.Segments {
		t.add(s.Segment, s.Level)
	}
	if err := t.print(out); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nmay: %s\n", listed(d.May))
	if len(d.MayChange) > 0 {
		fmt.Fprintf(out, "may change: %s\n", listed(d.MayChange))
	}
	fmt.Fprintf(out, "break-glass: %s\n", listed(d.BreakGlass))
	return nil
}

// listed writes a list of words for people.
func listed(words []string) string { return cmp.Or(strings.Join(words, ", "), "nothing") }

// A whoCan is what `access who-can --json` says.
type whoCan struct {
	File    string       `json:"file"`
	Segment string       `json:"segment"`
	Level   string       `json:"level"` // at least
	Cells   []whoCanCell `json:"cells"`
}

type whoCanCell struct {
	Role       string `json:"role"`
	Purpose    string `json:"purpose"`
	Level      string `json:"level"`       // without a grant
	BreakGlass bool   `json:"break_glass"` // the level asked for is reached only by a grant
}

func newAccessWhoCan() *cobra.Command {
	var file, levelWord string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "who-can SEGMENT [FILE]",
		Short: "List the roles and purposes that see a segment",
		Long: `Lists the roles and purposes that see a segment of a patron record at a level or above it, and, marked, those that get
there only by break-glass: for one patron, a quarter of an hour and a reason that somebody else reviews.

The segments are ` + strings.Join(segmentNames(), ", ") + `.`,
		Example: `  carrel access who-can birth
  carrel access who-can names --level full access.yaml
  carrel access who-can notes --level exists --access access.yaml --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("%swhich segment? There are %s", place(cmd), strings.Join(segmentNames(), ", "))
			}
			name, err := chosenAccess(cmd, file, args[1:])
			if err != nil {
				return err
			}
			segment, err := access.ParseSegment(args[0])
			if err != nil {
				return fmt.Errorf("%s%s", place(cmd), strings.TrimPrefix(err.Error(), "access: "))
			}
			level, err := access.ParseLevel(levelWord)
			if err != nil || level == access.None {
				return fmt.Errorf("%s--level must be exists, masked or full", place(cmd))
			}
			a, err := readAccess(cmd, name)
			if err != nil {
				return err
			}
			w := whoCan{File: a.name, Segment: segment.String(), Level: level.String(), Cells: []whoCanCell{}}
			for _, c := range a.matrix.WhoCan(segment, level) {
				w.Cells = append(w.Cells, whoCanCell{c.Role, c.Purpose, c.Level.String(), c.BreakGlass})
			}
			if asJSON {
				return printJSON(cmd, w)
			}
			return w.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&levelWord, "level", access.Masked.String(), "at least so much: exists, masked or full")
	cmd.Flags().StringVar(&file, "access", "", "the access file, - for standard input (default the one that comes with carrel)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func segmentNames() (names []string) {
	for _, s := range access.AllSegments() {
		names = append(names, s.String())
	}
	return names
}

func (w *whoCan) print(out io.Writer) error {
	if len(w.Cells) == 0 {
		_, err := fmt.Fprintf(out, "nobody sees %s at the level %s\n", w.Segment, w.Level)
		return err
	}
	t := table{columns: []string{"ROLE", "PURPOSE", "LEVEL"}}
	for _, c := range w.Cells {
		level := c.Level
		if c.BreakGlass {
			level += ", full by break-glass"
		}
		t.add(c.Role, c.Purpose, level)
	}
	return t.print(out)
}

func newAccessInit() *cobra.Command {
	title := func(text []byte) (string, error) {
		m, err := access.ParseMatrix(text)
		if err != nil {
			return "", err
		}
		return m.Title(), nil
	}
	return presets{names: access.Presets(), text: access.Preset, title: title, usual: defaultAccess}.init(&cobra.Command{
		Use:   "init",
		Short: "Write an access file to begin with",
		Long: `Writes the access file that comes with carrel, to standard output or to a new file, for you to change.
A file that exists is never overwritten.`,
		Example: `  carrel access init --list
  carrel access init --out access.yaml
  carrel access init --preset default | carrel access check -`,
	}, "an access file")
}
