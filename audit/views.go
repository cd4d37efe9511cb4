package audit

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// window is how long one record of a view stands for others that say the same.
const window = 30 * time.Minute

// views remembers which views were recorded, so that the pages of one visit to the desk make one record and not twelve. What is
// forgotten here, at a restart say, is only recorded again.
type views struct {
	mu      sync.Mutex
	covers  map[viewKey]map[string]time.Time // since when a segment is covered; "" stands for the look itself
	flights []*flight
}

// A viewKey is all that must be the same.
type viewKey struct {
	action               Action
	actor, role, purpose string
	channel              Channel
	grant                string
	subject              crypto.Subject
}

// A flight is a view that is being recorded.
type flight struct {
	key      viewKey
	at       time.Time
	segments []string
	done     chan struct{}
	err      error
}

const maxViews = 20_000

// viewOf returns what has to be the same for one record to cover an event; false when the event is to be recorded in any case.
func viewOf(e *Event) (viewKey, bool) {
	switch e.Action {
	case View, Find, Resolve:
	default:
		return viewKey{}, false
	}
	if e.Outcome != Done || len(e.Subjects) != 1 {
		return viewKey{}, false
	}
	s := &e.Subjects[0]
	plain := e.Why == "" && e.Recipient == "" && e.Approval == "" && e.Object == "" && e.Network == "" && e.Count == 1 &&
		s.Version == 0 && s.Note.IsEmpty() && len(s.Changes) == 0
	return keyOf(e), plain
}

func keyOf(e *Event) viewKey {
	return viewKey{e.Action, e.Actor, e.Role, e.Purpose, e.Channel, e.Grant, e.Subjects[0].ID}
}

func within(from, t time.Time) bool { return !t.Before(from) && t.Before(from.Add(window)) }

// recordView writes a view, unless a record that is durable covers it, or one that is just being written will.
func (t *Trail) recordView(ctx context.Context, key viewKey, e Event) error {
	v := &t.views
	for {
		v.mu.Lock()
		if v.covered(key, &e) {
			v.mu.Unlock()
			t.tree.schedule(t) // which sees it if what covers it is no longer there
			return nil
		}
		f := v.flying(key, &e)
		if f == nil {
			f = &flight{key: key, at: e.Time, segments: e.Segments, done: make(chan struct{})}
			v.flights = append(v.flights, f)
			v.mu.Unlock()
			e.Covers = window
			return t.fly(ctx, f, e)
		}
		v.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !errors.Is(f.err, context.Canceled) && !errors.Is(f.err, context.DeadlineExceeded) {
			return f.err // ours would fare alike, and so would all who wait, one after the other
		}
		if err := ctx.Err(); err != nil {
			return err
		} // that somebody else went is no reason for us to
	}
}

func (t *Trail) fly(ctx context.Context, f *flight, e Event) error {
	f.err = ErrUnavailable // should write panic
	defer t.views.land(f)
	f.err = t.write(ctx, e)
	return f.err
}

func (v *views) covered(key viewKey, e *Event) bool {
	segments := v.covers[key]
	if from, ok := segments[""]; !ok || !within(from, e.Time) {
		return false
	}
	for _, s := range e.Segments {
		if from, ok := segments[s]; !ok || !within(from, e.Time) {
			return false
		}
	}
	return true
}

func (v *views) flying(key viewKey, e *Event) *flight {
next:
	for _, f := range v.flights {
		if f.key != key || !within(f.at, e.Time) {
			continue
		}
		for _, s := range e.Segments {
			if !slices.Contains(f.segments, s) {
				continue next
			}
		}
		return f
	}
	return nil
}

// land ends a flight; what it recorded is covered from now on.
func (v *views) land(f *flight) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, other := range v.flights {
		if other == f {
			last := len(v.flights) - 1
			v.flights[i], v.flights[last] = v.flights[last], nil
			v.flights = v.flights[:last]
			break
		}
	}
	close(f.done)
	if f.err != nil {
		return
	}
	segments := v.covers[f.key]
	if segments == nil {
		if len(v.covers) >= maxViews {
			v.makeRoom(f.at)
		}
		segments = map[string]time.Time{}
		v.covers[f.key] = segments
	}
	segments[""] = f.at
	for _, s := range f.segments {
		segments[s] = f.at
	}
}

// failed makes the next look be recorded: the record that would cover it says that it failed.
func (v *views) failed(e *Event) {
	if e.Outcome != Failed || len(e.Subjects) != 1 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.covers, keyOf(e))
}

// forget makes every look be recorded again.
func (v *views) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.covers)
}

// makeRoom forgets what covers nothing any more, or else some of the rest.
func (v *views) makeRoom(now time.Time) {
	for key, segments := range v.covers {
		if !within(segments[""], now) {
			delete(v.covers, key)
		}
	}
	for key := range v.covers {
		if len(v.covers) < maxViews/2 {
			return
		}
		delete(v.covers, key)
	}
}
