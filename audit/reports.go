package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// ReporterConfig is what a reporter works with.
type ReporterConfig struct {
	Store    Store
	Keys     *crypto.Keyring // opened with the store of subject keys
	Recorder Recorder        // takes the events that say which reports were made: the trail itself

	// Thorough reads the whole trail for every report. Otherwise those on one subject or some actions ask the store's index, which whoever
	// owns the database can change: an entry cannot be made to say something else by that, but it can be kept out of sight.
	Thorough bool

	Now func() time.Time // nil: time.Now
}

// A Reporter reads a trail. Whatever it tells is recorded first, as a [Report] with the name of the report as Object and how many rows it
// has as Count, and about the subjects it names; if that fails, nothing is told. Who may ask for which report is for the caller to decide.
//
// What counts is the body of an entry, and only if it is authentic: entries that are not are left out and counted as skipped. It is
// safe for concurrent use.
type Reporter struct {
	store    Store
	keys     *crypto.Keyring
	recorder Recorder
	thorough bool
	now      func() time.Time
}

// NewReporter returns a reporter.
func NewReporter(cfg ReporterConfig) (*Reporter, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("audit: ReporterConfig.Store is nil, want where the entries are kept")
	case cfg.Keys == nil:
		return nil, errors.New("audit: ReporterConfig.Keys is nil, want the keyring of the trail")
	case cfg.Recorder == nil:
		return nil, errors.New("audit: ReporterConfig.Recorder is nil, want the trail: a report that leaves no trace is not made")
	}
	r := &Reporter{cfg.Store, cfg.Keys, cfg.Recorder, cfg.Thorough, cfg.Now}
	if r.now == nil {
		r.now = time.Now
	}
	return r, nil
}

// By says who asks for a report: a member of staff or a program as Actor, or a patron who asks for themself as Self.
type By struct {
	Actor   string
	Role    string
	Purpose string
	Channel Channel

	// Self is a patron: whom the report's event is about, never its actor. They get what [Reporter.Seen] says of themself, and no other
	// report.
	Self crypto.Subject

	Approval string // reference under which the report was approved; naming the people in a whole log needs one
}

// A Period is the time Since ≤ t < Until. A zero bound is none.
type Period struct {
	Since, Until time.Time
}

// touches reports whether an event, or the time it stands for, lies in the period.
func (p Period) touches(e *Event) bool {
	return (p.Since.IsZero() || !e.Time.Add(e.Covers).Before(p.Since)) && (p.Until.IsZero() || e.Time.Before(p.Until))
}

// A Table is the rows of a report, in an order that depends on nothing but the entries.
type Table[Row any] struct {
	Rows    []Row `json:"rows"`
	Skipped int   `json:"skipped"` // entries that are damaged or forged, and so are not believed: Verify says which

	// Forgotten is in how many cases somebody is meant who was forgotten: one person and one month each, so that it is an upper bound of
	// how many people. Only of reports that name several people.
	Forgotten int `json:"forgotten,omitempty"`
}

var (
	// ErrNotRecorded means that a report could not be recorded, and so is not made.
	ErrNotRecorded = errors.New("audit: the report cannot be recorded, and so is not made")

	// ErrRefused means that a report was refused; the refusal is recorded.
	ErrRefused = errors.New("audit: the report is refused")
)

// Words for why a report was refused.
const (
	whyNoActor    = "no-actor"    // nobody, or two, say that they ask
	whyNotOwn     = "not-own"     // a patron asks for more than what may be seen of themself
	whyNoApproval = "no-approval" // names without one
	whyForgotten  = "no-key"      // the subject was forgotten, or never there
)

// A report is one on its way.
type report struct {
	r     *Reporter
	key   *crypto.TrailKey
	event Event

	leaf    []byte // a buffer
	skipped int
}

// begin says who asks, and refuses nobody and patrons who ask for what is not theirs: own is the subject that a patron may ask about.
func (r *Reporter) begin(ctx context.Context, by By, name string, own crypto.Subject) (*report, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := &report{r: r, event: Event{Time: r.now().UTC(), Action: Report, Actor: by.Actor, Role: by.Role, Purpose: by.Purpose, Channel: by.Channel,
		Approval: by.Approval, Object: name}}
	switch {
	case (by.Actor == "") == (by.Self == ""):
		return nil, p.refuse(ctx, whyNoActor, by.Self)
	case by.Self != "" && by.Self != own:
		return nil, p.refuse(ctx, whyNotOwn, by.Self)
	}
	var err error
	p.key, err = r.keys.TrailKey(ctx)
	return p, err
}

