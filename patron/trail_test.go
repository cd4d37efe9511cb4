package patron_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/memory"
)

// A brittle store takes no events while it is down.
type brittle struct {
	*memory.Log
	down, panics atomic.Bool
}

func (b *brittle) Append(ctx context.Context, entries []audit.Entry) error {
	if b.panics.Load() {
		panic("down")
	}
	if b.down.Load() {
		return errors.New("down")
	}
	return b.Log.Append(ctx, entries)
}

const openToAll = `
carrel-access: 1
id: test
revision: 1
title: All of it
purposes: {all: All of it}
roles:
  all:
    why: Tests
    for:
      all: {names: full, addresses: full, identifiers: full, may: [create, change, import, export, resolve, find, reindex]}
`

// A library has a directory on a trail of its own.
type library struct {
	*patron.Directory
	trail *audit.Trail
	log   *brittle
	spool string
	keys  *crypto.Keyring
	ids   []patron.ID
}

var staff = patron.Call{Actor: "staff-17", Role: "all", Purpose: "all", Channel: audit.UI}

// newLibrary has 20 patrons, with the barcodes 100 to 119.
func newLibrary(t *testing.T, spoolLimit int64, wrap func(audit.Recorder) audit.Recorder) *library {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, crypto.CreateKEK(filepath.Join(dir, "kek")))
	kek, err := crypto.OpenKEK(filepath.Join(dir, "kek"))
	require.NoError(t, err)
	require.NoError(t, crypto.CreateKeyring(filepath.Join(dir, "keys"), kek))
	l := &library{log: &brittle{Log: memory.NewLog()}, spool: filepath.Join(dir, "spool")}
	l.keys, err = crypto.OpenKeyring(t.Context(), crypto.Config{Path: filepath.Join(dir, "keys"), KEK: kek, Store: memory.NewKeys()})
	require.NoError(t, err)
	cfg := audit.Config{Store: l.log, Keys: l.keys, Anchors: []audit.Anchor{audit.NewFileAnchor(filepath.Join(dir, "anchor"))}, Interval: 10 * time.Millisecond}
	if spoolLimit > 0 {
		cfg.Spool, cfg.SpoolLimit = l.spool, spoolLimit
	}
	l.trail, err = audit.New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { l.trail.Close(context.Background()) })
	matrix, err := access.ParseMatrix([]byte(openToAll))
	require.NoError(t, err)
	recorder := audit.Recorder(l.trail)
	if wrap != nil {
		recorder = wrap(recorder)
	}
	l.Directory, err = patron.New(patron.Config{Store: memory.NewPatrons(), Keys: l.keys, Access: matrix, Recorder: recorder})
	require.NoError(t, err)
	for n := range 20 {
		id, err := l.Create(t.Context(), staff, patron.Profile{
			Names:       []patron.Name{{Use: "legal", First: crypto.NewSecret("Anna"), Last: crypto.NewSecret(fmt.Sprint("Svensson", n))}},
			Addresses:   []patron.Address{{Use: "home", City: crypto.NewSecret("Lund")}},
			Identifiers: []patron.Identifier{{Use: "barcode", Value: crypto.NewSecret(fmt.Sprint(100 + n))}},
		})
		require.NoError(t, err)
		l.ids = append(l.ids, id)
	}
	return l
}

// reveals tries all ways to learn something of patrons, and returns how often that was revealed, and the errors.
func (l *library) reveals(t *testing.T, run int) (revealed int, errs []error) {
	t.Helper()
	call := staff
	for n, id := range l.ids {
		call.Actor = fmt.Sprintf("staff-%d-%d", run, n) // who has seen nothing yet
		v, err := l.View(t.Context(), call, id, 0)
		errs = append(errs, err)
		if err == nil || v.Profile.Has(access.Names) || v.Profile.Has(access.Addresses) || v.Version != 0 || v.Present != 0 {
			revealed++
		}
		found, err := l.Find(t.Context(), call, crypto.NewSecret(fmt.Sprint(100+n)))
		errs = append(errs, err)
		if err == nil || !found.IsZero() {
			revealed++
		}
		found, err = l.Resolve(t.Context(), call, l.token(t, id))
		errs = append(errs, err)
		if err == nil || !found.IsZero() {
			revealed++
		}
		// That there is nobody is something, too.
		_, err = l.Find(t.Context(), call, crypto.NewSecret("nobody"))
		errs = append(errs, err)
		if err == nil || errors.Is(err, patron.ErrNotFound) {
			revealed++
		}
	}
	for x, err := range l.Export(t.Context(), call, patron.Export{Segments: access.SetOf(access.Names)}) {
		errs = append(errs, err)
		if err == nil || !x.ID.IsZero() || x.Profile.Has(access.Names) {
			revealed++
		}
	}
	return revealed, errs
}

func (l *library) token(t *testing.T, id patron.ID) string {
	t.Helper()
	p, err := l.keys.Pseudonyms(patron.Borrowers)
	require.NoError(t, err)
	token, err := p.Token(id.String())
	require.NoError(t, err)
	return token
}

const allReveals = 4*20 + 20 // of reveals

// recorded counts the entries.
func (l *library) recorded(t *testing.T) int {
	t.Helper()
	tree, err := l.log.Tree(t.Context())
	require.NoError(t, err)
	return int(tree.Next)
}

