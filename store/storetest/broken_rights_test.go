package storetest_test

import (
	"context"
	"fmt"
	"slices"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/rights"
	"github.com/carrel-project/carrel/store/storetest"
)

// overRights is a store with one of the methods of package rights replaced.
type overRights struct {
	rights.Circulation
	named func(context.Context, rights.Query) (rights.Page, error)
	part  func(context.Context, []circulation.Borrower) (int, error)
}

func (o overRights) Named(ctx context.Context, q rights.Query) (rights.Page, error) {
	if o.named != nil {
		return o.named(ctx, q)
	}
	return o.Circulation.Named(ctx, q)
}

func (o overRights) Part(ctx context.Context, persons []circulation.Borrower) (int, error) {
	if o.part != nil {
		return o.part(ctx, persons)
	}
	return o.Circulation.Part(ctx, persons)
}

func (o overRights) in(c storetest.Circulation) storetest.Circulation {
	o.Circulation = c.Store.(rights.Circulation)
	c.Store = o
	return c
}

// brokenRights are broken stores that the promises on package rights are there to find.
func brokenRights() map[string]brokenStore {
	return map[string]brokenStore{
		"namesOnlyBorrowers": {eachNamed(func(p *rights.Page) {
			p.Records = slices.DeleteFunc(p.Records, func(n rights.Named) bool { return n.Roles[0] != circulation.RoleBorrower })
		}), []string{"NamedFindsEveryRole"}},
		"namesOneRole":        {eachNamed(func(p *rights.Page) { eachIn(p, func(n *rights.Named) { n.Roles = n.Roles[:1] }) }), []string{"NamedFindsEveryRole"}},
		"namesWithoutOutcome": {eachNamed(func(p *rights.Page) { eachIn(p, func(n *rights.Named) { n.Facts.Outcome = "" }) }), []string{"NamedTellsAll"}},
		"namesNoTexts":        {eachNamed(func(p *rights.Page) { eachIn(p, func(n *rights.Named) { n.Texts = nil }) }), []string{"NamedTellsAll"}},
		"namesNoPointers":     {eachNamed(func(p *rights.Page) { eachIn(p, func(n *rights.Named) { n.Points = nil }) }), []string{"NamedTellsAll"}},
		"namesTheFirstPage":   {eachNamed(func(p *rights.Page) { p.Cursor = "" }), []string{"NamedPagesCoverEachRecordOnce"}},
		"namesWithOldVersion": {eachNamed(func(p *rights.Page) { eachIn(p, func(n *rights.Named) { n.Version = "0.0.0.0" }) }), []string{"NamedVersionsAreUnlinks"}},
		"namesEverybody": {func(c storetest.Circulation) storetest.Circulation {
			s := c.Store.(rights.Circulation)
			return overRights{named: func(ctx context.Context, q rights.Query) (rights.Page, error) {
				for n := range 1000 {
					q.Persons = append(q.Persons, circulation.Borrower(fmt.Sprintf("p-%07d", n)))
				}
				return s.Named(ctx, q)
			}}.in(c)
		}, []string{"NamedIsNobodyElse"}},
		"namesWithoutHold": {eachNamed(func(p *rights.Page) { p.Hold = len(p.Records) > 0 && p.Records[0].Hold }), []string{"NamedSaysHold"}},
		"namesNoTextsToRecipients": {func(c storetest.Circulation) storetest.Circulation {
			s := c.Store.(rights.Circulation)
			return overRights{named: func(ctx context.Context, q rights.Query) (rights.Page, error) {
				page, err := s.Named(ctx, q)
				eachIn(&page, func(n *rights.Named) {
					if n.Roles[0] != circulation.RoleBorrower {
						n.Texts = nil
					}
				})
				return page, err
			}}.in(c)
		}, []string{"PartTakesWhatWasWrittenToThem"}},
		"partsNobody": {func(c storetest.Circulation) storetest.Circulation {
			return overRights{part: func(context.Context, []circulation.Borrower) (int, error) { return 0, nil }}.in(c)
		}, []string{"PartTakesOutOfOthersRecords", "PartForgetsWhomNothingNames"}},
		"partsWhomRecordsName": {func(c storetest.Circulation) storetest.Circulation {
			s := c.Store.(rights.Circulation)
			return overRights{part: func(ctx context.Context, persons []circulation.Borrower) (int, error) {
				_, err := s.Part(ctx, persons)
				return 0, err
			}}.in(c)
		}, []string{"PartTakesOutOfOthersRecords", "PartForgetsWhomNothingNames"}},
	}
}

func eachNamed(change func(*rights.Page)) func(storetest.Circulation) storetest.Circulation {
	return func(c storetest.Circulation) storetest.Circulation {
		s := c.Store.(rights.Circulation)
		return overRights{named: func(ctx context.Context, q rights.Query) (rights.Page, error) {
			page, err := s.Named(ctx, q)
			change(&page)
			return page, err
		}}.in(c)
	}
}

func eachIn(p *rights.Page, change func(*rights.Named)) {
	for i := range p.Records {
		change(&p.Records[i])
	}
}
