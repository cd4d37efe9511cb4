package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// TestPatrons proves a store of patrons. Open returns an empty store each time.
//
// A batch is a set: one of the Tokens that one of its writes gives up can be taken by another, in whatever order they stand.
func TestPatrons(t *testing.T, open func(t *testing.T) patron.Store) {
	keep(t, func(t *testing.T) patrons { return patrons{t, open(t)} }, []promise[patrons]{
		{"RowComesBack", testRowComesBack},
		{"EmptyRowComesBack", testEmptyRow},
		{"TimesAreToTheMicrosecondInUTC", testRowTimes},
		{"UnknownIDIsNotFound", testUnknownID},
		{"ReplaceReplacesAll", testReplaceAll},
		{"OtherVersionConflicts", testVersionConflicts},
		{"OneWriterWinsARow", testOneWriterWinsRow},
		{"BatchIsAllOrNothing", testBatchIsOne},
		{"TokenBelongsToOne", testTokenOwners},
		{"TokenCanMoveWithinABatch", testTokensMove},
		{"OneInsertWinsAToken", testOneInsertWinsToken},
		{"LookupsAreShared", testLookups},
		{"FindTellsWhoHasWhich", testFind},
		{"FindManyTokens", testFindMany},
		{"FindManyOwners", testFindOwners},
		{"FindIsOfOneMoment", testFindMoment},
		{"StaleIndexesAreRefused", testStaleIndexes},
		{"PagesCoverEachRow", testRowPages},
		{"PagesWhileRowsChange", testRowPagesChange},
		{"PagesOfEarlierIndexes", testRowPagesIndexed},
		{"PagesOfThoseWhoWaitToBeErased", testRowPagesErasing},
		{"PagesWhileRowsAreReindexed", testRowPagesReindexed},
		{"PagesWhileRowsMoveBetweenEarlierIndexes", testRowPagesMoved},
		{"RemovedIsGone", testRemoved},
		{"NothingIsShared", testRowsNotShared},
		{"CanceledContext", testPatronsCanceled},
	})
}

// patrons is a store under test whose methods fail the test.
type patrons struct {
	*testing.T
	patron.Store
}

// patronID makes the nth ID. Some differ in their first bytes only, others in their last.
func patronID(n int) (id patron.ID) {
	id[6], id[8] = 0x40, 0x80
	if n%2 == 0 {
		binary.BigEndian.PutUint32(id[:], uint32(n+1)*0x9e3779b1)
	} else {
		binary.BigEndian.PutUint32(id[12:], uint32(n+1))
	}
	return id
}

func token(name string) (t crypto.Token) {
	copy(t[:], name)
	t[15] = byte(len(name))
	return t
}

func tokens(names ...string) (list []crypto.Token) {
	for _, n := range names {
		list = append(list, token(n))
	}
	return list
}

// row makes the nth patron, with these tokens, as it stands after the given write.
func row(n int, version, indexed uint64, tokens ...crypto.Token) patron.Row {
	return patron.Row{
		ID: patronID(n), Version: version, Indexed: indexed, Tokens: tokens, Restricted: time.Date(2026, 1, 2, 3, 4, 5, 6_000, time.UTC),
		Facts: patron.Facts{Group: "undergraduate", Categories: []string{"arts", "a, \"b\"\nü"}, Library: "main",
			Expires: time.Date(2031, 2, 3, 4, 5, 6, 789_012_000, time.UTC), Wish: patron.WishKeep, WishSince: time.Date(2024, 12, 31, 23, 59, 59, 999_999_000, time.UTC)},
		Segments: []patron.SealedSegment{
			{Segment: access.Names, Revision: version, Data: bytes.Repeat([]byte{byte(n)}, 80)},
			{Segment: access.Photo, Revision: 1, Data: []byte{0, 0xff, byte(version)}},
			{Segment: access.Birth, Revision: 1 << 40, Data: bytes.Repeat([]byte{7}, 5000)},
		},
	}
}

func put(r patron.Row) patron.Write { return patron.Write{Row: r, Old: r.Version - 1} }

func remove(n int, old uint64) patron.Write {
	return patron.Write{Row: patron.Row{ID: patronID(n)}, Old: old, Remove: true}
}

// write makes all writes or fails the test.
func (s patrons) write(indexed uint64, writes ...patron.Write) {
	s.Helper()
	if err := s.Write(s.Context(), patron.Batch{Indexed: indexed, Writes: writes}); err != nil {
		s.Fatalf("Write: %v", err)
	}
}

