package patron

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// Create adds a patron and returns their new ID. It needs the right to create, and the level full on every segment that the profile has.
//
// Errors: [ErrDuplicate] when an identifier is somebody's already, [ErrDenied], [ErrNotRecorded], and what is wrong with the profile.
func (d *Directory) Create(ctx context.Context, call Call, p Profile) (ID, error) {
	id := NewID()
	a, err := d.begin(ctx, call, audit.Create, ID{})
	if err != nil {
		return ID{}, err
	}
	if err := a.need(ctx, access.Create); err != nil {
		return ID{}, err
	}
	if err := a.full(ctx, p.Segments()); err != nil {
		return ID{}, err
	}
	if err := errors.Join(p.check(), d.checkCombinations(&p)); err != nil {
		return ID{}, err
	}
	w := writing{id: id, facts: p.Facts, after: p, segments: p.Segments()}
	if err := d.write(ctx, a, w); err != nil {
		return ID{}, err
	}
	return id, nil
}

// An Update says what is to become of a patron.
type Update struct {
	Version  uint64     // that was looked at, as View says; 0: whatever it is now
	Facts    *Facts     // nil: they stay
	Segments access.Set // that are replaced by those of Profile, also by nothing
	Profile  Profile    // whose Facts do not count
}

// Update changes a patron. It needs the right to change, and the level full on every segment that is replaced. With Version 0 it
// is tried again when somebody else changes them at the same time. It is recorded also when nothing turns out to change.
//
// Errors: [ErrConflict], [ErrDuplicate], [ErrNotFound], [ErrDenied], [ErrNotRecorded], and what is wrong with the profile.
func (d *Directory) Update(ctx context.Context, call Call, id ID, u Update) error {
	a, err := d.begin(ctx, call, audit.Update, id)
	if err != nil {
		return err
	}
	if err := a.need(ctx, access.Change); err != nil {
		return err
	}
	if err := a.full(ctx, u.Segments); err != nil {
		return err
	}
	// What is wrong by itself is said before anybody is looked for.
	if u.Segments == 0 && u.Profile.Segments() != 0 {
		return errUnnamed
	}
	if err := u.Profile.checkSegments(u.Segments); err != nil {
		return err
	}
	if u.Facts != nil {
		if err := u.Facts.check(); err != nil {
			return err
		}
	}
	for try := 1; ; try++ {
		err := a.update(ctx, id, u)
		if u.Version != 0 || try == attempts || !errors.Is(err, ErrConflict) {
			return err
		}
	}
}

var errUnnamed = errors.New("patron: Update.Profile has segments, but Update.Segments names none that are to be replaced")

// attempts bounds how often something is tried again because somebody else wrote in between.
const attempts = 10

// update looks at the patron and makes the change, unless somebody else comes in between.
func (a *act) update(ctx context.Context, id ID, u Update) error {
	d := a.d
	row, err := d.cfg.Store.Get(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return a.missing(ctx)
	} else if err != nil {
		return err
	}
	switch {
	case a.barred(row):
		return a.refuse(ctx, whyRestricted)
	case !row.Erasing.IsZero():
		return a.refuse(ctx, whyErasing)
	case u.Version != 0 && u.Version != row.Version:
		return a.undone(ctx, &ConflictError{id})
	}
	if !a.call.Self.IsZero() && u.Facts != nil {
		wished := u.Facts.stored()
		wished.Wish, wished.WishSince = row.Facts.Wish, row.Facts.WishSince
		if !wished.equal(row.Facts) { // a patron does not prolong their own account
			return a.refuse(ctx, whyNoRight)
		}
	}
	w, err := d.revise(ctx, row, u)
	if err == nil {
		err = d.checkCombinations(&w.after)
	}
	if err != nil {
		return a.undone(ctx, err)
	}
	return d.write(ctx, a, w)
}

func (a *act) full(ctx context.Context, segments access.Set) error {
	for s := range segments.All() {
		if a.may.Levels.Of(s) != access.Full {
			return a.refuse(ctx, whyNoRight)
		}
	}
	return nil
}

// A writing is a row on its way into the store.
type writing struct {
	id       ID
	old      Row // zero for a new patron
	facts    Facts
	before   Profile    // what is there of the segments that the indexes need or that are replaced
	after    Profile    // the same, as it is to be
	segments access.Set // that change
	opened   access.Set // that before and after hold, of a row that is there

	standing *standing // nil: it stays
}

// A standing is what Row says of rights that were exercised.
type standing struct{ restricted, erasing time.Time }

// same reports that nothing changes.
func (w *writing) same() bool {
	return w.segments == 0 && w.facts.equal(w.old.Facts) && w.standing == nil && w.old.Version > 0
}

func (f Facts) equal(g Facts) bool {
	return f.Group == g.Group && slices.Equal(f.Categories, g.Categories) && f.Library == g.Library &&
		f.Expires.Equal(g.Expires) && f.Wish == g.Wish && f.WishSince.Equal(g.WishSince)
}

// revise works out what an update makes of a row.
func (d *Directory) revise(ctx context.Context, row Row, u Update) (writing, error) {
	w := writing{id: row.ID, old: row, facts: row.Facts}
	if u.Facts != nil {
		w.facts = u.Facts.stored()
	}
	indexed, err := d.indexed(d.cfg.Keys.Indexes())
	if err != nil {
		return w, err
	}
	w.opened = indexed | u.Segments
	before, err := d.open(ctx, row, w.opened)
	if err != nil {
		return w, err
	}
	w.before, w.after = before, before
	w.after.Facts = w.facts
	for s := range u.Segments.All() {
		w.after.take(s, &u.Profile)
		if w.after.encode(s).Reveal() != before.encode(s).Reveal() {
			w.segments = w.segments.With(s)
		}
	}
	return w, nil
}

