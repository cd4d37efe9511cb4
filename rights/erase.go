package rights

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// The trail's words for why a patron was not erased.
const (
	whyObligations = "obligations" // something is owed
	whyProlonged   = "prolonged"   // the account has not expired after all
	whyDryRun      = "dry-run"
)

// rounds bounds how often what somebody changed in between is looked at again.
const rounds = 20

var (
	errBusy      = errors.New("rights: the patron, or their records, are being changed all the time: try again later")
	errProlonged = errors.New("rights: the account has been prolonged meanwhile")
)

// Erase forgets a patron for good (GDPR article 17): it unlinks the records that name them, takes them out of other people's, destroys their key with a tombstone in the erasure ledger, removes their row, and
// returns a certificate. It needs the right to erase.
//
// What keeps it is what keeps a record in a sweep (open loans, lost items, unpaid fees, active requests, legal holds) and what Config.Retain keeps. Then nothing is done and the error is an
// [*ObligationsError] with the list; with r.Partial what may go goes, and [Office.Purge] does the rest when nothing is owed any more. Under a legal hold on the patron nothing goes at all. Nobody may lend to a patron who is being erased: what is lent after all stands in
// Certificate.Kept, without a key.
//
// It can be stopped anywhere and done again. A patron who is forgotten already gets a certificate, too. One whose record is restricted is not erased: [patron.ErrDenied].
//
// Other errors: [patron.ErrDenied], [patron.ErrNotFound], [patron.ErrNotRecorded]; those of the stores and the keyring. With an error the certificate is zero, unless only signing it failed: then it says what was done.
func (o *Office) Erase(ctx context.Context, call patron.Call, id patron.ID, r Request) (Certificate, error) {
	return o.forget(ctx, call, id, r, time.Time{})
}

// forget is Erase, for a purge only of one whose account expired before a time.
func (o *Office) forget(ctx context.Context, call patron.Call, id patron.ID, r Request, expired time.Time) (Certificate, error) {
	c := Certificate{Number: newNumber(), Installation: o.Keys.ID(), Patron: id, Approval: r.Approval, Erased: Erased{Records: map[string]int{}}}
	e, err := o.Directory.Erase(ctx, call, id, c.Number, r.Approval)
	if err != nil {
		return Certificate{}, err
	}
	for range rounds {
		err := o.erase(ctx, call, e, r, expired, &c)
		switch {
		case err == nil && r.DryRun:
			return c, nil
		case err == nil:
			return c, o.sign(ctx, &c)
		case !errors.Is(err, patron.ErrConflict) && !errors.Is(err, crypto.ErrShredded): // the latter: another erasure was faster
			return Certificate{}, err
		}
		if err := e.Reload(ctx); err != nil {
			return Certificate{}, err
		}
	}
	return Certificate{}, e.Failed(ctx, errBusy)
}

func (o *Office) erase(ctx context.Context, call patron.Call, e *patron.Erasure, r Request, expired time.Time, c *Certificate) error {
	if r.DryRun && e.Forgotten {
		c.Before, c.Erased.Key = true, true
		return e.Refuse(ctx, whyDryRun)
	}
	if e.Gone {
		c.Before, c.Erased.Key, c.NumbersUnknown = true, true, true
		f, err := o.clear(ctx, e.References, c.Erased.Records)
		c.Kept = f.kept
		return err
	}
	if e.Forgotten {
		return o.finish(ctx, call, e, c)
	}
	c.Asked = e.Asked
	if !expired.IsZero() && (e.Expires.IsZero() || !e.Expires.Before(expired)) {
		if err := e.Refuse(ctx, whyProlonged); err != nil {
			return err
		}
		return errProlonged
	}
	f, err := o.survey(ctx, e.References)
	if err != nil {
		return e.Failed(ctx, err)
	}
	c.Erased.Mentions, c.Kept = f.mentions, f.kept
	switch {
	case len(f.kept) > 0 && !r.Partial:
		if err := e.Refuse(ctx, whyObligations); err != nil {
			return err
		}
		return &ObligationsError{f.kept}
	case r.DryRun:
		c.Erased.Key = len(f.kept) == 0
		return e.Refuse(ctx, whyDryRun)
	}
	if err := e.Begin(ctx); err != nil {
		return err
	}
	f, err = o.clear(ctx, e.References, c.Erased.Records)
	if err != nil {
		return e.Failed(ctx, err)
	}
	if c.Kept = f.kept; len(c.Kept) == 0 {
		return o.finish(ctx, call, e, c)
	}
	c.KeptSegments = e.Segments()
	if f.held || !r.Partial { // the latter: nothing was owed a moment ago, and nobody has agreed to a part
		c.Erased.Mentions = 0
		return nil
	}
	c.Erased.Segments, c.KeptSegments, err = e.Reduce(ctx)
	return err
}

