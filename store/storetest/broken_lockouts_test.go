package storetest_test

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/storetest"
)

type brokenGuesses struct {
	broken func() lockout.Store
	caught []string
}

// Each of these breaks the memory store in one way, and names the cases that are there to find it.
func brokenLockouts() map[string]brokenGuesses {
	over := func(o overGuesses) func() lockout.Store {
		return func() lockout.Store { o.Store = memory.NewLockouts(); return o }
	}
	return map[string]brokenGuesses{
		"readsThenWrites":    {func() lockout.Store { return &racyGuesses{states: map[lockout.Key]lockout.State{}} }, []string{"NoMoreThanTheBudgetInARace"}},
		"neverLocks":         {over(overGuesses{verdict: neverLocked}), []string{"LockEndsByItself", "CountsAreThoseOfTheModel", "GuardOnTop"}},
		"oneSlotAfterOther":  {over(overGuesses{slots: oneSlotAfterOther}), []string{"AllOrNone"}},
		"longerWithAttempts": {over(overGuesses{slots: longerWithAttempts}), []string{"AttemptsDuringALockChangeNothing"}},
		"ignoresHolds":       {over(overGuesses{reserving: withoutHolds}), []string{"HoldLocks", "AllOrNone"}},
		"countsHolds":        {over(overGuesses{reserving: countedHolds}), []string{"CountsAreThoseOfTheModel"}},
		"forgetsOpen":        {func() lockout.Store { return &forgetfulGuesses{Store: memory.NewLockouts()} }, []string{"ForgettingKeepsWhatIsOpen", "OneNameIsForgotten"}},
		"crossesAlways":      {over(overGuesses{concluded: alwaysCrossed}), []string{"OneCallHearsOfTheLock", "CountsAreThoseOfTheModel"}},
		"neverCrosses":       {over(overGuesses{concluded: neverCrossed}), []string{"LockEndsByItself", "OneCallHearsOfTheLock"}},
		"lateIsInTime":       {over(overGuesses{concluding: neverLate}), []string{"LateConclusionChangesNothing"}},
		"rightForgetsNot":    {over(overGuesses{concluding: rightIsAbandoned}), []string{"CountsAreThoseOfTheModel"}},
		"rightForgetsAll":    {over(overGuesses{reserving: allClear, concludingSlots: allClear}), []string{"CountsAreThoseOfTheModel"}},
		"abandonedIsWrong":   {over(overGuesses{concluding: abandonedIsWrong}), []string{"CountsAreThoseOfTheModel", "ConclusionsInARace"}},
		"wholeSeconds":       {over(overGuesses{clock: wholeSeconds}), []string{"LockEndsByItself"}},
		"skipsPageEnds":      {over(overGuesses{pages: skipsGuesses}), []string{"StatesInPages"}},
		"ignoresNames":       {over(overGuesses{asking: anyName}), []string{"StatesInPages"}},
		"anyCursor":          {over(overGuesses{asking: anyCursor}), []string{"StatesInPages"}},
		"ignoresCancel":      {over(overGuesses{uncanceled: true}), []string{"CanceledContext"}},
	}
}

const brokenLockoutsEnv = "CARREL_STORETEST_BROKEN_LOCKOUTS"

// TestBrokenLockouts is TestBroken for this suite.
func TestBrokenLockouts(t *testing.T) {
	caught := map[string][]string{}
	for name, b := range brokenLockouts() {
		caught[name] = b.caught
	}
	catches(t, "TestBrokenLockoutsChild", brokenLockoutsEnv, caught)
}

// TestBrokenLockoutsChild is the suite on one broken store.
func TestBrokenLockoutsChild(t *testing.T) {
	b, ok := brokenLockouts()[os.Getenv(brokenLockoutsEnv)]
	if !ok {
		t.Skip("runs in the child processes of TestBrokenLockouts")
	}
	storetest.TestLockouts(t, func(*testing.T) lockout.Store { return b.broken() })
}

