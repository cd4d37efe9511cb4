package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/patron"
)

// Grants keeps break-glass grants. It is safe for concurrent use if its DB is.
type Grants struct{ db DB }

var _ patron.Grants = (*Grants)(nil)

// NewGrants returns the grants in db. It neither creates nor migrates tables.
func NewGrants(db DB) *Grants { return &Grants{db: db} }

var errGrantID = errors.New("postgres: add a grant: there is one with this ID")

// AddGrant implements patron.Grants. A grant whose ID is taken is an error, and the one that is there stays.
func (s *Grants) AddGrant(ctx context.Context, g patron.Grant) error {
	const op = "add a grant"
	if !storable(g.ID, g.Actor, g.Role, g.Purpose, g.Subject, g.Reviewer) {
		return fmt.Errorf("postgres: %s: %w", op, errText)
	}
	// It is not repeatable: the second time the actor has one to be reviewed.
	return transact(ctx, s.db, op, false, func(db DB) error {
		// The unique indexes decide, also between several who add one at the same time.
		n, err := change(ctx, db, op, `
			INSERT INTO grants (id, actor, role, purpose, subject, segments, issued, until, reviewed, reviewer, reason)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`,
			g.ID, g.Actor, g.Role, g.Purpose, g.Subject, int64(g.Segments), micros(g.Issued), micros(g.Until), micros(g.Reviewed), g.Reviewer, g.Reason)
		if err != nil || n > 0 {
			return err
		}
		// Which of the two it was. When neither is there any more it was the other grant, reviewed since: a grant is never deleted.
		var taken bool
		if err := db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM grants WHERE id = $1)
			AND NOT EXISTS (SELECT 1 FROM grants WHERE actor = $2 AND reviewed IS NULL)`, g.ID, g.Actor).Scan(&taken); err != nil {
			return failed(op, err)
		}
		if taken {
			return errGrantID
		}
		return access.ErrUnreviewed
	})
}

// Grant implements patron.Grants.
func (s *Grants) Grant(ctx context.Context, id string) (patron.Grant, error) {
	list, err := s.list(ctx, "read a grant", "id = $1", id)
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
	return s.list(ctx, "read grants", "reviewed IS NULL AND actor = $1", actor)
}

func (s *Grants) list(ctx context.Context, op, where string, args ...string) (list []patron.Grant, err error) {
	if !storable(args...) { // then none has it
		return nil, failed(op, ctx.Err())
	}
	var params []any
	for _, arg := range args {
		params = append(params, arg)
	}
	var g patron.Grant
	var segments int64
	var issued, until, reviewed *int64
	dest := []any{&g.ID, &g.Actor, &g.Role, &g.Purpose, &g.Subject, &segments, &issued, &until, &reviewed, &g.Reviewer, &g.Reason}
	err = each(ctx, op, s.db, `SELECT id, actor, role, purpose, subject, segments, issued, until, reviewed, reviewer, reason
		FROM grants WHERE `+where+` ORDER BY issued NULLS FIRST, id`, params, dest, func() error {
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
	switch {
	case at.IsZero():
		return errors.New("postgres: a review needs a time")
	case !storable(reviewer):
		return fmt.Errorf("postgres: %s: %w", op, errText)
	case !storable(id): // then there is none
		return cmp.Or(failed(op, ctx.Err()), patron.ErrNotFound)
	}
	// It is not repeatable: the second time the grant is reviewed already.
	return transact(ctx, s.db, op, false, func(db DB) error {
		n, err := change(ctx, db, op, "UPDATE grants SET reviewed = $1, reviewer = $2 WHERE id = $3 AND reviewed IS NULL", micros(at), reviewer, id)
		if err != nil || n > 0 {
			return err
		}
		// Grants are never deleted and never lose a review, so that looking afterwards tells why nothing was changed.
		var there bool
		if err := db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM grants WHERE id = $1)", id).Scan(&there); err != nil {
			return failed(op, err)
		}
		if !there {
			return patron.ErrNotFound
		}
		return patron.ErrReviewed
	})
}
