package circulation

import (
	"fmt"
	"time"
)

// A Loan is an item lent. Returned is the zero time while it is out.
type Loan struct {
	ID, Version string

	Borrower Borrower
	Proxy    Borrower // who came to the desk for the borrower
	Sponsor  Borrower // who vouches for the borrower
	Staff    Borrower // staff reference, when it is the borrower's own: self-check, staff serving themselves

	Group      string
	Categories []string
	Library    string
	Location   string
	Type       string
	Item       string

	Loaned   time.Time
	Due      time.Time
	Returned time.Time
	Renewals int

	Lost            bool
	ClaimedReturned bool
	Withdrawn       bool // ended because the item left the collection

	Comment, Note string
}

func (l *Loan) state() string {
	switch {
	case l.Withdrawn:
		return "withdrawn"
	case !l.Returned.IsZero():
		return "returned"
	case l.Lost:
		return "lost"
	case l.ClaimedReturned:
		return "claimed returned"
	}
	return "out"
}

func (l *Loan) out() bool { return l.Returned.IsZero() && !l.Withdrawn }

// Renew moves the due date. A lost or claimed item cannot be renewed.
func (l *Loan) Renew(due time.Time) error {
	if !l.out() || l.Lost || l.ClaimedReturned || !due.After(l.Due) {
		return illegal(KindLoan, l.ID, "renew", l.state())
	}
	l.Due, l.Renewals = due, l.Renewals+1
	return nil
}

// DeclareLost marks a loan that is out as lost.
func (l *Loan) DeclareLost() error {
	if !l.out() || l.Lost {
		return illegal(KindLoan, l.ID, "declare lost", l.state())
	}
	l.Lost = true
	return nil
}

// ClaimReturned notes that the borrower says it was brought back.
func (l *Loan) ClaimReturned() error {
	if !l.out() || l.ClaimedReturned {
		return illegal(KindLoan, l.ID, "claim returned", l.state())
	}
	l.ClaimedReturned = true
	return nil
}

// Return checks the item in. It clears both marks: the item is there. It needs a time, because a loan
// without one is out: it would look returned to the caller and stay protected for ever.
func (l *Loan) Return(at time.Time) error {
	if !l.out() {
		return illegal(KindLoan, l.ID, "return", l.state())
	}
	if at.IsZero() {
		return fmt.Errorf("%w: cannot return loan %s without a time", ErrTransition, l.ID)
	}
	l.Returned, l.Lost, l.ClaimedReturned = at, false, false
	return nil
}

// Withdraw ends the loan of an item that is given up for good, and clears both marks.
func (l *Loan) Withdraw(at time.Time) error {
	if !l.out() {
		return illegal(KindLoan, l.ID, "withdraw", l.state())
	}
	l.Returned, l.Withdrawn, l.Lost, l.ClaimedReturned = at, true, false, false
	return nil
}

// Reopen undoes a check-in or withdrawal made by mistake.
func (l *Loan) Reopen() error {
	if l.out() {
		return illegal(KindLoan, l.ID, "reopen", l.state())
	}
	l.Returned, l.Withdrawn = time.Time{}, false
	return nil
}

// Parts implements [Entry].
func (l Loan) Parts() (Parts, error) {
	f := Facts{Kind: KindLoan, ID: l.ID, Version: l.Version, Group: l.Group, Categories: l.Categories,
		Library: l.Library, Location: l.Location, Type: l.Type, Item: l.Item,
		Started: l.Loaned, Due: l.Due, Ended: l.Returned, Renewals: l.Renewals,
		Lost: l.Lost, ClaimedReturned: l.ClaimedReturned}
	switch {
	case l.Withdrawn:
		f.Status, f.Outcome = Ended, "withdrawn"
	case !l.out():
		f.Status, f.Outcome = Ended, "returned"
	}
	return parts(f,
		[]Link{{RoleBorrower, l.Borrower}, {RoleProxy, l.Proxy}, {RoleSponsor, l.Sponsor}, {RoleStaff, l.Staff}},
		[]Text{{TextComment, l.Comment}, {TextNote, l.Note}}, nil)
}
