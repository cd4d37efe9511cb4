package main

import (
	"bufio"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
)

func newHold() *cobra.Command {
	return group(&cobra.Command{
		Use:   "hold",
		Short: "Set, end and list legal holds on borrowers",
		Long: `A legal hold on a borrower keeps everything of theirs linked while it lasts, whatever the policy says.
Holds on items and single records are in the policy file; holds on people are in the database, because a policy
names nobody.`,
		Example: `  carrel hold add --db library.db --borrower-file - --ref "case 2026-114" --until 2027-01-31
  carrel hold list --db library.db
  carrel hold release --db library.db --borrower-file - --ref "case 2026-114"`,
	}, newHoldAdd(), newHoldRelease(), newHoldList())
}

// holdFlags are what add and release have in common.
type holdFlags struct {
	trailFlags
	dsn, borrower, borrowerFile, ref string
}

func (h *holdFlags) register(cmd *cobra.Command) {
	addDBFlag(cmd, &h.dsn)
	h.trailFlags.register(cmd)
	cmd.Flags().StringVar(&h.borrower, "borrower", "", "the borrower; --borrower-file leaves no trace in the shell's history")
	cmd.Flags().StringVar(&h.borrowerFile, "borrower-file", "", "file with one borrower a line, - for standard input")
	cmd.Flags().StringVar(&h.ref, "ref", "", "the case: a reference, never a name")
}

// borrowers returns whom the flags name. Its errors name nobody.
func (h *holdFlags) borrowers(cmd *cobra.Command) ([]circulation.Borrower, error) {
	if err := needed(cmd, "db", "ref"); err != nil {
		return nil, err
	}
	if cmd.Flags().Changed("borrower") == (h.borrowerFile != "") {
		return nil, fmt.Errorf("%swant either --borrower or --borrower-file", place(cmd))
	}
	if h.borrowerFile == "" {
		b := strings.TrimSpace(h.borrower)
		if b == "" || !plain(b) {
			return nil, fmt.Errorf("%s--borrower is blank or not UTF-8", place(cmd))
		}
		return []circulation.Borrower{circulation.Borrower(b)}, nil
	}
	in, name := cmd.InOrStdin(), "standard input"
	if h.borrowerFile != "-" {
		f, err := openFile(cmd.Context(), h.borrowerFile)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, name = interruptible{cmd.Context(), f}, h.borrowerFile
	}
	text := bufio.NewReader(in)
	if start, _ := text.Peek(2); string(start) == "\xff\xfe" || string(start) == "\xfe\xff" {
		return nil, fmt.Errorf("%s: the file is UTF-16; save it as UTF-8", name)
	}
	var all []circulation.Borrower
	seen := map[circulation.Borrower]bool{}
	s := bufio.NewScanner(text)
	for line := 1; s.Scan(); line++ {
		b := strings.TrimSpace(strings.TrimPrefix(s.Text(), "\ufeff"))
		if !plain(b) {
			return nil, fmt.Errorf("%s:%d: not a text in UTF-8; save the file as UTF-8", name, line)
		}
		if b := circulation.Borrower(b); b != "" && !seen[b] {
			seen[b] = true
			all = append(all, b)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, reason(err))
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: names no borrower; want one a line", name)
	}
	return all, nil
}

// sealed returns the pseudonyms by which the database knows borrowers.
func (h *holdFlags) sealed(ctx context.Context, keys *crypto.Keyring, d *database, borrowers []circulation.Borrower) ([]circulation.Borrower, error) {
	s, err := newSealer(ctx, keys, d)
	if err != nil {
		return nil, err
	}
	sealed := make([]circulation.Borrower, len(borrowers))
	for i, b := range borrowers {
		if sealed[i], err = s.borrower(string(b)); err != nil {
			return nil, err
		}
	}
	return sealed, nil
}

// openKeys opens the keyring of a database that is there already.
func (d *database) openKeys(ctx context.Context, flag string) (*crypto.Keyring, error) {
	files, err := d.findKeys(flag)
	if err != nil {
		return nil, err
	}
	return d.open(ctx, files)
}

