package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/carrel-project/carrel/crypto"
)

// TestKeys proves a store of subject keys. Open returns an empty store each time.
func TestKeys(t *testing.T, open func(t *testing.T) crypto.KeyStore) {
	keep(t, func(t *testing.T) keys { return keys{t, open(t)} }, []promise[keys]{
		{"KeyComesBack", testKeyComesBack},
		{"UnknownSubjectHasNoKey", testNoKey},
		{"InsertKeepsWhatIsThere", testInsertKeeps},
		{"ReplaceComparesOld", testReplaceCompares},
		{"WhatAppliesIsMadeTheRestIsLost", testLost},
		{"OneInsertWinsARace", testOneInsertWins},
		{"OneWriterWinsAll", testOneWriterWinsAll},
		{"PagesHaveOlderKeysOnly", testOlderKeysOnly},
		{"PagesCoverEachKey", testKeyPages},
		{"PagesWhileKeysAreRewrapped", testKeyPagesRewrapped},
		{"PagesWhileKeysMoveBetweenOlderEpochs", testKeyPagesMoved},
		{"PageAfterAKeyThatIsGone", testKeyPageAfterGone},
		{"DeleteIsForGood", testDeleteKey},
		{"NothingIsShared", testKeysNotShared},
		{"CanceledContext", testKeysCanceled},
	})
}

// keys is a store under test whose methods fail the test.
type keys struct {
	*testing.T
	crypto.KeyStore
}

// subject names the nth subject. No order of numbers, letters or bytes is that of the first four.
func subject(n int) crypto.Subject { return crypto.Subject(defaultID(n)) }

// key makes a wrapped key, another one for each variant.
func key(s crypto.Subject, epoch uint32, variant byte) crypto.WrappedKey {
	w := crypto.WrappedKey{Subject: s, Epoch: epoch, Wrapped: bytes.Repeat([]byte{variant}, 60)}
	copy(w.Wrapped[1:], s)
	w.Wrapped[59] = 0
	return w
}

func insert(w crypto.WrappedKey) crypto.KeyChange { return crypto.KeyChange{Key: w} }

func replace(old, w crypto.WrappedKey) crypto.KeyChange {
	return crypto.KeyChange{Key: w, Old: slices.Clone(old.Wrapped)}
}

func sameKey(a, b crypto.WrappedKey) bool {
	return a.Subject == b.Subject && a.Epoch == b.Epoch && bytes.Equal(a.Wrapped, b.Wrapped)
}

// put makes changes and expects these to be lost, in any order.
func (s keys) put(lost []crypto.Subject, changes ...crypto.KeyChange) {
	s.Helper()
	got, err := s.PutKeys(s.Context(), changes)
	if err != nil {
		s.Fatalf("PutKeys: %v", err)
	}
	slices.Sort(got)
	slices.Sort(lost)
	if !slices.Equal(got, lost) {
		s.Errorf("PutKeys lost %q, want %q", got, lost)
	}
}

// has expects a key to be stored just like this.
func (s keys) has(want crypto.WrappedKey) {
	s.Helper()
	got, err := s.Key(s.Context(), want.Subject)
	if err != nil {
		s.Errorf("Key of %q: %v", want.Subject, err)
	} else if !sameKey(got, want) {
		s.Errorf("the key of %q is %v, want %v", want.Subject, got, want)
	}
}

func (s keys) hasNo(subject crypto.Subject) {
	s.Helper()
	_, err := s.Key(s.Context(), subject)
	is(s.T, fmt.Sprintf("Key of %q, who has none", subject), err, crypto.ErrNoKey)
}

// page reads one page.
func (s keys) page(before uint32, after crypto.Subject, limit int) []crypto.WrappedKey {
	s.Helper()
	page, err := s.OlderKeys(s.Context(), before, after, limit)
	if err != nil {
		s.Fatalf("OlderKeys: %v", err)
	}
	if len(page) > limit {
		s.Fatalf("OlderKeys returned %d keys, the limit was %d", len(page), limit)
	}
	return page
}

