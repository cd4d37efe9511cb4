package storetest_test

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/storetest"
)

type brokenStore struct {
	how    func(storetest.Circulation) storetest.Circulation
	caught []string
}

// A suite is worth what it catches. Each of these breaks the memory store in one way that a store of
// somebody's own tables could be broken in, and names the cases that are there to find it.
func brokenStores() map[string]brokenStore {
	all := brokenRights()
	maps.Copy(all, map[string]brokenStore{
		"skipsRecords":      {skipsRecords, []string{"PagesCoverEachRecordOnce"}},
		"repeatsRecords":    {repeatsRecords, []string{"PagesCoverEachRecordOnce"}},
		"ordersByID":        {ordersByID, []string{"PagesCoverEachRecordOnce"}},
		"locksBetweenPages": {locksBetweenPages, []string{"NothingIsHeldOpen"}},
		"shardsOverlap":     {shardsOverlap, []string{"ShardsPartition"}},
		"shardsOfTheRest":   {shardsOfTheRest, []string{"ShardsPartition"}},
		"mixesKinds":        {mixesKinds, []string{"KindsDoNotMix"}},

		"losesMicroseconds":     {losesMicroseconds, []string{"FactsComeBack"}},
		"fetchesTooLittle":      {fetchesTooLittle, []string{"FactsComeBack"}},
		"hidesOpenFees":         {hidesOpenFees, []string{"FeesComeBack"}},
		"losesFeeSummary":       {losesFeeSummary, []string{"FeeSummarySurvivesFee"}},
		"newerCountsOnlyLinked": {newerCountsOnlyLinked, []string{"NewerLoans/PerBorrower/UnlinkedCount"}},
		"newerCountsSameStart":  {newerCountsSameStart, []string{"NewerLoans/PerBorrower/InOrder", "NewerLoans/PerBorrower/OutOfOrder"}},
		"newerInOrderOfArrival": {newerInOrderOfArrival, []string{"NewerLoans/PerBorrower/OutOfOrder"}},

		"ignoresVersions": {ignoresVersions, []string{"StaleVersionConflicts", "BorrowerChangedInBetweenConflicts",
			"FeeOpenedInBetweenConflicts/OpenedAndPaid"}},
		"feesLeaveVersion": {feesLeaveVersion, []string{"FeeOpenedInBetweenConflicts/OpenedAndPaid"}},
		"ignoresOpenFee":   {ignoresOpenFee, []string{"ProtectedNeverUnlinked"}},
		"checksFeeEarlier": {checksFeeEarlier, []string{"FeeOpenedInBetweenConflicts/Opened", "FeeRacesSweep"}},
		"ignoresLost":      {ignoresLost, []string{"ProtectedNeverUnlinked"}},
		"ignoresHold":      {ignoresHold, []string{"HoldInBetweenConflicts", "ProtectedNeverUnlinked"}},
		"holdsADayLonger":  {holdsADayLonger, []string{"HoldsComeBack", "HoldInBetweenConflicts"}},
		"rawDriverError":   {rawDriverError, []string{"UnknownTargetIsAConflict", "UnlinkTwiceIsNotAnError"}},

		"noopUnlink":          {noopUnlink, []string{"PagesCoverEachRecordOnce", "UnlinkErasesEveryIdentifyingField"}},
		"unlinksTheBorrower":  {unlinksTheBorrower, []string{"UnlinkLeavesTheRest"}},
		"forgetsProxy":        {keeps("Proxy"), []string{"UnlinkErasesEveryIdentifyingField"}},
		"keepsStaff":          {keeps("Staff"), []string{"UnlinkErasesEveryIdentifyingField"}},
		"keepsComment":        {keeps("Comment"), []string{"UnlinkErasesEveryIdentifyingField"}},
		"keepsAddress":        {keeps("Address"), []string{"UnlinkErasesEveryIdentifyingField"}},
		"keepsNoticeType":     {keepsNoticeType, []string{"NoticesAreRemovedWhole"}},
		"keepsPointerForward": {keepsPointer(false), []string{"NothingLinksBack"}},
		"keepsPointerBack":    {keepsPointer(true), []string{"NothingLinksBack"}},
		"keepsSummary":        {keepsSummary, []string{"UnlinkedLoanKeepsNoSummary"}},
		"ignoresKeepFields":   {ignoresKeepFields, []string{"KeepFieldsCoarsen"}},
		"erasesFacts":         {erasesFacts, []string{"UnlinkLeavesTheRest"}},

		"forgetsVersionChange": {relinks(true), []string{"StaleWriteCannotRelink"}},
		"relinksOnStaleWrite":  {relinks(false), []string{"StaleWriteCannotRelink"}},

		"receiptOutsideTransaction": {receiptOutsideTransaction, []string{"ReceiptAndUnlinkAreOne/CutOff"}},
		"receiptNamesNoRule":        {receiptNamesNoRule, []string{"ReceiptAndUnlinkAreOne/Contents"}},
		"countsConflictsAsUnlinked": {countsConflictsAsUnlinked, []string{"StaleVersionConflicts", "UnlinkTwiceIsNotAnError"}},
		"countsDuplicates":          {countsDuplicates, []string{"DuplicateTargetsCountOnce"}},
		"everyWriterWins":           {everyWriterWins, []string{"OneWriterWinsARace"}},
		"ignoresCancel":             {ignoresCancel, []string{"CanceledContext"}},
		"keepsFinishedBorrower":     {keepsFinishedBorrower, []string{"FinishForgetsBorrowers"}},
		"finishForgetsAccounts":     {finishForgetsAccounts, []string{"FinishKeepsAccounts"}},
		"finishReleasesHolds":       {finishReleasesHolds, []string{"FinishKeepsHolds"}},
		"dumpsNothing":              {dumpsNothing, []string{"UnlinkErasesEveryIdentifyingField", "NothingLinksBack", "KeepFieldsCoarsen"}},
	})
	return all
}

