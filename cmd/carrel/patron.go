package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/internal/nearest"
	"github.com/carrel-project/carrel/patron"
)

func newPatron() *cobra.Command {
	return group(&cobra.Command{
		Use:   "patron",
		Short: "Find, show and export patrons, as far as a role may for a purpose",
		Long: `Patrons' data is sealed. These commands open what an access file allows to a role for a purpose, and record who asked
in the audit trail before they show anything. carrel authenticates nobody: whoever may read the keyring and its key may call
these commands with any role, and the audit trail says so.`,
		Example: `  echo 99999395390 | carrel patron find --db library.db --identifier-file - --actor staff-17 --role circulation --purpose checkout
  carrel patron show --db library.db --id 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --actor staff-17 --role circulation --purpose checkout
  carrel patron export --db library.db --segments emails --group students --out mails.jsonl --actor job-3 --role systems --purpose export`,
	}, newPatronFind(), newPatronShow(), newPatronResolve(), newPatronExport())
}

// whoFlags name one patron.
type whoFlags struct{ id, file string }

func (w *whoFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.id, "id", "", "the patron's ID, as patron find prints it")
	cmd.Flags().StringVar(&w.file, "identifier-file", "", "file with a bar code, user name or other identifier in its first line, - for standard input")
}

// firstLine reads what the first line of a file says: not as an argument, because shells keep those.
func firstLine(cmd *cobra.Command, name string) (crypto.Secret, error) {
	in, shown := cmd.InOrStdin(), "standard input"
	if name != "-" {
		f, err := openFile(cmd.Context(), name)
		if err != nil {
			return crypto.Secret{}, err
		}
		defer f.Close()
		in, shown = interruptible{cmd.Context(), f}, name
	}
	line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return crypto.Secret{}, fmt.Errorf("%s: %w", shown, reason(err))
	}
	line = strings.TrimSpace(strings.TrimPrefix(line, "\ufeff"))
	if line == "" || !plain(line) {
		return crypto.Secret{}, fmt.Errorf("%s: its first line is empty or not UTF-8; want an identifier", shown)
	}
	return crypto.NewSecret(line), nil
}

// find returns whom the flags name.
func (w *whoFlags) find(cmd *cobra.Command, p *patronFlags, dir *patron.Directory) (patron.ID, error) {
	if (w.id == "") == (w.file == "") {
		return patron.ID{}, errors.New("want either --id or --identifier-file")
	}
	if w.id != "" {
		id, err := patron.ParseID(w.id)
		if err != nil {
			return id, errors.New("--id: not an ID, as in 6f9619ff-8b86-4d01-b42d-00cf4fc964ff; for a bar code or user name use --identifier-file")
		}
		return id, nil
	}
	identifier, err := firstLine(cmd, w.file)
	if err != nil {
		return patron.ID{}, err
	}
	return dir.Find(cmd.Context(), p.call(), identifier)
}

// findToErase returns whom the flags name, without an event that says whom.
func (w *whoFlags) findToErase(cmd *cobra.Command, p *patronFlags, dir *patron.Directory) (patron.ID, error) {
	if w.id != "" || w.file == "" {
		return w.find(cmd, p, dir)
	}
	identifier, err := firstLine(cmd, w.file)
	if err != nil {
		return patron.ID{}, err
	}
	return dir.FindToErase(cmd.Context(), p.call(), identifier)
}

func newPatronFind() *cobra.Command {
	var p patronFlags
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "find --db DSN --identifier-file FILE --actor A --role R --purpose P",
		Short: "Print the ID of the patron who has an identifier",
		Long: `Looks a bar code, user name or other identifier up and prints the patron's ID, which tells nothing by itself. Exit status 1:
nobody has it.`,
		Example: `  echo 99999395390 | carrel patron find --db library.db --identifier-file - --actor staff-17 --role circulation --purpose checkout`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db", "identifier-file"); err != nil {
				return err
			}
			identifier, err := firstLine(cmd, file)
			if err != nil {
				return err
			}
			return p.with(cmd, func(dir *patron.Directory) error {
				id, err := dir.Find(cmd.Context(), p.call(), identifier)
				return printFound(cmd, id, err, asJSON)
			})
		},
	}
	p.register(cmd)
	cmd.Flags().StringVar(&file, "identifier-file", "", "file with the identifier in its first line, - for standard input")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printFound(cmd *cobra.Command, id patron.ID, err error, asJSON bool) error {
	if errors.Is(err, patron.ErrNotFound) && !errors.Is(err, patron.ErrNotRecorded) {
		if asJSON {
			err = printJSON(cmd, struct {
				ID *string `json:"id"`
			}{})
		} else {
			_, err = io.WriteString(cmd.OutOrStdout(), "nobody\n")
		}
		if err == nil {
			err = errFound
		}
		return err
	}
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(cmd, struct {
			ID patron.ID `json:"id"`
		}{id})
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), id)
	return err
}

