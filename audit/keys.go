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

// Rotate begins a new epoch ([crypto.Keyring.Rotate]) after it has recorded that, and then records how many keys were rewrapped.
func (t *Trail) Rotate(ctx context.Context, by Event, progress func(crypto.Rotation)) (crypto.Rotation, error) {
	by.Time, by.Action, by.Outcome = t.now(), Rotate, Done
	if err := t.Record(ctx, by); err != nil {
		return crypto.Rotation{}, err
	}
	r, err := t.keys.Rotate(ctx, progress)
	if err != nil {
		return r, t.undone(ctx, by, err)
	}
	by.Time, by.Count, by.Why = t.now(), r.Rewrapped, "finished"
	return r, t.Record(context.WithoutCancel(ctx), by)
}

// undone records that something failed which the trail believes done, and returns why.
func (t *Trail) undone(ctx context.Context, e Event, err error) error {
	if err == nil {
		return nil
	}
	e.Time, e.Outcome = t.now(), Failed
	return errors.Join(err, t.Record(context.WithoutCancel(ctx), e))
}