// pages reads all pages, calls do after each and returns how often each subject was on one.
func (s keys) pages(before uint32, limit int, do func([]crypto.WrappedKey)) map[crypto.Subject]int {
	s.Helper()
	seen := make(map[crypto.Subject]int)
	var after crypto.Subject
	for n := 0; ; n++ {
		if n > 1000 {
			s.Fatalf("OlderKeys returned %d pages and there is no end", n)
		}
		page := s.page(before, after, limit)
		if len(page) == 0 {
			return seen
		}
		for _, w := range page {
			if w.Epoch >= before {
				s.Errorf("OlderKeys(%d) returned a key of epoch %d", before, w.Epoch)
			}
			seen[w.Subject]++
		}
		after = page[len(page)-1].Subject
		do(page)
	}
}

func nothing[T any]([]T) {}

func testKeyComesBack(t *testing.T, s keys) {
	for i, epoch := range []uint32{0, 1, 1 << 31, math.MaxUint32} {
		w := key(subject(i), epoch, 0xff)
		s.put(nil, insert(w))
		s.has(w)
	}
	long := key(crypto.Subject(strings.Repeat("s", 255)), 1, 1)
	s.put(nil, insert(long))
	s.has(long)
	s.put(nil) // nothing to do is not an error
}

func testNoKey(t *testing.T, s keys) {
	s.put(nil, insert(key("somebody", 1, 1)))
	s.hasNo("canary")
	s.hasNo("somebod")
	s.hasNo("SOMEBODY")
	if _, err := s.Key(t.Context(), "canary"); err != nil && strings.Contains(err.Error(), "canary") {
		t.Errorf("the error contains the subject: %q", err)
	}
}

func testInsertKeeps(t *testing.T, s keys) {
	first := key("a", 1, 1)
	s.put(nil, insert(first))
	s.put([]crypto.Subject{"a"}, insert(key("a", 2, 2)))
	s.has(first)
	s.put([]crypto.Subject{"a"}, insert(first)) // not even the same one again
}

func testReplaceCompares(t *testing.T, s keys) {
	first, second, third := key("a", 1, 1), key("a", 2, 2), key("a", 3, 3)
	s.put(nil, insert(first))
	s.put([]crypto.Subject{"a"}, replace(second, third))
	s.put([]crypto.Subject{"a"}, crypto.KeyChange{Key: third, Old: []byte{}}) // empty is not nil
	s.has(first)
	s.put(nil, replace(first, second))
	s.has(second)
	s.put([]crypto.Subject{"a"}, replace(first, third))
	s.has(second)
	s.put([]crypto.Subject{"b"}, replace(key("b", 1, 1), key("b", 2, 2)))
	s.put([]crypto.Subject{"b"}, crypto.KeyChange{Key: key("b", 2, 2), Old: []byte{}})
	s.hasNo("b")
}

func testLost(t *testing.T, s keys) {
	a, b, d := key("a", 1, 1), key("b", 1, 1), key("d", 1, 1)
	s.put(nil, insert(a), insert(b), insert(d))
	s.put([]crypto.Subject{"a", "d", "e"},
		insert(key("a", 2, 2)),     // there is one
		replace(b, key("b", 2, 2)), // applies
		insert(key("c", 2, 2)),     // applies
		replace(a, key("d", 2, 2)), // another Old
		replace(d, key("e", 2, 2)), // there is none
		insert(key("f", 2, 2)))     // applies, though what stands before it does not
	for _, w := range []crypto.WrappedKey{a, d, key("b", 2, 2), key("c", 2, 2), key("f", 2, 2)} {
		s.has(w)
	}
	s.hasNo("e")
}

var errLost = errors.New("lost")