const brokenEnv = "CARREL_STORETEST_BROKEN"

// TestBroken runs the suite on every broken store in a process of its own, because what it proves is
// that tests fail.
func TestBroken(t *testing.T) {
	caught := map[string][]string{}
	for name, b := range brokenStores() {
		caught[name] = b.caught
	}
	catches(t, "TestBrokenChild", brokenEnv, caught)
}

// catches runs the test named child for every broken store, in a process of its own that learns from a variable of the environment which it is, and wants the cases to fail that
// are there to catch it.
func catches(t *testing.T, child, variable string, caught map[string][]string) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	failure := regexp.MustCompile(`(?m)^ *--- FAIL: ` + child + `/(\S+)`)
	for name, cases := range caught {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			failed := make(map[string]bool)
			// A race is not lost every time: on a busy machine it may take another run to see it.
			for try := 0; try == 0 || try < 4 && slices.ContainsFunc(cases, func(c string) bool { return !failed[c] }); try++ {
				cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+child+"$", "-test.v", "-test.timeout=60s")
				cmd.Env = append(os.Environ(), variable+"="+name)
				out, err := cmd.CombinedOutput()
				if err == nil {
					continue
				}
				for _, m := range failure.FindAllStringSubmatch(string(out), -1) {
					failed[m[1]] = true
				}
			}
			if len(failed) == 0 {
				t.Fatal("the suite found nothing")
			}
			for _, c := range cases {
				if !failed[c] {
					t.Errorf("%s did not fail; these did: %q", c, slices.Sorted(maps.Keys(failed)))
				}
			}
			t.Logf("caught by %q", topLevel(failed))
		})
	}
}

func topLevel(names map[string]bool) (top []string) {
	for n := range names {
		if !strings.Contains(n, "/") {
			top = append(top, n)
		}
	}
	slices.Sort(top)
	return top
}

// TestBrokenChild is the suite on one broken store.
func TestBrokenChild(t *testing.T) {
	b, ok := brokenStores()[os.Getenv(brokenEnv)]
	if !ok {
		t.Skip("runs in the child processes of TestBroken")
	}
	storetest.TestCirculation(t, func(*testing.T) storetest.Circulation { return b.how(inMemory()) })
}

// over is a store with one or two methods replaced.
type over struct {
	inner  anonymize.Store
	linked func(context.Context, anonymize.Query) (anonymize.Page, error)
	unlink func(context.Context, anonymize.Batch) ([]string, error)
	finish func(context.Context) error
}

func (o over) Linked(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
	if o.linked != nil {
		return o.linked(ctx, q)
	}
	return o.inner.Linked(ctx, q)
}

func (o over) Unlink(ctx context.Context, b anonymize.Batch) ([]string, error) {
	if o.unlink != nil {
		return o.unlink(ctx, b)
	}
	return o.inner.Unlink(ctx, b)
}

func (o over) Finish(ctx context.Context) error {
	if o.finish != nil {
		return o.finish(ctx)
	}
	return o.inner.(anonymize.Finisher).Finish(ctx)
}

