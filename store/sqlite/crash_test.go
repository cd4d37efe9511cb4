//go:build unix

package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/sqlite"
)

const layered = `
carrel-retention: 1
id: test/crash
records:
  loans:
    - {name: money, fee: had, since: fee-closed, after: P60D}
    - {name: students, group: [students], after: P30D, keep-last: 2, at-most: P1Y}
    - {name: rest, after: P30D}
  fees: [{name: settled, after: P30D}]
  notices: [{name: sent, after: at once}]
keep-fields:
  loans: {library: keep, item: keep, returned: month}
  fees: {closed: year}
`

// sweepFile is what the processes do that these tests start: one whole sweep of a file.
func sweepFile(path string, pageSize int) (anonymize.Report, error) {
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	if err != nil {
		return anonymize.Report{}, err
	}
	defer db.Close()
	p, err := anonymize.ParsePolicy([]byte(layered))
	if err != nil {
		return anonymize.Report{}, err
	}
	s, err := anonymize.NewSweep(sqlite.New(db), p, anonymize.Config{PageSize: pageSize, Now: func() time.Time { return day(400) }})
	if err != nil {
		return anonymize.Report{}, err
	}
	return s.Run(context.Background(), day(400))
}

// TestSweepChild is no test: it is the process that the tests below start and kill.
func TestSweepChild(t *testing.T) {
	path := os.Getenv("CARREL_SWEEP_CHILD")
	if path == "" {
		t.Skip("only as a child process of the crash and memory tests")
	}
	page := number("CARREL_SWEEP_PAGE", 0)
	_, err := sweepFile(path, page)
	require.NoError(t, err)
	if status, err := os.ReadFile("/proc/self/status"); err == nil { // the peak of this process alone: rusage would count its parent's
		fmt.Println(regexp.MustCompile(`VmHWM:\s*\d+ kB`).FindString(string(status)))
	}
}

func child(t *testing.T, path string, page int) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run=^TestSweepChild$")
	cmd.Env = append(os.Environ(), "CARREL_SWEEP_CHILD="+path, fmt.Sprint("CARREL_SWEEP_PAGE=", page))
	return cmd
}

// crowd fills a file with loans, fees and notices that point at each other.
func crowd(t *testing.T, path string, loans int) {
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	defer db.Close()
	migrate(t, db)
	r := rand.New(rand.NewPCG(3, 4))
	_, err = sqlite.New(db).Save(t.Context(), func(yield func(circulation.Entry, error) bool) {
		borrowers := max(loans/20, 1)
		for i := range loans {
			l := loan(fmt.Sprintf("loan-%d", i), fmt.Sprintf("borrower-%08x", r.IntN(borrowers)), i*350/loans, -1)
			if r.IntN(10) > 0 {
				l.Returned = l.Loaned.Add(time.Duration(r.IntN(40*24)) * time.Hour)
			}
			l.Group = []string{"students", "staff"}[r.IntN(2)]
			if r.IntN(20) == 0 {
				l.Comment, l.Proxy = "asked by "+string(l.Borrower), l.Borrower+"-proxy"
			}
			if !yield(l, nil) {
				return
			}
		}
		for i := 0; i < loans; i += 9 {
			f := circulation.Fee{ID: fmt.Sprintf("fee-%d", i), Borrower: "payer", Loan: fmt.Sprintf("loan-%d", i), Charged: day(i * 350 / loans)}
			if r.IntN(3) > 0 {
				f.Status, f.Closed, f.Outcome = circulation.FeeClosed, f.Charged.AddDate(0, 0, r.IntN(100)), circulation.FeePaid
			}
			n := circulation.Notice{ID: fmt.Sprintf("notice-%d", i), Borrower: "payer", Loan: f.Loan, Body: "you owe", Outcome: circulation.NoticeSent, Sent: day(0)}
			if !yield(f, nil) || !yield(n, nil) {
				return
			}
		}
	})
	require.NoError(t, err)
	_, err = db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	require.NoError(t, err)
}

func copyFile(t *testing.T, from, to string) {
	src, err := os.Open(from)
	require.NoError(t, err)
	defer src.Close()
	dst, err := os.Create(to)
	require.NoError(t, err)
	_, err = io.Copy(dst, src)
	require.NoError(t, err)
	require.NoError(t, dst.Close())
}

