package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/internal/nearest"
)

// A fileKind is one sort of file that import reads. Its columns are carrel's own names; the first is the ID.
type fileKind struct {
	name     string   // the flag, and the key in a map file
	required []string // without them records that are in the database already would lose what they have
	columns  []string
	entry    func(*row) circulation.Entry // nil for patrons
}

// fileKinds returns the kinds in the order in which they must be imported: what points comes after
// what it points at.
func fileKinds() []fileKind {
	return []fileKind{
		{name: "patrons", required: []string{"patron"},
			columns: words("patron group categories library expires history history_since " + profileColumns)},
		{name: "loans", required: words("loan borrower returned"), entry: loanOf,
			columns: words("loan borrower proxy sponsor staff group categories item library location type loaned due returned renewals lost claimed_returned withdrawn comment note")},
		{name: "requests", required: words("request borrower"), entry: requestOf,
			columns: words("request borrower proxy recipient group categories item library location type requested filled cancelled expired loan address comment note")},
		{name: "sharing", required: words("sharing borrower"), entry: sharingOf,
			columns: words("sharing borrower proxy sponsor recipient group categories item library location type requested state closed loan request address comment note")},
		{name: "fees", required: words("fee loan borrower status"), entry: feeOf,
			columns: words("fee loan borrower sponsor staff group categories library kind amount charged status closed payment_method comment note")},
		{name: "notices", required: words("notice borrower"), entry: noticeOf,
			columns: words("notice borrower recipient group categories library type created sent failed loan request fee address body note")},
	}
}

// points returns the columns that name another record, with the kind of it.
func (k *fileKind) points() map[string]circulation.Kind {
	points := map[string]circulation.Kind{"loan": circulation.KindLoan, "request": circulation.KindRequest, "fee": circulation.KindFee}
	for column := range points {
		if column == k.columns[0] || !slices.Contains(k.columns, column) {
			delete(points, column)
		}
	}
	return points
}

func words(s string) []string { return strings.Fields(s) }

func loanOf(r *row) circulation.Entry {
	l := circulation.Loan{ID: r.text("loan"),
		Borrower: r.person("borrower"), Proxy: r.proxy(), Sponsor: r.person("sponsor"), Staff: r.person("staff"),
		Group: r.text("group"), Categories: r.list("categories"), Library: r.text("library"), Location: r.text("location"),
		Type: r.text("type"), Item: r.text("item"),
		Loaned: r.time("loaned"), Due: r.time("due"), Returned: r.time("returned"), Renewals: r.count("renewals"),
		Lost: r.yes("lost"), ClaimedReturned: r.yes("claimed_returned"), Withdrawn: r.yes("withdrawn"),
		Comment: r.private("comment"), Note: r.private("note")}
	// The item is there or given up: what was said about it before no longer protects the link.
	if (!l.Returned.IsZero() || l.Withdrawn) && (l.Lost || l.ClaimedReturned) {
		l.Lost, l.ClaimedReturned, r.cleared = false, false, true
	}
	return l
}

func requestOf(r *row) circulation.Entry {
	q := circulation.Request{ID: r.text("request"),
		Borrower: r.person("borrower"), Proxy: r.proxy(), Recipient: r.person("recipient"),
		Group: r.text("group"), Categories: r.list("categories"), Library: r.text("library"), Location: r.text("location"),
		Type: r.text("type"), Item: r.text("item"),
		Requested: r.time("requested"), Loan: r.text("loan"),
		Address: r.private("address"), Comment: r.private("comment"), Note: r.private("note")}
	outcome, at := r.oneOf("filled", "cancelled", "expired")
	q.Outcome, q.Closed = circulation.RequestOutcome(outcome), at
	return q
}

func sharingOf(r *row) circulation.Entry {
	s := circulation.Sharing{ID: r.text("sharing"),
		Borrower: r.person("borrower"), Proxy: r.proxy(), Sponsor: r.person("sponsor"), Recipient: r.person("recipient"),
		Group: r.text("group"), Categories: r.list("categories"), Library: r.text("library"), Location: r.text("location"),
		Type: r.text("type"), Item: r.text("item"),
		Requested: r.time("requested"), Closed: r.time("closed"), Loan: r.text("loan"), Request: r.text("request"),
		Address: r.private("address"), Comment: r.private("comment"), Note: r.private("note")}
	state := r.word("state", "", "requested", "shipped", "received", "completed", "cancelled", "rejected")
	switch state {
	case "", "requested":
	default:
		s.State = circulation.SharingState(state)
	}
	switch state {
	case "", "requested", "shipped", "received":
		if !s.Closed.IsZero() {
			r.fail("closed", "has a date, but by its state the sharing goes on")
		}
	}
	return s
}

func feeOf(r *row) circulation.Entry {
	f := circulation.Fee{ID: r.text("fee"),
		Borrower: r.person("borrower"), Sponsor: r.person("sponsor"), Staff: r.person("staff"),
		Group: r.text("group"), Categories: r.list("categories"), Library: r.text("library"), Type: r.text("kind"),
		Amount: r.amount("amount"), Charged: r.time("charged"), Closed: r.time("closed"),
		Method: r.text("payment_method"), Loan: r.text("loan"), Comment: r.private("comment"), Note: r.private("note")}
	switch status := r.word("status", "open", "in-process", "paid", "waived", "exported"); status {
	case "in-process":
		f.Status = circulation.FeeInProcess
	case "paid", "waived", "exported":
		f.Status, f.Outcome = circulation.FeeClosed, circulation.FeeOutcome(status)
	}
	if f.Status != circulation.FeeClosed && !f.Closed.IsZero() {
		r.fail("closed", "has a date, but by its status the fee is not closed")
	}
	return f
}

