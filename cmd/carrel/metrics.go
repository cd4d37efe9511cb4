package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/anonymize"
)

// Metrics are for the textfile collector of Prometheus' node exporter: a job that has ended cannot be asked. The format is
// that of Prometheus' text exposition, version 0.0.4.

// A metric is one family of numbers.
type metric struct {
	name, help string
	samples    []sample
}

type sample struct {
	labels []string // names and values in turn
	value  float64
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// expose writes families in the order in which they are given, and leaves out empty ones.
func expose(families []metric) []byte {
	var b bytes.Buffer
	for _, m := range families {
		if len(m.samples) == 0 {
			continue
		}
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %[1]s gauge\n", m.name, m.help)
		for _, s := range m.samples {
			b.WriteString(m.name)
			for i := 0; i < len(s.labels); i += 2 {
				fmt.Fprintf(&b, `%c%s="%s"`, "{,"[min(i, 1)], s.labels[i], escapeLabel.Replace(s.labels[i+1]))
			}
			if len(s.labels) > 0 {
				b.WriteByte('}')
			}
			b.WriteString(" " + strconv.FormatFloat(s.value, 'g', -1, 64) + "\n")
		}
	}
	return b.Bytes()
}

// writeMetrics replaces a file, whole: whoever reads it at the moment sees the old numbers or the new ones. Others than its owner may read it, for it counts and
// names nobody.
func writeMetrics(path string, families []metric) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp") // not .prom, which the collector would read
	if err != nil {
		return fmt.Errorf("--metrics %s: cannot be written: %w", oneLine(path), reason(err))
	}
	_, err = f.Write(expose(families))
	err = cmp.Or(err, f.Chmod(0o644))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		var link *os.LinkError
		if errors.As(err, &link) {
			err = link.Err
		}
		return fmt.Errorf("--metrics %s: cannot be written: %w", oneLine(path), reason(err))
	}
	return nil
}

func addMetricsFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "metrics", "", "also write numbers for Prometheus to this file, as the node exporter's textfile collector reads them (*.prom)")
}

// sweepMetrics are the numbers of a sweep that succeeded, or of one shard of it. One that fails writes none, so that
// the time of the last success grows old.
func sweepMetrics(r anonymize.Report, shard anonymize.Shard, now time.Time) []metric {
	var part []string
	if s := shard.String(); s != "" {
		part = []string{"shard", s}
	}
	families := []metric{
		{name: "carrel_sweep_unlinked", help: "Records that the last successful sweep unlinked from their borrowers."},
		{name: "carrel_sweep_kept", help: "Records that still name a borrower after the last successful sweep."},
		{name: "carrel_sweep_conflicts", help: "Records among the kept that were due but changed or protected when it came to writing."},
		{name: "carrel_sweep_deferred", help: "Records among the kept that were not read, because nothing changed and they are not due yet."},
		{name: "carrel_sweep_seconds", help: "How long the last successful sweep took.", samples: []sample{{part, r.Seconds}}},
		{name: "carrel_sweep_last_success_timestamp_seconds", help: "When the last successful sweep ended.", samples: []sample{{part, float64(now.Unix())}}},
	}
	var kinds []string
	for kind := range r.Kinds {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		k := r.Kinds[kind]
		for i, n := range [...]int{k.Unlinked, k.Kept, k.Conflicts, k.Deferred} {
			if r.Partial && (i == 1 || i == 3) {
				continue // nobody has counted what was not read
			}
			families[i].samples = append(families[i].samples, sample{append([]string{"kind", kind}, part...), float64(n)})
		}
	}
	return families
}