// stored returns the facts as a store keeps them.
func (f Facts) stored() Facts {
	f.Expires, f.WishSince = stamp(f.Expires), stamp(f.WishSince)
	f.Categories = slices.Clone(f.Categories)
	return f
}

func stamp(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Truncate(time.Microsecond)
}

// write records one change and makes it. If that fails, the key of a new patron may be left without one; it seals nothing.
func (d *Directory) write(ctx context.Context, a *act, w writing) error {
	if _, err := d.indexes(ctx); err != nil {
		return err
	}
	if w.old.Version == 0 {
		if err := d.cfg.Keys.CreateKeys(ctx, w.id.Subject()); err != nil {
			return err
		}
	}
	a.event.Segments = w.segments.Names()
	a.event.Subjects = []audit.Subject{w.subject()}
	a.event.Count = 1
	if err := a.done(ctx); err != nil {
		return err
	}
	if w.same() {
		return nil
	}
	if err := d.put(ctx, []writing{w}); err != nil {
		return a.undone(ctx, err)
	}
	return nil
}

// subject says what the trail is to know of a change.
func (w *writing) subject() audit.Subject {
	s := audit.Subject{ID: w.id.Subject()}
	if !w.same() {
		s.Version = w.old.Version + 1
	}
	for segment := range w.segments.All() {
		s.Changes = append(s.Changes, audit.Change{Segment: segment.String(), Before: w.before.encode(segment), After: w.after.encode(segment)})
	}
	return s
}

// put seals rows and stores them, all or none, with index keys that are not older than the store's.
func (d *Directory) put(ctx context.Context, list []writing) error {
	x, err := d.indexes(ctx)
	if err != nil {
		return err
	}
	for {
		if !x.Ready(crypto.IndexIdentifier) {
			return ErrNotReady
		}
		indexed, err := d.indexed(x)
		if err != nil {
			return err
		}
		for i := range list {
			if w := &list[i]; w.old.Version > 0 && indexed&^w.opened != 0 {
				return &ConflictError{w.id} // an index was added since the row was opened: look again
			}
		}
		batch := Batch{Indexed: x.Change(), Writes: make([]Write, len(list))}
		for i := range list {
			row, err := d.seal(ctx, x, &list[i])
			if err != nil {
				return err
			}
			batch.Writes[i] = Write{Row: row, Old: list[i].old.Version}
		}
		err = d.cfg.Store.Write(ctx, batch)
		if !errors.Is(err, ErrStaleIndexes) {
			return err
		}
		if x, err = d.newer(x); err != nil {
			return err
		}
	}
}

// seal makes the row.
func (d *Directory) seal(ctx context.Context, x *crypto.Indexes, w *writing) (Row, error) {
	row := Row{ID: w.id, Version: w.old.Version + 1, Facts: w.facts.stored(), Indexed: x.Change(), Restricted: w.old.Restricted, Erasing: w.old.Erasing}
	if w.standing != nil {
		row.Restricted, row.Erasing = stamp(w.standing.restricted), stamp(w.standing.erasing)
	}
	for _, s := range w.old.Segments {
		if !w.segments.Has(s.Segment) {
			row.Segments = append(row.Segments, s)
		}
	}
	plain := make([]crypto.Plain, 0, access.SegmentCount)
	which := make([]access.Segment, 0, access.SegmentCount)
	for s := range w.segments.All() {
		if text := w.after.encode(s); !text.IsEmpty() {
			plain = append(plain, crypto.Plain{Label: s.String(), Revision: row.Version, Value: text})
			which = append(which, s)
		}
	}
	if len(plain) > 0 {
		sealed, err := d.cfg.Keys.Seal(ctx, w.id.Subject(), plain...)
		if err != nil {
			return Row{}, err
		}
		for i, s := range which {
			row.Segments = append(row.Segments, SealedSegment{Segment: s, Revision: row.Version, Data: sealed[i]})
		}
	}
	slices.SortFunc(row.Segments, func(a, b SealedSegment) int { return int(a.Segment) - int(b.Segment) })
	var err error
	row.Tokens, row.Lookups, err = d.tokens(x, &w.after)
	return row, err
}

func (d *Directory) tokens(x *crypto.Indexes, p *Profile) (tokens, lookups []crypto.Token, err error) {
	if tokens, err = d.identifierTokens(x, p); err != nil {
		return nil, nil, err
	}
	list, err := d.lookups(x)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range list {
		t, err := l.tokens(x, p)
		if err != nil {
			return nil, nil, err
		}
		lookups = append(lookups, t...)
	}
	return tokens, distinct(lookups), nil
}

func (d *Directory) identifierTokens(x *crypto.Indexes, p *Profile) (tokens []crypto.Token, err error) {
	for _, id := range p.Identifiers {
		t, err := x.Tokens(d.identifier, Normalize(id.Value.Reveal()))
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, t...)
	}
	return distinct(tokens), nil
}

func distinct(tokens []crypto.Token) []crypto.Token {
	slices.SortFunc(tokens, func(a, b crypto.Token) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(tokens)
}
