package audit

import (
	"context"
	"errors"

	"github.com/carrel-project/carrel/crypto"
)

// Shred destroys the key of a subject ([crypto.Keyring.Shred]) after it has recorded that: without a record nothing is destroyed. The Actor,
// Role, Channel and Approval of by say who does it and under which reference. The record does not say whose key it was, and from then on nobody finds any record as the subject's.
func (t *Trail) Shred(ctx context.Context, by Event, subject crypto.Subject) error {
	// Without the subject: who has no key any more is to be seen in the database, and the tag would lead from there to all that the month says of them.
	by.Time, by.Action, by.Outcome, by.Count, by.Subjects = t.now(), Shred, Done, 1, nil
	if err := t.Record(ctx, by); err != nil {
		return err
	}
	return t.undone(ctx, by, t.keys.Shred(ctx, subject))
}

// Rotate begins a new epoch ([crypto.Keyring.Rotate]) after it has recorded that, and then records how many keys were rewrapped, and how many
// epochs ended, whose keys were destroyed.
func (t *Trail) Rotate(ctx context.Context, by Event, progress func(crypto.Rotation)) (crypto.Rotation, error) {
	return t.rotate(ctx, by, progress, t.keys.Rotate)
}

// Tend does what the keyring's schedule asks for ([crypto.Keyring.Tend]) and records it like [Trail.Rotate]. When there is nothing to do it records nothing.
func (t *Trail) Tend(ctx context.Context, by Event, progress func(crypto.Rotation)) (crypto.Rotation, error) {
	if due, err := t.keys.Due(ctx); err != nil || !due {
		return crypto.Rotation{}, err
	}
	return t.rotate(ctx, by, progress, t.keys.Tend)
}

// Schedule changes when epochs begin and end ([crypto.Keyring.SetSchedule]) after it has recorded that it will be changed.
func (t *Trail) Schedule(ctx context.Context, by Event, s crypto.Schedule) error {
	by.Time, by.Action, by.Outcome, by.Why = t.now(), Rotate, Done, "schedule"
	if err := t.Record(ctx, by); err != nil {
		return err
	}
	return t.undone(ctx, by, t.keys.SetSchedule(ctx, s))
}

func (t *Trail) rotate(ctx context.Context, by Event, progress func(crypto.Rotation), rotate func(context.Context, func(crypto.Rotation)) (crypto.Rotation, error)) (crypto.Rotation, error) {
	by.Time, by.Action, by.Outcome = t.now(), Rotate, Done
	if err := t.Record(ctx, by); err != nil {
		return crypto.Rotation{}, err
	}
	r, err := rotate(ctx, progress)
	if err != nil {
		err = t.undone(ctx, by, err)
	} else {
		by.Time, by.Count, by.Why = t.now(), r.Rewrapped, "finished"
		err = t.Record(context.WithoutCancel(ctx), by)
	}
	if len(r.Ended) > 0 { // also when something else failed: it is for good
		by.Time, by.Outcome, by.Count, by.Why = t.now(), Done, len(r.Ended), "ended"
		err = errors.Join(err, t.Record(context.WithoutCancel(ctx), by))
	}
	return r, err
}

// undone records that something failed which the trail believes done, and returns why.
func (t *Trail) undone(ctx context.Context, e Event, err error) error {
	if err == nil {
		return nil
	}
	e.Time, e.Outcome = t.now(), Failed
	return errors.Join(err, t.Record(context.WithoutCancel(ctx), e))
}
