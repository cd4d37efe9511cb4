package memory

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// state is everything that a Circulation holds. Its fields are exported so that Dump can print them,
// those of next year too, with the methods of their types.
type state struct {
	Seq   uint64
	Rows  map[key]row                  // what happened; anonymous from birth
	Order map[circulation.Kind][]place // in which the rows arrived
	Items map[string]line              // the loans of each item

	// What identifies. Unlinking a record deletes its key from all of these.
	Links map[key][]circulation.Link       // the persons that records name
	Texts map[key][]circulation.Text       // what was written about them
	Ties  map[key][]key                    // the records that a record points at …
	Back  map[key][]key                    // … and those that point at it
	Fees  map[key][]circulation.FeeSummary // of loans: the fees that they were parted from

	Persons  map[circulation.Borrower]person
	Holds    map[circulation.Borrower][]circulation.Hold
	Receipts []anonymize.Receipt

	Plan   string // of the sweep that was begun last …
	Needs  anonymize.Needs
	Asleep map[key]sleep // … and what was put off under it
}

type key struct {
	Kind circulation.Kind
	ID   string
}

type row struct {
	Facts    circulation.Facts // its Version is empty
	Version  uint64
	Unlinked bool // for good: of a notice this is all that stays
}

// A place is where a record stands in the order of arrival.
type place struct {
	Seq uint64
	ID  string
}

type person struct {
	Account circulation.Account
	Listed  bool   // put there by SaveAccounts
	Changes uint64 // to the account and to holds
	Loans   line
}

func newState() state {
	return state{
		Rows: make(map[key]row), Order: make(map[circulation.Kind][]place), Items: make(map[string]line),
		Links: make(map[key][]circulation.Link), Texts: make(map[key][]circulation.Text),
		Ties: make(map[key][]key), Back: make(map[key][]key), Fees: make(map[key][]circulation.FeeSummary),
		Persons: make(map[circulation.Borrower]person), Holds: make(map[circulation.Borrower][]circulation.Hold),
		Asleep: make(map[key]sleep),
	}
}

// linked reports whether a record names a borrower.
func (s *state) linked(k key) bool { return len(s.Links[k]) > 0 }

// borrower returns whom a linked record names: Parts puts the borrower first.
func (s *state) borrower(k key) circulation.Borrower { return s.Links[k][0].Person }

// check finds what would keep a batch from being saved, before anything is changed.
func (s *state) check(batch []circulation.Parts) error {
	arriving := make(map[key]bool, len(batch))
	for _, p := range batch {
		arriving[key{p.Facts.Kind, p.Facts.ID}] = true
	}
	for _, p := range batch {
		k := key{p.Facts.Kind, p.Facts.ID}
		r, known := s.Rows[k]
		if r.Unlinked {
			continue
		}
		if v := p.Facts.Version; v != "" && (!known || !r.is(v)) {
			return fmt.Errorf("%w: %s %s", ErrConflict, k.Kind, k.ID)
		}
		for _, to := range p.Points {
			if _, known := s.Rows[key(to)]; !known && !arriving[key(to)] {
				return fmt.Errorf("memory: %s %s points at %s %s, which is not there", k.Kind, k.ID, to.Kind, to.ID)
			}
		}
	}
	return nil
}

