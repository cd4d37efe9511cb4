package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkBackup backs up a database of CARREL_BACKUP_MB megabytes (100), and beside it does what one would do without carrel: cp, and age of the copy. The metric
// is how many times as fast as those two together it is.
func BenchmarkBackup(b *testing.B) {
	size, err := strconv.Atoi(cmp.Or(os.Getenv("CARREL_BACKUP_MB"), map[bool]string{true: "10", false: "100"}[testing.Short()]))
	require.NoError(b, err)
	tool := ageTool(b)
	db := filepath.Join(b.TempDir(), "bench.db")
	good(b, carrel(b, "import", "--db", db, "--patrons", file(b, "p.csv", patronsCSV)))
	// Rows as long as those of loans, so that counting them is as much work.
	execSQL(b, db, fmt.Sprintf(`CREATE TABLE filler (n INTEGER PRIMARY KEY, data BLOB);
		WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < %d) INSERT INTO filler SELECT n, randomblob(190) FROM i`, size*5000))
	execSQL(b, db, "PRAGMA wal_checkpoint(TRUNCATE)")
	info, err := os.Stat(db)
	require.NoError(b, err)
	public, _ := ageKey(b)
	dir := b.TempDir()
	name := func(what string) string { return filepath.Join(dir, what) }
	var ours, theirs time.Duration
	for b.Loop() {
		began := time.Now()
		for _, args := range [][]string{{"cp", db, name("copy.db")}, {tool, "-r", public, "-o", name("copy.age"), name("copy.db")}} {
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			require.NoError(b, err, string(out))
		}
		theirs += time.Since(began)
		began = time.Now()
		r := carrel(b, "backup", "--db", db, "--out", name("ours.age"), "--recipient", public)
		ours += time.Since(began)
		require.Equal(b, exitGood, r.code, r.stderr)
		for _, one := range []string{"copy.db", "copy.age", "ours.age"} {
			require.NoError(b, os.Remove(name(one)))
		}
	}
	b.ReportMetric(float64(theirs)/float64(ours), "×cp+age")
	b.ReportMetric(float64(info.Size())*float64(b.N)/1e6/ours.Seconds(), "MB/s")
	b.ReportMetric(float64(info.Size())*float64(b.N)/1e6/theirs.Seconds(), "cp+age-MB/s")
}
