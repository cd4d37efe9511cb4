package storetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/carrel-project/carrel/audit"
)

// TestLog proves a store of an audit trail. Open returns an empty store each time.
func TestLog(t *testing.T, open func(t *testing.T) audit.Store) {
	keep(t, func(t *testing.T) log { return log{t, open(t)} }, []promise[log]{
		{"EmptyLog", testEmptyLog},
		{"EntriesComeBack", testEntriesComeBack},
		{"NumbersHaveNoGaps", testNumbers},
		{"NumbersOfManyWriters", testManyWriters},
		{"WhoSeesAnEntrySeesAllBeforeIt", testVisibility},
		{"KeyIsAppendedOnce", testAppendKeys},
		{"OneAppendOfAKeyWins", testAppendKeyRace},
		{"AppendIsAllOrNone", testAppendAtomic},
		{"PagesOfNumbers", testLogPages},
		{"QueriesFindWhatMatches", testLogQueries},
		{"EntryAboutMany", testManyTags},
		{"PagesWhileEntriesCome", testPagesWhileAppended},
		{"TimesAreBounds", testLogTimes},
		{"TilesAreReplacedAndDropped", testTiles},
		{"AdvanceComparesSize", testAdvanceCompares},
		{"OneAdvanceWinsARace", testOneAdvanceWins},
		{"AdvanceIsAllOrNothing", testAdvanceAtomic},
		{"RemovedIsGone", testRemovedEntries},
		{"NumbersAreNotGivenTwice", testNumbersNotReused},
		{"NothingIsShared", testLogNotShared},
		{"CanceledContext", testLogCanceled},
		{"TrailOnTop", testTrailOnTop},
		{"TrailsOnTop", testTrailsOnTop},
	})
}

// log is a store under test whose methods fail the test.
type log struct {
	*testing.T
	audit.Store
}

var logStart = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// event makes the nth entry: about one of ten people, in a month of its own for each hundred entries.
func event(n int) audit.Entry {
	e := audit.Entry{Number: 99, Action: []audit.Action{audit.View, audit.Update, audit.LogIn}[n%3], Time: logStart.Add(time.Duration(n) * time.Second),
		Tags: []audit.Tag{personTag(n/100, n%10)}, Body: fmt.Appendf(nil, "body %d\x00\xff", n)}
	return e
}

func personTag(month, person int) (tag audit.Tag) {
	binary.BigEndian.PutUint16(tag[:], uint16(674+month))
	binary.BigEndian.PutUint64(tag[8:], uint64(person)*0x9e3779b97f4a7c15)
	return tag
}

func events(from, to int) (list []audit.Entry) {
	for n := from; n < to; n++ {
		list = append(list, event(n))
	}
	return list
}

func (s log) append(entries ...audit.Entry) {
	s.Helper()
	if err := s.Append(s.Context(), entries); err != nil {
		s.Fatalf("Append: %v", err)
	}
}

func (s log) tree(tiles ...audit.TileID) audit.Tree {
	s.Helper()
	tree, err := s.Tree(s.Context(), tiles...)
	if err != nil {
		s.Fatalf("Tree: %v", err)
	}
	if len(tree.Tiles) != len(tiles) {
		s.Fatalf("Tree returned %d tiles, want the %d asked for", len(tree.Tiles), len(tiles))
	}
	return tree
}

func (s log) next(want int) {
	s.Helper()
	if next := s.tree().Next; next != uint64(want) {
		s.Errorf("Tree says that the next number is %d, want %d", next, want)
	}
}

func (s log) advance(a audit.Advance) {
	s.Helper()
	if err := s.Advance(s.Context(), a); err != nil {
		s.Fatalf("Advance: %v", err)
	}
}

// pages reads all pages and calls between after each but the last.
func (s log) pages(q audit.Query, between func()) (all []audit.Entry) {
	s.Helper()
	for n := 0; ; n++ {
		if n > 20000 {
			s.Fatalf("Entries returned %d pages and there is no end", n)
		}
		page, err := s.Entries(s.Context(), q)
		if err != nil {
			s.Fatalf("Entries: %v", err)
		}
		if len(page.Entries) > q.Limit {
			s.Fatalf("Entries returned %d entries, the limit was %d", len(page.Entries), q.Limit)
		}
		all = append(all, page.Entries...)
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return all
		}
		between()
	}
}

func (s log) read(q audit.Query) []audit.Entry {
	s.Helper()
	if q.Limit == 0 {
		q.Limit = 100
	}
	return s.pages(q, func() {})
}

