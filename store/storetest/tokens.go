package storetest

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
)

func tokenCases() []testcase {
	return []testcase{
		{name: "TokensAreRenewed", tokens: true, run: testTokensRenewed},
		{name: "RenewedOnce", tokens: true, run: testRenewedOnce},
		{name: "WhatIsNoTokenStays", tokens: true, run: testNoToken},
		{name: "RenewalIsAllOrNothing", tokens: true, run: testRenewalFails},
		{name: "StaleTokensAreRefused", tokens: true, run: testStaleTokens},
		{name: "RenewalRacesSave", tokens: true, run: testRenewalRace},
	}
}

// A tokenIs is what a token of the suite's says, which is not sealed: a store must not care.
type tokenIs struct {
	epoch uint32
	what  string // the name of its pseudonyms and the reference
}

func (t tokenIs) String() string {
	data := binary.AppendUvarint(nil, uint64(t.epoch))
	return "cp" + base64.RawURLEncoding.EncodeToString(append(data, fmt.Sprintf("%-24s", t.what)...))
}

func pseudonym(epoch uint32, name string, reference any) string {
	return tokenIs{epoch, fmt.Sprint(name, " ", reference)}.String()
}

func somebody(epoch uint32, n int) circulation.Borrower {
	return circulation.Borrower(pseudonym(epoch, "borrower", n))
}

// renewal makes tokens of an epoch, and refuses those of other pseudonyms than it was asked for.
func renewal(epoch uint32) func(name, token string) (string, error) {
	return func(name, token string) (string, error) {
		if _, ok := crypto.TokenEpoch(token); !ok {
			return "", crypto.ErrNotPseudonym
		}
		data, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "cp"))
		if err != nil || !strings.HasPrefix(string(data[1:]), name+" ") {
			return "", crypto.ErrNotPseudonym
		}
		return tokenIs{epoch, strings.TrimSpace(string(data[1:]))}.String(), nil
	}
}

func (f *fixture) tokenStore() crypto.TokenStore { return f.Store.(crypto.TokenStore) }

func (f *fixture) renew(epoch uint32) int {
	f.Helper()
	n, err := f.tokenStore().RenewTokens(f.Context(), epoch, renewal(epoch))
	f.must(err)
	return n
}

func (f *fixture) tokenEpoch(want uint32) {
	f.Helper()
	epoch, err := f.tokenStore().TokenEpoch(f.Context())
	f.must(err)
	f.same("the epoch of the tokens", epoch, want)
}

// lent is a loan whose persons and note are tokens.
func lent(f *fixture, n int, epoch uint32, borrower int) circulation.Entry {
	switch f.kinds()[0] {
	case circulation.KindLoan:
		l := loan(f.id(n), somebody(epoch, borrower))
		l.Loaned = began.Add(time.Duration(n) * time.Minute)
		l.Proxy, l.Note = somebody(epoch, 1000+n), pseudonym(epoch, "text", n)
		return l
	}
	return entry(f.kinds()[0], f.id(n), somebody(epoch, borrower))
}

func testTokensRenewed(f *fixture) {
	f.tokenEpoch(1)
	const n, people = 20, 7
	for i := range n {
		f.save(lent(f, i, 1, i%people))
	}
	k := f.kinds()[0]
	if f.AddHold != nil {
		f.must(f.AddHold(f.Context(), circulation.Hold{Borrower: somebody(1, 3), Ref: "case"}))
	}
	before := f.linked(k)
	f.unlink(k, f.id(1))
	if f.renew(5) < people {
		f.Error("fewer were renewed than there are borrowers")
	}
	f.tokenEpoch(5)
	after := f.linked(k)
	f.same("records that are linked", len(after), n-1)
	for id, r := range after {
		want := before[id]
		f.same("the hold on "+id, r.Hold, want.Hold)
		f.same("newer loans of the borrower of "+id, r.NewerByBorrower, want.NewerByBorrower)
	}
	dump := f.dump()
	for i := range n {
		f.lacks(dump, "after the renewal", string(somebody(1, i%people)), string(somebody(1, 1000+i)), pseudonym(1, "text", i))
	}
	if k == circulation.KindLoan {
		f.contains(dump, "after the renewal", string(somebody(5, 1002)), pseudonym(5, "text", 2))
	}
	// Nobody became two: whoever comes again is whom the store knows.
	f.save(lent(f, 2, 5, 2), lent(f, n, 5, n%people))
	f.same("records that are linked", len(f.linked(k)), n)
	f.oneEach(n+1, people, map[int]bool{1: true})
}

func testRenewedOnce(f *fixture) {
	f.save(lent(f, 0, 1, 0))
	f.renew(3)
	for _, epoch := range []uint32{3, 2, 1} {
		n, err := f.tokenStore().RenewTokens(f.Context(), epoch, func(string, string) (string, error) {
			f.Error("a token was renewed that is of this epoch or a later one")
			return "", errors.New("no")
		})
		f.must(err)
		f.same("renewed", n, 0)
		f.tokenEpoch(3)
	}
	f.renew(4)
	f.tokenEpoch(4)
	f.contains(f.dump(), "after two", string(somebody(4, 0)))
}

