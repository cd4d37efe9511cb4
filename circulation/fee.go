package circulation

import "time"

// A Fee is money owed. It names no item: that is the loan's, and goes with the loan's link.
type Fee struct {
	ID, Version string

	Borrower Borrower
	Sponsor  Borrower // who pays for the borrower
	Staff    Borrower // staff reference, when it is the borrower's own

	Group      string
	Categories []string
	Library    string
	Type       string // overdue, lost, …

	Amount  Amount
	Charged time.Time
	Closed  time.Time
	Status  FeeStatus
	Outcome FeeOutcome
	Method  string // how it was paid
	Loan    string // the loan it was charged for

	Comment, Note string
}

// FeeOutcome says how a closed fee was closed. The zero value: it has not been.
type FeeOutcome string

// The outcomes of a fee.
const (
	FeePaid     FeeOutcome = "paid"
	FeeWaived   FeeOutcome = "waived"
	FeeExported FeeOutcome = "exported" // handed to another system for good
)

// Process notes that somebody is settling the fee: a dispute, a bursar.
func (f *Fee) Process() error {
	if f.Status != FeeOpen {
		return illegal(KindFee, f.ID, "process", f.Status.String())
	}
	f.Status = FeeInProcess
	return nil
}

// Return gives a fee in process back to the borrower: it is owed again.
func (f *Fee) Return() error {
	if f.Status != FeeInProcess {
		return illegal(KindFee, f.ID, "return", f.Status.String())
	}
	f.Status = FeeOpen
	return nil
}

// Pay closes the fee.
func (f *Fee) Pay(at time.Time, method string) error {
	if err := f.close(at, FeePaid, "pay"); err != nil {
		return err
	}
	f.Method = method
	return nil
}

// Waive closes the fee unpaid.
func (f *Fee) Waive(at time.Time) error { return f.close(at, FeeWaived, "waive") }

// Export closes the fee here because another system collects it.
func (f *Fee) Export(at time.Time) error { return f.close(at, FeeExported, "export") }

func (f *Fee) close(at time.Time, outcome FeeOutcome, step string) error {
	if f.Status == FeeClosed {
		return illegal(KindFee, f.ID, step, "closed")
	}
	f.Status, f.Outcome, f.Closed = FeeClosed, outcome, at
	return nil
}

// Parts implements [Entry].
func (f Fee) Parts() (Parts, error) {
	facts := Facts{Kind: KindFee, ID: f.ID, Version: f.Version, Group: f.Group, Categories: f.Categories,
		Library: f.Library, Type: f.Type, Started: f.Charged, Ended: f.Closed,
		FeeStatus: f.Status, Method: f.Method, Amount: f.Amount, Outcome: string(f.Outcome)}
	if f.Status == FeeClosed {
		facts.Status = Ended
	}
	return parts(facts,
		[]Link{{RoleBorrower, f.Borrower}, {RoleSponsor, f.Sponsor}, {RoleStaff, f.Staff}},
		[]Text{{TextComment, f.Comment}, {TextNote, f.Note}},
		[]Pointer{{KindLoan, f.Loan}})
}