// With a real trail, all of whose sinks are down, nothing is revealed, by whatever way; the error says why; and when a sink is back, the directory
// goes on without a restart.
func TestNothingIsRevealedWithoutATrail(t *testing.T) {
	for name, c := range map[string]struct {
		limit       int64
		spoil, mend func(*testing.T, *library)
	}{
		"store fails, no spool":   {0, func(_ *testing.T, l *library) { l.log.down.Store(true) }, func(_ *testing.T, l *library) { l.log.down.Store(false) }},
		"store panics, no spool":  {0, func(_ *testing.T, l *library) { l.log.panics.Store(true) }, func(_ *testing.T, l *library) { l.log.panics.Store(false) }},
		"store fails, spool full": {1, func(_ *testing.T, l *library) { l.log.down.Store(true) }, func(_ *testing.T, l *library) { l.log.down.Store(false) }},
		"store fails, spool comes": {1 << 20, func(t *testing.T, l *library) {
			l.log.down.Store(true)
			require.NoError(t, os.WriteFile(l.spool, nil, 0o600))
		}, func(t *testing.T, l *library) { require.NoError(t, os.Remove(l.spool)) }},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLibrary(t, c.limit, nil)
			revealed, _ := l.reveals(t, 0)
			require.Equal(t, allReveals, revealed)
			before := l.recorded(t)
			c.spoil(t, l)
			began := time.Now()
			revealed, errs := l.reveals(t, 1)
			require.Zero(t, revealed)
			for _, err := range errs {
				require.ErrorIs(t, err, patron.ErrNotRecorded)
			}
			require.Less(t, time.Since(began), 10*time.Second)
			require.Equal(t, before, l.recorded(t))
			// Nor is anything changed.
			_, err := l.Create(t.Context(), staff, patron.Profile{
				Names:       []patron.Name{{Use: "legal", Last: crypto.NewSecret("Late")}},
				Identifiers: []patron.Identifier{{Use: "barcode", Value: crypto.NewSecret("late")}},
			})
			require.ErrorIs(t, err, patron.ErrNotRecorded)
			c.mend(t, l)
			revealed, _ = l.reveals(t, 2)
			require.Equal(t, allReveals, revealed)
			l.log.down.Store(false)
			require.NoError(t, l.trail.Close(t.Context()))
			require.GreaterOrEqual(t, l.recorded(t), before+4*20+1)
		})
	}
}

// With a spool the directory reveals while the store is down, and every reveal is in the trail once the store is back; until the
// spool is full.
func TestRevealsGoToTheSpool(t *testing.T) {
	l := newLibrary(t, 1<<20, nil)
	before := l.recorded(t)
	l.log.down.Store(true)
	revealed, _ := l.reveals(t, 1)
	require.Equal(t, allReveals, revealed)
	require.Equal(t, before, l.recorded(t))
	files, err := filepath.Glob(l.spool + "/*")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		for n, id := range l.ids {
			for _, plain := range []string{id.String(), strings.ReplaceAll(id.String(), "-", ""), string(id[:]), fmt.Sprint("Svensson", n)} {
				require.NotContains(t, string(data), plain)
			}
		}
		require.Contains(t, string(data), "staff-1-", "the search finds what is there")
	}
	l.log.down.Store(false)
	require.Eventually(t, func() bool { return l.recorded(t) == before+4*20+1 }, 10*time.Second, 5*time.Millisecond)
}

// counter counts what it lets through, and drops one in so many: what must not be.
type counter struct {
	audit.Recorder
	drop, n, late atomic.Int64
}

func (c *counter) Record(ctx context.Context, e audit.Event) error {
	n := c.n.Add(1)
	if every := c.drop.Load(); every > 0 && n%every == 0 {
		return nil
	}
	if c.late.Load() > 0 {
		go c.Recorder.Record(context.Background(), e)
		return nil
	}
	return c.Recorder.Record(ctx, e)
}

// The store comes and goes while many ask. Each reveal is in the trail at the end; and this test sees a recorder that drops one event in a
// hundred, or says yes before it knows.
func TestRevealsAreCoveredWhileTheStoreComesAndGoes(t *testing.T) {
	run := func(t *testing.T, drop, late int64) (revealed, recorded int) {
		c := &counter{}
		l := newLibrary(t, 2000, func(r audit.Recorder) audit.Recorder { c.Recorder = r; return c })
		c.drop.Store(drop)
		c.late.Store(late)
		stop := make(chan struct{})
		var flaky, group sync.WaitGroup
		flaky.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					l.log.down.Store(false)
					return
				case <-time.After(time.Millisecond):
					l.log.down.Store(n%3 > 0)
				}
			}
		})
		var names sync.Map
		for g := range 4 {
			group.Go(func() {
				call := staff
				for n := range 250 {
					call.Actor = fmt.Sprintf("<%d-%d>", g, n)
					v, err := l.View(t.Context(), call, l.ids[n%20], 0)
					if err == nil {
						names.Store(call.Actor, v.Profile.Names[0].Last.Reveal())
					} else if !errors.Is(err, patron.ErrNotRecorded) {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		close(stop)
		flaky.Wait()
		require.NoError(t, l.trail.Close(t.Context()))
		require.Eventually(t, func() bool {
			waiting, _, err := audit.Spooled(l.spool)
			return err == nil && waiting == 0
		}, 10*time.Second, 5*time.Millisecond)
		page, err := l.log.Entries(t.Context(), audit.Query{Actions: []audit.Action{audit.View}, Limit: 1 << 20})
		require.NoError(t, err)
		var bodies strings.Builder
		for _, e := range page.Entries {
			bodies.Write(e.Body)
		}
		names.Range(func(actor, _ any) bool {
			revealed++
			if strings.Contains(bodies.String(), actor.(string)) {
				recorded++
			}
			return true
		})
		return revealed, recorded
	}
	revealed, recorded := run(t, 0, 0)
	t.Logf("%d of 1000 revealed", revealed)
	require.Greater(t, revealed, 50)
	require.Equal(t, revealed, recorded)
	revealed, recorded = run(t, 100, 0)
	require.Less(t, recorded, revealed)
	revealed, recorded = run(t, 0, 1)
	require.Less(t, recorded, revealed)
}
