package audit

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// A LastLogin says when a member of staff was last let in, and when somebody was last turned away under their name since.
type LastLogin struct {
	Staff   string    `json:"staff"`
	Success time.Time `json:"success,omitzero"` // zero: never in the period
	Role    string    `json:"role,omitempty"`   // the last three are of that login
	Channel Channel   `json:"channel,omitempty"`
	Network string    `json:"network,omitempty"`

	Restricted time.Time `json:"restricted,omitzero"` // since Success
	Failed     time.Time `json:"failed,omitzero"`
}

// LastLogins says of every member of staff who logged in, or tried, when that was last. Ordered by Staff.
func (r *Reporter) LastLogins(ctx context.Context, by By, period Period) (Table[LastLogin], error) {
	var t Table[LastLogin]
	p, err := r.begin(ctx, by, "last-logins", "")
	if err != nil {
		return t, err
	}
	type attempt struct {
		item
		result Result
	}
	last := map[string]map[Result]attempt{}
	err = p.each(ctx, selection{actions: []Action{LogIn}, since: period.Since, until: period.Until}, func(i item) error {
		if i.event.Actor == "" {
			return nil // a patron, or nobody that there is
		}
		results := last[i.event.Actor]
		if results == nil {
			results = map[Result]attempt{}
			last[i.event.Actor] = results
		}
		result := i.event.result()
		if known, ok := results[result]; !ok || known.compare(&i) < 0 {
			i.event.Actor = "" // the row has it
			results[result] = attempt{i, result}
		}
		return nil
	})
	if err != nil {
		return t, err
	}
	for staff, results := range last {
		success, in := results[Success]
		row := LastLogin{Staff: staff}
		if in {
			e := &success.event
			row.Success, row.Role, row.Channel, row.Network = e.Time, e.Role, e.Channel, e.Network
		}
		since := func(result Result) (at time.Time) {
			if a, ok := results[result]; ok && (!in || success.compare(&a.item) < 0) {
				at = a.event.Time
			}
			return at
		}
		row.Restricted, row.Failed = since(Restricted), since(Wrong)
		t.Rows = append(t.Rows, row)
	}
	slices.SortFunc(t.Rows, func(a, b LastLogin) int { return cmp.Compare(a.Staff, b.Staff) })
	t.Skipped = p.skipped
	return give(ctx, p, t)
}

// LoginFilter says which logins to list. Zero fields ask for all.
type LoginFilter struct {
	Period
	Results []Result
	Staff   string
	Patron  crypto.Subject // of this patron only
	Role    string
	Network netip.Prefix // from a network that has addresses in common with this one
}

// aPatron stands for patrons in lists that are not about one.
const aPatron = "a patron"

// A LoginRow is one login, or an attempt.
type LoginRow struct {
	Time    time.Time `json:"time"`
	Result  Result    `json:"result"`
	Why     string    `json:"why,omitempty"`
	Staff   string    `json:"staff,omitempty"`
	Patron  string    `json:"patron,omitempty"` // "a patron"; their ID in a list that is about one; empty, as Staff is, when there is no such account
	Role    string    `json:"role,omitempty"`
	Channel Channel   `json:"channel,omitempty"`
	Network string    `json:"network,omitempty"`
}

// Logins lists logins: those that succeeded, those restricted by address, and those that failed. Ordered by time.
//
// Errors: [crypto.ErrShredded] and [crypto.ErrNoKey] for a Patron who was forgotten or never there.
func (r *Reporter) Logins(ctx context.Context, by By, f LoginFilter) (Table[LoginRow], error) {
	var t Table[LoginRow]
	p, err := r.begin(ctx, by, "logins", "")
	if err != nil {
		return t, err
	}
	s := selection{actions: []Action{LogIn}, since: f.Since, until: f.Until}
	var items []item
	if f.Patron != "" {
		items, err = p.about(ctx, f.Patron, s, f.wants)
	} else {
		items, err = p.sorted(ctx, s, f.wants)
	}
	if err != nil {
		return t, err
	}
	for _, i := range items {
		e := &i.event
		row := LoginRow{Time: e.Time, Result: e.result(), Why: e.Why, Staff: e.Actor, Role: e.Role, Channel: e.Channel, Network: e.Network}
		switch {
		case f.Patron != "":
			row.Patron = string(f.Patron)
		case e.Actor == "" && e.Count > 0:
			row.Patron = aPatron
		}
		t.Rows = append(t.Rows, row)
	}
	t.Skipped = p.skipped
	return give(ctx, p, t, named(f.Patron)...)
}

func (f *LoginFilter) wants(e *Event) bool {
	switch {
	case len(f.Results) > 0 && !slices.Contains(f.Results, e.result()), f.Staff != "" && e.Actor != f.Staff, f.Role != "" && e.Role != f.Role:
		return false
	case f.Network.IsValid():
		n, err := netip.ParsePrefix(e.Network)
		return err == nil && n.Overlaps(f.Network)
	}
	return true
}

// give records a report and only then hands it out.
func give[Row any](ctx context.Context, p *report, t Table[Row], subjects ...crypto.Subject) (Table[Row], error) {
	if err := p.record(ctx, len(t.Rows), subjects...); err != nil {
		return Table[Row]{}, err
	}
	if t.Rows == nil {
		t.Rows = []Row{} // which JSON writes as a list
	}
	return t, nil
}

// named is the list of a subject, if there is one.
func named(subject crypto.Subject) []crypto.Subject {
	if subject == "" {
		return nil
	}
	return []crypto.Subject{subject}
}