// refuses expects an error, and that nothing was written: neither rows, nor tokens, nor the change of the index keys.
func (s patrons) refuses(what string, want error, indexed uint64, writes ...patron.Write) {
	s.Helper()
	var all []crypto.Token
	for _, w := range writes {
		all = slices.Concat(all, w.Row.Tokens, w.Row.Lookups)
	}
	rows, found := s.all(patron.Query{Limit: 1000}), s.find(all...)
	err := s.Write(s.Context(), patron.Batch{Indexed: indexed, Writes: writes})
	is(s.T, what, err, want)
	if diff := differ(rows, s.all(patron.Query{Limit: 1000})); diff != "" {
		s.Errorf("%s: the batch was refused, and yet %s", what, diff)
	}
	after := s.find(all...)
	if after.Indexed != found.Indexed {
		s.Errorf("%s: the batch was refused, and yet the newest change of the index keys is %d, was %d", what, after.Indexed, found.Indexed)
	}
	for _, t := range all {
		if !slices.Equal(sorted(found.Owners[t]), sorted(after.Owners[t])) {
			s.Errorf("%s: the batch was refused, and yet Find has other owners of a token", what)
		}
	}
}

// conflicts is refuses for a conflict about the nth row.
func (s patrons) conflicts(what string, n int, indexed uint64, writes ...patron.Write) {
	s.Helper()
	s.refuses(what, patron.ErrConflict, indexed, writes...)
	var e *patron.ConflictError
	if err := s.Write(s.Context(), patron.Batch{Indexed: indexed, Writes: writes}); !errors.As(err, &e) || e.ID != patronID(n) {
		s.Errorf("%s: error %v, want a *patron.ConflictError about row %v", what, err, patronID(n))
	}
}

// duplicate is refuses for a token of one of these rows.
func (s patrons) duplicate(what string, of []int, indexed uint64, writes ...patron.Write) {
	s.Helper()
	s.refuses(what, patron.ErrDuplicate, indexed, writes...)
	var e *patron.DuplicateError
	err := s.Write(s.Context(), patron.Batch{Indexed: indexed, Writes: writes})
	if !errors.As(err, &e) || !slices.ContainsFunc(of, func(n int) bool { return e.ID == patronID(n) }) {
		s.Errorf("%s: error %v, want a *patron.DuplicateError about one of the rows %v", what, err, of)
	}
}

func (s patrons) get(n int) patron.Row {
	s.Helper()
	r, err := s.Get(s.Context(), patronID(n))
	if err != nil {
		s.Fatalf("Get: %v", err)
	}
	return r
}

// has expects a row to be stored just like this, and found by its tokens.
func (s patrons) has(want patron.Row) {
	s.Helper()
	got, err := s.Get(s.Context(), want.ID)
	if err != nil {
		s.Errorf("Get: %v", err)
		return
	}
	if diff := differOne(want, got); diff != "" {
		s.Errorf("the row is not as it was written: %s", diff)
	}
	found := s.find(slices.Concat(want.Tokens, want.Lookups)...)
	for _, t := range want.Tokens {
		if !slices.Equal(found.Owners[t], []patron.ID{want.ID}) {
			s.Errorf("Find has %v as the owners of a token, want only %v", found.Owners[t], want.ID)
		}
	}
	for _, t := range want.Lookups {
		if !slices.Contains(found.Owners[t], want.ID) {
			s.Errorf("Find does not have %v among the owners of a lookup", want.ID)
		}
	}
}

func (s patrons) find(list ...crypto.Token) patron.Found {
	s.Helper()
	found, err := s.Find(s.Context(), list)
	if err != nil {
		s.Fatalf("Find: %v", err)
	}
	return found
}

// owned expects exactly these owners of a token.
func (s patrons) owned(name string, want ...int) {
	s.Helper()
	var ids []patron.ID
	for _, n := range want {
		ids = append(ids, patronID(n))
	}
	found := s.find(token(name))
	if got := found.Owners[token(name)]; !slices.Equal(sorted(got), sorted(ids)) {
		s.Errorf("the owners of %q are %v, want %v", name, got, ids)
	}
	if _, there := found.Owners[token(name)]; there && len(want) == 0 {
		s.Errorf("Find has an entry for %q, which nobody has", name)
	}
}

