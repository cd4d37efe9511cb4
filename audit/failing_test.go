package audit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/store/memory"
)

// A failingStore does what its hook says before it appends, if it appends at all.
type failingStore struct {
	*memory.Log

	mu     sync.Mutex
	before func(context.Context, []audit.Entry) error // nil: the store is well
	after  func() error                               // what is said of an append that was done
}

func (f *failingStore) set(before func(context.Context, []audit.Entry) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}

func (f *failingStore) Append(ctx context.Context, entries []audit.Entry) error {
	f.mu.Lock()
	before, after := f.before, f.after
	f.mu.Unlock()
	if before != nil {
		if err := before(ctx, entries); err != nil {
			return err
		}
	}
	err := f.Log.Append(ctx, entries)
	if err == nil && after != nil {
		err = after()
	}
	return err
}

var errDisk = errors.New("no space left on device")

func down(context.Context, []audit.Entry) error     { return errDisk }
func panicked(context.Context, []audit.Entry) error { panic("the driver has a bug") }

// A failing trail is one whose store, spool and anchor a test can take away.
type failingTrail struct {
	*audit.Trail
	desk  *desk
	store *failingStore
	spool string
	log   *strings.Builder
	mu    *sync.Mutex
}

// writer keeps what is logged.
type writer struct {
	mu *sync.Mutex
	b  *strings.Builder
}

func (w writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (f *failingTrail) logged() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

func newFailing(t *testing.T, options ...func(*audit.Config)) *failingTrail {
	t.Helper()
	f := &failingTrail{desk: newDesk(t, "p1", "p2"), spool: filepath.Join(t.TempDir(), "spool"), log: &strings.Builder{}, mu: &sync.Mutex{}}
	f.store = &failingStore{Log: f.desk.log}
	f.Trail = f.again(t, options...)
	return f
}

// again opens another trail on the same store, spool and anchor, as another process would.
func (f *failingTrail) again(t *testing.T, options ...func(*audit.Config)) *audit.Trail {
	t.Helper()
	cfg := audit.Config{Store: f.store, Keys: f.desk.keys, Anchors: []audit.Anchor{f.desk.anchor}, Spool: f.spool, Interval: 10 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(writer{f.mu, f.log}, nil))}
	for _, o := range options {
		o(&cfg)
	}
	trail, err := audit.New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { trail.Close(context.Background()) })
	return trail
}

func noSpool(c *audit.Config)             { c.Spool = "" }
func spoolOf(n int64) func(*audit.Config) { return func(c *audit.Config) { c.SpoolLimit = n } }
func every(d time.Duration) func(*audit.Config) {
	return func(c *audit.Config) { c.Interval = d }
}

// report is an event of which each is recorded, with a name that its body shows.
func report(name string) audit.Event {
	e := view("p1", noon, "names")
	e.Action, e.Object = audit.Report, "<"+name+">"
	return e
}

// times returns how often an event is in the store.
func (f *failingTrail) times(t *testing.T, name string) (n int) {
	t.Helper()
	page, err := f.store.Entries(context.Background(), audit.Query{Limit: 1 << 20})
	require.NoError(t, err)
	for _, e := range page.Entries {
		if strings.Contains(string(e.Body), "<"+name+">") {
			n++
		}
	}
	return n
}

func (f *failingTrail) drained(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		size, _, err := audit.Spooled(f.spool)
		return err == nil && size == 0
	}, 10*time.Second, 5*time.Millisecond)
}

// verified checks the whole trail against its anchor.
func (f *failingTrail) verified(t *testing.T) {
	t.Helper()
	text, err := audit.VerifierKey(t.Context(), f.desk.keys)
	require.NoError(t, err)
	v, err := note.NewVerifier(text)
	require.NoError(t, err)
	key, err := f.desk.keys.TrailKey(t.Context())
	require.NoError(t, err)
	anchored, err := f.desk.anchor.Checkpoints()
	require.NoError(t, err)
	got, err := audit.Verify(t.Context(), audit.VerifyConfig{Store: f.store, Verifier: v, Key: key, Anchored: [][][]byte{anchored}})
	require.NoError(t, err)
	require.Empty(t, got.Findings)
	require.Zero(t, got.Pending)
}

