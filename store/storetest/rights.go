package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/rights"
)

func rightsCases() []testcase {
	return []testcase{
		{name: "NamedFindsEveryRole", rights: true, run: testNamedRoles},
		{name: "NamedTellsAll", rights: true, run: testNamedTellsAll},
		{name: "NamedPagesCoverEachRecordOnce", rights: true, run: testNamedPages},
		{name: "NamedVersionsAreUnlinks", rights: true, run: testNamedVersions},
		{name: "NamedIsNobodyElse", rights: true, run: testNamedNobodyElse},
		{name: "NamedSaysHold", rights: true, holds: true, run: testNamedHold},
		{name: "PartTakesOutOfOthersRecords", rights: true, run: testPart},
		{name: "PartForgetsWhomNothingNames", rights: true, accounts: true, run: testPartForgets},
		{name: "PartKeepsWhatIsHeld", rights: true, accounts: true, holds: true, run: testPartKeeps},
	}
}

func (f *fixture) rightsStore() rights.Circulation { return f.Store.(rights.Circulation) }

// named returns all records that name persons, by kind and ID, read in pages.
func (f *fixture) named(limit int, persons ...circulation.Borrower) (all []rights.Named, hold bool) {
	f.Helper()
	q := rights.Query{Persons: persons, Limit: limit}
	for n := 0; ; n++ {
		if n > 2000 {
			f.Fatalf("Named returned %d pages and there is no end", n)
		}
		page, err := f.rightsStore().Named(f.Context(), q)
		if err != nil {
			f.Fatalf("Named: %v", err)
		}
		if len(page.Records) > limit {
			f.Fatalf("Named returned %d records, the limit was %d", len(page.Records), limit)
		}
		all, hold = append(all, page.Records...), hold || page.Hold
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return all, hold
		}
	}
}

func (f *fixture) part(persons ...circulation.Borrower) int {
	f.Helper()
	left, err := f.rightsStore().Part(f.Context(), persons)
	if err != nil {
		f.Fatalf("Part: %v", err)
	}
	return left
}

// roleFields are the fields that name a person, with their roles.
var roleFields = map[string]circulation.Role{"Borrower": circulation.RoleBorrower, "Proxy": circulation.RoleProxy, "Sponsor": circulation.RoleSponsor,
	"Staff": circulation.RoleStaff, "Recipient": circulation.RoleRecipient}

func testNamedRoles(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		want := map[string][]circulation.Role{}
		n := 0
		for _, name := range []string{"Borrower", "Proxy", "Sponsor", "Staff", "Recipient"} {
			if !has(k, name) {
				continue
			}
			id := f.id(n)
			e := with(entry(k, id, person(900+n)), name, person(7))
			want[id] = []circulation.Role{roleFields[name]}
			if name == "Staff" || name == "Recipient" { // the borrower's own, and once again
				e = with(e, "Borrower", person(7))
				want[id] = []circulation.Role{circulation.RoleBorrower, roleFields[name]}
			}
			f.save(e)
			n++
		}
		got := map[string][]circulation.Role{}
		all, _ := f.named(100, person(7))
		for _, r := range all {
			got[r.Facts.ID] = r.Roles
			f.same("the kind", r.Facts.Kind, k)
			if own := r.Roles[0] == circulation.RoleBorrower; own != (r.Version != "") {
				f.Errorf("a record with the roles %v has the version %q", r.Roles, r.Version)
			}
		}
		for id, roles := range want {
			if !slices.Equal(got[id], roles) {
				f.Errorf("Named says of %s the roles %v, want %v", id, got[id], roles)
			}
		}
		f.same("how many records name the person", len(all), len(want))
	})
}