func noticeOf(r *row) circulation.Entry {
	n := circulation.Notice{ID: r.text("notice"),
		Borrower: r.person("borrower"), Recipient: r.person("recipient"),
		Group: r.text("group"), Categories: r.list("categories"), Library: r.text("library"), Type: r.text("type"),
		Created: r.time("created"), Loan: r.text("loan"), Request: r.text("request"), Fee: r.text("fee"),
		Address: r.private("address"), Body: r.private("body"), Note: r.private("note")}
	outcome, at := r.oneOf("sent", "failed")
	n.Outcome, n.Sent = circulation.NoticeOutcome(outcome), at
	return n
}

// A row is one line of a file, read under carrel's own column names. The first thing wrong with it stays
// in err; messages name the column and never repeat the value, which may be a borrower in the wrong place.
type row struct {
	value   func(column string) string
	seal    *sealer
	times   func(string) (time.Time, error)
	cleared bool            // a check-in cleared its marks
	dropped map[string]bool // columns that point at what is not there, and are empty now
	err     error
}

func (r *row) fail(column, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("column %s: %s", column, fmt.Sprintf(format, args...))
	}
}

// text returns a value without the spaces that fixed-width columns leave around it.
func (r *row) text(column string) string {
	if r.dropped[column] {
		return ""
	}
	s := strings.TrimSpace(r.value(column))
	if !utf8.ValidString(s) {
		r.fail(column, "not UTF-8; export the file as UTF-8")
	}
	return s
}

// person returns who stands in a column, as a pseudonym.
func (r *row) person(column string) circulation.Borrower {
	b, err := r.seal.borrower(r.text(column))
	if err != nil {
		r.fail(column, "cannot be sealed")
	}
	return b
}

// private returns a text that somebody wrote about a person or to them, sealed.
func (r *row) private(column string) string {
	s, err := r.seal.text(r.text(column))
	if err != nil {
		r.fail(column, "cannot be sealed")
	}
	return s
}

// proxy returns who acted for the borrower; borrowers who acted for themselves have none.
func (r *row) proxy() circulation.Borrower {
	if p := r.person("proxy"); p != r.person("borrower") {
		return p
	}
	return ""
}

func (r *row) time(column string) time.Time {
	t, err := r.times(r.text(column))
	if err != nil {
		r.fail(column, "%v", err)
	}
	return t
}

func (r *row) yes(column string) bool {
	switch strings.ToLower(r.text(column)) {
	case "yes", "true", "1", "y", "t", "x":
		return true
	case "", "no", "false", "0", "n", "f":
	default:
		r.fail(column, "want yes or no")
	}
	return false
}

func (r *row) count(column string) int {
	s := r.text(column)
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		r.fail(column, "want a whole number")
	}
	return int(n)
}

// amount reads 12, 12.5 or 12.50 as hundredths.
func (r *row) amount(column string) circulation.Amount {
	s := r.text(column)
	if s == "" {
		return 0
	}
	digits, negative := strings.CutPrefix(s, "-")
	whole, cents, point := strings.Cut(digits, ".")
	n, err := strconv.ParseUint(whole, 10, 62)
	c, cerr := strconv.ParseUint((cents + "00")[:2], 10, 8)
	if err != nil || cerr != nil || point && cents == "" || len(cents) > 2 || n > math.MaxInt64/100-1 {
		r.fail(column, "want an amount like 12.50, with a point and no thousands separator")
		return 0
	}
	a := circulation.Amount(n*100 + c)
	if negative {
		return -a
	}
	return a
}

func (r *row) list(column string) (all []string) {
	for s := range strings.SplitSeq(r.text(column), ";") {
		if s = strings.TrimSpace(s); s != "" {
			all = append(all, s)
		}
	}
	return all
}

// word reads one of a few words; the first is what to do without when it is "".
func (r *row) word(column string, known ...string) string {
	s := strings.ToLower(r.text(column))
	for _, k := range known {
		if s == k {
			return s
		}
	}
	if s == "" {
		r.fail(column, "is empty; want %s", alternatives(known))
	} else {
		r.fail(column, "want %s%s", alternatives(known), nearest.Hint(s, known))
	}
	return known[0]
}

func alternatives(known []string) string {
	if known[0] == "" {
		known = append([]string{"nothing"}, known[1:]...)
	}
	last := len(known) - 1
	return strings.Join(known[:last], ", ") + " or " + known[last]
}

// oneOf reads columns of dates of which at most one is set: how something ended, and when.
func (r *row) oneOf(columns ...string) (which string, at time.Time) {
	for _, c := range columns {
		t := r.time(c)
		if t.IsZero() {
			continue
		}
		if which != "" {
			r.fail(c, "has a date, and so has %s; only one can be how it ended", which)
		}
		which, at = c, t
	}
	return which, at
}
