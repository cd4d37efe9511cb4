package audit_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// morning is when what the tests tell of happened.
var morning = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func past(minute int) time.Time { return morning.Add(time.Duration(minute) * time.Minute) }

// auditor is who asks for reports in the tests.
var auditor = audit.By{Actor: "dpo", Role: "auditor", Purpose: "review", Channel: audit.CLI, Approval: "case 7"}

func reporter(t testing.TB, d *desk, change ...func(*audit.ReporterConfig)) *audit.Reporter {
	t.Helper()
	cfg := audit.ReporterConfig{Store: d.log, Keys: d.keys, Recorder: d.Trail, Now: func() time.Time { return past(600) }}
	for _, f := range change {
		f(&cfg)
	}
	r, err := audit.NewReporter(cfg)
	require.NoError(t, err)
	return r
}

// aside records nowhere, so that what is asked does not change what is asked about.
type aside struct{ events []audit.Event }

func (a *aside) Record(_ context.Context, e audit.Event) error {
	a.events = append(a.events, e)
	return nil
}

func record(t testing.TB, d *desk, events ...audit.Event) {
	t.Helper()
	for _, e := range events {
		require.NoError(t, d.Record(t.Context(), e))
	}
}

// golden compares v, as JSON, with a file. UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, ok := v.([]byte)
	if !ok {
		var err error
		got, err = json.MarshalIndent(v, "", "  ")
		require.NoError(t, err)
		got = append(got, '\n')
	}
	// The reference of a grant is another in every installation.
	got = regexp.MustCompile(`(grant[^{}]{0,60}?")[0-9a-f]{32}"`).ReplaceAll(got, []byte(`${1}a reference"`))
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.WriteFile(file, got, 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "%s: UPDATE_GOLDEN=1 writes it anew", name)
}

func people(ids ...crypto.Subject) (list []audit.Subject) {
	for _, id := range ids {
		list = append(list, audit.Subject{ID: id})
	}
	return list
}

// aDay is a day at a library: something of everything that reports are made of.
func aDay(t testing.TB) *desk {
	d := newDesk(t, "p1", "p2", "p3")
	login := func(minute int, staff string, result audit.Result, address string) audit.Event {
		return audit.Login{Time: past(minute), Staff: staff, Role: "desk", Result: result, Channel: audit.UI, Address: netip.MustParseAddr(address)}.Event()
	}
	export := func(minute int, ids ...crypto.Subject) audit.Event {
		return audit.Event{Time: past(minute), Action: audit.Export, Outcome: audit.Done, Actor: "staff-9", Role: "data", Purpose: "statistics", Channel: audit.API,
			Segments: []string{"birth", "campus"}, Count: len(ids), Recipient: "ministry", Approval: "A-12", Subjects: people(ids...)}
	}
	self := audit.Event{Time: past(20), Action: audit.View, Outcome: audit.Done, Role: "patron", Purpose: "own", Channel: audit.Self,
		Segments: []string{"names", "addresses", "phones"}, Count: 1, Subjects: people("p1")}
	refused := view("p1", past(21))
	refused.Actor, refused.Outcome, refused.Why = "staff-3", audit.Denied, "no-right"
	granted := view("p1", past(22), "addresses", "notes")
	granted.Actor, granted.Grant, granted.Role = "staff-3", "grant-1", "security"
	failed := granted
	failed.Outcome, failed.Grant = audit.Failed, ""
	found := view("p2", past(24))
	found.Action = audit.Find
	update := audit.Event{Time: past(30), Action: audit.Update, Outcome: audit.Done, Actor: "staff-17", Role: "desk", Purpose: "circulation", Channel: audit.UI,
		Segments: []string{"addresses", "phones", "notes"}, Count: 1, Subjects: []audit.Subject{{ID: "p1", Version: 4, Changes: []audit.Change{
			{Segment: "phones", After: crypto.NewSecret("+46 8 555")},
			{Segment: "addresses", Before: crypto.NewSecret("Old Lane 1"), After: crypto.NewSecret("New Lane 2")},
			{Segment: "notes", Before: crypto.NewSecret("owes a book")}}}}}
	own := update
	own.Time, own.Actor, own.Role, own.Channel, own.Purpose = past(40), "", "patron", audit.Self, "own"
	own.Segments, own.Subjects = []string{"phones"}, []audit.Subject{{ID: "p1", Version: 5, Changes: []audit.Change{
		{Segment: "phones", Before: crypto.NewSecret("+46 8 555"), After: crypto.NewSecret("+46 8 777")}}}}
	noApproval := export(54)
	noApproval.Outcome, noApproval.Why, noApproval.Approval = audit.Denied, "no-approval", ""
	record(t, d,
		login(0, "staff-17", audit.Wrong, "192.0.2.7"), login(1, "staff-17", audit.Success, "192.0.2.7"), login(2, "staff-3", audit.Success, "192.0.2.9"),
		login(3, "staff-3", audit.Restricted, "203.0.113.5"), login(4, "staff-9", audit.Wrong, "2001:db8:1:2::3"),
		audit.Login{Time: past(5), Patron: "p1", Role: "patron", Result: audit.Success, Channel: audit.Self}.Event(),
		audit.Login{Time: past(6), Result: audit.Wrong, Why: "no-account", Channel: audit.UI}.Event(),
		view("p1", past(10), "names", "addresses"), view("p1", past(15), "names"), view("p1", past(16), "phones"), view("p2", past(17), "names"),
		self, refused, granted, failed, found, update, own,
		export(50, "p1", "p2"), export(51, "p3"), noApproval,
		export(90, "p1"))
	return d
}

