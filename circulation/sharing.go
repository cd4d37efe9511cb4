package circulation

import "time"

// A Sharing is an item borrowed from another library for a patron, or lent to one.
type Sharing struct {
	ID, Version string

	Borrower  Borrower // empty when lending to a library
	Proxy     Borrower
	Sponsor   Borrower
	Recipient Borrower

	Group      string
	Categories []string
	Library    string
	Location   string // the partner library
	Type       string // borrowing or lending
	Item       string

	Requested time.Time
	Closed    time.Time
	State     SharingState
	Loan      string // the loan to the patron, when there is one
	Request   string // the request it came from

	Address, Comment, Note string
}

// SharingState says how far a sharing has come. The zero value: requested.
type SharingState string

// The states of a sharing.
const (
	SharingRequested SharingState = ""
	SharingShipped   SharingState = "shipped"
	SharingReceived  SharingState = "received"
	SharingCompleted SharingState = "completed" // the item is back at its library
	SharingCancelled SharingState = "cancelled" // by the library that asked
	SharingRejected  SharingState = "rejected"  // by the library that was asked
)

func (s *Sharing) state() string {
	if s.State == SharingRequested {
		return "requested"
	}
	return string(s.State)
}

// Ship notes that the item is under way to the library that asked.
func (s *Sharing) Ship() error { return s.step("ship", SharingShipped, SharingRequested) }

// Receive notes that it arrived.
func (s *Sharing) Receive() error { return s.step("receive", SharingReceived, SharingShipped) }

// Complete ends the sharing: the item is back.
func (s *Sharing) Complete(at time.Time) error {
	return s.end(at, s.step("complete", SharingCompleted, SharingShipped, SharingReceived))
}

// Cancel ends a sharing before anything was shipped.
func (s *Sharing) Cancel(at time.Time) error {
	return s.end(at, s.step("cancel", SharingCancelled, SharingRequested))
}

// Reject ends a sharing that the other library will not fill.
func (s *Sharing) Reject(at time.Time) error {
	return s.end(at, s.step("reject", SharingRejected, SharingRequested))
}

func (s *Sharing) step(name string, to SharingState, from ...SharingState) error {
	for _, f := range from {
		if s.State == f {
			s.State = to
			return nil
		}
	}
	return illegal(KindSharing, s.ID, name, s.state())
}

func (s *Sharing) end(at time.Time, err error) error {
	if err == nil {
		s.Closed = at
	}
	return err
}

// Parts implements [Entry].
func (s Sharing) Parts() (Parts, error) {
	f := Facts{Kind: KindSharing, ID: s.ID, Version: s.Version, Group: s.Group, Categories: s.Categories,
		Library: s.Library, Location: s.Location, Type: s.Type, Item: s.Item,
		Started: s.Requested, Ended: s.Closed, Outcome: string(s.State)}
	switch s.State {
	case SharingCompleted, SharingCancelled, SharingRejected:
		f.Status = Ended
	}
	return parts(f,
		[]Link{{RoleBorrower, s.Borrower}, {RoleProxy, s.Proxy}, {RoleSponsor, s.Sponsor}, {RoleRecipient, s.Recipient}},
		[]Text{{TextComment, s.Comment}, {TextNote, s.Note}, {TextAddress, s.Address}},
		[]Pointer{{KindLoan, s.Loan}, {KindRequest, s.Request}})
}
