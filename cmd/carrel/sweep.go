package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
)

func newSweep() *cobra.Command {
	var dsn, policyFile, at, shardText, metrics string
	var in trailFlags
	var dry, asJSON bool
	cmd := &cobra.Command{
		Use:   "sweep --db DSN --policy FILE",
		Short: "Unlink from their borrowers all records that are due",
		Long: `Unlinks from their borrowers, for good, all records that the policy says are due, and reports what was unlinked
by which rule and what was kept for which reason. It can be interrupted (Ctrl-C) or killed at any moment and
run again. With --dry-run nothing is written, and --at may lie in the future.

A record that is kept is not read again before it is due or something has changed, and counts under no reason then.
A dry run reads everything and has all reasons.`,
		Example: `  carrel sweep --db library.db --policy policy.yaml --dry-run
  carrel sweep --db library.db --policy policy.yaml --dry-run --at 2027-01-01
  carrel sweep --db library.db --policy policy.yaml --json
  carrel sweep --db library.db --policy policy.yaml --shard 0/4`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db", "policy"); err != nil {
				return err
			}
			shard, err := anonymize.ParseShard(shardText)
			if err != nil {
				return fmt.Errorf("--shard: want index/parts, the index counted from 0, as in 0/4")
			}
			policy, err := readPolicy(cmd, policyFile)
			if err != nil {
				return err
			}
			when, err := parseAt(at, policy.Zone())
			if err != nil {
				return err
			}
			if !dry && when.After(time.Now()) {
				return fmt.Errorf("--at %s lies in the future; only --dry-run can look there", stamp(when))
			}
			if dry && metrics != "" {
				return errors.New("sweep: --metrics counts what was done, and --dry-run does nothing")
			}
			mode := readWrite
			if dry {
				mode = readOnly
			}
			d, err := openDatabase(cmd.Context(), dsn, mode)
			if err != nil {
				return err
			}
			noFees, err := d.knowsNoFees(cmd.Context())
			if err != nil {
				return errors.Join(err, d.close())
			}
			report, err := d.sweepWithTrail(cmd, policy, shard, when, dry, in)
			if cerr := d.close(); err == nil {
				err = cerr
			}
			var unfinished *unfinishedError
			if err != nil && !errors.As(err, &unfinished) {
				return err
			}
			if metrics != "" && err == nil {
				err = writeMetrics(metrics, sweepMetrics(report, shard, time.Now()))
			}
			// What was unlinked is unlinked, also when clearing up after it failed.
			if asJSON {
				return cmp.Or(printJSON(cmd, report), err)
			}
			return cmp.Or(printSweep(cmd.OutOrStdout(), policy, report, noFees), err)
		},
	}
	addDBFlag(cmd, &dsn)
	cmd.Flags().StringVar(&policyFile, "policy", "", "the retention policy (a YAML file)")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be done and write nothing")
	cmd.Flags().StringVar(&at, "at", "", "decide as of this time; a date is 00:00 in the policy's zone (default now)")
	cmd.Flags().StringVar(&shardText, "shard", "", "only one of several parts, as in 0/4, so that several can share the work")
	cmd.Flags().Bool("fast", false, "leave out the totals of what was not read")
	in.register(cmd)
	addMetricsFlag(cmd, &metrics)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// sweepWithTrail sweeps and leaves a record of every page in the audit trail, if there is a keyring. Rules never look inside a borrower, so
// that a sweep needs none; but the trail does.
func (d *database) sweepWithTrail(cmd *cobra.Command, policy *anonymize.Policy, shard anonymize.Shard, at time.Time, dry bool, in trailFlags) (report anonymize.Report, err error) {
	if dry {
		return sweep(cmd, d, policy, shard, at, dry)
	}
	k, err := d.trailKeys(cmd, in)
	if err != nil {
		return report, err
	}
	if k == nil {
		return sweep(cmd, d, policy, shard, at, dry)
	}
	return d.sweepRecorded(cmd, k, in, policy, shard, at)
}

