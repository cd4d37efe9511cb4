package audit

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
)

// A slowStore takes entries, or hangs, with an ear for the context or without.
type slowStore struct {
	mu      sync.Mutex
	entries []Entry
	keys    map[[16]byte]bool

	deaf, hangs atomic.Bool
	free        chan struct{} // ends all hanging
}

func (s *slowStore) hang(ctx context.Context) error {
	switch {
	case s.deaf.Load():
		<-s.free
	case s.hangs.Load():
		select {
		case <-s.free:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (s *slowStore) Append(ctx context.Context, entries []Entry) error {
	if err := s.hang(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		if e.Key != [16]byte{} && s.keys[e.Key] {
			continue
		}
		s.keys[e.Key] = true
		s.entries = append(s.entries, e)
	}
	return nil
}

func (s *slowStore) Entries(ctx context.Context, q Query) (Page, error) { return Page{}, s.hang(ctx) }
func (s *slowStore) Tree(ctx context.Context, _ ...TileID) (Tree, error) {
	return Tree{}, s.hang(ctx)
}
func (s *slowStore) Advance(ctx context.Context, _ Advance) error { return s.hang(ctx) }

// times returns how often each event is there, by its object.
func (s *slowStore) times(t *testing.T) map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := map[string]int{}
	for _, e := range s.entries {
		o, err := open(e.Body)
		require.NoError(t, err)
		n[o.event.Object]++
	}
	return n
}

type nowhere struct{}

func (nowhere) Put(context.Context, []byte) error { return nil }

func newSlow(t *testing.T, patience time.Duration, spool bool) (*Trail, *slowStore) {
	dir := t.TempDir()
	require.NoError(t, crypto.CreateKEK(filepath.Join(dir, "kek")))
	kek, err := crypto.OpenKEK(filepath.Join(dir, "kek"))
	require.NoError(t, err)
	require.NoError(t, crypto.CreateKeyring(filepath.Join(dir, "keys"), kek))
	keys, err := crypto.OpenKeyring(t.Context(), crypto.Config{Path: filepath.Join(dir, "keys"), KEK: kek})
	require.NoError(t, err)
	s := &slowStore{keys: map[[16]byte]bool{}, free: make(chan struct{})}
	cfg := Config{Store: s, Keys: keys, Anchors: []Anchor{nowhere{}}, Interval: time.Hour}
	if spool {
		cfg.Spool = filepath.Join(dir, "spool")
	}
	trail, err := New(t.Context(), cfg)
	require.NoError(t, err)
	trail.tree.stop() // its timer, which knows the other patience
	trail.tree.stopped, trail.patience, trail.interval = false, patience, 20*time.Millisecond
	return trail, s
}

func reported(object string) Event {
	return Event{Time: time.Now(), Action: Report, Outcome: Done, Actor: "auditor", Channel: CLI, Object: object}
}

// A store that does not even hear the context ends in an error in time, for each of those who wait; and what was acknowledged before and after
// is there when it is back.
func TestTrailOnAStoreThatHangsForGood(t *testing.T) {
	const patience = 60 * time.Millisecond
	for _, spool := range []bool{false, true} {
		trail, s := newSlow(t, patience, spool)
		require.NoError(t, trail.Record(t.Context(), reported("before")))
		s.deaf.Store(true)
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				began := time.Now()
				err := trail.Record(t.Context(), reported("meanwhile"))
				if !errors.Is(err, ErrUnavailable) {
					t.Errorf("error %v", err)
				}
				if took := time.Since(began); took > 10*patience {
					t.Errorf("it took %v", took)
				}
			})
		}
		group.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		require.ErrorIs(t, trail.Record(ctx, reported("meanwhile")), context.DeadlineExceeded)
		cancel()
		s.deaf.Store(false)
		close(s.free)
		require.Eventually(t, func() bool { return trail.Record(t.Context(), reported("after")) == nil }, 5*time.Second, patience)
		n := s.times(t)
		require.Equal(t, 1, n["before"])
		require.Equal(t, 1, n["after"])
		require.ErrorIs(t, trail.Close(t.Context()), ErrLost, "this store shows nobody what it took")
	}
}

