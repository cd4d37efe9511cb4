package audit_test

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// shown is one segment that somebody saw at one moment; "" is that they looked.
type shown struct {
	actor, role, purpose string
	channel              audit.Channel
	action               audit.Action
	grant                string
	segment              string
	at                   int64 // minutes
}

// TestRecordsCoverWhatWasShown: whatever the pages of a visit to the desk show is covered by a record of exactly that, and no record covers
// anything that was not shown at the moment from which on it covers it.
func TestRecordsCoverWhatWasShown(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 2026))
	subjects := make([]crypto.Subject, 50)
	for i := range subjects {
		subjects[i] = crypto.Subject(fmt.Sprintf("patron-%02d", i))
	}
	d := newDesk(t, subjects...)
	was := map[crypto.Subject][]shown{}
	pages, steady := 0, map[string]int{} // sessions whose clock never went back, and their pages
	sessions := 1_000
	if long() {
		sessions = 10_000
	}
	for session := range sessions {
		now := morning.Add(time.Duration(rng.IntN(60*24*90)) * time.Minute)
		actor := fmt.Sprint("staff-", session)
		back := false
		step := pick(rng, 1, 3, 12, 45)
		whom := []crypto.Subject{pick(rng, subjects...), pick(rng, subjects...)}
		n := 1 + rng.IntN(14)
		screens := [][]string{someSegments(rng, 0), someSegments(rng, 1), someSegments(rng, 2)}
		for range n {
			now = now.Add(time.Duration(rng.IntN(step+1)) * time.Minute)
			if rng.IntN(40) == 0 { // the clock is set
				now = now.Add(time.Duration(rng.IntN(90)-60) * time.Minute)
				back = true
			}
			e := view(whom[rng.IntN(4)/3], now, pick(rng, screens...)...)
			e.Actor = actor
			switch rng.IntN(20) { // once in a while something else is different
			case 0:
				e.Role = "head"
			case 1:
				e.Purpose = "billing"
			case 2:
				e.Action = audit.Find
			case 3:
				e.Channel = audit.API
			case 4:
				e.Grant = "g1"
			}
			require.NoError(t, d.Record(t.Context(), e))
			pages++
			for _, s := range append([]string{""}, e.Segments...) {
				id := e.Subjects[0].ID
				was[id] = append(was[id], shown{e.Actor, e.Role, e.Purpose, e.Channel, e.Action, reference(t, d, id, e.Grant), s, now.Unix() / 60})
			}
		}
		if !back {
			steady[actor] = n
		}
	}
	r := reporter(t, d, func(c *audit.ReporterConfig) {
		c.Recorder, c.Now = &aside{}, func() time.Time { return morning.AddDate(0, 6, 0) }
	})
	records := 0
	for _, id := range subjects {
		table, err := r.Views(t.Context(), auditor, id, audit.ViewFilter{Period: audit.Period{Since: morning.AddDate(0, 0, -1)}})
		require.NoError(t, err)
		records += len(table.Rows)
		really := map[shown]bool{}
		for _, s := range was[id] {
			really[s] = true
		}
		covers := map[shown][]int64{} // from when
		for _, row := range table.Rows {
			require.Equal(t, 30*time.Minute, row.Until.Sub(row.Time))
			fresh := false
			for _, s := range append([]string{""}, row.Segments...) {
				one := shown{row.Actor, row.Role, row.Purpose, row.Channel, row.Action, row.Grant, s, row.Time.Unix() / 60}
				require.True(t, really[one], "a record of what was not shown")
				from := one.at
				one.at = 0
				covered := slices.ContainsFunc(covers[one], func(m int64) bool { return m <= from && from < m+30 })
				fresh = fresh || !covered
				covers[one] = append(covers[one], from)
			}
			if steady[row.Actor] > 0 {
				require.True(t, fresh, "a record that says nothing new")
			}
		}
		for _, s := range was[id] {
			when := s.at
			s.at = 0
			require.True(t, slices.ContainsFunc(covers[s], func(m int64) bool { return m <= when && when < m+30 }), "shown and not recorded")
		}
	}
	require.Less(t, records, pages*3/4)
	tree, err := d.log.Tree(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, records, tree.Next)
	t.Logf("%d pages, %d records", pages, records)
}

// A check-out of twelve pages is one record, and a second one when a page shows more than those before.
func TestCheckOutMakesTwoRecords(t *testing.T) {
	d := newDesk(t, "p1")
	for page := range 12 {
		e := view("p1", past(page), "names", "blocks")
		if page >= 7 {
			e.Segments = []string{"names", "blocks", "notes"}
		}
		record(t, d, e)
	}
	table, err := reporter(t, d).Views(t.Context(), auditor, "p1", audit.ViewFilter{})
	require.NoError(t, err)
	require.Len(t, table.Rows, 2)
	require.Equal(t, []string{"blocks", "names", "notes"}, table.Rows[1].Segments)
}

// Whoever looked just before a period began is in it: the record covers half an hour.
func TestViewsOfAPeriodReachBack(t *testing.T) {
	end := time.Date(2026, 11, 30, 23, 50, 0, 0, time.UTC) // its tag is of the month before
	d := newDesk(t, "p1")
	record(t, d, view("p1", end, "names"))
	r := reporter(t, d, func(c *audit.ReporterConfig) { c.Now = func() time.Time { return end.Add(time.Hour) } })
	for since, want := range map[time.Duration]int{-time.Minute: 1, 0: 1, 20 * time.Minute: 1, 31 * time.Minute: 0} {
		table, err := r.Views(t.Context(), auditor, "p1", audit.ViewFilter{Period: audit.Period{Since: end.Add(since)}, Segments: []string{"names"}})
		require.NoError(t, err)
		require.Len(t, table.Rows, want, since.String())
	}
}

// reference is what stands in the trail for a grant.
func reference(t *testing.T, d *desk, id crypto.Subject, grant string) string {
	t.Helper()
	if grant == "" {
		return ""
	}
	tag, err := d.keys.Tag(t.Context(), id, "trail grant "+grant)
	require.NoError(t, err)
	return hex.EncodeToString(tag[:])
}