// refuse records a refusal and returns it.
func (p *report) refuse(ctx context.Context, why string, self crypto.Subject) error {
	e := p.event
	e.Outcome, e.Why = Denied, why
	if self != "" {
		e.Subjects = []Subject{{ID: self}}
	}
	if err := p.put(ctx, e); err != nil {
		return err
	}
	return fmt.Errorf("%w: %s", ErrRefused, why)
}

func (p *report) put(ctx context.Context, e Event) error {
	if err := p.r.recorder.Record(ctx, e); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return ErrNotRecorded // without the recorder's words, which may hold the event
	}
	return nil
}

// reportPage is how many people are in one event that says whom a report named.
const reportPage = 500

// record makes durable that the report is given out: how many rows it has, and whom it names. A long list of people is spread over several
// events of the same time.
func (p *report) record(ctx context.Context, rows int, subjects ...crypto.Subject) error {
	e := p.event
	e.Outcome, e.Count = Done, rows
	for first := true; first || len(subjects) > 0; first = false {
		n := min(len(subjects), reportPage)
		e.Subjects = nil
		for _, id := range subjects[:n] {
			e.Subjects = append(e.Subjects, Subject{ID: id})
		}
		if err := p.put(ctx, e); err != nil {
			return err
		}
		subjects, e.Count = subjects[n:], 0
	}
	return nil
}

// A selection says which entries a report is made of. It is looked for in the bodies; the store's index only spares reading the others.
type selection struct {
	actions []Action // none: all
	tags    []Tag    // none: about whomever
	since   time.Time
	until   time.Time
	whole   bool // the index is not asked
	copies  bool // copies of entries, too
	to      uint64
}

// An item is an authentic entry that was selected.
type item struct {
	number uint64
	opened
	at int // of the tag that was selected
}

// before is the order of rows: by time, then by number.
func (i *item) compare(other *item) int {
	if c := i.event.Time.Compare(other.event.Time); c != 0 {
		return c
	}
	switch {
	case i.number < other.number:
		return -1
	case i.number > other.number:
		return 1
	}
	return 0
}

const scanPage = 1000

// each calls f with the entries that s selects, page by page, in the store's order.
func (p *report) each(ctx context.Context, s selection, f func(item) error) error {
	q := Query{To: s.to, Limit: scanPage}
	if !s.whole && !p.r.thorough {
		q.Actions, q.Tags, q.Since, q.Until = s.actions, s.tags, s.since, s.until
	}
	wanted := make(map[Tag]bool, len(s.tags))
	for _, t := range s.tags {
		wanted[t] = true
	}
	seen := map[[nonceSize]byte]bool{} // a copy that somebody put there counts once
	for {
		page, err := p.r.store.Entries(ctx, q)
		if err != nil {
			return err
		}
		for _, entry := range page.Entries {
			o, ok := p.open(entry.Body)
			if !ok {
				p.skipped++
				continue
			}
			i := item{number: entry.Number, opened: o, at: -1}
			for n, t := range o.tags {
				if wanted[t] {
					i.at = n
					break
				}
			}
			e := &o.event
			switch {
			case len(s.actions) > 0 && !slices.Contains(s.actions, e.Action), len(wanted) > 0 && i.at < 0,
				!s.since.IsZero() && e.Time.Before(s.since), !s.until.IsZero() && !e.Time.Before(s.until):
				continue
			}
			if !s.copies {
				if seen[o.nonce] {
					continue
				}
				seen[o.nonce] = true
			}
			if err := f(i); err != nil {
				return err
			}
		}
		if page.Cursor == "" {
			return nil
		}
		q.Cursor = page.Cursor
	}
}

// open takes apart the body of an authentic entry.
func (p *report) open(body []byte) (o opened, ok bool) {
	leaf, err := leafOf(p.leaf, body)
	p.leaf = leaf
	if err != nil || !authentic(p.key, leaf) {
		return o, false
	}
	o, err = open(body)
	return o, err == nil
}

