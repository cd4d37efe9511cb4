package memory

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/carrel-project/carrel/lockout"
)

// Lockouts counts guesses in memory, for one process. It is safe for concurrent use.
//
// It takes at most 32 MiB for the guesses of one duration (64 when there is a limit by the day as well), however many names are tried. Some 16,000 keys are kept
// exactly. What does not fit goes into a sketch, those with the fewest guesses first, and nobody who is locked is forgotten: a sketch says too much at times,
// and never too little. After ten million names within the duration, one in two hundred who never guessed has a guess less.
type Lockouts struct {
	mu      sync.Mutex
	index   map[lockout.Key]int32 // into table
	table   []counted
	hand    int // where the search for a place goes on
	holds   int // how many of the table are holds: mostly none, and then nobody looks for them
	evicted map[evicted]forgetful

	states [maxSlots]lockout.State // of the call that has the lock
	places [maxSlots]int32
}

// A counted key is what is known exactly.
type counted struct {
	key      lockout.Key
	attempts int32
	period   time.Duration
	state    lockout.State
	base     int   // so many guesses of the state are from a sketch …
	since    int64 // … as long as it starts then
	keep     int64 // until then it is not dropped though it says nothing: the sketch would say more than is true
	cleared  bool  // by staff: until then it goes after all others
}

// What was evicted from the table is in sketches by the limits, accounts and sources apart.
type evicted struct {
	period   time.Duration
	attempts int
	sources  bool
}

func (e evicted) sketch() forgetful {
	if e.sources {
		return &sums{generations[[rows][counters]uint8]{period: e.period.Microseconds()}}
	}
	return &names{generations[[levels][]uint64]{period: e.period.Microseconds()}}
}

const (
	tableSize = 16 << 10
	maxSlots  = 8
	nowhere   = -1
)

var _ lockout.Local = (*Lockouts)(nil)

// NewLockouts returns a store in which nobody has guessed.
func NewLockouts() *Lockouts {
	return &Lockouts{index: map[lockout.Key]int32{}, evicted: map[evicted]forgetful{}}
}

// Local says that the store ends with the process.
func (*Lockouts) Local() {}

var errSlots = errors.New("memory: too many limits for one guess")

