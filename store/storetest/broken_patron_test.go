package storetest_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/storetest"
)

type brokenPatrons struct {
	run    func(t *testing.T)
	caught []string
}

// Each of these breaks a memory store in one way, and names the cases that are there to find it.
func brokenPatronStores() map[string]brokenPatrons {
	k := func(broken func(overKeys) overKeys, caught ...string) brokenPatrons {
		return brokenPatrons{func(t *testing.T) {
			storetest.TestKeys(t, func(*testing.T) crypto.KeyStore { return broken(overKeys{KeyStore: memory.NewKeys()}) })
		}, caught}
	}
	p := func(broken func(overPatrons) overPatrons, caught ...string) brokenPatrons {
		return brokenPatrons{func(t *testing.T) {
			storetest.TestPatrons(t, func(*testing.T) patron.Store { return broken(overPatrons{Store: memory.NewPatrons()}) })
		}, caught}
	}
	g := func(broken func(overGrants) overGrants, caught ...string) brokenPatrons {
		return brokenPatrons{func(t *testing.T) {
			storetest.TestGrants(t, func(*testing.T) patron.Grants { return broken(overGrants{Grants: memory.NewGrants()}) })
		}, caught}
	}
	return map[string]brokenPatrons{
		"keysInsertOverwrites":  k(keysInsertOverwrites, "InsertKeepsWhatIsThere", "OneInsertWinsARace"),
		"keysIgnoreOld":         k(keysIgnoreOld, "ReplaceComparesOld"),
		"keysReplaceInserts":    k(keysReplaceInserts, "ReplaceComparesOld", "DeleteIsForGood"),
		"keysLoseAllOrNothing":  k(keysLoseAllOrNothing, "WhatAppliesIsMadeTheRestIsLost"),
		"keysOneByOne":          k(keysOneByOne, "OneWriterWinsAll"),
		"keysByEpoch":           k(keysByEpoch, "PagesWhileKeysMoveBetweenOlderEpochs"),
		"keysByOffset":          k(keysByOffset, "PagesWhileKeysAreRewrapped"),
		"keysEpochInclusive":    k(keysEpochInclusive, "PagesHaveOlderKeysOnly"),
		"keysNeedAfter":         k(keysNeedAfter, "PageAfterAKeyThatIsGone"),
		"keysSortAsNumbers":     k(keysSortAsNumbers, "PagesCoverEachKey"),
		"keysMarkDeleted":       k(keysMarkDeleted, "DeleteIsForGood"),
		"keysShareMemory":       k(keysShareMemory, "NothingIsShared"),
		"keysIgnoreCancel":      k(keysIgnoreCancel, "CanceledContext"),
		"keysFoldCase":          k(keysFoldCase, "UnknownSubjectHasNoKey"),
		"patronsIgnoreVersion":  p(patronsIgnoreVersion, "OtherVersionConflicts", "OneWriterWinsARow"),
		"patronsReadThenWrite":  p(patronsReadThenWrite, "OneWriterWinsARow"),
		"patronsPlainConflict":  p(patronsPlainConflict, "OtherVersionConflicts"),
		"patronsOneByOne":       p(patronsOneByOne, "BatchIsAllOrNothing"),
		"patronsInOrder":        p(patronsInOrder, "TokenCanMoveWithinABatch"),
		"patronsCheckThenWrite": p(patronsCheckThenWrite, "OneInsertWinsAToken"),
		"patronsUniqueLookups":  p(patronsUniqueLookups, "LookupsAreShared"),
		"patronsKeepOldTokens":  p(patronsKeepOldTokens, "ReplaceReplacesAll", "RemovedIsGone"),
		"patronsMergeSegments":  p(patronsMergeSegments, "ReplaceReplacesAll"),
		"patronsAnyIndexes":     p(patronsAnyIndexes, "StaleIndexesAreRefused"),
		"patronsRaiseOnFailure": p(patronsRaiseOnFailure, "BatchIsAllOrNothing", "OtherVersionConflicts"),
		"patronsNewestOfRows":   p(patronsNewestOfRows, "StaleIndexesAreRefused"),
		"patronsFindInTwoSteps": p(patronsFindInTwoSteps, "FindIsOfOneMoment"),
		"patronsFindFew":        p(patronsFindFew, "FindManyTokens"),
		"patronsFindOneOwner":   p(patronsFindOneOwner, "LookupsAreShared", "FindManyOwners"),
		"patronsShortPages":     p(patronsShortPages, "PagesCoverEachRow"),
		"patronsByOffset":       p(patronsByOffset, "PagesWhileRowsChange"),
		"patronsIndexedUpTo":    p(patronsIndexedUpTo, "PagesOfEarlierIndexes"),
		"patronsByIndexed":      p(patronsByIndexed, "PagesWhileRowsMoveBetweenEarlierIndexes"),
		"patronsMilliseconds":   p(patronsMilliseconds, "RowComesBack", "TimesAreToTheMicrosecondInUTC"),
		"patronsSplitOnComma":   p(patronsSplitOnComma, "RowComesBack"),
		"patronsShareMemory":    p(patronsShareMemory, "NothingIsShared"),
		"patronsIgnoreCancel":   p(patronsIgnoreCancel, "CanceledContext"),
		"patronsZeroIsEpoch":    p(patronsZeroIsEpoch, "EmptyRowComesBack"),
		"grantsNeverWait":       g(grantsNeverWait, "SecondGrantAwaitsReview", "OneGrantWinsARace"),
		"grantsCheckThenAdd":    g(grantsCheckThenAdd, "OneGrantWinsARace"),
		"grantsAnyActor":        g(grantsAnyActor, "SecondGrantAwaitsReview"),
		"grantsReviewTwice":     g(grantsReviewTwice, "ReviewHappensOnce", "OneReviewWinsARace"),
		"grantsNewestFirst":     g(grantsNewestFirst, "UnreviewedOldestFirst"),
		"grantsAllUnreviewed":   g(grantsAllUnreviewed, "UnreviewedOfOneAndOfAll"),
		"grantsOverwrite":       g(grantsOverwrite, "IDIsNotGivenTwice"),
		"grantsReviewNobody":    g(grantsReviewNobody, "UnknownGrantIsNotFound"),
		"grantsLoseReason":      g(grantsLoseReason, "GrantComesBack"),
	}
}

