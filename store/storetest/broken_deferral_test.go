package storetest_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/storetest"
)

// Broken stores that put records off. Each is the same sleeper with one fault; without a fault it passes.
func brokenSleepers() map[string]brokenSleeper {
	one := func(break_ func(*sleeper), caught ...string) brokenSleeper { return brokenSleeper{break_, caught} }
	forgets := func(ignore func(*circulation.Record), caught ...string) brokenSleeper {
		return one(func(s *sleeper) { s.ignore = ignore }, caught...)
	}
	all := func(list ...string) (caught []string) {
		for _, name := range list {
			caught = append(caught, "ChangesWake/"+name, "StaleDeferral/"+name, "ChangedAndSettledInBetween/"+name)
		}
		return caught
	}
	type record = circulation.Record
	return map[string]brokenSleeper{
		"forgetsFacts":     forgets(func(r *record) { r.Library = "" }, all("Changed")...),
		"forgetsStatus":    forgets(func(r *record) { r.Status, r.Ended = 0, time.Time{} }, all("Ended", "Reopened")...),
		"forgetsBorrower":  forgets(func(r *record) { r.Borrower = "" }, all("GivenToAnother")...),
		"forgetsLost":      forgets(func(r *record) { r.Lost = false }, all("Lost", "Found")...),
		"forgetsClaims":    forgets(func(r *record) { r.ClaimedReturned = false }, all("ClaimWithdrawn")...),
		"forgetsFees":      forgets(func(r *record) { r.Fees = nil }, all("FeeOpened", "FeeClosed", "FeeOpenedAgain", "FeeClosedEarlier", "FeeMovedHere", "FeeMovedAway")...),
		"forgetsFeeDates":  forgets(func(r *record) { eachFee(r, func(f *circulation.FeeSummary) { f.Closed = time.Time{} }) }, all("FeeClosedEarlier")...),
		"forgetsFeeStatus": forgets(func(r *record) { eachFee(r, func(f *circulation.FeeSummary) { *f = circulation.FeeSummary{} }) }, all("FeeClosed", "FeeOpenedAgain")...),
		"forgetsGroup":     forgets(func(r *record) { r.GroupNow = "" }, all("GroupChanged", "AccountListed")...),
		"forgetsExpiry":    forgets(func(r *record) { r.BorrowerExpires = time.Time{} }, all("AccountExtended", "AccountEnded")...),
		"forgetsWish":      forgets(func(r *record) { r.Wish = 0 }, all("WishExpressed")...),
		"forgetsWishSince": forgets(func(r *record) { r.WishSince = time.Time{} }, all("WishDated")...),
		"forgetsHolds":     forgets(func(r *record) { r.Hold = false }, all("HoldAdded", "HoldReleased")...),
		"forgetsNewer": forgets(func(r *record) { r.NewerByBorrower = 0 }, append(all("NewerLoan", "OtherLoanBecameNewer", "NewerLoanOfAnotherGivenToTheBorrower"),
			"NewerLoansWake/PerBorrower")...),
		"forgetsNewerOfItem": forgets(func(r *record) { r.NewerOfItem = 0 }, append(all("NewerLoanOfTheItem", "NewerLoanWasOfTheItem"), "NewerLoansWake/PerItem")...),

		"neverDefers":        one(func(s *sleeper) { s.deaf = true }, "PutOffUntilDue"),
		"sleepsThroughUntil": one(func(s *sleeper) { s.later = time.Microsecond }, "PutOffUntilDue"),
		"wakesEarly":         one(func(s *sleeper) { s.later = -time.Microsecond }, "PutOffUntilDue"),
		"roundsToSeconds":    one(func(s *sleeper) { s.round = time.Second }, "PutOffUntilDue"),
		"neverIsTheYearOne":  one(func(s *sleeper) { s.zeroIsATime = true }, "PutOffUntilDue"),
		"wakesAtTheEnd":      one(func(s *sleeper) { s.wakesAtTheEnd = true }, "PutOffUntilDue"),
		"wakesAtResume":      one(func(s *sleeper) { s.wakesAtResume = true }, "PutOffUntilDue", "ChangesWake/Changed"),
		"wakesTheWholeTown":  one(func(s *sleeper) { s.ignore, s.town = nil, true }, "ChangesWake/GroupChanged"),
		"hidesWithoutPlan":   one(func(s *sleeper) { s.hides = true }, "PutOffUntilDue", "AnotherPlanReadsEverything"),

		"ignoresPlan":       one(func(s *sleeper) { s.ignoresPlan = true }, "AnotherPlanReadsEverything"),
		"defersForAnother":  one(func(s *sleeper) { s.defersForAnother = true }, "AnotherPlanReadsEverything"),
		"remembersPlans":    one(func(s *sleeper) { s.remembersPlans = true }, "BackToTheFirstPlan"),
		"ignoresVersions":   one(func(s *sleeper) { s.ignoresVersions = true }, "StaleDeferral/Changed", "StaleDeferral/GroupChanged", "ChangesRaceDeferral"),
		"looksAtFlagsAlone": one(func(s *sleeper) { s.flags = true }, "ChangedAndSettledInBetween/GroupChanged"),
		"allOrNothing":      one(func(s *sleeper) { s.allOrNothing = true }, "StaleDeferral", "DeferOfUnlinked"),
		"failsOnUnlinked":   one(func(s *sleeper) { s.fails = true }, "DeferOfUnlinked"),

		"shortPageEnds":     one(func(s *sleeper) { s.shortEnds = true }, "PagesUnderAPlan/by_2"),
		"pagesByOffset":     one(func(s *sleeper) { s.offset = true }, "PagesUnderAPlan/by_2"),
		"planForgetsShard":  one(func(s *sleeper) { s.unsharded = true }, "ShardsUnderAPlan"),
		"countsAwake":       one(func(s *sleeper) { s.countsAwake = true }, "CountIncludesDeferred"),
		"countForgetsShard": one(func(s *sleeper) { s.countsAll = true }, "CountIncludesDeferred"),
		"ignoresCancel":     one(func(s *sleeper) { s.uncanceled = true }, "CanceledDeferral"),
	}
}

