package anonymize

import (
	"math/bits"
	"time"
)

// A Decision says whether a record is to be unlinked at the time asked about, and why.
type Decision struct {
	Unlink bool
	// Rule is the rule that decides, or would if no exception held: its name, "default" or
	// "patron-wish". Empty: no rule matched.
	Rule string
	// Reasons say what keeps the record: every exception that holds or, when none does, what the rule waits
	// for. None when Unlink is true.
	Reasons Reasons
	// EligibleAt is the first instant at which the record may be unlinked. It does not depend on the time
	// asked about. The zero time: it waits for a fact that is not known yet (or, when Unlink is
	// true, it may go whenever that is, because it has no date to count from).
	EligibleAt time.Time
}

// Reasons is a set of reasons. The zero value is the empty set.
type Reasons uint32

// The reasons to keep a record. The first six are the exceptions: they beat every rule.
const (
	Unfinished         Reasons = 1 << iota // its life is not over
	Lost                                   // still marked lost
	ClaimedReturned                        // still marked claimed returned
	OpenFee                                // a fee is owed
	FeeInProcess                           // a fee is being settled
	LegalHold                              // on the borrower, the item or the record
	PatronWish                             // the borrower wants it kept
	PeriodNotPassed                        // the rule's period has not passed
	NewerLoans                             // keep-last: too few newer loans yet
	PatronNotExpired                       // the period since the account expired has not passed
	FeePeriodNotPassed                     // the period since the last fee closed has not passed
	NoEndDate                              // ended, but not known when
	NoFeeDate                              // a fee closed, but not known when
	RuleSaysNever                          // the rule keeps it for ever
	NoRule                                 // no rule matches
	SwitchedOff                            // the policy does not speak of this kind
	AlreadyUnlinked                        // it names nobody

	exceptions = Unfinished | Lost | ClaimedReturned | OpenFee | FeeInProcess | LegalHold
)

var reasonNames = [...]string{"unfinished", "lost", "claimed-returned", "open-fee", "fee-in-process", "legal-hold",
	"patron-wish", "period-not-passed", "newer-loans", "patron-not-expired", "fee-period-not-passed", "no-end-date",
	"no-fee-date", "rule-says-never", "no-rule", "switched-off", "already-unlinked"}

// Exceptions returns those of the reasons that are exceptions.
func (r Reasons) Exceptions() Reasons { return r & exceptions }

// Names returns the reasons' words in a fixed order, exceptions first.
func (r Reasons) Names() []string {
	names := make([]string, 0, bits.OnesCount32(uint32(r)))
	for ; r != 0; r &= r - 1 {
		names = append(names, reasonNames[bits.TrailingZeros32(uint32(r))])
	}
	return names
}
