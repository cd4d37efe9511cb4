package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/carrel-project/carrel/crypto"
)

// Config is what a trail is made of.
type Config struct {
	Store   Store
	Keys    *crypto.Keyring // opened with the store of subject keys
	Anchors []Anchor        // at least one, outside the database

	// Spool is a directory that takes events while the store cannot: sealed, synced, and at most SpoolLimit bytes of them. They go into the
	// store when it is back, in this process or the next. Empty: without a store nothing is recorded, and so nothing revealed.
	Spool      string
	SpoolLimit int64 // 0: 64 MiB

	Interval time.Duration // from an event to the checkpoint that covers it, at most; 0: 10 seconds

	Logger *slog.Logger // hears of trouble with the store, the spool and the anchors, without any event; nil: nobody does
	Now    func() time.Time
}

// A Trail records events in a store and makes a signed tree of them. It is safe for concurrent use, also by several processes on the same
// store and keyring. Close it to have its last events covered by a checkpoint.
type Trail struct {
	store    Store
	keys     *crypto.Keyring
	key      *crypto.TrailKey
	signer   note.Signer
	verifier note.Verifier
	anchors  []Anchor
	spool    *spool // nil: none
	interval time.Duration
	patience time.Duration // with the store
	log      *slog.Logger
	now      func() time.Time

	down  atomic.Bool // the store, when it was last asked to append
	views views
	group group
	tree  sequencer
}

// storePatience is how long an append may take before the store counts as down. It is longer than SQLite waits for a lock.
const storePatience = 15 * time.Second

// New returns a trail. It makes no tables. A store that is down is no error: events may go to the spool.
func New(ctx context.Context, cfg Config) (*Trail, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("audit: Config.Store is nil, want where the entries are kept")
	case cfg.Keys == nil:
		return nil, errors.New("audit: Config.Keys is nil, want a keyring")
	case len(cfg.Anchors) == 0:
		return nil, errors.New("audit: Config.Anchors is empty; without an anchor outside the database its owner can rewrite the whole trail: see FileAnchor")
	case cfg.Interval < 0:
		return nil, fmt.Errorf("audit: Config.Interval is %v, must not be negative", cfg.Interval)
	case cfg.SpoolLimit < 0:
		return nil, fmt.Errorf("audit: Config.SpoolLimit is %d, must not be negative", cfg.SpoolLimit)
	}
	key, err := cfg.Keys.TrailKey(ctx)
	if err != nil {
		return nil, err
	}
	text, err := VerifierKey(ctx, cfg.Keys)
	if err != nil {
		return nil, err
	}
	verifier, err := note.NewVerifier(text)
	if err != nil {
		return nil, err
	}
	t := &Trail{store: cfg.Store, keys: cfg.Keys, key: key, signer: signer{verifier, key}, verifier: verifier, anchors: cfg.Anchors,
		interval: cmp.Or(cfg.Interval, 10*time.Second), patience: storePatience, log: cfg.Logger, now: cfg.Now}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if t.now == nil {
		t.now = time.Now
	}
	t.views.covers = map[viewKey]map[string]time.Time{}
	if cfg.Spool != "" {
		if t.spool, err = openSpool(cfg.Spool, cmp.Or(cfg.SpoolLimit, 64<<20), cfg.Keys.ID(), key); err != nil {
			return nil, err
		}
	}
	t.tree.schedule(t) // what an earlier process has left
	return t, nil
}

// ErrUnavailable means that neither the store nor the spool took an event: it is not recorded, and what it was about must not be done.
var ErrUnavailable = errors.New("audit: the event cannot be recorded: neither the store nor the spool takes it")

// ErrClosed means that the trail was closed.
var ErrClosed = errors.New("audit: the trail is closed")

// Record implements [Recorder]. Of views and look-ups of one patron that say the same within half an hour, one is written, and says that it
// stands for the others.
//
// Errors: [ErrEvent], [ErrUnavailable], [ErrClosed], that of ctx; those of the keyring.
func (t *Trail) Record(ctx context.Context, e Event) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if ownBusiness(e.Action) {
		return errOwn
	}
	t.views.failed(&e)
	if key, ok := viewOf(&e); ok {
		return t.recordView(ctx, key, e)
	}
	return t.write(ctx, e)
}

var errOwn = fmt.Errorf("%w: Action is one that only the trail itself records: see Trail.Prune and Trail.Restore", ErrEvent)

func ownBusiness(a Action) bool { return a == Prune || a == Restore }

// write makes an event durable.
func (t *Trail) write(ctx context.Context, e Event) error {
	entry, err := t.prepare(ctx, e)
	if err != nil {
		return err
	}
	return t.group.append(ctx, t, entry)
}

// Close writes what is waiting, makes a last checkpoint and anchors it. After it nothing is recorded.
func (t *Trail) Close(ctx context.Context) error {
	if err := t.group.close(ctx); err != nil {
		return err
	}
	t.tree.stop()
	if t.spool != nil {
		t.drained(ctx)
	}
	_, err := t.Sequence(ctx)
	return err
}

