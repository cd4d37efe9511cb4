package rights

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// A Kept is something that may not be erased yet, and why.
type Kept struct {
	Kind    string    `json:"kind,omitempty"` // of the record; empty: the patron themself is under a legal hold
	ID      string    `json:"id,omitempty"`
	Reasons []string  `json:"reasons"`        // as a sweep says them
	Rule    string    `json:"rule,omitempty"` // of Config.Retain, that keeps it
	Why     string    `json:"why,omitempty"`  // what that says of the rule
	Until   time.Time `json:"until,omitzero"` // when it may go; zero: that depends on what is not known yet
}

// An ObligationsError says why a patron was not erased. It names no person and no item.
type ObligationsError struct{ Kept []Kept }

func (e *ObligationsError) Error() string {
	of := map[string]int{}
	for _, k := range e.Kept {
		what := k.Kind
		if what == "" {
			what = "patron"
		}
		of[what+": "+strings.Join(k.Reasons, ", ")]++
	}
	var list []string
	for _, what := range slices.Sorted(maps.Keys(of)) {
		list = append(list, fmt.Sprintf("%d %s", of[what], what))
	}
	return "rights: not erased, for something is still owed or has to be kept (" + strings.Join(list, "; ") + ")"
}

// judge says what keeps a record, if anything does.
func (o *Office) judge(n *Named, at time.Time) (k Kept, keeps bool) {
	k = Kept{Kind: n.Kind.String(), ID: n.ID}
	d := o.strict.Decide(&n.Record, at)
	reasons := d.Reasons.Exceptions()
	k.Until = d.EligibleAt
	if o.Policy != nil {
		if more := o.Policy.Decide(&n.Record, at).Reasons.Exceptions(); more&^reasons != 0 {
			reasons, k.Until = reasons|more, time.Time{}
		}
	}
	if o.Retain != nil && o.Retain.Covers(n.Kind) {
		if d := o.Retain.Decide(&n.Record, at); !d.Unlink {
			k.Rule, k.Why = d.Rule, o.Retain.Why(n.Kind, d.Rule)
			if reasons == 0 {
				k.Until = d.EligibleAt
			} else if k.Until.Before(d.EligibleAt) && !k.Until.IsZero() {
				k.Until = d.EligibleAt
			}
			reasons |= d.Reasons
		}
	}
	k.Reasons = reasons.Names()
	return k, reasons != 0
}

// owed says whether money is owed on a record.
func (o *Office) owed(n *Named, at time.Time) anonymize.Reasons {
	return o.strict.Decide(&n.Record, at).Reasons & (anonymize.OpenFee | anonymize.FeeInProcess)
}

// found is what records there are that name somebody.
type found struct {
	kept     []Kept
	held     bool // they are under a legal hold: then nothing of theirs goes, under whatever token
	mentions int  // records of others
	vouched  bool // they vouch for what somebody else still owes, and stay in it
	later    int  // records that began after the time asked about, and are not theirs
}

// A question is what is asked of records that name somebody.
type question struct {
	at     time.Time
	before time.Time                                        // only records that began earlier are theirs; zero: all are
	shared bool                                             // somebody else has the number now: what does not say when it began may be theirs
	unlink func(circulation.Kind, []anonymize.Target) error // of what may go, kind by kind, page by page; nil: nothing
}

// look goes through all records that name somebody.
func (o *Office) look(ctx context.Context, persons []circulation.Borrower, ask question) (f found, err error) {
	const limit = 1000
	for q := (Query{Persons: persons, Limit: limit}); ; {
		page, err := o.Circulation.Named(ctx, q)
		if err != nil {
			return f, err
		}
		if page.Hold && !f.held {
			f.held = true
			f.kept = append(f.kept, Kept{Reasons: anonymize.LegalHold.Names()})
		}
		free := map[circulation.Kind][]anonymize.Target{}
		for i := range page.Records {
			n := &page.Records[i]
			n.Hold = n.Hold || f.held && n.own()
			switch {
			case ask.shared && n.Started.IsZero() && n.own():
				f.later++
				f.kept = append(f.kept, Kept{Kind: n.Kind.String(), ID: n.ID, Reasons: []string{noStart}})
			case !ask.before.IsZero() && !n.Started.IsZero() && !n.Started.Before(ask.before):
				f.later++
			case !n.own() && n.vouches() && o.owed(n, ask.at) != 0:
				f.vouched = true
				f.kept = append(f.kept, Kept{Kind: n.Kind.String(), ID: n.ID, Reasons: o.owed(n, ask.at).Names()})
			case !n.own():
				f.mentions++
			default:
				if k, keeps := o.judge(n, ask.at); keeps {
					f.kept = append(f.kept, k)
				} else {
					free[n.Kind] = append(free[n.Kind], anonymize.Target{ID: n.ID, Version: n.Version, Rule: "erasure"})
				}
			}
		}
		if ask.unlink != nil {
			for _, kind := range slices.Sorted(maps.Keys(free)) {
				if err := ask.unlink(kind, free[kind]); err != nil {
					return f, err
				}
			}
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return f, nil
		}
	}
}

// noStart is why a record stays linked to somebody who is forgotten: it does not say when it began, and the number may have been given to somebody else.
const noStart = "no-start-date"
