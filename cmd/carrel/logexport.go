package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/internal/nearest"
)

func newReportExposure() *cobra.Command {
	r := new(reportFlags)
	s, all := audit.Scope{}, false
	r.check = func(cmd *cobra.Command) error { return checkScope(cmd, &s, all, r.since != "" || r.until != "") }
	cmd := r.command("exposure", "After a breach: exactly who and what is out",
		`Says of an account, role, break-glass grant, recipient or time which patrons and segments were shown, and
from when to when, with the numbers that a notice to the authority (GDPR, article 33) asks for. Looks are
recorded once in half an hour, so it may say too much by that, never too little. With --all a copy of the
database is out together with its keys: everybody, and everything.`,
		"--staff staff-17 --since 2026-11-01 ", aboutNobody,
		func(r *reporting) error {
			s.Period, s.Everyone = r.period, all
			x, err := r.Exposure(r.cmd.Context(), r.by, s)
			if err != nil {
				return err
			}
			if x.Records == 0 && x.Events == 0 {
				r.nothing("staff", "as", "grant", "recipient")
			}
			return r.exposure(x)
		})
	f := cmd.Flags()
	f.StringArrayVar(&s.Actors, "staff", nil, "an account of a member of staff or program; may be repeated")
	f.StringArrayVar(&s.Roles, "as", nil, "all who acted in this role; may be repeated")
	f.StringArrayVar(&s.Grants, "grant", nil, "the ID of a break-glass grant; may be repeated")
	f.StringArrayVar(&s.Recipients, "recipient", nil, "a recipient of exports; may be repeated")
	f.BoolVar(&all, "all", false, "everything is out: the database and its keys")
	return cmd
}

// exposure prints who is out; for people the numbers first.
func (r *reporting) exposure(x audit.Exposure) error {
	if r.flags.asJSON {
		if x.Rows == nil {
			x.Rows = []audit.Exposed{}
		}
		if err := printJSON(r.cmd, x); err != nil {
			return err
		}
		return r.skipped(x.Skipped)
	}
	if !r.flags.csv {
		w := &errWriter{out: r.cmd.OutOrStdout()}
		w.printf("%s, %s (patrons × segments), from %s\n", plural(x.Patrons, "patron"), plural(x.Records, "record"), plural(x.Events, "event"))
		if !x.First.IsZero() {
			w.printf("out between %s and %s\n", stamp(x.First), stamp(x.Last))
		}
		t := table{columns: words("SEGMENT PATRONS")}
		for _, segment := range slices.Sorted(maps.Keys(x.Segments)) {
			t.add(segment, thousands(x.Segments[segment]))
		}
		if len(t.rows) > 0 {
			w.printf("\n")
			w.table(t)
		}
		if x.ForgottenAtMost > 0 {
			w.printf("\nBesides, at most %s who %s forgotten since: nothing leads to them any more.\n", plural(x.ForgottenAtMost, "patron"), was(x.ForgottenAtMost))
		}
		if x.Keyless > 0 {
			w.printf("\nBesides, %s whose key was gone already when it was recorded.\n", plural(x.Keyless, "patron"))
		}
		if !x.PrunedBefore.IsZero() {
			w.printf("\nIncomplete: of what was shown before %s the trail was pruned.\n", stamp(x.PrunedBefore))
		}
		if x.Lost > 0 {
			w.printf("\nIncomplete: of the trail %s %s lost.\n", plural(int(x.Lost), "entry"), isAre(int(x.Lost)))
		}
		if w.err == nil && len(x.Rows) == 0 {
			return r.skipped(x.Skipped)
		}
		w.printf("\n")
		if w.err != nil {
			return w.err
		}
	}
	return cmp.Or(printed(r, x.Rows), r.skipped(x.Skipped))
}

// checkScope says what is missing before anything is opened.
func checkScope(cmd *cobra.Command, s *audit.Scope, all, timed bool) error {
	var besides []string
	for _, list := range []struct {
		flag  string
		words []string
	}{{"--staff", s.Actors}, {"--as", s.Roles}, {"--grant", s.Grants}, {"--recipient", s.Recipients}} {
		if len(list.words) > 0 {
			besides = append(besides, list.flag)
		}
	}
	switch {
	case all && len(besides) > 0:
		return fmt.Errorf("%s--all stands alone: leave out %s", place(cmd), strings.Join(besides, ", "))
	case !all && len(besides) == 0 && !timed:
		return fmt.Errorf("%ssay what is out: --staff, --as, --grant, --recipient, --since or --all", place(cmd))
	}
	return nil
}

