package rights

import (
	"context"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// A Circulation holds circulation records in whatever tables the library system already has, and can say which of them name somebody. Its methods are safe for concurrent use and
// honor ctx. store/storetest proves an implementation.
type Circulation interface {
	anonymize.Store

	// Named returns at most q.Limit records that name any of q.Persons, in whatever role, in a fixed order of the store's choosing, after q.Cursor. A record that is there during all calls of
	// such a series is left out by none. Fewer records than q.Limit do not mean the end; an empty Page.Cursor does. Nothing is held open when it returns.
	//
	// Of a record whose borrower they are, everything is filled in that [anonymize.Store.Linked] fills in with anonymize.NeedEverything, and the version is one that
	// Unlink takes; of another, the version is empty.
	Named(ctx context.Context, q Query) (Page, error)

	// Part takes persons out of all records that name them beside the borrower (as proxy, sponsor, staff or recipient), and forgets the list of patrons that they were put on, in one
	// transaction. Those whom no record names any more, and who are under no legal hold, it forgets entirely. It returns how many records still name any of them as their
	// borrower. Doing it twice is not an error; somebody the store has never heard of is none.
	Part(ctx context.Context, persons []circulation.Borrower) (left int, err error)
}

// A Query asks for one page of records that name somebody.
type Query struct {
	Persons []circulation.Borrower // the references that one person has: few
	Cursor  string                 // opaque; empty for the first page
	Limit   int                    // at least 1
}

// A Page is what a Query brought.
type Page struct {
	Records []Named
	Cursor  string // where the next page begins; empty: there is none
	Hold    bool   // any of the persons is under a legal hold now, whether or not a record names them
}

// A Named is a record that names the person who was asked for.
type Named struct {
	circulation.Record // as rules see it. Hold: a legal hold on its borrower that is in force now

	Roles []circulation.Role // in which it names them, ascending
	Facts circulation.Facts  // all that is anonymous; its Version is empty

	// What was written about the borrower, and what the record points at. Only of a record whose borrower they are.
	Texts  []circulation.Text
	Points []circulation.Pointer
}

// own reports whether the record is the person's, and not only one that mentions them.
func (n *Named) own() bool { return len(n.Roles) > 0 && n.Roles[0] == circulation.RoleBorrower }
