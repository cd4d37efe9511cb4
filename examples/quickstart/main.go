// Command quickstart sweeps three loans and a fee that are made up on the spot, and says what went and
// what stayed. Its function sweep is the one in the README.
package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"iter"
	"log"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/memory"
)

//go:embed policy.yaml
var policyFile []byte

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	store := memory.NewCirculation()
	if _, err := store.Save(ctx, history()); err != nil {
		return err
	}
	report, err := sweep(ctx, store, date(time.July, 1))
	if err != nil {
		return err
	}
	for _, kind := range slices.Sorted(maps.Keys(report.Kinds)) {
		k := report.Kinds[kind]
		fmt.Fprintf(out, "%s: %d named a borrower, %d unlinked %v, %d kept %v\n",
			kind, k.LinkedBefore, k.Unlinked, k.ByRule, k.Kept, k.ByReason)
	}
	return nil
}

// README: begin

func sweep(ctx context.Context, store anonymize.Store, at time.Time) (anonymize.Report, error) {
	policy, err := anonymize.ParsePolicy(policyFile) // also runs the tests in the file
	if err != nil {
		return anonymize.Report{}, err // says line, key and the nearest known word
	}
	sweep, err := anonymize.NewSweep(store, policy, anonymize.Config{})
	if err != nil {
		return anonymize.Report{}, err
	}
	return sweep.Run(ctx, at) // or Plan, which writes nothing
}

// README: end

// history is a borrower's spring: a book returned in March, one returned in June, and one returned in
// March but late, for which a fee is still owed.
func history() iter.Seq2[circulation.Entry, error] {
	entries := []circulation.Entry{
		circulation.Loan{ID: "l1", Borrower: "b-77", Item: "i1", Loaned: date(time.February, 1), Returned: date(time.March, 1)},
		circulation.Loan{ID: "l2", Borrower: "b-77", Item: "i2", Loaned: date(time.May, 20), Returned: date(time.June, 20)},
		circulation.Loan{ID: "l3", Borrower: "b-77", Item: "i3", Loaned: date(time.January, 7), Returned: date(time.March, 1)},
		circulation.Fee{ID: "f1", Borrower: "b-77", Loan: "l3", Type: "overdue", Amount: 250, Charged: date(time.March, 1)},
	}
	return func(yield func(circulation.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func date(month time.Month, day int) time.Time {
	return time.Date(2025, month, day, 10, 0, 0, 0, time.UTC)
}
