package rights

import (
	"context"
	"errors"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// A Holder is a [Circulation] that can put a borrower under a legal hold. While a patron is restricted they are under one, so that no sweep erases what they may want to prove something with.
type Holder interface {
	AddHold(ctx context.Context, h circulation.Hold) error
	ReleaseHold(ctx context.Context, borrower circulation.Borrower, ref string) (bool, error)
}

// restriction is the reference of the legal hold on patrons who are restricted.
const restriction = "restriction"

// Restrict keeps a patron's record from everybody who has not the right to restrict (GDPR article 18): it is stored, and not shown, exported or changed. If the circulation store is a [Holder], nothing of
// theirs is unlinked meanwhile; neither is the patron erased. It needs the right to restrict. Doing it twice is not an error.
//
// Errors: [patron.ErrDenied], [patron.ErrNotFound], [patron.ErrNotRecorded], those of the stores.
func (o *Office) Restrict(ctx context.Context, call patron.Call, id patron.ID, r Request) error {
	references, err := o.Directory.Restrict(ctx, call, id, r.Approval)
	if err != nil {
		return err
	}
	return o.hold(ctx, references, func(h Holder, b circulation.Borrower) error {
		return h.AddHold(ctx, circulation.Hold{Borrower: b, Ref: restriction})
	})
}

// Lift ends a restriction. The patron is to be told before. Errors as of [Office.Restrict].
func (o *Office) Lift(ctx context.Context, call patron.Call, id patron.ID, r Request) error {
	references, err := o.Directory.Lift(ctx, call, id, r.Approval)
	if err != nil {
		return err
	}
	return o.hold(ctx, references, func(h Holder, b circulation.Borrower) error {
		_, err := h.ReleaseHold(ctx, b, restriction)
		return err
	})
}

// hold does something for each token that the store may have for a patron now.
func (o *Office) hold(ctx context.Context, references []crypto.Secret, do func(Holder, circulation.Borrower) error) error {
	h, ok := o.Circulation.(Holder)
	if !ok {
		return nil
	}
	borrowers := o.borrowers
	if s, ok := o.Circulation.(crypto.TokenStore); ok {
		epoch, err := s.TokenEpoch(ctx)
		if err == nil {
			borrowers, err = borrowers.Of(epoch)
		}
		if err != nil {
			return err
		}
	}
	var failed []error
	for _, r := range references {
		if !o.counts(r) {
			continue
		}
		token, err := borrowers.Token(r.Reveal())
		if err == nil {
			err = do(h, circulation.Borrower(token))
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// Withdraw takes back a demand for erasure that waits until nothing is owed. What was erased stays erased. It needs the right to erase.
//
// Errors: [patron.ErrDenied], [patron.ErrNotFound], [patron.ErrNotRecorded].
func (o *Office) Withdraw(ctx context.Context, call patron.Call, id patron.ID, r Request) error {
	return o.Directory.Withdraw(ctx, call, id, r.Approval)
}
