package lockout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// A Guard counts guesses. It is safe for concurrent use, also by several processes on the same store with the same Config.
type Guard struct {
	store    Store
	fallback Store // nil: none
	local    bool  // the store is this process's own
	cfg      Config
	keys     *keys
	clock    *clock
	lines    lines
	refused  refusals
	calls    chan struct{} // full while as many guesses are being reserved in a store that others share as may be
	log      *slog.Logger

	askAfter atomic.Int64 // the store did not answer: it is not asked before that, in microseconds
	worseTil atomic.Int64 // the fallback has a say until then
	logged   atomic.Int64 // when trouble was last logged
}

// New returns a Guard. It makes no tables, and does not ask the store: call [Guard.Overview] at the start to hear whether it answers.
func New(store Store, cfg Config) (*Guard, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if store == nil {
		return nil, errors.New("lockout: there is no store; see store/memory, store/sqlite and store/redis")
	}
	cfg.Known = slices.Clone(cfg.Known)
	for i, p := range cfg.Known {
		cfg.Known[i] = cleanNetwork(p)
	}
	g := &Guard{store: store, fallback: cfg.Fallback, cfg: cfg, log: cfg.Logger, calls: make(chan struct{}, maxCalls)}
	_, g.local = store.(Local)
	if _, ok := cfg.Fallback.(Local); cfg.Fallback != nil && !ok {
		return nil, errors.New("lockout: Config.Fallback is a store that other processes see; want one in memory")
	}
	switch {
	case !cfg.Key.IsEmpty():
		if err := crypto.CheckKey(cfg.Key); err != nil {
			return nil, fmt.Errorf("lockout: Config.Key: %w (want at least %d random bytes, not text: decode hex or base64 first)", err, minKey)
		}
	case !g.local:
		return nil, errors.New("lockout: Config.Key is empty; processes that share a store must share a key, and it must not change when they start again")
	default:
		g.cfg.Key = drawKey()
	}
	var err error
	if g.keys, err = newKeys(g.cfg.Key); err != nil {
		return nil, err
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	keeper, _ := store.(Timekeeper)
	g.clock = newClock(cfg.Now, keeper)
	return g, nil
}

// An Account is whom somebody wants to log in as.
type Account struct {
	Login string // as it was typed: a user name, a bar code, an e-mail address …
	ID    string // of the account that the login leads to: the same for all its logins; empty when it leads to none. The trail and the command know a patron by their patron.ID
	Staff bool   // the account is one of a member of staff
}

// An Attempt is one guess at a password.
type Attempt struct {
	Account
	Source  netip.Addr    // where it comes from; see [Source]. The zero value: not known, and not counted
	Device  string        // what [Guard.Remember] gave to this device; empty or not valid: none
	Channel audit.Channel // for the trail
}

// Reserve takes one guess, before the password is looked at. If others are being checked at this moment that may turn out right, it waits for them, at most
// two seconds. When it returns no error, check the password and conclude the Reservation; one that is not concluded counts as wrong.
//
// It does the same for an account that there is as for one that there is not. Let the caller do the same too: check some password.
//
// Errors: [ErrLocked] (a [*LockedError]), [ErrBusy], [ErrUnavailable], that of ctx.
func (g *Guard) Reserve(ctx context.Context, a Attempt) (*Reservation, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := &Reservation{g: g, account: a.ID, staff: a.Staff, channel: a.Channel}
	g.slots(r, &a)
	v, err := g.admit(ctx, r)
	if err != nil {
		return nil, err
	}
	if v.Crossed != 0 {
		err = g.crossed(ctx, r, v.Crossed)
	}
	switch v.Answer {
	case Admitted:
		r.left = v.Left
		return r, nil
	case Locked:
		locked := &LockedError{Until: g.clock.until(v.Wait), Wait: v.Wait}
		if err != nil {
			return nil, errors.Join(locked, err)
		}
		return nil, locked
	}
	return nil, ErrBusy
}

// slots says what an attempt is counted under: the account, or the account at this device or in this network; the same by the day; the source; and a hold by staff.
func (g *Guard) slots(r *Reservation, a *Attempt) {
	k := g.keys.pool.Get().(*keyer)
	defer g.keys.pool.Put(k)
	name := k.account(a.Account)
	var lane [5]byte
	device, ok := g.device(k, name, a.Device)
	if ok {
		lane = k.lane(name, "device", device)
	} else {
		for i := range g.cfg.Known {
			if p := g.cfg.Known[i]; p.Contains(clean(a.Source)) {
				raw, _ := p.Masked().MarshalBinary() // the network and not the address: who has a thousand addresses has one lane
				lane = k.lane(name, "network", raw)
				break
			}
		}
	}
	r.add(Slot{name.key(lane, countRecent), g.cfg.Attempts, g.cfg.Duration, true})
	if g.cfg.Daily > 0 {
		r.add(Slot{name.key(lane, countDaily), g.cfg.Daily, day, false})
	}
	r.add(Slot{Key: name.Hold(), Duration: g.cfg.Duration})
	if a.Source.IsValid() && !ok { // a device has logged in here before, and guesses at one account only
		r.add(Slot{k.source(a.Source).Source(), g.cfg.Sources, g.cfg.Duration, false})
	}
}
