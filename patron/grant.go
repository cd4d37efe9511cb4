package patron

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

var errNoGrants = errors.New("patron: this directory has no break-glass; Config.Grants is nil")

// grantWords are what the trail says of a refused grant.
var grantWords = [...]struct {
	err error
	why string
}{
	{access.ErrNotAllowed, "no-right"},
	{access.ErrNoReason, "no-reason"},
	{access.ErrTooLong, "too-long"},
	{access.ErrUnreviewed, "unreviewed"},
	{access.ErrNoActor, "no-actor"},
	{access.ErrNoSubject, "no-patron"},
	{access.ErrOtherActor, "grant-of-another"},
	{access.ErrOtherRole, "grant-for-another-role"},
	{access.ErrOtherPurpose, "grant-for-another-purpose"},
	{access.ErrOtherSubject, "grant-for-another-patron"},
	{access.ErrExpired, "grant-expired"},
	{access.ErrOwnReview, "own-review"},
	{access.ErrReviewed, "reviewed-already"},
	{access.ErrTooEarly, "too-early"},
	{ErrNotFound, "no-such-grant"},
}

func whyGrant(err error) string {
	for _, w := range grantWords {
		if errors.Is(err, w.err) {
			return w.why
		}
	}
	return "grant-invalid"
}

// BreakGlass gives the actor of a call, for at most [access.MaxGrant], full sight of segments of one patron that access would else
// not show, if it allows that in an emergency. The reason is sealed and recorded. Until somebody else has reviewed the grant, the
// actor gets no other: giving it counts as its use. Put the grant's ID into the Call of a View.
//
// Errors: [ErrDenied], which wraps what access says; [ErrNotFound], [ErrNotRecorded].
func (d *Directory) BreakGlass(ctx context.Context, call Call, id ID, segments access.Set, reason crypto.Secret, length time.Duration) (access.Grant, error) {
	if d.cfg.Grants == nil {
		return access.Grant{}, errNoGrants
	}
	a, err := d.begin(ctx, call, audit.BreakGlass, id)
	if err != nil {
		return access.Grant{}, err
	}
	a.event.Segments = segments.Names()
	if n := len(reason.Reveal()); n > maxValue {
		return access.Grant{}, fmt.Errorf("patron: the reason has %d bytes, may have %d", n, maxValue)
	}
	earlier, err := d.cfg.Grants.Unreviewed(ctx, call.Actor)
	if err != nil {
		return access.Grant{}, err
	}
	var plain []access.Grant
	for _, g := range earlier {
		plain = append(plain, g.Grant)
	}
	g, err := access.NewGrant(NewID().String(), a.request(id), a.may, segments, reason.Reveal(), length, plain, a.at)
	if err != nil {
		return access.Grant{}, a.refuseFor(ctx, whyGrant(err), err)
	}
	if _, err := d.cfg.Store.Get(ctx, id); errors.Is(err, ErrNotFound) {
		return access.Grant{}, a.missing(ctx)
	} else if err != nil {
		return access.Grant{}, err
	}
	sealed, err := d.cfg.Keys.Seal(ctx, id.Subject(), crypto.Plain{Label: grantLabel(g), Value: reason})
	if err != nil {
		return access.Grant{}, a.undone(ctx, err)
	}
	a.event.Grant = g.ID
	a.event.Subjects[0].Note = reason
	if err := a.done(ctx); err != nil {
		return access.Grant{}, err
	}
	err = d.cfg.Grants.AddGrant(ctx, Grant{Grant: g, Reason: sealed[0]})
	switch {
	case errors.Is(err, access.ErrUnreviewed): // another one was given meanwhile
		return access.Grant{}, a.refuseFor(ctx, whyGrant(err), err)
	case err != nil:
		return access.Grant{}, a.undone(ctx, err)
	}
	return g, nil
}

// grantLabel is what the reason of a grant is bound to: all that the grant says, so that one that was written or stretched in
// the store, and not by [Directory.BreakGlass], opens nothing.
func grantLabel(g access.Grant) string {
	return fmt.Sprintf("grant %q %q %q %q %q %d %d %d", g.ID, g.Actor, g.Role, g.Purpose, g.Subject, g.Segments, g.Issued.UnixMicro(), g.Until.UnixMicro())
}

