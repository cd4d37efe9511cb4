package crypto

import (
	"container/list"
	"crypto/cipher"
	"sync"
	"sync/atomic"
	"time"
)

// A subjectKey is an unwrapped key in use.
type subjectKey struct {
	subject Subject
	aead    hidden[cipher.AEAD] // puts its random nonce before the ciphertext
	bound   []byte              // what begins the associated data of all that it seals
	tags    *tagger
	until   time.Time   // so long it may be used without asking the store
	dead    atomic.Bool // shredded

	place *list.Element // in the cache
}

// cache keeps the subject keys loaded last, a bounded number for a bounded time, and lets one caller load what several
// miss. A key is loaded again when its time is over, however often it is used; so what is loaded last is as good as
// what is used last, and a hit changes nothing and waits for no other hit.
type cache struct {
	size int
	ttl  time.Duration

	mu      sync.RWMutex
	entries map[Subject]*subjectKey
	order   list.List // of *subjectKey; the one loaded last comes first
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
	c.entries = map[Subject]*subjectKey{}
	c.flights = map[Subject]*flight{}
}

// get returns a key that is there and fresh.
func (c *cache) get(s Subject, now time.Time) *subjectKey {
	c.mu.RLock()
	k := c.entries[s]
	c.mu.RUnlock()
	if k == nil || !now.Before(k.until) {
		return nil
	}
	return k
}

// board returns a fresh key, or the flight that will bring it; the caller flies it if first is true.
func (c *cache) board(s Subject, now time.Time) (k *subjectKey, f *flight, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.entries[s]; k != nil && now.Before(k.until) {
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

// put lets a key in that was just made, unless its subject is in the ledger. It is asked here, where no [cache.kill] can
// come between: whoever writes a tombstone kills after that.
func (c *cache) put(k *subjectKey, shredded func(Subject) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if shredded(k.subject) {
		return false
	}
	c.add(k)
	return true
}

func (c *cache) add(k *subjectKey) {
	if old := c.entries[k.subject]; old != nil {
		c.drop(old)
	}
	c.entries[k.subject] = k
	k.place = c.order.PushFront(k)
	now := time.Now()
	for oldest := c.order.Back(); oldest != nil; oldest = c.order.Back() {
		if k := oldest.Value.(*subjectKey); len(c.entries) > c.size || !now.Before(k.until) {
			c.drop(k)
			continue
		}
		break
	}
}

func (c *cache) drop(k *subjectKey) {
	delete(c.entries, k.subject)
	c.order.Remove(k.place)
}

// kill removes a key that was shredded, and sees to it that one under way is refused. Whoever has it in hand already does not open with it.
func (c *cache) kill(s Subject) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.entries[s]; k != nil {
		k.dead.Store(true)
		c.drop(k)
	}
	if f := c.flights[s]; f != nil {
		f.stale = true
		delete(c.flights, s)
	}
}
