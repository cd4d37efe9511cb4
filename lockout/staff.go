package lockout

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// What staff has to say.
var (
	// ErrReason means that there is no reason.
	ErrReason = errors.New("lockout: want a reason")
	// ErrActor means that the event does not say who does it: one without an Actor would say that a patron did.
	ErrActor = errors.New("lockout: want an Actor, who does it")
	// ErrWhose means that an Account has neither a Login nor an ID, or is one of staff without an ID.
	ErrWhose = errors.New("lockout: want the ID of an account, or a login that leads to none")
)

// Unlock forgets the wrong guesses at an account, on all its devices, and lifts a hold. By says who does it: its Actor, Role, Purpose and Channel. The reason goes to the trail: sealed, of a
// patron, and lost if the patron has no key in the trail's keyring; of a member of staff and of a login that leads to no account, as it is. It is recorded first. That nothing was locked is no error.
//
// During an outage it reaches the fallback of this process, and returns [ErrUnavailable]: do it again afterwards. Another process that was in an outage may go on refusing by what its fallback knows.
//
// Errors: [ErrReason], [ErrActor], [ErrWhose], [ErrUnavailable], those of the trail, that of ctx.
func (g *Guard) Unlock(ctx context.Context, by audit.Event, a Account, reason string) error {
	return g.hold(ctx, by, audit.Unlock, a, reason, 0)
}

// Lock puts a hold on an account: no guess is let through, from no device, until so much time has passed or somebody calls [Guard.Unlock]. It is
// between 3 minutes and 24 hours: whoever shall stay out longer needs a block in the library system. A guess that is being checked at that moment is not stopped. The rest is as in Unlock.
func (g *Guard) Lock(ctx context.Context, by audit.Event, a Account, reason string, lasts time.Duration) error {
	if lasts < leastDuration || lasts > mostDuration {
		return fmt.Errorf("lockout: lasts is %s, want %s to %s", span(lasts), span(leastDuration), span(mostDuration))
	}
	return g.hold(ctx, by, audit.Lock, a, reason, lasts)
}

// UnlockSource forgets the wrong guesses from a source, as when a campus behind one address was locked out.
func (g *Guard) UnlockSource(ctx context.Context, by audit.Event, source netip.Addr, reason string) error {
	if !source.IsValid() {
		return errors.New("lockout: the source is no address")
	}
	by.Object, by.Approval = objectSource, reason
	return g.put(ctx, by, audit.Unlock, g.name(func(k *keyer) Name { return k.source(source) }), reason, 0)
}

func (g *Guard) hold(ctx context.Context, by audit.Event, action audit.Action, a Account, reason string, lasts time.Duration) error {
	what := objectAccount
	if action == audit.Lock {
		what = objectHold
	}
	switch {
	case a.ID == "" && (a.Login == "" || a.Staff):
		return ErrWhose
	case a.ID == "":
		by.Object, by.Approval = objectLogin, reason
	case a.Staff:
		by.Object, by.Approval = what+" "+a.ID, reason
	default:
		by.Object, by.Subjects, by.Count = what, []audit.Subject{{ID: crypto.Subject(a.ID), Note: crypto.NewSecret(reason)}}, 1
	}
	return g.put(ctx, by, action, g.name(func(k *keyer) Name { return k.account(a) }), reason, lasts)
}

func (g *Guard) put(ctx context.Context, by audit.Event, action audit.Action, name Name, reason string, lasts time.Duration) error {
	switch {
	case reason == "":
		return ErrReason
	case by.Actor == "":
		return ErrActor
	}
	by.Time, by.Action, by.Outcome = g.clock.wall(), action, audit.Done
	if err := g.record(ctx, by); err != nil {
		return err
	}
	_, err := reach(ctx, g, func(ctx context.Context, now time.Time) (struct{}, error) {
		return struct{}{}, g.store.Hold(ctx, now, name, holdUntil(now, lasts))
	}, nil, nil)
	g.refused.forget(name)
	if g.fallback != nil {
		now := g.clock.own()
		err = errors.Join(err, g.fallback.Hold(ctx, now, name, holdUntil(now, lasts)))
	}
	if err != nil { // it is in the trail as done
		by.Outcome, by.Why = audit.Failed, "store"
		err = errors.Join(err, g.record(context.WithoutCancel(ctx), by))
	}
	return err
}

func holdUntil(now time.Time, lasts time.Duration) time.Time {
	if lasts == 0 {
		return time.Time{}
	}
	return now.Add(lasts)
}

// What an event of a lock is about.
const (
	objectAccount = "account" // its own guesses; of an account of a member of staff with its ID, as in "account staff-9"
	objectHold    = "hold"    // by staff, on an account
	objectLogin   = "login"   // that leads to no account
	objectDevice  = "device"  // guesses from one of an account's devices or known networks
	objectDay     = "day"     // those of 24 hours
	objectSource  = "source"
)

// crossed records that these slots are locked since now.
func (g *Guard) crossed(ctx context.Context, r *Reservation, slots uint8) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for i := range r.n {
		if slots&(1<<i) == 0 {
			continue
		}
		e := audit.Event{Time: g.clock.wall(), Action: audit.Lock, Outcome: audit.Done, Actor: actor, Channel: r.channel, Object: objectSource}
		if key := r.list[i].Key; key.Name() == r.list[0].Key.Name() {
			e.Object = object(key, r.account)
			switch {
			case r.account == "":
			case r.staff:
				e.Object += " " + r.account
			default:
				e.Subjects, e.Count = []audit.Subject{{ID: crypto.Subject(r.account)}}, 1
			}
		}
		if err := g.record(ctx, e); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w: %w", ErrNotAudited, errors.Join(errs...))
	}
	return nil
}

// actor is who locks when nobody does: a program.
const actor = "lockout"

func object(key Key, account string) string {
	switch {
	case key[len(key)-1] == countDaily:
		return objectDay
	case key != key.Name().key([5]byte{}, countRecent):
		return objectDevice
	case account == "":
		return objectLogin
	}
	return objectAccount
}

func (g *Guard) record(ctx context.Context, e audit.Event) error {
	if g.cfg.Audit == nil {
		return nil
	}
	return g.cfg.Audit.Record(ctx, e)
}