func sorted(ids []patron.ID) []patron.ID {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b patron.ID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

// page reads one page.
func (s patrons) page(q patron.Query) []patron.Row {
	s.Helper()
	page, err := s.Rows(s.Context(), q)
	if err != nil {
		s.Fatalf("Rows: %v", err)
	}
	if len(page) > q.Limit {
		s.Fatalf("Rows returned %d rows, the limit was %d", len(page), q.Limit)
	}
	return page
}

// pages reads pages to the end, calls do after each and returns how often each row was on one.
func (s patrons) pages(q patron.Query, do func([]patron.Row)) map[patron.ID]int {
	s.Helper()
	seen := make(map[patron.ID]int)
	for n := 0; ; n++ {
		if n > 1000 {
			s.Fatalf("Rows returned %d pages and there is no end", n)
		}
		page := s.page(q)
		for _, r := range page {
			seen[r.ID]++
			if q.IndexedBefore > 0 && r.Indexed >= q.IndexedBefore {
				s.Errorf("Rows(IndexedBefore: %d) returned a row of %d", q.IndexedBefore, r.Indexed)
			}
		}
		do(page)
		if len(page) < q.Limit {
			return seen
		}
		q.After = page[len(page)-1].ID
	}
}

func (s patrons) all(q patron.Query) []patron.Row {
	s.Helper()
	var all []patron.Row
	s.pages(q, func(page []patron.Row) { all = append(all, page...) })
	return all
}

func differ(want, got []patron.Row) string {
	if len(want) != len(got) {
		return fmt.Sprintf("there are %d rows, want %d", len(got), len(want))
	}
	byID := make(map[patron.ID]patron.Row)
	for _, r := range got {
		byID[r.ID] = r
	}
	for _, r := range want {
		if diff := differOne(r, byID[r.ID]); diff != "" {
			return diff
		}
	}
	return ""
}

// differOne says in what two rows differ. The order of segments and tokens does not matter, nor does it whether an empty
// list is nil.
func differOne(want, got patron.Row) string {
	hexes := func(list []crypto.Token) []string {
		var all []string
		for _, t := range list {
			all = append(all, hex.EncodeToString(t[:]))
		}
		slices.Sort(all)
		return all
	}
	segments := func(list []patron.SealedSegment) []string {
		var all []string
		for _, s := range list {
			all = append(all, fmt.Sprintf("%d at %d: %x", s.Segment, s.Revision, s.Data))
		}
		slices.Sort(all)
		return all
	}
	for _, part := range []struct {
		name      string
		want, got any
	}{
		{"ID", want.ID, got.ID},
		{"version", want.Version, got.Version},
		{"change of the index keys", want.Indexed, got.Indexed},
		{"group", want.Facts.Group, got.Facts.Group},
		{"categories", fmt.Sprintf("%q", slices.Concat(want.Facts.Categories)), fmt.Sprintf("%q", slices.Concat(got.Facts.Categories))},
		{"library", want.Facts.Library, got.Facts.Library},
		{"expiry", want.Facts.Expires.Format(time.RFC3339Nano), got.Facts.Expires.Format(time.RFC3339Nano)},
		{"wish", want.Facts.Wish, got.Facts.Wish},
		{"start of the wish", want.Facts.WishSince.Format(time.RFC3339Nano), got.Facts.WishSince.Format(time.RFC3339Nano)},
		{"tokens", fmt.Sprint(hexes(want.Tokens)), fmt.Sprint(hexes(got.Tokens))},
		{"lookups", fmt.Sprint(hexes(want.Lookups)), fmt.Sprint(hexes(got.Lookups))},
		{"segments", fmt.Sprint(segments(want.Segments)), fmt.Sprint(segments(got.Segments))},
	} {
		if part.want != part.got {
			return fmt.Sprintf("the %s is %.200v, want %.200v", part.name, part.got, part.want)
		}
	}
	return ""
}

func testRowComesBack(t *testing.T, s patrons) {
	a, b := row(0, 1, 3, tokens("a1", "a2")...), row(1, 1, 3, tokens("b1")...)
	a.Lookups = tokens("l1", "l2")
	b.Facts.Wish, b.Facts.Library = patron.WishForget, "annex"
	for seg := range access.Segment(access.SegmentCount) {
		if !slices.ContainsFunc(b.Segments, func(s patron.SealedSegment) bool { return s.Segment == seg }) {
			b.Segments = append(b.Segments, patron.SealedSegment{Segment: seg, Revision: uint64(seg), Data: []byte{byte(seg)}})
		}
	}
	s.write(3, put(a), put(b))
	s.has(a)
	s.has(b)
	if diff := differ([]patron.Row{a, b}, s.all(patron.Query{Limit: 10})); diff != "" {
		t.Errorf("Rows: %s", diff)
	}
}

func testEmptyRow(t *testing.T, s patrons) {
	empty := patron.Row{ID: patronID(0), Version: 1}
	s.write(0, put(empty))
	s.has(empty)
	got := s.get(0)
	if !got.Facts.Expires.IsZero() || !got.Facts.WishSince.IsZero() {
		t.Errorf("times that are zero came back as %v and %v", got.Facts.Expires, got.Facts.WishSince)
	}
	if diff := differ([]patron.Row{empty}, s.all(patron.Query{Limit: 10})); diff != "" {
		t.Errorf("Rows: %s", diff)
	}
	s.write(0) // a batch without writes is not an error
}

func testRowTimes(t *testing.T, s patrons) {
	for i, at := range []time.Time{
		time.Date(2026, 3, 4, 23, 59, 59, 999_999_999, time.FixedZone("far east", 14*3600)),
		time.Date(1899, 1, 1, 0, 0, 0, 1000, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC),
		time.Unix(0, 0),
	} {
		r := row(i, 1, 0)
		r.Facts.Expires, r.Facts.WishSince = at, at.Add(time.Microsecond)
		r.Restricted, r.Erasing = at, at
		s.write(0, put(r))
		r.Facts.Expires = at.UTC().Truncate(time.Microsecond)
		r.Restricted, r.Erasing = r.Facts.Expires, r.Facts.Expires
		r.Facts.WishSince = r.Facts.Expires.Add(time.Microsecond)
		s.has(r)
		if zone := s.get(i).Facts.Expires.Location(); zone != time.UTC {
			t.Errorf("a time came back in %v, want UTC", zone)
		}
	}
}

func testUnknownID(t *testing.T, s patrons) {
	s.write(0, put(row(0, 1, 0)))
	for _, n := range []int{1, 2, 3} {
		_, err := s.Get(t.Context(), patronID(n))
		is(t, "Get of an unknown ID", err, patron.ErrNotFound)
		if err != nil && strings.Contains(err.Error(), patronID(n).String()) {
			t.Errorf("the error contains the ID: %q", err)
		}
	}
}

func testReplaceAll(t *testing.T, s patrons) {
	first := row(0, 1, 1, tokens("stays", "goes")...)
	first.Lookups = tokens("lookup stays", "lookup goes")
	s.write(1, put(first), put(row(1, 1, 1, token("other"))))
	second := row(0, 2, 2, tokens("comes", "stays")...)
	second.Lookups = tokens("lookup stays", "lookup comes")
	second.Segments = second.Segments[1:2]
	second.Facts = patron.Facts{Group: "alumni"}
	s.write(2, put(second))
	s.has(second)
	s.owned("goes")
	s.owned("lookup goes")
	s.has(row(1, 1, 1, token("other")))
	// What was given up is free.
	s.write(2, put(row(2, 1, 2, token("goes"))))
	s.owned("goes", 2)
	third := row(0, 3, 2)
	third.Segments = nil
	s.write(2, put(third))
	s.has(third)
	for _, name := range []string{"comes", "stays", "lookup stays", "lookup comes"} {
		s.owned(name)
	}
}

func testVersionConflicts(t *testing.T, s patrons) {
	s.write(1, put(row(0, 1, 1, token("a"))))
	s.write(1, put(row(0, 2, 1, token("a"))))
	s.conflicts("inserting a row that is there", 0, 1, put(row(0, 1, 1, token("b"))))
	s.conflicts("replacing an older version", 0, 1, put(row(0, 2, 1, token("b"))))
	s.conflicts("replacing a version to come", 0, 1, put(row(0, 4, 1, token("b"))))
	s.conflicts("removing an older version", 0, 1, remove(0, 1))
	s.conflicts("replacing a row that is not there", 1, 1, put(row(1, 2, 1, token("b"))))
	s.conflicts("removing a row that is not there", 1, 1, remove(1, 1))
	s.has(row(0, 2, 1, token("a")))
}

func testOneWriterWinsRow(t *testing.T, s patrons) {
	const n = 20
	s.write(1, put(row(0, 1, 1, token("a"))))
	write := func(old uint64) int {
		return oneWins(t, "replacing one version of a row many times at once", race(n, func(i int) error {
			r := row(0, old+1, 1, token(fmt.Sprint("a", i)))
			r.Facts.Group = fmt.Sprint(i)
			return s.Write(t.Context(), patron.Batch{Indexed: 1, Writes: []patron.Write{put(r)}})
		}), patron.ErrConflict)
	}
	for version := range uint64(3) {
		winner := write(version + 1)
		if winner < 0 {
			return
		}
		r := row(0, version+2, 1, token(fmt.Sprint("a", winner)))
		r.Facts.Group = fmt.Sprint(winner)
		s.has(r)
	}
	winner := oneWins(t, "inserting one row many times at once", race(n, func(i int) error {
		return s.Write(t.Context(), patron.Batch{Indexed: 1, Writes: []patron.Write{put(row(1, 1, 1, token(fmt.Sprint("b", i))))}})
	}), patron.ErrConflict)
	if winner >= 0 {
		s.has(row(1, 1, 1, token(fmt.Sprint("b", winner))))
	}
}

func testBatchIsOne(t *testing.T, s patrons) {
	s.write(1, put(row(0, 1, 1, token("a"))), put(row(1, 1, 1, token("b"))), put(row(2, 1, 1, token("c"))))
	good := []patron.Write{put(row(0, 2, 1, token("a2"))), remove(1, 1), put(row(5, 1, 1, token("d")))}
	for _, bad := range []struct {
		what string
		want error
		w    patron.Write
	}{
		{"a conflict", patron.ErrConflict, put(row(2, 3, 1, token("c2")))},
		{"a removal that conflicts", patron.ErrConflict, remove(2, 7)},
		{"an insert that conflicts", patron.ErrConflict, put(row(2, 1, 1, token("e")))},
		{"a token of another patron", patron.ErrDuplicate, put(row(6, 1, 1, token("c")))},
		{"a token of the batch itself", patron.ErrDuplicate, put(row(6, 1, 1, token("d")))},
	} {
		for at := range len(good) + 1 {
			s.refuses(fmt.Sprintf("%s as write %d of a batch", bad.what, at+1), bad.want, 2, slices.Insert(slices.Clone(good), at, bad.w)...)
		}
	}
	s.refuses("a batch with index keys that have changed", patron.ErrStaleIndexes, 0, good...)
	s.write(1, good...)
}

func testTokenOwners(t *testing.T, s patrons) {
	s.write(1, put(row(0, 1, 1, tokens("a", "b")...)), put(row(1, 1, 1, token("c"))))
	s.duplicate("an insert with somebody's token", []int{2}, 1, put(row(2, 1, 1, tokens("x", "b")...)))
	s.duplicate("a replacement with somebody's token", []int{1}, 1, put(row(1, 2, 1, tokens("c", "a")...)))
	s.duplicate("two inserts with one token", []int{3, 4}, 1, put(row(3, 1, 1, tokens("x", "y")...)), put(row(4, 1, 1, tokens("y", "z")...)))
	s.duplicate("an insert and a replacement with one token", []int{1, 3}, 1, put(row(1, 2, 1, token("x"))), put(row(3, 1, 1, token("x"))))
	s.duplicate("a token that its owner keeps", []int{2}, 1, put(row(0, 2, 1, tokens("a", "b")...)), put(row(2, 1, 1, token("b"))))
	s.write(1, put(row(0, 2, 1, tokens("b", "a")...))) // its own
	s.has(row(0, 2, 1, tokens("a", "b")...))
}

func testTokensMove(t *testing.T, s patrons) {
	both := func(what string, check func(), writes ...patron.Write) {
		t.Helper()
		before := s.all(patron.Query{Limit: 100})
		for _, order := range []string{"giver first", "taker first"} {
			if err := s.Write(t.Context(), patron.Batch{Indexed: 1, Writes: writes}); err != nil {
				t.Errorf("%s, %s: %v", what, order, err)
			} else {
				check()
			}
			slices.Reverse(writes)
			// As before, for the other order.
			var back []patron.Write
			for _, r := range s.all(patron.Query{Limit: 100}) {
				back = append(back, patron.Write{Row: patron.Row{ID: r.ID}, Old: r.Version, Remove: true})
			}
			s.write(1, back...)
			for _, r := range before {
				r.Version = 1
				s.write(1, put(r))
			}
		}
	}
	s.write(1, put(row(0, 1, 1, tokens("a", "k")...)), put(row(1, 1, 1, token("b"))))
	both("an insert takes what a removal frees", func() { s.owned("a", 2); s.owned("k") }, remove(0, 1), put(row(2, 1, 1, token("a"))))
	both("an insert takes what a replacement gives up", func() { s.owned("a", 2); s.owned("k", 0) }, put(row(0, 2, 1, token("k"))), put(row(2, 1, 1, token("a"))))
	both("a replacement takes what a removal frees", func() { s.owned("a", 1); s.owned("b") }, remove(0, 1), put(row(1, 2, 1, token("a"))))
	both("two patrons exchange their tokens", func() { s.owned("a", 1); s.owned("b", 0) }, put(row(0, 2, 1, token("b"))), put(row(1, 2, 1, token("a"))))
}

func testOneInsertWinsToken(t *testing.T, s patrons) {
	const n = 100 // more wait for each other longer than a store may make them, where the disk is slow
	winner := oneWins(t, "inserting many patrons with one token at once", race(n, func(i int) error {
		return s.Write(t.Context(), patron.Batch{Indexed: 1, Writes: []patron.Write{put(row(i, 1, 1, token("shared"), token(fmt.Sprint("own", i))))}})
	}), patron.ErrDuplicate)
	if winner >= 0 {
		s.has(row(winner, 1, 1, token("shared"), token(fmt.Sprint("own", winner))))
	}
	if all := s.all(patron.Query{Limit: n}); len(all) != 1 {
		t.Errorf("there are %d rows, want 1", len(all))
	}
}

func testLookups(t *testing.T, s patrons) {
	with := func(n int, version uint64, lookups ...string) patron.Row {
		r := row(n, version, 1, token(fmt.Sprint("own", n)))
		r.Lookups = tokens(lookups...)
		return r
	}
	s.write(1, put(with(0, 1, "smith", "jones")), put(with(1, 1, "smith")))
	s.write(1, put(with(2, 1, "smith")))
	s.owned("smith", 0, 1, 2)
	s.owned("jones", 0)
	s.write(1, put(with(1, 2, "jones")), remove(2, 1))
	s.owned("smith", 0)
	s.owned("jones", 0, 1)
	s.has(with(1, 2, "jones"))
	// A lookup is no identifier: it does not keep anybody from having it as one.
	r := row(3, 1, 1, token("smith"))
	r.Lookups = tokens("own0")
	s.write(1, put(r))
	s.owned("smith", 0, 3)
	s.owned("own0", 0, 3)
	// Whoever has it as both is there once.
	r = row(4, 1, 1, token("both"))
	r.Lookups = tokens("both")
	s.write(1, put(r))
	s.owned("both", 4)
	r.Version, r.Lookups = 2, nil
	s.write(1, put(r))
	s.owned("both", 4)
}

func testFind(t *testing.T, s patrons) {
	if found := s.find(token("a")); len(found.Owners) != 0 || found.Indexed != 0 {
		t.Errorf("an empty store has found %d owners, its newest change is %d, want 0 and 0", len(found.Owners), found.Indexed)
	}
	s.write(4, put(row(0, 1, 4, tokens("a", "b")...)), put(row(1, 1, 4, token("c"))), put(row(2, 1, 4, token("d"))))
	found := s.find(tokens("a", "c", "nobody's", "a", "b")...)
	if len(found.Owners) != 3 {
		t.Errorf("of four tokens that three have owners, Find returned %d", len(found.Owners))
	}
	for name, want := range map[string]int{"a": 0, "b": 0, "c": 1} {
		if got := found.Owners[token(name)]; !slices.Equal(got, []patron.ID{patronID(want)}) {
			t.Errorf("the owners of %q among several are %v, want only %v", name, got, patronID(want))
		}
	}
	if found.Indexed != 4 {
		t.Errorf("the newest change is %d, want 4", found.Indexed)
	}
	if found := s.find(); len(found.Owners) != 0 || found.Indexed != 4 {
		t.Errorf("Find of nothing has %d owners, and the newest change is %d, want 0 and 4", len(found.Owners), found.Indexed)
	}
}

func testFindMany(t *testing.T, s patrons) {
	const n, each = 20, 2000
	var writes []patron.Write
	for i := range n {
		writes = append(writes, put(row(i, 1, 1, token(fmt.Sprint("t", i*each)))))
	}
	s.write(1, writes...)
	var list []crypto.Token
	for i := range n * each {
		list = append(list, token(fmt.Sprint("t", i)))
	}
	found := s.find(list...)
	if len(found.Owners) != n {
		t.Fatalf("of %d tokens %d have an owner, and Find returned %d", len(list), n, len(found.Owners))
	}
	for i := range n {
		if got := found.Owners[token(fmt.Sprint("t", i*each))]; !slices.Equal(got, []patron.ID{patronID(i)}) {
			t.Errorf("the owners of a token among thousands are %v, want only %v", got, patronID(i))
		}
	}
}

func testFindOwners(t *testing.T, s patrons) {
	const enough = 1000
	var writes []patron.Write
	for i := range enough + 50 {
		r := patron.Row{ID: patronID(i), Version: 1, Lookups: tokens("all")}
		if i%2 == 0 {
			r.Lookups = tokens("all", "even")
		}
		writes = append(writes, put(r))
	}
	s.write(0, writes...)
	found := s.find(tokens("all", "even")...)
	for name, least := range map[string]int{"all": enough, "even": enough/2 + 25} {
		ids := found.Owners[token(name)]
		once := make(map[patron.ID]bool)
		for _, id := range ids {
			once[id] = true
		}
		if len(ids) < least || len(once) != len(ids) {
			t.Errorf("Find returned %d owners of %q, %d of them different, want at least %d", len(ids), name, len(once), least)
		}
	}
}

// The token goes from patron to patron, each time with the next change of the index keys: who reads both sees them fit.
func testFindMoment(t *testing.T, s patrons) {
	const n = 60
	s.write(1, put(row(1, 1, 1, token("a"))))
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for i := 2; i <= n; i++ {
			err := s.Write(t.Context(), patron.Batch{Indexed: uint64(i), Writes: []patron.Write{remove(i-1, 1), put(row(i, 1, uint64(i), token("a")))}})
			if err != nil {
				t.Errorf("Write: %v", err)
				return
			}
		}
	})
	for range 4 {
		wg.Go(func() {
			for {
				found, err := s.Find(t.Context(), tokens("a"))
				if err != nil {
					t.Errorf("Find: %v", err)
					return
				}
				if got := found.Owners[token("a")]; !slices.Equal(got, []patron.ID{patronID(int(found.Indexed))}) {
					t.Errorf("Find says that the change is %d and the token belongs to %v, who had it at another time", found.Indexed, got)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	wg.Wait()
}

func testStaleIndexes(t *testing.T, s patrons) {
	newest := func(want uint64) {
		t.Helper()
		if got := s.find().Indexed; got != want {
			t.Errorf("the newest change of the index keys is %d, want %d", got, want)
		}
	}
	newest(0)
	s.write(5, put(row(0, 1, 5, token("a"))))
	newest(5)
	s.refuses("an insert with older index keys", patron.ErrStaleIndexes, 4, put(row(1, 1, 4, token("b"))))
	s.refuses("a replacement with older index keys", patron.ErrStaleIndexes, 4, put(row(0, 2, 4, token("b"))))
	s.write(5, put(row(1, 1, 5, token("b"))))
	newest(5)
	s.write(9, put(row(2, 1, 9, token("c"))))
	newest(9)
	s.refuses("an insert with what was the newest before", patron.ErrStaleIndexes, 5, put(row(3, 1, 5, token("d"))))
	s.write(9, remove(2, 1))
	newest(9) // ever written, not of the rows that are left
	s.has(row(0, 1, 5, token("a")))
}

func (s patrons) fill(n int, indexed func(i int) uint64) (all []patron.Row) {
	s.Helper()
	for i := range n {
		all = append(all, row(i, 1, indexed(i), token(fmt.Sprint("t", i))))
	}
	slices.SortStableFunc(all, func(a, b patron.Row) int { return int(a.Indexed) - int(b.Indexed) }) // later batches must not be older
	for _, r := range all {
		s.write(r.Indexed, put(r))
	}
	return all
}

func (s patrons) covered(what string, seen map[patron.ID]int, all []patron.Row) {
	s.Helper()
	for _, r := range all {
		if seen[r.ID] == 0 {
			s.Errorf("%s: row %v is on no page", what, r.ID)
		}
	}
}

func one(int) uint64 { return 1 }

func testRowPages(t *testing.T, s patrons) {
	if page := s.page(patron.Query{Limit: 10}); len(page) > 0 {
		t.Fatalf("an empty store has %d rows", len(page))
	}
	all := s.fill(12, one)
	for _, size := range []int{1, 2, 5, 12, 100} {
		var got []patron.Row
		seen := s.pages(patron.Query{Limit: size}, func(page []patron.Row) { got = append(got, page...) })
		s.covered(fmt.Sprintf("pages of %d", size), seen, all)
		if diff := differ(all, got); diff != "" {
			t.Errorf("pages of %d: %s", size, diff)
		}
	}
}

func testRowPagesChange(t *testing.T, s patrons) {
	all := s.fill(30, one)
	left := make(map[patron.ID]patron.Row)
	for _, r := range all {
		left[r.ID] = r
	}
	arrival := 100
	for _, size := range []int{1, 2, 3, 7} {
		var there []patron.Row
		for _, r := range left {
			there = append(there, r)
		}
		gone := 0
		seen := s.pages(patron.Query{Limit: size}, func(page []patron.Row) {
			for i, r := range page {
				now, known := left[r.ID]
				switch {
				case !known: // came while the pages were read
				case i == len(page)-1 && gone < 5: // the one that the next page comes after
					s.write(1, patron.Write{Row: patron.Row{ID: r.ID}, Old: now.Version, Remove: true})
					delete(left, r.ID)
					gone++
				default:
					now.Version++
					s.write(1, put(now))
					left[r.ID] = now
				}
			}
			if arrival < 160 {
				s.write(1, put(row(arrival, 1, 1)))
				arrival++
			}
		})
		s.covered(fmt.Sprintf("pages of %d while rows are removed and replaced", size), seen, there)
	}
}

func testRowPagesIndexed(t *testing.T, s patrons) {
	all := s.fill(12, func(i int) uint64 { return uint64(1 + i%4) })
	for before := range uint64(7) {
		for _, size := range []int{1, 2, 3, 100} {
			seen := s.pages(patron.Query{IndexedBefore: before, Limit: size}, nothing)
			for _, r := range all {
				want := 0
				if before == 0 || r.Indexed < before {
					want = 1
				}
				if seen[r.ID] != want {
					t.Errorf("Rows(IndexedBefore: %d) returned a row of %d %d times, want %d", before, r.Indexed, seen[r.ID], want)
				}
			}
		}
	}
	if n := len(s.all(patron.Query{IndexedBefore: 1<<64 - 1, Limit: 5})); n != len(all) {
		t.Errorf("Rows before the greatest of all changes returned %d rows, want %d", n, len(all))
	}
}

func testRowPagesErasing(t *testing.T, s patrons) {
	all := s.fill(12, func(i int) uint64 { return uint64(1 + i%4) })
	at := time.Date(2026, 5, 6, 7, 8, 9, 10_000, time.UTC)
	for i := range all {
		if i%3 == 0 {
			all[i].Version, all[i].Erasing = 2, at
			s.write(4, put(all[i]))
		}
	}
	for _, size := range []int{1, 2, 3, 100} {
		seen := s.pages(patron.Query{Erasing: true, Limit: size}, func(page []patron.Row) {
			for _, r := range page {
				if !r.Erasing.Equal(at) {
					t.Errorf("Rows(Erasing) returned a row with Erasing %v, want %v", r.Erasing, at)
				}
			}
		})
		for i, r := range all {
			if want := btoi(i%3 == 0); seen[r.ID] != want {
				t.Errorf("Rows(Erasing) returned row %d %d times, want %d", i, seen[r.ID], want)
			}
		}
	}
	// Who is written without it waits no more.
	r := all[0]
	r.Version, r.Erasing = 3, time.Time{}
	s.write(4, put(r))
	if n := len(s.all(patron.Query{Erasing: true, Limit: 2})); n != 3 {
		t.Errorf("after one of four does not wait any more, Rows(Erasing) returned %d rows, want 3", n)
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Each page is written with the tokens of the new index before the next one is read.
func testRowPagesReindexed(t *testing.T, s patrons) {
	all := s.fill(12, func(i int) uint64 { return uint64(1 + i%3) })
	for round, size := range []int{1, 2, 3, 100} {
		now := uint64(10 + round)
		seen := s.pages(patron.Query{IndexedBefore: now, Limit: size}, func(page []patron.Row) {
			for _, r := range page {
				r.Version++
				r.Indexed, r.Tokens = now, tokens(fmt.Sprint(round, r.ID[:1], r.ID[15]))
				s.write(now, put(r))
			}
		})
		s.covered(fmt.Sprintf("pages of %d", size), seen, all)
		if left := s.page(patron.Query{IndexedBefore: now, Limit: 100}); len(left) > 0 {
			t.Errorf("pages of %d: %d rows have tokens of earlier index keys after all were written", size, len(left))
		}
	}
}

// The index is rotated once more while pages are read: a row that others have written meanwhile is there all the time.
func testRowPagesMoved(t *testing.T, s patrons) {
	const bound = 1000
	all := s.fill(9, func(i int) uint64 { return uint64(1 + i%3) })
	current := make(map[patron.ID]patron.Row)
	for _, r := range all {
		current[r.ID] = r
	}
	now := uint64(3)
	for _, size := range []int{1, 2, 3} {
		seen := s.pages(patron.Query{IndexedBefore: bound, Limit: size}, func([]patron.Row) {
			now++
			for i, r := range all {
				if i%2 == int(now)%2 {
					r = current[r.ID]
					r.Version++
					r.Indexed = now
					current[r.ID] = r
					s.write(now, put(r))
				}
			}
		})
		s.covered(fmt.Sprintf("pages of %d", size), seen, all)
	}
}

func testRemoved(t *testing.T, s patrons) {
	a, b := row(0, 1, 1, tokens("a1", "a2")...), row(1, 1, 1, token("b"))
	a.Lookups, b.Lookups = tokens("smith"), tokens("smith")
	s.write(1, put(a), put(b))
	s.write(1, remove(0, 1))
	_, err := s.Get(t.Context(), patronID(0))
	is(t, "Get of a row that was removed", err, patron.ErrNotFound)
	s.owned("a1")
	s.owned("a2")
	s.owned("smith", 1)
	if all := s.all(patron.Query{Limit: 10}); len(all) != 1 || all[0].ID != patronID(1) {
		t.Errorf("Rows has %d rows after one of two was removed", len(all))
	}
	s.has(b)
	s.conflicts("replacing a row that was removed", 0, 1, put(row(0, 2, 1)))
	s.write(1, put(row(2, 1, 1, token("a1"))))
	s.has(row(2, 1, 1, token("a1")))
	s.write(1, put(row(0, 1, 1, token("a2"))))
	s.has(row(0, 1, 1, token("a2")))
}

func testRowsNotShared(t *testing.T, s patrons) {
	spoil := func(r patron.Row) {
		for i := range r.Segments {
			flip(r.Segments[i].Data)
			_ = append(r.Segments[i].Data, 0xff) // must not grow into the next one
			r.Segments[i].Segment = access.Notes
		}
		for i := range r.Tokens {
			flip(r.Tokens[i][:])
		}
		for i := range r.Lookups {
			flip(r.Lookups[i][:])
		}
		for i := range r.Facts.Categories {
			r.Facts.Categories[i] = "spoiled"
		}
	}
	fresh := func() patron.Row {
		r := row(0, 1, 1, tokens("a", "b")...)
		r.Lookups = tokens("l")
		return r
	}
	r := fresh()
	s.write(1, put(r))
	spoil(r)
	s.has(fresh())
	got := s.get(0)
	for i := range got.Segments {
		_ = append(got.Segments[i].Data, 0xff)
	}
	if diff := differOne(fresh(), got); diff != "" {
		t.Errorf("appending to one segment changed another: %s", diff)
	}
	spoil(got)
	s.has(fresh())
	for _, r := range s.page(patron.Query{Limit: 10}) {
		spoil(r)
	}
	s.has(fresh())
	found := s.find(token("a"))
	for _, ids := range found.Owners {
		for i := range ids {
			flip(ids[i][:])
		}
	}
	clear(found.Owners)
	s.has(fresh())
}

func testPatronsCanceled(t *testing.T, s patrons) {
	s.write(1, put(row(0, 1, 1, token("a"))))
	ctx := canceled(t)
	_, err := s.Get(ctx, patronID(0))
	is(t, "Get", err, context.Canceled)
	_, err = s.Find(ctx, tokens("a"))
	is(t, "Find", err, context.Canceled)
	_, err = s.Rows(ctx, patron.Query{Limit: 10})
	is(t, "Rows", err, context.Canceled)
	is(t, "Write", s.Write(ctx, patron.Batch{Indexed: 2, Writes: []patron.Write{put(row(0, 2, 2)), put(row(1, 1, 2))}}), context.Canceled)
	s.has(row(0, 1, 1, token("a")))
	if found := s.find(); found.Indexed != 1 {
		t.Errorf("a canceled Write made %d the newest change of the index keys, was 1", found.Indexed)
	}
}
