package audit_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// spooled fills a spool with events while the store is down, and returns its files. Nothing is drained until somebody records or closes.
func spooled(t *testing.T, f *failingTrail, names ...string) (files []string) {
	t.Helper()
	f.store.set(down)
	for _, name := range names {
		require.NoError(t, f.Record(t.Context(), report(name)))
	}
	files, err := filepath.Glob(f.spool + "/*.spool")
	require.NoError(t, err)
	require.Len(t, files, len(names))
	return files
}

// What is in the spool is as sealed as in the store, and only its owner reads it.
func TestSpoolIsSealed(t *testing.T) {
	const id, note, street = "7d3f1c52-1111-4e0a-9b7a-0c1d2e3f4a5b", "the aunt of the sexton", "Rue Morgue 5"
	f := newFailing(t, every(time.Hour))
	require.NoError(t, f.desk.keys.CreateKeys(t.Context(), id))
	f.store.set(down)
	e := view(id, noon, "names")
	require.NoError(t, f.Record(t.Context(), e))
	e.Action = audit.Update
	e.Subjects[0].Note = crypto.NewSecret(note)
	e.Subjects[0].Changes = []audit.Change{{Segment: "addresses", Before: crypto.NewSecret(street), After: crypto.NewSecret(street + "a")}}
	require.NoError(t, f.Record(t.Context(), e))
	info, err := os.Stat(f.spool)
	require.NoError(t, err)
	if runtime.GOOS != "windows" {
		require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	}
	files, err := filepath.Glob(f.spool + "/*")
	require.NoError(t, err)
	require.Len(t, files, 2)
	for _, file := range files {
		info, err := os.Stat(file)
		require.NoError(t, err)
		if runtime.GOOS != "windows" {
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		}
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		raw, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
		require.NoError(t, err)
		for _, plain := range []string{id, strings.ReplaceAll(id, "-", ""), string(raw), note, street} {
			require.NotContains(t, string(data), plain)
		}
		require.Contains(t, string(data), "staff-17", "the search finds what is there")
	}
}

// A file that is not as a trail of this keyring wrote it is put aside and named, and nothing of it is appended. The others are.
func TestSpoolPutsForgedFilesAside(t *testing.T) {
	f := newFailing(t, every(time.Hour))
	files := spooled(t, f, "genuine", "torn", "flipped", "short", "renamed", "twice")
	kept := map[string]string{} // as they were
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		kept[file] = string(data)
	}
	content := func(name string) (file, data string) {
		for file, data := range kept {
			if strings.Contains(data, "<"+name+">") {
				return file, data
			}
		}
		t.Fatal("no file of ", name)
		return "", ""
	}
	write := func(file, data string) { require.NoError(t, os.WriteFile(file, []byte(data), 0o600)) }
	bad := 0
	file, data := content("torn")
	write(file, data[:len(data)-7])
	file, data = content("flipped")
	at := strings.Index(data, "<flipped>") + 3
	write(file, data[:at]+string(data[at]^1)+data[at+1:])
	file, _ = content("short")
	write(file, "carrel")
	file, data = content("renamed")
	require.NoError(t, os.Remove(file))
	write(filepath.Join(f.spool, "renamed.spool"), data)
	file, data = content("twice") // its second entry is of a trail with other keys
	other := newFailing(t, every(time.Hour))
	foreign, err := os.ReadFile(spooled(t, other, "foreign")[0])
	require.NoError(t, err)
	write(file, data+string(foreign[49:]))
	bad += 5
	rng := rand.New(rand.NewPCG(1, 1))
	for n := range 20 {
		b := make([]byte, rng.IntN(300))
		for i := range b {
			b[i] = byte(rng.Int())
		}
		garbage := string(b)
		if n%2 == 0 {
			garbage = "carrel spool v1\n" + garbage
		}
		if garbage == "carrel spool v1\n" {
			continue
		}
		write(filepath.Join(f.spool, fmt.Sprintf("%032x.spool", n)), garbage)
		bad++
	}
	whole := string(foreign)
	theirs := filepath.Join(f.spool, strings.Repeat("ab", 16)+".spool") // events that they wait for
	write(theirs, whole)
	write(filepath.Join(f.spool, "README"), "what is no file of ours is let alone")

	f.store.set(nil)
	require.NoError(t, f.Close(t.Context()))
	require.FileExists(t, theirs)
	require.NoError(t, os.Remove(theirs))
	size, aside, err := audit.Spooled(f.spool)
	require.NoError(t, err)
	require.Zero(t, size)
	require.Equal(t, bad, aside)
	require.Equal(t, 1, f.times(t, "genuine"))
	for _, name := range []string{"torn", "flipped", "short", "renamed", "twice", "foreign"} {
		require.Zero(t, f.times(t, name), name)
	}
	require.Equal(t, bad, strings.Count(f.logged(), "put aside"))
	require.Contains(t, f.logged(), "renamed.spool")
	_, err = os.Stat(filepath.Join(f.spool, "README"))
	require.NoError(t, err)
	f.verified(t)
}

