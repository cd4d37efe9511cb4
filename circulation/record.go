package circulation

import "time"

// A Borrower is the opaque reference by which a circulation record points at a person. Empty means
// nobody. Nothing in carrel's rules looks inside it.
type Borrower string

// A Record is the flat view of one circulation fact that retention rules see. Times are instants,
// used to the microsecond; the zero time means not known. The zero Record is an open record of no
// kind that names nobody.
type Record struct {
	Kind    Kind
	ID      string // unique within its kind; the library system chooses it
	Version string // opaque; changes whenever the stored record does

	Borrower Borrower // empty: nobody, already unlinked
	Proxy    Borrower // who acted for the borrower

	Group      string   // the borrower's group when the record began
	GroupNow   string   // the borrower's group today
	Categories []string // statistical categories

	Library, Location string
	Type              string // item or notice type
	Item              string

	Started time.Time // loaned, requested, charged, created
	Ended   time.Time // returned, closed, sent
	Status  Status

	Lost            bool // still marked lost
	ClaimedReturned bool // still marked claimed returned

	Fees []FeeSummary // of a loan: its fees; of a fee: the fee itself

	NewerByBorrower int // loans of the same borrower that started strictly later, unlinked ones included
	NewerOfItem     int // the same for the item

	BorrowerExpires time.Time // when the borrower's account expires or expired
	Wish            Wish      // what the borrower wants done with their history
	WishSince       time.Time // zero: always
	Hold            bool      // a legal hold on the borrower
}

// A FeeSummary is what a loan knows of a fee: never which fee or whose.
type FeeSummary struct {
	Status FeeStatus
	Closed time.Time // zero: not closed, or not known when
	Method string    // how it was paid: cash, card, …
}
