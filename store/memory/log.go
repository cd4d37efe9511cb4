package memory

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"

	"github.com/carrel-project/carrel/audit"
)

// Log keeps the entries of an audit trail. It is safe for concurrent use.
type Log struct {
	mu         sync.RWMutex
	entries    []audit.Entry // by number; pruned ones have no Body
	keys       map[[16]byte]bool
	size       uint64
	checkpoint []byte
	tiles      map[audit.TileID][]byte
}

var _ audit.Store = (*Log)(nil)

// NewLog returns an empty log.
func NewLog() *Log {
	return &Log{keys: map[[16]byte]bool{}, tiles: map[audit.TileID][]byte{}}
}

// Append implements audit.Store.
func (l *Log) Append(ctx context.Context, entries []audit.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		if e.Key != ([16]byte{}) {
			if l.keys[e.Key] {
				continue
			}
			l.keys[e.Key] = true
		}
		e.Number, e.Tags, e.Body = uint64(len(l.entries)), slices.Clone(e.Tags), bytes.Clone(e.Body)
		l.entries = append(l.entries, e)
	}
	return nil
}

// Entries implements audit.Store, in the order of the numbers.
func (l *Log) Entries(ctx context.Context, q audit.Query) (page audit.Page, err error) {
	if err := ctx.Err(); err != nil || q.Limit < 1 {
		return page, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	from := q.From
	if q.Cursor != "" {
		if from, err = strconv.ParseUint(q.Cursor, 10, 64); err != nil {
			return page, errors.New("memory: not a cursor of this store")
		}
	}
	to := uint64(len(l.entries))
	if q.To > 0 {
		to = min(to, q.To)
	}
	for n := from; n < to; n++ {
		e := &l.entries[n]
		if e.Body == nil || !wanted(e, &q) {
			continue
		}
		if len(page.Entries) == q.Limit {
			page.Cursor = strconv.FormatUint(n, 10)
			break
		}
		page.Entries = append(page.Entries, audit.Entry{Number: n, Body: bytes.Clone(e.Body)})
	}
	return page, nil
}

func wanted(e *audit.Entry, q *audit.Query) bool {
	switch {
	case !q.Since.IsZero() && e.Time.Before(q.Since), !q.Until.IsZero() && !e.Time.Before(q.Until):
		return false
	case len(q.Actions) > 0 && !slices.Contains(q.Actions, e.Action):
		return false
	}
	return len(q.Tags) == 0 || slices.ContainsFunc(e.Tags, func(t audit.Tag) bool { return slices.Contains(q.Tags, t) })
}

// Tree implements audit.Store.
func (l *Log) Tree(ctx context.Context, tiles ...audit.TileID) (audit.Tree, error) {
	if err := ctx.Err(); err != nil {
		return audit.Tree{}, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	t := audit.Tree{Size: l.size, Next: uint64(len(l.entries)), Checkpoint: bytes.Clone(l.checkpoint)}
	for _, id := range tiles {
		t.Tiles = append(t.Tiles, bytes.Clone(l.tiles[id]))
	}
	return t, nil
}

// Advance implements audit.Store.
func (l *Log) Advance(ctx context.Context, a audit.Advance) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size != a.From {
		return audit.ErrConflict
	}
	l.size, l.checkpoint = a.Size, bytes.Clone(a.Checkpoint)
	for _, t := range a.Tiles {
		l.tiles[t.TileID] = bytes.Clone(t.Data)
	}
	for _, id := range a.Drop {
		delete(l.tiles, id)
	}
	for _, r := range a.Remove {
		for n := r.From; n < min(r.To, uint64(len(l.entries))); n++ {
			e := &l.entries[n]
			delete(l.keys, e.Key)
			*e = audit.Entry{}
		}
	}
	return nil
}