const brokenPatronEnv = "CARREL_STORETEST_BROKEN_PATRON"

// TestBrokenPatrons is TestBroken for these suites.
func TestBrokenPatrons(t *testing.T) {
	caught := map[string][]string{}
	for name, b := range brokenPatronStores() {
		caught[name] = b.caught
	}
	catches(t, "TestBrokenPatronChild", brokenPatronEnv, caught)
}

// TestBrokenPatronChild is a suite on one broken store.
func TestBrokenPatronChild(t *testing.T) {
	b, ok := brokenPatronStores()[os.Getenv(brokenPatronEnv)]
	if !ok {
		t.Skip("runs in the child processes of TestBrokenPatrons")
	}
	b.run(t)
}

// overKeys is a store of keys with some methods replaced.
type overKeys struct {
	crypto.KeyStore
	key   func(context.Context, crypto.Subject) (crypto.WrappedKey, error)
	put   func(context.Context, []crypto.KeyChange) ([]crypto.Subject, error)
	older func(context.Context, uint32, crypto.Subject, int) ([]crypto.WrappedKey, error)
	del   func(context.Context, crypto.Subject) error
}

func (o overKeys) Key(ctx context.Context, s crypto.Subject) (crypto.WrappedKey, error) {
	if o.key != nil {
		return o.key(ctx, s)
	}
	return o.KeyStore.Key(ctx, s)
}

func (o overKeys) PutKeys(ctx context.Context, c []crypto.KeyChange) ([]crypto.Subject, error) {
	if o.put != nil {
		return o.put(ctx, c)
	}
	return o.KeyStore.PutKeys(ctx, c)
}

func (o overKeys) OlderKeys(ctx context.Context, before uint32, after crypto.Subject, limit int) ([]crypto.WrappedKey, error) {
	if o.older != nil {
		return o.older(ctx, before, after, limit)
	}
	return o.KeyStore.OlderKeys(ctx, before, after, limit)
}

func (o overKeys) DeleteKey(ctx context.Context, s crypto.Subject) error {
	if o.del != nil {
		return o.del(ctx, s)
	}
	return o.KeyStore.DeleteKey(ctx, s)
}

// allKeys reads all older keys.
func allKeys(s crypto.KeyStore, before uint32) []crypto.WrappedKey {
	list, err := s.OlderKeys(context.Background(), before, "", 1<<30)
	if err != nil {
		panic(err)
	}
	return list
}

