package circulation

import (
	"fmt"

	"github.com/carrel-project/carrel/internal/nearest"
)

// A Kind says what sort of circulation fact a record is. The zero value is no kind.
type Kind uint8

// The kinds. Their numbers are part of the stored formats and never change.
const (
	KindLoan    Kind = 1 + iota // an item lent to a borrower
	KindRequest                 // a hold or request for an item
	KindSharing                 // resource sharing: an item borrowed from or lent to another library
	KindFee                     // money owed
	KindNotice                  // a message sent to a borrower
)

var kindNames = [...]string{"", "loan", "request", "sharing", "fee", "notice"}

// Kinds returns all kinds in a fixed order.
func Kinds() []Kind { return []Kind{KindLoan, KindRequest, KindSharing, KindFee, KindNotice} }

// String returns the kind's word: loan, request, sharing, fee or notice.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ParseKind reads a kind's word.
func ParseKind(s string) (Kind, error) {
	for i, name := range kindNames {
		if i > 0 && s == name {
			return Kind(i), nil
		}
	}
	return 0, fmt.Errorf("circulation: unknown kind %q%s", s, nearest.Hint(s, kindNames[1:]))
}

// MarshalText implements encoding.TextMarshaler.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Kind) UnmarshalText(b []byte) (err error) {
	*k, err = ParseKind(string(b))
	return err
}

// Status says whether a record's life is over. The zero value is Open, so that a record of which
// nothing is known is protected.
type Status uint8

// The two statuses.
const (
	Open  Status = iota // the record's life goes on
	Ended               // loan checked in, request filled or dropped, sharing completed, fee settled, notice sent
)

// String returns "open" or "ended".
func (s Status) String() string {
	if s == Ended {
		return "ended"
	}
	return "open"
}

// ParseStatus reads a status' word; empty means open.
func ParseStatus(s string) (Status, error) {
	switch s {
	case "", "open":
		return Open, nil
	case "ended":
		return Ended, nil
	}
	return Open, fmt.Errorf("circulation: unknown status %q%s", s, nearest.Hint(s, []string{"open", "ended"}))
}

// FeeStatus says where the money is. The zero value is FeeOpen.
type FeeStatus uint8

// The fee statuses.
const (
	FeeOpen      FeeStatus = iota // owed
	FeeInProcess                  // being settled: disputed, or handed to the bursar and not yet confirmed
	FeeClosed                     // paid, waived, or exported to another system for good
)

// String returns "open", "in-process" or "closed".
func (s FeeStatus) String() string {
	switch s {
	case FeeInProcess:
		return "in-process"
	case FeeClosed:
		return "closed"
	}
	return "open"
}

// ParseFeeStatus reads a fee status' word. There is no default: a fee of unknown status is an error.
func ParseFeeStatus(s string) (FeeStatus, error) {
	switch s {
	case "open":
		return FeeOpen, nil
	case "in-process":
		return FeeInProcess, nil
	case "closed":
		return FeeClosed, nil
	}
	return FeeOpen, fmt.Errorf("circulation: unknown fee status %q%s", s, nearest.Hint(s, []string{"open", "in-process", "closed"}))
}

// A Wish is what a patron wants done with their reading history. The zero value is no wish.
type Wish uint8

// The wishes.
const (
	WishNone   Wish = iota
	WishKeep        // keep my history
	WishForget      // forget it as soon as the library may
)

// String returns "", "keep" or "forget".
func (w Wish) String() string {
	switch w {
	case WishKeep:
		return "keep"
	case WishForget:
		return "forget"
	}
	return ""
}

// ParseWish reads a wish's word; empty means none.
func ParseWish(s string) (Wish, error) {
	switch s {
	case "":
		return WishNone, nil
	case "keep":
		return WishKeep, nil
	case "forget":
		return WishForget, nil
	}
	return WishNone, fmt.Errorf("circulation: unknown wish %q%s", s, nearest.Hint(s, []string{"keep", "forget"}))
}