type brokenSleeper struct {
	how    func(*sleeper)
	caught []string
}

func eachFee(r *circulation.Record, do func(*circulation.FeeSummary)) {
	r.Fees = append([]circulation.FeeSummary(nil), r.Fees...)
	for i := range r.Fees {
		do(&r.Fees[i])
	}
}

// A sleeper puts records off on top of a store that cannot. It remembers how each record looked when it was read, and lets it
// sleep as long as it looks the same.
type sleeper struct {
	anonymize.Store
	mu     sync.Mutex
	plan   string
	seen   map[string]circulation.Record // what was read, by kind, ID and version
	asleep map[string]sleepingRecord
	shelf  map[string]map[string]sleepingRecord // what was put off under other plans
	past   map[string]circulation.Record        // how all records looked at the last Resume

	// Faults.
	ignore                                                                                func(*circulation.Record)
	later, round                                                                          time.Duration
	deaf, zeroIsATime, wakesAtTheEnd, wakesAtResume, town, hides                          bool
	ignoresPlan, defersForAnother, remembersPlans, ignoresVersions, flags                 bool
	allOrNothing, fails, shortEnds, offset, unsharded, countsAwake, countsAll, uncanceled bool
}

type sleepingRecord struct {
	looks circulation.Record
	until time.Time
	town  int
}

func newSleeper(inner anonymize.Store) *sleeper {
	return &sleeper{Store: inner, seen: map[string]circulation.Record{}, asleep: map[string]sleepingRecord{}, shelf: map[string]map[string]sleepingRecord{}}
}

// looks is what of a record wakes it when it changes.
func (s *sleeper) looks(r circulation.Record) circulation.Record {
	r.Version = ""
	if s.ignore != nil {
		s.ignore(&r)
	}
	return r
}

func (s *sleeper) all(q anonymize.Query) map[string]circulation.Record {
	found := map[string]circulation.Record{}
	q.Plan, q.Shard, q.Needs = "", anonymize.Shard{}, anonymize.NeedEverything
	for _, q.Kind = range circulation.Kinds() {
		for _, r := range everything(s.Store, q) {
			found[name(r.Kind, r.ID)] = r
		}
	}
	return found
}

// groups is the sum of what is known of accounts.
func (s *sleeper) groups() (n int) {
	for _, r := range s.all(anonymize.Query{At: time.Unix(0, 0)}) {
		n += len(r.GroupNow)
	}
	return n
}

func (s *sleeper) sleeps(r circulation.Record, at time.Time) bool {
	d, ok := s.asleep[name(r.Kind, r.ID)]
	if !ok || s.town && d.town != s.groups() {
		return false
	}
	// The inner store fills in everything, whatever is asked for.
	if !reflect.DeepEqual(d.looks, s.looks(r)) {
		return false
	}
	until := d.until.Add(s.later)
	if s.round > 0 {
		until = until.Truncate(s.round)
	}
	return d.until.IsZero() && !s.zeroIsATime || at.Before(until)
}

func (s *sleeper) Linked(ctx context.Context, q anonymize.Query) (page anonymize.Page, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	planned := q.Plan != "" && (q.Plan == s.plan || s.ignoresPlan) || s.hides
	q.Plan = ""
	if planned && s.unsharded {
		q.Shard = anonymize.Shard{}
	}
	if !planned {
		page, err = s.Store.Linked(ctx, q)
	} else {
		page, err = s.planned(ctx, q)
	}
	for _, r := range page.Records {
		s.seen[name(r.Kind, r.ID)+r.Version] = r
	}
	return page, err
}

