package patron

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// An Export says whom to export, what of them, and to whom. The zero value exports the facts of all patrons for the library's own use.
type Export struct {
	Segments access.Set // none: facts only

	Groups        []string  // only these; none: all
	Libraries     []string  // only these; none: all
	ExpiresBefore time.Time // only accounts that expire earlier; zero: all

	Recipient string // outside, as a short name; empty: the library itself
	Approval  string // reference under which the export was approved; a recipient outside needs one
}

// An Exported is a patron as an export gives them out.
type Exported struct {
	ID        ID     // zero for a recipient outside
	Pseudonym string // for a recipient outside: one-way, and another one for each recipient
	Profile   Profile
	Levels    access.Levels
}

const exportPage = 500

// Export gives out patrons, page by page. A page is recorded, with everybody on it, before anything of it is revealed. A recipient
// outside gets pseudonyms, and of the facts only group, categories and library: exact dates would tell who is who. Patrons who were
// forgotten are left out. Segments are shown as access says; if it shows nothing of one that was asked for, the export is refused.
//
// It needs the right to export. A patron who acts for themself gets their own record and no other. The sequence ends with its
// first error.
func (d *Directory) Export(ctx context.Context, call Call, e Export) iter.Seq2[Exported, error] {
	return func(yield func(Exported, error) bool) {
		after := ID{}
		for {
			last, more, err := d.exportPage(ctx, call, e, after, func(x Exported) bool { return yield(x, nil) })
			if err != nil {
				yield(Exported{}, err)
				return
			}
			if !more {
				return
			}
			after = last
		}
	}
}

// exportPage asks access, records, opens and hands on one page of rows.
func (d *Directory) exportPage(ctx context.Context, call Call, e Export, after ID, yield func(Exported) bool) (last ID, more bool, err error) {
	a, err := d.begin(ctx, call, audit.Export, ID{})
	if err != nil {
		return last, false, err
	}
	a.event.Recipient, a.event.Approval = e.Recipient, e.Approval
	a.event.Segments = e.Segments.Names()
	if err := a.need(ctx, access.Export); err != nil {
		return last, false, err
	}
	levels := access.Levels(0)
	for s := range e.Segments.All() {
		if a.may.Levels.Of(s) == access.None {
			return last, false, a.refuse(ctx, whyNoRight)
		}
		levels = levels.With(s, a.may.Levels.Of(s))
	}
	pseudonym := func(crypto.Subject) string { return "" }
	if e.Recipient != "" {
		if strings.TrimSpace(e.Approval) == "" {
			return last, false, a.refuse(ctx, whyApproval)
		}
		if pseudonym, err = d.cfg.Keys.Pairwise(e.Recipient); err != nil {
			return last, false, err
		}
	}
	var page []Row
	if call.Self.IsZero() {
		page, err = d.cfg.Store.Rows(ctx, Query{After: after, Limit: exportPage})
	} else {
		var own Row
		if own, err = d.cfg.Store.Get(ctx, call.Self); errors.Is(err, ErrNotFound) {
			return last, false, a.missing(ctx)
		}
		page = []Row{own}
	}
	if err != nil || len(page) == 0 && !after.IsZero() {
		return last, false, err
	}
	more = len(page) == exportPage
	if more {
		last = page[len(page)-1].ID
	}
	page = slices.DeleteFunc(page, func(r Row) bool { return !e.wants(r.Facts) })
	for _, row := range page {
		a.about(row.ID)
	}
	if err := a.done(ctx); err != nil {
		return last, false, err
	}
	for _, row := range page {
		x := Exported{ID: row.ID, Levels: levels}
		x.Profile, err = d.open(ctx, row, levels.AtLeast(access.Masked))
		if errors.Is(err, crypto.ErrShredded) {
			continue
		} else if err != nil {
			return last, false, a.undone(ctx, err)
		}
		for s := range levels.AtLeast(access.Masked).All() {
			if levels.Of(s) == access.Masked {
				x.Profile.mask(s)
			}
		}
		if e.Recipient != "" {
			x.Pseudonym, x.ID = pseudonym(row.ID.Subject()), ID{}
			f := row.Facts
			x.Profile.Facts = Facts{Group: f.Group, Categories: f.Categories, Library: f.Library}
		}
		if !yield(x) {
			return last, false, nil
		}
	}
	return last, more, nil
}

func (e Export) wants(f Facts) bool {
	switch {
	case len(e.Groups) > 0 && !slices.Contains(e.Groups, f.Group):
		return false
	case len(e.Libraries) > 0 && !slices.Contains(e.Libraries, f.Library):
		return false
	case !e.ExpiresBefore.IsZero() && (f.Expires.IsZero() || !f.Expires.Before(e.ExpiresBefore)):
		return false
	}
	return true
}
