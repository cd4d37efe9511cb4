package patron

import (
	"context"
	"errors"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// A View is what somebody may see of a patron.
type View struct {
	ID      ID
	Version uint64
	Profile Profile       // segments that may be seen, masked where the level says so
	Levels  access.Levels // at which each segment asked for is shown
	Present access.Set    // of those that may be known to exist, the ones that have content
}

// View reveals the segments asked for, of those that access allows; an empty set asks for all of them. What is shown is recorded
// first. A Call with a Grant is checked against that break-glass grant, too, which opens its segments in full.
//
// Errors: [ErrDenied] when nothing of what was asked for may be seen, [ErrNotFound], [ErrNotRecorded], [crypto.ErrShredded].
func (d *Directory) View(ctx context.Context, call Call, id ID, segments access.Set) (View, error) {
	a, err := d.begin(ctx, call, audit.View, id)
	if err != nil {
		return View{}, err
	}
	levels := a.may.Levels
	if call.Grant != "" {
		granted, err := d.granted(ctx, a, id)
		if err != nil {
			return View{}, err
		}
		levels = levels.Max(granted)
	}
	if segments == 0 {
		segments = allSegments
	}
	for _, s := range access.AllSegments() {
		if !segments.Has(s) {
			levels = levels.With(s, access.None)
		}
	}
	if levels == 0 {
		return View{}, a.refuse(ctx, whyNoRight)
	}
	row, err := d.cfg.Store.Get(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return View{}, a.missing(ctx)
	} else if err != nil {
		return View{}, err
	}
	if a.barred(row) {
		return View{}, a.refuse(ctx, whyRestricted)
	}
	shown := access.Set(0)
	v := View{ID: id, Version: row.Version, Levels: levels}
	for _, s := range row.Segments {
		if level := levels.Of(s.Segment); level >= access.Exists {
			v.Present = v.Present.With(s.Segment)
			if level > access.Exists {
				shown = shown.With(s.Segment)
			}
		}
	}
	a.event.Segments = v.Present.Names()
	if err := a.done(ctx); err != nil {
		return View{}, err
	}
	if v.Profile, err = d.open(ctx, row, shown); err != nil {
		return View{}, a.undone(ctx, err)
	}
	for _, s := range access.AllSegments() {
		if shown.Has(s) && levels.Of(s) == access.Masked {
			v.Profile.mask(s)
		}
	}
	return v, nil
}

const allSegments = access.Set(1<<access.SegmentCount - 1)

// open opens segments of a row; also of none, it says who was forgotten. The caller has recorded it, or shows nothing of it.
func (d *Directory) open(ctx context.Context, row Row, segments access.Set) (Profile, error) {
	p := Profile{Facts: row.Facts}
	parts := make([]crypto.Sealed, 0, access.SegmentCount)
	which := make([]access.Segment, 0, access.SegmentCount)
	for _, s := range row.Segments {
		if segments.Has(s.Segment) {
			segments = segments.Without(s.Segment) // a row that has one twice was tampered with
			parts = append(parts, crypto.Sealed{Label: s.Segment.String(), Revision: s.Revision, Data: s.Data})
			which = append(which, s.Segment)
		}
	}
	plain, err := d.cfg.Keys.Open(ctx, row.ID.Subject(), parts...)
	if err != nil {
		return Profile{}, err
	}
	for i, s := range which {
		if err := p.decode(s, plain[i]); err != nil {
			return Profile{}, err
		}
	}
	return p, nil
}
