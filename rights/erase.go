package rights

import (
	"context"
	"errors"
	"fmt"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/patron"
)

// whyObligations is the trail's word for a patron who was not erased because something is owed.
const whyObligations = "obligations"

// rounds bounds how often records that somebody changed in between are looked at again.
const rounds = 20

var errBusy = errors.New("rights: the patron's records are being changed all the time: try again later")

// Erase forgets a patron for good (GDPR article 17): it unlinks the records that name them, takes them out of other people's, destroys their key with a tombstone in the erasure ledger, removes their row, and
// returns a certificate. It needs the right to erase.
//
// What keeps it is what keeps a record in a sweep (open loans, lost items, unpaid fees, active requests, legal holds) and what Config.Retain keeps. Then nothing is done and the error is an
// [*ObligationsError] with the list; with r.Partial what may go goes, and [Office.Purge] does the rest when nothing is owed any more. Nobody may lend to a patron who is being erased: what is lent after all stands in
// Certificate.Kept, without a key.
//
// It can be stopped anywhere and done again. A patron who is forgotten already gets a certificate, too.
//
// Other errors: [patron.ErrDenied], [patron.ErrNotFound], [patron.ErrNotRecorded]; those of the stores and the keyring. With an error the certificate is zero, unless only signing it failed: then it says what was done.
func (o *Office) Erase(ctx context.Context, call patron.Call, id patron.ID, r Request) (Certificate, error) {
	c := Certificate{Number: newNumber(), Installation: o.Keys.ID(), Patron: id, Approval: r.Approval, Erased: Erased{Records: map[string]int{}}}
	e, err := o.Directory.Erase(ctx, call, id, c.Number, r.Approval)
	if err != nil {
		return Certificate{}, err
	}
	c.Asked = e.Asked
	persons, err := o.persons(e.References)
	if err != nil {
		return Certificate{}, e.Failed(ctx, err)
	}
	if err := o.erase(ctx, e, persons, r, &c); err != nil {
		return Certificate{}, err
	}
	return c, o.sign(ctx, &c)
}

func (o *Office) erase(ctx context.Context, e *patron.Erasure, persons []circulation.Borrower, r Request, c *Certificate) error {
	f, err := o.look(ctx, persons, o.Now(), nil)
	if err != nil {
		return e.Failed(ctx, err)
	}
	c.Erased.Mentions = f.mentions
	if len(f.kept) > 0 && !r.Partial && e.Asked.IsZero() && !e.Forgotten {
		if err := e.Refuse(ctx, whyObligations); err != nil {
			return err
		}
		return &ObligationsError{f.kept}
	}
	if !e.Forgotten {
		if err := e.Begin(ctx); err != nil {
			return err
		}
	}
	if c.Kept, err = o.clear(ctx, persons, c.Erased.Records); err != nil {
		return e.Failed(ctx, err)
	}
	if len(c.Kept) > 0 && !e.Forgotten {
		c.Erased.Segments, c.KeptSegments, err = e.Reduce(ctx)
		return err
	}
	if err := e.Destroy(ctx); err != nil {
		return err
	}
	c.Erased.Key = true
	// Somebody may have lent them something while the key was being destroyed.
	c.Kept, err = o.clear(ctx, persons, c.Erased.Records)
	return err
}

// clear unlinks what may go, takes the persons out of other people's records, and returns what is left.
func (o *Office) clear(ctx context.Context, persons []circulation.Borrower, by map[string]int) ([]Kept, error) {
	for range rounds {
		unlinked := 0
		f, err := o.look(ctx, persons, o.Now(), func(kind circulation.Kind, targets []anonymize.Target) error {
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
		})
		if err != nil {
			return nil, err
		}
		if unlinked > 0 {
			continue // what conflicted, and what came meanwhile
		}
		left, err := o.Circulation.Part(ctx, persons)
		if err != nil {
			return nil, err
		}
		records := 0
		for _, k := range f.kept {
			if k.Kind != "" {
				records++
			}
		}
		if left <= records {
			return f.kept, nil
		}
	}
	return nil, fmt.Errorf("%w (%d times)", errBusy, rounds)
}
