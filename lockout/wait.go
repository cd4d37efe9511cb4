package lockout

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// How long a login waits for those that are being checked, and how many may wait in a process: at one key, and in all.
const (
	maxWait    = 2 * time.Second
	maxLine    = 2048
	maxWaiting = 8192
)

// How often the first in a line asks a store that other processes share. What this process concludes wakes it at once.
const (
	firstLook = 4 * time.Millisecond
	lastLook  = 50 * time.Millisecond
)

// lines are those who wait, by the key that was busy, in the order in which they came. Only the first of a line asks the store: a thousand
// who ask for one place would keep the others from giving theirs back.
type lines struct {
	waiting atomic.Int64 // so that nobody locks when nobody waits
	mu      sync.Mutex
	of      map[Key][]*waiter
	asking  map[Key]int // those who ask the store and are in no line
}

// A waiter is told to ask, by an empty verdict, which only the first of a line is; or what the one before it was told.
type waiter struct{ told chan Verdict }

func (w *waiter) tell(v Verdict) {
	select {
	case w.told <- v:
	default: // it was told already
	}
}

// join puts a waiter at the end of a line, and reports whether it is the first. Nil: there are too many. When too many wait in all, the longest line loses its last, so that whoever fills some
// lines does not fill all.
func (l *lines) join(key Key) (w *waiter, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.of[key]) >= maxLine {
		return nil, false
	}
	if l.waiting.Load() >= maxWaiting {
		longest := key
		for other, line := range l.of {
			if len(line) > len(l.of[longest]) {
				longest = other
			}
		}
		line := l.of[longest]
		if longest == key || len(line) < 2 {
			return nil, false
		}
		line[len(line)-1].tell(over)
		l.of[longest] = line[:len(line)-1]
		l.waiting.Add(-1)
	}
	if l.of == nil {
		l.of = map[Key][]*waiter{}
	}
	w = &waiter{make(chan Verdict, 1)}
	l.of[key] = append(l.of[key], w)
	l.waiting.Add(1)
	return w, len(l.of[key]) == 1
}

// leave takes a waiter out. All behind it hear the verdict if it is one for all; otherwise the next one asks.
func (l *lines) leave(key Key, w *waiter, all *Verdict) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := l.of[key]
	i := slices.Index(line, w)
	if i < 0 {
		return
	}
	l.waiting.Add(-1)
	line = slices.Delete(line, i, i+1)
	switch {
	case all != nil:
		for _, other := range line {
			other.tell(*all)
		}
	case i == 0 && len(line) > 0:
		line[0].tell(Verdict{})
	}
	if len(line) == 0 {
		delete(l.of, key)
		return
	}
	l.of[key] = line
}

// behind returns the key of these at which others wait already.
func (l *lines) behind(slots []Slot) (Key, bool) {
	if l.waiting.Load() == 0 {
		return Key{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range slots {
		if len(l.of[slots[i].Key]) > 0 {
			return slots[i].Key, true
		}
	}
	return Key{}, false
}

// wake tells the first of each line that something was concluded.
func (l *lines) wake(slots []Slot) {
	if l.waiting.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range slots {
		if line := l.of[slots[i].Key]; len(line) > 0 {
			line[0].tell(Verdict{})
		}
	}
}

// mayAsk reports whether somebody may ask the store at once: when nobody waits at the key, and fewer ask than could be admitted together. Of a thousand who guess at one
// account at the same moment the store hears of few, and what the first of the others is told holds for all of them.
func (l *lines) mayAsk(key Key, most int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.of[key]) > 0 || l.asking[key] >= most {
		return false
	}
	if l.asking == nil {
		l.asking = map[Key]int{}
	}
	l.asking[key]++
	return true
}

// asked says that the answer is here.
func (l *lines) asked(key Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asking[key]--; l.asking[key] == 0 {
		delete(l.asking, key)
	}
	if line := l.of[key]; len(line) > 0 {
		line[0].tell(Verdict{})
	}
}

// admit asks, and waits while the answer is Busy.
func (g *Guard) admit(ctx context.Context, r *Reservation) (Verdict, error) {
	key, queue := g.lines.behind(r.slots())
	if own := r.list[0].Key; !queue && !g.local && !g.lines.mayAsk(own, g.cfg.Attempts) {
		key, queue = own, true
	}
	if !queue {
		v, err := g.ask(ctx, r)
		if !g.local {
			g.lines.asked(r.list[0].Key)
		}
		if err != nil || v.Answer != Busy {
			return v, err
		}
		key = r.list[v.Slot].Key
	}
	deadline := time.NewTimer(maxWait)
	defer deadline.Stop()
	for {
		v, err := g.wait(ctx, r, key, deadline.C)
		if err != nil || v.Answer != Busy || v.Slot < 0 {
			return v, err
		}
		key = r.list[v.Slot].Key // it is another place that is busy: there, it waits in nobody's way
	}
}

// over is the answer to whoever has waited long enough, or may not wait.
var over = Verdict{Answer: Busy, Slot: -1}

// wait waits in the line of a key until there is an answer, or until it is another one that is busy.
func (g *Guard) wait(ctx context.Context, r *Reservation, key Key, deadline <-chan time.Time) (Verdict, error) {
	w, first := g.lines.join(key)
	if w == nil {
		return over, nil
	}
	var all *Verdict
	defer func() { g.lines.leave(key, w, all) }()
	pause := firstLook
	look := time.NewTimer(pause)
	defer look.Stop()
	if !first {
		look.Stop()
	}
	for {
		select {
		case <-ctx.Done():
			return Verdict{}, ctx.Err()
		case <-deadline:
			return over, nil
		case v := <-w.told:
			if v.Answer != Admitted { // that would say: ask
				return v, nil
			}
			pause = firstLook
		case <-look.C:
			pause = min(pause*3/2, lastLook)
		}
		v, err := g.ask(ctx, r)
		switch {
		case err != nil || v.Answer == Admitted:
			return v, err
		case v.Answer == Locked:
			if r.list[v.Slot].Key == key { // so it is for all who wait
				all = &Verdict{Answer: Locked, Wait: v.Wait}
			}
			return v, nil
		case r.list[v.Slot].Key != key:
			return v, nil
		}
		look.Reset(pause/2 + rand.N(pause))
	}
}
