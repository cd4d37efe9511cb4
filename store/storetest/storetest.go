// Package storetest proves that a store keeps its contract.
//
// Call [TestCirculation] from a test of your own, with a function that opens an empty store:
//
//	func TestStore(t *testing.T) {
//		storetest.TestCirculation(t, func(t *testing.T) storetest.Circulation {
//			s := openMine(t)
//			return storetest.Circulation{Store: s, Save: s.save, Receipts: s.receipts, Dump: s.dump}
//		})
//	}
//
// The suite reads what the store says and, through [Circulation.Dump], what it holds, because a contract
// about forgetting cannot be proved by asking the one who should have forgotten. It does not see what a
// database leaves in free pages, logs and backups: search the files yourself.
//
// A store that holds some kinds only is not asked about the others. Nothing else can be skipped, but
// for accounts and legal holds, of which a store may know nothing at all. A store that is an anonymize.Deferrer, a
// crypto.TokenStore or a rights.Circulation is tested as one.
//
// [TestKeys], [TestPatrons], [TestGrants] and [TestLog] do the same for the stores of subject keys, patrons, break-glass grants and
// the audit trail.
package storetest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/rights"
)

// A Circulation is the store under test with the hands a test needs. The hands are safe for concurrent
// use as far as the store is.
type Circulation struct {
	Store anonymize.Store

	Kinds []circulation.Kind // the kinds that the store holds; nil: all
	ID    func(n int) string // the ID of the suite's nth record; nil: 10, 9, B, a, r4, …

	// Save inserts or updates records, as the library system would: all of one call together, and those
	// pointed at first. Where the library system would write nothing, because the record was unlinked or the
	// entry's version is old, it may return an error or not.
	Save        func(ctx context.Context, entries ...circulation.Entry) error
	SaveAccount func(ctx context.Context, a circulation.Account) error // nil: the store knows no accounts
	AddHold     func(ctx context.Context, h circulation.Hold) error    // nil: no legal holds on borrowers

	// ReleaseHold ends the hold of a reference, and reports whether there was one. It may be nil.
	ReleaseHold func(ctx context.Context, b circulation.Borrower, ref string) (bool, error)

	Receipts func(ctx context.Context) ([]anonymize.Receipt, error) // of all batches, oldest first

	// Dump returns everything that the store holds, as text: every table, with a pointer shown by
	// the ID that it points at, and times as numbers since 1970 or with a clock as in 10:11:12.
	Dump func(ctx context.Context) (string, error)
}

// A testcase is one promise of the contract.
type testcase struct {
	name     string
	kinds    []circulation.Kind // without which there is nothing to test
	accounts bool               // needs SaveAccount
	holds    bool               // needs AddHold
	defers   bool               // is for a store that is an anonymize.Deferrer
	tokens   bool               // is for a store that is a crypto.TokenStore
	rights   bool               // is for a store that is a rights.Circulation
	run      func(f *fixture)
}

func testcases() []testcase {
	return slices.Concat(pageCases(), factCases(), conflictCases(), unlinkCases(), pointerCases(), raceCases(), deferralCases(), tokenCases(), rightsCases())
}

// TestCirculation proves a store of circulation records. Open returns an empty store each time.
func TestCirculation(t *testing.T, open func(t *testing.T) Circulation) {
	store := open(t).Store
	_, defers := store.(anonymize.Deferrer)
	_, tokens := store.(crypto.TokenStore)
	_, demands := store.(rights.Circulation)
	for _, tc := range testcases() {
		if tc.defers && !defers || tc.tokens && !tokens || tc.rights && !demands {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			f := &fixture{T: t, open: open, Circulation: open(t)}
			for _, k := range tc.kinds {
				if !f.holds(k) {
					t.Skipf("the store does not hold the kind %q", k)
				}
			}
			if tc.accounts && f.SaveAccount == nil {
				t.Skip("the store knows no accounts: SaveAccount is nil")
			}
			if tc.holds && f.AddHold == nil {
				t.Skip("the store knows no legal holds on borrowers: AddHold is nil")
			}
			tc.run(f)
		})
	}
}

// A fixture is a store under test whose hands fail the test.
type fixture struct {
	*testing.T
	Circulation
	open func(t *testing.T) Circulation
}

// another returns a second, empty store of the same sort.
func (f *fixture) another() *fixture {
	return &fixture{T: f.T, open: f.open, Circulation: f.open(f.T)}
}

// eachKind runs a test for every kind that the store holds, each with an empty store.
func (f *fixture) eachKind(run func(f *fixture, k circulation.Kind)) {
	for _, k := range f.kinds() {
		f.sub(k.String(), func(f *fixture) { run(f, k) })
	}
}

// sub runs a subtest with an empty store.
func (f *fixture) sub(name string, run func(f *fixture)) {
	f.T.Run(name, func(t *testing.T) { run(&fixture{T: t, open: f.open, Circulation: f.open(t)}) })
}

func (f *fixture) kinds() []circulation.Kind {
	if f.Kinds == nil {
		return circulation.Kinds()
	}
	return f.Kinds
}

func (f *fixture) holds(k circulation.Kind) bool { return slices.Contains(f.kinds(), k) }

// id names the nth record. No order of numbers, letters or bytes is that of the first four.
func (f *fixture) id(n int) string {
	if f.ID != nil {
		return f.ID(n)
	}
	return defaultID(n)
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) save(entries ...circulation.Entry) {
	f.Helper()
	if err := f.Save(f.Context(), entries...); err != nil {
		f.Fatalf("Save: %v", err)
	}
}

