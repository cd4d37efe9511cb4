package lockout

import (
	"sync"
	"time"
)

// remembered is how long a Guard refuses by itself what a shared store has refused. Somebody who goes on guessing at a locked account, or from a locked source, would keep the
// store from those who have a right to it. What staff unlocks in another process is open that much later.
const remembered = time.Second

// maxRefusals bounds what is kept of that.
const maxRefusals = 4096

// refusals are keys that are locked.
type refusals struct {
	mu    sync.Mutex
	until map[Key]refusal
}

type refusal struct{ known, locked time.Duration } // by the guard's clock

func (f *refusals) add(g *Guard, key Key, wait time.Duration) {
	if g.local {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.until == nil || len(f.until) >= maxRefusals {
		f.until = map[Key]refusal{}
	}
	now := g.clock.elapsed()
	f.until[key] = refusal{now + min(wait, remembered), now + wait}
}

// of reports whether one of the slots is known to be locked.
func (f *refusals) of(g *Guard, slots []Slot) (v Verdict, known bool) {
	if g.local {
		return v, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.until) == 0 {
		return v, false
	}
	now := g.clock.elapsed()
	for i := range slots {
		if r, ok := f.until[slots[i].Key]; ok && now < r.known {
			return Verdict{Answer: Locked, Slot: i, Wait: r.locked - now}, true
		}
	}
	return v, false
}

// forget is for what this Guard unlocks.
func (f *refusals) forget(name Name) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.until {
		if key.Name() == name {
			delete(f.until, key)
		}
	}
}
