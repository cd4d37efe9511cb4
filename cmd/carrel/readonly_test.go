//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// unprivileged makes a command run as nobody when the tests run as root, to whom every file is writable.
func unprivileged(t testing.TB, cmd *exec.Cmd, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	for d := dir; d != os.TempDir() && d != "/" && d != "."; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	program := filepath.Join(dir, "carrel") // the test binary lies where nobody else may look
	data, err := os.ReadFile(cmd.Path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(program, data, 0o755))
	cmd.Path = program
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	probe := exec.Command("/bin/true")
	probe.SysProcAttr = cmd.SysProcAttr
	if err := probe.Run(); err != nil {
		t.Skipf("SKIPPED: cannot run as somebody else: %v", err)
	}
}

func TestReadOnlyDatabase(t *testing.T) {
	dir := t.TempDir()
	db, policy, loans := filepath.Join(dir, "test.db"), filepath.Join(dir, "p.yaml"), filepath.Join(dir, "loans.csv")
	require.NoError(t, os.WriteFile(policy, []byte(simplePolicy), 0o644))
	require.NoError(t, os.WriteFile(loans, []byte(loansCSV), 0o644))
	good(t, carrel(t, "import", "--db", db, "--loans", loans))
	require.NoError(t, os.Chmod(db, 0o444))
	before, err := os.ReadFile(db)
	require.NoError(t, err)
	for _, args := range [][]string{
		{"sweep", "--db", db, "--policy", policy}, {"import", "--db", db, "--loans", loans}, {"hold", "add", "--db", db, "--borrower", "p1", "--ref", "r"},
	} {
		cmd := command(t, args...)
		unprivileged(t, cmd, dir)
		refused(t, finish(t, cmd), "test.db: the database cannot be opened: permission denied")
	}
	require.NoError(t, os.Chmod(db, 0o000))
	cmd := command(t, "sweep", "--db", db, "--policy", policy, "--dry-run")
	unprivileged(t, cmd, dir)
	refused(t, finish(t, cmd), "permission denied")

	require.NoError(t, os.Chmod(db, 0o444))
	require.NoError(t, os.Chmod(dir, 0o555))
	cmd = command(t, "sweep", "--db", db, "--policy", policy, "--dry-run")
	unprivileged(t, cmd, dir)
	require.NoError(t, os.Chmod(dir, 0o555))
	refused(t, finish(t, cmd), "its directory must be writable")
	require.NoError(t, os.Chmod(dir, 0o755))

	after, err := os.ReadFile(db)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(before, after))
}
