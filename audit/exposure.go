package audit

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// A Scope says what is out: an account, a role, a break-glass grant, a recipient, a time. Of each list one must fit, and all lists that
// are not empty must. At least one field is set.
type Scope struct {
	Period
	Actors     []string // members of staff and programs
	Roles      []string
	Grants     []string // break-glass grants, on patrons who were not forgotten
	Recipients []string // of exports

	// Everyone means that a copy of the database is out, together with what opens it: everybody who has a key, with everything. It stands
	// alone.
	Everyone bool

	references map[string]bool // what stands in the trail for Grants
}

func (s *Scope) check() error {
	lists := len(s.Actors) + len(s.Roles) + len(s.Grants) + len(s.Recipients)
	timed := !s.Since.IsZero() || !s.Until.IsZero()
	switch {
	case s.Everyone && lists > 0:
		return errors.New("audit: Scope.Everyone stands for everything, and alone")
	case !s.Everyone && lists == 0 && !timed:
		return errors.New("audit: Scope says nothing of what is out")
	}
	return nil
}

// disclosed are the actions that tell somebody something of a patron.
var disclosed = []Action{View, Find, Resolve, Review, Export, Report}

// discloses reports whether an event says that something of patrons was told. That it was recorded to have failed later takes nothing
// back: it may have failed on the way.
func discloses(e *Event) bool { return e.Outcome == Done && slices.Contains(disclosed, e.Action) }

// holds reports whether what an event tells is in the scope.
func (s *Scope) holds(e *Event) bool {
	fits := func(list []string, word string) bool { return len(list) == 0 || slices.Contains(list, word) }
	return discloses(e) && s.touches(e) && fits(s.Actors, e.Actor) && fits(s.Roles, e.Role) && fits(s.Recipients, e.Recipient) &&
		(len(s.Grants) == 0 || s.references[e.Grant])
}

// refer works out what stands in the trail for the grants: it is made under the key of whom they are on.
func (s *Scope) refer(ctx context.Context, keys *crypto.Keyring) error {
	if len(s.Grants) == 0 {
		return nil
	}
	labels := make([]string, len(s.Grants))
	for i, grant := range s.Grants {
		labels[i] = grantLabel(grant)
	}
	s.references = map[string]bool{}
	return keys.EachTags(ctx, labels, func(_ crypto.Subject, tags []crypto.Tag) error {
		for _, tag := range tags {
			s.references[hex.EncodeToString(tag[:])] = true
		}
		return nil
	})
}

// identitySegment stands for what is told by finding somebody without showing anything: that they are a patron, and which one.
const identitySegment = "identity"

// everySegment stands for all that there is of somebody.
const everySegment = "everything"

// An Exposure is what a breach lets out, or what it may have: the patrons, by name of their ID, the segments, and how many of each, as a
// notice after article 33 of the GDPR wants them. An event that stands for others within some time counts for all of that time, so that it
// says too much by at most that time, and never too little.
//
// What was pruned, lost or tampered with says nothing any more: PrunedBefore, Lost and Skipped tell whether that is so.
type Exposure struct {
	Rows []Exposed `json:"rows"` // by patron, then segment

	Patrons    int                       `json:"patrons"` // in the rows
	Records    int                       `json:"records"` // rows: patrons × segments
	Segments   map[string]int            `json:"segments,omitempty"`
	Categories map[string]ExposedNumbers `json:"categories,omitempty"`
	First      time.Time                 `json:"first,omitzero"`
	Last       time.Time                 `json:"last,omitzero"`
	Events     int                       `json:"events"` // in the scope

	// Forgotten says, month by month, how many people were let out who have been forgotten since; nothing leads to them any more. In two
	// months the same ones count twice, so that the sum, ForgottenAtMost, is an upper bound.
	Forgotten       []ForgottenMonth `json:"forgotten,omitempty"`
	ForgottenAtMost int              `json:"forgotten_at_most"`
	Keyless         int              `json:"keyless"` // people whom events count who had no key when they were recorded

	Skipped      int       `json:"skipped"`                // entries that are damaged or forged: what they said before is unknown
	PrunedBefore time.Time `json:"pruned_before,omitzero"` // what was told before then has partly been pruned, and the scope reaches into that
	Lost         uint64    `json:"lost,omitempty"`         // entries, in all the trail, that a restore from a backup has lost
}

// An Exposed is a segment of a patron that is out. First and Last are when it went out; as records stand for some time, they may
// lie outside the scope by that time.
type Exposed struct {
	Patron  crypto.Subject `json:"patron"`
	Segment string         `json:"segment"` // "identity": only that they are a patron; "everything": all there is
	First   time.Time      `json:"first,omitzero"`
	Last    time.Time      `json:"last,omitzero"`
	Times   int            `json:"times"` // events
}

// ExposedNumbers is how much of a category of personal data is out.
type ExposedNumbers struct {
	Patrons int `json:"patrons"`
	Records int `json:"records"`
}

// category returns the category of personal data that a segment belongs to.
func category(segment string) string {
	switch segment {
	case identitySegment, "names", "identifiers", "birth", "photo":
		return "identity"
	case "addresses", "phones", "emails":
		return "contact"
	case "blocks", "notes", "roles", "campus", "statistics":
		return "account"
	}
	return "other"
}

