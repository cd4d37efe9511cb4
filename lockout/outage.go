package lockout

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// patience is how long a store that others share may take. One that took slow to fail is left alone for pause, so that not every login waits for it.
const (
	patience = 2 * time.Second
	slow     = 200 * time.Millisecond
	pause    = time.Second
)

// maxCalls is how many guesses may be in their reservation at a time, in a store that others share. A store that is deaf to contexts keeps what is asked of it for ever.
const maxCalls = 512

// errCrowd means that as many are asking as may, and that they did not come to an end in time.
var errCrowd = errors.New("lockout: too many at once")

// reach runs f with the time, within patience. An error that is not ctx's is ErrUnavailable. What comes back when nobody waits for it any more goes to late.
// Ended is called when f has returned, or was not called. Both may be nil.
func reach[T any](ctx context.Context, g *Guard, f func(ctx context.Context, now time.Time) (T, error), ended func(), late func(T)) (T, error) {
	var none T
	if g.local { // it does not hang
		t, err := f(ctx, g.clock.own())
		return t, g.unreachable(ctx, err)
	}
	begin := g.clock.elapsed()
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	type answer struct {
		t   T
		err error
	}
	done := make(chan answer) // a driver may be deaf to ctx
	go func() {
		var a answer
		defer func() {
			if p := recover(); p != nil {
				a.err = errors.New("the store panicked") // with what is not repeated: there may be a row in it
			}
			if ended != nil {
				ended()
			}
			select {
			case done <- a:
			case <-within.Done():
				if a.err == nil && late != nil {
					late(a.t)
				}
			}
		}()
		now, err := g.clock.now(within)
		if err != nil {
			a.err = err
			return
		}
		a.t, a.err = f(within, now)
	}()
	var a answer
	select {
	case a = <-done:
	case <-within.Done():
		a.err = within.Err()
	}
	if a.err == nil {
		return a.t, nil
	}
	if now := g.clock.elapsed(); ctx.Err() == nil && now-begin >= slow {
		g.askAfter.Store((now + pause).Microseconds())
	}
	return none, g.unreachable(ctx, a.err)
}

// reachSoon is reach for all but conclusions, which must not be left undone because something else failed.
func reachSoon[T any](ctx context.Context, g *Guard, f func(ctx context.Context, now time.Time) (T, error), ended func(), late func(T)) (T, error) {
	if g.clock.elapsed().Microseconds() < g.askAfter.Load() {
		var none T
		if ended != nil {
			ended()
		}
		return none, ErrUnavailable
	}
	return reach(ctx, g, f, ended, late)
}