// trailKeys opens the keyring that the audit trail needs. Without one it returns nil, and says what that means.
func (d *database) trailKeys(cmd *cobra.Command, in trailFlags) (*crypto.Keyring, error) {
	files, err := d.findKeys(in.keys)
	if err != nil {
		return nil, err
	}
	if !files.exists() {
		if !files.beside { // somebody said where it is, and is mistaken
			return nil, fmt.Errorf("%s: there is no keyring; say where it is with --keys or CARREL_KEYS", files.keyring)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "carrel: %sthere is no keyring %s, so the sweep leaves receipts in the database and nothing in its audit trail; see --keys\n", place(cmd), files.keyring)
		return nil, nil
	}
	return d.open(cmd.Context(), files)
}

func (d *database) sweepRecorded(cmd *cobra.Command, k *crypto.Keyring, in trailFlags, policy *anonymize.Policy, shard anonymize.Shard, at time.Time) (report anonymize.Report, err error) {
	err = d.withTrail(cmd.Context(), k, in.anchors, func(t *audit.Trail) (err error) {
		with := *d
		with.circulationStore = d.recorded(d.db, t, byCommand(in.actor, "systems"))
		report, err = sweep(cmd, &with, policy, shard, at, false)
		return err
	})
	return report, err
}

// An unfinishedError says that everything that was due is unlinked, but that copies of it are left.
type unfinishedError struct{ left string }

func (e *unfinishedError) Error() string {
	return "sweep: the records were unlinked, but " + e.left + "; run it again"
}

// A finishing store remembers how far a sweep came: an error after the last page is no error of the sweep's.
type finishing struct {
	*database
	err error
}

// Finish implements anonymize.Finisher.
func (f *finishing) Finish(ctx context.Context) error {
	f.err = f.database.Finish(ctx)
	return f.err
}

// sweep runs or plans one sweep and shows its progress.
func sweep(cmd *cobra.Command, d *database, policy *anonymize.Policy, shard anonymize.Shard, at time.Time, dry bool) (anonymize.Report, error) {
	p := newProgress(cmd.ErrOrStderr(), "sweep", 0)
	verb := "unlinked"
	if dry {
		verb = "to be unlinked"
	}
	before, kind := 0, circulation.Kind(0)
	read := 0
	store := &finishing{database: d}
	fast, _ := cmd.Flags().GetBool("fast") // not every command that sweeps has it
	s, err := anonymize.NewSweep(store, policy, anonymize.Config{Shard: shard, Fast: fast, Progress: func(now anonymize.Progress) {
		if now.Kind != kind {
			before, kind = before+read, now.Kind
		}
		read = now.Read
		p.set(int64(before+read), fmt.Sprintf("%s: %s read, %s %s", kind, thousands(now.Read), thousands(now.Unlinked), verb))
	}})
	if err != nil {
		return anonymize.Report{}, err
	}
	run := s.Run
	if dry {
		run = s.Plan
	}
	report, err := run(cmd.Context(), at)
	p.end()
	if err != nil && cmd.Context().Err() != nil {
		unlinked := 0
		for _, k := range report.Kinds {
			unlinked += k.Unlinked
		}
		if dry {
			return report, interruption("sweep: interrupted; nothing was written")
		}
		return report, interruption(fmt.Sprintf("sweep: interrupted after %s had been unlinked; nothing is half done, simply run it again", plural(unlinked, "record")))
	}
	if errors.Is(err, anonymize.ErrNotEffective) {
		return report, fmt.Errorf("sweep: the policy is not effective before %s; try it with carrel explain", stamp(policy.Effective()))
	}
	switch {
	case store.err != nil:
		return report, &unfinishedError{d.unfinished(store.err)}
	case err != nil:
		return report, fmt.Errorf("%s: %w", d.path, err)
	}
	return report, nil
}