func pageOf[T any](list []T, from, limit int) []T {
	from = min(from, len(list))
	return list[from:min(from+limit, len(list))]
}

// INSERT OR REPLACE.
func keysInsertOverwrites(o overKeys) overKeys {
	s := o.KeyStore
	var mu sync.Mutex
	o.put = func(ctx context.Context, changes []crypto.KeyChange) ([]crypto.Subject, error) {
		mu.Lock()
		defer mu.Unlock()
		changes = slices.Clone(changes)
		for i, c := range changes {
			if w, err := s.Key(ctx, c.Key.Subject); err == nil && c.Old == nil {
				changes[i].Old = w.Wrapped
			}
		}
		return s.PutKeys(ctx, changes)
	}
	return o
}

// UPDATE … WHERE subject = ?.
func keysIgnoreOld(o overKeys) overKeys {
	s := o.KeyStore
	o.put = func(ctx context.Context, changes []crypto.KeyChange) ([]crypto.Subject, error) {
		changes = slices.Clone(changes)
		for i, c := range changes {
			if w, err := s.Key(ctx, c.Key.Subject); err == nil && c.Old != nil {
				changes[i].Old = w.Wrapped
			}
		}
		return s.PutKeys(ctx, changes)
	}
	return o
}

// A replacement brings back a key that was shredded.
func keysReplaceInserts(o overKeys) overKeys {
	s := o.KeyStore
	o.put = func(ctx context.Context, changes []crypto.KeyChange) ([]crypto.Subject, error) {
		changes = slices.Clone(changes)
		for i, c := range changes {
			if _, err := s.Key(ctx, c.Key.Subject); errors.Is(err, crypto.ErrNoKey) {
				changes[i].Old = nil
			}
		}
		return s.PutKeys(ctx, changes)
	}
	return o
}

// Rolls back when one change does not apply.
func keysLoseAllOrNothing(o overKeys) overKeys {
	s := o.KeyStore
	o.put = func(ctx context.Context, changes []crypto.KeyChange) ([]crypto.Subject, error) {
		for _, c := range changes {
			w, err := s.Key(ctx, c.Key.Subject)
			if there := err == nil; there == (c.Old == nil) || there && !bytes.Equal(w.Wrapped, c.Old) {
				var all []crypto.Subject
				for _, c := range changes {
					all = append(all, c.Key.Subject)
				}
				return all, nil
			}
		}
		return s.PutKeys(ctx, changes)
	}
	return o
}

// A transaction for each key.
func keysOneByOne(o overKeys) overKeys {
	s := o.KeyStore
	o.put = func(ctx context.Context, changes []crypto.KeyChange) (lost []crypto.Subject, err error) {
		for i, c := range changes {
			l, err := s.PutKeys(ctx, []crypto.KeyChange{c})
			if err != nil {
				return nil, err
			}
			lost = append(lost, l...)
			if i%3 == 0 && len(l) == 0 {
				time.Sleep(time.Millisecond) // lets another one pass
			}
		}
		return lost, s.DeleteKey(ctx, "nobody's")
	}
	return o
}

// ORDER BY epoch, subject.
func keysByEpoch(o overKeys) overKeys {
	s := o.KeyStore
	o.older = func(ctx context.Context, before uint32, after crypto.Subject, limit int) ([]crypto.WrappedKey, error) {
		all := allKeys(s, before)
		slices.SortStableFunc(all, func(a, b crypto.WrappedKey) int { return cmp.Compare(a.Epoch, b.Epoch) })
		if at, err := s.Key(ctx, after); err == nil {
			all = slices.DeleteFunc(all, func(w crypto.WrappedKey) bool {
				return cmp.Or(cmp.Compare(w.Epoch, at.Epoch), cmp.Compare(w.Subject, at.Subject)) <= 0
			})
		}
		return pageOf(all, 0, limit), ctx.Err()
	}
	return o
}

// Counts what it has returned in this series, as LIMIT n OFFSET m would.
func keysByOffset(o overKeys) overKeys {
	s := o.KeyStore
	offset := 0
	o.older = func(ctx context.Context, before uint32, after crypto.Subject, limit int) ([]crypto.WrappedKey, error) {
		if after == "" {
			offset = 0
		}
		page := pageOf(allKeys(s, before), offset, limit)
		offset += len(page)
		return page, ctx.Err()
	}
	return o
}

