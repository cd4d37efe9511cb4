package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/internal/nearest"
	"github.com/carrel-project/carrel/patron"
)

func newLogReport() *cobra.Command {
	return group(&cobra.Command{
		Use:   "report",
		Short: "Read in the audit trail who did what",
		Long: `Reports need a role that the access file allows to report for the purpose (in the built-in one, reviewer
for review), and are themselves recorded, with whom they name, before they are shown. Each prints a table,
or with --json or --csv the whole of it for programs. Only entries count that carrel wrote: others are
left out, and said.`,
		Example: `  carrel log report last-logins --db library.db --actor dpo --role reviewer --purpose review
  echo 99999395390 | carrel log report views --db library.db --identifier-file - --segments addresses,phones --actor dpo --role reviewer --purpose review
  carrel log report exposure --db library.db --staff staff-17 --since 2026-11-01 --actor dpo --role reviewer --purpose review --csv`,
	}, newReportLastLogins(), newReportLogins(), newReportViews(), newReportViewsBy(), newReportSeen(), newReportChanges(), newReportExports(),
		newReportReports(), newReportExposure())
}

// reportFlags are what all reports have.
type reportFlags struct {
	patronFlags
	who          whoFlags
	since, until string
	asJSON, csv  bool
	quick        bool
	approval     string

	check func(*cobra.Command) error // what can be said of the flags before anything is opened; may be nil
}

// A reporting is a report on its way.
type reporting struct {
	*audit.Reporter
	cmd    *cobra.Command
	flags  *reportFlags
	by     audit.By
	period audit.Period
	about  crypto.Subject // whom it is about; empty when the flags name nobody
}

// command returns the command of a report. About says that it is about one patron: must, may or cannot be.
func (r *reportFlags) command(name, short, long, example string, about aboutPatron, run func(*reporting) error) *cobra.Command {
	cmd := &cobra.Command{Use: name + " --db DSN --actor A --role R --purpose P", Short: short, Long: long, Args: noArgs,
		Example: "  carrel log report " + name + " --db library.db " + example + "--actor dpo --role reviewer --purpose review",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.asJSON && r.csv {
				return fmt.Errorf("%swant either --json or --csv", place(cmd))
			}
			period, err := parseWindow(r.since, r.until)
			if err != nil {
				return fmt.Errorf("%s%w", place(cmd), err)
			}
			if r.check != nil {
				if err := r.check(cmd); err != nil {
					return placed(cmd, err)
				}
			}
			return r.report(cmd, period, about, run)
		}}
	r.register(cmd)
	f := cmd.Flags()
	if about != aboutNobody {
		r.who.register(cmd)
	}
	f.StringVar(&r.since, "since", "", "only from this time on; a date is 00:00 UTC")
	f.StringVar(&r.until, "until", "", "only before this time")
	f.StringVar(&r.approval, "approval", "", "reference under which the report was approved")
	f.BoolVar(&r.quick, "quick", false, "ask the index of the database instead of reading the whole trail; its owner can hide entries from that")
	f.BoolVar(&r.asJSON, "json", false, "print JSON")
	f.BoolVar(&r.csv, "csv", false, "print CSV")
	return cmd
}

type aboutPatron int

const (
	aboutNobody aboutPatron = iota
	aboutMaybe
	aboutOne
)

func parseWindow(since, until string) (p audit.Period, err error) {
	times := circulation.Times(time.UTC)
	if since != "" {
		if p.Since, err = times(since); err != nil {
			return p, fmt.Errorf("--since%s: %w", naming(since), err)
		}
	}
	if until != "" {
		if p.Until, err = times(until); err != nil {
			return p, fmt.Errorf("--until%s: %w", naming(until), err)
		}
	}
	if !p.Since.IsZero() && !p.Until.IsZero() && !p.Since.Before(p.Until) {
		return p, errors.New("--until is not after --since")
	}
	return p, nil
}

// report opens the trail, asks access, finds out whom it is about and makes the report.
func (r *reportFlags) report(cmd *cobra.Command, period audit.Period, about aboutPatron, run func(*reporting) error) error {
	err := r.open(cmd, func(o *openedPatrons) error {
		call := r.call()
		if err := mayReport(cmd, o, call); err != nil {
			return err
		}
		rep, err := audit.NewReporter(audit.ReporterConfig{Store: o.db.log(o.db.db), Keys: o.keys, Recorder: o.trail, Thorough: !r.quick})
		if err != nil {
			return trailProblem(err)
		}
		one := &reporting{Reporter: rep, cmd: cmd, flags: r, period: period,
			by: audit.By{Actor: call.Actor, Role: call.Role, Purpose: call.Purpose, Channel: call.Channel, Approval: r.approval}}
		if about == aboutOne || about == aboutMaybe && (r.who.id != "" || r.who.file != "") {
			id, err := r.who.find(cmd, &r.patronFlags, o.dir)
			if err != nil {
				return patronProblem(err)
			}
			one.about = id.Subject()
		}
		return reportProblem(run(one))
	})
	if errors.Is(err, context.Canceled) {
		return err
	}
	return placed(cmd, err)
}

