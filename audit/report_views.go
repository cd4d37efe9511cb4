package audit

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// ViewFilter says which looks at patrons to list. Zero fields ask for all.
type ViewFilter struct {
	Period            // in which the look, or the time that its record covers, lies at least partly
	Segments []string // at least one of these was shown
}

// A ViewRow is one record of somebody who looked at a patron's data, tried to, or had it given out.
type ViewRow struct {
	Time      time.Time      `json:"time"`
	Until     time.Time      `json:"until,omitzero"`    // further looks of the same kind up to then made no record of their own
	Subject   crypto.Subject `json:"subject,omitempty"` // empty: somebody who was forgotten
	Actor     string         `json:"actor,omitempty"`
	Self      bool           `json:"self,omitempty"` // the patron themself
	Role      string         `json:"role,omitempty"`
	Purpose   string         `json:"purpose,omitempty"`
	Channel   Channel        `json:"channel,omitempty"`
	Segments  []string       `json:"segments,omitempty"`
	Action    Action         `json:"action"`
	Report    string         `json:"report,omitempty"` // which one, when the action is report
	Outcome   Outcome        `json:"outcome"`
	Why       string         `json:"why,omitempty"`
	Grant     string         `json:"grant,omitempty"` // the trail's reference of a break-glass grant: equal for equal grants
	Recipient string         `json:"recipient,omitempty"`
}

func viewRow(e *Event, subject crypto.Subject) ViewRow {
	row := ViewRow{Time: e.Time, Subject: subject, Actor: e.Actor, Self: e.Actor == "" && e.Outcome != Denied, Role: e.Role, Purpose: e.Purpose,
		Channel: e.Channel, Segments: e.Segments, Action: e.Action, Outcome: e.Outcome, Why: e.Why, Grant: e.Grant, Recipient: e.Recipient}
	if e.Covers > 0 {
		row.Until = e.Time.Add(e.Covers)
	}
	if e.Action == Report {
		row.Report = e.Object
	}
	return row
}

// viewing are the actions by which somebody learns of a patron, or opens the way to it.
var viewing = []Action{View, Find, Resolve, BreakGlass, Review, Export, Report}

func (f *ViewFilter) selection() selection {
	s := selection{actions: viewing, since: f.Since, until: f.Until}
	if !s.since.IsZero() {
		s.since = s.since.Add(-window)
	}
	return s
}

func (f *ViewFilter) wants(e *Event) bool {
	return f.touches(e) && (len(f.Segments) == 0 || slices.ContainsFunc(e.Segments, func(s string) bool { return slices.Contains(f.Segments, s) }))
}

// Views says who looked at what of a patron, when, for what purpose, and what was refused. Ordered by time.
//
// Errors: [crypto.ErrShredded] and [crypto.ErrNoKey] for one who was forgotten or never there.
func (r *Reporter) Views(ctx context.Context, by By, subject crypto.Subject, f ViewFilter) (Table[ViewRow], error) {
	var t Table[ViewRow]
	p, err := r.begin(ctx, by, "views", "")
	if err != nil {
		return t, err
	}
	items, err := p.about(ctx, subject, f.selection(), f.wants)
	if err != nil {
		return t, err
	}
	for _, i := range items {
		t.Rows = append(t.Rows, viewRow(&i.event, subject))
	}
	t.Skipped = p.skipped
	return give(ctx, p, t, subject)
}

// ViewsBy says whom a member of staff or a program looked at, with one row for each patron of an event. Those who were forgotten since are
// counted and not listed; what reached nobody has a row without a subject. Ordered by time.
func (r *Reporter) ViewsBy(ctx context.Context, by By, actor string, f ViewFilter) (Table[ViewRow], error) {
	var t Table[ViewRow]
	p, err := r.begin(ctx, by, "views-by", "")
	if err != nil {
		return t, err
	}
	if actor == "" {
		return t, errors.New("audit: ViewsBy wants an actor; patrons who look at their own data are none")
	}
	items, err := p.sorted(ctx, f.selection(), func(e *Event) bool { return e.Actor == actor && f.wants(e) })
	if err != nil {
		return t, err
	}
	tags, known := map[Tag]bool{}, map[Tag]crypto.Subject{}
	for _, i := range items {
		for _, tag := range i.tags {
			tags[tag] = true
		}
	}
	subjects := map[crypto.Subject]bool{}
	err = p.resolve(ctx, tags, func(tag Tag, s crypto.Subject) { known[tag], subjects[s] = s, true })
	if err != nil {
		return t, err
	}
	for _, i := range items {
		var whom []crypto.Subject
		for _, tag := range i.tags {
			if s, ok := known[tag]; ok {
				whom = append(whom, s)
			}
		}
		slices.Sort(whom)
		for _, s := range slices.Compact(whom) {
			t.Rows = append(t.Rows, viewRow(&i.event, s))
		}
		if len(i.tags) == 0 && i.event.Action != Report { // a report about nobody is no look at anybody
			t.Rows = append(t.Rows, viewRow(&i.event, ""))
		}
	}
	for _, month := range forgotten(tags, known) {
		t.Forgotten += month.People
	}
	t.Skipped = p.skipped
	return give(ctx, p, t, sortedKeys(subjects)...)
}

// A SeenRow is what a patron may know of a look at their data: when and why and what, and in which capacity, but not who it was
// (Court of Justice of the European Union, C-579/21); and to whom it was given (C-154/21).
type SeenRow struct {
	Date      string   `json:"date"` // in UTC
	Purpose   string   `json:"purpose,omitempty"`
	Role      string   `json:"role,omitempty"`
	Segments  []string `json:"segments,omitempty"` // none: only that they are there
	Recipient string   `json:"recipient,omitempty"`
}

// Seen says what a patron may see of who looked at their data. It is the one report that they may ask for themselves. Only what was shown
// is in it, not what was refused. Ordered by time.
//
// Errors: [crypto.ErrShredded] and [crypto.ErrNoKey] for one who was forgotten or never there.
func (r *Reporter) Seen(ctx context.Context, by By, subject crypto.Subject, period Period) (Table[SeenRow], error) {
	var t Table[SeenRow]
	p, err := r.begin(ctx, by, "seen", subject)
	if err != nil {
		return t, err
	}
	f := ViewFilter{Period: period}
	items, err := p.about(ctx, subject, f.selection(), func(e *Event) bool { return discloses(e) && f.wants(e) })
	if err != nil {
		return t, err
	}
	for _, i := range items {
		e := &i.event
		t.Rows = append(t.Rows, SeenRow{Date: e.Time.Format(time.DateOnly), Purpose: e.Purpose, Role: e.Role, Segments: e.Segments,
			Recipient: e.Recipient})
	}
	t.Skipped = p.skipped
	return give(ctx, p, t, subject)
}
