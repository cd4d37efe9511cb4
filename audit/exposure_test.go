package audit_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

func pick[T any](rng *rand.Rand, list ...T) T { return list[rng.IntN(len(list))] }

var segmentNames = []string{"addresses", "emails", "names", "notes", "phones"}

func someSegments(rng *rand.Rand, least int) (list []string) {
	for len(list) < least {
		list = nil
		for _, s := range segmentNames {
			if rng.IntN(3) == 0 {
				list = append(list, s)
			}
		}
	}
	return list
}

// anEvent is something that may be in a scope, and much that is not.
func anEvent(rng *rand.Rand, now time.Time, subjects []crypto.Subject) audit.Event {
	e := audit.Event{Time: now, Outcome: pick(rng, audit.Done, audit.Done, audit.Done, audit.Done, audit.Denied, audit.Failed),
		Action: pick(rng, audit.View, audit.View, audit.View, audit.View, audit.Find, audit.Resolve, audit.Export, audit.Update, audit.BreakGlass,
			audit.Report),
		Actor: pick(rng, "", "a", "b", "c"), Role: pick(rng, "desk", "data"),
		Purpose: "circulation", Channel: audit.UI, Segments: someSegments(rng, 0), Count: 1}
	whom := []crypto.Subject{subjects[rng.IntN(min(len(subjects), 6))]}
	switch e.Action {
	case audit.View:
		e.Grant = pick(rng, "", "", "", "g1", "g2")
	case audit.Find, audit.Resolve:
		e.Segments = nil
	case audit.Export:
		e.Recipient = pick(rng, "", "ministry", "press")
		for range rng.IntN(5) {
			whom = append(whom, pick(rng, subjects...))
		}
		e.Count = len(whom)
	case audit.Report:
		e.Object = "views"
	}
	e.Subjects = people(whom...)
	return e
}

// told is what one record says, as the test knows it: written without a look at how carrel does it.
type told struct {
	event audit.Event
	until time.Time
}

// coalesce writes down which of the events that were fed in have a record of their own: views and look-ups of one person that were done, unless
// records less than half an hour old say the same of all that is shown.
func coalesce(events []audit.Event) (records []told) {
	for _, e := range events {
		look := e.Outcome == audit.Done && (e.Action == audit.View || e.Action == audit.Find || e.Action == audit.Resolve)
		if !look {
			records = append(records, told{e, e.Time})
			continue
		}
		says := func(segment string) bool {
			for _, r := range records {
				o := r.event
				if o.Action == e.Action && o.Outcome == e.Outcome && o.Actor == e.Actor && o.Role == e.Role && o.Purpose == e.Purpose && o.Channel == e.Channel &&
					o.Grant == e.Grant && o.Subjects[0].ID == e.Subjects[0].ID && e.Time.Sub(o.Time) < 30*time.Minute &&
					(segment == "" || slices.Contains(o.Segments, segment)) {
					return true
				}
			}
			return false
		}
		covered := says("")
		for _, s := range e.Segments {
			covered = covered && says(s)
		}
		if !covered {
			records = append(records, told{e, e.Time.Add(30 * time.Minute)})
		}
	}
	return records
}

type cell struct {
	patron  crypto.Subject
	segment string
}

func inScope(e audit.Event, s audit.Scope) bool {
	if e.Outcome != audit.Done {
		return false
	}
	switch e.Action {
	case audit.View, audit.Find, audit.Resolve, audit.Review, audit.Export, audit.Report:
	default:
		return false
	}
	return (s.Actors == nil || slices.Contains(s.Actors, e.Actor)) && (s.Roles == nil || slices.Contains(s.Roles, e.Role)) &&
		(s.Grants == nil || slices.Contains(s.Grants, e.Grant)) && (s.Recipients == nil || slices.Contains(s.Recipients, e.Recipient))
}