func TestReportsLookLikeThis(t *testing.T) {
	d := aDay(t)
	r := reporter(t, d)
	ctx := t.Context()

	last, err := r.LastLogins(ctx, auditor, audit.Period{})
	require.NoError(t, err)
	golden(t, "last-logins.json", last)
	logins, err := r.Logins(ctx, auditor, audit.LoginFilter{})
	require.NoError(t, err)
	golden(t, "logins.json", logins)
	views, err := r.Views(ctx, auditor, "p1", audit.ViewFilter{Segments: []string{"addresses", "phones"}})
	require.NoError(t, err)
	golden(t, "views.json", views)
	by, err := r.ViewsBy(ctx, auditor, "staff-17", audit.ViewFilter{})
	require.NoError(t, err)
	golden(t, "views-by.json", by)
	seen, err := r.Seen(ctx, audit.By{Self: "p1", Role: "patron", Purpose: "own", Channel: audit.Self}, "p1", audit.Period{})
	require.NoError(t, err)
	golden(t, "seen.json", seen)
	changes, err := r.Changes(ctx, auditor, "p1", audit.ChangeFilter{Values: true})
	require.NoError(t, err)
	golden(t, "changes.json", changes)
	require.Equal(t, "New Lane 2", changes.Rows[0].After.Reveal())
	exports, err := r.Exports(ctx, auditor, audit.ExportFilter{})
	require.NoError(t, err)
	golden(t, "exports.json", exports)
	exposure, err := r.Exposure(ctx, auditor, audit.Scope{Actors: []string{"staff-3", "staff-9"}, Period: audit.Period{Since: morning, Until: past(60)}})
	require.NoError(t, err)
	golden(t, "exposure.json", exposure)
	var jsonl bytes.Buffer
	_, err = r.WriteJSONL(ctx, auditor, &jsonl, audit.LogFilter{Name: true, Period: audit.Period{Until: past(60)}})
	require.NoError(t, err)
	golden(t, "log.jsonl", jsonl.Bytes())
	reports, err := r.Reports(ctx, auditor, audit.ReportFilter{})
	require.NoError(t, err)
	golden(t, "reports.json", reports)
	summary, err := r.Summary(ctx, audit.Period{}, "")
	require.NoError(t, err)
	golden(t, "summary.json", summary)

	// A second time the same, but for the reports that were made meanwhile; and the same without the index.
	thorough := reporter(t, d, func(c *audit.ReporterConfig) { c.Thorough, c.Recorder = true, &aside{} })
	for range 2 {
		again, err := thorough.Logins(ctx, auditor, audit.LoginFilter{})
		require.NoError(t, err)
		require.Equal(t, logins, again)
		p1, err := thorough.Views(ctx, auditor, "p1", audit.ViewFilter{Segments: []string{"addresses", "phones"}, Period: audit.Period{Until: past(60)}})
		require.NoError(t, err)
		require.Equal(t, views, p1)
	}
}