// What Named says of a record is what was saved, and what Linked says of it.
func testNamedTellsAll(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		e := entry(k, f.id(0), person(1))
		if has(k, "Note") {
			e = with(e, "Note", "a note of staff")
		}
		if has(k, "Loan") && f.holds(circulation.KindLoan) && k != circulation.KindLoan {
			f.save(loan(f.id(1), person(2)))
			e = with(e, "Loan", f.id(1))
		}
		f.save(e)
		parts, err := e.Parts()
		f.must(err)
		all, _ := f.named(10, person(1))
		if len(all) != 1 {
			f.Fatalf("Named returned %d records, want 1", len(all))
		}
		got := all[0]
		want := parts.Facts
		want.Version = ""
		for _, at := range []*time.Time{&want.Started, &want.Due, &want.Ended, &got.Facts.Started, &got.Facts.Due, &got.Facts.Ended} {
			*at = at.Round(0).UTC()
		}
		f.same("the facts", fmt.Sprintf("%+v", got.Facts), fmt.Sprintf("%+v", want))
		f.same("the texts", fmt.Sprint(got.Texts), fmt.Sprint(parts.Texts))
		f.same("the pointers", fmt.Sprint(got.Points), fmt.Sprint(parts.Points))
		linked := f.get(k, f.id(0))
		linked.Borrower, got.Borrower = "", ""
		linked.Version, got.Version = "", ""
		linked.Proxy, got.Proxy = "", ""
		linked.Categories, got.Categories = nil, nil
		linked.Started, got.Started = time.Time{}, time.Time{} // Linked may leave it out
		f.same("what rules see", fmt.Sprintf("%+v", got.Record), fmt.Sprintf("%+v", linked))
	})
}

func testNamedPages(f *fixture) {
	k := f.kinds()[0]
	const n = 23
	var entries []circulation.Entry
	for i := range n {
		b := person(1 + i%2)
		entries = append(entries, entry(k, f.id(i), b))
	}
	f.save(entries...)
	for _, limit := range []int{1, 2, 7, 100} {
		seen := map[string]int{}
		all, _ := f.named(limit, person(1), person(2))
		for _, r := range all {
			seen[r.Facts.ID]++
		}
		for i := range n {
			if seen[f.id(i)] != 1 {
				f.Errorf("in pages of %d, record %d came %d times, want once", limit, i, seen[f.id(i)])
			}
		}
	}
	// Each page is unlinked before the next one is read.
	q := rights.Query{Persons: []circulation.Borrower{person(1), person(2)}, Limit: 4}
	gone := 0
	for {
		page, err := f.rightsStore().Named(f.Context(), q)
		f.must(err)
		for _, r := range page.Records {
			if conflicts := f.try(r.Record); len(conflicts) > 0 {
				f.Errorf("a record that Named returned conflicts")
			}
			gone++
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			break
		}
	}
	f.same("records unlinked page by page", gone, n)
	all, _ := f.named(100, person(1), person(2))
	f.same("records that still name somebody", len(all), 0)
}

// The version is one that Unlink compares.
func testNamedVersions(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		f.save(entry(k, f.id(0), person(1)), entry(k, f.id(1), person(1)))
		all, _ := f.named(10, person(1))
		f.save(unfinished(k, f.id(0), person(1)))
		f.save(entry(k, f.id(0), person(1)))
		for _, r := range all {
			conflicts := f.try(r.Record)
			if changed := r.Facts.ID == f.id(0); changed != (len(conflicts) == 1) {
				f.Errorf("Unlink of record %s returned the conflicts %q; it was changed since Named read it: %v", r.Facts.ID, conflicts, changed)
			}
		}
	})
}

func testNamedNobodyElse(f *fixture) {
	k := f.kinds()[0]
	f.save(entry(k, f.id(0), person(1)), entry(k, f.id(1), person(2)), entry(k, f.id(2), person(12)))
	for _, persons := range [][]circulation.Borrower{nil, {person(3)}, {""}, {"p-"}, {"%"}, {person(1) + " "}} {
		if all, _ := f.named(10, persons...); len(all) > 0 {
			f.Errorf("Named(%q) returned %d records, want none", persons, len(all))
		}
	}
	all, _ := f.named(10, person(1), person(3))
	if len(all) != 1 || all[0].Facts.ID != f.id(0) {
		f.Errorf("Named of one person returned %d records, want theirs", len(all))
	}
	f.unlink(k, f.id(0))
	all, _ = f.named(10, person(1))
	f.same("records after unlinking", len(all), 0)
	f.same("how many are left of somebody unknown", f.part(person(3), ""), 0)
}

