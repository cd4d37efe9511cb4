package anonymize

import (
	"context"
	"time"

	"github.com/carrel-project/carrel/circulation"
)

// A Store holds circulation records in whatever tables the library system already has. Its methods
// are safe for concurrent use and honor ctx. store/storetest proves an implementation.
type Store interface {
	// Linked returns at most q.Limit records of q.Kind in q.Shard that still name a borrower, in any
	// fixed order of the store's choosing, after q.Cursor. It leaves none out: a record that was there
	// before the first page and still names a borrower is on exactly one page, however many records
	// were unlinked in between. Fewer records than q.Limit do not mean the end; an empty Page.Cursor
	// does. Linked holds nothing open when it returns. Of a kind that the store does not hold there is an empty page.
	//
	// A record's Version is whatever lets Unlink see that the record, or a fee of it, was changed after it was read:
	// a counter, a time of change, the number of the store's last change. Unlinking one record must not make the
	// version of another out of date.
	Linked(ctx context.Context, q Query) (Page, error)

	// Unlink strips every target of b whose version is unchanged and that no exception protects at the
	// moment of writing, together with b.Receipt, in one transaction: all of it or nothing. To strip is
	// to remove everything circulation.Fields calls identifying, every pointer between the record and
	// another one in both directions, and what b.Keep says; a notice is removed whole. A loan that still
	// names its borrower keeps summaries without ids of the fees it is parted from; an unlinked one keeps none.
	// A store that is fed from exports also remembers which notices it removed, by ID alone, or a late export
	// would bring them back.
	//
	// It returns the IDs of the targets that it did not strip: changed since they were read, protected
	// now, or no longer naming anybody. None of these is an error, and a record named twice counts once. Unlink changes the version, so that a
	// stale write cannot bring the borrower back.
	//
	// Protected are records that are unfinished, marked lost or claimed returned, have a fee that is open
	// or in process, or whose borrower is under a legal hold at b.At.
	Unlink(ctx context.Context, b Batch) (conflicts []string, err error)
}

// A Finisher is a Store with work to do when a sweep has come to its end: forgetting borrowers whom no
// record names any more, clearing what the database keeps of deleted rows. [Sweep.Run] calls Finish
// once, after the last page; it must be safe to repeat.
type Finisher interface {
	Finish(ctx context.Context) error
}

// A Query asks for one page of records.
type Query struct {
	Kind   circulation.Kind
	Cursor string // opaque; empty for the first page
	Limit  int    // at least 1
	Shard  Shard
	At     time.Time // the time of the decision: which legal holds on borrowers are in force
	Needs  Needs     // what the policy looks at; a store may always fill in more

	// Plan, if it is not empty, leaves out what was put off under it until after At: see [Deferrer]. Only a Deferrer is asked for it.
	// The pages may then be in another order, and a record that is changed meanwhile may be left to the next sweep.
	Plan string

	// Reuse is memory that the store may put the page's records into: the caller is done with what is there. Nil: none.
	Reuse []circulation.Record
}

// A Page is what a Query brought.
type Page struct {
	// Records name a borrower: their Borrower is not empty, but may be any stand-in, for nobody looks inside.
	// Always filled in are Kind, ID, Version, Borrower, Ended, Status, Lost, ClaimedReturned, Fees and Hold,
	// the rest when Query.Needs says so.
	Records []circulation.Record
	Cursor  string // where the next page begins; empty: there is none
}

// Needs says which facts a policy looks at, so that a store need not fetch the others.
type Needs uint16

// The facts, each named after its field in [circulation.Record].
const (
	NeedGroup Needs = 1 << iota
	NeedGroupNow
	NeedLibrary
	NeedLocation
	NeedType
	NeedItem
	NeedExpires
	NeedWish // Wish and WishSince
	NeedNewerByBorrower
	NeedNewerOfItem

	NeedEverything Needs = 1<<iota - 1
)

// A Shard is one of several disjoint parts of a store, so that several workers can share a sweep.
// The zero Shard is everything. Which record is in which part is the store's choice, as long as
// it is the same on every call and every record is in exactly one.
type Shard struct {
	Index int // 0 ≤ Index < Of
	Of    int // 0 or 1: not divided
}

// A Batch is a set of records that a policy says must be unlinked.
type Batch struct {
	Kind    circulation.Kind
	At      time.Time // the time of the decision
	Targets []Target
	Keep    *Keep // what stays on the records; nil: all that does not identify
	Policy  PolicyRef
	Shard   Shard
}

// A Target is a record to unlink, as it was read.
type Target struct {
	ID, Version string
	Rule        string // the rule that decided
}

// A PolicyRef says under which policy something was done.
type PolicyRef struct {
	ID       string `json:"id"`
	Revision int    `json:"revision"`
	Digest   string `json:"digest"` // sha256: and the hex hash of the policy file
}

// A Receipt is the lasting record of what one batch did. It names no record and no person.
type Receipt struct {
	Policy    PolicyRef      `json:"policy"`
	Kind      string         `json:"kind"`
	At        time.Time      `json:"at"`
	Shard     string         `json:"shard,omitempty"` // "1/4", counted from 0
	Unlinked  int            `json:"unlinked"`        // records changed
	ByRule    map[string]int `json:"by_rule"`
	Conflicts int            `json:"conflicts"`
}

// Receipt returns the receipt to store with the batch, given the targets that were not stripped.
func (b Batch) Receipt(conflicts []string) Receipt {
	r := Receipt{Policy: b.Policy, Kind: b.Kind.String(), At: b.At.UTC(), Shard: b.Shard.String(),
		Unlinked: len(b.Targets) - len(conflicts), ByRule: map[string]int{}, Conflicts: len(conflicts)}
	left := make(map[string]bool, len(conflicts))
	for _, id := range conflicts {
		left[id] = true
	}
	for _, t := range b.Targets {
		if !left[t.ID] {
			r.ByRule[t.Rule]++
		}
	}
	return r
}