// What cannot be read as a file does not keep the rest from the store.
func TestSpoolGoesRoundWhatItCannotRead(t *testing.T) {
	f := newFailing(t, every(time.Hour))
	spooled(t, f, "event")
	require.NoError(t, os.Mkdir(filepath.Join(f.spool, strings.Repeat("0", 32)+".spool"), 0o700))
	f.store.set(nil)
	require.NoError(t, f.Close(t.Context()))
	require.Equal(t, 1, f.times(t, "event"))
}

// Many trails on one spool, the store failing in between: each event is in the store once.
func TestTrailsShareASpool(t *testing.T) {
	f := newFailing(t)
	trails := []*audit.Trail{f.Trail, f.again(t), f.again(t)}
	var group sync.WaitGroup
	stop := make(chan struct{})
	var flaky sync.WaitGroup
	flaky.Go(func() {
		rng := rand.New(rand.NewPCG(2, 2))
		for {
			select {
			case <-stop:
				f.store.set(nil)
				return
			default:
			}
			f.store.set([]func(context.Context, []audit.Entry) error{nil, down, panicked}[rng.IntN(3)])
			time.Sleep(time.Millisecond)
		}
	})
	const each = 120
	for g, trail := range trails {
		for h := range 2 {
			group.Go(func() {
				for n := range each {
					if err := trail.Record(t.Context(), report(fmt.Sprint("event ", g, h, n))); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	group.Wait()
	close(stop)
	flaky.Wait()
	f.drained(t)
	for _, trail := range trails {
		require.NoError(t, trail.Close(t.Context()))
	}
	tree, err := f.store.Tree(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(6*each), tree.Next, "each once")
	require.Contains(t, f.logged(), "is back")
	f.verified(t)
}

// A process that comes to its end with events in the spool leaves them to the next, which does not wait for an event of its own.
func TestSpoolIsDrainedByTheNextProcess(t *testing.T) {
	f := newFailing(t, every(time.Hour))
	spooled(t, f, "event")
	require.NoError(t, f.Close(t.Context()))
	require.Zero(t, f.times(t, "event"))
	f.store.set(nil)
	f.again(t)
	f.drained(t)
	require.Equal(t, 1, f.times(t, "event"))
	require.Eventually(t, func() bool { // and is covered by a checkpoint
		tree, err := f.store.Tree(t.Context())
		return err == nil && tree.Size == 1
	}, 5*time.Second, 5*time.Millisecond)
}

// What a process that died left half-written is removed once it is old, and counts until then.
func TestSpoolForgetsHalfWrittenFiles(t *testing.T) {
	f := newFailing(t, spoolOf(2000), every(time.Hour))
	require.NoError(t, os.Mkdir(f.spool, 0o700))
	half := filepath.Join(f.spool, strings.Repeat("0", 32)+".tmp")
	require.NoError(t, os.WriteFile(half, make([]byte, 1900), 0o600))
	f.store.set(down)
	require.ErrorIs(t, f.Record(t.Context(), report("event")), audit.ErrUnavailable)
	long := time.Now().Add(-2 * time.Hour)
	require.NoError(t, os.Chtimes(half, long, long))
	require.Eventually(t, func() bool { return f.Record(t.Context(), report("event")) == nil }, 5*time.Second, time.Millisecond)
	require.NoFileExists(t, half)
}