// page reads one page.
func (f *fixture) page(q anonymize.Query) anonymize.Page {
	f.Helper()
	page, err := f.Store.Linked(f.Context(), q)
	if err != nil {
		f.Fatalf("Linked: %v", err)
	}
	if len(page.Records) > q.Limit {
		f.Fatalf("Linked returned %d records, the limit was %d", len(page.Records), q.Limit)
	}
	return page
}

// pages calls do for every page of a query.
func (f *fixture) pages(q anonymize.Query, do func([]circulation.Record)) {
	f.Helper()
	for n := 0; ; n++ {
		if n > 2000 {
			f.Fatalf("Linked returned %d pages and there is no end", n)
		}
		page := f.page(q)
		do(page.Records)
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return
		}
	}
}

func query(k circulation.Kind) anonymize.Query {
	return anonymize.Query{Kind: k, Limit: 100, At: now, Needs: anonymize.NeedEverything}
}

// linked returns all records of a kind that name a borrower, by ID.
func (f *fixture) linked(k circulation.Kind) map[string]circulation.Record {
	f.Helper()
	return f.linkedIn(query(k))
}

func (f *fixture) linkedIn(q anonymize.Query) map[string]circulation.Record {
	f.Helper()
	found := make(map[string]circulation.Record)
	f.pages(q, func(records []circulation.Record) {
		for _, r := range records {
			if _, twice := found[r.ID]; twice {
				f.Fatalf("Linked returned %s %s twice", q.Kind, r.ID)
			}
			found[r.ID] = r
		}
	})
	return found
}

// get returns one linked record.
func (f *fixture) get(k circulation.Kind, id string) circulation.Record {
	f.Helper()
	r, ok := f.linked(k)[id]
	if !ok {
		f.Fatalf("%s %s is not among the records that name a borrower", k, id)
	}
	return r
}

func (f *fixture) isLinked(k circulation.Kind, id string) bool {
	f.Helper()
	_, ok := f.linked(k)[id]
	return ok
}

// batch makes a batch of records as they were read.
func batch(records ...circulation.Record) anonymize.Batch {
	b := anonymize.Batch{At: now, Policy: policyRef}
	for _, r := range records {
		b.Kind = r.Kind
		b.Targets = append(b.Targets, anonymize.Target{ID: r.ID, Version: r.Version, Rule: "everything"})
	}
	return b
}

// try asks the store to unlink records as they were read and returns the conflicts.
func (f *fixture) try(records ...circulation.Record) []string {
	f.Helper()
	conflicts, err := f.Store.Unlink(f.Context(), batch(records...))
	if err != nil {
		f.Fatalf("Unlink: %v", err)
	}
	return conflicts
}

// unlink reads records and unlinks them.
func (f *fixture) unlink(k circulation.Kind, ids ...string) {
	f.Helper()
	for _, id := range ids {
		if conflicts := f.try(f.get(k, id)); len(conflicts) > 0 {
			f.Fatalf("Unlink of %s %s, which nobody changed and nothing protects: conflict", k, id)
		}
		if f.isLinked(k, id) {
			f.Fatalf("Unlink of %s %s reported no conflict, and the record still names a borrower", k, id)
		}
	}
}

// refused asks to unlink a record as it was read and expects that the store does not.
func (f *fixture) refused(r circulation.Record, why string) {
	f.Helper()
	before := len(f.receipts())
	conflicts := f.try(r)
	if !slices.Equal(conflicts, []string{r.ID}) {
		f.Errorf("Unlink of %s %s, which %s: conflicts are %q, want %q", r.Kind, r.ID, why, conflicts, r.ID)
	}
	if !f.isLinked(r.Kind, r.ID) {
		f.Errorf("%s %s, which %s, was unlinked", r.Kind, r.ID, why)
	}
	for _, receipt := range f.receipts()[before:] {
		if receipt.Unlinked != 0 || receipt.Conflicts != 1 {
			f.Errorf("the receipt of a refused unlink counts %d unlinked and %d conflicts, want 0 and 1", receipt.Unlinked, receipt.Conflicts)
		}
	}
}

func (f *fixture) receipts() []anonymize.Receipt {
	f.Helper()
	receipts, err := f.Receipts(f.Context())
	if err != nil {
		f.Fatalf("Receipts: %v", err)
	}
	return receipts
}

// finish does what a sweep does at its end.
func (f *fixture) finish() {
	f.Helper()
	if s, ok := f.Store.(anonymize.Finisher); ok {
		if err := s.Finish(f.Context()); err != nil {
			f.Fatalf("Finish: %v", err)
		}
	}
}

// dump returns what is left after a sweep.
func (f *fixture) dump() string {
	f.Helper()
	f.finish()
	dump, err := f.Dump(f.Context())
	if err != nil {
		f.Fatalf("Dump: %v", err)
	}
	return dump
}

// contains fails unless the dump shows all the words: without that, their absence would prove nothing.
func (f *fixture) contains(dump, what string, words ...string) {
	f.Helper()
	for _, w := range words {
		if !strings.Contains(dump, w) {
			f.Errorf("Dump does not show %q, %s", w, what)
		}
	}
}

func (f *fixture) lacks(dump, what string, words ...string) {
	f.Helper()
	for _, w := range words {
		if strings.Contains(dump, w) {
			f.Errorf("Dump still shows %q, %s", w, what)
		}
	}
}

// soon fails the test when something takes so long that it will probably never end.
func (f *fixture) soon(what string, do func() error) {
	f.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		if err != nil {
			f.Fatalf("%s: %v", what, err)
		}
	case <-time.After(patience):
		f.Fatalf("%s did not return within %v", what, patience)
	}
}

const patience = 10 * time.Second