func keysEpochInclusive(o overKeys) overKeys {
	s := o.KeyStore
	o.older = func(ctx context.Context, before uint32, after crypto.Subject, limit int) ([]crypto.WrappedKey, error) {
		return s.OlderKeys(ctx, before+1, after, limit)
	}
	return o
}

// Looks for the key that it was given, and begins after it.
func keysNeedAfter(o overKeys) overKeys {
	s := o.KeyStore
	o.older = func(ctx context.Context, before uint32, after crypto.Subject, limit int) ([]crypto.WrappedKey, error) {
		if _, err := s.Key(ctx, after); after != "" && err != nil {
			return nil, ctx.Err()
		}
		return s.OlderKeys(ctx, before, after, limit)
	}
	return o
}

// Shorter subjects first, but compares bytes to find the place.
func keysSortAsNumbers(o overKeys) overKeys {
	s := o.KeyStore
	o.older = func(ctx context.Context, before uint32, after crypto.Subject, limit int) ([]crypto.WrappedKey, error) {
		all := slices.DeleteFunc(allKeys(s, before), func(w crypto.WrappedKey) bool { return w.Subject <= after })
		slices.SortStableFunc(all, func(a, b crypto.WrappedKey) int { return cmp.Compare(len(a.Subject), len(b.Subject)) })
		return pageOf(all, 0, limit), ctx.Err()
	}
	return o
}

// A column that says deleted, which only Key looks at.
func keysMarkDeleted(o overKeys) overKeys {
	s := o.KeyStore
	var mu sync.Mutex
	deleted := make(map[crypto.Subject]bool)
	o.del = func(ctx context.Context, subject crypto.Subject) error {
		mu.Lock()
		defer mu.Unlock()
		deleted[subject] = true
		return ctx.Err()
	}
	o.key = func(ctx context.Context, subject crypto.Subject) (crypto.WrappedKey, error) {
		mu.Lock()
		defer mu.Unlock()
		if deleted[subject] {
			return crypto.WrappedKey{}, crypto.ErrNoKey
		}
		return s.Key(ctx, subject)
	}
	return o
}

func keysShareMemory(o overKeys) overKeys {
	s := o.KeyStore
	var mu sync.Mutex
	cache := make(map[crypto.Subject]crypto.WrappedKey)
	o.key = func(ctx context.Context, subject crypto.Subject) (crypto.WrappedKey, error) {
		mu.Lock()
		defer mu.Unlock()
		w, err := s.Key(ctx, subject)
		if c, ok := cache[subject]; ok && err == nil && c.Epoch == w.Epoch {
			return c, nil
		}
		cache[subject] = w
		return w, err
	}
	return o
}

func keysIgnoreCancel(o overKeys) overKeys {
	s := o.KeyStore
	o.put = func(ctx context.Context, c []crypto.KeyChange) ([]crypto.Subject, error) {
		return s.PutKeys(context.WithoutCancel(ctx), c)
	}
	return o
}

// COLLATE NOCASE.
func keysFoldCase(o overKeys) overKeys {
	s := o.KeyStore
	o.key = func(ctx context.Context, subject crypto.Subject) (crypto.WrappedKey, error) {
		w, err := s.Key(ctx, subject)
		if err != nil {
			return s.Key(ctx, crypto.Subject(strings.ToLower(string(subject))))
		}
		return w, err
	}
	return o
}

// overPatrons is a store of patrons with some methods replaced.
type overPatrons struct {
	patron.Store
	get   func(context.Context, patron.ID) (patron.Row, error)
	find  func(context.Context, []crypto.Token) (patron.Found, error)
	write func(context.Context, patron.Batch) error
	rows  func(context.Context, patron.Query) ([]patron.Row, error)
}

func (o overPatrons) Get(ctx context.Context, id patron.ID) (patron.Row, error) {
	if o.get != nil {
		return o.get(ctx, id)
	}
	return o.Store.Get(ctx, id)
}

func (o overPatrons) Find(ctx context.Context, tokens []crypto.Token) (patron.Found, error) {
	if o.find != nil {
		return o.find(ctx, tokens)
	}
	return o.Store.Find(ctx, tokens)
}

func (o overPatrons) Write(ctx context.Context, b patron.Batch) error {
	if o.write != nil {
		return o.write(ctx, b)
	}
	return o.Store.Write(ctx, b)
}

