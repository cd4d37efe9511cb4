package audit

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// ChangeFilter says which changes to list. Zero fields ask for all.
type ChangeFilter struct {
	Period
	Segments []string

	// Values asks for what stood there before and after. The report's event then says that these segments were shown.
	Values bool
}

// A ChangeRow is a change of one segment of a patron's record. Before and After are empty unless they were asked for; they are encoded as package patron
// specifies it, and do not print: who needs them reveals them.
type ChangeRow struct {
	Time    time.Time     `json:"time"`
	Segment string        `json:"segment"`
	Kind    string        `json:"kind"` // added, removed, replaced; changed, when the event does not say more
	Actor   string        `json:"actor,omitempty"`
	Self    bool          `json:"self,omitempty"` // the patron themself
	Role    string        `json:"role,omitempty"`
	Purpose string        `json:"purpose,omitempty"`
	Channel Channel       `json:"channel,omitempty"`
	Action  Action        `json:"action"`
	Outcome Outcome       `json:"outcome"`           // failed: recorded, and then not done after all
	Version uint64        `json:"version,omitempty"` // of the record after it
	Before  crypto.Secret `json:"-"`
	After   crypto.Secret `json:"-"`
}

// Changes lists the changes of a patron's record, segment by segment. Ordered by time, then segment. An event whose sealed part does not open is
// counted as skipped.
//
// Errors: [crypto.ErrShredded] and [crypto.ErrNoKey] for one who was forgotten or never there.
func (r *Reporter) Changes(ctx context.Context, by By, subject crypto.Subject, f ChangeFilter) (Table[ChangeRow], error) {
	var t Table[ChangeRow]
	p, err := r.begin(ctx, by, "changes", "")
	if err != nil {
		return t, err
	}
	s := selection{actions: []Action{Create, Update, Import}, since: f.Since, until: f.Until}
	items, err := p.about(ctx, subject, s, func(e *Event) bool { return e.Outcome == Done || e.Outcome == Failed })
	if err != nil {
		return t, err
	}
	shown := map[string]bool{}
	for _, i := range items {
		e := &i.event
		whom := Subject{ID: subject}
		if sealed := i.sealed[i.at]; len(sealed) > 0 {
			plain, err := r.keys.Open(ctx, subject, crypto.Sealed{Label: sealLabel, Data: sealed})
			if err == nil {
				whom, err = decodeSubject(subject, plain[0].Reveal())
			}
			if err != nil {
				p.skipped++
				continue
			}
		}
		changes := whom.Changes
		if len(changes) == 0 {
			for _, segment := range e.Segments {
				changes = append(changes, Change{Segment: segment})
			}
		}
		slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Compare(a.Segment, b.Segment) })
		for _, c := range changes {
			if len(f.Segments) > 0 && !slices.Contains(f.Segments, c.Segment) {
				continue
			}
			kind := c.kind()
			if !f.Values {
				c.Before, c.After = crypto.Secret{}, crypto.Secret{}
			} else {
				shown[c.Segment] = true
			}
			t.Rows = append(t.Rows, ChangeRow{Time: e.Time, Segment: c.Segment, Kind: kind, Actor: e.Actor, Self: e.Actor == "", Role: e.Role,
				Purpose: e.Purpose, Channel: e.Channel, Action: e.Action, Outcome: e.Outcome, Version: whom.Version, Before: c.Before, After: c.After})
		}
	}
	p.event.Segments = sortedKeys(shown)
	t.Skipped = p.skipped
	return give(ctx, p, t, subject)
}

// kind says what happened without saying what the values are.
func (c *Change) kind() string {
	switch before, after := c.Before.IsEmpty(), c.After.IsEmpty(); {
	case before && after:
		return "changed"
	case before:
		return "added"
	case after:
		return "removed"
	}
	return "replaced"
}
