//go:build linux

package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/patron"
)

// TestFullDiskChild is no test: it is the process that the test below starts in a mount namespace of its own, where it may have small disks.
func TestFullDiskChild(t *testing.T) {
	dir := os.Getenv("CARREL_FULL_CHILD")
	if dir == "" {
		t.Skip("only as a child process of the test with full disks")
	}
	base := filepath.Join(dir, "base")
	require.NoError(t, os.Mkdir(base, 0o700))
	require.NoError(t, syscall.Mount("tmpfs", base, "tmpfs", 0, "size=6m"))
	spool := filepath.Join(dir, "base", "x.db.spool")
	require.NoError(t, os.Mkdir(spool, 0o700))
	require.NoError(t, syscall.Mount("tmpfs", spool, "tmpfs", 0, "size=2m"))
	fmt.Println("mounted")

	source := os.Getenv("CARREL_FULL_SOURCE")
	path := filepath.Join(base, "x.db")
	for _, suffix := range []string{"", ".kek", ".keys", ".keys.ledger", ".calls"} {
		data, err := os.ReadFile(source + suffix)
		if !errors.Is(err, os.ErrNotExist) {
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path+suffix, data, 0o600))
		}
	}
	w, err := openWitness(t.Context(), path, 20*time.Millisecond)
	require.NoError(t, err)
	folk, err := w.directory(w.trail)
	require.NoError(t, err)
	people := patronsOf(t, w.db)
	sum := &toll{}
	run := 0
	// views shows patrons, each to somebody who has seen nobody yet, and returns how many it could.
	views := func(n int) (revealed int) {
		run++
		for i := range n {
			call, p := anybody, i%len(people)
			call.Actor = fmt.Sprintf("staff-%d-%d", run, i)
			before := time.Now()
			v, err := folk.View(t.Context(), call, people[p], 0)
			if err == nil {
				revealed++
				sum.revealed = append(sum.revealed, fmt.Sprintf("%s %d %d %s", call.Actor, p, before.UnixMicro(), strings.Join(v.Present.Names(), ",")))
			} else {
				require.ErrorIs(t, err, patron.ErrNotRecorded)
				require.Empty(t, v)
			}
			require.Less(t, time.Since(before), 12*time.Second)
			id := fmt.Sprintf("%d-%d", run, i)
			err = w.trail.Record(t.Context(), audit.Event{Time: time.Now(), Action: audit.Report, Outcome: audit.Done, Actor: "auditor", Channel: audit.CLI, Object: id})
			if err == nil {
				sum.acknowledged = append(sum.acknowledged, id)
			} else {
				require.ErrorIs(t, err, audit.ErrUnavailable)
			}
		}
		return revealed
	}
	// fill leaves a disk no byte.
	fill := func(dir string) (free func()) {
		name := filepath.Join(dir, "ballast")
		f, err := os.Create(name)
		require.NoError(t, err)
		for size := 1 << 16; size > 0; {
			if _, err := f.Write(make([]byte, size)); err != nil {
				require.ErrorIs(t, err, syscall.ENOSPC)
				size /= 2
			}
		}
		require.NoError(t, f.Close())
		return func() { require.NoError(t, os.Remove(name)) }
	}
	drained := func() {
		require.Eventually(t, func() bool {
			waiting, _, err := audit.Spooled(spool)
			return err == nil && waiting == 0
		}, 20*time.Second, 10*time.Millisecond)
	}

	require.Equal(t, 40, views(40))

	// The database's disk is full, the spool's is not: all goes on.
	free := fill(base)
	for deadline := time.Now().Add(20 * time.Second); ; { // until what SQLite has in hand is used up
		require.Equal(t, 10, views(10))
		if waiting, _, err := audit.Spooled(spool); err == nil && waiting > 0 {
			break
		}
		require.True(t, time.Now().Before(deadline), "the disk is not full")
	}
	require.Equal(t, 20, views(20))

	// Then the spool's, too: nothing.
	freeSpool := fill(spool)
	shown := views(20)
	require.Zero(t, shown)
	size, aside, err := audit.Spooled(spool)
	require.NoError(t, err)
	require.Zero(t, aside)
	half, err := filepath.Glob(spool + "/*.tmp")
	require.NoError(t, err)
	require.Empty(t, half, "nothing half-written")
	fmt.Printf("full: %d reveals of 20, %d bytes in the spool\n", shown, size)

	// The spool has room again: it goes on; then the database as well, by itself.
	freeSpool()
	require.Equal(t, 20, views(20))
	free()
	drained()
	require.Equal(t, 20, views(20))
	require.NoError(t, w.trail.Close(context.Background()))
	drained()
	next, err := openWitness(t.Context(), path, time.Hour)
	require.NoError(t, err)
	require.NoError(t, next.trail.Close(t.Context()))
	list := allLogged(t, next.store)
	sum.settle(t, list, next.keys, people)
	require.Zero(t, sum.lost)
	require.Zero(t, sum.twice)
	require.Zero(t, sum.uncovered)
	for _, c := range checkpointsOf(t, path) {
		require.NotEmpty(t, c)
	}
	fmt.Printf("%d acknowledged, %d lost; %d reveals, %d without a record\n", len(sum.acknowledged), sum.lost, len(sum.revealed), sum.uncovered)
	w.db.Close()
	next.db.Close()
}

func checkpointsOf(t testing.TB, path string) [][]byte {
	list, err := audit.NewFileAnchor(path + ".anchor").Checkpoints()
	require.NoError(t, err)
	return list
}

// On disks that are really full: without room for the database all is revealed and goes to the spool, without room for that, too, nothing is; and with
// room again all goes on without a restart, and nothing that was acknowledged is lost.
func TestTrailOnFullDisks(t *testing.T) {
	i, path := newPeople(t)
	fillPeople(t, i, 10)
	_, err := i.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	require.NoError(t, err)
	require.NoError(t, i.db.Close())
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run=^TestFullDiskChild$")
	cmd.Env = append(os.Environ(), "CARREL_FULL_CHILD="+t.TempDir(), "CARREL_FULL_SOURCE="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	if !strings.Contains(string(out), "mounted") {
		t.Skipf("this system lets nobody mount: %v", err)
	}
	require.NoError(t, err, string(out))
	for _, line := range strings.Split(string(out), "\n") {
		if strings.Contains(line, "reveals") {
			t.Log(line)
		}
	}
}
