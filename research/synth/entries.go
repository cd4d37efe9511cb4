package synth

import (
	"fmt"
	"math/bits"
	"strconv"
	"time"

	"github.com/carrel-project/carrel/circulation"
)

type yield = func(circulation.Entry) bool

func (l *Library) loans(yield yield) bool {
	for i := range l.keys {
		if !yield(l.loan(i)) {
			return false
		}
	}
	return true
}

func (l *Library) loan(i int) circulation.Loan {
	f := l.facts(i)
	var s stream
	place := l.place(f.title)
	e := circulation.Loan{
		ID: id("l", i+1), Borrower: f.who.id, Group: f.who.group.traits().name, Categories: f.who.categories(),
		Library: place.library, Location: place.location, Type: place.typ, Item: l.item(i, f.title),
		Loaned: clock(f.start), Due: clock(f.due), Returned: clock(f.returned), Renewals: f.renewals,
		Lost: f.lost, ClaimedReturned: f.claimed, Withdrawn: f.withdrawn,
	}
	s.reset(l.seed, forNames, f.patron, f.ordinal)
	proxy := 0.01
	if f.who.group == faculty {
		proxy = 0.08
	}
	if s.chance(proxy) {
		e.Proxy = l.somebody(&s, f.patron)
	}
	if f.who.sponsored {
		var once stream // the same sponsor for all loans
		once.reset(l.seed, forNames, f.patron, maxPatrons)
		e.Sponsor = l.somebody(&once, f.patron)
	}
	if f.who.staff && s.chance(0.5) {
		e.Staff = f.who.id
	}
	if s.chance(0.01) {
		e.Comment = "Synthetic comment of " + string(f.who.id) + ": please renew if nobody waits."
	}
	if s.chance(0.01) {
		e.Note = "Synthetic note: cover torn when lent to " + string(f.who.id) + "."
	}
	return e
}

// somebody is another patron: one with a lower number, because those are there however many there are.
// Patron 0 knows nobody.
func (l *Library) somebody(s *stream, patron uint64) circulation.Borrower {
	if patron == 0 {
		return ""
	}
	return l.patrons[s.below(patron)].id
}

func (l *Library) requests(yield yield) bool {
	n := 0
	for i, h := range l.has {
		if h&hasRequest != 0 {
			n++
			if !yield(l.filled(i, n)) {
				return false
			}
		}
		if h&hasUnfilled != 0 {
			n++
			if !yield(l.unfilled(i, n)) {
				return false
			}
		}
	}
	return true
}

// filled is the request that loan i filled.
func (l *Library) filled(i, n int) circulation.Request {
	f := l.facts(i)
	var s stream
	s.reset(l.seed, forFilled, f.patron, f.ordinal)
	e := l.request(&f, n, f.start-int64(s.exponential(5)*float64(day))-60, &s)
	e.Item = l.item(i, f.title)
	e.Closed, e.Outcome, e.Loan = clock(f.start), circulation.RequestFilled, id("l", i+1)
	return e
}

// unfilled is a request that whoever borrowed loan i placed about then and nobody filled.
func (l *Library) unfilled(i, n int) circulation.Request {
	f := l.facts(i)
	var s stream
	s.reset(l.seed, forUnfilled, f.patron, f.ordinal)
	f.title = l.popularity.title(s.float())
	e := l.request(&f, n, f.start, &s)
	cancelled, after := s.chance(0.6), 30*day
	if cancelled {
		after = 60 + int64(s.below(uint64(30*day)))
	}
	if closed := f.start + after; closed < l.until {
		e.Closed, e.Outcome = clock(closed), circulation.RequestExpired
		if cancelled {
			e.Outcome = circulation.RequestCancelled
		}
	}
	return e
}

// request is what all requests have; one that waits names no item, because any copy will do.
func (l *Library) request(f *facts, n int, at int64, s *stream) circulation.Request {
	place := l.place(f.title)
	e := circulation.Request{
		ID: id("r", n), Borrower: f.who.id, Group: f.who.group.traits().name, Categories: f.who.categories(),
		Library: place.library, Location: place.location, Type: place.typ, Requested: clock(at),
	}
	if s.chance(0.05) {
		e.Recipient = l.somebody(s, f.patron)
	}
	if s.chance(0.20) {
		e.Address = fmt.Sprintf("Office %d, Synthetic Hall, for %s", 100+s.below(400), f.who.id)
	}
	if s.chance(0.02) {
		e.Comment = "Synthetic comment of " + string(f.who.id) + ": any edition will do."
	}
	return e
}