func TestLoginFilters(t *testing.T) {
	d := aDay(t)
	r := reporter(t, d, func(c *audit.ReporterConfig) { c.Recorder = &aside{} })
	for name, c := range map[string]struct {
		filter audit.LoginFilter
		want   []int // minutes
	}{
		"all":        {audit.LoginFilter{}, []int{0, 1, 2, 3, 4, 5, 6}},
		"restricted": {audit.LoginFilter{Results: []audit.Result{audit.Restricted}}, []int{3}},
		"failed":     {audit.LoginFilter{Results: []audit.Result{audit.Wrong, audit.Restricted}}, []int{0, 3, 4, 6}},
		"staff":      {audit.LoginFilter{Staff: "staff-3"}, []int{2, 3}},
		"patron":     {audit.LoginFilter{Patron: "p1"}, []int{5}},
		"no patron":  {audit.LoginFilter{Patron: "p2"}, nil},
		"role":       {audit.LoginFilter{Role: "patron"}, []int{5}},
		"address":    {audit.LoginFilter{Network: netip.MustParsePrefix("192.0.2.200/32")}, []int{0, 1, 2}},
		"network":    {audit.LoginFilter{Network: netip.MustParsePrefix("2001:db8::/32")}, []int{4}},
		"period":     {audit.LoginFilter{Period: audit.Period{Since: past(1), Until: past(3)}}, []int{1, 2}},
	} {
		table, err := r.Logins(t.Context(), auditor, c.filter)
		require.NoError(t, err, name)
		var got []int
		for _, row := range table.Rows {
			got = append(got, int(row.Time.Sub(morning)/time.Minute))
			if c.filter.Patron == "" {
				require.NotContains(t, row.Patron, "p1", name)
			} else {
				require.Equal(t, "p1", row.Patron)
			}
		}
		require.Equal(t, c.want, got, name)
	}
}

// Every report is recorded before it is handed out, about whom it names; when that fails there is no report.
func TestNoReportWithoutARecord(t *testing.T) {
	d := aDay(t)
	a := &aside{}
	made := reporter(t, d, func(c *audit.ReporterConfig) { c.Recorder = a })
	down := reporter(t, d, func(c *audit.ReporterConfig) { c.Recorder = refusing{} })
	ctx := t.Context()
	var out bytes.Buffer
	reports := map[string]func(*audit.Reporter, audit.By) (any, error){
		"last-logins": func(r *audit.Reporter, by audit.By) (any, error) { return r.LastLogins(ctx, by, audit.Period{}) },
		"logins": func(r *audit.Reporter, by audit.By) (any, error) {
			return r.Logins(ctx, by, audit.LoginFilter{Patron: "p1"})
		},
		"views": func(r *audit.Reporter, by audit.By) (any, error) { return r.Views(ctx, by, "p1", audit.ViewFilter{}) },
		"views-by": func(r *audit.Reporter, by audit.By) (any, error) {
			return r.ViewsBy(ctx, by, "staff-17", audit.ViewFilter{})
		},
		"seen": func(r *audit.Reporter, by audit.By) (any, error) { return r.Seen(ctx, by, "p1", audit.Period{}) },
		"changes": func(r *audit.Reporter, by audit.By) (any, error) {
			return r.Changes(ctx, by, "p1", audit.ChangeFilter{Values: true})
		},
		"exports": func(r *audit.Reporter, by audit.By) (any, error) { return r.Exports(ctx, by, audit.ExportFilter{}) },
		"reports": func(r *audit.Reporter, by audit.By) (any, error) { return r.Reports(ctx, by, audit.ReportFilter{}) },
		"exposure": func(r *audit.Reporter, by audit.By) (any, error) {
			return r.Exposure(ctx, by, audit.Scope{Roles: []string{"desk"}})
		},
		"log-jsonl": func(r *audit.Reporter, by audit.By) (any, error) {
			return r.WriteJSONL(ctx, by, &out, audit.LogFilter{Name: true})
		},
		"log-fhir": func(r *audit.Reporter, by audit.By) (any, error) {
			return r.WriteFHIR(ctx, by, &out, audit.FHIR{Site: "library", LogFilter: audit.LogFilter{Name: true}})
		},
	}
	named := map[string]int{"logins": 1, "views": 1, "views-by": 2, "seen": 1, "changes": 1, "exposure": 2, "log-jsonl": 3, "log-fhir": 3}
	for name, make := range reports {
		out.Reset()
		got, err := make(down, auditor)
		require.ErrorIs(t, err, audit.ErrNotRecorded, name)
		require.Zero(t, got, name)
		require.Zero(t, out.Len(), name)

		a.events = nil
		_, err = make(made, auditor)
		require.NoError(t, err, name)
		require.NotEmpty(t, a.events)
		whom := map[crypto.Subject]bool{}
		for _, e := range a.events {
			require.Equal(t, []any{audit.Report, audit.Done, name, "dpo", "case 7"}, []any{e.Action, e.Outcome, e.Object, e.Actor, e.Approval})
			for _, s := range e.Subjects {
				whom[s.ID] = true
			}
		}
		require.Len(t, whom, named[name], name)

		// Nobody asks; two ask; a patron asks for more than their own.
		a.events = nil
		refusals := []audit.By{{Role: "auditor"}, {Actor: "dpo", Self: "p1"}, {Self: "p2", Channel: audit.Self}}
		if name != "seen" {
			refusals = append(refusals, audit.By{Self: "p1", Channel: audit.Self})
		}
		for _, by := range refusals {
			out.Reset()
			_, err = make(made, by)
			require.ErrorIs(t, err, audit.ErrRefused, name)
			require.Zero(t, out.Len())
			e := a.events[len(a.events)-1]
			require.Equal(t, []any{audit.Report, audit.Denied, name}, []any{e.Action, e.Outcome, e.Object})
			require.NotEmpty(t, e.Why)
		}
		require.Len(t, a.events, len(refusals))
	}
	_, err := made.WriteJSONL(ctx, audit.By{Actor: "dpo"}, &out, audit.LogFilter{Name: true})
	require.ErrorIs(t, err, audit.ErrRefused, "names without an approval")
	_, err = made.Exposure(ctx, auditor, audit.Scope{})
	require.Error(t, err, "a scope of nothing")
}

