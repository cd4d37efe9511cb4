package memory_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/memory"
)

func ExampleCirculation() {
	policy, err := anonymize.ParsePolicy([]byte(`
carrel-retention: 1
id: example
revision: 1
records:
  loans: [{name: a-month, after: P30D}]
`))
	if err != nil {
		log.Fatal(err)
	}
	ctx, store := context.Background(), memory.NewCirculation()
	_, err = store.Save(ctx, func(yield func(circulation.Entry, error) bool) {
		day := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
		_ = yield(circulation.Loan{ID: "1", Borrower: "p-77", Loaned: day, Returned: day.AddDate(0, 0, 9)}, nil) &&
			yield(circulation.Loan{ID: "2", Borrower: "p-77", Loaned: day}, nil)
	})
	if err != nil {
		log.Fatal(err)
	}
	sweep, err := anonymize.NewSweep(store, policy, anonymize.Config{})
	if err != nil {
		log.Fatal(err)
	}
	report, err := sweep.Run(ctx, time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC))
	fmt.Println(report.Kinds["loan"].Unlinked, report.Kinds["loan"].ByReason, err)
	// Output: 1 map[unfinished:1] <nil>
}
