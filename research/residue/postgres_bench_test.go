package residue_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/research/residue"
)

// BenchmarkScanPostgres searches a table of letters on a server, beside a query that fetches the same rows and does nothing with them. MB/s
// are bytes of rows as texts, which are read twice.
func BenchmarkScanPostgres(b *testing.B) {
	db, schema := newSchema(b)
	rows := 300_000
	if testing.Short() {
		rows = 3000
	}
	exec(b, db, `CREATE TABLE letters (id int PRIMARY KEY, borrower int, subject text, content text)`,
		fmt.Sprintf(`INSERT INTO letters SELECT i, i %% 5000, 'letter ' || i, repeat(md5(i::text) || ' please bring it back ', 6) FROM generate_series(1, %d) i`, rows), `ANALYZE letters`)
	sample := residue.NewSample(0)
	for i := range 1000 {
		sample.Add(residue.Pair{Person: []string{fmt.Sprintf("29000000%06d", i)}, Thing: []string{fmt.Sprintf("39000000%06d", i)}})
	}
	var size int64
	require.NoError(b, db.QueryRow(`SELECT sum(length(l::text)) FROM letters l`).Scan(&size))
	b.SetBytes(size)
	var plain, searched time.Duration
	for b.Loop() {
		b.StopTimer()
		began := time.Now()
		r, err := db.Query(`SELECT ROW(l.*)::text FROM letters l`)
		require.NoError(b, err)
		for r.Next() {
		}
		require.NoError(b, r.Err())
		plain += time.Since(began)
		b.StartTimer()
		began = time.Now()
		if f := searchPG(b, db, schema, sample).Findings; len(f) > 0 {
			b.Fatal("found something: ", f[0].Where())
		}
		searched += time.Since(began)
	}
	b.ReportMetric(float64(searched)/float64(plain), "x-plain-query")
}
