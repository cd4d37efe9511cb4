// Package residue looks for what a library system keeps of who borrowed what, after it was told to forget it.
//
// It is given a sample of loans that were unlinked from their borrowers, taken before they were, and a database of any schema. It reads
// all of the database and reports every place where a borrower of the sample and a thing that they borrowed can still be joined:
//
//	sample := residue.NewSample(0)
//	sample.Add(residue.Pair{Person: []string{"29000000000077"}, Thing: []string{"39000000012345"}})
//	report, err := residue.New(sample, residue.Config{}).SQLite(ctx, "library.db")
//
// [Search.SQLite] reads the file itself and its log and journal, byte by byte, without a lock and without a driver: it sees rows and also
// what SQL does not show, such as free pages. [Search.Postgres] reads through database/sql, in one transaction that cannot write.
//
// # What is a finding
//
//   - A row with the person in one column and the thing in another.
//   - A value that holds both: the text of a message, JSON, the text of a search index.
//   - Rows that values join: the person's row names a row that holds the thing, or a third row names both. The value must be one
//     that tells rows apart: see [Finding.Joins].
//   - Bytes that belong to no row, in which both lie near each other: free pages, unused space in pages, the log, the journal.
//
// Identifiers are also found in hexadecimal, in base64 at every alignment, spelt backwards, in UTF-16, in other case, in the escapes of
// URLs and JSON, and UUIDs as sixteen bytes.
//
// # Strong and weak identifiers
//
// What is too short, or a number like any other, tells nothing where it stands in a text, and a number in a column may be anything. So
// these count in whole cells only, and only where one pair of columns joins so many pairs of the sample that chance does not explain it,
// given how often each value stands in each of the columns. [Finding.Expected] says how many chance would have made.
//
// # What it does not find
//
// What is encrypted, hashed or compressed; what is joined through more than two joins; what a sample does not name. It reports
// what it could not read, in [Report.Gaps]. That it finds nothing is no proof that there is nothing.
//
// A report names tables and columns and counts. It never contains an identifier.
package residue
