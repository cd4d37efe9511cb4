package storetest_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/storetest"
)

type brokenLog struct {
	broken func(overLog) audit.Store
	caught []string
}

// Each of these breaks the memory store in one way, and names the cases that are there to find it.
func brokenLogs() map[string]brokenLog {
	return map[string]brokenLog{
		"gaps":             {logGaps, []string{"NumbersHaveNoGaps"}},
		"reusesNumbers":    {logReusesNumbers, []string{"NumbersAreNotGivenTwice"}},
		"ignoresKeys":      {logIgnoresKeys, []string{"KeyIsAppendedOnce", "OneAppendOfAKeyWins"}},
		"keysOfCalls":      {logKeysOfCalls, []string{"KeyIsAppendedOnce"}},
		"checksKeysFirst":  {logChecksKeysFirst, []string{"OneAppendOfAKeyWins"}},
		"skipsPageEnds":    {logSkipsPageEnds, []string{"PagesOfNumbers", "QueriesFindWhatMatches"}},
		"repeatsPageEnds":  {logRepeatsPageEnds, []string{"PagesOfNumbers"}},
		"pagesByOffset":    {logPagesByOffset, []string{"PagesWhileEntriesCome"}},
		"losesTags":        {logLosesTags, []string{"QueriesFindWhatMatches", "EntryAboutMany"}},
		"onePerTag":        {logOnePerTag, []string{"EntryAboutMany"}},
		"firstAction":      {logFirstAction, []string{"QueriesFindWhatMatches"}},
		"untilInclusive":   {logUntilInclusive, []string{"TimesAreBounds"}},
		"sinceExclusive":   {logSinceExclusive, []string{"TimesAreBounds"}},
		"neverConflicts":   {logNeverConflicts, []string{"AdvanceComparesSize", "OneAdvanceWinsARace"}},
		"comparesFirst":    {logComparesFirst, []string{"OneAdvanceWinsARace"}},
		"writesConflicts":  {logWritesConflicts, []string{"AdvanceComparesSize"}},
		"keepsBodies":      {logKeepsBodies, []string{"NothingIsShared"}},
		"sharesBuffer":     {logSharesBuffer, []string{"NothingIsShared"}},
		"handsOutTiles":    {logHandsOutTiles, []string{"NothingIsShared"}},
		"oneByOne":         {logOneByOne, []string{"AppendIsAllOrNone", "NumbersOfManyWriters"}},
		"advancesInSteps":  {logAdvancesInSteps, []string{"AdvanceIsAllOrNothing"}},
		"removeKeepsTags":  {logRemoveKeepsTags, []string{"RemovedIsGone"}},
		"removeKeepsKeys":  {logRemoveKeepsKeys, []string{"RemovedIsGone"}},
		"neverDrops":       {logNeverDrops, []string{"TilesAreReplacedAndDropped"}},
		"mergesTiles":      {logMergesTiles, []string{"TilesAreReplacedAndDropped"}},
		"ignoresCancel":    {logIgnoresCancel, []string{"CanceledContext"}},
		"showsNextTooSoon": {logShowsNextTooSoon, []string{"WhoSeesAnEntrySeesAllBeforeIt"}},
	}
}

const brokenLogEnv = "CARREL_STORETEST_BROKEN_LOG"

// TestBrokenLogs is TestBroken for this suite.
func TestBrokenLogs(t *testing.T) {
	caught := map[string][]string{}
	for name, b := range brokenLogs() {
		caught[name] = b.caught
	}
	catches(t, "TestBrokenLogChild", brokenLogEnv, caught)
}

// TestBrokenLogChild is the suite on one broken store.
func TestBrokenLogChild(t *testing.T) {
	b, ok := brokenLogs()[os.Getenv(brokenLogEnv)]
	if !ok {
		t.Skip("runs in the child processes of TestBrokenLogs")
	}
	storetest.TestLog(t, func(*testing.T) audit.Store { return b.broken(overLog{Store: memory.NewLog()}) })
}

// overLog replaces methods of a store.
type overLog struct {
	audit.Store
	append  func(context.Context, []audit.Entry) error
	entries func(context.Context, audit.Query) (audit.Page, error)
	tree    func(context.Context, []audit.TileID) (audit.Tree, error)
	advance func(context.Context, audit.Advance) error
}

func (o overLog) Append(ctx context.Context, entries []audit.Entry) error {
	if o.append != nil {
		return o.append(ctx, entries)
	}
	return o.Store.Append(ctx, entries)
}

func (o overLog) Entries(ctx context.Context, q audit.Query) (audit.Page, error) {
	if o.entries != nil {
		return o.entries(ctx, q)
	}
	return o.Store.Entries(ctx, q)
}