func (o overPatrons) Rows(ctx context.Context, q patron.Query) ([]patron.Row, error) {
	if o.rows != nil {
		return o.rows(ctx, q)
	}
	return o.Store.Rows(ctx, q)
}

func allRows(s patron.Store, before uint64) []patron.Row {
	list, err := s.Rows(context.Background(), patron.Query{IndexedBefore: before, Limit: 1 << 30})
	if err != nil {
		panic(err)
	}
	return list
}

// onWrite changes batches on their way into the store, one at a time.
func (o overPatrons) onWrite(change func(*patron.Batch)) overPatrons {
	s := o.Store
	var mu sync.Mutex
	o.write = func(ctx context.Context, b patron.Batch) error {
		mu.Lock()
		defer mu.Unlock()
		b.Writes = slices.Clone(b.Writes)
		change(&b)
		return s.Write(ctx, b)
	}
	return o
}

// onRead changes rows on their way out of the store.
func (o overPatrons) onRead(change func(*patron.Row)) overPatrons {
	s := o.Store
	o.get = func(ctx context.Context, id patron.ID) (patron.Row, error) {
		r, err := s.Get(ctx, id)
		change(&r)
		return r, err
	}
	return o
}

func patronsIgnoreVersion(o overPatrons) overPatrons {
	s := o.Store
	return o.onWrite(func(b *patron.Batch) {
		for i, w := range b.Writes {
			if r, err := s.Get(context.Background(), w.Row.ID); err == nil && w.Old > 0 {
				b.Writes[i].Old = r.Version
			}
		}
	})
}

// SELECT version, and a while later UPDATE … WHERE id = ?.
func patronsReadThenWrite(o overPatrons) overPatrons {
	s := o.Store
	ignoring := patronsIgnoreVersion(overPatrons{Store: s})
	o.write = func(ctx context.Context, b patron.Batch) error {
		for _, w := range b.Writes {
			r, err := s.Get(ctx, w.Row.ID)
			if err != nil && !errors.Is(err, patron.ErrNotFound) {
				return err
			}
			if r.Version != w.Old {
				return &patron.ConflictError{ID: w.Row.ID}
			}
		}
		time.Sleep(time.Millisecond)
		return ignoring.Write(ctx, b)
	}
	return o
}

// Does not say which row it is.
func patronsPlainConflict(o overPatrons) overPatrons {
	s := o.Store
	o.write = func(ctx context.Context, b patron.Batch) error {
		err := s.Write(ctx, b)
		if errors.Is(err, patron.ErrConflict) {
			return patron.ErrConflict
		}
		return err
	}
	return o
}