func (o over) in(c storetest.Circulation) storetest.Circulation {
	o.inner = c.Store
	c.Store = o
	return c
}

// everything reads all linked records of a kind.
func everything(s anonymize.Store, q anonymize.Query) []circulation.Record {
	q.Cursor, q.Limit = "", 1<<30
	if q.At.IsZero() {
		q.At = time.Now()
	}
	page, err := s.Linked(context.Background(), q)
	if err != nil {
		panic(err)
	}
	return page.Records
}

// eachRecord changes records on their way out of the store.
func eachRecord(c storetest.Circulation, change func(*circulation.Record)) storetest.Circulation {
	s := c.Store
	return over{linked: func(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
		page, err := s.Linked(ctx, q)
		for i := range page.Records {
			change(&page.Records[i])
		}
		return page, err
	}}.in(c)
}

// eachEntry changes entries on their way into the store.
func eachEntry(c storetest.Circulation, change func(circulation.Entry) circulation.Entry) storetest.Circulation {
	save := c.Save
	c.Save = func(ctx context.Context, entries ...circulation.Entry) error {
		changed := make([]circulation.Entry, len(entries))
		for i, e := range entries {
			changed[i] = change(e)
		}
		return save(ctx, changed...)
	}
	return c
}

// beforeUnlink changes batches on their way into the store.
func beforeUnlink(c storetest.Circulation, change func(*anonymize.Batch)) storetest.Circulation {
	s := c.Store
	return over{unlink: func(ctx context.Context, b anonymize.Batch) ([]string, error) {
		b.Targets = slices.Clone(b.Targets)
		change(&b)
		return s.Unlink(ctx, b)
	}}.in(c)
}

// eachReceipt changes receipts.
func eachReceipt(c storetest.Circulation, change func(*anonymize.Receipt)) storetest.Circulation {
	receipts := c.Receipts
	c.Receipts = func(ctx context.Context) ([]anonymize.Receipt, error) {
		all, err := receipts(ctx)
		for i := range all {
			change(&all[i])
		}
		return all, err
	}
	return c
}

// residue is what a broken store holds besides what it should: its lines are part of the dump.
type residue struct {
	mu    sync.Mutex
	lines map[string]string
}

