package rights

import (
	"context"
	"errors"
	"time"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// A Purge says whom to erase. It always does first what waits: patrons whose erasure was asked for and who still owed something then.
type Purge struct {
	Request

	ExpiredBefore time.Time   // also those whose account expired before then; zero: nobody for that
	Patrons       []patron.ID // and these

	// Done, which may be nil, is called for everybody who was looked at: with a certificate, or with an error that is an [*ObligationsError] for those who were refused.
	Done func(patron.ID, Certificate, error)
}

// Purged counts what a purge did.
type Purged struct {
	Looked  int            `json:"looked"`            // patrons
	Erased  int            `json:"erased"`            // entirely
	Partly  int            `json:"partly"`            // what may go went; a later purge does the rest
	Refused int            `json:"refused"`           // nothing was done, for something is owed
	Reasons map[string]int `json:"reasons,omitempty"` // what keeps things, of those partly erased or refused
	Missing int            `json:"missing,omitempty"` // of Purge.Patrons: not there, or erased before
	Failed  int            `json:"failed,omitempty"`  // damaged rows, and what is changed all the time
}

// Purge erases many patrons, one after the other. It can be stopped anywhere and called again: those who are gone are gone, and the rest is looked at. The counts are of what was done, also with an error. One
// whose record cannot be opened, or is changed all the time, is counted and does not stop it.
//
// Errors: [patron.ErrDenied], [patron.ErrNotRecorded], those of the stores and of ctx.
func (o *Office) Purge(ctx context.Context, call patron.Call, p Purge) (Purged, error) {
	r := Purged{Reasons: map[string]int{}}
	seen := map[patron.ID]bool{}
	one := func(id patron.ID) error {
		if seen[id] {
			return nil
		}
		seen[id] = true
		c, err := o.Erase(ctx, call, id, p.Request)
		return r.count(p.Done, id, c, err)
	}
	some := func(l patron.Leaving) error {
		for id, err := range o.Directory.Leaving(ctx, call, l) {
			if err == nil {
				err = one(id)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := some(patron.Leaving{Erasing: true}); err != nil {
		return r, err
	}
	if !p.ExpiredBefore.IsZero() {
		if err := some(patron.Leaving{ExpiredBefore: p.ExpiredBefore}); err != nil {
			return r, err
		}
	}
	for _, id := range p.Patrons {
		if err := one(id); err != nil {
			return r, err
		}
	}
	return r, nil
}

// count counts one, and returns what ends the purge.
func (r *Purged) count(done func(patron.ID, Certificate, error), id patron.ID, c Certificate, err error) error {
	var owed *ObligationsError
	kept := c.Kept
	switch {
	case errors.As(err, &owed):
		r.Refused++
		kept = owed.Kept
	case errors.Is(err, patron.ErrNotFound):
		r.Missing++
	case errors.Is(err, errBusy), errors.Is(err, crypto.ErrNotAuthentic), errors.Is(err, crypto.ErrNoKey):
		r.Failed++
	case err != nil:
		return err
	case c.Erased.Key:
		r.Erased++
	default:
		r.Partly++
	}
	r.Looked++
	for _, k := range kept {
		for _, why := range k.Reasons {
			r.Reasons[why]++
		}
	}
	if done != nil {
		done(id, c, err)
	}
	return nil
}