// mayReport asks access for the right to report. A refusal is recorded.
func mayReport(cmd *cobra.Command, o *openedPatrons, call patron.Call) error {
	may, err := o.matrix.Decide(cmd.Context(), access.Request{Actor: call.Actor, Role: call.Role, Purpose: call.Purpose})
	if err == nil && may.Acts.Has(access.Report) {
		return nil
	}
	e := audit.Event{Time: time.Now(), Action: audit.Report, Outcome: audit.Denied, Why: "no-right", Actor: call.Actor, Role: call.Role, Purpose: call.Purpose, Channel: call.Channel}
	if err := o.trail.Record(cmd.Context(), e); err != nil {
		return trailProblem(err)
	}
	return rewordedError{"not allowed in this role for this purpose, and recorded (no-right); the access file must give the role may: [report] for it", patron.ErrDenied}
}

func reportProblem(err error) error {
	switch {
	case errors.Is(err, crypto.ErrShredded), errors.Is(err, crypto.ErrNoKey):
		return rewordedError{"this patron was forgotten, or was never there: nothing in the trail can be told to be about them", err}
	case errors.Is(err, audit.ErrNotRecorded):
		return rewordedError{"the report cannot be recorded in the trail, and so is not shown", err}
	}
	return trailProblem(err)
}

// printRows prints a report in the form that was asked for.
func printRows[Row any](r *reporting, t audit.Table[Row], err error) error {
	if err != nil {
		return err
	}
	if r.flags.asJSON {
		if t.Rows == nil {
			t.Rows = []Row{}
		}
		return printJSON(r.cmd, t)
	}
	if err := printed(r, t.Rows); err != nil {
		return err
	}
	if t.Forgotten > 0 {
		fmt.Fprintf(r.cmd.ErrOrStderr(), "carrel: besides, at most %s who %s forgotten since\n", plural(t.Forgotten, "patron"), was(t.Forgotten))
	}
	return r.skipped(t.Skipped)
}

// skipped says that entries were left out, which is something that was found.
func (r *reporting) skipped(n int) error {
	if n == 0 {
		return nil
	}
	they := "they are"
	if n == 1 {
		they = "it is"
	}
	fmt.Fprintf(r.cmd.ErrOrStderr(), "carrel: %s left out because %s damaged or forged; see carrel log verify\n", plural(n, "entry"), they)
	return errFound
}

// nothing says that a report about what some flags name is empty: a typing error makes it so, too.
func (r *reporting) nothing(flags ...string) {
	var named []string
	for _, name := range flags {
		if f := r.cmd.Flags().Lookup(name); f != nil && f.Changed {
			named = append(named, "--"+name+" "+strings.Trim(f.Value.String(), "[]"))
		}
	}
	if len(named) > 0 {
		fmt.Fprintf(r.cmd.ErrOrStderr(), "carrel: nothing: is %s spelt as in the trail?\n", oneLine(strings.Join(named, " ")))
	}
}

func newReportLastLogins() *cobra.Command {
	r := new(reportFlags)
	return r.command("last-logins", "When each member of staff logged in last",
		`The last login of each member of staff, and the last attempt since that was restricted by address or failed.`, "", aboutNobody,
		func(r *reporting) error {
			t, err := r.LastLogins(r.cmd.Context(), r.by, r.period)
			return printRows(r, t, err)
		})
}

func newReportLogins() *cobra.Command {
	r := new(reportFlags)
	var results []string
	var staff, role, network string
	var from netip.Prefix
	r.check = func(*cobra.Command) (err error) {
		known := []string{string(audit.Success), string(audit.Restricted), string(audit.Wrong)}
		for _, word := range results {
			if !slices.Contains(known, word) {
				return fmt.Errorf("--result%s: want success, restricted or failed%s", naming(word), nearest.Hint(word, known))
			}
		}
		if network != "" {
			if from, err = netip.ParsePrefix(network); err != nil {
				return fmt.Errorf("--network%s: want a network such as 192.0.2.0/24", naming(network))
			}
		}
		return nil
	}
	cmd := r.command("logins", "Logins: successful, restricted by address, failed",
		`One line for each login or attempt. Patrons are not named, but in a report about one.`, "--result failed --since 2026-11-01 ", aboutMaybe,
		func(r *reporting) error {
			f := audit.LoginFilter{Period: r.period, Staff: staff, Role: role, Patron: r.about, Network: from}
			for _, word := range results {
				f.Results = append(f.Results, audit.Result(word))
			}
			t, err := r.Logins(r.cmd.Context(), r.by, f)
			return printRows(r, t, err)
		})
	cmd.Flags().StringSliceVar(&results, "result", nil, "success, restricted, failed (default all)")
	cmd.Flags().StringVar(&staff, "staff", "", "only of this member of staff")
	cmd.Flags().StringVar(&role, "as", "", "only in this role")
	cmd.Flags().StringVar(&network, "network", "", "only from this network, as in 192.0.2.0/24")
	return cmd
}