// While the store is down, whether it fails or panics, events go to the spool, and when it is back into the store, without a restart
// and without another event.
func TestSpoolTakesWhatTheStoreDoesNot(t *testing.T) {
	for name, how := range map[string]func(context.Context, []audit.Entry) error{"fails": down, "panics": panicked} {
		t.Run(name, func(t *testing.T) {
			f := newFailing(t)
			require.NoError(t, f.Record(t.Context(), report("before")))
			f.store.set(how)
			var group sync.WaitGroup
			for g := range 8 {
				group.Go(func() {
					for n := range 20 {
						if err := f.Record(t.Context(), report(fmt.Sprint("spooled ", g, n))); err != nil {
							t.Error(err)
						}
					}
				})
			}
			group.Wait()
			size, aside, err := audit.Spooled(f.spool)
			require.NoError(t, err)
			require.Positive(t, size)
			require.Zero(t, aside)
			require.Zero(t, f.times(t, "spooled 00"))
			f.store.set(nil)
			f.drained(t)
			for g := range 8 {
				for n := range 20 {
					require.Equal(t, 1, f.times(t, fmt.Sprint("spooled ", g, n)))
				}
			}
			require.Equal(t, 1, f.times(t, "before"))
			require.NoError(t, f.Close(t.Context()))
			f.verified(t)
			require.Contains(t, f.logged(), "does not take events")
			require.Contains(t, f.logged(), "is back")
			require.NotContains(t, f.logged(), "spooled 00")
			require.NotContains(t, f.logged(), "p1")
		})
	}
}

// Without store and spool nothing is acknowledged, and that is said at once. When one is back, without a restart, the trail goes on, and
// has everything that it has acknowledged.
func TestNothingIsAcknowledgedWithoutStoreAndSpool(t *testing.T) {
	file := func(t *testing.T, f *failingTrail) (undo func()) {
		require.NoError(t, os.WriteFile(f.spool, []byte("something else"), 0o600))
		return func() {
			data, err := os.ReadFile(f.spool)
			require.NoError(t, err)
			require.Equal(t, "something else", string(data), "was left alone")
			require.NoError(t, os.Remove(f.spool))
		}
	}
	for name, c := range map[string]struct {
		option func(*audit.Config)
		block  func(*testing.T, *failingTrail) func()
	}{
		"none":        {noSpool, nil},
		"full":        {spoolOf(1500), nil},
		"is a file":   {func(*audit.Config) {}, file},
		"full by one": {spoolOf(1), nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFailing(t, c.option)
			undo := func() {}
			if c.block != nil {
				undo = c.block(t, f)
			}
			acknowledged := []string{"before"}
			require.NoError(t, f.Record(t.Context(), report("before")))
			f.store.set(down)
			refused := 0
			for n := range 50 {
				name := fmt.Sprint("event ", n)
				began := time.Now()
				switch err := f.Record(t.Context(), report(name)); {
				case err == nil:
					acknowledged = append(acknowledged, name)
				default:
					require.ErrorIs(t, err, audit.ErrUnavailable)
					require.Less(t, time.Since(began), 5*time.Second)
					refused++
				}
			}
			require.Positive(t, refused)
			if c.block == nil && name == "full" {
				require.Greater(t, len(acknowledged), 1)
				size, _, err := audit.Spooled(f.spool)
				require.NoError(t, err)
				require.LessOrEqual(t, size, int64(1500))
			} else {
				require.Len(t, acknowledged, 1)
			}
			undo()
			f.store.set(nil)
			require.NoError(t, f.Record(t.Context(), report("after")))
			f.drained(t)
			for _, name := range append(acknowledged, "after") {
				require.Equal(t, 1, f.times(t, name), name)
			}
			require.NoError(t, f.Close(t.Context()))
			f.verified(t)
			half, err := filepath.Glob(f.spool + "/*")
			require.NoError(t, err)
			require.Empty(t, half)
		})
	}
}