// has expects that the log has these entries, in this order, with the numbers from the first on.
func (s log) has(first int, want ...audit.Entry) {
	s.Helper()
	got := s.read(audit.Query{From: uint64(first)})
	if len(got) != len(want) {
		s.Fatalf("the log has %d entries from %d on, want %d", len(got), first, len(want))
	}
	for i, e := range got {
		if e.Number != uint64(first+i) {
			s.Fatalf("entry %d from %d on has the number %d", i, first, e.Number)
		}
		if !bytes.Equal(e.Body, want[i].Body) {
			s.Fatalf("the body of entry %d is not the one that was appended", e.Number)
		}
	}
}

func testEmptyLog(t *testing.T, s log) {
	tree := s.tree(audit.TileID{}, audit.TileID{Level: 1, N: 7})
	if tree.Size != 0 || tree.Next != 0 || tree.Checkpoint != nil || tree.Tiles[0] != nil || tree.Tiles[1] != nil {
		t.Errorf("the tree of an empty log is %v", tree)
	}
	if got := s.read(audit.Query{}); len(got) > 0 {
		t.Errorf("an empty log has %d entries", len(got))
	}
	s.append() // nothing to do is not an error
	s.advance(audit.Advance{})
	s.next(0)
}

func testEntriesComeBack(t *testing.T, s log) {
	all := events(0, 3)
	bytewise := make([]byte, 256)
	for i := range bytewise {
		bytewise[i] = byte(i)
	}
	all[1].Body = bytewise
	all[1].Tags = nil
	all[2].Body = bytes.Repeat(bytewise, 4<<10) // a megabyte
	s.append(all[0])
	s.append(all[1:]...)
	s.has(0, all...)
	s.has(1, all[1:]...)
}

func testNumbers(t *testing.T, s log) {
	all := events(0, 700)
	for at, size := 0, 1; at < len(all); size = size*2%97 + 1 {
		end := min(at+size, len(all))
		s.append(all[at:end]...)
		at = end
		s.next(at)
	}
	s.has(0, all...)
}