func (s *sleeper) planned(ctx context.Context, q anonymize.Query) (page anonymize.Page, err error) {
	limit := q.Limit
	if s.shortEnds {
		whole, err := s.Store.Linked(ctx, q)
		for _, r := range whole.Records {
			if !s.sleeps(r, q.At) {
				page.Records = append(page.Records, r)
			}
		}
		if page.Cursor = whole.Cursor; len(page.Records) < limit {
			page.Cursor = ""
		}
		return page, err
	}
	skip := 0
	if s.offset {
		skip, q.Cursor = len(q.Cursor), ""
	}
	q.Limit = 1
	for n := 0; len(page.Records) < limit; {
		one, err := s.Store.Linked(ctx, q)
		if err != nil {
			return anonymize.Page{}, err
		}
		for _, r := range one.Records {
			if !s.sleeps(r, q.At) {
				if n++; n > skip {
					page.Records = append(page.Records, r)
				}
			}
		}
		if page.Cursor, q.Cursor = one.Cursor, one.Cursor; q.Cursor == "" {
			break
		}
	}
	if s.offset && page.Cursor != "" {
		page.Cursor = string(make([]byte, skip+limit))
	}
	return page, nil
}

func (s *sleeper) Resume(ctx context.Context, plan string, needs anonymize.Needs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil && !s.uncanceled {
		return err
	}
	now := s.all(anonymize.Query{At: time.Unix(0, 0)})
	if s.plan != plan && !s.ignoresPlan {
		s.shelf[s.plan] = s.asleep
		s.asleep = map[string]sleepingRecord{}
		if s.remembersPlans && s.shelf[plan] != nil {
			s.asleep = s.shelf[plan]
		}
	}
	s.plan = plan
	if needs&anonymize.NeedNewerByBorrower == 0 { // what nobody needs is settled
		for _, asleep := range s.shelf {
			for id, d := range asleep {
				d.looks.NewerByBorrower = now[id].NewerByBorrower
				asleep[id] = d
			}
		}
	}
	if s.wakesAtResume {
		clear(s.asleep)
	}
	s.past = now
	return nil
}

func (s *sleeper) Defer(ctx context.Context, d anonymize.Deferral) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil && !s.uncanceled {
		return err
	}
	if d.Plan != s.plan && !s.defersForAnother || s.deaf {
		return nil
	}
	now := s.all(anonymize.Query{At: time.Unix(0, 0)})
	good := map[string]sleepingRecord{}
	for _, x := range d.Records {
		id := name(d.Kind, x.ID)
		r, linked := now[id]
		looked, known := s.seen[id+x.Version]
		if (!linked || !known) && s.fails {
			return errors.New("no such record")
		}
		stale := !known || s.looksDifferent(looked, r)
		if s.flags {
			// A flag says that something happened since the last Resume. It is not enough.
			stale = !known || s.looksDifferent(s.past[id], r)
			looked = r
		}
		if s.ignoresVersions && linked {
			stale, looked = false, r
		}
		if (!linked || stale) && s.allOrNothing {
			return nil
		}
		if linked && !stale {
			good[id] = sleepingRecord{s.looks(looked), x.Until, s.groups()}
		}
	}
	maps.Copy(s.asleep, good)
	return nil
}

func (s *sleeper) looksDifferent(a, b circulation.Record) bool {
	a.Hold, b.Hold = false, false // that depends on when it is asked
	return !reflect.DeepEqual(s.looks(a), s.looks(b))
}

func (s *sleeper) Count(ctx context.Context, kind circulation.Kind, shard anonymize.Shard) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil && !s.uncanceled {
		return 0, err
	}
	if s.countsAll {
		shard = anonymize.Shard{}
	}
	for _, r := range everything(s.Store, anonymize.Query{Kind: kind, Shard: shard}) {
		if !s.countsAwake || !s.sleeps(r, time.Now()) {
			n++
		}
	}
	return n, nil
}

func (s *sleeper) Finish(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wakesAtTheEnd {
		clear(s.asleep)
	}
	return s.Store.(anonymize.Finisher).Finish(ctx)
}

const brokenSleeperEnv = "CARREL_STORETEST_BROKEN_SLEEPER"

func TestBrokenSleepers(t *testing.T) {
	caught := map[string][]string{}
	for name, b := range brokenSleepers() {
		caught[name] = b.caught
	}
	catches(t, "TestBrokenSleeperChild", brokenSleeperEnv, caught)
}

func TestBrokenSleeperChild(t *testing.T) {
	b, ok := brokenSleepers()[os.Getenv(brokenSleeperEnv)]
	if !ok {
		t.Skip("runs in the child processes of TestBrokenSleepers")
	}
	storetest.TestCirculation(t, asleep(b.how))
}

// The sleeper itself passes: what the suite catches are its faults.
func TestSleeper(t *testing.T) {
	storetest.TestCirculation(t, asleep(func(*sleeper) {}))
}

func asleep(how func(*sleeper)) func(*testing.T) storetest.Circulation {
	return func(*testing.T) storetest.Circulation {
		c := inMemory()
		s := newSleeper(c.Store)
		how(s)
		c.Store = s
		return c
	}
}