// A transaction for each row.
func patronsOneByOne(o overPatrons) overPatrons {
	s := o.Store
	o.write = func(ctx context.Context, b patron.Batch) error {
		for _, w := range b.Writes {
			if err := s.Write(ctx, patron.Batch{Indexed: b.Indexed, Writes: []patron.Write{w}}); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	return o
}

// One transaction, but tokens are compared row by row, as a unique index does that is not deferred.
func patronsInOrder(o overPatrons) overPatrons {
	s := o.Store
	o.write = func(ctx context.Context, b patron.Batch) error {
		for i, w := range b.Writes {
			found, err := s.Find(ctx, w.Row.Tokens)
			if err != nil {
				return err
			}
			for _, token := range w.Row.Tokens {
				for _, id := range found.Owners[token] {
					r, err := s.Get(ctx, id)
					if err != nil {
						return err
					}
					given := slices.ContainsFunc(b.Writes[:i], func(w patron.Write) bool { return w.Row.ID == id })
					if id != w.Row.ID && !given && slices.Contains(r.Tokens, token) {
						return &patron.DuplicateError{ID: w.Row.ID}
					}
				}
			}
		}
		return s.Write(ctx, b)
	}
	return o
}

// Looks whether a token is free, and writes a while later into a table without a unique index.
func patronsCheckThenWrite(o overPatrons) overPatrons {
	s := o.Store
	o.write = func(ctx context.Context, b patron.Batch) error {
		for _, w := range b.Writes {
			found, err := s.Find(ctx, w.Row.Tokens)
			if err != nil {
				return err
			}
			for _, ids := range found.Owners {
				if slices.ContainsFunc(ids, func(id patron.ID) bool { return id != w.Row.ID }) {
					return s.Write(ctx, b)
				}
			}
		}
		time.Sleep(time.Millisecond)
		err := s.Write(ctx, b)
		if errors.Is(err, patron.ErrDuplicate) && len(b.Writes) == 1 {
			return nil
		}
		return err
	}
	return o
}

func patronsUniqueLookups(o overPatrons) overPatrons {
	s := o.Store
	o.write = func(ctx context.Context, b patron.Batch) error {
		for _, w := range b.Writes {
			found, err := s.Find(ctx, w.Row.Lookups)
			if err != nil {
				return err
			}
			for _, ids := range found.Owners {
				if slices.ContainsFunc(ids, func(id patron.ID) bool { return id != w.Row.ID }) {
					return &patron.DuplicateError{ID: w.Row.ID}
				}
			}
		}
		return s.Write(ctx, b)
	}
	return o
}

// Rows of the index of tokens are only ever added.
func patronsKeepOldTokens(o overPatrons) overPatrons {
	s := o.Store
	var mu sync.Mutex
	ever := make(map[crypto.Token][]patron.ID)
	o.write = func(ctx context.Context, b patron.Batch) error {
		err := s.Write(ctx, b)
		mu.Lock()
		defer mu.Unlock()
		for _, w := range b.Writes {
			for _, token := range slices.Concat(w.Row.Tokens, w.Row.Lookups) {
				if err == nil && !w.Remove && !slices.Contains(ever[token], w.Row.ID) {
					ever[token] = append(ever[token], w.Row.ID)
				}
			}
		}
		return err
	}
	o.find = func(ctx context.Context, tokens []crypto.Token) (patron.Found, error) {
		found, err := s.Find(ctx, tokens)
		mu.Lock()
		defer mu.Unlock()
		for _, token := range tokens {
			if err == nil && len(ever[token]) > 0 {
				found.Owners[token] = slices.Clone(ever[token])
			}
		}
		return found, err
	}
	return o
}

// Segments in a table of their own, from which a replacement does not delete.
func patronsMergeSegments(o overPatrons) overPatrons {
	s := o.Store
	return o.onWrite(func(b *patron.Batch) {
		for i, w := range b.Writes {
			r, err := s.Get(context.Background(), w.Row.ID)
			if err != nil || w.Remove {
				continue
			}
			merged := slices.Clone(w.Row.Segments)
			for _, old := range r.Segments {
				if !slices.ContainsFunc(merged, func(s patron.SealedSegment) bool { return s.Segment == old.Segment }) {
					merged = append(merged, old)
				}
			}
			b.Writes[i].Row.Segments = merged
		}
	})
}

func patronsAnyIndexes(o overPatrons) overPatrons {
	s := o.Store
	return o.onWrite(func(b *patron.Batch) {
		found, err := s.Find(context.Background(), nil)
		if err == nil {
			b.Indexed = max(b.Indexed, found.Indexed)
		}
	})
}

// The newest change is written in a transaction of its own.
func patronsRaiseOnFailure(o overPatrons) overPatrons {
	s := o.Store
	o.write = func(ctx context.Context, b patron.Batch) error {
		if err := s.Write(ctx, patron.Batch{Indexed: b.Indexed}); err != nil {
			return err
		}
		err := s.Write(ctx, b)
		if errors.Is(err, patron.ErrConflict) { // so that a failure shows, whatever the change was
			_ = s.Write(ctx, patron.Batch{Indexed: b.Indexed + 1})
		}
		return err
	}
	return o
}

// SELECT max(indexed) FROM patrons.
func patronsNewestOfRows(o overPatrons) overPatrons {
	s := o.Store
	o.find = func(ctx context.Context, tokens []crypto.Token) (patron.Found, error) {
		found, err := s.Find(ctx, tokens)
		found.Indexed = 0
		for _, r := range allRows(s, 0) {
			found.Indexed = max(found.Indexed, r.Indexed)
		}
		return found, err
	}
	return o
}

func patronsFindInTwoSteps(o overPatrons) overPatrons {
	s := o.Store
	o.find = func(ctx context.Context, tokens []crypto.Token) (patron.Found, error) {
		before, err := s.Find(ctx, nil)
		if err != nil {
			return before, err
		}
		time.Sleep(time.Microsecond)
		found, err := s.Find(ctx, tokens)
		found.Indexed = before.Indexed
		return found, err
	}
	s2 := o.Store
	o.write = func(ctx context.Context, b patron.Batch) error {
		time.Sleep(100 * time.Microsecond) // or all is over before anybody reads
		return s2.Write(ctx, b)
	}
	return o
}

// A parameter for each token, and a bound to their number.
func patronsFindFew(o overPatrons) overPatrons {
	s := o.Store
	o.find = func(ctx context.Context, tokens []crypto.Token) (patron.Found, error) {
		return s.Find(ctx, tokens[:min(len(tokens), 32766)])
	}
	return o
}

func patronsFindOneOwner(o overPatrons) overPatrons {
	s := o.Store
	o.find = func(ctx context.Context, tokens []crypto.Token) (patron.Found, error) {
		found, err := s.Find(ctx, tokens)
		for token, ids := range found.Owners {
			found.Owners[token] = ids[:1]
		}
		return found, err
	}
	return o
}

// Leaves out of a page what somebody is writing.
func patronsShortPages(o overPatrons) overPatrons {
	s := o.Store
	o.rows = func(ctx context.Context, q patron.Query) ([]patron.Row, error) {
		page, err := s.Rows(ctx, q)
		if len(page) > 1 && q.Limit < 1000 {
			page = page[:len(page)-1]
		}
		return page, err
	}
	return o
}

func patronsByOffset(o overPatrons) overPatrons {
	s := o.Store
	offset := 0
	o.rows = func(ctx context.Context, q patron.Query) ([]patron.Row, error) {
		if q.After.IsZero() {
			offset = 0
		}
		page := pageOf(allRows(s, q.IndexedBefore), offset, q.Limit)
		offset += len(page)
		return page, ctx.Err()
	}
	return o
}

func patronsIndexedUpTo(o overPatrons) overPatrons {
	s := o.Store
	o.rows = func(ctx context.Context, q patron.Query) ([]patron.Row, error) {
		if q.IndexedBefore > 0 {
			q.IndexedBefore++
		}
		return s.Rows(ctx, q)
	}
	return o
}

// ORDER BY indexed, id.
func patronsByIndexed(o overPatrons) overPatrons {
	s := o.Store
	o.rows = func(ctx context.Context, q patron.Query) ([]patron.Row, error) {
		if q.IndexedBefore == 0 {
			return s.Rows(ctx, q)
		}
		all := allRows(s, q.IndexedBefore)
		slices.SortStableFunc(all, func(a, b patron.Row) int { return cmp.Compare(a.Indexed, b.Indexed) })
		if at, err := s.Get(ctx, q.After); err == nil {
			all = slices.DeleteFunc(all, func(r patron.Row) bool {
				return cmp.Or(cmp.Compare(r.Indexed, at.Indexed), bytes.Compare(r.ID[:], at.ID[:])) <= 0
			})
		}
		return pageOf(all, 0, q.Limit), ctx.Err()
	}
	return o
}

func patronsMilliseconds(o overPatrons) overPatrons {
	return o.onRead(func(r *patron.Row) { r.Facts.Expires = r.Facts.Expires.Truncate(time.Millisecond) })
}

func patronsSplitOnComma(o overPatrons) overPatrons {
	return o.onRead(func(r *patron.Row) { r.Facts.Categories = strings.Split(strings.Join(r.Facts.Categories, ","), ",") })
}

// Segments that are cut from one piece of memory, and can grow into each other.
func patronsShareMemory(o overPatrons) overPatrons {
	return o.onRead(func(r *patron.Row) {
		var piece []byte
		for _, s := range r.Segments {
			piece = append(piece, s.Data...)
		}
		for i, s := range r.Segments {
			r.Segments[i].Data = piece[:len(s.Data)]
			piece = piece[len(s.Data):]
		}
	})
}

func patronsIgnoreCancel(o overPatrons) overPatrons {
	s := o.Store
	o.write = func(ctx context.Context, b patron.Batch) error { return s.Write(context.WithoutCancel(ctx), b) }
	return o
}

// NOT NULL DEFAULT 0.
func patronsZeroIsEpoch(o overPatrons) overPatrons {
	return o.onRead(func(r *patron.Row) {
		if r.Facts.Expires.IsZero() {
			r.Facts.Expires = time.UnixMicro(0).UTC()
		}
	})
}

// overGrants is a store of grants with some methods replaced.
type overGrants struct {
	patron.Grants
	add        func(context.Context, patron.Grant) error
	grant      func(context.Context, string) (patron.Grant, error)
	unreviewed func(context.Context, string) ([]patron.Grant, error)
	review     func(context.Context, string, string, time.Time) error
}

func (o overGrants) AddGrant(ctx context.Context, g patron.Grant) error {
	if o.add != nil {
		return o.add(ctx, g)
	}
	return o.Grants.AddGrant(ctx, g)
}

func (o overGrants) Grant(ctx context.Context, id string) (patron.Grant, error) {
	if o.grant != nil {
		return o.grant(ctx, id)
	}
	return o.Grants.Grant(ctx, id)
}

func (o overGrants) Unreviewed(ctx context.Context, actor string) ([]patron.Grant, error) {
	if o.unreviewed != nil {
		return o.unreviewed(ctx, actor)
	}
	return o.Grants.Unreviewed(ctx, actor)
}

func (o overGrants) ReviewGrant(ctx context.Context, id, reviewer string, at time.Time) error {
	if o.review != nil {
		return o.review(ctx, id, reviewer, at)
	}
	return o.Grants.ReviewGrant(ctx, id, reviewer, at)
}

func grantsNeverWait(o overGrants) overGrants {
	s := o.Grants
	o.add = func(ctx context.Context, g patron.Grant) error {
		if err := s.AddGrant(ctx, g); !errors.Is(err, access.ErrUnreviewed) {
			return err
		}
		return nil
	}
	return o
}

// SELECT, and a while later INSERT.
func grantsCheckThenAdd(o overGrants) overGrants {
	s := o.Grants
	o.add = func(ctx context.Context, g patron.Grant) error {
		if list, err := s.Unreviewed(ctx, g.Actor); err != nil || len(list) > 0 {
			return cmp.Or(err, access.ErrUnreviewed)
		}
		time.Sleep(time.Millisecond)
		if err := s.AddGrant(ctx, g); !errors.Is(err, access.ErrUnreviewed) {
			return err
		}
		return nil
	}
	return o
}

func grantsAnyActor(o overGrants) overGrants {
	s := o.Grants
	o.add = func(ctx context.Context, g patron.Grant) error {
		if list, err := s.Unreviewed(ctx, ""); err != nil || len(list) > 0 {
			return cmp.Or(err, access.ErrUnreviewed)
		}
		return s.AddGrant(ctx, g)
	}
	return o
}

func grantsReviewTwice(o overGrants) overGrants {
	s := o.Grants
	o.review = func(ctx context.Context, id, reviewer string, at time.Time) error {
		if err := s.ReviewGrant(ctx, id, reviewer, at); !errors.Is(err, patron.ErrReviewed) {
			return err
		}
		return nil
	}
	return o
}

func grantsNewestFirst(o overGrants) overGrants {
	s := o.Grants
	o.unreviewed = func(ctx context.Context, actor string) ([]patron.Grant, error) {
		list, err := s.Unreviewed(ctx, actor)
		slices.Reverse(list)
		return list, err
	}
	return o
}

func grantsAllUnreviewed(o overGrants) overGrants {
	s := o.Grants
	o.unreviewed = func(ctx context.Context, _ string) ([]patron.Grant, error) { return s.Unreviewed(ctx, "") }
	return o
}

func grantsOverwrite(o overGrants) overGrants {
	s := o.Grants
	var mu sync.Mutex
	over := make(map[string]patron.Grant)
	o.add = func(ctx context.Context, g patron.Grant) error {
		mu.Lock()
		defer mu.Unlock()
		if _, err := s.Grant(ctx, g.ID); err == nil {
			over[g.ID] = g
			return nil
		}
		return s.AddGrant(ctx, g)
	}
	o.grant = func(ctx context.Context, id string) (patron.Grant, error) {
		mu.Lock()
		defer mu.Unlock()
		if g, ok := over[id]; ok {
			return g, nil
		}
		return s.Grant(ctx, id)
	}
	return o
}

// Does not look how many rows were updated.
func grantsReviewNobody(o overGrants) overGrants {
	s := o.Grants
	o.review = func(ctx context.Context, id, reviewer string, at time.Time) error {
		if err := s.ReviewGrant(ctx, id, reviewer, at); !errors.Is(err, patron.ErrNotFound) {
			return err
		}
		return nil
	}
	return o
}

func grantsLoseReason(o overGrants) overGrants {
	s := o.Grants
	o.grant = func(ctx context.Context, id string) (patron.Grant, error) {
		g, err := s.Grant(ctx, id)
		g.Reason = nil
		return g, err
	}
	return o
}