// printSweep writes the report for people: what happened by kind, then by rule, then what stays and why.
func printSweep(out io.Writer, policy *anonymize.Policy, r anonymize.Report, noFees bool) error {
	mode := ""
	unlinked, kept := "Unlinked", "Kept"
	if r.DryRun {
		mode = "  (dry run: nothing was written)"
		unlinked, kept = "Would be unlinked", "Would be kept"
	}
	notRead := 0
	kinds := table{columns: words("KIND LINKED-BEFORE UNLINKED KEPT CONFLICTS")}
	rules := table{columns: words("KIND RULE RECORDS WHY")}
	reasons := table{columns: words("KIND REASON RECORDS MEANING")}
	for _, k := range circulation.Kinds() {
		kr := r.Kinds[k.String()]
		if kr == nil {
			continue
		}
		kinds.add(k.String(), thousands(kr.LinkedBefore), thousands(kr.Unlinked), thousands(kr.Kept), thousands(kr.Conflicts))
		notRead += kr.Deferred
		for _, rule := range byCount(kr.ByRule) {
			rules.add(k.String(), rule, thousands(kr.ByRule[rule]), cmp.Or(oneLine(policy.Why(k, rule)), ruleMeaning(rule)))
		}
		for _, reason := range byCount(kr.ByReason) {
			reasons.add(k.String(), reason, thousands(kr.ByReason[reason]), reasonMeaning(reason))
		}
	}
	w := &errWriter{out: out}
	w.printf("Policy %s, revision %d, %s\nAt %s%s\n\n", oneLine(r.Policy.ID), r.Policy.Revision, shortDigest(r.Policy.Digest), stamp(r.At), mode)
	w.table(kinds)
	switch {
	case r.Partial:
		w.printf("\nNote: only what was read is counted (--fast).\n")
	case notRead > 0:
		w.printf("\n%s kept without being read: nothing has changed, and not due yet.\n", plural(notRead, "record"))
	}
	if noFees {
		w.printf("\nNote: no fee was ever imported, so no loan is kept for money owed.\n")
	}
	if len(rules.rows) > 0 {
		w.printf("\n%s, by the rule that decided\n", unlinked)
		w.table(rules)
	}
	if len(reasons.rows) > 0 {
		w.printf("\n%s; a record with several reasons counts under each\n", kept)
		w.table(reasons)
	}
	w.printf("\n%.1f s\n", r.Seconds)
	return w.err
}

// An errWriter stops at the first error and remembers it.
type errWriter struct {
	out io.Writer
	err error
}

func (w *errWriter) printf(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.out, format, args...)
	}
}

func (w *errWriter) table(t table) {
	if w.err == nil {
		w.err = t.print(w.out)
	}
}

// byCount returns the keys of counts that are not zero, the largest first.
func byCount(counts map[string]int) []string {
	return slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
}

func shortDigest(digest string) string {
	if len(digest) > 19 {
		return digest[:19] + "…"
	}
	return digest
}

// ruleMeaning explains the two rules that no file defines.
func ruleMeaning(rule string) string {
	switch rule {
	case "default":
		return "no rule matched, and the policy says default: unlink"
	case "patron-wish":
		return "the patron asked for it, within patron-may"
	}
	return ""
}

// reasonMeaning explains a reason in the words of the desk.
func reasonMeaning(reason string) string {
	switch reason {
	case "unfinished":
		return "still out, waiting or unpaid"
	case "lost":
		return "marked lost, until check-in or withdrawal"
	case "claimed-returned":
		return "the patron says it is back; until check-in or withdrawal"
	case "open-fee":
		return "a fee is owed"
	case "fee-in-process":
		return "a fee is being settled"
	case "legal-hold":
		return "a legal hold on the borrower, the item or the record"
	case "patron-wish":
		return "the patron wants it kept"
	case "period-not-passed":
		return "the rule's period has not passed yet"
	case "newer-loans":
		return "the rule waits for newer loans"
	case "patron-not-expired":
		return "the account has not ended, or not long enough ago"
	case "fee-period-not-passed":
		return "the period since its last fee was closed has not passed yet"
	case "no-end-date":
		return "ended, but nobody knows when: no period can be counted"
	case "no-fee-date":
		return "its fee was closed, but nobody knows when"
	case "rule-says-never":
		return "the rule keeps it for ever"
	case "no-rule":
		return "no rule matches"
	case "switched-off":
		return "the policy does not speak of this kind"
	case "already-unlinked":
		return "names nobody"
	}
	return ""
}
