// Package circulation holds what happens at a library's desk: loans, requests, resource sharing,
// fees and notices, their life cycles, and [Record], the flat view of them that retention rules see.
//
// It never knows a patron. A record points at a person by an opaque [Borrower] and by nothing else,
// and every field that could identify somebody is declared as such in [Fields], as data, so that
// stores and tests can go through all of them. [Entry.Parts] takes a record apart along that line:
// what happened, whom it names, what was written about them, and what it points at.
//
// The types are plain values without locks; share them between goroutines only when nobody writes.
package circulation

import (
	"errors"
	"fmt"
	"time"
)

// ErrTransition is returned by life-cycle methods when the step does not follow from the present
// state: a loan returned twice, a fee paid that was waived. The value is unchanged.
var ErrTransition = errors.New("circulation: illegal transition")

func illegal(k Kind, id, step, state string) error {
	return fmt.Errorf("%w: cannot %s %s %s, which is %s", ErrTransition, step, k, id, state)
}

// An Entry is something a store can keep: [Loan], [Request], [Sharing], [Fee] or [Notice].
type Entry interface {
	// Parts takes the entry apart. The error says what makes the entry unfit to be stored.
	Parts() (Parts, error)
}

// Parts is an entry with what identifies apart from what happened. A store keeps the four in
// different places, so that unlinking is deleting from three of them and leaves the first alone.
type Parts struct {
	Facts  Facts     // what happened; anonymous from birth
	Links  []Link    // the persons it names; never an empty one
	Texts  []Text    // what was written about or to them; never an empty one
	Points []Pointer // other records it points at
}

// Facts is the anonymous part of an entry, common to all kinds. What a kind lacks is zero.
type Facts struct {
	Kind    Kind
	ID      string
	Version string // for optimistic concurrency: empty = do not compare

	Group      string
	Categories []string
	Library    string
	Location   string
	Type       string
	Item       string

	Started time.Time
	Due     time.Time // loans
	Ended   time.Time
	Status  Status

	Lost            bool
	ClaimedReturned bool
	Renewals        int

	FeeStatus FeeStatus // fees
	Method    string    // fees: payment method
	Amount    Amount    // fees
	Outcome   string    // how it ended: returned, filled, cancelled, waived, sent, …
}

// Amount is money in hundredths of the currency's unit: 1250 is 12.50.
type Amount int64

// A Link names a person in a role.
type Link struct {
	Role   Role
	Person Borrower
}

// Role says what a person has to do with a record. The zero value is no role.
type Role uint8

// The roles. Their numbers are part of the stored formats and never change.
const (
	RoleBorrower  Role = 1 + iota // whose record it is
	RoleProxy                     // who acted for the borrower
	RoleSponsor                   // who vouches or pays
	RoleStaff                     // staff who is the borrower: at self-check, or serving themself
	RoleRecipient                 // to whom it is delivered
)

var roleNames = [...]string{"", "borrower", "proxy", "sponsor", "staff", "recipient"}

// String returns the role's word.
func (r Role) String() string { return word(roleNames[:], int(r)) }

// A Text is free text that may identify somebody.
type Text struct {
	Field TextField
	Value string
}

// TextField names a field of free text. The zero value is none.
type TextField uint8

// The text fields. Their numbers are part of the stored formats and never change.
const (
	TextComment TextField = 1 + iota // by the borrower
	TextNote                         // by staff
	TextAddress                      // delivery or notification address, phone number
	TextBody                         // the message itself
)

var textNames = [...]string{"", "comment", "note", "address", "body"}

// String returns the field's word.
func (f TextField) String() string { return word(textNames[:], int(f)) }

func word(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return "unknown"
}

// A Pointer names another record.
type Pointer struct {
	Kind Kind
	ID   string
}

// An Account is what rules may know of a borrower beyond their records. It is no patron record: it
// has no name, and a store forgets it when the last record stops naming the borrower, unless it was
// put there by a list of patrons.
type Account struct {
	Borrower  Borrower
	Group     string    // the group today
	Expires   time.Time // zero: never, or not known
	Wish      Wish
	WishSince time.Time // zero: always
}

// A Hold is a legal hold on a borrower: nothing of theirs is unlinked while it lasts.
type Hold struct {
	Borrower Borrower
	Ref      string    // the case, never a name
	Until    time.Time // the first instant at which it no longer holds; zero: until released
}

// parts gathers what all kinds have in common and checks it.
func parts(f Facts, links []Link, texts []Text, points []Pointer) (Parts, error) {
	p := Parts{Facts: f}
	if f.ID == "" {
		return p, fmt.Errorf("circulation: a %s needs an ID", f.Kind)
	}
	for _, l := range links {
		if l.Person != "" {
			p.Links = append(p.Links, l)
		}
	}
	if len(p.Links) > 0 && p.Links[0].Role != RoleBorrower {
		return p, fmt.Errorf("circulation: a %s names a %s but no borrower", f.Kind, p.Links[0].Role)
	}
	for _, t := range texts {
		if t.Value != "" {
			p.Texts = append(p.Texts, t)
		}
	}
	for _, pt := range points {
		if pt.ID != "" {
			p.Points = append(p.Points, pt)
		}
	}
	return p, nil
}