func (l *Library) sharing(yield yield) bool {
	n, requests := 0, 0
	for i, h := range l.has {
		if h&hasBorrowed != 0 {
			n++
			request := ""
			if h&hasRequest != 0 {
				request = id("r", requests+1)
			}
			if !yield(l.borrowed(i, n, request)) {
				return false
			}
		}
		if h&hasLent != 0 {
			n++
			if !yield(l.lent(i, n)) {
				return false
			}
		}
		requests += h.requests()
	}
	return true
}

// requests is how many requests a loan gives rise to.
func (h has) requests() int { return bits.OnesCount8(uint8(h & (hasRequest | hasUnfilled))) }

// borrowed is how the item of loan i came from another library.
func (l *Library) borrowed(i, n int, request string) circulation.Sharing {
	f := l.facts(i)
	var s stream
	s.reset(l.seed, forBorrowed, f.patron, f.ordinal)
	place := l.place(f.title)
	e := circulation.Sharing{
		ID: id("s", n), Borrower: f.who.id, Group: f.who.group.traits().name, Categories: f.who.categories(),
		Library: place.library, Location: partner(&s), Type: "borrowing", Item: l.item(i, f.title),
		Requested: clock(f.start - int64((2+s.exponential(6))*float64(day))),
		State:     circulation.SharingReceived, Loan: id("l", i+1), Request: request,
	}
	if back := f.returned + int64((1+s.exponential(3))*float64(day)); f.returned < never && back < l.until && !f.withdrawn {
		e.State, e.Closed = circulation.SharingCompleted, clock(back)
	}
	if s.chance(0.05) {
		e.Recipient = l.somebody(&s, f.patron)
	}
	if s.chance(0.3) {
		e.Address = fmt.Sprintf("%s@patrons.example", f.who.id)
	}
	if s.chance(0.05) {
		e.Note = "Synthetic note: lender asks that " + string(f.who.id) + " use it in the reading room."
	}
	return e
}

// lent is an item that went to a library about when loan i began; it names nobody.
func (l *Library) lent(i, n int) circulation.Sharing {
	f := l.facts(i)
	var s stream
	s.reset(l.seed, forLent, f.patron, f.ordinal)
	place := l.place(l.popularity.title(s.float()))
	e := circulation.Sharing{
		ID: id("s", n), Library: place.library, Location: partner(&s), Type: "lending",
		Item: "i" + string(s.token(nil, 12)), Requested: clock(f.start),
	}
	answered := f.start + int64((1+s.exponential(2))*float64(day))
	back := answered + int64((20+s.exponential(30))*float64(day))
	u := s.float()
	switch {
	case answered >= l.until:
	case u < 0.10:
		e.State, e.Closed = circulation.SharingRejected, clock(answered)
	case u < 0.15:
		e.State, e.Closed = circulation.SharingCancelled, clock(answered)
	case back < l.until:
		e.State, e.Closed = circulation.SharingCompleted, clock(back)
	default:
		e.State = circulation.SharingShipped
	}
	return e
}

func partner(s *stream) string { return "partner-" + strconv.Itoa(1+int(s.below(12))) }

func (l *Library) fees(yield yield) bool {
	n := 0
	for i, h := range l.has {
		if h&hasFee != 0 {
			n++
			if !yield(l.fee(i, n)) {
				return false
			}
		}
	}
	return true
}

func (l *Library) fee(i, n int) circulation.Fee {
	f := l.facts(i)
	var s stream
	s.reset(l.seed, forFee, f.patron, f.ordinal)
	e := circulation.Fee{
		ID: id("f", n), Borrower: f.who.id, Group: f.who.group.traits().name, Categories: f.who.categories(),
		Library: l.place(f.title).library, Type: "overdue", Amount: circulation.Amount(f.fee.amount),
		Charged: clock(f.fee.charged), Closed: clock(f.fee.closed), Loan: id("l", i+1),
	}
	if f.fee.lost {
		e.Type = "lost"
	}
	u := s.float()
	switch {
	case f.fee.closed == never:
		if u < 0.05 {
			e.Status = circulation.FeeInProcess
			e.Comment = "Synthetic comment of " + string(f.who.id) + ": I was never told."
		}
	case f.fee.waived, u < 0.06:
		e.Status, e.Outcome = circulation.FeeClosed, circulation.FeeWaived
	case u < 0.08:
		e.Status, e.Outcome = circulation.FeeClosed, circulation.FeeExported
	default:
		e.Status, e.Outcome = circulation.FeeClosed, circulation.FeePaid
		e.Method = [...]string{"cash", "card", "online"}[s.pick([]float64{0.2, 0.4, 0.4})]
	}
	return e
}