// While a store hangs that hears the context, all events go to the spool: nobody is refused. When it is back they are drained by themselves.
func TestTrailOnAStoreThatHangs(t *testing.T) {
	const patience = 60 * time.Millisecond
	trail, s := newSlow(t, patience, true)
	s.hangs.Store(true)
	var mu sync.Mutex
	var acknowledged []string
	var slowest time.Duration
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for n := range 4 {
				object := string(rune('a'+g)) + string(rune('0'+n))
				time.Sleep(time.Duration(g) * patience / 10)
				began := time.Now()
				err := trail.Record(t.Context(), reported(object))
				took := time.Since(began)
				mu.Lock()
				slowest = max(slowest, took)
				if err == nil {
					acknowledged = append(acknowledged, object)
				} else {
					t.Errorf("%v after %v", err, took)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.Logf("%d acknowledged, the slowest after %.1f times the patience", len(acknowledged), float64(slowest)/float64(patience))
	s.hangs.Store(false)
	require.Eventually(t, func() bool { return !trail.spool.filled() }, 5*time.Second, patience/10)
	slices.Sort(acknowledged)
	n := s.times(t)
	for _, object := range acknowledged {
		require.Equal(t, 1, n[object], object)
	}
	require.NoError(t, trail.Close(t.Context()))
}

// Those who wait for one record of the same view are refused together, not one after the other.
func TestTrailRefusesEqualViewsInTime(t *testing.T) {
	const patience = 50 * time.Millisecond
	trail, s := newSlow(t, patience, false)
	s.deaf.Store(true)
	defer close(s.free)
	e := Event{Time: time.Now(), Action: View, Outcome: Done, Actor: "staff-17", Channel: UI, Segments: []string{"names"}, Count: 1, Subjects: []Subject{{ID: "p1"}}}
	key, ok := viewOf(&e)
	require.True(t, ok)
	e.Subjects = nil // there are no keys here
	var group sync.WaitGroup
	began := time.Now()
	for range 10 {
		group.Go(func() {
			if err := trail.recordView(t.Context(), key, e); !errors.Is(err, ErrUnavailable) {
				t.Errorf("error %v", err)
			}
		})
	}
	group.Wait()
	require.Less(t, time.Since(began), 6*patience)
}

// panicking is a store that panics while it is down.
type panicking struct {
	*slowStore
	down atomic.Bool
}

func (p *panicking) panics() {
	if p.down.Load() {
		panic("down")
	}
}

func (p *panicking) Append(ctx context.Context, e []Entry) error {
	p.panics()
	return p.slowStore.Append(ctx, e)
}

func (p *panicking) Tree(ctx context.Context, tiles ...TileID) (Tree, error) {
	p.panics()
	return p.slowStore.Tree(ctx, tiles...)
}

func (p *panicking) Entries(ctx context.Context, q Query) (Page, error) {
	p.panics()
	return p.slowStore.Entries(ctx, q)
}

// A store that panics is one that is down, whichever of its methods does it and whoever calls it.
func TestTrailOnAStoreThatPanics(t *testing.T) {
	trail, s := newSlow(t, time.Second, true)
	p := &panicking{slowStore: s}
	trail.store = p
	p.down.Store(true)
	for n := range 5 {
		require.NoError(t, trail.Record(t.Context(), reported(string(rune('a'+n)))))
	}
	time.Sleep(100 * time.Millisecond) // for the sequencer to have its turn as well
	p.down.Store(false)
	require.Eventually(t, func() bool { return len(s.times(t)) == 5 }, 5*time.Second, 10*time.Millisecond)
	require.NoError(t, trail.Close(t.Context()))
}
