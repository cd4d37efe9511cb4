package circulation

// A Class says how much a field gives away about a person. The zero value is Plain.
type Class uint8

// The classes.
const (
	Plain       Class = iota // says nothing about who
	Quasi                    // together with others it may single somebody out: dates, item, place, group
	Identifying              // names a person, may name one, or leads to a record that does
)

// A Field is one field of a kind, named as in its Go type.
type Field struct {
	Name  string
	Class Class
	Keep  string // its word in a policy's keep-fields; empty: always kept (plain) or never (identifying)
}

// Fields returns every field of a kind, in the order of its Go type. Identifying fields always go when
// a record is unlinked; a policy's keep-fields says which of the quasi-identifying ones stay.
func Fields(k Kind) []Field {
	switch k {
	case KindLoan:
		return []Field{
			{"ID", Plain, ""}, {"Version", Plain, ""},
			{"Borrower", Identifying, ""}, {"Proxy", Identifying, ""}, {"Sponsor", Identifying, ""}, {"Staff", Identifying, ""},
			{"Group", Quasi, "group"}, {"Categories", Quasi, "statistics"}, {"Library", Quasi, "library"},
			{"Location", Quasi, "location"}, {"Type", Quasi, "type"}, {"Item", Quasi, "item"},
			{"Loaned", Quasi, "loaned"}, {"Due", Quasi, "due"}, {"Returned", Quasi, "returned"}, {"Renewals", Plain, ""},
			{"Lost", Plain, ""}, {"ClaimedReturned", Plain, ""}, {"Withdrawn", Plain, ""},
			{"Comment", Identifying, ""}, {"Note", Identifying, ""},
		}
	case KindRequest:
		return []Field{
			{"ID", Plain, ""}, {"Version", Plain, ""},
			{"Borrower", Identifying, ""}, {"Proxy", Identifying, ""}, {"Recipient", Identifying, ""},
			{"Group", Quasi, "group"}, {"Categories", Quasi, "statistics"}, {"Library", Quasi, "library"},
			{"Location", Quasi, "location"}, {"Type", Quasi, "type"}, {"Item", Quasi, "item"},
			{"Requested", Quasi, "requested"}, {"Closed", Quasi, "closed"}, {"Outcome", Plain, ""},
			{"Loan", Identifying, ""},
			{"Address", Identifying, ""}, {"Comment", Identifying, ""}, {"Note", Identifying, ""},
		}
	case KindSharing:
		return []Field{
			{"ID", Plain, ""}, {"Version", Plain, ""},
			{"Borrower", Identifying, ""}, {"Proxy", Identifying, ""}, {"Sponsor", Identifying, ""}, {"Recipient", Identifying, ""},
			{"Group", Quasi, "group"}, {"Categories", Quasi, "statistics"}, {"Library", Quasi, "library"},
			{"Location", Quasi, "location"}, {"Type", Quasi, "type"}, {"Item", Quasi, "item"},
			{"Requested", Quasi, "requested"}, {"Closed", Quasi, "closed"}, {"State", Plain, ""},
			{"Loan", Identifying, ""}, {"Request", Identifying, ""},
			{"Address", Identifying, ""}, {"Comment", Identifying, ""}, {"Note", Identifying, ""},
		}
	case KindFee:
		return []Field{
			{"ID", Plain, ""}, {"Version", Plain, ""},
			{"Borrower", Identifying, ""}, {"Sponsor", Identifying, ""}, {"Staff", Identifying, ""},
			{"Group", Quasi, "group"}, {"Categories", Quasi, "statistics"}, {"Library", Quasi, "library"}, {"Type", Quasi, "type"},
			{"Amount", Plain, ""}, {"Charged", Quasi, "charged"}, {"Closed", Quasi, "closed"},
			{"Status", Plain, ""}, {"Outcome", Plain, ""}, {"Method", Plain, ""},
			{"Loan", Identifying, ""},
			{"Comment", Identifying, ""}, {"Note", Identifying, ""},
		}
	case KindNotice: // removed whole, so nothing can be kept
		return []Field{
			{"ID", Plain, ""}, {"Version", Plain, ""},
			{"Borrower", Identifying, ""}, {"Recipient", Identifying, ""},
			{"Group", Quasi, ""}, {"Categories", Quasi, ""}, {"Library", Quasi, ""}, {"Type", Quasi, ""},
			{"Created", Quasi, ""}, {"Sent", Quasi, ""}, {"Outcome", Plain, ""},
			{"Loan", Identifying, ""}, {"Request", Identifying, ""}, {"Fee", Identifying, ""},
			{"Address", Identifying, ""}, {"Body", Identifying, ""}, {"Note", Identifying, ""},
		}
	}
	return nil
}