type refusing struct{}

func (refusing) Record(context.Context, audit.Event) error {
	return errors.New("disk full while writing p1")
}

// An owner of the database who writes rows of their own, or changes what the index says of authentic ones, deceives no report.
func TestForgedRowsAndIndexColumns(t *testing.T) {
	d, ctx := newDesk(t, "p1", "p2"), t.Context()
	other := newDesk(t, "p1", "p2") // of another keyring
	real := view("p1", past(10), "addresses")
	entry, err := d.Prepare(ctx, real)
	require.NoError(t, err)
	about2, err := d.Prepare(ctx, view("p2", past(11), "phones"))
	require.NoError(t, err)

	hidden := entry // an authentic entry that the index calls something else
	hidden.Action, hidden.Tags, hidden.Time = audit.Sweep, nil, morning.AddDate(-3, 0, 0)
	misled := about2 // and one that the index says is about p1
	misled.Tags = entry.Tags
	changed := entry // a name put in the place of another
	changed.Body = bytes.Replace(entry.Body, []byte("staff-17"), []byte("staff-66"), 1)
	foreign, err := other.Prepare(ctx, real)
	require.NoError(t, err)
	foreign.Tags = entry.Tags
	noise := entry
	noise.Body = []byte("nothing")
	require.NoError(t, d.log.Append(ctx, []audit.Entry{hidden, misled, changed, foreign, noise}))

	for _, thorough := range []bool{false, true} {
		r := reporter(t, d, func(c *audit.ReporterConfig) { c.Thorough, c.Recorder = thorough, &aside{} })
		views, err := r.Views(ctx, auditor, "p1", audit.ViewFilter{})
		require.NoError(t, err)
		by, err := r.ViewsBy(ctx, auditor, "staff-17", audit.ViewFilter{})
		require.NoError(t, err)
		forged, err := r.ViewsBy(ctx, auditor, "staff-66", audit.ViewFilter{})
		require.NoError(t, err)
		require.Empty(t, forged.Rows)
		require.Equal(t, 3, forged.Skipped)
		if thorough { // the index is not asked: nothing is out of sight
			require.Len(t, views.Rows, 1)
			require.Equal(t, []string{"addresses"}, views.Rows[0].Segments)
			require.Len(t, by.Rows, 2)
		} else { // at least nothing is made up: p2's entry is not p1's
			require.Empty(t, views.Rows)
			require.Len(t, by.Rows, 1)
			require.Equal(t, crypto.Subject("p2"), by.Rows[0].Subject)
		}
		require.Equal(t, 3, views.Skipped)

		// An exposure never asks the index.
		x, err := r.Exposure(ctx, auditor, audit.Scope{Actors: []string{"staff-17", "staff-66"}, Period: audit.Period{Since: morning, Until: past(60)}})
		require.NoError(t, err)
		require.Equal(t, []any{2, 2, 3}, []any{x.Patrons, x.Events, x.Skipped})
		require.Equal(t, "addresses", x.Rows[0].Segment)
		var out bytes.Buffer
		written, err := r.WriteJSONL(ctx, auditor, &out, audit.LogFilter{})
		require.NoError(t, err)
		require.Equal(t, audit.Written{Events: 2, Skipped: 3}, written)
		s, err := r.Summary(ctx, audit.Period{}, "")
		require.NoError(t, err)
		require.Equal(t, 3, s.Skipped)
	}
}