func testNamedHold(f *fixture) {
	k := f.kinds()[0]
	f.save(entry(k, f.id(0), person(1)), entry(k, f.id(1), person(2)))
	f.must(f.AddHold(f.Context(), circulation.Hold{Borrower: person(1), Ref: "case 1"}))
	f.must(f.AddHold(f.Context(), circulation.Hold{Borrower: person(3), Ref: "case 2"}))
	f.must(f.AddHold(f.Context(), circulation.Hold{Borrower: person(2), Ref: "over", Until: time.Now().Add(-time.Hour)}))
	for n, want := range map[int]bool{1: true, 2: false, 3: true, 4: false} {
		all, hold := f.named(10, person(n))
		if hold != want {
			f.Errorf("Named says that person %d is under a hold: %v, want %v", n, hold, want)
		}
		for _, r := range all {
			f.same("the hold of a record", r.Hold, want)
		}
	}
}

func testPart(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		var companions []string
		for _, name := range []string{"Proxy", "Sponsor", "Recipient"} {
			if has(k, name) {
				companions = append(companions, name)
			}
		}
		e := entry(k, f.id(0), person(1))
		for _, name := range companions {
			e = with(e, name, person(7))
		}
		f.save(e, entry(k, f.id(1), person(7)))
		was := f.get(k, f.id(0))
		f.same("records that still name the person as borrower", f.part(person(7)), 1)
		f.isLinked(k, f.id(0))
		all, _ := f.named(10, person(7))
		if len(all) != 1 || all[0].Facts.ID != f.id(1) {
			f.Errorf("after Part, %d records name the person, want only the one of which they are the borrower", len(all))
		}
		if len(companions) > 0 {
			f.refused(was, "it was read before somebody was taken out of it")
		}
		f.unlink(k, f.id(1))
		f.same("records that name the person after that was unlinked", f.part(person(7)), 0)
		f.lacks(f.dump(), "after Part", string(person(7)))
		f.contains(f.dump(), "after Part", string(person(1)))
		f.same("records that name the person", f.part(person(7)), 0)
	})
}

func testPartForgets(f *fixture) {
	k := f.kinds()[0]
	account := func(n int) circulation.Account {
		return circulation.Account{Borrower: person(n), Group: fmt.Sprintf("group-of-%d", n), Expires: now}
	}
	f.must(f.SaveAccount(f.Context(), account(1)))
	f.must(f.SaveAccount(f.Context(), account(2)))
	f.save(unfinished(k, f.id(0), person(1)))
	f.same("records that still name the person", f.part(person(1), person(2)), 1)
	dump := f.dump()
	f.lacks(dump, "after Part", string(person(2)), "group-of-2")
	f.contains(dump, "as long as a record names them", string(person(1)))
	f.same("the group of who is named still", f.get(k, f.id(0)).GroupNow, "group-of-1")
	f.save(entry(k, f.id(0), person(1)))
	f.unlink(k, f.id(0))
	f.finish()
	f.lacks(f.dump(), "when the last record is unlinked", string(person(1)), "group-of-1")
}

func testPartKeeps(f *fixture) {
	f.must(f.SaveAccount(f.Context(), circulation.Account{Borrower: person(1)}))
	f.must(f.AddHold(f.Context(), circulation.Hold{Borrower: person(1), Ref: "case 1"}))
	f.same("records that still name the person", f.part(person(1)), 0)
	f.contains(f.dump(), "under a hold", string(person(1)))
	if f.ReleaseHold == nil {
		return
	}
	released, err := f.ReleaseHold(f.Context(), person(1), "case 1")
	f.must(err)
	f.same("that the hold was there", released, true)
	f.part(person(1))
	f.lacks(f.dump(), "after the hold", string(person(1)))
}