func cells(e audit.Event) (list []cell) {
	seen := map[cell]bool{}
	for _, s := range e.Subjects {
		segments := e.Segments
		if len(segments) == 0 {
			segments = []string{"identity"}
		}
		for _, segment := range segments {
			if c := (cell{s.ID, segment}); !seen[c] {
				seen[c] = true
				list = append(list, c)
			}
		}
	}
	return list
}

func aScope(rng *rand.Rand, begin time.Time, length time.Duration) audit.Scope {
	for {
		var s audit.Scope
		if rng.IntN(2) == 0 {
			s.Actors = pick(rng, []string{"a"}, []string{"b", "c"}, []string{""}, []string{"nobody"})
		}
		if rng.IntN(3) == 0 {
			s.Roles = pick(rng, []string{"desk"}, []string{"data", "other"})
		}
		if rng.IntN(6) == 0 {
			s.Grants = pick(rng, []string{"g1"}, []string{"g1", "g2"})
		}
		if rng.IntN(6) == 0 {
			s.Recipients = pick(rng, []string{"ministry"}, []string{"ministry", "press"})
		}
		if rng.IntN(3) > 0 {
			s.Since = begin.Add(time.Duration(rng.Int64N(int64(length)))).Truncate(time.Minute)
		}
		if rng.IntN(3) > 0 {
			s.Until = s.Since.Add(time.Duration(rng.Int64N(int64(length / 4))))
			if s.Since.IsZero() {
				s.Until = begin.Add(time.Duration(rng.Int64N(int64(length))))
			}
		}
		if s.Actors != nil || s.Roles != nil || s.Grants != nil || s.Recipients != nil || !s.Since.IsZero() || !s.Until.IsZero() {
			return s
		}
	}
}

