package storetest

import (
	"fmt"
	"reflect"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// Every time of the suite is written out: a store must not care what the clock says.
var (
	began = time.Date(2026, 2, 3, 9, 8, 7, 654321000, time.UTC)
	ended = time.Date(2026, 3, 17, 10, 11, 12, 345678000, time.UTC)
	now   = time.Date(2026, 6, 1, 2, 0, 0, 0, time.UTC)

	policyRef = anonymize.PolicyRef{ID: "storetest", Revision: 3, Digest: "sha256:5ca1ab1e"}
)

func defaultID(n int) string {
	if first := []string{"10", "9", "B", "a"}; n < len(first) {
		return first[n]
	}
	return fmt.Sprintf("r%d", n)
}

// person returns the nth borrower.
func person(n int) circulation.Borrower { return circulation.Borrower(fmt.Sprintf("p-%07d", n)) }

func loan(id string, b circulation.Borrower) circulation.Loan {
	return circulation.Loan{ID: id, Borrower: b, Group: "undergraduate", Library: "main", Location: "stacks",
		Type: "book", Item: "item-" + id, Loaned: began, Due: began.AddDate(0, 0, 28), Returned: ended}
}

func request(id string, b circulation.Borrower) circulation.Request {
	return circulation.Request{ID: id, Borrower: b, Group: "undergraduate", Library: "main", Location: "stacks",
		Type: "book", Item: "item-" + id, Requested: began, Closed: ended, Outcome: circulation.RequestFilled}
}

func sharing(id string, b circulation.Borrower) circulation.Sharing {
	return circulation.Sharing{ID: id, Borrower: b, Group: "undergraduate", Library: "main", Location: "partner",
		Type: "borrowing", Item: "item-" + id, Requested: began, Closed: ended, State: circulation.SharingCompleted}
}

func fee(id string, b circulation.Borrower) circulation.Fee {
	return circulation.Fee{ID: id, Borrower: b, Group: "undergraduate", Library: "main", Type: "overdue",
		Amount: 1250, Charged: began, Closed: ended, Status: circulation.FeeClosed, Outcome: circulation.FeePaid, Method: "cash"}
}

func notice(id string, b circulation.Borrower) circulation.Notice {
	return circulation.Notice{ID: id, Borrower: b, Group: "undergraduate", Library: "main", Type: "hold-ready",
		Created: began, Sent: ended, Outcome: circulation.NoticeSent, Body: "your book is here"}
}

// entry returns a record of a kind whose life is over and that nothing protects.
func entry(k circulation.Kind, id string, b circulation.Borrower) circulation.Entry {
	switch k {
	case circulation.KindLoan:
		return loan(id, b)
	case circulation.KindRequest:
		return request(id, b)
	case circulation.KindSharing:
		return sharing(id, b)
	case circulation.KindFee:
		return fee(id, b)
	case circulation.KindNotice:
		return notice(id, b)
	}
	panic("storetest: no such kind")
}

// unfinished returns a record of a kind whose life goes on.
func unfinished(k circulation.Kind, id string, b circulation.Borrower) circulation.Entry {
	e := entry(k, id, b)
	switch k {
	case circulation.KindLoan:
		return with(e, "Returned", time.Time{})
	case circulation.KindRequest:
		return with(with(e, "Closed", time.Time{}), "Outcome", circulation.RequestOpen)
	case circulation.KindSharing:
		return with(with(e, "Closed", time.Time{}), "State", circulation.SharingShipped)
	case circulation.KindFee:
		return openFee(id, b)
	case circulation.KindNotice:
		return with(with(e, "Sent", time.Time{}), "Outcome", circulation.NoticeWaiting)
	}
	panic("storetest: no such kind")
}

func openFee(id string, b circulation.Borrower) circulation.Fee {
	f := fee(id, b)
	f.Status, f.Closed, f.Outcome, f.Method = circulation.FeeOpen, time.Time{}, "", ""
	return f
}

// with returns a copy of an entry with one field changed.
func with(e circulation.Entry, field string, value any) circulation.Entry {
	v := reflect.New(reflect.TypeOf(e)).Elem()
	v.Set(reflect.ValueOf(e))
	f := v.FieldByName(field)
	f.Set(reflect.ValueOf(value).Convert(f.Type()))
	return v.Interface().(circulation.Entry)
}

// field returns the value of an entry's field.
func field(e circulation.Entry, name string) any {
	return reflect.ValueOf(e).FieldByName(name).Interface()
}

// has reports whether a kind has a field of a name.
func has(k circulation.Kind, name string) bool {
	for _, f := range circulation.Fields(k) {
		if f.Name == name {
			return true
		}
	}
	return false
}

// pointsAt returns the kind that an identifying field points at, which is the one it is named after, or 0.
func pointsAt(f circulation.Field) circulation.Kind {
	if f.Class == circulation.Identifying {
		switch f.Name {
		case "Loan":
			return circulation.KindLoan
		case "Request":
			return circulation.KindRequest
		case "Fee":
			return circulation.KindFee
		}
	}
	return 0
}