// finish destroys the key, and then removes the row.
func (o *Office) finish(ctx context.Context, call patron.Call, e *patron.Erasure, c *Certificate) error {
	if err := e.Shred(ctx); err != nil {
		return err
	}
	c.Erased.Key = true
	// Somebody may have lent them something while the key was being destroyed.
	f, err := o.clear(ctx, e.References, c.Erased.Records)
	if err != nil {
		return e.Failed(ctx, err)
	}
	c.Kept = f.kept
	if e.Forgotten { // nobody can read their numbers any more; but as long as the row is there, its tokens tell whose a number was
		if o.Borrowers == nil {
			c.NumbersUnknown = true
		} else {
			again, err := o.recall(ctx)
			if err != nil {
				return e.Failed(ctx, err)
			}
			for kind, n := range again.Records {
				c.Erased.Records[kind] += n
			}
			c.Kept = append(c.Kept, again.Kept...)
		}
	}
	return e.Remove(ctx)
}

// steadily does something with all tokens by which circulation records may name somebody, again if a rotation has made the store's tokens anew meanwhile.
func (o *Office) steadily(ctx context.Context, references []crypto.Secret, do func(persons []circulation.Borrower) error) error {
	s, renewed := o.Circulation.(crypto.TokenStore)
	epoch := func() (uint32, error) {
		if !renewed {
			return 0, nil
		}
		return s.TokenEpoch(ctx)
	}
	for range rounds {
		before, err := epoch()
		if err != nil {
			return err
		}
		persons, err := o.persons(references)
		if err != nil {
			return err
		}
		if err := do(persons); err != nil {
			return err
		}
		if after, err := epoch(); err != nil {
			return err
		} else if before == after && (after == 0 || len(persons) == 0 || has(persons, after)) {
			return nil
		}
	}
	return errBusy
}

// has reports whether there are tokens of an epoch.
func has(persons []circulation.Borrower, epoch uint32) bool {
	for _, p := range persons {
		if of, ok := crypto.TokenEpoch(string(p)); ok && of == epoch {
			return true
		}
	}
	return false
}

// survey looks at what there is, and changes nothing.
func (o *Office) survey(ctx context.Context, references []crypto.Secret) (f found, err error) {
	err = o.steadily(ctx, references, func(persons []circulation.Borrower) error {
		f, err = o.look(ctx, persons, question{at: o.Now()})
		return err
	})
	return f, err
}

// clear unlinks what may go, takes the patron out of other people's records, and returns what is left. Under a legal hold it leaves everything.
func (o *Office) clear(ctx context.Context, references []crypto.Secret, by map[string]int) (f found, err error) {
	err = o.steadily(ctx, references, func(persons []circulation.Borrower) error {
		f, err = o.clearOnce(ctx, persons, time.Time{}, false, by)
		return err
	})
	return f, err
}

// clearOnce is clear for tokens that are known. Of records that began before a time, if it is not zero; a number that is shared with somebody who lives is not taken out of other people's records.
func (o *Office) clearOnce(ctx context.Context, persons []circulation.Borrower, before time.Time, shared bool, by map[string]int) (f found, err error) {
	for range rounds {
		unlinked := 0
		f, err = o.look(ctx, persons, question{at: o.Now(), before: before, shared: shared, unlink: func(kind circulation.Kind, targets []anonymize.Target) error {
			b := anonymize.Batch{Kind: kind, At: o.Now(), Targets: targets, Policy: anonymize.PolicyRef{ID: "erasure"}}
			if o.Policy != nil {
				b.Keep, b.Policy = o.Policy.Keep(kind), o.Policy.Ref()
			}
			conflicts, err := o.Circulation.Unlink(ctx, b)
			if err == nil {
				by[kind.String()] += len(targets) - len(conflicts)
				unlinked += len(targets)
			}
			return err
		}})
		if err != nil || f.held {
			return f, err
		}
		if unlinked > 0 {
			continue // what conflicted, and what came meanwhile
		}
		if f.later > 0 || f.vouched || shared {
			return f, nil // somebody else may have the number, and be in those
		}
		left, err := o.Circulation.Part(ctx, persons)
		if err != nil {
			return f, err
		}
		if left <= len(f.kept) {
			return f, nil
		}
	}
	return f, fmt.Errorf("%w (%d times)", errBusy, rounds)
}