// What an exposure says of a random scope is what counting by hand says of the events that were fed in.
func TestExposureEqualsBruteForce(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 2026))
	subjects := make([]crypto.Subject, 20)
	for i := range subjects {
		subjects[i] = crypto.Subject(fmt.Sprintf("patron-%02d", i))
	}
	d := newDesk(t, subjects...)
	begin := time.Date(2026, 1, 30, 0, 0, 0, 0, time.UTC)
	var events []audit.Event
	now := begin
	for range 250 {
		switch rng.IntN(20) { // mostly minutes, sometimes days: over four months
		case 0:
			now = now.Add(time.Duration(rng.IntN(10*24)) * time.Hour)
		default:
			now = now.Add(time.Duration(rng.IntN(9)) * time.Minute)
		}
		e := anEvent(rng, now, subjects)
		if n := len(events); n > 0 && rng.IntN(2) == 0 { // once more the same look, at the next page
			e = events[n-1]
			e.Time = now
			if e.Action == audit.View {
				e.Segments = someSegments(rng, 0)
			}
		}
		events = append(events, e)
		record(t, d, e)
	}
	tree, err := d.log.Tree(t.Context())
	require.NoError(t, err)
	records := coalesce(events)
	require.Len(t, records, int(tree.Next), "what the test takes for records are those that there are")
	require.Less(t, len(records), len(events)-20, "some were coalesced")

	r := reporter(t, d, func(c *audit.ReporterConfig) { c.Recorder = &aside{} })
	check := func(s audit.Scope, living map[crypto.Subject]bool) (rows int) {
		x, err := r.Exposure(t.Context(), auditor, s)
		require.NoError(t, err)
		// By hand, from the records.
		want := map[cell]*audit.Exposed{}
		gone := map[string]map[crypto.Subject]bool{}
		number := 0
		for _, r := range records {
			if !inScope(r.event, s) || !s.Since.IsZero() && r.until.Before(s.Since) || !s.Until.IsZero() && !r.event.Time.Before(s.Until) {
				continue
			}
			number++
			for _, c := range cells(r.event) {
				if !living[c.patron] {
					month := r.event.Time.Format("2006-01")
					if gone[month] == nil {
						gone[month] = map[crypto.Subject]bool{}
					}
					gone[month][c.patron] = true
					continue
				}
				w := want[c]
				if w == nil {
					w = &audit.Exposed{Patron: c.patron, Segment: c.segment, First: r.event.Time}
					want[c] = w
				}
				w.Times++
				if r.until.After(w.Last) {
					w.Last = r.until
				}
			}
		}
		require.Equal(t, number, x.Events)
		require.Len(t, x.Rows, len(want))
		patrons := map[crypto.Subject]bool{}
		got := map[cell]bool{}
		for _, row := range x.Rows {
			require.Equal(t, *want[cell{row.Patron, row.Segment}], row)
			patrons[row.Patron], got[cell{row.Patron, row.Segment}] = true, true
		}
		require.Equal(t, []int{len(patrons), len(want)}, []int{x.Patrons, x.Records})
		require.Len(t, x.Forgotten, len(gone))
		atMost := 0
		for _, f := range x.Forgotten {
			require.Equal(t, len(gone[f.Month]), f.People)
			atMost += f.People
		}
		require.Equal(t, atMost, x.ForgottenAtMost)
		// And by hand from what was really disclosed: never less; and more only of what was disclosed within the half hour before.
		near := map[cell]bool{}
		for _, e := range events {
			if !inScope(e, s) || !s.Until.IsZero() && !e.Time.Before(s.Until) {
				continue
			}
			for _, c := range cells(e) {
				if living[c.patron] && (s.Since.IsZero() || !e.Time.Before(s.Since)) {
					require.True(t, got[c], "disclosed and not reported")
				}
				if s.Since.IsZero() || !e.Time.Before(s.Since.Add(-30*time.Minute)) {
					near[c] = true
				}
			}
		}
		for c := range got {
			require.True(t, near[c], "reported and not disclosed")
		}
		return len(want)
	}
	living := map[crypto.Subject]bool{}
	for _, s := range subjects {
		living[s] = true
	}
	rows := 0
	for range 1000 {
		rows += check(aScope(rng, begin, now.Sub(begin)), living)
	}
	require.Greater(t, rows, 3000, "the scopes are not empty")
	for _, s := range subjects[:3] { // some of whom there is most
		require.NoError(t, d.keys.Shred(t.Context(), s))
		delete(living, s)
	}
	for range 100 {
		s := aScope(rng, begin, now.Sub(begin))
		if s.Grants != nil { // whose references only the keys of those say who were forgotten
			continue
		}
		check(s, living)
	}

	x, err := r.Exposure(t.Context(), auditor, audit.Scope{Everyone: true})
	require.NoError(t, err)
	require.Equal(t, []int{17, 17}, []int{x.Patrons, x.Segments["everything"]})
	_, err = r.Exposure(t.Context(), auditor, audit.Scope{Everyone: true, Actors: []string{"a"}})
	require.Error(t, err)
}

// What is no longer in the trail is said to be missing.
func TestExposureTellsOfGaps(t *testing.T) {
	d, ctx := newDesk(t, "p1"), t.Context()
	first := time.Date(2024, 5, 1, 9, 0, 0, 0, time.UTC)
	record(t, d, view("p1", first, "names"), view("p1", first.Add(48*time.Hour), "phones"))
	before := first.Add(24 * time.Hour)
	_, err := d.Prune(ctx, audit.Retention{Before: map[audit.Class]time.Time{audit.Views: before}}, audit.Event{Actor: "carrel", Channel: audit.Job})
	require.NoError(t, err)
	r := reporter(t, d)
	x, err := r.Exposure(ctx, auditor, audit.Scope{Actors: []string{"staff-17"}})
	require.NoError(t, err)
	require.Equal(t, 1, x.Records)
	require.True(t, x.PrunedBefore.Equal(before))
	x, err = r.Exposure(ctx, auditor, audit.Scope{Period: audit.Period{Since: before}})
	require.NoError(t, err)
	require.Zero(t, x.PrunedBefore, "the scope does not reach into that")
	require.Equal(t, 1, x.Patrons)
}