func (o overLog) Tree(ctx context.Context, tiles ...audit.TileID) (audit.Tree, error) {
	if o.tree != nil {
		return o.tree(ctx, tiles)
	}
	return o.Store.Tree(ctx, tiles...)
}

func (o overLog) Advance(ctx context.Context, a audit.Advance) error {
	if o.advance != nil {
		return o.advance(ctx, a)
	}
	return o.Store.Advance(ctx, a)
}

// everything reads all entries that a query asks for.
func (o overLog) everything(ctx context.Context, q audit.Query) (list []audit.Entry, err error) {
	q.Cursor, q.Limit = "", 1<<30
	page, err := o.Store.Entries(ctx, q)
	return page.Entries, err
}

// pause lets others come in between.
func pause() { time.Sleep(50 * time.Microsecond) }

// A second entry takes the place that nobody sees.
func logGaps(o overLog) audit.Store {
	o.append = func(ctx context.Context, entries []audit.Entry) error {
		if len(entries) == 0 {
			return ctx.Err()
		}
		tree, err := o.Store.Tree(ctx)
		if err != nil {
			return err
		}
		if err := o.Store.Append(ctx, append(slices.Clone(entries), audit.Entry{Body: []byte("gap")})); err != nil {
			return err
		}
		n := tree.Next + uint64(len(entries))
		return o.Store.Advance(ctx, audit.Advance{From: tree.Size, Size: tree.Size, Checkpoint: tree.Checkpoint, Remove: []audit.Range{{From: n, To: n + 1}}})
	}
	return o
}

// The next number is the number of entries that are left.
func logReusesNumbers(o overLog) audit.Store {
	var mu sync.Mutex
	inner, removed := o.Store, uint64(0)
	o.tree = func(ctx context.Context, ids []audit.TileID) (audit.Tree, error) {
		mu.Lock()
		defer mu.Unlock()
		tree, err := inner.Tree(ctx, ids...)
		tree.Next -= removed
		return tree, err
	}
	o.advance = func(ctx context.Context, a audit.Advance) error {
		mu.Lock()
		defer mu.Unlock()
		before, err := o.everything(ctx, audit.Query{})
		if err != nil {
			return err
		}
		if err := inner.Advance(ctx, a); err != nil {
			return err
		}
		after, err := o.everything(ctx, audit.Query{})
		removed += uint64(len(before) - len(after))
		return err
	}
	return o
}

func logIgnoresKeys(o overLog) audit.Store {
	o.append = func(ctx context.Context, entries []audit.Entry) error {
		entries = slices.Clone(entries)
		for i := range entries {
			entries[i].Key = [16]byte{}
		}
		return o.Store.Append(ctx, entries)
	}
	return o
}

// If the first key is there, all are.
func logKeysOfCalls(o overLog) audit.Store {
	var mu sync.Mutex
	seen := map[[16]byte]bool{}
	o.append = func(ctx context.Context, entries []audit.Entry) error {
		mu.Lock()
		defer mu.Unlock()
		if len(entries) > 0 && entries[0].Key != [16]byte{} {
			if seen[entries[0].Key] {
				return nil
			}
			seen[entries[0].Key] = true
		}
		return o.Store.Append(ctx, entries)
	}
	return o
}

func logChecksKeysFirst(o overLog) audit.Store {
	var mu sync.Mutex
	seen := map[[16]byte]bool{}
	o.append = func(ctx context.Context, entries []audit.Entry) error {
		var fresh []audit.Entry
		for _, e := range entries {
			mu.Lock()
			there := e.Key != [16]byte{} && seen[e.Key]
			mu.Unlock()
			if !there {
				e.Key = [16]byte{}
				fresh = append(fresh, e)
			}
		}
		pause()
		mu.Lock()
		for _, e := range entries {
			seen[e.Key] = true
		}
		mu.Unlock()
		return o.Store.Append(ctx, fresh)
	}
	return o
}

// shifted makes pages that overlap or leave out one.
func shifted(o overLog, by int) audit.Store {
	o.entries = func(ctx context.Context, q audit.Query) (audit.Page, error) {
		page, err := o.Store.Entries(ctx, q)
		switch n := len(page.Entries); {
		case page.Cursor == "" || n < 2:
		case by > 0:
			page.Entries = page.Entries[:n-by]
		default:
			q.Cursor, q.From, q.Limit = "", page.Entries[n-1].Number, 1
			page.Cursor = number(q.From)
		}
		return page, err
	}
	return o
}

func number(n uint64) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return number(n/10) + string(rune('0'+n%10))
}

func logSkipsPageEnds(o overLog) audit.Store   { return shifted(o, 1) }
func logRepeatsPageEnds(o overLog) audit.Store { return shifted(o, -1) }