func newPatronResolve() *cobra.Command {
	var p patronFlags
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "resolve --db DSN --token-file FILE --actor A --role R --purpose P",
		Short: "Print the ID of the patron behind the borrower of a record",
		Long: `Circulation records name their borrowers by pseudonyms. This turns one into the patron's ID, for a notice or a lost
item. Exit status 1: nobody is behind it, or another installation made it.`,
		Example: `  carrel hold list --db library.db --show-borrowers
  echo cpAX… | carrel patron resolve --db library.db --token-file - --actor staff-17 --role circulation --purpose overdue`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db", "token-file"); err != nil {
				return err
			}
			token, err := firstLine(cmd, file)
			if err != nil {
				return err
			}
			return p.with(cmd, func(dir *patron.Directory) error {
				id, err := dir.Resolve(cmd.Context(), p.call(), token.Reveal())
				return printFound(cmd, id, err, asJSON)
			})
		},
	}
	p.register(cmd)
	cmd.Flags().StringVar(&file, "token-file", "", "file with the pseudonym in its first line, - for standard input")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newPatronShow() *cobra.Command {
	var p patronFlags
	var who whoFlags
	var segments []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show --db DSN (--id ID | --identifier-file FILE) --actor A --role R --purpose P",
		Short: "Show what a role may see of a patron",
		Long: `Opens the segments of a patron that the role may see for the purpose, masked where the access file says so, and records that
before it shows them.`,
		Example: `  echo 99999395390 | carrel patron show --db library.db --identifier-file - --actor staff-17 --role circulation --purpose checkout
  carrel patron show --db library.db --id 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --segments names,emails --json --actor staff-17 --role circulation --purpose overdue`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := parseSegments(segments)
			if err != nil {
				return err
			}
			return p.with(cmd, func(dir *patron.Directory) error {
				id, err := who.find(cmd, &p, dir)
				if err != nil {
					return err
				}
				v, err := dir.View(cmd.Context(), p.call(), id, set)
				if err != nil {
					return err
				}
				shown := showPatron(v.ID.String(), v.Profile, v.Levels, &v.Present)
				if asJSON {
					return printJSON(cmd, shown)
				}
				return shown.print(cmd.OutOrStdout())
			})
		},
	}
	p.register(cmd)
	who.register(cmd)
	cmd.Flags().StringSliceVar(&segments, "segments", nil, "only these (default all that may be seen): names, addresses, phones …")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func parseSegments(list []string) (set access.Set, err error) {
	for _, word := range list {
		s, err := access.ParseSegment(strings.TrimSpace(word))
		if err != nil {
			known := everySegment().Names()
			return 0, fmt.Errorf("--segments%s: want some of %s%s", naming(word), strings.Join(known, ", "), nearest.Hint(word, known))
		}
		set = set.With(s)
	}
	return set, nil
}

// naming repeats what somebody gave a flag, if it can be shown.
func naming(word string) string {
	if len(word) == 0 || len(word) > 64 || oneLine(word) != word || !plain(word) {
		return ""
	}
	return " " + word
}

func everySegment() access.Set {
	all := access.AllSegments()
	return access.SetOf(all[:]...)
}

// A shownPatron is a patron as these commands print them.
type shownPatron struct {
	ID        string         `json:"id,omitempty"`
	Pseudonym string         `json:"pseudonym,omitempty"`
	Facts     shownFacts     `json:"facts"`
	Segments  []shownSegment `json:"segments"`
}

type shownFacts struct {
	Group        string   `json:"group,omitempty"`
	Categories   []string `json:"categories,omitempty"`
	Library      string   `json:"library,omitempty"`
	Expires      string   `json:"expires,omitempty"`
	History      string   `json:"history,omitempty"`
	HistorySince string   `json:"history_since,omitempty"`
}

type shownSegment struct {
	Segment string              `json:"segment"`
	Level   string              `json:"level"`
	Entries []map[string]string `json:"entries,omitempty"` // absent when only its existence may be known
}

// showPatron reveals what a view or an export holds: it has been decided on and recorded.
func showPatron(id string, p patron.Profile, levels access.Levels, present *access.Set) shownPatron {
	f := p.Facts
	s := shownPatron{ID: id, Segments: []shownSegment{},
		Facts: shownFacts{f.Group, f.Categories, f.Library, stamp(f.Expires), string(f.Wish), stamp(f.WishSince)}}
	for _, segment := range access.AllSegments() {
		level := levels.Of(segment)
		if level == access.None || present != nil && !present.Has(segment) || present == nil && !p.Has(segment) {
			continue
		}
		one := shownSegment{Segment: segment.String(), Level: level.String()}
		p.Reveal(segment, func(entry map[string]string) { one.Entries = append(one.Entries, entry) })
		s.Segments = append(s.Segments, one)
	}
	return s
}

