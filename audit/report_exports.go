package audit

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"
)

// ExportFilter says which exports to list. Zero fields ask for all.
type ExportFilter struct {
	Period
	Actor     string
	Recipient string
}

// An ExportRow is an export. Its pages are one event each; those that follow one another within ten minutes, and say the same of
// everything but how many people are on them, are taken for one export.
type ExportRow struct {
	Time      time.Time `json:"time"`          // of the first page
	Last      time.Time `json:"last,omitzero"` // of the last, when there are more
	Actor     string    `json:"actor,omitempty"`
	Self      bool      `json:"self,omitempty"` // a patron, of their own record
	Role      string    `json:"role,omitempty"`
	Purpose   string    `json:"purpose,omitempty"`
	Channel   Channel   `json:"channel,omitempty"`
	Recipient string    `json:"recipient,omitempty"` // empty: the library itself
	Approval  string    `json:"approval,omitempty"`
	Segments  []string  `json:"segments,omitempty"`
	Count     int       `json:"count"` // of patrons
	Pages     int       `json:"pages"`
	Outcome   Outcome   `json:"outcome"`
	Why       string    `json:"why,omitempty"`
}

// exportGap is the most that lies between two pages of one export.
const exportGap = 10 * time.Minute

func (a *ExportRow) continues(b *ExportRow) bool {
	return a.Actor == b.Actor && a.Self == b.Self && a.Role == b.Role && a.Purpose == b.Purpose && a.Channel == b.Channel &&
		a.Recipient == b.Recipient && a.Approval == b.Approval && a.Outcome == b.Outcome && a.Why == b.Why && slices.Equal(a.Segments, b.Segments) &&
		!a.Time.After(cmp.Or(b.Last, b.Time).Add(exportGap))
}

// Exports lists exports: who gave what of how many patrons to whom, and under which approval; refused ones too. Ordered by the time of the
// first page.
func (r *Reporter) Exports(ctx context.Context, by By, f ExportFilter) (Table[ExportRow], error) {
	var t Table[ExportRow]
	p, err := r.begin(ctx, by, "exports", "")
	if err != nil {
		return t, err
	}
	items, err := p.sorted(ctx, selection{actions: []Action{Export}, since: f.Since, until: f.Until}, func(e *Event) bool {
		return (f.Actor == "" || e.Actor == f.Actor) && (f.Recipient == "" || e.Recipient == f.Recipient)
	})
	if err != nil {
		return t, err
	}
	open := 0 // rows before this one are too old to go on
pages:
	for _, i := range items {
		e := &i.event
		row := ExportRow{Time: e.Time, Actor: e.Actor, Self: e.Actor == "" && e.Outcome != Denied, Role: e.Role, Purpose: e.Purpose, Channel: e.Channel,
			Recipient: e.Recipient, Approval: e.Approval, Segments: e.Segments, Count: e.Count, Pages: 1, Outcome: e.Outcome, Why: e.Why}
		for open < len(t.Rows) && row.Time.After(cmp.Or(t.Rows[open].Last, t.Rows[open].Time).Add(exportGap)) {
			open++
		}
		// Everything but patrons' own exports: those of two patrons look the same, and are two.
		for n := len(t.Rows) - 1; n >= open && e.Actor != ""; n-- {
			if one := &t.Rows[n]; row.continues(one) {
				one.Last, one.Count, one.Pages = row.Time, one.Count+row.Count, one.Pages+1
				continue pages
			}
		}
		t.Rows = append(t.Rows, row)
	}
	t.Skipped = p.skipped
	return give(ctx, p, t)
}

// ReportFilter says which reports to list. Zero fields ask for all.
type ReportFilter struct {
	Period
	Actor  string
	Report string // its name
}

// A ReportRow is a report that was made, or refused.
type ReportRow struct {
	Time     time.Time `json:"time"`
	Report   string    `json:"report"`
	Actor    string    `json:"actor,omitempty"`
	Self     bool      `json:"self,omitempty"` // a patron, of themself
	Role     string    `json:"role,omitempty"`
	Purpose  string    `json:"purpose,omitempty"`
	Channel  Channel   `json:"channel,omitempty"`
	Approval string    `json:"approval,omitempty"`
	Rows     int       `json:"rows"`
	People   int       `json:"people,omitempty"` // who were named
	Outcome  Outcome   `json:"outcome"`
	Why      string    `json:"why,omitempty"`
}

// Reports lists the reports that were made on the trail; not the one that it is itself. Ordered by time.
func (r *Reporter) Reports(ctx context.Context, by By, f ReportFilter) (Table[ReportRow], error) {
	var t Table[ReportRow]
	p, err := r.begin(ctx, by, "reports", "")
	if err != nil {
		return t, err
	}
	items, err := p.sorted(ctx, selection{actions: []Action{Report}, since: f.Since, until: f.Until}, func(e *Event) bool {
		return (f.Actor == "" || e.Actor == f.Actor) && (f.Report == "" || e.Object == f.Report)
	})
	if err != nil {
		return t, err
	}
	for _, i := range items {
		e := &i.event
		row := ReportRow{Time: e.Time, Report: e.Object, Actor: e.Actor, Self: e.Actor == "" && len(i.tags) > 0, Role: e.Role, Purpose: e.Purpose,
			Channel: e.Channel, Approval: e.Approval, Outcome: e.Outcome, Why: e.Why}
		same := row
		row.Rows, row.People = e.Count, len(i.tags)
		if n := len(t.Rows) - 1; n >= 0 && e.Actor != "" { // a list of people, spread over events
			if last := &t.Rows[n]; last.without() == same {
				last.Rows, last.People = last.Rows+row.Rows, last.People+row.People
				continue
			}
		}
		t.Rows = append(t.Rows, row)
	}
	t.Skipped = p.skipped
	return give(ctx, p, t)
}

// without is a row without its numbers.
func (r ReportRow) without() ReportRow {
	r.Rows, r.People = 0, 0
	return r
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