func (r *residue) in(c storetest.Circulation) storetest.Circulation {
	r.lines = make(map[string]string)
	dump := c.Dump
	c.Dump = func(ctx context.Context) (string, error) {
		text, err := dump(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, key := range slices.Sorted(maps.Keys(r.lines)) {
			text += "\n" + r.lines[key]
		}
		return text, err
	}
	return c
}

func (r *residue) set(key, line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if line == "" {
		delete(r.lines, key)
	} else {
		r.lines[key] = line
	}
}

func name(k circulation.Kind, id string) string { return k.String() + " " + id }

func parts(e circulation.Entry) circulation.Parts {
	p, err := e.Parts()
	if err != nil {
		panic(err)
	}
	return p
}

// Pages

// LIMIT n OFFSET m: what was unlinked moves the rest up.
func skipsRecords(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return over{linked: func(ctx context.Context, q anonymize.Query) (page anonymize.Page, err error) {
		offset, _ := strconv.Atoi(q.Cursor)
		all := everything(s, q)
		page.Records = all[min(offset, len(all)):min(offset+q.Limit, len(all))]
		if offset+q.Limit < len(all) {
			page.Cursor = strconv.Itoa(offset + q.Limit)
		}
		return page, ctx.Err()
	}}.in(c)
}

// WHERE id >= cursor.
func repeatsRecords(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return over{linked: func(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
		last := q.Cursor
		if at, rest, ok := strings.Cut(q.Cursor, "/"); ok {
			last, q.Cursor = at, rest
		}
		page, err := s.Linked(ctx, q)
		if last != "" && q.Limit > 1 && len(page.Records) < q.Limit {
			for _, r := range everything(s, anonymize.Query{Kind: q.Kind, At: q.At, Needs: q.Needs}) {
				if r.ID == last {
					page.Records = append(page.Records, r)
				}
			}
		}
		if page.Cursor != "" {
			page.Cursor = page.Records[len(page.Records)-1].ID + "/" + page.Cursor
		}
		return page, err
	}}.in(c)
}

// ORDER BY CAST(id AS INTEGER), which is 0 for every ID that is no number.
func ordersByID(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return over{linked: func(ctx context.Context, q anonymize.Query) (page anonymize.Page, err error) {
		cursor, started := 0, q.Cursor != ""
		if started {
			cursor, _ = strconv.Atoi(q.Cursor)
		}
		all := everything(s, q)
		number := func(r circulation.Record) int { n, _ := strconv.Atoi(r.ID); return n }
		slices.SortStableFunc(all, func(a, b circulation.Record) int { return number(a) - number(b) })
		all = slices.DeleteFunc(all, func(r circulation.Record) bool { return started && number(r) <= cursor })
		page.Records = all[:min(q.Limit, len(all))]
		if len(all) > q.Limit {
			page.Cursor = strconv.Itoa(number(page.Records[q.Limit-1]))
		}
		return page, ctx.Err()
	}}.in(c)
}

// A query that stays open from the first page to the last, in a database with one writer.
func locksBetweenPages(c storetest.Circulation) storetest.Circulation {
	s, save := c.Store, c.Save
	open := make(chan struct{}, 1)
	write := func(ctx context.Context, do func() error) error {
		select {
		case open <- struct{}{}:
			defer func() { <-open }()
			return do()
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
			return fmt.Errorf("database is locked")
		}
	}
	c.Save = func(ctx context.Context, entries ...circulation.Entry) error {
		return write(ctx, func() error { return save(ctx, entries...) })
	}
	return over{
		linked: func(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
			page, err := s.Linked(ctx, q)
			if page.Cursor != "" {
				select {
				case open <- struct{}{}:
				default:
				}
			} else {
				select {
				case <-open:
				default:
				}
			}
			return page, err
		},
	}.in(c)
}

func shardsOverlap(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return over{linked: func(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
		q.Shard = anonymize.Shard{}
		return s.Linked(ctx, q)
	}}.in(c)
}

// Row numbers of what is left, divided by the number of shards.
func shardsOfTheRest(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return over{linked: func(ctx context.Context, q anonymize.Query) (page anonymize.Page, err error) {
		if q.Shard.Of < 2 {
			return s.Linked(ctx, q)
		}
		index, of := q.Shard.Index, q.Shard.Of
		q.Shard = anonymize.Shard{}
		for i, r := range everything(s, q) {
			if i%of == index {
				page.Records = append(page.Records, r)
			}
		}
		start, _ := strconv.Atoi(q.Cursor)
		page.Records = page.Records[min(start, len(page.Records)):]
		if len(page.Records) > q.Limit {
			page.Records, page.Cursor = page.Records[:q.Limit], strconv.Itoa(start+q.Limit)
		}
		return page, ctx.Err()
	}}.in(c)
}

// DELETE FROM links WHERE id = ?, and the kind forgotten.
func mixesKinds(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return over{unlink: func(ctx context.Context, b anonymize.Batch) ([]string, error) {
		conflicts, err := s.Unlink(ctx, b)
		for _, k := range circulation.Kinds() {
			for _, r := range everything(s, anonymize.Query{Kind: k, At: b.At}) {
				if k != b.Kind && slices.ContainsFunc(b.Targets, func(t anonymize.Target) bool { return t.ID == r.ID }) {
					other := anonymize.Batch{Kind: k, At: b.At, Targets: []anonymize.Target{{ID: r.ID, Version: r.Version}}}
					_, _ = s.Unlink(ctx, other)
				}
			}
		}
		return conflicts, err
	}}.in(c)
}

// Facts

func losesMicroseconds(c storetest.Circulation) storetest.Circulation {
	return eachRecord(c, func(r *circulation.Record) { r.Ended = r.Ended.Truncate(time.Millisecond) })
}

func fetchesTooLittle(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return over{linked: func(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
		page, err := s.Linked(ctx, q)
		for i := range page.Records {
			if q.Needs != anonymize.NeedEverything { // only the whole was ever tried
				page.Records[i].Location = ""
			}
		}
		return page, err
	}}.in(c)
}

func hidesOpenFees(c storetest.Circulation) storetest.Circulation {
	return eachRecord(c, func(r *circulation.Record) {
		r.Fees = slices.DeleteFunc(r.Fees, func(f circulation.FeeSummary) bool { return f.Status == circulation.FeeOpen })
	})
}

// The loan knows its fees by their pointers only.
func losesFeeSummary(c storetest.Circulation) storetest.Circulation {
	var mu sync.Mutex
	of := make(map[string]string) // fee to loan
	save, s := c.Save, c.Store
	c.Save = func(ctx context.Context, entries ...circulation.Entry) error {
		mu.Lock()
		for _, e := range entries {
			if f, ok := e.(circulation.Fee); ok {
				of[f.ID] = f.Loan
			}
		}
		mu.Unlock()
		return save(ctx, entries...)
	}
	return eachRecord(c, func(r *circulation.Record) {
		if r.Kind != circulation.KindLoan {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		n := 0
		for _, f := range everything(s, anonymize.Query{Kind: circulation.KindFee}) {
			if of[f.ID] == r.ID {
				n++
			}
		}
		r.Fees = r.Fees[:min(n, len(r.Fees))]
	})
}

// recount makes NewerByBorrower out of the linked loans that are there.
func recount(c storetest.Circulation, newer func(than, r circulation.Record) bool) storetest.Circulation {
	s := c.Store
	return eachRecord(c, func(r *circulation.Record) {
		r.NewerByBorrower = 0
		for _, other := range everything(s, anonymize.Query{Kind: circulation.KindLoan}) {
			if r.Kind == circulation.KindLoan && other.Borrower == r.Borrower && newer(*r, other) {
				r.NewerByBorrower++
			}
		}
	})
}

func newerCountsOnlyLinked(c storetest.Circulation) storetest.Circulation {
	return recount(c, func(than, r circulation.Record) bool { return r.Started.After(than.Started) })
}

func newerCountsSameStart(c storetest.Circulation) storetest.Circulation {
	return recount(c, func(than, r circulation.Record) bool { return r.ID != than.ID && !r.Started.Before(than.Started) })
}

// A running number that is given once, to whatever arrives.
func newerInOrderOfArrival(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return eachRecord(c, func(r *circulation.Record) {
		r.NewerByBorrower = 0
		after := false
		for _, other := range everything(s, anonymize.Query{Kind: circulation.KindLoan}) {
			if after && other.Borrower == r.Borrower && !other.Started.Equal(r.Started) {
				r.NewerByBorrower++
			}
			after = after || other.ID == r.ID
		}
	})
}

// Conflicts

// current gives the targets for which it is asked the version that they have now.
func current(s anonymize.Store, b *anonymize.Batch, which func(circulation.Record, anonymize.Target) bool) {
	now := make(map[string]circulation.Record)
	for _, r := range everything(s, anonymize.Query{Kind: b.Kind, At: b.At}) {
		now[r.ID] = r
	}
	for i, t := range b.Targets {
		if r, ok := now[t.ID]; ok && which(r, t) {
			b.Targets[i].Version = r.Version
		}
	}
}

func ignoresVersions(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return beforeUnlink(c, func(b *anonymize.Batch) {
		current(s, b, func(circulation.Record, anonymize.Target) bool { return true })
	})
}

// The version is that of the loan's own row.
func feesLeaveVersion(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	row := func(r circulation.Record) string {
		return fmt.Sprint(r.Borrower, r.Library, r.Status, r.Ended, r.Lost, r.ClaimedReturned)
	}
	c = beforeUnlink(c, func(b *anonymize.Batch) {
		current(s, b, func(r circulation.Record, t anonymize.Target) bool { return t.Version == row(r) })
	})
	return eachRecord(c, func(r *circulation.Record) { r.Version = row(*r) })
}

// closedFee returns an open fee as one closed at the beginning of time, by which it is known again.
func closedFee(f circulation.Fee) circulation.Fee {
	f.Status, f.Closed, f.Method = circulation.FeeClosed, time.Unix(0, 0), ""
	return f
}

// Its Unlink believes that all fees are paid.
func ignoresOpenFee(c storetest.Circulation) storetest.Circulation {
	c = eachEntry(c, func(e circulation.Entry) circulation.Entry {
		if f, ok := e.(circulation.Fee); ok && f.Status != circulation.FeeClosed {
			return closedFee(f)
		}
		return e
	})
	return eachRecord(c, func(r *circulation.Record) {
		for i, f := range r.Fees {
			if f.Closed.Equal(time.Unix(0, 0)) {
				r.Fees[i] = circulation.FeeSummary{}
			}
		}
		if r.Kind == circulation.KindFee && r.Ended.Equal(time.Unix(0, 0)) {
			r.Ended, r.Status = time.Time{}, circulation.Open
		}
	})
}

// It looks at fees when it reads the page, and not again.
func checksFeeEarlier(c storetest.Circulation) storetest.Circulation {
	c = ignoresOpenFee(c)
	s := c.Store
	var mu sync.Mutex
	had := make(map[string]bool)
	return over{
		linked: func(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
			page, err := s.Linked(ctx, q)
			mu.Lock()
			defer mu.Unlock()
			for _, r := range page.Records {
				had[name(r.Kind, r.ID)] = slices.ContainsFunc(r.Fees, func(f circulation.FeeSummary) bool { return f.Status != circulation.FeeClosed })
			}
			return page, err
		},
		unlink: func(ctx context.Context, b anonymize.Batch) ([]string, error) {
			b.Targets = slices.Clone(b.Targets)
			current(s, &b, func(circulation.Record, anonymize.Target) bool { return true })
			mu.Lock()
			for i, t := range b.Targets {
				if had[name(b.Kind, t.ID)] {
					b.Targets[i].Version = "refuse"
				}
			}
			mu.Unlock()
			return s.Unlink(ctx, b)
		},
	}.in(c)
}

func ignoresLost(c storetest.Circulation) storetest.Circulation {
	var mu sync.Mutex
	lost := make(map[string]bool) // what it says to everybody but its own Unlink
	c = eachEntry(c, func(e circulation.Entry) circulation.Entry {
		if l, ok := e.(circulation.Loan); ok {
			mu.Lock()
			lost[l.ID] = l.Lost
			mu.Unlock()
			l.Lost = false
			return l
		}
		return e
	})
	return eachRecord(c, func(r *circulation.Record) {
		mu.Lock()
		defer mu.Unlock()
		r.Lost = r.Kind == circulation.KindLoan && lost[r.ID]
	})
}

// Its Unlink does not look at holds.
func ignoresHold(c storetest.Circulation) storetest.Circulation {
	var mu sync.Mutex
	var holds []circulation.Hold
	c.AddHold = func(_ context.Context, h circulation.Hold) error {
		mu.Lock()
		defer mu.Unlock()
		holds = append(holds, h)
		return nil
	}
	s := c.Store
	return over{linked: func(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
		page, err := s.Linked(ctx, q)
		mu.Lock()
		defer mu.Unlock()
		for i, r := range page.Records {
			page.Records[i].Hold = slices.ContainsFunc(holds, func(h circulation.Hold) bool {
				return h.Borrower == r.Borrower && (h.Until.IsZero() || q.At.Before(h.Until))
			})
		}
		return page, err
	}}.in(c)
}

func holdsADayLonger(c storetest.Circulation) storetest.Circulation {
	add := c.AddHold
	c.AddHold = func(ctx context.Context, h circulation.Hold) error {
		if !h.Until.IsZero() {
			h.Until = h.Until.AddDate(0, 0, 1)
		}
		return add(ctx, h)
	}
	return c
}

func rawDriverError(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return over{unlink: func(ctx context.Context, b anonymize.Batch) ([]string, error) {
		there := make(map[string]bool)
		for _, r := range everything(s, anonymize.Query{Kind: b.Kind}) {
			there[r.ID] = true
		}
		for _, t := range b.Targets {
			if !there[t.ID] {
				return nil, sql.ErrNoRows
			}
		}
		return s.Unlink(ctx, b)
	}}.in(c)
}

// Unlinking

func noopUnlink(c storetest.Circulation) storetest.Circulation {
	return over{unlink: func(context.Context, anonymize.Batch) ([]string, error) { return nil, nil }}.in(c)
}

// UPDATE … WHERE borrower IN (SELECT borrower …).
func unlinksTheBorrower(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return over{unlink: func(ctx context.Context, b anonymize.Batch) ([]string, error) {
		all := everything(s, anonymize.Query{Kind: b.Kind, At: b.At})
		conflicts, err := s.Unlink(ctx, b)
		more := anonymize.Batch{Kind: b.Kind, At: b.At}
		for _, r := range all {
			for _, other := range all {
				if r.ID == b.Targets[0].ID && other.Borrower == r.Borrower {
					more.Targets = append(more.Targets, anonymize.Target{ID: other.ID, Version: other.Version})
				}
			}
		}
		_, _ = s.Unlink(ctx, more)
		return conflicts, err
	}}.in(c)
}

// keeps makes stores that hold a field in a place that Unlink does not know.
func keeps(field string) func(storetest.Circulation) storetest.Circulation {
	return func(c storetest.Circulation) storetest.Circulation {
		var r residue
		return eachEntry(r.in(c), func(e circulation.Entry) circulation.Entry {
			p := parts(e)
			for _, l := range p.Links {
				if strings.EqualFold(l.Role.String(), field) {
					r.set(name(p.Facts.Kind, p.Facts.ID), string(l.Person))
				}
			}
			for _, t := range p.Texts {
				if strings.EqualFold(t.Field.String(), field) {
					r.set(name(p.Facts.Kind, p.Facts.ID), t.Value)
				}
			}
			return e
		})
	}
}

func keepsNoticeType(c storetest.Circulation) storetest.Circulation {
	var r residue
	return eachEntry(r.in(c), func(e circulation.Entry) circulation.Entry {
		if n, ok := e.(circulation.Notice); ok {
			r.set(n.ID, n.Type)
		}
		return e
	})
}

// keepsPointer makes stores that clear pointers on one side only: what an unlinked record points at
// stays, or what points at it does.
func keepsPointer(back bool) func(storetest.Circulation) storetest.Circulation {
	return func(c storetest.Circulation) storetest.Circulation {
		var r residue
		c = eachEntry(r.in(c), func(e circulation.Entry) circulation.Entry {
			p := parts(e)
			for _, to := range p.Points {
				from := name(p.Facts.Kind, p.Facts.ID)
				r.set(from+">"+name(to.Kind, to.ID), from+" -> "+name(to.Kind, to.ID))
			}
			return e
		})
		s := c.Store
		return over{unlink: func(ctx context.Context, b anonymize.Batch) ([]string, error) {
			conflicts, err := s.Unlink(ctx, b)
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, t := range b.Targets {
				maps.DeleteFunc(r.lines, func(key, _ string) bool {
					from, to, _ := strings.Cut(key, ">")
					if back {
						return from == name(b.Kind, t.ID)
					}
					return to == name(b.Kind, t.ID)
				})
			}
			return conflicts, err
		}}.in(c)
	}
}

// A loan's summaries of its fees outlive its borrower.
func keepsSummary(c storetest.Circulation) storetest.Circulation {
	var r residue
	return eachEntry(r.in(c), func(e circulation.Entry) circulation.Entry {
		if f, ok := e.(circulation.Fee); ok && f.Loan != "" {
			r.set(f.ID, f.Method)
		}
		return e
	})
}

func ignoresKeepFields(c storetest.Circulation) storetest.Circulation {
	return beforeUnlink(c, func(b *anonymize.Batch) { b.Keep = nil })
}

// It deletes the whole row, whatever the kind.
func erasesFacts(c storetest.Circulation) storetest.Circulation {
	dump, s := c.Dump, c.Store
	var mu sync.Mutex
	var facts []string
	c = eachEntry(c, func(e circulation.Entry) circulation.Entry {
		mu.Lock()
		defer mu.Unlock()
		if p := parts(e); p.Facts.Library != "" {
			facts = append(facts, p.Facts.Library)
		}
		return e
	})
	unlinked := false
	c.Dump = func(ctx context.Context) (string, error) {
		text, err := dump(ctx)
		mu.Lock()
		defer mu.Unlock()
		for _, f := range facts {
			if unlinked {
				text = strings.ReplaceAll(text, f, "")
			}
		}
		return text, err
	}
	return over{unlink: func(ctx context.Context, b anonymize.Batch) ([]string, error) {
		mu.Lock()
		unlinked = true
		mu.Unlock()
		return s.Unlink(ctx, b)
	}}.in(c)
}

// relinks makes stores in which a write after Unlink brings the borrower back: any write, or only one
// that has the version which Unlink should have changed. What comes back is a new record in the store
// underneath, which goes by the old one's ID.
func relinks(onlyWithVersion bool) func(storetest.Circulation) storetest.Circulation {
	return func(c storetest.Circulation) storetest.Circulation {
		s, save := c.Store, c.Save
		var mu sync.Mutex
		versions := make(map[string]string) // of unlinked records, before they were
		c.Save = func(ctx context.Context, entries ...circulation.Entry) error {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range entries {
				p := parts(e)
				was, unlinked := versions[name(p.Facts.Kind, p.Facts.ID)]
				if l, ok := e.(circulation.Loan); ok && unlinked && (!onlyWithVersion || l.Version == was) {
					l.ID, l.Version = l.ID+"~again", ""
					e = l
				}
				if err := save(ctx, e); err != nil {
					return err
				}
			}
			return nil
		}
		return over{
			linked: func(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
				page, err := s.Linked(ctx, q)
				for i := range page.Records {
					page.Records[i].ID = strings.TrimSuffix(page.Records[i].ID, "~again")
				}
				return page, err
			},
			unlink: func(ctx context.Context, b anonymize.Batch) ([]string, error) {
				conflicts, err := s.Unlink(ctx, b)
				mu.Lock()
				defer mu.Unlock()
				for _, t := range b.Targets {
					if err == nil && !slices.Contains(conflicts, t.ID) {
						versions[name(b.Kind, t.ID)] = t.Version
					}
				}
				return conflicts, err
			},
		}.in(c)
	}
}

// Receipts and the end

func receiptOutsideTransaction(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	var mu sync.Mutex
	var receipts []anonymize.Receipt
	c.Receipts = func(context.Context) ([]anonymize.Receipt, error) {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(receipts), nil
	}
	return over{unlink: func(ctx context.Context, b anonymize.Batch) ([]string, error) {
		conflicts, err := s.Unlink(ctx, b)
		if err == nil {
			err = ctx.Err() // the receipt is another statement, and this is where it fails
		}
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		receipts = append(receipts, b.Receipt(conflicts))
		return conflicts, nil
	}}.in(c)
}

func receiptNamesNoRule(c storetest.Circulation) storetest.Circulation {
	return eachReceipt(c, func(r *anonymize.Receipt) { r.ByRule = nil })
}

// len(batch) instead of RowsAffected.
func countsConflictsAsUnlinked(c storetest.Circulation) storetest.Circulation {
	return eachReceipt(c, func(r *anonymize.Receipt) { r.Unlinked, r.Conflicts = r.Unlinked+r.Conflicts, 0 })
}

func countsDuplicates(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	var mu sync.Mutex
	var receipts []anonymize.Receipt
	c.Receipts = func(context.Context) ([]anonymize.Receipt, error) {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(receipts), nil
	}
	return over{unlink: func(ctx context.Context, b anonymize.Batch) ([]string, error) {
		conflicts, err := s.Unlink(ctx, b)
		mu.Lock()
		defer mu.Unlock()
		receipts = append(receipts, b.Receipt(conflicts)) // of the batch as it came
		return conflicts, err
	}}.in(c)
}

// SELECT, then UPDATE: who read first believes that they wrote.
func everyWriterWins(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return over{unlink: func(ctx context.Context, b anonymize.Batch) ([]string, error) {
		there := make(map[string]bool)
		for _, r := range everything(s, anonymize.Query{Kind: b.Kind, At: b.At}) {
			there[r.ID] = true
		}
		time.Sleep(time.Millisecond)
		conflicts, err := s.Unlink(ctx, b)
		return slices.DeleteFunc(conflicts, func(id string) bool { return there[id] }), err
	}}.in(c)
}

func ignoresCancel(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	return over{
		linked: func(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
			return s.Linked(context.WithoutCancel(ctx), q)
		},
		unlink: func(ctx context.Context, b anonymize.Batch) ([]string, error) {
			return s.Unlink(context.WithoutCancel(ctx), b)
		},
	}.in(c)
}

func keepsFinishedBorrower(c storetest.Circulation) storetest.Circulation {
	c.Store = struct{ anonymize.Store }{c.Store} // it has no Finish
	return c
}

func finishForgetsAccounts(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	var mu sync.Mutex
	forgotten := false
	return over{
		finish: func(ctx context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			forgotten = true
			return s.(anonymize.Finisher).Finish(ctx)
		},
		linked: func(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
			page, err := s.Linked(ctx, q)
			mu.Lock()
			defer mu.Unlock()
			for i := range page.Records {
				if forgotten {
					page.Records[i].GroupNow = ""
				}
			}
			return page, err
		},
	}.in(c)
}

func finishReleasesHolds(c storetest.Circulation) storetest.Circulation {
	s := c.Store
	var mu sync.Mutex
	var held []circulation.Hold
	add := c.AddHold
	c.AddHold = func(ctx context.Context, h circulation.Hold) error {
		mu.Lock()
		defer mu.Unlock()
		held = append(held, h)
		return add(ctx, h)
	}
	release := s.(interface {
		ReleaseHold(context.Context, circulation.Borrower, string) (bool, error)
	}).ReleaseHold
	return over{finish: func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		for _, h := range held {
			if _, err := release(ctx, h.Borrower, h.Ref); err != nil {
				return err
			}
		}
		return s.(anonymize.Finisher).Finish(ctx)
	}}.in(c)
}

func dumpsNothing(c storetest.Circulation) storetest.Circulation {
	c.Dump = func(context.Context) (string, error) { return "", nil }
	return c
}