// overGuesses changes what goes into a store, or what comes out.
type overGuesses struct {
	lockout.Store
	clock           func(time.Time) time.Time
	reserving       func([]lockout.Slot) []lockout.Slot
	slots           func(overGuesses, context.Context, time.Time, []lockout.Slot) (lockout.Verdict, error)
	verdict         func(lockout.Verdict) lockout.Verdict
	concluding      func(time.Time, lockout.Conclusion) lockout.Conclusion
	concludingSlots func([]lockout.Slot) []lockout.Slot
	concluded       func(lockout.Conclusion, lockout.Verdict) lockout.Verdict
	asking          func(lockout.Query) lockout.Query
	pages           func(lockout.Page) lockout.Page
	uncanceled      bool
}

func (o overGuesses) ctx(ctx context.Context) context.Context {
	if o.uncanceled {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

func (o overGuesses) now(t time.Time) time.Time {
	if o.clock != nil {
		return o.clock(t)
	}
	return t
}

func (o overGuesses) Reserve(ctx context.Context, now time.Time, slots []lockout.Slot) (v lockout.Verdict, err error) {
	if o.reserving != nil {
		slots = o.reserving(slots)
	}
	if o.slots != nil {
		return o.slots(o, o.ctx(ctx), o.now(now), slots)
	}
	v, err = o.Store.Reserve(o.ctx(ctx), o.now(now), slots)
	if o.verdict != nil {
		v = o.verdict(v)
	}
	return v, err
}

func (o overGuesses) Conclude(ctx context.Context, now time.Time, slots []lockout.Slot, c lockout.Conclusion) (lockout.Verdict, error) {
	c.Reserved = o.now(c.Reserved)
	if o.concluding != nil {
		c = o.concluding(now, c)
	}
	if o.concludingSlots != nil {
		slots = o.concludingSlots(slots)
	}
	v, err := o.Store.Conclude(o.ctx(ctx), o.now(now), slots, c)
	if o.concluded != nil {
		v = o.concluded(c, v)
	}
	return v, err
}

func (o overGuesses) Hold(ctx context.Context, now time.Time, name lockout.Name, until time.Time) error {
	return o.Store.Hold(o.ctx(ctx), o.now(now), name, until)
}

func (o overGuesses) States(ctx context.Context, now time.Time, q lockout.Query) (lockout.Page, error) {
	if o.asking != nil {
		q = o.asking(q)
	}
	page, err := o.Store.States(o.ctx(ctx), o.now(now), q)
	if o.pages != nil {
		page = o.pages(page)
	}
	return page, err
}

func neverLocked(v lockout.Verdict) lockout.Verdict {
	if v.Answer != lockout.Admitted {
		return lockout.Verdict{}
	}
	return v
}

func oneSlotAfterOther(o overGuesses, ctx context.Context, now time.Time, slots []lockout.Slot) (v lockout.Verdict, err error) {
	for i := range slots {
		if v, err = o.Store.Reserve(ctx, now, slots[i:i+1]); err != nil || v.Answer != lockout.Admitted {
			v.Slot = i
			return v, err
		}
	}
	return v, err
}

func longerWithAttempts(o overGuesses, ctx context.Context, now time.Time, slots []lockout.Slot) (lockout.Verdict, error) {
	v, err := o.Store.Reserve(ctx, now, slots)
	if v.Answer == lockout.Locked {
		o.Store.Hold(ctx, now, slots[v.Slot].Key.Name(), now.Add(slots[v.Slot].Duration))
	}
	return v, err
}

func withoutHolds(slots []lockout.Slot) []lockout.Slot {
	return slices.DeleteFunc(slices.Clone(slots), func(s lockout.Slot) bool { return s.Key.IsHold() })
}

func countedHolds(slots []lockout.Slot) []lockout.Slot {
	slots = slices.Clone(slots)
	for i := range slots {
		slots[i].Attempts = max(slots[i].Attempts, 3)
	}
	return slots
}

func allClear(slots []lockout.Slot) []lockout.Slot {
	slots = slices.Clone(slots)
	for i := range slots {
		slots[i].Clears = true
	}
	return slots
}

func alwaysCrossed(c lockout.Conclusion, v lockout.Verdict) lockout.Verdict {
	if c.Result == lockout.Wrong {
		v.Crossed = 1
	}
	return v
}

func neverCrossed(_ lockout.Conclusion, v lockout.Verdict) lockout.Verdict {
	v.Crossed = 0
	return v
}

func neverLate(now time.Time, c lockout.Conclusion) lockout.Conclusion {
	if now.Sub(c.Reserved) >= lockout.MaxCheck {
		c.Reserved = now
	}
	return c
}

func rightIsAbandoned(_ time.Time, c lockout.Conclusion) lockout.Conclusion {
	if c.Result == lockout.Right {
		c.Result = lockout.Abandoned
	}
	return c
}

func abandonedIsWrong(_ time.Time, c lockout.Conclusion) lockout.Conclusion {
	if c.Result == lockout.Abandoned {
		c.Result = lockout.Wrong
	}
	return c
}

func wholeSeconds(t time.Time) time.Time { return t.Truncate(time.Second) }

func skipsGuesses(p lockout.Page) lockout.Page {
	if p.Cursor != "" {
		p.Entries = p.Entries[:len(p.Entries)-1]
	}
	return p
}

func anyName(q lockout.Query) lockout.Query {
	q.Name = nil
	return q
}

func anyCursor(q lockout.Query) lockout.Query {
	if strings.Contains(q.Cursor, " ") {
		q.Cursor = ""
	}
	return q
}

// forgetfulGuesses forgets everything of everybody when one is unlocked.
type forgetfulGuesses struct {
	mu sync.Mutex
	lockout.Store
}

func (f *forgetfulGuesses) Hold(ctx context.Context, now time.Time, name lockout.Name, until time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if until.IsZero() {
		f.Store = memory.NewLockouts()
		return ctx.Err()
	}
	return f.Store.Hold(ctx, now, name, until)
}

// racyGuesses reads, decides and writes, as most systems do.
type racyGuesses struct {
	mu     sync.Mutex
	states map[lockout.Key]lockout.State
}

func (r *racyGuesses) read(slots []lockout.Slot) (list []lockout.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range slots {
		list = append(list, r.states[s.Key])
	}
	return list
}

func (r *racyGuesses) write(slots []lockout.Slot, list []lockout.State) {
	time.Sleep(time.Millisecond)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, s := range slots {
		r.states[s.Key] = list[i]
	}
}

func (r *racyGuesses) Reserve(ctx context.Context, now time.Time, slots []lockout.Slot) (lockout.Verdict, error) {
	states := r.read(slots)
	v := lockout.Admit(states, slots, now)
	if v.Answer == lockout.Admitted || v.Crossed != 0 {
		r.write(slots, states)
	}
	return v, ctx.Err()
}

func (r *racyGuesses) Conclude(ctx context.Context, now time.Time, slots []lockout.Slot, c lockout.Conclusion) (lockout.Verdict, error) {
	states := r.read(slots)
	v := lockout.Settle(states, slots, c, now)
	if v.Answer == lockout.Admitted {
		r.write(slots, states)
	}
	return v, ctx.Err()
}

func (r *racyGuesses) Hold(ctx context.Context, now time.Time, name lockout.Name, until time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !until.IsZero() {
		r.states[name.Hold()] = lockout.State{Until: until.UnixMicro()}
		return ctx.Err()
	}
	for key, s := range r.states {
		if key.Name() == name {
			r.states[key] = s.Forget(now)
		}
	}
	return ctx.Err()
}

func (r *racyGuesses) States(ctx context.Context, _ time.Time, q lockout.Query) (page lockout.Page, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range slices.SortedFunc(maps.Keys(r.states), func(a, b lockout.Key) int { return slices.Compare(a[:], b[:]) }) {
		if q.Name == nil || key.Name() == *q.Name {
			page.Entries = append(page.Entries, lockout.Entry{Key: key, State: r.states[key]})
		}
	}
	return page, ctx.Err()
}