func long() bool { return os.Getenv("CARREL_TEST_LONG") != "" }

// Somebody with a long history is forgotten: no report finds them, what is counted of them is that there was somebody, and in what the store holds
// there is not a byte of who it was.
func TestForgottenAreNotFound(t *testing.T) {
	const id, other = crypto.Subject("b5f0c1de-7a44-4c39-9d0e-111122223333"), crypto.Subject("a5f0c1de-7a44-4c39-9d0e-444455556666")
	const name = "Wilhelmina Featherstonehaugh"
	d, ctx := newDesk(t, id, other), t.Context()
	events := 500
	if long() {
		events = 10_000
	}
	one := func(i int) audit.Event {
		e := view(id, morning.Add(time.Duration(i)*time.Hour), "names", "addresses")
		switch i % 4 {
		case 1:
			e.Action = audit.Update
			e.Subjects = []audit.Subject{{ID: id, Version: uint64(i), Note: crypto.NewSecret("asked by " + name), Changes: []audit.Change{
				{Segment: "names", Before: crypto.NewSecret(name), After: crypto.NewSecret(name + string(id))}}}}
		case 2:
			e.Action, e.Recipient, e.Approval, e.Count, e.Subjects = audit.Export, "ministry", "A-1", 2, people(id, other)
		case 3:
			e = audit.Login{Time: e.Time, Patron: id, Role: "patron", Result: audit.Success, Channel: audit.Self}.Event()
		}
		return e
	}
	for i := range events {
		record(t, d, one(i))
	}
	now := func(c *audit.ReporterConfig) {
		c.Recorder, c.Now = &aside{}, func() time.Time { return morning.Add(time.Duration(events) * time.Hour) }
	}
	r := reporter(t, d, now)
	before, err := r.Views(ctx, auditor, id, audit.ViewFilter{})
	require.NoError(t, err)
	require.Len(t, before.Rows, events/2)
	all, err := r.Exposure(ctx, auditor, audit.Scope{Actors: []string{"staff-17"}})
	require.NoError(t, err)
	require.Equal(t, 2, all.Patrons)

	require.NoError(t, d.Shred(ctx, audit.Event{Actor: "staff-1", Role: "dpo", Channel: audit.CLI}, id))
	a := &aside{}
	for _, thorough := range []bool{false, true} {
		r := reporter(t, d, now, func(c *audit.ReporterConfig) { c.Thorough, c.Recorder = thorough, a })
		_, err = r.Views(ctx, auditor, id, audit.ViewFilter{})
		require.ErrorIs(t, err, crypto.ErrShredded)
		_, err = r.Seen(ctx, audit.By{Self: id, Channel: audit.Self}, id, audit.Period{})
		require.ErrorIs(t, err, crypto.ErrShredded)
		_, err = r.Changes(ctx, auditor, id, audit.ChangeFilter{Values: true})
		require.ErrorIs(t, err, crypto.ErrShredded)
		_, err = r.Logins(ctx, auditor, audit.LoginFilter{Patron: id})
		require.ErrorIs(t, err, crypto.ErrShredded)
		require.Equal(t, audit.NotFound, a.events[len(a.events)-1].Outcome)
		logins, err := r.Logins(ctx, auditor, audit.LoginFilter{})
		require.NoError(t, err)
		require.Len(t, logins.Rows, events/4)
		by, err := r.ViewsBy(ctx, auditor, "staff-17", audit.ViewFilter{})
		require.NoError(t, err)
		x, err := r.Exposure(ctx, auditor, audit.Scope{Actors: []string{"staff-17"}})
		require.NoError(t, err)
		months := 1 + monthsBetween(morning, morning.Add(time.Duration(events-1)*time.Hour))
		require.Equal(t, 1, x.Patrons)
		require.Equal(t, months, x.ForgottenAtMost, "a person counts once a month")
		require.Len(t, x.Forgotten, months)
		require.Equal(t, months, by.Forgotten)
		everyone, err := r.Exposure(ctx, auditor, audit.Scope{Everyone: true})
		require.NoError(t, err)
		require.Equal(t, 1, everyone.Patrons)
		var out bytes.Buffer
		for _, named := range []bool{false, true} {
			_, err = r.WriteJSONL(ctx, auditor, &out, audit.LogFilter{Name: named})
			require.NoError(t, err)
			_, err = r.WriteFHIR(ctx, auditor, &out, audit.FHIR{Site: "library", LogFilter: audit.LogFilter{Name: named}})
			require.NoError(t, err)
		}
		for _, v := range []any{logins, by, x, everyone} {
			b, err := json.Marshal(v)
			require.NoError(t, err)
			out.Write(b)
		}
		requireNoTrace(t, out.Bytes(), string(id), name)
		require.Contains(t, out.String(), string(other), "who lives is found, so that the search can find somebody")
	}
	held := hoard(reflect.ValueOf(d.log))
	require.Greater(t, len(held), events*100)
	requireNoTrace(t, held, string(id), name)
	plain, err := d.Prepare(ctx, audit.Event{Time: morning, Action: audit.Hold, Outcome: audit.Done, Object: name})
	require.NoError(t, err)
	require.Panics(t, func() { mustNoTrace(append(held, plain.Body...), name) }, "a trail that kept the name would be caught")
}