// save keeps one entry of a batch that was checked, after the records that it points at.
func (s *state) save(p circulation.Parts, now time.Time, saved *circulation.Saved) {
	k := key{p.Facts.Kind, p.Facts.ID}
	old, known := s.Rows[k]
	linked, named := s.linked(k), len(p.Links) > 0
	already := known && !linked && (old.Unlinked || named)
	kept := linked && !named && s.protects(k, p.Facts, now)
	closed := k.Kind == circulation.KindFee && p.Facts.FeeStatus == circulation.FeeClosed
	switch {
	case already:
		saved.AlreadyUnlinked++
		// As long as a fee is owed it protects its loan, whomever it names.
		if k.Kind != circulation.KindFee || old.Unlinked && closed && len(s.Ties[k]) == 0 {
			return
		}
		p.Links, p.Texts = nil, nil
		if old.Unlinked { // what a policy's keep-fields took does not come back
			f := old.Facts
			f.Status, f.Ended, f.FeeStatus, f.Method, f.Outcome = p.Facts.Status, p.Facts.Ended, p.Facts.FeeStatus, p.Facts.Method, p.Facts.Outcome
			p.Facts = f
		}
	case kept:
		saved.KeptLinked++
		p.Links, p.Texts = s.Links[k], s.Texts[k]
	}
	p.Facts.Version = ""
	var ties []key
	for _, to := range p.Points {
		if s.linked(key(to)) {
			ties = append(ties, key(to))
		} else {
			saved.PointersDropped++
		}
	}
	if old.Unlinked && len(ties)+len(s.Ties[k]) == 0 {
		return // there is nothing to protect
	}
	same := known && reflect.DeepEqual(old.Facts, p.Facts) && slices.Equal(s.Links[k], p.Links) &&
		slices.Equal(s.Texts[k], p.Texts) && slices.Equal(s.Ties[k], ties)
	switch {
	case !known:
		saved.Added++
		s.Seq++
		s.Order[k.Kind] = append(s.Order[k.Kind], place{s.Seq, k.ID})
	case already, kept:
	case same:
		saved.Same++
	default:
		saved.Updated++
	}
	if same {
		return
	}
	if known {
		s.leave(k)
	}
	s.touchLoans(k) // those of which the fee was …
	if old.Unlinked && len(s.Ties[k]) == 0 {
		for _, loan := range ties { // it remembers this fee as closed
			if i := slices.Index(s.Fees[loan], summary(old.Facts)); i >= 0 {
				put(s.Fees, loan, slices.Delete(s.Fees[loan], i, i+1))
			}
		}
	}
	s.untie(k)
	s.Rows[k] = row{Facts: p.Facts, Version: old.Version + 1, Unlinked: old.Unlinked}
	put(s.Links, k, p.Links)
	put(s.Texts, k, p.Texts)
	for _, to := range ties {
		s.Ties[k] = append(s.Ties[k], to)
		s.Back[to] = append(s.Back[to], k)
	}
	s.touchLoans(k) // … and is
	for _, l := range p.Links {
		if _, known := s.Persons[l.Person]; !known {
			s.Persons[l.Person] = person{} // so that Finish has somebody to forget
		}
	}
	if !s.linked(k) {
		s.forgetPointersAt(k)
	}
	s.enter(k)
	if linked && !s.linked(k) || old.Unlinked && closed {
		s.anonymize(k, nil)
	}
}

func put[K comparable, V any](m map[K][]V, k K, v []V) {
	if len(v) == 0 {
		delete(m, k)
	} else {
		m[k] = v
	}
}

// touchLoans changes the version of the loans that a fee belongs to: a loan that was read before is stale.
func (s *state) touchLoans(fee key) {
	if fee.Kind != circulation.KindFee {
		return
	}
	for _, loan := range s.Ties[fee] {
		r := s.Rows[loan]
		r.Version++
		s.Rows[loan] = r
	}
}

// untie removes the pointers of a record to others.
func (s *state) untie(k key) {
	for _, to := range s.Ties[k] {
		put(s.Back, to, slices.DeleteFunc(s.Back[to], func(from key) bool { return from == k }))
	}
	delete(s.Ties, k)
}

func (s *state) forgetPointersAt(k key) {
	for _, from := range s.Back[k] {
		put(s.Ties, from, slices.DeleteFunc(s.Ties[from], func(to key) bool { return to == k }))
	}
	delete(s.Back, k)
}

// enter counts a loan among those of its borrower and of its item, leave takes it out again.
func (s *state) enter(k key) {
	s.lines(k, (*line).add)
	s.lines(k, (*line).changed)
	if !s.linked(k) {
		s.lines(k, (*line).part)
	}
}

func (s *state) leave(k key) {
	s.lines(k, (*line).changed)
	if s.linked(k) {
		s.lines(k, (*line).part)
	}
	s.lines(k, (*line).drop)
}

// lines does something to the lines that a loan stands in.
func (s *state) lines(k key, do func(l *line, start int64)) {
	if k.Kind != circulation.KindLoan {
		return
	}
	f := s.Rows[k].Facts
	if s.linked(k) {
		p := s.Persons[s.borrower(k)]
		p.Loans.change(do, stamp(f.Started))
		s.Persons[s.borrower(k)] = p
	}
	if f.Item != "" {
		l := s.Items[f.Item]
		l.change(do, stamp(f.Started))
		if s.Items[f.Item] = l; l.Total == 0 {
			delete(s.Items, f.Item)
		}
	}
}

