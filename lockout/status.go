package lockout

import (
	"context"
	"net/netip"
	"time"
)

// A Status says how things stand for one account or source.
type Status struct {
	Until  time.Time `json:"locked_until,omitzero"` // by this machine's clock; zero: it is not locked
	Hold   bool      `json:"hold"`                  // by staff
	Failed int       `json:"failed"`                // wrong guesses that count now, or are being checked; those at remembered devices and in known networks apart
	Left   int       `json:"left"`                  // guesses before it is locked
	Daily  int       `json:"daily,omitempty"`       // wrong guesses that count for the limit of 24 hours, if there is one: they may be more than Failed

	Lanes       int `json:"lanes"`        // remembered devices and known networks with wrong guesses that count
	LockedLanes int `json:"locked_lanes"` // those of them that are locked
}

// Status reports how things stand for an account. It changes nothing and is not recorded.
//
// Errors: [ErrUnavailable], that of ctx.
func (g *Guard) Status(ctx context.Context, a Account) (Status, error) {
	return g.status(ctx, g.name(func(k *keyer) Name { return k.account(a) }), g.cfg.Attempts)
}

// SourceStatus reports how things stand for a source.
func (g *Guard) SourceStatus(ctx context.Context, source netip.Addr) (Status, error) {
	return g.status(ctx, g.name(func(k *keyer) Name { return k.source(source) }), g.cfg.Sources)
}

func (g *Guard) name(f func(*keyer) Name) Name {
	k := g.keys.pool.Get().(*keyer)
	defer g.keys.pool.Put(k)
	return f(k)
}

func (g *Guard) status(ctx context.Context, name Name, attempts int) (Status, error) {
	s := Status{Left: attempts}
	lanes := map[[5]byte]bool{}
	err := g.each(ctx, &name, func(now time.Time, e Entry) {
		state := e.State.At(now, Slot{Duration: g.period(e.Key)})
		locked := state.Until > now.UnixMicro()
		count := state.Failed + state.Earlier
		if lane := [5]byte(e.Key[len(name):]); lane != ([5]byte{}) {
			if count > 0 || locked {
				lanes[lane] = lanes[lane] || locked
			}
			return
		}
		if locked {
			if until := g.clock.until(time.UnixMicro(state.Until).Sub(now)); until.After(s.Until) {
				s.Until = until
			}
		}
		switch e.Key[len(e.Key)-1] {
		case countHold:
			s.Hold = locked
		case countDaily:
			s.Daily = count
			if g.cfg.Daily > 0 {
				s.Left = min(s.Left, max(g.cfg.Daily-count, 0))
			}
		default:
			s.Failed = count
			s.Left = min(s.Left, max(attempts-count, 0))
		}
	})
	for _, locked := range lanes {
		s.Lanes++
		if locked {
			s.LockedLanes++
		}
	}
	if !s.Until.IsZero() {
		s.Left = 0
	}
	return s, err
}

// An Overview counts what a store holds.
type Overview struct {
	Names   int       `json:"names"`   // accounts, and logins that lead to none, with wrong guesses that count, and sources: HMACs all of them
	Sources int       `json:"sources"` // those of them that are sources
	Locked  int       `json:"locked"`  // those of Names that are locked, wholly or at a device
	Holds   int       `json:"holds"`   // by staff
	Last    time.Time `json:"last_lock_ends,omitzero"`
}

// Overview reads the whole store. Errors: as in Status.
func (g *Guard) Overview(ctx context.Context) (o Overview, err error) {
	names, holds, sources := map[Name]bool{}, map[Name]bool{}, map[Name]bool{} // an entry may come twice
	err = g.each(ctx, nil, func(now time.Time, e Entry) {
		state := e.State.At(now, Slot{Duration: g.period(e.Key)})
		locked := state.Until > now.UnixMicro()
		if !locked && state.Failed+state.Earlier == 0 {
			return
		}
		names[e.Key.Name()] = names[e.Key.Name()] || locked
		if e.Key.IsSource() {
			sources[e.Key.Name()] = true
		}
		if locked {
			if e.Key.IsHold() {
				holds[e.Key.Name()] = true
			}
			if until := g.clock.until(time.UnixMicro(state.Until).Sub(now)); until.After(o.Last) {
				o.Last = until
			}
		}
	})
	o.Names, o.Holds, o.Sources = len(names), len(holds), len(sources)
	for _, locked := range names {
		if locked {
			o.Locked++
		}
	}
	return o, err
}

// period is what the guesses under a key are counted in.
func (g *Guard) period(k Key) time.Duration {
	if k[len(k)-1] == countDaily {
		return day
	}
	return g.cfg.Duration
}

// each calls f with what is kept under a name, or under all.
func (g *Guard) each(ctx context.Context, name *Name, f func(time.Time, Entry)) error {
	type found struct {
		Page
		now time.Time
	}
	for q := (Query{Name: name, Limit: 1000}); ; {
		page, err := reachSoon(ctx, g, func(ctx context.Context, now time.Time) (found, error) {
			p, err := g.store.States(ctx, now, q)
			return found{p, now}, err
		}, nil, nil)
		if err != nil {
			return err
		}
		for _, e := range page.Entries {
			f(page.now, e)
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return nil
		}
	}
}
