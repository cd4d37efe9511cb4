package lockout

import (
	"context"
	"sync"
	"time"
)

// A clock is the time by which a Guard counts. It goes by the process's monotonic clock, so that it does not jump when somebody sets the
// machine's; what it began with is the time of the store, which other processes share.
type clock struct {
	wall    func() time.Time
	elapsed func() time.Duration // since the Guard was made, by the monotonic clock
	begin   time.Time            // what the machine's clock showed then
	keeper  Timekeeper           // nil: the store is this process's own

	mu      sync.Mutex
	known   bool
	asking  bool          // somebody is asking the keeper
	base    time.Time     // the time when elapsed was 0
	asked   time.Duration // elapsed, when the keeper was last asked
	apart   time.Duration // of wall from base + elapsed at that time
	edition int64         // of the store's time then
}

// askAgain is how often the store's time is compared, at least.
const askAgain = time.Minute

func newClock(now func() time.Time, keeper Timekeeper) *clock {
	if now == nil {
		begin := time.Now()
		return &clock{wall: time.Now, elapsed: func() time.Duration { return time.Since(begin) }, begin: begin.Round(0), keeper: keeper}
	}
	begin := now()
	wall := begin.Round(0)
	return &clock{wall: now, elapsed: func() time.Duration { return now().Sub(begin) }, begin: wall, keeper: keeper}
}

// now returns the time. Until the store was asked for it once, it asks.
func (c *clock) now(ctx context.Context) (time.Time, error) {
	if c.keeper == nil {
		return c.own(), nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	elapsed := c.elapsed()
	apart := c.wall().Round(0).Sub(c.base.Add(elapsed))
	if c.known && (c.asking || elapsed-c.asked < askAgain && (apart-c.apart).Abs() < Apart) {
		return c.base.Add(elapsed), nil
	}
	var mine time.Time
	if c.known {
		mine = c.base.Add(elapsed)
	}
	t, edition, err := c.sync(ctx, mine)
	elapsed = c.elapsed() // the answer took its time, and a clock that is behind ends no lock early
	if err != nil {
		if c.known {
			return c.base.Add(elapsed), nil // and ask next time
		}
		return time.Time{}, err
	}
	if !c.known || t.Sub(mine).Abs() > Apart { // another Guard, which knew the time from before the clock was set, has corrected it
		c.known, c.base = true, t.Add(-elapsed)
	}
	c.edition = edition
	c.asked, c.apart = elapsed, c.wall().Round(0).Sub(c.base.Add(elapsed))
	return c.base.Add(elapsed), nil
}

// sync asks the store. Meanwhile others go by what is known, if anything is.
func (c *clock) sync(ctx context.Context, mine time.Time) (time.Time, int64, error) {
	if c.known {
		seen := c.edition
		c.asking = true
		c.mu.Unlock()
		defer func() { c.mu.Lock(); c.asking = false }()
		return c.keeper.Sync(ctx, mine, seen)
	}
	return c.keeper.Sync(ctx, mine, 0)
}

// own returns a time that is this process's alone.
func (c *clock) own() time.Time { return c.begin.Add(c.elapsed()) }

// until returns what the machine's clock shows when so much time has passed.
func (c *clock) until(wait time.Duration) time.Time { return c.wall().Add(wait) }