// change opens the database and does something to holds, in one transaction with its record in the trail.
func (h *holdFlags) change(cmd *cobra.Command, action audit.Action, borrowers []circulation.Borrower,
	do func(d *database, store circulationStore, sealed []circulation.Borrower) error) error {
	ctx := cmd.Context()
	return withDatabase(ctx, h.dsn, readWrite, func(d *database) error {
		keys, err := d.openKeys(ctx, h.keys)
		if err != nil {
			return err
		}
		sealed, err := h.sealed(ctx, keys, d, borrowers)
		if err != nil {
			return err
		}
		return d.withTrail(ctx, keys, h.anchors, func(*audit.Trail) error {
			return d.together(ctx, func(tx *sql.Tx) error {
				trail, err := d.trailIn(ctx, tx, keys, h.anchors)
				if err != nil {
					return err
				}
				if err := do(d, d.circulation(tx), sealed); err != nil {
					return err
				}
				e := byCommand(h.actor, "systems")
				e.Action, e.Outcome, e.Object, e.Count = action, audit.Done, h.ref, len(sealed)
				return trailProblem(trail.Record(ctx, e))
			})
		})
	})
}

// plain reports whether s is UTF-8 without the zero bytes of UTF-16 that is taken for it.
func plain(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

func newHoldAdd() *cobra.Command {
	var h holdFlags
	var until, zone string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "add --db DSN --borrower-file FILE --ref REF",
		Short: "Set a legal hold on borrowers",
		Long: `Sets a legal hold on one or more borrowers. While it lasts, nothing of theirs is unlinked; a date as --until means
through the end of that day. Adding a hold with the same reference again changes its end. A borrower of whom the
database has no record yet is accepted, because they may be imported later, and counted, because they may be misspelt.`,
		Example: `  echo p-77 | carrel hold add --db library.db --borrower-file - --ref "case 2026-114"
  carrel hold add --db library.db --borrower p-77 --ref "case 2026-114" --until 2027-01-31 --zone Europe/Stockholm`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			borrowers, err := h.borrowers(cmd)
			if err != nil {
				return err
			}
			loc, err := parseZone(zone)
			if err != nil {
				return err
			}
			end, err := parseUntil(until, loc)
			if err != nil {
				return err
			}
			if !end.IsZero() && !end.After(time.Now()) {
				return errors.New("--until: that time has passed; the hold would protect nothing")
			}
			unknown := 0
			err = h.change(cmd, audit.Hold, borrowers, func(d *database, store circulationStore, sealed []circulation.Borrower) error {
				if unknown, err = d.unknown(cmd.Context(), sealed); err != nil {
					return err
				}
				for _, b := range sealed {
					if err := store.AddHold(cmd.Context(), circulation.Hold{Borrower: b, Ref: h.ref, Until: end}); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			return reportHolds(cmd, asJSON, "held", len(borrowers), unknown, h.ref)
		},
	}
	h.register(cmd)
	cmd.Flags().StringVar(&until, "until", "", "last day of the hold, or a time (default until it is released)")
	cmd.Flags().StringVar(&zone, "zone", "UTC", "time zone of --until")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newHoldRelease() *cobra.Command {
	var h holdFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "release --db DSN --borrower-file FILE --ref REF",
		Short: "End a legal hold on borrowers",
		Long:  "Ends the legal hold with this reference on one or more borrowers. The next sweep treats them like everybody else.",
		Example: `  echo p-77 | carrel hold release --db library.db --borrower-file - --ref "case 2026-114"
  carrel hold release --db library.db --borrower p-77 --ref "case 2026-114"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			borrowers, err := h.borrowers(cmd)
			if err != nil {
				return err
			}
			err = h.change(cmd, audit.Release, borrowers, func(_ *database, store circulationStore, sealed []circulation.Borrower) error {
				missing := 0
				for _, b := range sealed {
					ok, err := store.ReleaseHold(cmd.Context(), b, h.ref)
					if err != nil {
						return err
					}
					if !ok {
						missing++
					}
				}
				if missing > 0 {
					return fmt.Errorf("hold release: %s of %d without a hold of this reference; nothing was released; see carrel hold list", plural(missing, "borrower"), len(borrowers))
				}
				return nil
			})
			if err != nil {
				return err
			}
			return reportHolds(cmd, asJSON, "released", len(borrowers), 0, h.ref)
		},
	}
	h.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newHoldList() *cobra.Command {
	var dsn string
	var in trailFlags
	var asJSON, show bool
	cmd := &cobra.Command{
		Use:   "list --db DSN",
		Short: "List legal holds: references, ends and how many borrowers",
		Long: `Lists legal holds on borrowers. That needs no keys. With --show-borrowers it also prints pseudonyms, of which carrel
patron resolve tells who that is; that needs the keyring, and is recorded in the audit trail before it is shown.`,
		Example: `  carrel hold list --db library.db
  carrel hold list --db library.db --json
  carrel hold list --db library.db --show-borrowers --actor staff-17`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			mode := readOnly
			if show {
				mode = readWrite // the trail
			}
			return withDatabase(cmd.Context(), dsn, mode, func(d *database) error {
				holds, err := d.Holds(cmd.Context())
				if err != nil {
					return err
				}
				if show {
					if err := d.recordListing(cmd.Context(), in, len(holds)); err != nil {
						return err
					}
				}
				listed := listHolds(holds, show)
				if asJSON {
					return printJSON(cmd, struct {
						Holds []listedHold `json:"holds"`
					}{listed})
				}
				return printHolds(cmd.OutOrStdout(), listed)
			})
		},
	}
	addDBFlag(cmd, &dsn)
	cmd.Flags().BoolVar(&show, "show-borrowers", false, "also print the pseudonyms of whom the holds are on, and record that")
	in.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// recordListing says in the trail that somebody is about to read on whom the holds are.
func (d *database) recordListing(ctx context.Context, in trailFlags, n int) error {
	keys, err := d.openKeys(ctx, in.keys)
	if err != nil {
		return err
	}
	return d.withTrail(ctx, keys, in.anchors, func(t *audit.Trail) error { return recordHolds(ctx, t, byCommand(in.actor, "systems"), n) })
}

// recordHolds says in the trail that holds on borrowers were read with whom they are on.
func recordHolds(ctx context.Context, t *audit.Trail, by audit.Event, n int) error {
	by.Action, by.Outcome, by.Object, by.Count = audit.Report, audit.Done, "holds", n
	return trailProblem(t.Record(ctx, by))
}

// A listedHold is all borrowers with one reference and one end.
type listedHold struct {
	Ref       string   `json:"ref"`
	Until     string   `json:"until"` // first instant at which it no longer holds; "": until released
	InForce   bool     `json:"in_force"`
	Borrowers int      `json:"borrowers"`
	Who       []string `json:"who,omitempty"` // with --show-borrowers only
}

func listHolds(holds []circulation.Hold, show bool) []listedHold {
	now := time.Now()
	listed := []listedHold{}
	for _, h := range holds {
		until := stamp(h.Until)
		i := slices.IndexFunc(listed, func(l listedHold) bool { return l.Ref == h.Ref && l.Until == until })
		if i < 0 {
			i = len(listed)
			listed = append(listed, listedHold{Ref: h.Ref, Until: until, InForce: h.Until.IsZero() || h.Until.After(now)})
		}
		listed[i].Borrowers++
		if show {
			listed[i].Who = append(listed[i].Who, string(h.Borrower))
		}
	}
	slices.SortFunc(listed, func(a, b listedHold) int {
		return cmp.Or(cmp.Compare(a.Ref, b.Ref), cmp.Compare(a.Until, b.Until))
	})
	return listed
}

func printHolds(out io.Writer, listed []listedHold) error {
	if len(listed) == 0 {
		_, err := io.WriteString(out, "no legal holds on borrowers\n")
		return err
	}
	t := table{columns: words("REF UNTIL BORROWERS WHO")}
	if listed[0].Who == nil {
		t.columns = t.columns[:3]
	}
	for _, l := range listed {
		until := cmp.Or(l.Until, "(until released)")
		if !l.InForce {
			until += " (over)"
		}
		t.add([]string{oneLine(l.Ref), until, thousands(l.Borrowers), oneLine(strings.Join(l.Who, " "))}[:len(t.columns)]...)
	}
	return t.print(out)
}

// parseUntil returns the first instant at which a hold no longer holds. A date means through its end.
func parseUntil(s string, zone *time.Location) (time.Time, error) {
	if strings.HasPrefix(s, "9999-") { // some systems' word for no end
		return time.Time{}, errors.New("--until: leave --until out to hold until released")
	}
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		s = day.AddDate(0, 0, 1).Format(time.DateOnly)
	}
	t, err := circulation.Times(zone)(s)
	if err != nil {
		return t, fmt.Errorf("--until: %w", err)
	}
	return t, nil
}

func reportHolds(cmd *cobra.Command, asJSON bool, what string, n, unknown int, ref string) error {
	if asJSON {
		report := map[string]any{"ref": ref, what: n}
		if what == "held" {
			report["unknown"] = unknown
		}
		return printJSON(cmd, report)
	}
	warning := ""
	if unknown > 0 {
		warning = fmt.Sprintf(", %s of them not known here: check the spelling", thousands(unknown))
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s under %s%s\n", what, plural(n, "borrower"), oneLine(ref), warning)
	return err
}