func (s shownPatron) print(out io.Writer) error {
	t := table{columns: words("SEGMENT LEVEL WHAT")}
	t.add("id", "", s.ID)
	for _, f := range [...]struct{ name, value string }{{"group", s.Facts.Group}, {"categories", strings.Join(s.Facts.Categories, ", ")},
		{"library", s.Facts.Library}, {"expires", s.Facts.Expires}, {"history", s.Facts.History}, {"history since", s.Facts.HistorySince}} {
		if f.value != "" {
			t.add(f.name, "fact", f.value)
		}
	}
	for _, one := range s.Segments {
		if one.Entries == nil {
			t.add(one.Segment, one.Level, "(there is something)")
		}
		for _, e := range one.Entries {
			t.add(one.Segment, one.Level, describe(one.Segment, e))
		}
	}
	return t.print(out)
}

// describe puts the fields of an entry in a row, in their order.
func describe(segment string, e map[string]string) string {
	s, err := access.ParseSegment(segment)
	if err != nil {
		return ""
	}
	var parts []string
	if use := e["use"]; use != "" {
		parts = append(parts, use+":")
	}
	for _, f := range patron.Fields(s) {
		if v := e[f.Name]; v != "" {
			parts = append(parts, v)
		}
	}
	return strings.Join(parts, " ")
}

func newPatronExport() *cobra.Command {
	var p patronFlags
	var e patron.Export
	var segments []string
	var expires, out string
	cmd := &cobra.Command{
		Use:   "export --db DSN --out FILE --actor A --role R --purpose P",
		Short: "Write patrons to a file, one JSON object a line",
		Long: `Exports what the role may export for the purpose: the facts, and the segments named. Everybody on a page of the export is recorded
before the page is opened. For a --recipient outside it needs an --approval; they get pseudonyms of their own instead of
IDs, one-way, and neither expiry dates nor wishes. The file is made with access for its owner only and never overwritten.`,
		Example: `  carrel patron export --db library.db --segments emails --group students --out mails.jsonl --actor job-3 --role systems --purpose export
  carrel patron export --db library.db --recipient survey-office --approval "DPO 2026-17" --out survey.jsonl --actor job-3 --role systems --purpose export`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "out"); err != nil {
				return err
			}
			var err error
			if e.Segments, err = parseSegments(segments); err != nil {
				return err
			}
			if expires != "" {
				if e.ExpiresBefore, err = circulation.Times(time.UTC)(expires); err != nil {
					return fmt.Errorf("--expires-before: %w", err)
				}
			}
			return p.with(cmd, func(dir *patron.Directory) error { return exportPatrons(cmd, dir, p.call(), e, out) })
		},
	}
	p.register(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&segments, "segments", nil, "segments to export (default none: facts only)")
	f.StringArrayVar(&e.Groups, "group", nil, "only patrons of this group; may be repeated")
	f.StringArrayVar(&e.Libraries, "library", nil, "only patrons of this home library; may be repeated")
	f.StringVar(&expires, "expires-before", "", "only patrons whose account expires before this date")
	f.StringVar(&e.Recipient, "recipient", "", "whom outside it is for, as a short name that stays the same")
	f.StringVar(&e.Approval, "approval", "", "reference under which the export was approved")
	f.StringVar(&out, "out", "", "the file to write; - for standard output")
	return cmd
}

func exportPatrons(cmd *cobra.Command, dir *patron.Directory, call patron.Call, e patron.Export, out string) (err error) {
	to := cmd.OutOrStdout()
	if out != "-" {
		var f *os.File
		if f, err = createPrivate(out); err != nil {
			return err
		}
		defer func() {
			if cerr := f.Close(); err == nil && cerr != nil {
				err = fmt.Errorf("%s: %w", out, reason(cerr))
			}
			if err != nil {
				os.Remove(out) // half an export is none
			}
		}()
		to = f
	}
	buffered := bufio.NewWriter(to)
	p := newProgress(cmd.ErrOrStderr(), "exporting", 0)
	n := 0
	for x, err := range dir.Export(cmd.Context(), call, e) {
		if err != nil {
			p.end()
			return err
		}
		id := ""
		if !x.ID.IsZero() {
			id = x.ID.String()
		}
		shown := showPatron(id, x.Profile, x.Levels, nil)
		shown.Pseudonym = x.Pseudonym
		line, err := json.Marshal(shown)
		if err != nil {
			return err
		}
		if _, err := buffered.Write(append(line, '\n')); err != nil {
			return err
		}
		if n++; n%1000 == 0 {
			p.set(int64(n), thousands(n)+" patrons")
		}
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	p.end()
	_, err = fmt.Fprintf(cmd.ErrOrStderr(), "carrel: exported %s\n", plural(n, "patron"))
	return err
}
