package circulation

import "time"

// A Notice is a message to a borrower. Unlinking removes it whole: nothing of a message is anonymous.
type Notice struct {
	ID, Version string

	Borrower  Borrower
	Recipient Borrower // when it went to somebody else: a guardian, a sponsor

	Group      string
	Categories []string
	Library    string
	Type       string // overdue, hold-ready, …

	Created time.Time
	Sent    time.Time
	Outcome NoticeOutcome

	Loan, Request, Fee string // what it is about

	Address, Body, Note string
}

// NoticeOutcome says what became of a notice. The zero value: it waits to be sent.
type NoticeOutcome string

// The outcomes of a notice.
const (
	NoticeWaiting NoticeOutcome = ""
	NoticeSent    NoticeOutcome = "sent"
	NoticeFailed  NoticeOutcome = "failed"
)

// Send notes that the notice went out.
func (n *Notice) Send(at time.Time) error { return n.close(at, NoticeSent, "send") }

// Fail notes that it could not be delivered and will not be tried again.
func (n *Notice) Fail(at time.Time) error { return n.close(at, NoticeFailed, "fail") }

func (n *Notice) close(at time.Time, outcome NoticeOutcome, step string) error {
	if n.Outcome != NoticeWaiting {
		return illegal(KindNotice, n.ID, step, string(n.Outcome))
	}
	n.Sent, n.Outcome = at, outcome
	return nil
}

// Parts implements [Entry].
func (n Notice) Parts() (Parts, error) {
	f := Facts{Kind: KindNotice, ID: n.ID, Version: n.Version, Group: n.Group, Categories: n.Categories,
		Library: n.Library, Type: n.Type, Started: n.Created, Ended: n.Sent, Outcome: string(n.Outcome)}
	if n.Outcome != NoticeWaiting {
		f.Status = Ended
	}
	return parts(f,
		[]Link{{RoleBorrower, n.Borrower}, {RoleRecipient, n.Recipient}},
		[]Text{{TextNote, n.Note}, {TextAddress, n.Address}, {TextBody, n.Body}},
		[]Pointer{{KindLoan, n.Loan}, {KindRequest, n.Request}, {KindFee, n.Fee}})
}