func testManyWriters(t *testing.T, s log) {
	const writers, batches = 8, 12
	body := func(w, b, i int) []byte { return fmt.Appendf(nil, "%d/%d/%d", w, b, i) }
	errs := race(writers, func(w int) error {
		for b := range batches {
			list := events(0, b%5+1)
			for i := range list {
				list[i].Body = body(w, b, i)
			}
			if err := s.Append(t.Context(), list); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	places := map[string]int{}
	for i, e := range s.read(audit.Query{}) {
		if e.Number != uint64(i) {
			t.Fatalf("the number %d stands where %d should", e.Number, i)
		}
		if _, twice := places[string(e.Body)]; twice {
			t.Errorf("an entry of several writers is there twice")
		}
		places[string(e.Body)] = i
	}
	total := 0
	for w := range writers {
		last := -1
		for b := range batches {
			for i := range b%5 + 1 {
				total++
				at, ok := places[string(body(w, b, i))]
				switch {
				case !ok:
					t.Fatalf("an entry of several writers is not there")
				case i > 0 && at != last+1:
					t.Errorf("a batch is torn apart: %d stands after %d", at, last)
				case at <= last:
					t.Errorf("an entry stands at %d though its writer had appended %d before", at, last)
				}
				last = at
			}
		}
	}
	if len(places) != total {
		t.Errorf("there are %d entries, want %d", len(places), total)
	}
	s.next(total)
}

func testVisibility(t *testing.T, s log) {
	const writers, each = 4, 40
	done := make(chan error, 1)
	go func() {
		done <- errors.Join(race(writers, func(int) error {
			for range each {
				if err := s.Append(t.Context(), events(0, 2)); err != nil {
					return err
				}
			}
			return nil
		})...)
	}()
	seen := 0
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		default:
		}
		next := s.tree().Next
		got := s.read(audit.Query{})
		if uint64(len(got)) < next || len(got) < seen {
			t.Fatalf("%d entries, after %d were seen and the next number was %d", len(got), seen, next)
		}
		for i, e := range got {
			if e.Number != uint64(i) {
				t.Fatalf("entry %d was seen before entry %d", e.Number, i)
			}
		}
		seen = len(got)
	}
	s.next(2 * writers * each)
}

func keyed(e audit.Entry, key byte) audit.Entry {
	e.Key = [16]byte{15: key}
	return e
}

func testAppendKeys(t *testing.T, s log) {
	a, b, c, d := keyed(event(0), 1), keyed(event(1), 2), event(2), keyed(event(3), 3)
	s.append(a)
	s.append(a)
	s.has(0, a)
	s.append(keyed(event(9), 1), b, c, b, a, c, d)
	s.has(0, a, b, c, c, d)
	s.append(a, b, d)
	s.append(d)
	s.append(c)
	s.has(0, a, b, c, c, d, c)
	s.next(6)
	// Many at once, of which every second is there.
	var some, all []audit.Entry
	for i := range 60 {
		e := keyed(event(100+i), byte(100+i))
		if all = append(all, e); i%2 == 0 {
			some = append(some, e)
		}
	}
	s.append(some...)
	s.append(all...)
	s.append(all...)
	s.next(6 + 60)
}

func testAppendKeyRace(t *testing.T, s log) {
	const n = 16
	if err := errors.Join(race(n, func(i int) error {
		return s.Append(t.Context(), []audit.Entry{keyed(event(i), 1), keyed(event(i), 2), event(i)})
	})...); err != nil {
		t.Fatal(err)
	}
	s.next(n + 2)
	if got := len(s.read(audit.Query{})); got != n+2 {
		t.Errorf("there are %d entries, want %d", got, n+2)
	}
}

// cutOff calls do with contexts that are canceled when they were looked at once, twice and so on, until it succeeds or check says that it has.
func (s log) cutOff(do func(ctx context.Context) error, check func(err error) (done bool)) {
	s.Helper()
	for looks := range 1000 {
		err := do(&countdown{Context: s.Context(), left: looks, done: make(chan struct{})})
		if check(err) || err == nil {
			return
		}
	}
	s.Error("canceled ever later, it never succeeds")
}

func testAppendAtomic(t *testing.T, s log) {
	there := 0
	s.cutOff(func(ctx context.Context) error { return s.Append(ctx, events(0, 40)) }, func(err error) bool {
		next := int(s.tree().Next)
		if next != there && next != there+40 || err == nil && next == there {
			t.Errorf("an append of 40 entries that ended with %v added %d", err, next-there)
		}
		if got := len(s.read(audit.Query{})); got != next {
			t.Errorf("%d entries are there, the next number is %d", got, next)
		}
		there = next
		return false
	})
}

func testLogPages(t *testing.T, s log) {
	const n = 50
	s.append(events(0, n)...)
	for _, limit := range []int{1, 7, 49, 50, 51} {
		for _, r := range [][2]int{{0, 0}, {0, 50}, {0, 1}, {10, 20}, {49, 50}, {49, 0}, {50, 0}, {60, 70}, {10, 10}, {0, 1000}} {
			from, to := r[0], r[1]
			var want []uint64
			for i := from; i < n && (to == 0 || i < to); i++ {
				want = append(want, uint64(i))
			}
			if got := numbers(s.read(audit.Query{From: uint64(from), To: uint64(to), Limit: limit})); !slices.Equal(got, want) {
				t.Errorf("pages of %d from %d to %d have the numbers %d, want %d", limit, from, to, got, want)
			}
		}
	}
}

func numbers(entries []audit.Entry) (list []uint64) {
	for _, e := range entries {
		list = append(list, e.Number)
	}
	return list
}

// asks is what a query means.
func asks(q *audit.Query, e *audit.Entry) bool {
	return e.Number >= q.From && (q.To == 0 || e.Number < q.To) &&
		(q.Since.IsZero() || !e.Time.Before(q.Since)) && (q.Until.IsZero() || e.Time.Before(q.Until)) &&
		(len(q.Actions) == 0 || slices.Contains(q.Actions, e.Action)) &&
		(len(q.Tags) == 0 || slices.ContainsFunc(e.Tags, func(t audit.Tag) bool { return slices.Contains(q.Tags, t) }))
}

// finds expects what a query means, each once, and with neither tags nor actions in order.
func (s log) finds(q audit.Query, all []audit.Entry) {
	s.Helper()
	got := s.read(q)
	if len(q.Tags)+len(q.Actions) > 0 {
		slices.SortFunc(got, func(a, b audit.Entry) int { return cmp.Compare(a.Number, b.Number) })
	}
	var want []audit.Entry
	for i := range all {
		if asks(&q, &all[i]) {
			want = append(want, all[i])
		}
	}
	if !slices.Equal(numbers(got), numbers(want)) {
		s.Fatalf("the query %+v found %d, want %d", q, numbers(got), numbers(want))
	}
	for i, e := range got {
		if !bytes.Equal(e.Body, want[i].Body) {
			s.Fatalf("the query %+v returned another body with entry %d", q, e.Number)
		}
	}
}

func testLogQueries(t *testing.T, s log) {
	const n = 1000
	r := rand.New(rand.NewPCG(4, 2))
	all := events(0, n)
	for i := range all {
		e := &all[i]
		e.Number = uint64(i)
		e.Time = e.Time.Add(time.Duration(r.IntN(600)-300) * time.Second) // not in order
		switch r.IntN(6) {
		case 0:
			e.Tags = nil
		case 1:
			for p := range 2 + r.IntN(4) {
				e.Tags = append(e.Tags, personTag(i/100, p))
			}
			sortTags(e)
		}
	}
	actions := []audit.Action{audit.View, audit.Update, audit.LogIn, audit.Shred}
	for at := 0; at < n; {
		end := min(n, at+1+r.IntN(90))
		s.append(all[at:end]...)
		at = end
		for range 6 {
			q := audit.Query{Limit: []int{1, 3, 10, 100, 2000}[r.IntN(5)]}
			for range r.IntN(4) * r.IntN(3) {
				q.Tags = append(q.Tags, personTag(r.IntN(11), r.IntN(11)))
			}
			for range r.IntN(2) * r.IntN(4) {
				q.Actions = append(q.Actions, actions[r.IntN(4)])
			}
			if len(q.Tags)+len(q.Actions) == 0 && q.Limit < 10 {
				q.Limit = 10
			}
			if r.IntN(3) == 0 {
				q.From = uint64(r.IntN(n))
			}
			if r.IntN(3) == 0 {
				q.To = q.From + uint64(r.IntN(n))
			}
			if r.IntN(3) == 0 {
				q.Since = all[r.IntN(n)].Time
			}
			if r.IntN(3) == 0 {
				q.Until = all[r.IntN(n)].Time
			}
			s.finds(q, all[:at])
		}
	}
}

func sortTags(e *audit.Entry) {
	slices.SortFunc(e.Tags, func(a, b audit.Tag) int { return bytes.Compare(a[:], b[:]) })
	e.Tags = slices.Compact(e.Tags)
}

func testManyTags(t *testing.T, s log) {
	all := events(0, 600)
	for i := range all {
		all[i].Number = uint64(i)
	}
	all[5].Tags = nil
	for p := range 400 {
		all[5].Tags = append(all[5].Tags, personTag(p%3, p))
	}
	sortTags(&all[5])
	s.append(all[:10]...)
	s.finds(audit.Query{Tags: all[5].Tags}, all[:10])
	s.append(all[10:]...)
	for i := 0; i < len(all[5].Tags); i += 9 {
		s.finds(audit.Query{Tags: all[5].Tags[i : i+1]}, all)
	}
	for _, limit := range []int{1, 2, 1000} {
		s.finds(audit.Query{Tags: all[5].Tags[:300], Limit: limit}, all)
		s.finds(audit.Query{Tags: slices.Concat(all[5].Tags[:3], all[5].Tags[:3]), Limit: limit, Actions: []audit.Action{audit.View, audit.LogIn, audit.View}}, all)
	}
}

// What was there before the first page is on exactly one, whatever comes meanwhile.
func testPagesWhileAppended(t *testing.T, s log) {
	const n = 300
	before, coming := events(0, n), n
	s.append(before...)
	for i := range before {
		before[i].Number = uint64(i)
	}
	var tags []audit.Tag
	for p := range 10 {
		tags = append(tags, personTag(0, p), personTag(1, p), personTag(2, p), personTag(3, p), personTag(4, p))
	}
	for name, q := range map[string]audit.Query{
		"all": {Limit: 40}, "tags": {Tags: tags, Limit: 40}, "actions": {Actions: []audit.Action{audit.View, audit.Update, audit.LogIn}, Limit: 40},
		"both": {Tags: tags, Actions: []audit.Action{audit.Update}, Limit: 20},
	} {
		seen := map[uint64]int{}
		pages := 0
		for _, e := range s.pages(q, func() {
			if pages++; pages < 20 {
				s.append(events(coming, coming+30)...)
				coming += 30
			}
		}) {
			seen[e.Number]++
		}
		for i := range before {
			want := 0
			if asks(&q, &before[i]) {
				want = 1
			}
			if seen[uint64(i)] != want {
				t.Fatalf("%s: entry %d, there before the first page, was on %d of them, want %d", name, i, seen[uint64(i)], want)
			}
		}
		for number, times := range seen {
			if times > 1 {
				t.Fatalf("%s: entry %d was on %d pages", name, number, times)
			}
		}
	}
}

func testLogTimes(t *testing.T, s log) {
	var all []audit.Entry
	for i, at := range []time.Time{logStart, logStart.Add(time.Microsecond), logStart.Add(2 * time.Microsecond), time.UnixMicro(1).UTC(),
		time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)} {
		e := event(0)
		e.Number, e.Time = uint64(i), at
		all = append(all, e)
	}
	s.append(all...)
	east := time.FixedZone("east", 3*60*60)
	for _, bound := range []time.Time{all[0].Time, all[1].Time, all[2].Time, all[3].Time, all[4].Time, all[0].Time.Add(1), all[1].Time.Add(-1), all[1].Time.In(east)} {
		for _, actions := range [][]audit.Action{nil, {audit.View}} {
			for _, tags := range [][]audit.Tag{nil, all[0].Tags} {
				s.finds(audit.Query{Since: bound, Actions: actions, Tags: tags}, all)
				s.finds(audit.Query{Until: bound, Actions: actions, Tags: tags}, all)
				s.finds(audit.Query{Since: bound, Until: bound.Add(time.Microsecond), Actions: actions, Tags: tags, Limit: 1}, all)
			}
		}
	}
}
