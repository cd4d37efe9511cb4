// Command ownschema shows that a library system can adopt carrel's anonymize package alone, on tables
// of its own: other names, other shapes, a borrower column that becomes NULL. store.go is what there
// is to write, and ownschema_test.go proves it with storetest.
//
//	go run ./examples/ownschema
package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	_ "modernc.org/sqlite"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

const policyFile = `
carrel-retention: 1
id: ownschema
revision: 1
groups: {studierende: [bachelor, master]}
records:
  loans:
    - {name: money, fee: had, since: fee-closed, after: P2Y}
    - {name: students, group: [studierende], after: P30D, keep-last: 1, at-most: P1Y}
    - {name: everybody, after: P90D}
  fees:
    - {name: settled, after: P1Y}
`

// library fills the tables with a handful of loans and fees.
const library = `
INSERT INTO leser (nr, gruppe) VALUES ('L-1001', 'bachelor'), ('L-1002', 'gast'), ('L-1003', 'master');
INSERT INTO ausleihe (id, leser_nr, lesergruppe, zweigstelle, exemplar, ausgeliehen, rueckgabe, verlust) VALUES
	(1, 'L-1001', 'bachelor', 'Zentrale', 'e1', 1000000 * unixepoch('2026-01-07'), 1000000 * unixepoch('2026-02-03'), 0),
	(2, 'L-1001', 'bachelor', 'Zentrale', 'e2', 1000000 * unixepoch('2026-03-02'), 1000000 * unixepoch('2026-03-20'), 0),
	(3, 'L-1002', 'gast',     'Zentrale', 'e3', 1000000 * unixepoch('2026-05-11'), 1000000 * unixepoch('2026-05-29'), 0),
	(4, 'L-1002', 'gast',     'Altstadt', 'e4', 1000000 * unixepoch('2025-11-03'), 1000000 * unixepoch('2025-12-01'), 0),
	(5, 'L-1003', 'master',   'Altstadt', 'e5', 1000000 * unixepoch('2025-09-01'), 1000000 * unixepoch('2025-10-01'), 0),
	(6, 'L-1003', 'master',   'Altstadt', 'e6', 1000000 * unixepoch('2026-04-01'), NULL,              0),
	(7, 'L-1003', 'master',   'Zentrale', 'e7', 1000000 * unixepoch('2025-02-03'), 1000000 * unixepoch('2025-03-03'), 1);
INSERT INTO gebuehr (id, ausleihe_id, leser_nr, zweigstelle, art, betrag, entstanden, beglichen, stand, zahlart) VALUES
	(1, 4, 'L-1002', 'Altstadt', 'Säumnis', 250, 1000000 * unixepoch('2025-11-30'), 1000000 * unixepoch('2025-12-02'), 'erledigt', 'bar'),
	(2, 5, 'L-1003', 'Altstadt', 'Säumnis', 500, 1000000 * unixepoch('2025-10-01'), NULL,              'offen',    ''),
	(3, NULL, 'L-1001', 'Zentrale', 'Kopien', 120, 1000000 * unixepoch('2025-03-01'), 1000000 * unixepoch('2025-03-01'), 'erledigt', 'bar');
`

func main() {
	dir, err := os.MkdirTemp("", "ownschema")
	if err == nil {
		err = run(context.Background(), os.Stdout, filepath.Join(dir, "bibliothek.db"))
		_ = os.RemoveAll(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, path string) error {
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, schema+library); err != nil {
		return err
	}

	policy, err := anonymize.ParsePolicy([]byte(policyFile))
	if err != nil {
		return err
	}
	at := time.Date(2026, 6, 1, 2, 0, 0, 0, time.UTC) // a night that everybody's output agrees about
	if err := explain(ctx, w, store{db}, policy, at); err != nil {
		return err
	}
	sweep, err := anonymize.NewSweep(store{db}, policy, anonymize.Config{Now: func() time.Time { return at }})
	if err != nil {
		return err
	}
	report, err := sweep.Run(ctx, at)
	if err != nil {
		return err
	}
	return summarize(w, report)
}

// explain prints what is about to happen to every record, and why.
func explain(ctx context.Context, w io.Writer, s store, policy *anonymize.Policy, at time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "record\tdecision\trule\treasons\teligible")
	for _, kind := range []circulation.Kind{circulation.KindLoan, circulation.KindFee} {
		page, err := s.Linked(ctx, anonymize.Query{Kind: kind, Limit: 100, At: at, Needs: anonymize.NeedEverything})
		if err != nil {
			return err
		}
		for _, r := range page.Records {
			d := policy.Decide(&r, at)
			decision, eligible := "keep", "not known yet"
			if d.Unlink {
				decision = "unlink"
			}
			if !d.EligibleAt.IsZero() {
				eligible = d.EligibleAt.Format(time.DateOnly)
			}
			fmt.Fprintf(table, "%s %s\t%s\t%s\t%s\t%s\n", kind, r.ID, decision, d.Rule, strings.Join(d.Reasons.Names(), " "), eligible)
		}
	}
	return table.Flush()
}

// summarize prints what the sweep did.
func summarize(w io.Writer, report anonymize.Report) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nkind\tunlinked\tby rule\tkept\tby reason")
	for _, kind := range slices.Sorted(maps.Keys(report.Kinds)) {
		k := report.Kinds[kind]
		fmt.Fprintf(table, "%s\t%d\t%s\t%d\t%s\n", kind, k.Unlinked, counts(k.ByRule), k.Kept, counts(k.ByReason))
	}
	return table.Flush()
}

func counts(m map[string]int) string {
	var words []string
	for _, word := range slices.Sorted(maps.Keys(m)) {
		words = append(words, fmt.Sprintf("%s %d", word, m[word]))
	}
	return strings.Join(words, ", ")
}