// The newest first, and a cursor that counts.
func logPagesByOffset(o overLog) audit.Store {
	o.entries = func(ctx context.Context, q audit.Query) (page audit.Page, err error) {
		if len(q.Tags)+len(q.Actions) == 0 {
			return o.Store.Entries(ctx, q)
		}
		all, err := o.everything(ctx, q)
		if err != nil {
			return page, err
		}
		slices.Reverse(all)
		end := min(len(q.Cursor)+q.Limit, len(all))
		if len(q.Cursor) < end {
			page.Entries = all[len(q.Cursor):end]
		}
		if end < len(all) {
			page.Cursor = strings.Repeat("x", end)
		}
		return page, nil
	}
	return o
}

func logLosesTags(o overLog) audit.Store {
	o.append = func(ctx context.Context, entries []audit.Entry) error {
		entries = slices.Clone(entries)
		for i := range entries {
			entries[i].Tags = entries[i].Tags[:min(1, len(entries[i].Tags))]
		}
		return o.Store.Append(ctx, entries)
	}
	return o
}

// An entry comes once for each of its tags.
func logOnePerTag(o overLog) audit.Store {
	o.entries = func(ctx context.Context, q audit.Query) (page audit.Page, err error) {
		if len(q.Tags) < 2 {
			return o.Store.Entries(ctx, q)
		}
		var all []audit.Entry
		for _, tag := range q.Tags {
			one := q
			one.Tags = []audit.Tag{tag}
			some, err := o.everything(ctx, one)
			if err != nil {
				return page, err
			}
			all = append(all, some...)
		}
		end := min(len(q.Cursor)+q.Limit, len(all))
		page.Entries = all[len(q.Cursor):end]
		if end < len(all) {
			page.Cursor = strings.Repeat("x", end)
		}
		return page, nil
	}
	return o
}

func beforeQuery(o overLog, change func(*audit.Query)) audit.Store {
	o.entries = func(ctx context.Context, q audit.Query) (audit.Page, error) {
		change(&q)
		return o.Store.Entries(ctx, q)
	}
	return o
}

func logFirstAction(o overLog) audit.Store {
	return beforeQuery(o, func(q *audit.Query) { q.Actions = q.Actions[:min(1, len(q.Actions))] })
}

func logUntilInclusive(o overLog) audit.Store {
	return beforeQuery(o, func(q *audit.Query) {
		if !q.Until.IsZero() {
			q.Until = q.Until.Add(1)
		}
	})
}

func logSinceExclusive(o overLog) audit.Store {
	return beforeQuery(o, func(q *audit.Query) {
		if !q.Since.IsZero() {
			q.Since = q.Since.Add(1)
		}
	})
}

func logNeverConflicts(o overLog) audit.Store {
	o.advance = func(ctx context.Context, a audit.Advance) error {
		for {
			tree, err := o.Store.Tree(ctx)
			if err != nil {
				return err
			}
			a.From = tree.Size
			if err := o.Store.Advance(ctx, a); err != audit.ErrConflict {
				return err
			}
		}
	}
	return o
}

func logComparesFirst(o overLog) audit.Store {
	never := logNeverConflicts(o)
	o.advance = func(ctx context.Context, a audit.Advance) error {
		tree, err := o.Store.Tree(ctx)
		if err != nil {
			return err
		}
		if tree.Size != a.From {
			return audit.ErrConflict
		}
		pause()
		return never.Advance(ctx, a)
	}
	return o
}

// It says that there was a conflict, after it has written the tiles.
func logWritesConflicts(o overLog) audit.Store {
	o.advance = func(ctx context.Context, a audit.Advance) error {
		err := o.Store.Advance(ctx, a)
		if err == audit.ErrConflict {
			tree, terr := o.Store.Tree(ctx)
			if terr == nil {
				o.Store.Advance(ctx, audit.Advance{From: tree.Size, Size: tree.Size, Checkpoint: tree.Checkpoint, Tiles: a.Tiles})
			}
		}
		return err
	}
	return o
}

// It hands out the bodies that it was given.
func logKeepsBodies(o overLog) audit.Store {
	var mu sync.Mutex
	bodies := map[string][]byte{}
	o.append = func(ctx context.Context, entries []audit.Entry) error {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range entries {
			bodies[string(e.Body)] = e.Body
		}
		return o.Store.Append(ctx, entries)
	}
	o.entries = func(ctx context.Context, q audit.Query) (audit.Page, error) {
		page, err := o.Store.Entries(ctx, q)
		mu.Lock()
		defer mu.Unlock()
		for i, e := range page.Entries {
			if body, ok := bodies[string(e.Body)]; ok {
				page.Entries[i].Body = body
			}
		}
		return page, err
	}
	return o
}