// group lets those who record at the same time share one transaction: while one is on its way, the others gather.
type group struct {
	mu      sync.Mutex
	waiting []*pending
	writing bool
	closed  bool
	acked   map[tlog.Hash]uint64 // leaves of entries that the store has acknowledged and no checkpoint is known to cover, with a number from which on they are
	idle    chan struct{}        // closed when nobody writes any more; nil: nobody asked
}

// A pending entry waits to be durable.
type pending struct {
	entry Entry
	done  chan error // gets one
}

const (
	maxGroup      = 1024    // entries in one transaction
	maxGroupBytes = 8 << 20 // of their bodies
)

func (g *group) append(ctx context.Context, t *Trail, e Entry) error {
	p := &pending{e, make(chan error, 1)}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return ErrClosed
	}
	g.waiting = append(g.waiting, p)
	if !g.writing {
		g.writing = true
		go g.run(t)
	}
	g.mu.Unlock()
	// The store is given patience, for those who are on their way and then for this one, the spool some, and then whoever waits shall not wait for ever.
	timeout := time.NewTimer(3 * t.patience)
	defer timeout.Stop()
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-timeout.C:
		g.forget(p)
		return ErrUnavailable
	}
}

// forget takes out one who does not wait any more, if nobody has begun to write them, so that those who come while a store hangs do not pile up.
func (g *group) forget(p *pending) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.waiting, p); i >= 0 {
		g.waiting = slices.Delete(slices.Clone(g.waiting), i, i+1)
	}
}

// run writes until nobody waits.
func (g *group) run(t *Trail) {
	for {
		g.mu.Lock()
		n, size := 0, 0
		for n < len(g.waiting) && n < maxGroup && (n == 0 || size+len(g.waiting[n].entry.Body) <= maxGroupBytes) {
			size += len(g.waiting[n].entry.Body)
			n++
		}
		batch := g.waiting[:n:n]
		if g.waiting = g.waiting[n:]; len(g.waiting) == 0 {
			g.waiting = nil
		}
		if n == 0 {
			g.writing = false
			if g.idle != nil {
				close(g.idle)
				g.idle = nil
			}
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		entries := make([]Entry, n)
		for i, p := range batch {
			entries[i] = p.entry
		}
		err := t.keep(entries)
		for _, p := range batch {
			p.done <- err
		}
	}
}

// busy reports whether somebody is being written.
func (g *group) busy() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.writing
}

// close lets nobody in any more and waits for those who are.
func (g *group) close(ctx context.Context) error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return ErrClosed
	}
	g.closed = true
	idle := make(chan struct{})
	if g.idle = idle; !g.writing {
		close(idle)
		g.idle = nil
	}
	g.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keep makes entries durable, in the store or else in the spool. Nobody's context ends it: others wait for it, too. A store that was down
// when it was last asked is asked again by the drain, so that nobody has to wait for that.
func (t *Trail) keep(entries []Entry) error {
	asked := t.spool == nil || !t.down.Load()
	if asked {
		if t.toStore(entries) == nil {
			t.kept()
			return nil
		}
		t.log.Error("carrel: the audit store does not take events", "events", len(entries))
		if t.spool == nil {
			return ErrUnavailable
		}
	}
	if err := t.spool.put(entries); err != nil {
		if !asked && t.toStore(entries) == nil {
			t.kept()
			return nil
		}
		t.log.Error("carrel: the audit spool does not take events either", "events", len(entries), "error", err)
		return ErrUnavailable
	}
	t.tree.schedule(t) // which will drain it
	return nil
}

// kept goes on when the store has taken entries.
func (t *Trail) kept() {
	if t.spool != nil && t.spool.filled() {
		go t.drain(context.Background())
	}
	t.tree.schedule(t)
}

// acknowledged hands out what the store has acknowledged since it was asked last, for [Trail.Sequence] to see whether it is there.
func (g *group) acknowledged() map[tlog.Hash]uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	wanted := g.acked
	g.acked = nil
	if wanted == nil {
		wanted = map[tlog.Hash]uint64{}
	}
	return wanted
}

// acknowledge remembers it. All of it has a number of at least from.
func (g *group) acknowledge(leaves map[tlog.Hash]uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.acked == nil {
		g.acked = leaves
		return
	}
	for h, from := range leaves {
		if len(g.acked) < maxAcked {
			g.acked[h] = from
		}
	}
}

// maxAcked bounds what is remembered while no checkpoint can be made.
const maxAcked = 1 << 20

// toStore appends entries. A store that panics is one that is down: its panic would end the process, in a goroutine of ours.
func (t *Trail) toStore(entries []Entry) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), t.patience)
	defer cancel()
	defer func() {
		if recover() != nil {
			err = errors.New("audit: the store panicked")
		}
		t.down.Store(err != nil)
	}()
	if err := t.store.Append(ctx, entries); err != nil {
		return err
	}
	leaves, from := make(map[tlog.Hash]uint64, len(entries)), t.tree.floor.Load()
	var leaf []byte
	for _, e := range entries {
		var h tlog.Hash
		h, leaf, _ = leafHash(nil, leaf, e.Body)
		leaves[h] = from
	}
	t.group.acknowledge(leaves)
	return nil
}