func monthsBetween(a, b time.Time) int {
	return (b.Year()-a.Year())*12 + int(b.Month()) - int(a.Month())
}

func requireNoTrace(t *testing.T, data []byte, texts ...string) {
	t.Helper()
	require.NotPanics(t, func() { mustNoTrace(data, texts...) })
}

// mustNoTrace looks for texts, and for what they become in other clothes.
func mustNoTrace(data []byte, texts ...string) {
	lower := bytes.ToLower(data)
	for _, text := range texts {
		forms := []string{text, strings.ReplaceAll(text, "-", ""), hex.EncodeToString([]byte(text))}
		for shift := range 3 { // wherever in a longer text it begins
			forms = append(forms, base64.RawStdEncoding.EncodeToString([]byte(text)[shift:shift+(len(text)-shift)/3*3]))
		}
		if raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", "")); err == nil {
			forms = append(forms, string(raw), base64.RawStdEncoding.EncodeToString(raw))
		}
		for _, form := range forms {
			if bytes.Contains(lower, []byte(strings.ToLower(form))) {
				panic(fmt.Sprintf("a trace of %d bytes", len(form)))
			}
		}
	}
}

// hoard returns every byte that a value holds, whether it shows it or not.
func hoard(v reflect.Value) (data []byte) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return hoard(v.Elem())
		}
	case reflect.String:
		return append([]byte(v.String()), 0)
	case reflect.Struct:
		for i := range v.NumField() {
			data = append(data, hoard(v.Field(i))...)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			data = append(append(data, hoard(it.Key())...), hoard(it.Value())...)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if e := v.Index(i); e.Kind() == reflect.Uint8 {
				data = append(data, byte(e.Uint()))
			} else {
				data = append(data, hoard(e)...)
			}
		}
	}
	return data
}