func was(n int) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

func newLogExport() *cobra.Command {
	r := new(reportFlags)
	var out, format, site, address string
	var actions []string
	var name bool
	cmd := &cobra.Command{
		Use:   "export --db DSN --actor A --role R --purpose P",
		Short: "Write the trail as JSON Lines: carrel's own, or FHIR AuditEvents",
		Long: `Writes one event a line, in their order. The format jsonl is carrel's own (docs/formats.md); fhir is
AuditEvent of FHIR R4, after IHE's Basic Audit Log Patterns. Patrons are pseudonyms that change every
month; --name-patrons writes their IDs and needs --approval. The file is made with access for its owner
only and never overwritten. What is written is recorded, page by page, before it is.`,
		Example: `  carrel log export --db library.db --since 2026-11-01 --out trail.jsonl --actor dpo --role reviewer --purpose review
  carrel log export --db library.db --format fhir --site "Main Library" --out trail.ndjson --actor dpo --role reviewer --purpose review`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			period, err := parseWindow(r.since, r.until)
			if err != nil {
				return fmt.Errorf("%s%w", place(cmd), err)
			}
			f := audit.LogFilter{Period: period, Name: name}
			for _, a := range actions {
				if audit.Action(a).Class() == "" {
					return fmt.Errorf("%s--action%s: no such action%s", place(cmd), naming(a), nearest.Hint(a, actionWords()))
				}
				f.Actions = append(f.Actions, audit.Action(a))
			}
			switch {
			case format != "jsonl" && format != "fhir":
				return fmt.Errorf("%s--format %s: want jsonl or fhir", place(cmd), oneLine(format))
			case format == "fhir" && site == "":
				return fmt.Errorf("%s--site is missing: the name of the library system, for FHIR", place(cmd))
			case name && r.approval == "":
				return fmt.Errorf("%s--name-patrons needs --approval, the reference under which it was approved", place(cmd))
			}
			return r.report(cmd, period, aboutNobody, func(r *reporting) error {
				return r.export(out, format, f, audit.FHIR{LogFilter: f, Site: site, Address: address})
			})
		},
	}
	r.register(cmd)
	f := cmd.Flags()
	f.StringVar(&out, "out", "-", "the file to write; - for standard output")
	f.StringVar(&format, "format", "jsonl", "jsonl or fhir")
	f.StringVar(&site, "site", "", "name of the library system, for FHIR")
	f.StringVar(&address, "address", "", "its URI, for FHIR")
	f.StringSliceVar(&actions, "action", nil, "only these actions")
	f.StringVar(&r.since, "since", "", "only from this time on; a date is 00:00 UTC")
	f.StringVar(&r.until, "until", "", "only before this time")
	f.StringVar(&r.approval, "approval", "", "reference under which the export was approved")
	f.BoolVar(&name, "name-patrons", false, "write the IDs of patrons")
	return cmd
}

func actionWords() (list []string) {
	for _, a := range audit.Actions() {
		list = append(list, string(a))
	}
	return list
}

func (r *reporting) export(out, format string, f audit.LogFilter, fhir audit.FHIR) (err error) {
	to := r.cmd.OutOrStdout()
	if out != "-" {
		var file *os.File
		if file, err = createPrivate(out); err != nil { // err is the one that is looked at below
			return err
		}
		defer func() {
			if cerr := file.Close(); err == nil && cerr != nil {
				err = fmt.Errorf("%s: %w", out, reason(cerr))
			}
			if err != nil && !errors.Is(err, errFound) {
				os.Remove(out) // half an export is none
			}
		}()
		to = file
	}
	buffered := bufio.NewWriter(to)
	var done audit.Written
	if format == "fhir" {
		done, err = r.WriteFHIR(r.cmd.Context(), r.by, buffered, fhir)
	} else {
		done, err = r.WriteJSONL(r.cmd.Context(), r.by, buffered, f)
	}
	if err == nil {
		err = buffered.Flush()
	}
	if err != nil {
		return err
	}
	if out != "-" {
		fmt.Fprintf(r.cmd.ErrOrStderr(), "carrel: wrote %s\n", plural(done.Events, "event"))
	}
	return r.skipped(done.Skipped)
}
