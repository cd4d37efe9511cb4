package circulation

import "time"

// A Request is a hold or request for an item or title. Closed is the zero time while it waits.
type Request struct {
	ID, Version string

	Borrower  Borrower
	Proxy     Borrower // who placed it for the borrower
	Recipient Borrower // to whom it is delivered

	Group      string
	Categories []string
	Library    string // where it is picked up
	Location   string
	Type       string
	Item       string

	Requested time.Time
	Closed    time.Time
	Outcome   RequestOutcome
	Loan      string // the loan that filled it

	Address, Comment, Note string // Address: delivery address or number to notify
}

// RequestOutcome says how a request ended. The zero value: it has not.
type RequestOutcome string

// The outcomes of a request.
const (
	RequestOpen      RequestOutcome = ""
	RequestFilled    RequestOutcome = "filled"
	RequestCancelled RequestOutcome = "cancelled"
	RequestExpired   RequestOutcome = "expired"
)

// Fill ends the request with the loan that filled it, which may be empty when the loan is kept elsewhere.
func (r *Request) Fill(at time.Time, loan string) error {
	if err := r.close(at, RequestFilled, "fill"); err != nil {
		return err
	}
	r.Loan = loan
	return nil
}

// Cancel ends the request unfilled.
func (r *Request) Cancel(at time.Time) error { return r.close(at, RequestCancelled, "cancel") }

// Expire ends a request that nobody filled or picked up in time.
func (r *Request) Expire(at time.Time) error { return r.close(at, RequestExpired, "expire") }

func (r *Request) close(at time.Time, outcome RequestOutcome, step string) error {
	if r.Outcome != RequestOpen {
		return illegal(KindRequest, r.ID, step, string(r.Outcome))
	}
	r.Closed, r.Outcome = at, outcome
	return nil
}

// Parts implements [Entry].
func (r Request) Parts() (Parts, error) {
	f := Facts{Kind: KindRequest, ID: r.ID, Version: r.Version, Group: r.Group, Categories: r.Categories,
		Library: r.Library, Location: r.Location, Type: r.Type, Item: r.Item,
		Started: r.Requested, Ended: r.Closed, Outcome: string(r.Outcome)}
	if r.Outcome != RequestOpen {
		f.Status = Ended
	}
	return parts(f,
		[]Link{{RoleBorrower, r.Borrower}, {RoleProxy, r.Proxy}, {RoleRecipient, r.Recipient}},
		[]Text{{TextComment, r.Comment}, {TextNote, r.Note}, {TextAddress, r.Address}},
		[]Pointer{{KindLoan, r.Loan}})
}
