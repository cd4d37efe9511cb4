package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/internal/nearest"
	"github.com/carrel-project/carrel/patron"
)

func newLogPrune() *cobra.Command {
	var u upkeepFlags
	var keep, known []string
	var dry, asJSON bool
	cmd := &cobra.Command{
		Use:   "prune --db DSN --keep CLASS=PERIOD … --actor A",
		Short: "Remove from the trail what was kept long enough",
		Long: `Removes the content of entries that are older than the period of their class; a class that is not named
is kept. The hash of each stays, so that the trail can still be verified, until everything before it is
gone, too. What was removed, and who did it, is recorded in the trail itself. Entries about patrons under
a legal hold stay; under a hold on the trail (carrel log hold) nothing goes, nor when carrel log verify
finds something: that is evidence, and is looked into before --known names it. It can be interrupted and
run again; once a week is often enough.

Classes: views, changes, exports, logins, jobs, reports, erasures. Periods: P90D, P26W, P18M, P2Y.`,
		Example: `  carrel log prune --db library.db --keep views=P1Y --keep logins=P6M --actor dpo --dry-run
  carrel log prune --db library.db --keep views=P1Y --keep logins=P6M --actor dpo --approval "retention 2026"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := parseRetention(keep, time.Now())
			if err == nil {
				r.Known, err = parseKnown("log prune", known)
			}
			if err != nil {
				return err
			}
			return u.with(cmd, func(d *database, k *crypto.Keyring, t *audit.Trail) error {
				out := prunedReport{DryRun: dry, Removed: map[audit.Class]int{}, TrailHeld: []string{}}
				if r.Held, out.Unknown, err = d.heldSubjects(cmd.Context(), k, t, u.by()); err != nil {
					return err
				}
				var p audit.Pruned
				if dry {
					var holds []string
					if holds, err = t.Holds(cmd.Context()); err == nil {
						out.TrailHeld = append(out.TrailHeld, holds...)
						p, err = t.Expired(cmd.Context(), r)
					}
				} else {
					p, err = t.Prune(cmd.Context(), r, u.by())
				}
				if err != nil {
					return trailProblem(err)
				}
				out.Held, out.Collapsed = p.Held, p.Collapsed
				for class := range r.Before {
					out.Removed[class] = p.Removed[class]
				}
				if asJSON {
					return printJSON(cmd, out)
				}
				return out.print(cmd, r)
			})
		},
	}
	u.register(cmd, "reference under which the periods were decided")
	cmd.Flags().StringArrayVar(&keep, "keep", nil, "how long to keep a class, as in views=P1Y; may be repeated")
	cmd.Flags().StringArrayVar(&known, "known", nil, "a finding that was looked into, as FROM-TO; may be repeated")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would go and remove nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// parseRetention reads --keep.
func parseRetention(keep []string, now time.Time) (r audit.Retention, err error) {
	r.Before = map[audit.Class]time.Time{}
	if len(keep) == 0 {
		return r, errors.New("log prune: --keep is missing: how long to keep which class, as in views=P1Y")
	}
	var known []string
	for _, c := range audit.Classes() {
		if c != audit.Upkeep {
			known = append(known, string(c))
		}
	}
	for _, one := range keep {
		class, period, ok := strings.Cut(one, "=")
		switch {
		case !ok:
			return r, fmt.Errorf("log prune: --keep %s: want CLASS=PERIOD, as in views=P1Y", oneLine(one))
		case !slices.Contains(known, class):
			return r, fmt.Errorf("log prune: --keep: no class %q%s; known are %s", oneLine(class), nearest.Hint(class, known), strings.Join(known, ", "))
		case !r.Before[audit.Class(class)].IsZero():
			return r, fmt.Errorf("log prune: --keep names %s twice", class)
		}
		if r.Before[audit.Class(class)], err = ago(period, now); err != nil {
			return r, fmt.Errorf("log prune: --keep %s: %w", class, err)
		}
	}
	return r, nil
}

var periodForm = regexp.MustCompile(`^P(?:(\d{1,3})Y)?(?:(\d{1,4})M)?(?:(\d{1,4})W)?(?:(\d{1,5})D)?$`)

// ago returns the instant that lies a period before now. A day that the earlier month has not becomes its last.
func ago(period string, now time.Time) (time.Time, error) {
	m := periodForm.FindStringSubmatch(period)
	n := make([]int, 5)
	total := 0
	for i := 1; i < len(m); i++ {
		n[i], _ = strconv.Atoi(m[i]) // empty is zero
		total += n[i]
	}
	if total == 0 {
		return time.Time{}, fmt.Errorf("%q is no period; want one like P90D, P18M or P2Y", oneLine(period))
	}
	now = now.UTC()
	first := time.Date(now.Year()-n[1], now.Month()-time.Month(n[2]), 1, now.Hour(), now.Minute(), now.Second(), 0, time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(now.Day(), last)-1-7*n[3]-n[4]), nil
}

// heldSubjects returns the patrons under a legal hold, and how many holds are on borrowers of whom there is no patron record: about them there is
// nothing in the trail. Nobody looks at these patrons, so that the trail does not say so of each; it says that the holds were read, and by whom.
func (d *database) heldSubjects(ctx context.Context, k *crypto.Keyring, t *audit.Trail, by audit.Event) (held []crypto.Subject, unknown int, err error) {
	holds, err := d.Holds(ctx)
	if err != nil || len(holds) == 0 {
		return nil, 0, err
	}
	by.Role = "systems"
	if err := recordHolds(ctx, t, by, len(holds)); err != nil {
		return nil, 0, err
	}
	dir, err := d.directory(d.db, k, recordedAsOne{}, nil)
	if err != nil {
		return nil, 0, err
	}
	for _, h := range holds {
		if !h.Until.IsZero() && !h.Until.After(time.Now()) {
			continue
		}
		id, err := dir.Resolve(ctx, jobCall(by.Actor, "integration", "overdue"), string(h.Borrower))
		switch {
		case errors.Is(err, patron.ErrNotFound):
			unknown++
		case err != nil:
			return nil, 0, patronProblem(err)
		default:
			held = append(held, id.Subject())
		}
	}
	return held, unknown, nil
}

// recordedAsOne takes the events of look-ups that one event has said all of already.
type recordedAsOne struct{}

func (recordedAsOne) Record(context.Context, audit.Event) error { return nil }

// A prunedReport is what log prune --json prints.
type prunedReport struct {
	DryRun    bool                `json:"dry_run"`
	Removed   map[audit.Class]int `json:"removed"` // of each class that --keep names; in a dry run, what has expired
	Held      int                 `json:"held"`
	Unknown   int                 `json:"holds_unknown"` // legal holds on borrowers of whom there is no patron record
	Collapsed uint64              `json:"collapsed"`
	TrailHeld []string            `json:"trail_held"` // legal holds on the trail: nothing goes
}

func (p *prunedReport) print(cmd *cobra.Command, r audit.Retention) error {
	w := &errWriter{out: cmd.OutOrStdout()}
	word := "REMOVED"
	if p.DryRun {
		word = "EXPIRED"
	}
	t := table{columns: []string{"CLASS", "OLDER THAN", word}}
	for _, class := range audit.Classes() {
		if before, named := r.Before[class]; named {
			t.add(string(class), stamp(before), thousands(p.Removed[class]))
		}
	}
	w.table(t)
	if p.Held > 0 {
		w.printf("%s about patrons under a legal hold: kept\n", plural(p.Held, "entry"))
	}
	if p.Unknown > 0 {
		w.printf("%s on borrowers of whom there is no patron record\n", plural(p.Unknown, "legal hold"))
	}
	if p.Collapsed > 0 {
		w.printf("entries before number %s are gone with their hashes\n", thousands(int(p.Collapsed)))
	}
	if len(p.TrailHeld) > 0 {
		w.printf("a legal hold is on the trail (%s): nothing would go\n", oneLine(strings.Join(p.TrailHeld, ", ")))
	}
	if p.DryRun {
		w.printf("dry run: nothing was removed\n")
	}
	return w.err
}

func newLogHold() *cobra.Command {
	return group(&cobra.Command{
		Use:   "hold",
		Short: "Set, end and list legal holds on the trail as a whole",
		Long: `While a legal hold is on the trail, nothing of it is pruned. Holds are entries of the trail themselves. A
hold on a patron (carrel hold) keeps the entries about that patron, too.`,
		Example: `  carrel log hold add --db library.db --ref "case 2026-114" --actor counsel
  carrel log hold release --db library.db --ref "case 2026-114" --actor counsel
  carrel log hold list --db library.db`,
	}, newLogHoldChange("add", "Set a legal hold on the trail", "held", audit.Hold), newLogHoldChange("release", "End a legal hold on the trail", "released", audit.Release), newLogHoldList())
}

func newLogHoldChange(name, short, said string, action audit.Action) *cobra.Command {
	var u upkeepFlags
	var ref string
	cmd := &cobra.Command{
		Use:     name + " --db DSN --ref REF --actor A",
		Short:   short,
		Example: `  carrel log hold ` + name + ` --db library.db --ref "case 2026-114" --actor counsel`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "ref"); err != nil {
				return err
			}
			return u.with(cmd, func(_ *database, _ *crypto.Keyring, t *audit.Trail) error {
				holds, err := t.Holds(cmd.Context())
				if err != nil {
					return trailProblem(err)
				}
				if is := slices.Contains(holds, ref); is == (action == audit.Hold) {
					if is {
						return fmt.Errorf("%q is on the trail already", oneLine(ref))
					}
					return fmt.Errorf("no hold %q on the trail; see carrel log hold list", oneLine(ref))
				}
				e := u.by()
				e.Action, e.Kind, e.Object = action, audit.TrailItself, ref
				if err := t.Record(cmd.Context(), e); err != nil {
					return trailProblem(err)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", said, oneLine(ref))
				return err
			})
		},
	}
	u.register(cmd, "")
	cmd.Flags().StringVar(&ref, "ref", "", "the case: a reference, never a name")
	return cmd
}

func newLogHoldList() *cobra.Command {
	var dsn, keys string
	var anchors []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list --db DSN",
		Short:   "List the legal holds on the trail",
		Example: `  carrel log hold list --db library.db`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			var holds []string
			err := withDatabase(cmd.Context(), dsn, readWrite, func(d *database) error { // the newest hold may have no checkpoint yet
				k, err := d.openKeys(cmd.Context(), keys)
				if err != nil {
					return err
				}
				return d.withTrail(cmd.Context(), k, anchors, func(t *audit.Trail) (err error) {
					holds, err = t.Holds(cmd.Context())
					return trailProblem(err)
				})
			})
			if err != nil {
				return placed(cmd, err)
			}
			if asJSON {
				return printJSON(cmd, struct {
					Holds []string `json:"holds"`
				}{append([]string{}, holds...)})
			}
			if len(holds) == 0 {
				holds = []string{"no legal holds on the trail"}
			}
			for _, ref := range holds {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), oneLine(ref)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	addDBFlag(cmd, &dsn)
	addKeysFlag(cmd, &keys)
	addAnchorFlag(cmd, &anchors)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