// Reserve implements lockout.Store.
func (l *Lockouts) Reserve(ctx context.Context, now time.Time, slots []lockout.Slot) (lockout.Verdict, error) {
	if err := ctx.Err(); err != nil {
		return lockout.Verdict{}, err
	}
	if len(slots) > maxSlots {
		return lockout.Verdict{}, errSlots
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	states, places := l.look(slots, now)
	v := lockout.Admit(states, slots, now)
	if v.Answer == lockout.Admitted && !l.find(slots, places, now) {
		return lockout.Verdict{Answer: lockout.Busy}, nil // all of the table is being checked at this moment
	}
	if v.Answer == lockout.Admitted || v.Crossed != 0 {
		l.save(places, states)
	}
	return v, nil
}

// Conclude implements lockout.Store.
func (l *Lockouts) Conclude(ctx context.Context, now time.Time, slots []lockout.Slot, c lockout.Conclusion) (lockout.Verdict, error) {
	if err := ctx.Err(); err != nil {
		return lockout.Verdict{}, err
	}
	if len(slots) > maxSlots {
		return lockout.Verdict{}, errSlots
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	states, places := l.look(slots, now)
	v := lockout.Settle(states, slots, c, now)
	if v.Answer == lockout.Admitted {
		l.save(places, states)
	}
	return v, nil
}

// look returns the states of slots and where they are.
func (l *Lockouts) look(slots []lockout.Slot, now time.Time) ([]lockout.State, []int32) {
	states, places := l.states[:len(slots)], l.places[:len(slots)]
	for i := range slots {
		slot := &slots[i]
		if slot.Attempts == 0 && l.holds == 0 {
			places[i], states[i] = nowhere, lockout.State{}
			continue
		}
		if at, ok := l.index[slot.Key]; ok {
			places[i], states[i] = at, l.table[at].state
			continue
		}
		places[i], states[i] = nowhere, lockout.State{}
		if k := l.evicted[evicted{slot.Duration, slot.Attempts, slot.Key.IsSource()}]; k != nil && slot.Attempts > 0 {
			states[i] = k.state(slot.Key, slot.Attempts, now.UnixMicro())
		}
	}
	return states, places
}

// find gives a place to those who have none. It reports whether there was one for all.
func (l *Lockouts) find(slots []lockout.Slot, places []int32, now time.Time) bool {
	for i := range slots {
		if slot := &slots[i]; places[i] == nowhere && slot.Attempts > 0 {
			if places[i] = l.place(slot.Key, slot.Attempts, slot.Duration, places, now); places[i] == nowhere {
				return false
			}
		}
	}
	return true
}

func (l *Lockouts) save(places []int32, states []lockout.State) {
	for i, at := range places {
		if at != nowhere {
			l.table[at].state = states[i]
		}
	}
}

// place finds a place for a key and takes it: a new one, one of a key of which nothing is to be known any more, or one whose key goes to the sketch. The
// places in use by this call are not taken.
func (l *Lockouts) place(key lockout.Key, attempts int, period time.Duration, inUse []int32, now time.Time) int32 {
	at := int32(len(l.table))
	if at < tableSize {
		l.table = append(l.table, counted{})
	} else if at = l.yield(inUse, now); at == nowhere {
		return nowhere
	}
	c := counted{key: key, attempts: int32(attempts), period: period}
	if k := l.evicted[evicted{period, attempts, key.IsSource()}]; k != nil {
		if s := k.state(key, attempts, now.UnixMicro()); s.Failed+s.Earlier > 0 {
			c.base, c.since, c.keep = s.Failed+s.Earlier, s.Start, now.Add(2*period).UnixMicro()
		}
	}
	l.table[at], l.index[key] = c, at
	if key.IsHold() {
		l.holds++
	}
	return at
}

// yield returns the place of the least worth of some: it looks at a few, and at all only while it finds none.
func (l *Lockouts) yield(inUse []int32, now time.Time) int32 {
	const few = 8
	best, least := int32(nowhere), 0
	for looked := 0; looked < tableSize && (looked < few || best == nowhere); looked++ {
		l.hand++
		if l.hand == tableSize {
			l.hand = 0
		}
		at := int32(l.hand)
		worth := l.table[at].worth(now)
		if worth == pinned || slices.Contains(inUse, at) {
			continue
		}
		if best == nowhere || worth < least {
			best, least = at, worth
		}
		if worth == 0 {
			break
		}
	}
	if best == nowhere {
		return nowhere
	}
	c := &l.table[best]
	delete(l.index, c.key)
	if c.key.IsHold() {
		l.holds--
	}
	if least > 0 {
		kind := evicted{c.period, int(c.attempts), c.key.IsSource()}
		k := l.evicted[kind]
		if k == nil {
			k = kind.sketch()
			l.evicted[kind] = k
		}
		s := c.state.At(now, lockout.Slot{Duration: c.period})
		if s.Start != c.since { // what was from the sketch is over, wholly or in part: too much is better than too little
			c.base = 0
		}
		k.add(c.key, s, c.base, int(c.attempts), now.UnixMicro())
	}
	return best
}

// What an entry is worth: nothing, the part of its guesses that is used up in thousandths, more if it is locked, or too much to be moved.
const (
	pinned   = -1
	shadow   = 500
	lockedUp = 1001
	last     = 1002
)

func (c *counted) worth(now time.Time) int {
	s := c.state.At(now, lockout.Slot{Duration: c.period})
	switch {
	case s.Open+s.Older > 0:
		return pinned // its conclusion must find it
	case s.Until > 0 && c.key.IsHold():
		return pinned // staff does not put a hold on thousands
	case c.cleared && c.keep > now.UnixMicro():
		return last
	case s.Until > 0:
		return lockedUp
	case s.Failed+s.Earlier > 0:
		return max((s.Failed+s.Earlier)*1000/int(c.attempts), 1)
	case c.keep > now.UnixMicro():
		return shadow
	}
	return 0
}

// Hold implements lockout.Store.
func (l *Lockouts) Hold(ctx context.Context, now time.Time, name lockout.Name, until time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !until.IsZero() {
		return l.hold(name, until, now)
	}
	for i := range l.table {
		if c := &l.table[i]; c.key.Name() == name {
			c.state, c.cleared = c.state.Forget(now), c.keep > now.UnixMicro()
		}
	}
	recent, daily := name.Common()
	for kind, k := range l.evicted { // what it says cannot be taken out of a sketch: an entry that says otherwise goes before it
		for _, key := range []lockout.Key{recent, daily, name.Source()} {
			if _, ok := l.index[key]; ok || key.IsSource() != kind.sources {
				continue
			}
			if s := k.state(key, kind.attempts, now.UnixMicro()); s.Failed+s.Earlier == 0 {
				continue
			}
			if at := l.place(key, kind.attempts, kind.period, nil, now); at != nowhere {
				l.table[at].cleared = true
			}
		}
	}
	return nil
}

func (l *Lockouts) hold(name lockout.Name, until, now time.Time) error {
	key := name.Hold()
	at, ok := l.index[key]
	if !ok {
		if at = l.place(key, 0, time.Hour, nil, now); at == nowhere {
			return errors.New("memory: no room for a hold: every place is taken by a guess that is being checked")
		}
	}
	l.table[at].state = lockout.State{Until: until.UnixMicro()}
	return nil
}

// States implements lockout.Store, without what is in the sketch only.
func (l *Lockouts) States(ctx context.Context, now time.Time, q lockout.Query) (page lockout.Page, err error) {
	if err := ctx.Err(); err != nil {
		return page, err
	}
	at := 0
	if q.Cursor != "" {
		if at, err = strconv.Atoi(q.Cursor); err != nil || at < 0 {
			return page, errors.New("memory: not a cursor of this store")
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; at < len(l.table); at++ {
		if len(page.Entries) >= max(q.Limit, 1) {
			page.Cursor = strconv.Itoa(at)
			return page, nil
		}
		c := &l.table[at]
		if q.Name == nil || *q.Name == c.key.Name() {
			page.Entries = append(page.Entries, lockout.Entry{Key: c.key, State: c.state})
		}
	}
	return page, nil
}