func testOneInsertWins(t *testing.T, s keys) {
	const n = 50
	winner := oneWins(t, "inserting one subject's key many times at once", race(n, func(i int) error {
		lost, err := s.PutKeys(t.Context(), []crypto.KeyChange{insert(key("a", uint32(i), byte(i)))})
		if err == nil && len(lost) > 0 {
			err = errLost
		}
		return err
	}), errLost)
	if winner >= 0 {
		s.has(key("a", uint32(winner), byte(winner)))
	}
}

// Several rotations replace the same keys at once. Each call is one transaction, so that whoever gets the first gets all.
func testOneWriterWinsAll(t *testing.T, s keys) {
	const n, writers = 20, 8
	var first []crypto.KeyChange
	for i := range n {
		first = append(first, insert(key(subject(i), 1, 1)))
	}
	s.put(nil, first...)
	winner := oneWins(t, "replacing the same keys in several calls at once", race(writers, func(i int) error {
		var changes []crypto.KeyChange
		for j := range n {
			changes = append(changes, replace(key(subject(j), 1, 1), key(subject(j), 2, byte(10+i))))
		}
		lost, err := s.PutKeys(t.Context(), changes)
		switch {
		case err == nil && len(lost) == n:
			err = errLost
		case err == nil && len(lost) > 0:
			err = fmt.Errorf("a call lost %d of %d keys, want none or all", len(lost), n)
		}
		return err
	}), errLost)
	if winner < 0 {
		return
	}
	for j := range n {
		s.has(key(subject(j), 2, byte(10+winner)))
	}
}

func testOlderKeysOnly(t *testing.T, s keys) {
	const n = 12
	for i := range n {
		s.put(nil, insert(key(subject(i), uint32(i%4), 1)))
	}
	for before := range uint32(6) {
		seen := s.pages(before, 5, nothing)
		for i := range n {
			want := 0
			if uint32(i%4) < before {
				want = 1
			}
			if seen[subject(i)] != want {
				t.Errorf("OlderKeys(%d) returned a key of epoch %d %d times, want %d", before, i%4, seen[subject(i)], want)
			}
		}
	}
	for _, w := range s.page(4, "", n) {
		s.has(w) // it is returned as it is stored
	}
}

// fill stores n keys, in epochs from 1 to 3 in turn.
func (s keys) fill(prefix string, n int) (all []crypto.WrappedKey) {
	s.Helper()
	var changes []crypto.KeyChange
	for i := range n {
		w := key(crypto.Subject(prefix+defaultID(i)), uint32(1+i%3), 1)
		all, changes = append(all, w), append(changes, insert(w))
	}
	s.put(nil, changes...)
	return all
}

func (s keys) covered(what string, seen map[crypto.Subject]int, all []crypto.WrappedKey) {
	s.Helper()
	for _, w := range all {
		if seen[w.Subject] == 0 {
			s.Errorf("%s: the key of %q, of epoch %d at first, is on no page", what, w.Subject, w.Epoch)
		}
	}
}

func testKeyPages(t *testing.T, s keys) {
	all := s.fill("", 10)
	for _, size := range []int{1, 2, 3, 10, 100} {
		seen := s.pages(4, size, nothing)
		s.covered(fmt.Sprintf("pages of %d", size), seen, all)
		for subject, n := range seen {
			if n > 1 {
				t.Errorf("pages of %d: the key of %q is on %d of them, and nobody wrote meanwhile", size, subject, n)
			}
		}
	}
}

// A rotation wraps each page anew before it reads the next one.
func testKeyPagesRewrapped(t *testing.T, s keys) {
	for _, size := range []int{1, 2, 3, 100} {
		all := s.fill(fmt.Sprintf("%d-", size), 10)
		seen := s.pages(4, size, func(page []crypto.WrappedKey) {
			for _, w := range page {
				s.put(nil, replace(w, key(w.Subject, 4, 2)))
			}
		})
		s.covered(fmt.Sprintf("pages of %d", size), seen, all)
		if left := s.page(4, "", 100); len(left) > 0 {
			t.Errorf("pages of %d: %d keys are still of earlier epochs", size, len(left))
		}
	}
}