func onlySegments(list []string) error {
	_, err := parseSegments(list)
	return err
}

func newReportViews() *cobra.Command {
	r := new(reportFlags)
	var segments []string
	r.check = func(*cobra.Command) error { return onlySegments(segments) }
	cmd := r.command("views", "Who looked at what of a patron, and when",
		`Every look at a patron, and every attempt that was refused. A line with an until stands for all looks of the same kind up to then.`,
		"--identifier-file - --segments addresses,phones ", aboutOne,
		func(r *reporting) error {
			t, err := r.Views(r.cmd.Context(), r.by, r.about, audit.ViewFilter{Period: r.period, Segments: segments})
			return printRows(r, t, err)
		})
	cmd.Flags().StringSliceVar(&segments, "segments", nil, "only looks at one of these")
	return cmd
}

func newReportViewsBy() *cobra.Command {
	r := new(reportFlags)
	var segments []string
	var staff string
	r.check = func(cmd *cobra.Command) error {
		if err := needed(cmd, "staff"); err != nil {
			return err
		}
		return onlySegments(segments)
	}
	cmd := r.command("views-by", "Whom a member of staff looked at", `One line for each look and patron.`, "--staff staff-17 ", aboutNobody,
		func(r *reporting) error {
			t, err := r.ViewsBy(r.cmd.Context(), r.by, staff, audit.ViewFilter{Period: r.period, Segments: segments})
			if err == nil && len(t.Rows)+t.Forgotten == 0 {
				r.nothing("staff")
			}
			return printRows(r, t, err)
		})
	cmd.Flags().StringVar(&staff, "staff", "", "the member of staff or program, by the reference that they use as --actor")
	cmd.Flags().StringSliceVar(&segments, "segments", nil, "only looks at one of these")
	return cmd
}

func newReportSeen() *cobra.Command {
	r := new(reportFlags)
	return r.command("seen", "What a patron may be told about who saw their data",
		`Date, purpose, segments and role of every look at a patron's data, without the member of staff (Court of Justice of the EU, C-579/21).`,
		"--identifier-file - ", aboutOne,
		func(r *reporting) error {
			t, err := r.Seen(r.cmd.Context(), r.by, r.about, r.period)
			return printRows(r, t, err)
		})
}

func newReportChanges() *cobra.Command {
	r := new(reportFlags)
	var segments []string
	r.check = func(*cobra.Command) error { return onlySegments(segments) }
	cmd := r.command("changes", "All changes of a patron's record: which segment, who, when, by which channel",
		`One line for each change of a segment. What stood there before and after is sealed in the trail and not shown.`, "--identifier-file - ", aboutOne,
		func(r *reporting) error {
			t, err := r.Changes(r.cmd.Context(), r.by, r.about, audit.ChangeFilter{Period: r.period, Segments: segments})
			return printRows(r, t, err)
		})
	cmd.Flags().StringSliceVar(&segments, "segments", nil, "only changes of one of these")
	return cmd
}

func newReportExports() *cobra.Command {
	r := new(reportFlags)
	var recipient, staff string
	cmd := r.command("exports", "Exports, with recipient and approval", `One line for each export, refused ones too.`, "--recipient survey-office ", aboutNobody,
		func(r *reporting) error {
			t, err := r.Exports(r.cmd.Context(), r.by, audit.ExportFilter{Period: r.period, Actor: staff, Recipient: recipient})
			if err == nil && len(t.Rows) == 0 {
				r.nothing("staff", "recipient")
			}
			return printRows(r, t, err)
		})
	cmd.Flags().StringVar(&recipient, "recipient", "", "only to this recipient")
	cmd.Flags().StringVar(&staff, "staff", "", "only by this member of staff or program")
	return cmd
}

func newReportReports() *cobra.Command {
	r := new(reportFlags)
	var staff string
	cmd := r.command("reports", "Which reports were made on the trail, and by whom", `One line for each report, refused ones too.`, "", aboutNobody,
		func(r *reporting) error {
			t, err := r.Reports(r.cmd.Context(), r.by, audit.ReportFilter{Period: r.period, Actor: staff})
			return printRows(r, t, err)
		})
	cmd.Flags().StringVar(&staff, "staff", "", "only by this member of staff or program")
	return cmd
}