// A store may have done what it says it could not do. The event is there once all the same.
func TestAppendOfUnknownResult(t *testing.T) {
	f := newFailing(t)
	f.store.after = func() error { return errors.New("the connection broke during commit") }
	for n := range 10 {
		require.NoError(t, f.Record(t.Context(), report(fmt.Sprint("event ", n))))
	}
	f.store.mu.Lock()
	f.store.after = nil
	f.store.mu.Unlock()
	f.drained(t)
	for n := range 10 {
		require.Equal(t, 1, f.times(t, fmt.Sprint("event ", n)))
	}
	require.NoError(t, f.Close(t.Context()))
	f.verified(t)
}

// Somebody who no longer waits does not take others with them who share the transaction.
func TestOneWhoGoesDoesNotLoseTheOthers(t *testing.T) {
	f := newFailing(t)
	gate := make(chan struct{})
	f.store.set(func(context.Context, []audit.Entry) error { <-gate; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for n := range 40 {
		group.Go(func() {
			if n%2 == 0 {
				if err := f.Record(ctx, report(fmt.Sprint("gone ", n))); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			} else if err := f.Record(t.Context(), report(fmt.Sprint("stayed ", n))); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	cancel()
	time.Sleep(20 * time.Millisecond)
	close(gate)
	group.Wait()
	for n := 1; n < 40; n += 2 {
		require.Equal(t, 1, f.times(t, fmt.Sprint("stayed ", n)))
	}
	require.ErrorIs(t, f.Record(ctx, report("late")), context.Canceled)
	require.Zero(t, f.times(t, "late"))

	// Nor does the one whose view stands for theirs.
	gate = make(chan struct{})
	f.store.set(func(context.Context, []audit.Entry) error { <-gate; return nil })
	ctx, cancel = context.WithCancel(t.Context())
	first := make(chan error)
	go func() { first <- f.Record(ctx, view("p2", noon, "names")) }()
	time.Sleep(20 * time.Millisecond)
	for range 10 {
		group.Go(func() {
			if err := f.Record(t.Context(), view("p2", noon, "names")); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	cancel()
	require.ErrorIs(t, <-first, context.Canceled)
	close(gate)
	group.Wait()
}

// While an anchor cannot be written, events are recorded, and whoever asks for a checkpoint hears of it. Afterwards the tree is anchored
// without anybody's doing.
func TestAnchorIsAwayForAWhile(t *testing.T) {
	away := filepath.Join(t.TempDir(), "away")
	anchor := audit.NewFileAnchor(filepath.Join(away, "anchor"))
	f := newFailing(t, func(c *audit.Config) { c.Anchors = append(c.Anchors, anchor) })
	for n := range 20 {
		require.NoError(t, f.Record(t.Context(), report(fmt.Sprint("event ", n))))
	}
	_, err := f.Sequence(t.Context())
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NotContains(t, err.Error(), "event")
	here, err := f.desk.anchor.Checkpoints()
	require.NoError(t, err)
	require.NotEmpty(t, here, "the other anchor has it")
	require.NoError(t, os.Mkdir(away, 0o700))
	require.Eventually(t, func() bool {
		there, err := anchor.Checkpoints()
		return err == nil && len(there) == 1
	}, 5*time.Second, 5*time.Millisecond)
	there, err := anchor.Checkpoints()
	require.NoError(t, err)
	last, err := f.Sequence(t.Context())
	require.NoError(t, err)
	require.Equal(t, string(last), string(there[0]))
	require.Equal(t, string(last), string(here[len(here)-1]))

	// Close says so as well. What it could not anchor, the next one does.
	require.NoError(t, os.RemoveAll(away))
	require.NoError(t, f.Record(t.Context(), report("last")))
	require.ErrorIs(t, f.Close(t.Context()), os.ErrNotExist)
	require.NoError(t, os.Mkdir(away, 0o700))
	next := f.again(t, func(c *audit.Config) { c.Anchors = append(c.Anchors, anchor) })
	last, err = next.Sequence(t.Context())
	require.NoError(t, err)
	there, err = anchor.Checkpoints()
	require.NoError(t, err)
	require.Equal(t, [][]byte{last}, there)
	require.Equal(t, 1, f.times(t, "last"))
	f.verified(t)
}

// What is no anchor is left alone.
func TestAnchorIsSomethingElse(t *testing.T) {
	for _, content := range []string{"root:x:0:0:root:/root:/bin/sh\n", "carrel/trail/another\n1\nAAAA\n", "\n", "SQLite format 3\x00"} {
		path := filepath.Join(t.TempDir(), "anchor")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		f := newFailing(t, func(c *audit.Config) { c.Anchors = []audit.Anchor{audit.NewFileAnchor(path)} })
		require.NoError(t, f.Record(t.Context(), report("event")))
		_, err := f.Sequence(t.Context())
		require.ErrorContains(t, err, "left alone")
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, content, string(data))
		require.Error(t, f.Close(t.Context()))
	}
	path := t.TempDir()
	require.Error(t, audit.NewFileAnchor(path).Put(t.Context(), []byte("x\n")))
	require.Error(t, audit.NewFileAnchor(os.DevNull).Put(t.Context(), []byte("x\n")))
}

// Two processes, each with some trails, write one anchor file: each checkpoint is whole, and what they have made is one tree.
func TestTwoTrailsOneAnchor(t *testing.T) {
	f := newFailing(t, every(time.Millisecond))
	var group sync.WaitGroup
	for g := range 4 {
		other := f.again(t, every(time.Millisecond), func(c *audit.Config) { c.Anchors = []audit.Anchor{audit.NewFileAnchor(f.desk.path)} })
		group.Go(func() {
			for n := range 50 {
				if err := other.Record(context.Background(), report(fmt.Sprint("event ", g, n))); err != nil {
					t.Error(err)
				}
				if _, err := other.Sequence(context.Background()); err != nil {
					t.Error(err)
				}
			}
			if err := other.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.NoError(t, f.Close(t.Context()))
	f.verified(t)
	tree, err := f.store.Tree(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(200), tree.Next)
}

// A crash or a full disk leaves half a checkpoint, of whatever length. Those that come after it are whole, and are found.
func TestAnchorGoesOnAfterATornLine(t *testing.T) {
	f := newFailing(t, every(time.Hour))
	require.NoError(t, f.Record(t.Context(), report("one")))
	first, err := f.Sequence(t.Context())
	require.NoError(t, err)
	require.NoError(t, f.Record(t.Context(), report("two")))
	second, err := f.Sequence(t.Context())
	require.NoError(t, err)
	for _, earlier := range []string{"", string(first)} {
		for n := range len(first) {
			if n%9 > 0 && first[n] != '\n' && first[n-1] != '\n' {
				continue
			}
			path := filepath.Join(t.TempDir(), "anchor")
			require.NoError(t, os.WriteFile(path, []byte(earlier+string(first[:n])), 0o600))
			for _, c := range [][]byte{first, second} {
				require.NoError(t, audit.NewFileAnchor(path).Put(t.Context(), c), "after %d bytes", n)
			}
			for _, read := range []func() ([][]byte, error){audit.NewFileAnchor(path).Checkpoints, audit.NewFileAnchor(path).Recent} {
				list, err := read()
				require.NoError(t, err)
				require.Contains(t, list, first, "after %d bytes", n)
				require.Contains(t, list, second, "after %d bytes", n)
			}
		}
	}
}
