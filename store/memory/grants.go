package memory

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/patron"
)

// Grants is where break-glass grants are kept. It is safe for concurrent use.
type Grants struct {
	mu     sync.RWMutex
	grants map[string]patron.Grant
}

var _ patron.Grants = (*Grants)(nil)

// NewGrants returns an empty store.
func NewGrants() *Grants { return &Grants{grants: make(map[string]patron.Grant)} }

func cloneGrant(g patron.Grant) patron.Grant {
	g.Issued, g.Until, g.Reviewed = micro(g.Issued), micro(g.Until), micro(g.Reviewed)
	g.Reason = slices.Clone(g.Reason)
	return g
}

// AddGrant implements patron.Grants. A grant whose ID is taken is an error, and the one that is there stays.
func (s *Grants) AddGrant(ctx context.Context, g patron.Grant) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, other := range s.grants {
		if other.Actor == g.Actor && other.Reviewed.IsZero() {
			return access.ErrUnreviewed
		}
	}
	if _, taken := s.grants[g.ID]; taken {
		return errors.New("memory: there is a grant of this ID already")
	}
	s.grants[g.ID] = cloneGrant(g)
	return nil
}

// Grant implements patron.Grants.
func (s *Grants) Grant(ctx context.Context, id string) (patron.Grant, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return patron.Grant{}, err
	}
	g, ok := s.grants[id]
	if !ok {
		return patron.Grant{}, patron.ErrNotFound
	}
	return cloneGrant(g), nil
}

// Unreviewed implements patron.Grants.
func (s *Grants) Unreviewed(ctx context.Context, actor string) (list []patron.Grant, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, g := range s.grants {
		if g.Reviewed.IsZero() && (actor == "" || g.Actor == actor) {
			list = append(list, cloneGrant(g))
		}
	}
	slices.SortFunc(list, func(a, b patron.Grant) int { return cmp.Or(a.Issued.Compare(b.Issued), strings.Compare(a.ID, b.ID)) })
	return list, nil
}

// ReviewGrant implements patron.Grants.
func (s *Grants) ReviewGrant(ctx context.Context, id, reviewer string, at time.Time) error {
	if at.IsZero() {
		return errors.New("memory: a review needs a time")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	g, ok := s.grants[id]
	switch {
	case !ok:
		return patron.ErrNotFound
	case !g.Reviewed.IsZero():
		return patron.ErrReviewed
	}
	g.Reviewer, g.Reviewed = reviewer, micro(at)
	s.grants[id] = g
	return nil
}
