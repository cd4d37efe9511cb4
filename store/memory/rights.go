package memory

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/rights"
)

var _ rights.Circulation = (*Circulation)(nil)

// Named implements rights.Circulation. The order is that of kinds, and within one that of arrival.
func (c *Circulation) Named(ctx context.Context, q rights.Query) (rights.Page, error) {
	var after uint64
	if q.Cursor != "" {
		var err error
		if after, err = strconv.ParseUint(q.Cursor, 10, 64); err != nil {
			return rights.Page{}, errors.New("memory: not a cursor of this store")
		}
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return rights.Page{}, err
	}
	type at struct {
		seq uint64
		key key
	}
	var found []at
	for kind, order := range c.s.Order {
		for _, p := range order {
			if k := (key{kind, p.ID}); p.Seq > after && len(c.s.roles(k, q.Persons)) > 0 {
				found = append(found, at{p.Seq, k})
			}
		}
	}
	slices.SortFunc(found, func(a, b at) int { return cmp.Compare(a.seq, b.seq) })
	var page rights.Page
	for _, b := range q.Persons {
		page.Hold = page.Hold || c.s.held(b, time.Now())
	}
	for i, f := range found {
		if i == max(q.Limit, 1) {
			page.Cursor = strconv.FormatUint(found[i-1].seq, 10)
			break
		}
		page.Records = append(page.Records, c.s.named(f.key, q.Persons))
	}
	return page, nil
}

// roles returns in which roles a record names any of the persons, ascending.
func (s *state) roles(k key, persons []circulation.Borrower) (roles []circulation.Role) {
	for _, l := range s.Links[k] {
		if slices.Contains(persons, l.Person) {
			roles = append(roles, l.Role)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

func (s *state) named(k key, persons []circulation.Borrower) rights.Named {
	n := rights.Named{Record: s.record(k, time.Now()), Roles: s.roles(k, persons), Facts: s.Rows[k].Facts}
	n.Facts.Categories = slices.Clone(n.Facts.Categories)
	if n.Roles[0] != circulation.RoleBorrower {
		n.Version = ""
		return n
	}
	n.Texts = slices.Clone(s.Texts[k])
	for _, to := range s.Ties[k] {
		n.Points = append(n.Points, circulation.Pointer(to))
	}
	return n
}

// Part implements rights.Circulation.
func (c *Circulation) Part(ctx context.Context, persons []circulation.Borrower) (left int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	naming := map[circulation.Borrower]bool{}
	for k, links := range c.s.Links {
		rest := slices.DeleteFunc(slices.Clone(links), func(l circulation.Link) bool {
			return l.Role != circulation.RoleBorrower && slices.Contains(persons, l.Person)
		})
		if len(rest) < len(links) {
			c.s.Links[k] = rest
			r := c.s.Rows[k]
			r.Version++
			c.s.Rows[k] = r
		}
		if b := c.s.borrower(k); slices.Contains(persons, b) {
			naming[b] = true
			left++
		}
	}
	for _, b := range persons {
		p, there := c.s.Persons[b]
		if !there {
			continue
		}
		p.Listed = false
		if c.s.Persons[b] = p; !naming[b] && len(c.s.Holds[b]) == 0 {
			delete(c.s.Persons, b)
		}
	}
	return left, nil
}