// The bodies of a page can grow into each other.
func logSharesBuffer(o overLog) audit.Store {
	o.entries = func(ctx context.Context, q audit.Query) (audit.Page, error) {
		page, err := o.Store.Entries(ctx, q)
		var buffer []byte
		for _, e := range page.Entries {
			buffer = append(buffer, e.Body...)
		}
		for i, e := range page.Entries {
			page.Entries[i].Body = buffer[:len(e.Body)]
			buffer = buffer[len(e.Body):]
		}
		return page, err
	}
	return o
}

func logHandsOutTiles(o overLog) audit.Store {
	var mu sync.Mutex
	tiles := map[audit.TileID][]byte{}
	o.tree = func(ctx context.Context, ids []audit.TileID) (audit.Tree, error) {
		tree, err := o.Store.Tree(ctx, ids...)
		mu.Lock()
		defer mu.Unlock()
		for i := range tree.Tiles {
			if tiles[ids[i]] == nil {
				tiles[ids[i]] = tree.Tiles[i]
			}
			tree.Tiles[i] = tiles[ids[i]]
		}
		return tree, err
	}
	return o
}

func logOneByOne(o overLog) audit.Store {
	o.append = func(ctx context.Context, entries []audit.Entry) error {
		for i := range entries {
			if err := o.Store.Append(ctx, entries[i:i+1]); err != nil {
				return err
			}
			pause()
		}
		return ctx.Err()
	}
	return o
}

func logAdvancesInSteps(o overLog) audit.Store {
	o.advance = func(ctx context.Context, a audit.Advance) error {
		rest := a
		a.Tiles, a.Remove, a.Drop = nil, nil, nil
		if err := o.Store.Advance(ctx, a); err != nil {
			return err
		}
		rest.From = a.Size
		return o.Store.Advance(ctx, rest)
	}
	return o
}

// What is removed is still found by its tags.
func logRemoveKeepsTags(o overLog) audit.Store {
	all := memory.NewLog()
	o.append = func(ctx context.Context, entries []audit.Entry) error {
		if err := o.Store.Append(ctx, entries); err != nil {
			return err
		}
		return all.Append(ctx, entries)
	}
	o.entries = func(ctx context.Context, q audit.Query) (audit.Page, error) {
		if len(q.Tags) > 0 {
			return all.Entries(ctx, q)
		}
		return o.Store.Entries(ctx, q)
	}
	return o
}

func logRemoveKeepsKeys(o overLog) audit.Store {
	var mu sync.Mutex
	seen := map[[16]byte]bool{}
	o.append = func(ctx context.Context, entries []audit.Entry) error {
		mu.Lock()
		defer mu.Unlock()
		var fresh []audit.Entry
		for _, e := range entries {
			if e.Key == [16]byte{} || !seen[e.Key] {
				fresh = append(fresh, e)
			}
		}
		if err := o.Store.Append(ctx, fresh); err != nil {
			return err
		}
		for _, e := range fresh {
			seen[e.Key] = true
		}
		return nil
	}
	return o
}

func logNeverDrops(o overLog) audit.Store {
	o.advance = func(ctx context.Context, a audit.Advance) error {
		a.Drop = nil
		return o.Store.Advance(ctx, a)
	}
	return o
}

// A tile that is there is left as it is.
func logMergesTiles(o overLog) audit.Store {
	o.advance = func(ctx context.Context, a audit.Advance) error {
		a.Tiles = slices.Clone(a.Tiles)
		for i, tile := range a.Tiles {
			if tree, err := o.Store.Tree(ctx, tile.TileID); err == nil && tree.Tiles[0] != nil {
				a.Tiles[i].Data = tree.Tiles[0]
			}
		}
		return o.Store.Advance(ctx, a)
	}
	return o
}

func logIgnoresCancel(o overLog) audit.Store {
	o.append = func(ctx context.Context, entries []audit.Entry) error {
		return o.Store.Append(context.WithoutCancel(ctx), entries)
	}
	return o
}

// The number of entries that are on their way is shown before they are there.
func logShowsNextTooSoon(o overLog) audit.Store {
	var mu sync.Mutex
	coming := uint64(0)
	count := func(n uint64) {
		mu.Lock()
		defer mu.Unlock()
		coming += n
	}
	o.append = func(ctx context.Context, entries []audit.Entry) error {
		count(uint64(len(entries)))
		defer count(-uint64(len(entries)))
		pause()
		return o.Store.Append(ctx, entries)
	}
	o.tree = func(ctx context.Context, ids []audit.TileID) (audit.Tree, error) {
		mu.Lock()
		defer mu.Unlock()
		tree, err := o.Store.Tree(ctx, ids...)
		tree.Next += coming
		return tree, err
	}
	return o
}
