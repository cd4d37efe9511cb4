package storetest

import (
	"fmt"
	"slices"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

func pageCases() []testcase {
	return []testcase{
		{name: "PagesCoverEachRecordOnce", run: testPages},
		{name: "NothingIsHeldOpen", run: testNothingIsHeldOpen},
		{name: "ShardsPartition", run: testShards},
		{name: "KindsDoNotMix", run: testKindsDoNotMix},
	}
}

// fill saves n records of a kind, of three borrowers in turn.
func (f *fixture) fill(k circulation.Kind, n int) {
	f.Helper()
	var entries []circulation.Entry
	for i := range n {
		entries = append(entries, entry(k, f.id(i), person(i%3)))
	}
	f.save(entries...)
}

func testPages(f *fixture) {
	const n = 9
	for _, size := range []int{1, 2, 3, 100} {
		f.sub(fmt.Sprintf("by %d", size), func(f *fixture) {
			f.eachKind(func(f *fixture, k circulation.Kind) {
				f.fill(k, n)
				q := query(k)
				q.Limit = size
				if got := f.linkedIn(q); len(got) != n {
					f.Fatalf("the pages have %d records, want %d", len(got), n)
				}
				// The same while every page is unlinked before the next one is read.
				seen := make(map[string]int)
				f.pages(q, func(records []circulation.Record) {
					for _, r := range records {
						seen[r.ID]++
					}
					if len(records) == 0 {
						return
					}
					if conflicts := f.try(records...); len(conflicts) > 0 {
						f.Fatalf("Unlink of a page: conflicts %q, want none", conflicts)
					}
				})
				for i := range n {
					if seen[f.id(i)] != 1 {
						f.Errorf("%s %s was on %d pages while earlier pages were unlinked, want 1", k, f.id(i), seen[f.id(i)])
					}
				}
				if left := f.linked(k); len(left) > 0 {
					f.Errorf("%d records still name a borrower after all were unlinked", len(left))
				}
			})
		})
	}
}

// A store that answers from a query it keeps open hangs here, or says that it is locked.
func testNothingIsHeldOpen(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		f.fill(k, 4)
		q := query(k)
		q.Limit = 1
		first := f.page(q)
		if len(first.Records) == 0 || first.Cursor == "" {
			f.Fatalf("the first page of 4 records has %d records and the cursor %q", len(first.Records), first.Cursor)
		}
		f.soon("Save between two pages", func() error {
			return f.Save(f.Context(), entry(k, f.id(90), person(90)))
		})
		f.soon("Unlink between two pages", func() error {
			conflicts, err := f.Store.Unlink(f.Context(), batch(first.Records...))
			if err == nil && len(conflicts) > 0 {
				f.Errorf("Unlink between two pages: conflicts %q, want none", conflicts)
			}
			return err
		})
		seen := map[string]bool{first.Records[0].ID: true}
		q.Cursor = first.Cursor
		f.pages(q, func(records []circulation.Record) {
			for _, r := range records {
				seen[r.ID] = true
			}
		})
		for i := range 4 {
			if !seen[f.id(i)] {
				f.Errorf("%s %s was left out by pages between which something was written", k, f.id(i))
			}
		}
	})
}

func testShards(f *fixture) {
	const n, of = 40, 3
	f.eachKind(func(f *fixture, k circulation.Kind) {
		f.fill(k, n)
		q := query(k)
		q.Limit = 7
		home := make(map[string]int)
		for q.Shard = (anonymize.Shard{Of: of}); q.Shard.Index < of; q.Shard.Index++ {
			for id := range f.linkedIn(q) {
				if _, taken := home[id]; taken {
					f.Errorf("%s %s is in shards %d and %d", k, id, home[id], q.Shard.Index)
				}
				home[id] = q.Shard.Index
			}
		}
		if len(home) != n {
			f.Errorf("the shards have %d records together, want %d", len(home), n)
		}
		q.Shard = anonymize.Shard{Of: 1}
		if got := len(f.linkedIn(q)); got != n {
			f.Errorf("the only shard has %d records, want %d", got, n)
		}
		// Two workers that do not wait for each other must never meet: a shard is no share of what is left.
		for i := 0; i < n; i += 2 {
			f.try(f.linked(k)[f.id(i)])
		}
		for q.Shard = (anonymize.Shard{Of: of}); q.Shard.Index < of; q.Shard.Index++ {
			for id := range f.linkedIn(q) {
				if home[id] != q.Shard.Index {
					f.Errorf("%s %s moved from shard %d to %d when others were unlinked", k, id, home[id], q.Shard.Index)
				}
			}
		}
	})
}

func testKindsDoNotMix(f *fixture) {
	id := f.id(0)
	for _, k := range f.kinds() {
		f.save(entry(k, id, person(1)))
	}
	for _, k := range f.kinds() {
		for _, r := range f.linked(k) {
			if r.Kind != k {
				f.Errorf("asked for the kind %s, Linked returned a %s", k, r.Kind)
			}
		}
	}
	left := slices.Clone(f.kinds())
	for len(left) > 0 {
		f.unlink(left[0], id)
		left = left[1:]
		for _, k := range left {
			if !f.isLinked(k, id) {
				f.Errorf("%s %s was unlinked together with a record of another kind and the same ID", k, id)
			}
		}
	}
	for _, k := range circulation.Kinds() {
		if f.holds(k) {
			continue
		}
		// A policy may have rules for a kind that the store does not hold: it has none of it.
		page, err := f.Store.Linked(f.Context(), query(k))
		if err != nil || len(page.Records) > 0 || page.Cursor != "" {
			f.Errorf("Linked of the kind %s, which the store does not hold: %d records, error %v; want none", k, len(page.Records), err)
		}
	}
}
