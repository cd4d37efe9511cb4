package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The sequencer makes leaves of the entries that are there, and signs the tree. One process at a time gets its turn; who comes second sees that the tree has
// grown and goes on from there.
type sequencer struct {
	turn sync.Mutex // this process's

	// What this process knows, guarded by turn.
	edge     *frontier  // nil: nothing yet
	signed   []byte     // the checkpoint of edge
	anchored []byte     // the last one that all anchors have
	highest  uint64     // size of the largest tree that an anchor was seen to have
	last     []byte     // the checkpoint of that
	recent   [][][]byte // what each anchor had when it was looked at, in its order
	own      uint64     // size of the largest tree that this process has anchored
	looked   bool       // at the anchors
	bare     bool       // one of them had nothing

	floor atomic.Uint64 // size of the last tree that this process has seen

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

var (
	// ErrLost means that the store has acknowledged events and does not have them: somebody removes them, or keeps them out.
	ErrLost = errors.New("audit: events that the store acknowledged are not in it: somebody removed them or keeps them out")

	// ErrTampered means that the tree in the store is not the one that was signed last: [Verify] says where.
	ErrTampered = errors.New("audit: the tree in the store is not the one that was signed: somebody changed it")

	// ErrBehind means that the store has fewer entries than an anchor knows of: it was restored from a backup, or its end was cut off. No checkpoint
	// is signed over the gap, before [Trail.Restore] has said that it is there.
	ErrBehind = errors.New("audit: the store has fewer entries than the anchor knows of: it was restored from a backup, or cut")
)

// schedule has a checkpoint made when the interval is over.
func (s *sequencer) schedule(t *Trail) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil || s.stopped {
		return
	}
	s.timer = time.AfterFunc(t.interval, func() {
		s.mu.Lock()
		s.timer = nil
		stopped := s.stopped
		s.mu.Unlock()
		if stopped {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*t.patience)
		defer cancel()
		if t.spool != nil && t.spool.filled() {
			t.drain(ctx)
			if t.spool.filled() {
				s.schedule(t)
			}
		}
		if err := t.sequence(ctx); err != nil {
			t.log.Error("carrel: no checkpoint of the audit trail", "error", err)
			s.schedule(t)
		}
	})
}

// sequence is Sequence in a goroutine of ours, which a store or an anchor that panics must not end the process by.
func (t *Trail) sequence(ctx context.Context) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("audit: the store or an anchor panicked")
		}
	}()
	_, err = t.Sequence(ctx)
	return err
}

