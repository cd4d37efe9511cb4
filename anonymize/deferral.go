package anonymize

import (
	"context"
	"time"

	"github.com/carrel-project/carrel/circulation"
)

// A Deferrer is a Store that remembers when a kept record is worth reading again, so that a night costs what is due and not
// what is kept. [Sweep.Run] uses it where it is there; a plan of a sweep always reads everything.
//
// A record that was put off is left out of pages until its time has come, or until something changed that a rule may look at:
// the record, a fee of it, its borrower's account, a hold, and, if the policy asks for them, newer loans of the borrower or the item. Such a
// change must wake the record whatever else is going on, or it would be kept for longer than the policy says.
type Deferrer interface {
	// Resume begins a sweep, or a shard of one, under a plan: whatever decisions depend on besides the facts, in one opaque word.
	// What was put off under another plan is to be read again. Needs are those of the policy: without NeedNewerByBorrower
	// and NeedNewerOfItem a newer loan need not wake older ones. It may be called by several at once, and again.
	Resume(ctx context.Context, plan string, needs Needs) error

	// Defer puts records off that were read and kept. One that was changed since it was read, in any of the ways that wake it,
	// is left as it is, and so is one that names nobody any more: neither is an error.
	Defer(ctx context.Context, d Deferral) error

	// Count returns how many records of a kind in a shard name a borrower, put off or not.
	Count(ctx context.Context, kind circulation.Kind, shard Shard) (int, error)
}

// A Deferral is a set of records that need not be read for some time.
type Deferral struct {
	Plan    string
	Kind    circulation.Kind
	Needs   Needs // of the query with which they were read
	Records []Deferred
}

// A Deferred is a record to put off, as it was read.
type Deferred struct {
	ID, Version string
	Until       time.Time // zero: until something changes
}

// edition changes when Decide decides otherwise than before, so that no record sleeps on what an older carrel thought.
const edition = "1"

// plan names what decisions depend on besides the facts.
func (p *Policy) plan() string { return edition + " " + p.Ref().Digest }

// sleeps says until when a kept record need not be read. Not known is when a legal hold of the store's ends, for that is seen only
// by reading; nor is a record put off that has been due before and is not any more.
func sleeps(r *circulation.Record, d Decision, at time.Time) (until time.Time, ok bool) {
	if r.Hold || !d.EligibleAt.IsZero() && !d.EligibleAt.After(at) {
		return time.Time{}, false
	}
	return d.EligibleAt, true
}
