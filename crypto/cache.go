package crypto

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"
)

// A subjectKey is an unwrapped key in use.
type subjectKey struct {
	subject Subject
	aead    tink.AEAD
	bound   []byte      // what begins the associated data of all that it seals
	until   time.Time   // so long it may be used without asking the store
	dead    atomic.Bool // shredded
}

// cache keeps the subject keys used last, a bounded number for a bounded time, and lets one caller load what several miss.
type cache struct {
	size int
	ttl  time.Duration

	mu      sync.Mutex
	entries map[Subject]*list.Element // of *subjectKey
	order   list.List                 // the one used last comes first
	flights map[Subject]*flight
}

// A flight is a load under way.
type flight struct {
	done  chan struct{}
	key   *subjectKey
	err   error
	stale bool // the subject was shredded meanwhile
}

func (c *cache) init(size int, ttl time.Duration) {
	c.size, c.ttl = size, ttl
	c.entries = map[Subject]*list.Element{}
	c.flights = map[Subject]*flight{}
}

// get returns a key that is there and fresh.
func (c *cache) get(s Subject, now time.Time) *subjectKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fresh(s, now)
}

func (c *cache) fresh(s Subject, now time.Time) *subjectKey {
	e := c.entries[s]
	if e == nil {
		return nil
	}
	k := e.Value.(*subjectKey)
	if !now.Before(k.until) {
		c.drop(e)
		return nil
	}
	c.order.MoveToFront(e)
	return k
}

func (c *cache) drop(e *list.Element) {
	delete(c.entries, e.Value.(*subjectKey).subject)
	c.order.Remove(e)
}

// board returns a fresh key, or the flight that will bring it; the caller flies it if first is true.
func (c *cache) board(s Subject, now time.Time) (k *subjectKey, f *flight, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.fresh(s, now); k != nil {
		return k, nil, false
	}
	if f := c.flights[s]; f != nil {
		return nil, f, false
	}
	f = &flight{done: make(chan struct{})}
	c.flights[s] = f
	return nil, f, true
}

// land ends a flight. A key whose subject was shredded while it was under way is not let in.
func (c *cache) land(s Subject, f *flight, k *subjectKey, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.stale && err == nil {
		k, err = nil, ErrShredded
	}
	f.key, f.err = k, err
	if c.flights[s] == f {
		delete(c.flights, s)
	}
	close(f.done)
	if err == nil {
		c.add(k)
	}
}

// put lets a key in that was just made.
func (c *cache) put(k *subjectKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(k)
}

func (c *cache) add(k *subjectKey) {
	if e := c.entries[k.subject]; e != nil {
		c.drop(e)
	}
	c.entries[k.subject] = c.order.PushFront(k)
	for len(c.entries) > c.size {
		c.drop(c.order.Back())
	}
}

// kill removes a key that was shredded, and sees to it that one under way is refused. Whoever has it in hand already does not open with it.
func (c *cache) kill(s Subject) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[s]; e != nil {
		e.Value.(*subjectKey).dead.Store(true)
		c.drop(e)
	}
	if f := c.flights[s]; f != nil {
		f.stale = true
		delete(c.flights, s)
	}
}
