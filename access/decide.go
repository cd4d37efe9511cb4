package access

import "context"

// A Request says who wants to see or do something, and what for. [Matrix] looks at Role and Purpose
// only; Actor and Subject are there for deciders that want them, and for grants. They are references,
// compared byte for byte: the caller hands over the one canonical form of each.
type Request struct {
	Actor   string // the person or program that asks
	Role    string // what the actor is to the library, as the access file calls it
	Purpose string // what it is for, as the access file calls it
	Subject string // the patron it is about; empty when it is about none in particular
}

// A Decision is the answer to a [Request]. The zero Decision allows nothing.
type Decision struct {
	Levels     Levels // how much of each segment is shown
	Acts       Acts   // what may be done besides
	BreakGlass Set    // what [NewGrant] may open for one patron
}

// MayChange reports whether a segment may be changed: [Change] is allowed and the segment is shown in
// full, since who cannot see a value would overwrite it unseen. So a purpose under which a patron
// may change an address, but sees no blocks, does not lift a block. What a grant opens is to be looked
// at, not changed, and does not count.
func (d Decision) MayChange(s Segment) bool { return d.Acts.Has(Change) && d.Levels.Of(s) == Full }

// A Decider decides what a request may see and do. Implementations must be safe for concurrent use, must
// answer the zero Decision when in doubt, and a caller that gets an error must allow nothing.
// An error names no person.
type Decider interface {
	Decide(ctx context.Context, r Request) (Decision, error)
}

var _ Decider = (*Matrix)(nil)

// Decide returns what the matrix allows to the request's role for its purpose. A role or purpose that is
// unknown, empty, or not written together in the file gets the zero Decision. The error is always nil
// and the context is not looked at: nothing here can fail or wait.
func (m *Matrix) Decide(_ context.Context, r Request) (Decision, error) {
	return m.decisions[place{r.Role, r.Purpose}], nil
}