func (l *Library) notices(yield yield) bool {
	w := noticeWriter{l: l, yield: yield}
	requests, fees := 0, 0
	for i, h := range l.has {
		if h&hasFee != 0 {
			fees++
		}
		if h&(hasRequest|hasFee|hasOverdue) != 0 && !w.about(i, h, requests+1, fees) {
			return false
		}
		requests += h.requests()
	}
	return true
}

// A noticeWriter numbers notices.
type noticeWriter struct {
	l     *Library
	n     int
	yield yield
}

// about writes the notices that have to do with loan i.
func (w *noticeWriter) about(i int, h has, request, fee int) bool {
	f := w.l.facts(i)
	var s stream
	s.reset(w.l.seed, forNotice, f.patron, f.ordinal)
	wanted, billed := s.chance(0.9), s.chance(0.2)
	loan := id("l", i+1)
	if h&hasRequest != 0 && wanted {
		if !w.write(&f, &s, "hold-ready", f.start-60, circulation.Notice{Request: id("r", request)}, "your request waits at the desk") {
			return false
		}
	}
	if h&hasOverdue != 0 {
		for at := f.due + day; at <= f.due+secondNotice; at += secondNotice - day {
			if at < min(f.returned, w.l.until) && !w.write(&f, &s, "overdue", at, circulation.Notice{Loan: loan}, "an item is overdue") {
				return false
			}
		}
	}
	if h&hasFee != 0 && billed {
		return w.write(&f, &s, "fee", f.fee.charged, circulation.Notice{Loan: loan, Fee: id("f", fee)}, "a fee is due")
	}
	return true
}

// write fills in what all notices have. They go out within half a day of being made.
func (w *noticeWriter) write(f *facts, s *stream, typ string, at int64, e circulation.Notice, what string) bool {
	w.n++
	e.ID, e.Type, e.Created = id("n", w.n), typ, clock(at)
	e.Borrower, e.Group, e.Categories = f.who.id, f.who.group.traits().name, f.who.categories()
	e.Library = w.l.place(f.title).library
	who := string(f.who.id)
	e.Address = who + "@patrons.example"
	e.Body = "Synthetic notice for " + who + ": " + what + ". Nobody will read this."
	if sent := at + 60 + int64(s.below(uint64(day/2))); sent < w.l.until {
		e.Sent, e.Outcome = clock(sent), circulation.NoticeSent
		if s.chance(0.01) {
			e.Outcome, e.Note = circulation.NoticeFailed, "Synthetic note: mailbox of "+who+" is full."
		}
	}
	if s.chance(0.02) {
		e.Recipient = w.l.somebody(s, f.patron)
	}
	return w.yield(e)
}

// A place is where a title stands and what it is.
type place struct{ library, location, typ string }

func (l *Library) place(title uint64) place {
	var s stream
	s.reset(l.seed, forTitle, title, 0)
	return place{
		[...]string{"main", "science", "law"}[s.pick([]float64{0.70, 0.20, 0.10})],
		[...]string{"stacks", "reserve", "media", "special"}[s.pick([]float64{0.80, 0.10, 0.08, 0.02})],
		[...]string{"book", "dvd", "score", "equipment"}[s.pick([]float64{0.85, 0.08, 0.04, 0.03})],
	}
}

// item is a barcode that tells nothing of the title.
func (l *Library) item(i int, title uint64) string {
	var s stream
	s.reset(l.seed, forTitle, title, uint64(l.copies[i])+1)
	return string(s.token(append(make([]byte, 0, 13), 'i'), 12))
}

func (p *patron) categories() []string { return []string{departments()[p.department]} }

func id(prefix string, n int) string {
	return string(strconv.AppendInt(append(make([]byte, 0, 16), prefix...), int64(n), 10))
}

func clock(seconds int64) time.Time {
	if seconds == never {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}
