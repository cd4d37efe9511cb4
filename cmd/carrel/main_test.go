package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The test binary is also carrel itself, so that exit statuses, signals and files are the real ones. Under the
// race detector SQLite is fifty times slower, and processes of one test share nothing that could race: then a
// plain carrel is built once.
func TestMain(m *testing.M) {
	if os.Getenv("CARREL_TEST_AS_MAIN") != "" {
		main()
	}
	if !raceDetector {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "carrel-test-")
	if err == nil {
		var out []byte
		out, err = exec.Command("go", "build", "-o", filepath.Join(dir, "carrel.exe"), ".").CombinedOutput()
		os.Stderr.Write(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("CARREL_TEST_BINARY", filepath.Join(dir, "carrel.exe"))
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

type result struct {
	code        int
	out, stderr string
}

func command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(cmp.Or(os.Getenv("CARREL_TEST_BINARY"), program), args...)
	cmd.Env = append(os.Environ(), "CARREL_TEST_AS_MAIN=1", "CARREL_KEYS=", "CARREL_KEK=", "CARREL_ANCHOR=", "CARREL_ACTOR=", "CARREL_LOCKOUT=")
	for _, arg := range args {
		if keys, ok := keyrings.Load(arg); ok {
			cmd.Env = append(cmd.Env, "CARREL_KEYS="+keys.(string))
		}
	}
	return cmd
}

func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), madeKeys.ReplaceAllString(stderr.String(), "")}
}

// madeKeys is what the first import into a database says of the keys that it made. TestKeysAreMadeOnce looks at it.
var madeKeys = regexp.MustCompile(`(?m)^carrel: made a keyring .*\n`)

// carrel runs the command in a process of its own, with nothing on its standard input.
func carrel(t testing.TB, args ...string) result {
	t.Helper()
	return finish(t, command(t, args...))
}

// carrelIn does so with a text on its standard input.
func carrelIn(t testing.TB, stdin string, args ...string) result {
	t.Helper()
	cmd := command(t, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return finish(t, cmd)
}

// good requires success and silence on standard error, except for the progress of a job on a slow machine.
func good(t testing.TB, r result) string {
	t.Helper()
	r.stderr = regexp.MustCompile(`(?m)^.*: [\d,]+ (rows|records|read, .*)\n`).ReplaceAllString(r.stderr, "")
	require.Equal(t, result{exitGood, r.out, ""}, r)
	return r.out
}

// refused requires exit status 2, one line on standard error with the given parts, and no output.
func refused(t testing.TB, r result, parts ...string) {
	t.Helper()
	assert.Equal(t, exitFailed, r.code, r.stderr)
	assert.Empty(t, r.out)
	assert.Equal(t, 1, strings.Count(r.stderr, "\n"), "one line: %s", r.stderr)
	assert.True(t, strings.HasPrefix(r.stderr, "carrel: "), r.stderr)
	for _, p := range parts {
		assert.Contains(t, r.stderr, p)
	}
}

// file writes a file into a directory of the test's own and returns its path.
func file(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func TestEveryCommandHasHelpWithExamples(t *testing.T) {
	reports := 0
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		assert.NotEmpty(t, c.Short, c.CommandPath())
		assert.Contains(t, c.Example, c.CommandPath(), c.CommandPath())
		assert.True(t, c.SilenceUsage || c.Root().SilenceUsage)
		if c.Flags().Lookup("json") != nil {
			reports++
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newRoot())
	assert.Equal(t, 43, reports, "backup, backup verify, restore, rights export, erase, purge, verify, inventory, residue, worker run-now, status, policy check, import, sweep, migrate, doctor, hold add, release, list, version, demo, keys status, rotate, patron find, resolve, show, access check, who-can, log verify, prune, hold list, status, nine reports, lockout status and policy-check")

	out := good(t, carrel(t, "sweep", "--help"))
	assert.Contains(t, out, "carrel sweep --db library.db --policy policy.yaml --dry-run")
	assert.Contains(t, good(t, carrel(t)), "Exit status")
	assert.Contains(t, good(t, carrel(t, "policy")), "carrel policy init --list")
	assert.Contains(t, good(t, carrel(t, "hold")), "carrel hold list")
	assert.Contains(t, good(t, carrel(t, "version")), "carrel ")
	assert.Equal(t, good(t, carrel(t, "version")), good(t, carrel(t, "--version")))
	assert.Contains(t, good(t, carrel(t, "version", "--json")), `{"version":`)
}

func TestMisuseIsOneLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"sweeep"}, `did you mean "sweep"?`},
		{[]string{"policy", "chek"}, `did you mean "check"?`},
		{[]string{"policy", "check"}, "which file"},
		{[]string{"sweep", "--dbb", "x"}, `no flag --dbb; did you mean "--db"?`},
		{[]string{"sweep"}, "--db is missing"},
		{[]string{"sweep", "--db", "x.db"}, "--policy is missing"},
		{[]string{"sweep", "extra"}, "takes no argument"},
		{[]string{"sweep", "--db"}, "needs an argument"},
		{[]string{"sweep", "--dry-run=perhaps"}, "--dry-run is not a good bool"},
		{[]string{"explain"}, "--policy is missing"},
		{[]string{"explain", "a", "b"}, "one file at a time"},
		{[]string{"import", "--db", "x.db"}, "nothing to import"},
		{[]string{"hold", "add", "--db", "x.db", "--ref", "r"}, "either --borrower or --borrower-file"},
		{[]string{"log", "verfy", "--db", "x"}, `carrel: log: no command "verfy"; did you mean "verify"?`},
		{[]string{"log", "report", "view", "--db", "x"}, `carrel: log report: no command "view"; did you mean "views"?`},
		{[]string{"sweeep", "--db", "x"}, `carrel: no command "sweeep"; did you mean "sweep"?`},
		{[]string{"log", "--db", "x"}, "carrel: log: no flag --db"},
		{[]string{"--nonsense"}, "carrel: no flag --nonsense"},
		{[]string{"policy", "check", "--josn"}, "carrel: policy check: no flag --josn; did you mean \"--json\"?"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			r := carrel(t, c.args...)
			refused(t, r, c.want)
			assert.NotContains(t, r.stderr, "carrel: carrel")
		})
	}
}

func TestFullDiskIsNotSuccess(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full here")
	}
	defer full.Close()
	policy := file(t, "p.yaml", simplePolicy)
	records := file(t, "r.jsonl", `{"kind":"loan","id":"l1","borrower":"p1","status":"open"}`+"\n")
	for _, args := range [][]string{
		{"version"}, {"version", "--json"}, {"--help"}, {"policy", "init", "--preset", "strict"}, {"policy", "init", "--list"},
		{"policy", "check", policy}, {"policy", "check", "--json", policy}, {"explain", "--policy", policy, records},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			cmd := command(t, args...)
			cmd.Stdout = full
			refused(t, finish(t, cmd), "no space left on device")
		})
	}
	t.Run("file", func(t *testing.T) {
		refused(t, carrel(t, "policy", "init", "--preset", "strict", "--out", "/dev/full"), "exists already")
	})
}