// A span is when something went out.
type span struct {
	first, last time.Time
	times       int
}

func (s *span) add(o span) {
	if s.times == 0 || o.first.Before(s.first) {
		s.first = o.first
	}
	if s.times == 0 || o.last.After(s.last) {
		s.last = o.last
	}
	s.times += o.times
}

// Exposure says what a breach lets out. It always reads the whole trail, and no index. A report that named people, or showed the changes of
// one, counts as telling of them.
func (r *Reporter) Exposure(ctx context.Context, by By, s Scope) (Exposure, error) {
	p, err := r.begin(ctx, by, "exposure", "")
	if err != nil {
		return Exposure{}, err
	}
	if err := s.check(); err != nil {
		return Exposure{}, err
	}
	if err := s.refer(ctx, r.keys); err != nil {
		return Exposure{}, err
	}
	x := Exposure{Rows: []Exposed{}}
	rows := map[crypto.Subject]map[string]*span{}
	if s.Everyone {
		err = x.everyone(ctx, r.keys, &s, rows)
	} else {
		err = x.gather(ctx, p, &s, rows)
	}
	if err != nil {
		return Exposure{}, err
	}
	x.sum(rows)
	if err := p.record(ctx, len(x.Rows), sortedKeys(rows)...); err != nil {
		return Exposure{}, err
	}
	return x, nil
}

// everyone lists all who have a key.
func (x *Exposure) everyone(ctx context.Context, keys *crypto.Keyring, s *Scope, rows map[crypto.Subject]map[string]*span) error {
	x.First, x.Last = s.Since, s.Until
	return keys.EachTags(ctx, nil, func(subject crypto.Subject, _ []crypto.Tag) error {
		rows[subject] = map[string]*span{everySegment: {first: s.Since, last: s.Until}}
		return nil
	})
}

// gather reads the trail.
func (x *Exposure) gather(ctx context.Context, p *report, s *Scope, rows map[crypto.Subject]map[string]*span) error {
	out, tags := map[Tag]map[string]*span{}, map[Tag]bool{}
	var all span
	now := p.event.Time
	err := p.each(ctx, selection{whole: true}, func(i item) error {
		e := &i.event
		if e.Outcome == Done {
			x.gaps(e, s)
		}
		if !s.holds(e) || e.Action == Report && len(i.tags) == 0 {
			return nil
		}
		x.Events++
		when := span{e.Time, e.Time.Add(e.Covers), 1}
		if when.last.After(now) { // nothing has gone out that is yet to come
			when.last = now
			if now.Before(e.Time) {
				when.last = e.Time
			}
		}
		all.add(when)
		whom := sortTags(i.tags)
		if e.Action != Report {
			x.Keyless += max(0, e.Count-len(whom))
		}
		segments := e.Segments
		if len(segments) == 0 {
			segments = []string{identitySegment}
		}
		for _, tag := range whom {
			one := out[tag]
			if one == nil {
				one = map[string]*span{}
				out[tag], tags[tag] = one, true
			}
			for _, segment := range segments {
				addSpan(one, segment, when)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	x.First, x.Last, x.Skipped = all.first, all.last, p.skipped
	known := map[Tag]crypto.Subject{}
	if err := p.resolve(ctx, tags, func(tag Tag, subject crypto.Subject) { known[tag] = subject }); err != nil {
		return err
	}
	for tag, subject := range known {
		if rows[subject] == nil {
			rows[subject] = map[string]*span{}
		}
		for segment, when := range out[tag] {
			addSpan(rows[subject], segment, *when)
		}
	}
	x.Forgotten = forgotten(tags, known)
	for _, month := range x.Forgotten {
		x.ForgottenAtMost += month.People
	}
	return nil
}

func addSpan(m map[string]*span, segment string, when span) {
	if m[segment] == nil {
		m[segment] = new(span)
	}
	m[segment].add(when)
}

// gaps notes what the trail does not know any more.
func (x *Exposure) gaps(e *Event, s *Scope) {
	switch e.Action {
	case Prune:
		told := slices.ContainsFunc(disclosed, func(a Action) bool { return string(a.Class()) == e.Kind })
		if told && e.Before.After(s.Since) && e.Before.After(x.PrunedBefore) {
			x.PrunedBefore = e.Before
		}
	case Restore:
		for _, r := range e.Ranges {
			x.Lost += r.To - r.From
		}
	}
}

// sum lists and counts.
func (x *Exposure) sum(rows map[crypto.Subject]map[string]*span) {
	x.Segments, x.Categories = map[string]int{}, map[string]ExposedNumbers{}
	for _, patron := range sortedKeys(rows) {
		seen := map[string]bool{}
		for _, segment := range sortedKeys(rows[patron]) {
			when := rows[patron][segment]
			x.Rows = append(x.Rows, Exposed{patron, segment, when.first, when.last, when.times})
			x.Segments[segment]++
			name := category(segment)
			n := x.Categories[name]
			n.Records++
			if !seen[name] {
				seen[name] = true
				n.Patrons++
			}
			x.Categories[name] = n
		}
	}
	x.Patrons, x.Records = len(rows), len(x.Rows)
}
