package synth_test

import (
	"fmt"
	"log"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/research/synth"
)

func ExampleGenerate() {
	library, err := synth.Generate(synth.Params{Seed: 1, Loans: 10_000})
	if err != nil {
		log.Fatal(err)
	}
	out := 0
	for entry := range library.Entries() {
		if loan, ok := entry.(circulation.Loan); ok && loan.Returned.IsZero() {
			out++
		}
	}
	fmt.Println(library.Loans(), "loans to", library.Patrons(), "patrons,", out, "still out")
	// Output: 10000 loans to 425 patrons, 517 still out
}