func (g *Guard) unreachable(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if now, last := g.clock.elapsed(), g.logged.Load(); last == 0 || now-time.Duration(last) >= time.Minute { // not for every guess
		if g.logged.CompareAndSwap(last, int64(now)+1) {
			g.log.Error("lockout: the store cannot be reached", "error", err)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// timed is a verdict with the time at which it was asked for.
type timed struct {
	Verdict
	at time.Time
}

// reserve asks the store. One that is this process's own is called directly: a deadline and what it takes to reach others costs more than all the rest.
func (g *Guard) reserve(ctx context.Context, r *Reservation) (timed, error) {
	if g.local {
		now := g.clock.own()
		v, err := g.store.Reserve(ctx, now, r.slots())
		return timed{v, now}, g.unreachable(ctx, err)
	}
	enough := time.NewTimer(patience)
	defer enough.Stop()
	select {
	case g.calls <- struct{}{}:
	case <-ctx.Done():
		return timed{}, ctx.Err()
	case <-enough.C:
		return timed{}, errCrowd
	}
	place := func() { <-g.calls } // is given back when the call has ended, whoever waits for it
	return reachSoon(ctx, g, func(ctx context.Context, now time.Time) (timed, error) {
		v, err := g.store.Reserve(ctx, now, r.slots())
		return timed{v, now}, err
	}, place, func(t timed) { g.unheard(r, t) })
}

// unheard sees to the answer of a reservation whose caller has gone: nothing will be compared.
func (g *Guard) unheard(r *Reservation, t timed) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if t.Answer == Admitted {
		g.store.Conclude(ctx, t.at, r.slots(), Conclusion{t.at, Abandoned})
		g.lines.wake(r.slots())
	}
	if t.Crossed != 0 {
		g.crossed(ctx, r, t.Crossed)
	}
}

func (g *Guard) conclude(ctx context.Context, r *Reservation, result Result) (Verdict, error) {
	if g.local {
		v, err := g.store.Conclude(ctx, g.clock.own(), r.slots(), Conclusion{r.at, result})
		return v, g.unreachable(ctx, err)
	}
	return reach(ctx, g, func(ctx context.Context, now time.Time) (Verdict, error) {
		return g.store.Conclude(ctx, now, r.slots(), Conclusion{r.at, result})
	}, nil, func(v Verdict) {
		if v.Crossed != 0 {
			g.crossed(context.Background(), r, v.Crossed)
		}
	})
}

// ask asks once, the store and the fallback.
func (g *Guard) ask(ctx context.Context, r *Reservation) (Verdict, error) {
	if v, known := g.refused.of(g, r.slots()); known {
		return v, nil
	}
	var second Verdict
	if g.fallback != nil {
		var err error
		r.mirroredAt = g.clock.own()
		if second, err = g.fallback.Reserve(ctx, r.mirroredAt, r.slots()); err != nil {
			return Verdict{}, g.unreachable(ctx, err)
		}
	}
	first, err := g.reserve(ctx, r)
	r.at, r.main = first.at, err == nil && first.Answer == Admitted
	r.mirrored = g.fallback != nil && second.Answer == Admitted
	if errors.Is(err, errCrowd) {
		first, err = timed{Verdict: Verdict{Answer: Busy}}, nil
	}
	switch {
	case g.fallback == nil:
	case err != nil && ctx.Err() != nil:
		g.unmirror(r)
	case err != nil:
		g.outage()
		return second, nil
	case r.main && !r.mirrored && g.clock.elapsed().Microseconds() < g.worseTil.Load():
		g.conclude(ctx, r, Abandoned) // the store has not heard of the guesses during the outage
		r.main = false
		return second, nil
	case r.main && !r.mirrored:
		g.follow(r, first.Left, second)
	case !r.main && r.mirrored:
		g.unmirror(r)
	}
	if err == nil && first.Answer == Locked {
		g.refused.add(g, r.list[first.Slot].Key, first.Wait)
		if key := r.list[first.Slot].Key; g.fallback != nil && key.IsHold() {
			now := g.clock.own()
			g.fallback.Hold(context.WithoutCancel(ctx), now, key.Name(), now.Add(first.Wait))
		}
	}
	return first.Verdict, err
}

// unmirror takes a guess back that the fallback counted and the store did not.
func (g *Guard) unmirror(r *Reservation) {
	g.fallback.Conclude(context.Background(), g.clock.own(), r.slots(), Conclusion{r.mirroredAt, Abandoned})
	r.mirrored = false
}

// follow makes the fallback count a guess that the store admits and it does not: another process has seen a right login, or staff has unlocked. It learns how many are
// used by now: all but this one and those that are left.
func (g *Guard) follow(r *Reservation, left int, v Verdict) {
	ctx, now := context.Background(), r.mirroredAt
	for range r.n {
		refuses := r.list[v.Slot : v.Slot+1]
		g.fallback.Hold(ctx, now, refuses[0].Key.Name(), time.Time{})
		for range refuses[0].Attempts - left - 1 {
			g.fallback.Reserve(ctx, now, refuses)
			g.fallback.Conclude(ctx, now, refuses, Conclusion{now, Wrong})
		}
		var err error
		if v, err = g.fallback.Reserve(ctx, now, r.slots()); err != nil || v.Answer == Admitted {
			r.mirrored = err == nil
			return
		}
	}
}

// outage notes that the store does not hear of guesses. What the fallback knows counts for as long as the store would have remembered them.
func (g *Guard) outage() {
	remembered := 2 * g.cfg.Duration
	if g.cfg.Daily > 0 {
		remembered = 2 * day
	}
	g.worseTil.Store((g.clock.elapsed() + remembered).Microseconds())
}

// settle concludes where it was reserved.
func (g *Guard) settle(ctx context.Context, r *Reservation, result Result) (Verdict, error) {
	if g.local { // whoever guessed may have hung up: it counts all the same
		ctx = context.Background()
	} else {
		ctx = context.WithoutCancel(ctx)
	}
	var second Verdict
	if r.mirrored {
		var err error
		if second, err = g.fallback.Conclude(ctx, g.clock.own(), r.slots(), Conclusion{r.mirroredAt, result}); err != nil || !r.main {
			return second, err
		}
	}
	first, err := g.conclude(ctx, r, result)
	if err != nil && r.mirrored {
		g.outage()
		return second, nil
	}
	return first, err
}