// sorted returns the entries that s selects, in the order of time.
func (p *report) sorted(ctx context.Context, s selection, keep func(*Event) bool) (items []item, err error) {
	err = p.each(ctx, s, func(i item) error {
		if keep == nil || keep(&i.event) {
			items = append(items, i)
		}
		return nil
	})
	slices.SortFunc(items, func(a, b item) int { return a.compare(&b) })
	return items, err
}

const (
	tagPage   = 120                  // months in one query
	clockSkew = 24 * time.Hour * 366 // how far in the future, by the reporter's clock, entries about a subject are looked for
)

// about returns the entries about one subject, in the order of time. A subject who was forgotten has none any more: that is an error of the
// keyring, and recorded.
func (p *report) about(ctx context.Context, subject crypto.Subject, s selection, keep func(*Event) bool) (items []item, err error) {
	first, last := uint16(0), monthOf(p.r.now().Add(clockSkew))
	if !s.since.IsZero() && s.since.Year() >= 1970 {
		first = monthOf(s.since)
	}
	if !s.until.IsZero() && s.until.Year() >= 1970 {
		last = min(last, monthOf(s.until))
	}
	var tags []Tag
	for month := int(first); month <= int(last); month++ {
		secret, err := p.r.keys.Tag(ctx, subject, monthLabel(uint16(month)))
		if errors.Is(err, crypto.ErrShredded) || errors.Is(err, crypto.ErrNoKey) {
			e := p.event
			e.Outcome, e.Why = NotFound, whyForgotten
			if failed := p.put(ctx, e); failed != nil {
				return nil, failed
			}
		}
		if err != nil {
			return nil, err
		}
		tags = append(tags, makeTag(uint16(month), secret))
	}
	if len(tags) == 0 {
		return nil, nil
	}
	size := tagPage
	if p.r.thorough {
		size = len(tags)
	}
	for part := range slices.Chunk(tags, size) {
		s.tags = part
		some, err := p.sorted(ctx, s, keep)
		if err != nil {
			return nil, err
		}
		items = append(items, some...)
	}
	slices.SortFunc(items, func(a, b item) int { return a.compare(&b) })
	return items, nil
}

// resolve finds the living subjects whose tags are in a set, and calls f with each tag of theirs.
func (p *report) resolve(ctx context.Context, tags map[Tag]bool, f func(Tag, crypto.Subject)) error {
	months := monthsOf(tags)
	if len(months) == 0 {
		return nil
	}
	return p.r.eachTag(ctx, months, func(subject crypto.Subject, tag Tag) {
		if tags[tag] {
			f(tag, subject)
		}
	})
}

func monthsOf(tags map[Tag]bool) (months []uint16) {
	seen := map[uint16]bool{}
	for t := range tags {
		if m := t.month(); !seen[m] {
			seen[m] = true
			months = append(months, m)
		}
	}
	slices.Sort(months)
	return months
}

func (t Tag) month() uint16 { return uint16(t[0])<<8 | uint16(t[1]) }

// eachTag calls f with every tag of every living subject in some months.
func (r *Reporter) eachTag(ctx context.Context, months []uint16, f func(crypto.Subject, Tag)) error {
	labels := make([]string, len(months))
	for i, m := range months {
		labels[i] = monthLabel(m)
	}
	return r.keys.EachTags(ctx, labels, func(subject crypto.Subject, secrets []crypto.Tag) error {
		for i, secret := range secrets {
			f(subject, makeTag(months[i], secret))
		}
		return nil
	})
}

// forgotten says of how many tags nobody is known, by month.
func forgotten(tags map[Tag]bool, known map[Tag]crypto.Subject) (list []ForgottenMonth) {
	var rest []Tag
	for t := range tags {
		if _, ok := known[t]; !ok {
			rest = append(rest, t)
		}
	}
	slices.SortFunc(rest, func(a, b Tag) int { return bytes.Compare(a[:], b[:]) })
	for _, t := range rest {
		month := time.Date(1970, time.Month(1+int(t.month())), 1, 0, 0, 0, 0, time.UTC).Format("2006-01")
		if n := len(list); n == 0 || list[n-1].Month != month {
			list = append(list, ForgottenMonth{Month: month})
		}
		list[len(list)-1].People++
	}
	return list
}

// A ForgottenMonth says how many people events of a month are about who were forgotten since. In another month the same ones count again.
type ForgottenMonth struct {
	Month  string `json:"month"` // 2026-11
	People int    `json:"people"`
}
