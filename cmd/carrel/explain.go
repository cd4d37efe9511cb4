package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

func newExplain() *cobra.Command {
	var policyFile, at string
	var why bool
	cmd := &cobra.Command{
		Use:   "explain --policy FILE [RECORDS.jsonl]",
		Short: "Say of each record whether it would be unlinked, by which rule, and if not why and until when",
		Long: `Reads records as JSON Lines (docs/formats.md, "Records"), from a file, which may be gzipped, or from standard
input, and writes one decision for each, in the same order. Nothing is stored and nothing is changed.`,
		Example: `  carrel explain --policy policy.yaml records.jsonl
  carrel explain --policy policy.yaml --at 2026-11-01 --why records.jsonl.gz
  export-from-lms | carrel explain --policy policy.yaml | grep '"keep"'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("%sone file at a time, got %d", place(cmd), len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needed(cmd, "policy"); err != nil {
				return err
			}
			e := explainer{why: why, name: "-"}
			if len(args) == 1 {
				e.name = args[0]
			}
			if policyFile == "-" && e.name == "-" {
				return fmt.Errorf("%sthe policy and the records cannot both come from standard input", place(cmd))
			}
			var err error
			if e.policy, err = readPolicy(cmd, policyFile); err != nil {
				return err
			}
			if e.at, err = parseAt(at, e.policy.Zone()); err != nil {
				return err
			}
			in, err := openRecords(cmd, e.name)
			if err != nil {
				return err
			}
			defer in.Close()
			return e.run(cmd.Context(), in, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&policyFile, "policy", "", "the retention policy (a YAML file)")
	cmd.Flags().StringVar(&at, "at", "", "decide as of this time; a date is 00:00 in the policy's zone (default now)")
	cmd.Flags().BoolVar(&why, "why", false, "add the policy's explanation of the rule to each decision")
	return cmd
}

// parseAt reads the time of a decision; empty is now.
func parseAt(s string, zone *time.Location) (time.Time, error) {
	if s == "" {
		return time.Now().Truncate(time.Second), nil
	}
	t, err := circulation.Times(zone)(s)
	if err != nil {
		return t, fmt.Errorf("--at: %w", err)
	}
	return t, nil
}

// openRecords opens a file, gzipped or not; "-" is standard input.
func openRecords(cmd *cobra.Command, name string) (io.ReadCloser, error) {
	if name == "-" {
		return unpack(io.NopCloser(cmd.InOrStdin()), "standard input")
	}
	f, err := openFile(cmd.Context(), name)
	if err != nil {
		return nil, err
	}
	return unpack(struct {
		io.Reader
		io.Closer
	}{interruptible{cmd.Context(), f}, f}, name)
}

// decide appends the decision on r as one line.
func (e *explainer) decide(b []byte, r *circulation.Record) []byte {
	d := e.policy.Decide(r, e.at)
	b = append(append(append(b, `{"kind":"`...), r.Kind.String()...), `","id":`...)
	b = appendText(b, r.ID)
	if d.Unlink {
		b = append(b, `,"decision":"unlink","rule":`...)
	} else {
		b = append(b, `,"decision":"keep","rule":`...)
	}
	b = append(appendText(b, d.Rule), `,"reasons":[`...)
	b = appendReasons(b, d.Reasons)
	b = append(b, `],"eligible_at":"`...)
	if !d.EligibleAt.IsZero() {
		b = appendTime(b, d.EligibleAt)
	}
	b = append(b, '"')
	if e.why {
		b = appendText(append(b, `,"why":`...), e.policy.Why(r.Kind, d.Rule))
	}
	return append(b, "}\n"...)
}

func appendReasons(b []byte, r anonymize.Reasons) []byte {
	for i, name := range r.Names() {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), name...), '"')
	}
	return b
}