func testNoToken(f *fixture) {
	k := f.kinds()[0]
	foreign := circulation.Borrower("cp" + base64.RawURLEncoding.EncodeToString([]byte("\x01of another keyring's")))
	f.save(entry(k, f.id(0), "p-plain"), entry(k, f.id(1), foreign), entry(k, f.id(2), somebody(1, 2)))
	f.same("renewed", f.renew(2), 1)
	f.contains(f.dump(), "after the renewal", "p-plain", string(foreign), string(somebody(2, 2)))
	f.save(entry(k, f.id(3), "p-other")) // a system that makes no tokens is not asked for any
}

func testRenewalFails(f *fixture) {
	const n = 30
	for i := range n {
		f.save(lent(f, i, 1, i))
	}
	broken := errors.New("the keyring is away")
	left := n / 2
	_, err := f.tokenStore().RenewTokens(f.Context(), 2, func(name, token string) (string, error) {
		if left--; left < 0 {
			return "", broken
		}
		return renewal(2)(name, token)
	})
	if !errors.Is(err, broken) {
		f.Errorf("RenewTokens: %v, want what renew said", err)
	}
	f.tokenEpoch(1)
	dump := f.dump()
	for i := range n {
		f.contains(dump, "after a renewal that failed", string(somebody(1, i)))
		f.lacks(dump, "after a renewal that failed", string(somebody(2, i)))
	}
	f.renew(2)
}

func testStaleTokens(f *fixture) {
	k := f.kinds()[0]
	f.save(lent(f, 0, 1, 0))
	f.renew(2)
	for what, e := range map[string]circulation.Entry{
		"who is known": lent(f, 1, 1, 0), "who is not": lent(f, 2, 1, 9), "of a later epoch": lent(f, 3, 3, 0),
	} {
		if err := f.Save(f.Context(), e); err == nil {
			f.Errorf("a record was saved under a stale token of somebody %s: its borrower is two now", what)
		}
	}
	if f.SaveAccount != nil && f.SaveAccount(f.Context(), circulation.Account{Borrower: somebody(1, 0), Group: "x"}) == nil {
		f.Error("an account was saved under a stale token")
	}
	if f.AddHold != nil && f.AddHold(f.Context(), circulation.Hold{Borrower: somebody(1, 0), Ref: "x"}) == nil {
		f.Error("a hold was put on a stale token: the one whom it is to protect is not under it")
	}
	if f.ReleaseHold != nil {
		if _, err := f.ReleaseHold(f.Context(), somebody(1, 0), "x"); err == nil {
			f.Error("a hold on a stale token was released without an error")
		}
	}
	if k == circulation.KindLoan {
		l := loan(f.id(4), somebody(2, 0))
		l.Note = pseudonym(1, "text", 4)
		if f.Save(f.Context(), l) == nil {
			f.Error("a text was saved that is a stale token")
		}
	}
	f.lacks(f.dump(), "what was refused", string(somebody(1, 0)), string(somebody(1, 9)), string(somebody(3, 0)), pseudonym(1, "text", 4))
	f.same("records that are linked", len(f.linked(k)), 1)
}

// Records are saved while tokens are renewed, by writers who make their tokens of the epoch that the store says, and again when they are refused.
func testRenewalRace(f *fixture) {
	k := f.kinds()[0]
	const writers, each, people, last = 4, 10, 9, 5
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				n := w*each + i
				for try := 0; ; try++ {
					epoch, err := f.tokenStore().TokenEpoch(f.Context())
					if err == nil {
						err = f.Save(f.Context(), lent(f, n, epoch, n%people))
					}
					if err == nil {
						break
					}
					if try == 100 {
						f.Errorf("record %d was refused a hundred times: %v", n, err)
						return
					}
				}
			}
		})
	}
	wg.Go(func() {
		for epoch := uint32(2); epoch <= last; epoch++ {
			if _, err := f.tokenStore().RenewTokens(f.Context(), epoch, renewal(epoch)); err != nil {
				f.Errorf("RenewTokens in a race: %v", err)
			}
		}
	})
	wg.Wait()
	f.tokenEpoch(last)
	dump := f.dump()
	for n := range writers * each {
		for epoch := uint32(1); epoch < last; epoch++ {
			f.lacks(dump, "after the race", string(somebody(epoch, n%people)), string(somebody(epoch, 1000+n)))
		}
	}
	f.same("records that are linked", len(f.linked(k)), writers*each)
	f.oneEach(writers*each, people, nil)
}

// oneEach checks that nobody has become two: of each borrower's loans every one knows how many came after it, unlinked ones included.
func (f *fixture) oneEach(n, people int, unlinked map[int]bool) {
	f.Helper()
	if f.kinds()[0] != circulation.KindLoan {
		return
	}
	all := f.linked(circulation.KindLoan)
	for i := range n {
		if !unlinked[i] {
			f.same("newer loans of the borrower of "+f.id(i), all[f.id(i)].NewerByBorrower, (n-1-i)/people)
		}
	}
}
