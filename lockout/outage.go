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

// reach runs f with the time, within patience. An error that is not ctx's is ErrUnavailable.
func reach[T any](ctx context.Context, g *Guard, f func(ctx context.Context, now time.Time) (T, error)) (T, error) {
	if g.clock.elapsed().Microseconds() < g.askAfter.Load() {
		var none T
		return none, ErrUnavailable
	}
	return try(ctx, g, f)
}

// try is reach for what must not be left undone because something else failed: a conclusion.
func try[T any](ctx context.Context, g *Guard, f func(ctx context.Context, now time.Time) (T, error)) (T, error) {
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
	done := make(chan answer, 1) // a driver may be deaf to ctx
	go func() {
		var a answer
		defer func() {
			if p := recover(); p != nil {
				a.err = errors.New("the store panicked") // with what is not repeated: there may be a row in it
			}
			done <- a
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

func (g *Guard) unreachable(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	g.log.Error("lockout: the store cannot be reached", "error", err)
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
	return reach(ctx, g, func(ctx context.Context, now time.Time) (timed, error) {
		v, err := g.store.Reserve(ctx, now, r.slots())
		return timed{v, now}, err
	})
}

func (g *Guard) conclude(ctx context.Context, r *Reservation, result Result) (Verdict, error) {
	if g.local {
		v, err := g.store.Conclude(ctx, g.clock.own(), r.slots(), Conclusion{r.at, result})
		return v, g.unreachable(ctx, err)
	}
	return try(ctx, g, func(ctx context.Context, now time.Time) (Verdict, error) {
		return g.store.Conclude(ctx, now, r.slots(), Conclusion{r.at, result})
	})
}

// ask asks once, the store and the fallback.
func (g *Guard) ask(ctx context.Context, r *Reservation) (Verdict, error) {
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
	switch {
	case g.fallback == nil || err != nil && ctx.Err() != nil:
		return first.Verdict, err
	case err != nil:
		g.outage()
		return second, nil
	case r.main && !r.mirrored && g.clock.elapsed().Microseconds() < g.worseTil.Load():
		// The store has not heard of the guesses during the outage.
		g.conclude(ctx, r, Abandoned)
		return second, nil
	case !r.main && r.mirrored:
		_, err = g.fallback.Conclude(ctx, g.clock.own(), r.slots(), Conclusion{r.mirroredAt, Abandoned})
	}
	return first.Verdict, err
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
	if ctx.Done() != nil {
		ctx = context.WithoutCancel(ctx) // whoever guessed may have hung up: it counts all the same
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
