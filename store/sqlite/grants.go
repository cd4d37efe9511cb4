package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/patron"
)

// Grants keeps break-glass grants. It is safe for concurrent use if its DB is.
type Grants struct{ db DB }

var _ patron.Grants = (*Grants)(nil)

// NewGrants returns the grants in db. It neither creates nor migrates tables. What [New] says of transactions holds here, too.
func NewGrants(db DB) *Grants { return &Grants{db: db} }

// AddGrant implements patron.Grants. A grant whose ID is taken is an error, and the one that is there stays.
func (s *Grants) AddGrant(ctx context.Context, g patron.Grant) error {
	// One statement sees whether there is one to be reviewed and writes. The unique index stands behind it.
	n, err := change(ctx, s.db, "add a grant", `
		INSERT INTO grants (id, actor, role, purpose, subject, segments, issued, until, reviewed, reviewer, reason)
		SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11
		WHERE NOT EXISTS (SELECT 1 FROM grants WHERE actor = ?2 AND reviewed IS NULL)`,
		g.ID, g.Actor, g.Role, g.Purpose, g.Subject, int64(g.Segments), micros(g.Issued), micros(g.Until), micros(g.Reviewed), g.Reviewer, g.Reason)
	if err == nil && n == 0 {
		return access.ErrUnreviewed
	}
	return err
}

// Grant implements patron.Grants.
func (s *Grants) Grant(ctx context.Context, id string) (patron.Grant, error) {
	list, err := s.list(ctx, "read a grant", "id = ?", id)
	switch {
	case err != nil:
		return patron.Grant{}, err
	case len(list) == 0:
		return patron.Grant{}, patron.ErrNotFound
	}
	return list[0], nil
}

// Unreviewed implements patron.Grants.
func (s *Grants) Unreviewed(ctx context.Context, actor string) ([]patron.Grant, error) {
	if actor == "" {
		return s.list(ctx, "read grants", "reviewed IS NULL")
	}
	return s.list(ctx, "read grants", "reviewed IS NULL AND actor = ?", actor)
}

func (s *Grants) list(ctx context.Context, op, where string, args ...any) (list []patron.Grant, err error) {
	var g patron.Grant
	var segments int64
	var issued, until, reviewed any
	dest := []any{&g.ID, &g.Actor, &g.Role, &g.Purpose, &g.Subject, &segments, &issued, &until, &reviewed, &g.Reviewer, &g.Reason}
	err = each(ctx, op, s.db, `SELECT id, actor, role, purpose, subject, segments, issued, until, reviewed, reviewer, reason
		FROM grants WHERE `+where+` ORDER BY issued, id`, args, dest, func() error {
		g.Segments = access.Set(segments)
		g.Issued, g.Until, g.Reviewed = instant(issued), instant(until), instant(reviewed)
		list = append(list, g)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// ReviewGrant implements patron.Grants.
func (s *Grants) ReviewGrant(ctx context.Context, id, reviewer string, at time.Time) error {
	const op = "review a grant"
	if at.IsZero() {
		return errors.New("sqlite: a review needs a time")
	}
	n, err := change(ctx, s.db, op, "UPDATE grants SET reviewed = ?, reviewer = ? WHERE id = ? AND reviewed IS NULL", micros(at), reviewer, id)
	if err != nil || n > 0 {
		return err
	}
	// Grants are never deleted and never lose a review, so that looking afterwards tells why nothing was changed.
	var there bool
	if err := s.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM grants WHERE id = ?)", id).Scan(&there); err != nil {
		return failed(op, err)
	}
	if !there {
		return patron.ErrNotFound
	}
	return patron.ErrReviewed
}