// reason opens the reason of a grant.
func (d *Directory) reason(ctx context.Context, g Grant) (crypto.Secret, error) {
	list, err := d.cfg.Keys.Open(ctx, crypto.Subject(g.Subject), crypto.Sealed{Label: grantLabel(g.Grant), Data: g.Reason})
	if err != nil {
		return crypto.Secret{}, err
	}
	return list[0], nil
}

// granted returns what the grant of a call opens. A grant that does not fit refuses the call, whatever access allows without it.
func (d *Directory) granted(ctx context.Context, a *act, id ID) (access.Levels, error) {
	if d.cfg.Grants == nil {
		return 0, errNoGrants
	}
	a.event.Grant = grantID(a.call.Grant)
	g, err := d.cfg.Grants.Grant(ctx, a.call.Grant)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return 0, err
	}
	var levels access.Levels
	if err == nil {
		levels, err = g.Levels(a.request(id), a.at)
	}
	if err == nil {
		_, err = d.reason(ctx, g)
		if err == nil || errors.Is(err, crypto.ErrShredded) { // which View will find out, too
			return levels, nil
		}
		if !errors.Is(err, crypto.ErrNotAuthentic) {
			return 0, a.undone(ctx, err)
		}
	}
	return 0, a.refuseFor(ctx, whyGrant(err), err)
}

// grantID keeps what is no ID of a grant out of the trail: it may be anything.
func grantID(id string) string {
	if _, err := ParseID(id); err != nil {
		return ""
	}
	return id
}

// A Pending is a break-glass grant that awaits review, with its reason.
type Pending struct {
	access.Grant
	Reason crypto.Secret // empty when the patron was forgotten meanwhile
}

// Unreviewed returns the grants that nobody has reviewed, oldest first. It needs the right to review.
func (d *Directory) Unreviewed(ctx context.Context, call Call) ([]Pending, error) {
	a, err := d.reviewing(ctx, call)
	if err != nil {
		return nil, err
	}
	grants, err := d.cfg.Grants.Unreviewed(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, g := range grants {
		a.event.Subjects = append(a.event.Subjects, audit.Subject{ID: crypto.Subject(g.Subject)})
	}
	a.event.Count = len(grants)
	if err := a.done(ctx); err != nil {
		return nil, err
	}
	pending := make([]Pending, len(grants))
	for i, g := range grants {
		pending[i].Grant = g.Grant
		reason, err := d.reason(ctx, g)
		switch {
		case err == nil:
			pending[i].Reason = reason
		case !errors.Is(err, crypto.ErrShredded):
			return nil, a.undone(ctx, err)
		}
	}
	return pending, nil
}

// Review says that the actor of the call has looked into a break-glass. It needs the right to review, and nobody reviews their own.
//
// Errors: [ErrDenied], which wraps what access says; [ErrNotFound], [ErrReviewed], [ErrNotRecorded].
func (d *Directory) Review(ctx context.Context, call Call, grant string) error {
	a, err := d.reviewing(ctx, call)
	if err != nil {
		return err
	}
	a.event.Grant = grantID(grant)
	g, err := d.cfg.Grants.Grant(ctx, grant)
	if errors.Is(err, ErrNotFound) {
		return a.missing(ctx)
	} else if err != nil {
		return err
	}
	a.event.Subjects, a.event.Count = []audit.Subject{{ID: crypto.Subject(g.Subject)}}, 1
	if _, err := g.Review(call.Actor, a.at); err != nil {
		return a.refuseFor(ctx, whyGrant(err), err)
	}
	if err := a.done(ctx); err != nil {
		return err
	}
	if err := d.cfg.Grants.ReviewGrant(ctx, grant, call.Actor, stamp(a.at)); err != nil {
		return a.undone(ctx, err)
	}
	return nil
}

func (d *Directory) reviewing(ctx context.Context, call Call) (*act, error) {
	if d.cfg.Grants == nil {
		return nil, errNoGrants
	}
	a, err := d.begin(ctx, call, audit.Review, ID{})
	if err != nil {
		return nil, err
	}
	return a, a.need(ctx, access.Review)
}