// A slower process may wrap keys in an epoch that is not the newest any more. Such keys are there all the time.
func testKeyPagesMoved(t *testing.T, s keys) {
	for _, size := range []int{1, 2, 3} {
		all := s.fill(fmt.Sprintf("%d-", size), 9)
		current := make(map[crypto.Subject]crypto.WrappedKey)
		for _, w := range all {
			current[w.Subject] = w
		}
		round := byte(2)
		seen := s.pages(4, size, func([]crypto.WrappedKey) {
			var changes []crypto.KeyChange
			for _, w := range all {
				was := current[w.Subject]
				current[w.Subject] = key(w.Subject, was.Epoch%3+1, round)
				changes = append(changes, replace(was, current[w.Subject]))
			}
			round++
			s.put(nil, changes...)
		})
		s.covered(fmt.Sprintf("pages of %d", size), seen, all)
	}
}

func testKeyPageAfterGone(t *testing.T, s keys) {
	for _, size := range []int{1, 2, 3} {
		all := s.fill(fmt.Sprintf("%d-", size), 10)
		seen := s.pages(4, size, func(page []crypto.WrappedKey) {
			for i, w := range page {
				switch {
				case i == len(page)-1: // the one that the next page comes after
					if err := s.DeleteKey(t.Context(), w.Subject); err != nil {
						t.Fatalf("DeleteKey: %v", err)
					}
				default:
					s.put(nil, replace(w, key(w.Subject, 4, 2)))
				}
			}
		})
		s.covered(fmt.Sprintf("pages of %d", size), seen, all)
	}
}

func testDeleteKey(t *testing.T, s keys) {
	a, b := key("a", 1, 1), key("b", 1, 1)
	s.put(nil, insert(a), insert(b))
	for range 2 { // the second time there is none
		if err := s.DeleteKey(t.Context(), "a"); err != nil {
			t.Fatalf("DeleteKey: %v", err)
		}
		s.hasNo("a")
	}
	s.has(b)
	if page := s.page(2, "", 10); len(page) != 1 || page[0].Subject != "b" {
		t.Errorf("OlderKeys has %d keys after one of two was deleted", len(page))
	}
	s.put([]crypto.Subject{"a"}, replace(a, key("a", 2, 2)))
	s.hasNo("a")
	s.put(nil, insert(key("a", 2, 2)))
	s.has(key("a", 2, 2))
}

func testKeysNotShared(t *testing.T, s keys) {
	change := insert(key("a", 1, 1))
	s.put(nil, change)
	flip(change.Key.Wrapped)
	s.has(key("a", 1, 1))
	change = replace(key("a", 1, 1), key("a", 2, 2))
	s.put(nil, change)
	flip(change.Key.Wrapped)
	flip(change.Old)
	s.has(key("a", 2, 2))
	w, err := s.Key(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	flip(w.Wrapped)
	for _, w := range s.page(9, "", 10) {
		flip(w.Wrapped)
	}
	s.has(key("a", 2, 2))
}

func testKeysCanceled(t *testing.T, s keys) {
	a := key("a", 1, 1)
	s.put(nil, insert(a))
	ctx := canceled(t)
	_, err := s.Key(ctx, "a")
	is(t, "Key", err, context.Canceled)
	_, err = s.PutKeys(ctx, []crypto.KeyChange{insert(key("b", 1, 1)), replace(a, key("a", 2, 2))})
	is(t, "PutKeys", err, context.Canceled)
	_, err = s.OlderKeys(ctx, 9, "", 10)
	is(t, "OlderKeys", err, context.Canceled)
	is(t, "DeleteKey", s.DeleteKey(ctx, "a"), context.Canceled)
	s.has(a)
	s.hasNo("b")
}
