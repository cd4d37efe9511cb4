package residue_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite"

	"github.com/carrel-project/carrel/research/residue"
)

func ExampleSearch_SQLite() {
	dir, err := os.MkdirTemp("", "residue-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "ils.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		log.Fatal(err)
	}
	// A loan that was anonymized, and a fee that still says whose it was.
	_, err = db.Exec(`CREATE TABLE loans (id INTEGER PRIMARY KEY, borrower TEXT, item TEXT);
		CREATE TABLE fees (id INTEGER PRIMARY KEY, borrower TEXT, loan_id INTEGER REFERENCES loans);
		INSERT INTO loans VALUES (17, NULL, '39000000012345');
		INSERT INTO fees VALUES (1, '29000000000077', 17)`)
	if err != nil {
		log.Fatal(err)
	}
	db.Close()

	sample := residue.NewSample(0)
	sample.Add(residue.Pair{Person: []string{"29000000000077"}, Thing: []string{"39000000012345"}})
	report, err := residue.New(sample, residue.Config{}).SQLite(context.Background(), path)
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range report.Findings {
		fmt.Println(f.Kind, f.Table, f.Column, f.Joins, f.Pairs)
	}
	// Output: join fees borrower [fees.loan_id = loans.id] 1
}