// rowsOf lists all rows that matter after a sweep, and what its receipts add up to. Which change a version counts,
// how the work fell into batches and which of them were worth putting off may differ from run to run.
func rowsOf(t *testing.T, path string) (rows string, unlinked int) {
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	defer db.Close()
	receipts, err := sqlite.New(db).Receipts(t.Context())
	require.NoError(t, err)
	for _, r := range receipts {
		unlinked += r.Unlinked
	}
	_, err = db.Exec("DELETE FROM receipts; DELETE FROM sqlite_sequence; UPDATE changes SET last = 0; DELETE FROM plan; UPDATE links SET plan = NULL, next = 0")
	require.NoError(t, err)
	return dump(t, db), unlinked
}

// Killed at any moment and run again, a sweep comes to the same end as one that nobody disturbed.
func TestKilledSweepsEndAlike(t *testing.T) {
	kills, loans := 25, 3000
	if raceEnabled { // which makes SQLite fifty times slower
		kills = 8
	}
	if os.Getenv("CARREL_TEST_LONG") != "" {
		kills = 300
	}
	dir := t.TempDir()
	base := filepath.Join(dir, "base.db")
	crowd(t, base, loans)
	const page = 50

	whole := filepath.Join(dir, "whole.db")
	copyFile(t, base, whole)
	began := time.Now()
	out, err := child(t, whole, page).CombinedOutput()
	require.NoError(t, err, string(out))
	took := time.Since(began)
	want, wantUnlinked := rowsOf(t, whole)
	require.Greater(t, wantUnlinked, loans/2)

	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	landed, inside := 0, 0
	for tries := 0; landed < kills && tries < 4*kills; tries++ {
		path := filepath.Join(dir, "killed.db")
		for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
			os.Remove(path + suffix)
		}
		copyFile(t, base, path)
		cmd := child(t, path, page)
		require.NoError(t, cmd.Start())
		time.Sleep(time.Duration(r.Int64N(int64(took))))
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		var exit *exec.ExitError
		if !errors.As(cmd.Wait(), &exit) {
			took -= took / 10 // it had already come to its end: the machine has become faster
			continue
		}
		landed++
		before := receiptsSoFar(t, path)
		if before > 0 && before < wantUnlinked {
			inside++
		}
		report, err := sweepFile(path, page)
		require.NoError(t, err)
		got, unlinked := rowsOf(t, path)
		require.True(t, want == got, "killed after %d of %d: the rows differ", before, wantUnlinked)
		require.Equal(t, wantUnlinked, unlinked, "the receipts of both runs add up to the rows changed")
		sum := before
		for _, k := range report.Kinds {
			sum += k.Unlinked
		}
		require.Equal(t, wantUnlinked, sum)
	}
	require.GreaterOrEqual(t, landed, kills, "too few processes were killed before their end")
	require.Greater(t, inside, kills/4, "too few processes were killed in the middle of their work")
	t.Logf("%d killed, %d of them in the middle of their work", landed, inside)
}

func receiptsSoFar(t *testing.T, path string) (unlinked int) {
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	defer db.Close()
	receipts, err := sqlite.New(db).Receipts(t.Context())
	require.NoError(t, err)
	for _, r := range receipts {
		unlinked += r.Unlinked
	}
	return unlinked
}

// Memory is bounded by the page size, not by the history: 1,000,000 loans (100,000 in the short version)
// take less than 64 MiB more than 10,000.
func TestMemoryDoesNotFollowHistory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector multiplies memory; the run without it checks this")
	}
	many := 100_000
	if os.Getenv("CARREL_TEST_LONG") != "" {
		many = 1_000_000
	}
	dir := t.TempDir()
	peak := func(loans int) int64 {
		path := filepath.Join(dir, fmt.Sprint(loans, ".db"))
		crowd(t, path, loans)
		cmd := child(t, path, 0)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		found := regexp.MustCompile(`VmHWM:\s*(\d+) kB`).FindSubmatch(out)
		if found == nil {
			t.Skip("this system does not tell a process' peak memory in /proc/self/status")
		}
		n, err := strconv.ParseInt(string(found[1]), 10, 64)
		require.NoError(t, err)
		return n
	}
	few, more := peak(10_000), peak(many)
	t.Logf("peak memory: %d KiB for 10,000 loans, %d KiB for %d", few, more, many)
	require.Less(t, more-few, int64(64<<10))
}