func (s *sequencer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

const (
	growPause    = time.Millisecond // between two pages, while somebody records
	sequencePage = 2048             // entries that are read at a time
	growPage     = 256              // the same beside people who record
	growAtOnce   = 32768            // entries that become leaves in one transaction

	// gap begins the leaf of a number that had no entry when it was signed.
	gap    = 0xfe
	maxGap = 100_000
)

// Sequence makes leaves of all entries that are in the store, signs a checkpoint of the tree and anchors it. Trail does this by itself, within
// Config.Interval of an event; call it where a checkpoint is wanted at once, or for entries that were appended without a Trail's Record. It returns the last checkpoint; nil while there
// is no entry.
//
// Errors: [ErrTampered], [ErrBehind]; those of the store and the anchors. The entries are safe whatever they say.
func (t *Trail) Sequence(ctx context.Context) (checkpoint []byte, err error) {
	s := &t.tree
	s.turn.Lock()
	defer s.turn.Unlock()
	wanted := t.group.acknowledged()
	for conflicts := 0; ; {
		more, err := t.grow(ctx, wanted)
		if errors.Is(err, ErrConflict) && ctx.Err() == nil { // load sees how far the other one is
			if conflicts++; conflicts > maxConflicts {
				err = ErrTampered // nobody is as fast as that
			} else {
				continue
			}
		}
		if err != nil {
			t.group.acknowledge(wanted)
			return nil, err
		}
		if !more {
			break
		}
	}
	s.floor.Store(s.edge.size)
	if err := errors.Join(t.present(ctx, wanted), t.anchor(ctx)); err != nil {
		return s.signed, err
	}
	return s.signed, nil
}

// maxConflicts is how often in a row another process may be faster.
const maxConflicts = 1000

// present looks whether entries that were acknowledged are there. Those that another process has taken in, this one has not seen.
func (t *Trail) present(ctx context.Context, wanted map[tlog.Hash]uint64) error {
	if len(wanted) == 0 {
		return nil
	}
	tree, err := t.store.Tree(ctx)
	if err != nil {
		return err
	}
	from := tree.Next
	for _, next := range wanted {
		from = min(from, next)
	}
	var leaf []byte
	for q := (Query{From: from, To: tree.Next, Limit: sequencePage}); len(wanted) > 0 && from < tree.Next; {
		page, err := t.store.Entries(ctx, q)
		if err != nil {
			return err
		}
		for _, e := range page.Entries {
			var h tlog.Hash
			h, leaf, _ = leafHash(t.key, leaf, e.Body)
			delete(wanted, h)
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			break
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	t.views.forget()
	t.log.Error("carrel: events that the audit store acknowledged are not in it", "events", len(wanted))
	return fmt.Errorf("%w: %d", ErrLost, len(wanted))
}

// load makes s.edge what the store has, and checks it.
func (t *Trail) load(ctx context.Context) (next uint64, err error) {
	s := &t.tree
	if err := t.lookAtAnchors(); err != nil {
		return 0, err
	}
	for {
		tree, err := t.store.Tree(ctx)
		if err != nil {
			return 0, err
		}
		if err := t.behind(ctx, tree); err != nil {
			return 0, err
		}
		if s.edge != nil && s.edge.size == tree.Size && string(s.signed) == string(tree.Checkpoint) {
			return tree.Next, nil
		}
		was, signed := s.edge, s.signed
		if was != nil && tree.Size <= was.size {
			t.views.forget() // it was put back, and with it what covers looks
		}
		ids := edge(tree.Size)
		size := tree.Size
		if tree, err = t.store.Tree(ctx, ids...); err != nil {
			return 0, err
		}
		if tree.Size != size {
			continue
		}
		f, err := newFrontier(size, ids, tree.Tiles)
		if err != nil {
			return 0, ErrTampered
		}
		if size > 0 {
			root, err := f.root()
			signed, serr := OpenCheckpoint(tree.Checkpoint, t.verifier)
			if err != nil || serr != nil || uint64(signed.N) != size || signed.Hash != root {
				return 0, ErrTampered
			}
		} else if len(tree.Checkpoint) > 0 {
			return 0, ErrTampered
		}
		if err := t.continues(ctx, was, signed, tree); err != nil {
			t.views.forget()
			return 0, err
		}
		if s.bare && size > 0 {
			s.bare = false
			t.log.Warn("carrel: an anchor of the audit trail is new or gone: it proves nothing about what was before now", "entries", size)
		}
		s.edge, s.signed = f, tree.Checkpoint
		return tree.Next, nil
	}
}

// continues looks whether the tree that another process has made begins with the one that this process knows.
func (t *Trail) continues(ctx context.Context, was *frontier, signed []byte, now Tree) error {
	if was == nil || was.size == 0 || now.Size <= was.size {
		return nil
	}
	tree, err := OpenCheckpoint(now.Checkpoint, t.verifier)
	if err != nil {
		return ErrTampered
	}
	old, err := OpenCheckpoint(signed, t.verifier)
	if err != nil {
		return ErrTampered
	}
	root, err := tlog.TreeHash(old.N, tlog.TileHashReader(tree, &tileReader{ctx, t.store}))
	if errors.Is(err, errTree) {
		return nil // it has been pruned and collapsed since
	}
	if err != nil {
		return err
	}
	if root == old.Hash {
		return nil
	}
	lost, err := t.declared(ctx)
	if err != nil {
		return err
	}
	for _, l := range lost { // it was restored, and has grown since
		if l.From < was.size && was.size <= l.To {
			return nil
		}
	}
	return fmt.Errorf("%w: it does not go on from where it was", ErrTampered)
}

// grow takes in one page of entries.
func (t *Trail) grow(ctx context.Context, wanted map[tlog.Hash]uint64) (more bool, err error) {
	s := &t.tree
	next, err := t.load(ctx)
	if err != nil || next <= s.edge.size {
		return false, err
	}
	f := s.edge.clone()
	a := Advance{From: f.size}
	full := func(tile Tile) { a.Tiles = append(a.Tiles, tile) }
	var leaf []byte
	for q := (Query{From: f.size, To: next, Limit: growPage}); f.size-a.From < growAtOnce; {
		page, err := t.store.Entries(ctx, q)
		if err != nil {
			return false, err
		}
		for _, e := range page.Entries {
			if e.Number < f.size || e.Number-f.size > maxGap {
				return false, fmt.Errorf("%w: entry %d is missing", ErrTampered, f.size)
			}
			for f.size < e.Number { // somebody removed it before it was signed: its place says so, and the others are signed
				t.log.Error("carrel: an entry of the audit trail is missing", "number", f.size)
				f.add(tlog.RecordHash(binary.BigEndian.AppendUint64([]byte{gap}, f.size)), full)
			}
			var h tlog.Hash
			var ours bool
			if h, leaf, ours = leafHash(t.key, leaf, e.Body); !ours {
				t.log.Error("carrel: an entry of the audit trail is damaged or forged", "number", e.Number)
			}
			delete(wanted, h)
			f.add(h, full)
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			break
		}
		if t.group.busy() { // who records comes first
			time.Sleep(growPause)
		}
	}
	if f.size == a.From {
		return false, nil
	}
	root, err := f.root()
	if err != nil {
		return false, err
	}
	a.Size = f.size
	a.Tiles = append(a.Tiles, f.partial()...)
	a.Checkpoint, err = note.Sign(&note.Note{Text: formatCheckpoint(t.signer.Name(), tlog.Tree{N: int64(f.size), Hash: root})}, t.signer)
	if err != nil {
		return false, err
	}
	if err := t.store.Advance(ctx, a); err != nil {
		return false, err
	}
	s.edge, s.signed = f, a.Checkpoint
	return f.size < next, nil
}

func (f *frontier) clone() *frontier {
	c := &frontier{size: f.size, tiles: make([][]tlog.Hash, len(f.tiles))}
	for i, tile := range f.tiles {
		c.tiles[i] = append([]tlog.Hash(nil), tile...)
	}
	return c
}

// anchor hands the last checkpoint to all anchors that do not have it.
func (t *Trail) anchor(ctx context.Context) error {
	s := &t.tree
	if len(s.signed) == 0 || string(s.anchored) == string(s.signed) {
		return nil
	}
	var failed error
	for i, a := range t.anchors {
		err := a.Put(ctx, s.signed)
		if _, file := a.(*FileAnchor); err != nil && !file { // whose errors say where
			err = fmt.Errorf("audit: anchor %d of %d: %w", i+1, len(t.anchors), err)
		}
		failed = errors.Join(failed, err)
	}
	if failed != nil {
		return failed
	}
	s.anchored = s.signed
	s.own = max(s.own, s.edge.size)
	if s.edge.size >= s.highest {
		s.highest, s.last = s.edge.size, s.signed
	}
	return nil
}

// lookAtAnchors learns how far the anchors are. It comes before the store is asked: another process may put entries and a checkpoint in between, and
// that would look like a loss.
func (t *Trail) lookAtAnchors() error {
	s := &t.tree
	if s.looked {
		return nil
	}
	for _, a := range t.anchors {
		a, ok := a.(interface{ Recent() ([][]byte, error) })
		if !ok {
			continue
		}
		recent, err := a.Recent()
		if err != nil {
			return err
		}
		s.bare = s.bare || len(recent) == 0
		for _, checkpoint := range recent {
			if known, err := OpenCheckpoint(checkpoint, t.verifier); err == nil && uint64(known.N) >= s.highest {
				s.highest, s.last = uint64(known.N), checkpoint
			}
		}
		s.recent = append(s.recent, recent)
	}
	s.looked = true
	return nil
}

// behind looks whether the store has lost entries that are anchored.
func (t *Trail) behind(ctx context.Context, tree Tree) error {
	s := &t.tree
	if tree.Size >= s.highest {
		return nil
	}
	lost, err := t.declared(ctx)
	if err != nil {
		return err
	}
	for _, l := range lost {
		if l.To >= s.highest && tree.Size >= s.own && tree.Size >= s.after(t, l.checkpoint) {
			return nil
		}
	}
	t.views.forget() // records of looks may be among what is lost
	return fmt.Errorf("%w: %d of %d", ErrBehind, tree.Size, s.highest)
}

// after returns the size of the largest tree that was anchored after a checkpoint. Where an anchor has it twice, the first counts: somebody who may append can put
// it there again.
func (s *sequencer) after(t *Trail, checkpoint string) (size uint64) {
	for _, list := range s.recent {
		at := slices.IndexFunc(list, func(one []byte) bool { return digest(one) == checkpoint })
		for _, one := range list[at+1:] {
			if digest(one) == checkpoint {
				continue
			}
			if known, err := OpenCheckpoint(one, t.verifier); err == nil {
				size = max(size, uint64(known.N))
			}
		}
	}
	return size
}

// latest returns the checkpoint that stands last in the anchors: after one loss was declared and all was lost again, that need not be the one of the largest tree. Where they
// do not agree it is that one. Somebody who may append can put an earlier checkpoint there again; the first counts.
func (s *sequencer) latest(t *Trail) []byte {
	if s.own > 0 { // this process has put some there since it looked
		return s.last
	}
	var latest []byte
	for i, list := range s.recent {
		var last []byte
		seen := map[string]bool{}
		for _, one := range list {
			if _, err := OpenCheckpoint(one, t.verifier); err == nil && !seen[string(one)] {
				seen[string(one)], last = true, one
			}
		}
		if i > 0 && !bytes.Equal(last, latest) {
			return s.last
		}
		latest = last
	}
	if len(latest) == 0 {
		return s.last
	}
	return latest
}

// A declaredLoss is what was said to be lost, and the last checkpoint before that.
type declaredLoss struct {
	Range
	checkpoint string
}

// declared returns what was said to be lost.
func (t *Trail) declared(ctx context.Context) (lost []declaredLoss, err error) {
	for q := (Query{Actions: []Action{Restore}, Limit: 100}); ; {
		page, err := t.store.Entries(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Entries {
			leaf, err := leafOf(nil, e.Body)
			if err != nil || !authentic(t.key, leaf) {
				continue
			}
			if o, err := open(e.Body); err == nil && o.event.Action == Restore {
				for _, r := range o.event.Ranges {
					lost = append(lost, declaredLoss{r, o.event.Object})
				}
			}
		}
		if page.Cursor == "" {
			return lost, nil
		}
		q.Cursor = page.Cursor
	}
}

// digest names a checkpoint.
func digest(checkpoint []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(checkpoint)) }

// Restore says in the trail that entries which are anchored are lost, because the store was restored from a backup, so that it can go on.
// The event's Actor says who says so, and its Approval on what ground. The gap stays a finding of every [Verify]. It returns the range of the
// numbers lost; empty when nothing is. The event's Object is the SHA-256 of the last checkpoint that was anchored: those that an anchor has after it are of the
// trail that goes on.
func (t *Trail) Restore(ctx context.Context, e Event) (Range, error) {
	s := &t.tree
	s.turn.Lock()
	err := t.lookAtAnchors()
	var tree Tree
	if err == nil {
		tree, err = t.store.Tree(ctx)
	}
	if err == nil {
		err = t.behind(ctx, tree)
	}
	lost, last := Range{tree.Size, s.highest}, digest(s.latest(t))
	s.turn.Unlock()
	if err == nil {
		return Range{}, nil
	} else if !errors.Is(err, ErrBehind) {
		return Range{}, err
	}
	e.Action, e.Outcome, e.Ranges, e.Count, e.Object = Restore, Done, []Range{lost}, int(lost.To-lost.From), last
	if err := t.write(ctx, e); err != nil {
		return Range{}, err
	}
	_, err = t.Sequence(ctx)
	return lost, err
}