// strip unlinks a record.
func (s *state) strip(k key, keep *anonymize.Keep) {
	s.lines(k, (*line).part)
	s.anonymize(k, keep)
}

// anonymize is strip for a record that is parted from its lines.
func (s *state) anonymize(k key, keep *anonymize.Keep) {
	r := s.Rows[k]
	if k.Kind == circulation.KindFee {
		for _, loan := range s.Ties[k] { // the loan's rules may ask about a fee that names nobody any more
			s.Fees[loan] = append(s.Fees[loan], summary(r.Facts))
		}
	}
	s.untie(k)
	s.forgetPointersAt(k)
	delete(s.Links, k)
	delete(s.Texts, k)
	delete(s.Fees, k)
	delete(s.Asleep, k)
	if k.Kind == circulation.KindNotice {
		r.Facts = circulation.Facts{} // the row stays, so that a late export cannot bring the notice back
	} else {
		keep.Apply(&r.Facts)
	}
	r.Unlinked = true
	r.Version++
	s.Rows[k] = r
}

// protected reports whether an exception forbids unlinking a record at the given time (law 2).
func (s *state) protected(k key, at time.Time) bool {
	return s.protects(k, s.Rows[k].Facts, at)
}

// protects is protected, if the record's facts were f.
func (s *state) protects(k key, f circulation.Facts, at time.Time) bool {
	fees := s.fees(k)
	if k.Kind == circulation.KindFee {
		fees = []circulation.FeeSummary{summary(f)}
	}
	return f.Status != circulation.Ended || f.Lost || f.ClaimedReturned || s.held(s.borrower(k), at) ||
		slices.ContainsFunc(fees, func(f circulation.FeeSummary) bool { return f.Status != circulation.FeeClosed })
}

// changed counts a change to what is known of a borrower. Whom no record names need not be remembered for it.
func (s *state) changed(b circulation.Borrower) {
	if p, ok := s.Persons[b]; ok {
		p.Changes++
		s.Persons[b] = p
	}
}

func (s *state) held(b circulation.Borrower, at time.Time) bool {
	return slices.ContainsFunc(s.Holds[b], func(h circulation.Hold) bool { return inForce(h, at) })
}

func inForce(h circulation.Hold, at time.Time) bool { return h.Until.IsZero() || at.Before(h.Until) }

// fees returns the fees of a loan, or a fee itself.
func (s *state) fees(k key) []circulation.FeeSummary {
	if k.Kind == circulation.KindFee {
		return []circulation.FeeSummary{summary(s.Rows[k].Facts)}
	}
	fees := slices.Clone(s.Fees[k])
	for _, from := range s.Back[k] {
		if from.Kind == circulation.KindFee {
			fees = append(fees, summary(s.Rows[from].Facts))
		}
	}
	return fees
}

func summary(f circulation.Facts) circulation.FeeSummary {
	return circulation.FeeSummary{Status: f.FeeStatus, Closed: f.Ended, Method: f.Method}
}

// record returns the view that rules see.
func (s *state) record(k key, at time.Time) circulation.Record {
	row := s.Rows[k]
	f, borrower := row.Facts, s.borrower(k)
	p := s.Persons[borrower]
	r := circulation.Record{Kind: k.Kind, ID: k.ID, Version: s.token(k).String(), Borrower: borrower,
		Group: f.Group, GroupNow: p.Account.Group, Categories: slices.Clone(f.Categories),
		Library: f.Library, Location: f.Location, Type: f.Type, Item: f.Item,
		Started: f.Started, Ended: f.Ended, Status: f.Status, Lost: f.Lost, ClaimedReturned: f.ClaimedReturned,
		Fees: s.fees(k), BorrowerExpires: p.Account.Expires, Wish: p.Account.Wish, WishSince: p.Account.WishSince,
		Hold: s.held(borrower, at)}
	for _, l := range s.Links[k] {
		if l.Role == circulation.RoleProxy {
			r.Proxy = l.Person
		}
	}
	if k.Kind == circulation.KindLoan {
		start := stamp(f.Started)
		r.NewerByBorrower = p.Loans.newer(start)
		if f.Item != "" {
			items := s.Items[f.Item]
			r.NewerOfItem = items.newer(start)
		}
	}
	return r
}

func stamp(t time.Time) int64 { return t.UnixMicro() }
