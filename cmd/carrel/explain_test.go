package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

func TestExplain(t *testing.T) {
	policy := file(t, "p.yaml", simplePolicy)
	records := strings.Join([]string{
		"\ufeff" + `{"kind":"loan","id":"l1","borrower":"p1","status":"ended","ended":"2026-10-01"}`,
		`{"kind":"loan","id":"l2","borrower":"p1","status":"ended","ended":"2026-10-02T00:30:00.5"}` + "\r",
		``,
		`{"kind":"loan","id":"l\"3å","borrower":"p1","status":"open","lost":true,"fees":[{"status":"open"}]}`,
		`{"kind":"fee","id":"f1","status":"ended"}`, // no line end, and it names nobody
	}, "\n")
	want := `{"kind":"loan","id":"l1","decision":"unlink","rule":"month","reasons":[],"eligible_at":"2026-10-30T23:00:00Z"}
{"kind":"loan","id":"l2","decision":"keep","rule":"month","reasons":["period-not-passed"],"eligible_at":"2026-11-01T23:00:00Z"}
{"kind":"loan","id":"l\"3å","decision":"keep","rule":"month","reasons":["unfinished","lost","open-fee"],"eligible_at":""}
{"kind":"fee","id":"f1","decision":"keep","rule":"","reasons":["already-unlinked"],"eligible_at":""}
`
	got := good(t, carrelIn(t, records, "explain", "--policy", policy, "--at", "2026-10-31"))
	assert.Equal(t, want, got)
	for line := range strings.Lines(got) {
		assert.True(t, json.Valid([]byte(line)))
	}

	plain := file(t, "records.jsonl", records)
	assert.Equal(t, want, good(t, carrel(t, "explain", "--policy", policy, "--at", "2026-10-31", plain)))
	assert.Equal(t, want, good(t, carrelIn(t, simplePolicy, "explain", "--policy", "-", "--at", "2026-10-31", plain)))
	packed := filepath.Join(t.TempDir(), "records.jsonl.gz")
	require.NoError(t, os.WriteFile(packed, pack(t, records), 0o644))
	assert.Equal(t, want, good(t, carrel(t, "explain", "--policy", policy, "--at", "2026-10-31", packed)))

	why := good(t, carrel(t, "explain", "--policy", policy, "--why", plain))
	assert.Contains(t, why, `"eligible_at":"2026-10-30T23:00:00Z","why":"A month is enough"}`)
	assert.Contains(t, why, `"why":""}`)
	assert.Empty(t, good(t, carrelIn(t, "", "explain", "--policy", policy)))
}

func pack(t testing.TB, text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := io.WriteString(z, text)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.Bytes()
}

func TestExplainRefuses(t *testing.T) {
	policy := file(t, "p.yaml", simplePolicy)
	ok := `{"kind":"loan","id":"l1","borrower":"p1"}` + "\n"
	bad := carrel(t, "explain", "--policy", policy, file(t, "records.jsonl", strings.Repeat(ok, 16)+`{"kind":"loan","id":"l9","borower":"p-secret"}`+"\n"+ok))
	assert.Equal(t, exitFailed, bad.code)
	assert.Equal(t, 16, strings.Count(bad.out, "\n"), "what stands before the bad line")
	assert.Contains(t, bad.stderr, "records.jsonl:17: unknown key \"borower\"; did you mean \"borrower\"?")
	assert.NotContains(t, bad.stderr, "p-secret")

	refused(t, carrelIn(t, "nonsense\n", "explain", "--policy", policy), "-:1: ")
	refused(t, carrelIn(t, strings.Repeat("x", 3*maxLine), "explain", "--policy", policy), "more than 16 MiB")
	refused(t, carrel(t, "explain", "--policy", policy, "/nonexistent.jsonl"), "/nonexistent.jsonl: no such file")
	refused(t, carrel(t, "explain", "--policy", policy, t.TempDir()), "is a directory")
	refused(t, carrel(t, "explain", "--policy", policy, "--at", "tomorrow"), "--at: not a time")
	refused(t, carrelIn(t, ok, "explain", "--policy", "-"), "cannot both")

	packed := pack(t, strings.Repeat(ok, 10000))
	refused(t, carrelIn(t, string(packed[:5]), "explain", "--policy", policy), "ends too early")
	cut := carrelIn(t, string(packed[:len(packed)-9]), "explain", "--policy", policy)
	assert.Equal(t, exitFailed, cut.code, "half an export is not an export")
	assert.Contains(t, cut.stderr, "ends too early")
	packed[len(packed)-6] ^= 1
	broken := carrelIn(t, string(packed), "explain", "--policy", policy)
	assert.Equal(t, exitFailed, broken.code)
	assert.Contains(t, broken.stderr, "damaged")
}

// Blocks, workers and the writer must not change what Decide says, nor its order.
func TestExplainKeepsOrder(t *testing.T) {
	policy, err := anonymize.ParsePolicy([]byte(simplePolicy))
	require.NoError(t, err)
	at := time.Date(2026, 10, 31, 0, 0, 0, 0, time.UTC)
	var in, want bytes.Buffer
	e := explainer{policy: policy, at: at, name: "-"}
	for i := range 20000 {
		r := circulation.Record{Kind: circulation.KindLoan, ID: fmt.Sprint("l", i), Borrower: "p", Status: circulation.Status(i % 2),
			Ended: at.AddDate(0, 0, -i%60), Location: strings.Repeat("x", i%97)}
		in.Write(append(r.AppendJSON(nil), '\n'))
		want.Write(e.decide(nil, &r))
	}
	var got bytes.Buffer
	require.NoError(t, e.run(t.Context(), &in, &got))
	assert.Equal(t, want.String(), got.String())
}

func TestExplainStopsOnCtrlC(t *testing.T) {
	cmd := command(t, "explain", "--policy", file(t, "p.yaml", simplePolicy))
	in, err := cmd.StdinPipe() // from which nothing comes
	require.NoError(t, err)
	defer in.Close()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	time.Sleep(300 * time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.Error(t, cmd.Wait())
	assert.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
	assert.Contains(t, stderr.String(), "interrupted")
}

// The bytes go through the same function as in the command.
func BenchmarkExplain(b *testing.B) {
	policy, err := anonymize.ParsePolicy([]byte(simplePolicy))
	require.NoError(b, err)
	const records = 100_000
	var in []byte
	start := time.Date(2026, 9, 1, 10, 0, 0, 0, time.UTC)
	for i := range records {
		r := circulation.Record{Kind: circulation.KindLoan, ID: fmt.Sprint("l", i), Version: "7", Borrower: circulation.Borrower(fmt.Sprint("p-", i%5000)),
			Group: "graduate", GroupNow: "alumni", Categories: []string{"dept-math"}, Library: "main", Location: "stacks", Type: "book", Item: fmt.Sprint("i", i),
			Started: start.AddDate(0, 0, i%60), Ended: start.AddDate(0, 0, i%60+20), Status: circulation.Ended,
			Fees:            []circulation.FeeSummary{{Status: circulation.FeeClosed, Closed: start, Method: "cash"}},
			NewerByBorrower: 5, NewerOfItem: 1, BorrowerExpires: start.AddDate(1, 0, 0)}
		in = append(r.AppendJSON(in), '\n')
	}
	e := explainer{policy: policy, at: start.AddDate(0, 2, 0), name: "-"}
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if err := e.run(b.Context(), bytes.NewReader(in), io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(records)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
