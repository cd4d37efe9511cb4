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
// outside gets pseudonyms, in their order, so that two recipients cannot join what they got line by line; and of the facts only
// group, categories and library: exact dates would tell who is who. Patrons who were forgotten are left out, and those whose record is restricted, unless who asks may restrict. Segments are shown as access
// says; if it shows nothing of one that was asked for, the export is refused.
//
// It needs the right to export. A patron who acts for themself gets their own record and no other. The sequence ends with its
// first error.
func (d *Directory) Export(ctx context.Context, call Call, e Export) iter.Seq2[Exported, error] {
	return func(yield func(Exported, error) bool) {
		x := &exporting{d: d, call: call, Export: e}
		for more := true; more; {
			var err error
			if more, err = x.page(ctx, func(one Exported) bool { return yield(one, nil) }); err != nil {
				yield(Exported{}, err)
				return
			}
		}
	}
}

// exporting is an export under way.
type exporting struct {
	Export
	d    *Directory
	call Call

	may       access.Decision // of the page
	begun     bool
	after     ID                          // of those inside
	left      []outside                   // of those for a recipient outside, in the order of their pseudonyms
	pseudonym func(crypto.Subject) string // nil: for the library itself
}

type outside struct {
	id        ID
	pseudonym string
}

// page asks access, records, opens and hands on one page of patrons, and says whether to go on.
func (x *exporting) page(ctx context.Context, yield func(Exported) bool) (more bool, err error) {
	d := x.d
	a, err := d.begin(ctx, x.call, audit.Export, ID{})
	if err != nil {
		return false, err
	}
	a.event.Recipient, a.event.Approval = x.Recipient, x.Approval
	a.event.Segments = x.Segments.Names()
	if err := a.need(ctx, access.Export); err != nil {
		return false, err
	}
	levels := access.Levels(0)
	for s := range x.Segments.All() {
		if a.may.Levels.Of(s) == access.None {
			return false, a.refuse(ctx, whyNoRight)
		}
		levels = levels.With(s, a.may.Levels.Of(s))
	}
	if x.Recipient != "" && strings.TrimSpace(x.Approval) == "" {
		return false, a.refuse(ctx, whyApproval)
	}
	x.may = a.may
	first := !x.begun
	rows, more, err := x.next(ctx)
	if errors.Is(err, ErrNotFound) {
		return false, a.missing(ctx)
	} else if err != nil || len(rows) == 0 && !first {
		return more, err
	}
	for _, row := range rows {
		a.about(row.ID)
	}
	if err := a.done(ctx); err != nil {
		return false, err
	}
	for _, row := range rows {
		one, err := x.open(ctx, row, levels)
		if errors.Is(err, crypto.ErrShredded) {
			continue
		} else if err != nil {
			return false, a.undone(ctx, err)
		}
		if !yield(one) {
			return false, nil
		}
	}
	return more, nil
}

// next reads the rows of a page.
func (x *exporting) next(ctx context.Context) (rows []Row, more bool, err error) {
	first := !x.begun
	x.begun = true
	store := x.d.cfg.Store
	switch {
	case !x.call.Self.IsZero():
		own, err := store.Get(ctx, x.call.Self)
		if x.Recipient != "" && err == nil {
			x.pseudonym, err = x.d.cfg.Keys.Pairwise(x.Recipient)
		}
		rows = []Row{own}
		if err != nil {
			return nil, false, err
		}
	case x.Recipient != "":
		if first {
			if err := x.arrange(ctx); err != nil {
				return nil, false, err
			}
		}
		n := min(len(x.left), exportPage)
		for _, o := range x.left[:n] {
			row, err := store.Get(ctx, o.id)
			if errors.Is(err, ErrNotFound) {
				continue
			} else if err != nil {
				return nil, false, err
			}
			rows = append(rows, row)
		}
		x.left = x.left[n:]
		more = len(x.left) > 0
	default:
		if rows, err = store.Rows(ctx, Query{After: x.after, Limit: exportPage}); err != nil {
			return nil, false, err
		}
		if more = len(rows) == exportPage; more {
			x.after = rows[len(rows)-1].ID
		}
	}
	return slices.DeleteFunc(rows, func(r Row) bool { return !x.wants(r.Facts) || barred(r, x.call, x.may) }), more, nil
}

// arrange puts everybody who is wanted into the order of their pseudonyms: two recipients who compare line by line find nothing.
func (x *exporting) arrange(ctx context.Context) (err error) {
	if x.pseudonym, err = x.d.cfg.Keys.Pairwise(x.Recipient); err != nil {
		return err
	}
	for after := (ID{}); ; {
		rows, err := x.d.cfg.Store.Rows(ctx, Query{After: after, Limit: exportPage})
		if err != nil {
			return err
		}
		for _, row := range rows {
			if x.wants(row.Facts) {
				x.left = append(x.left, outside{row.ID, x.pseudonym(row.ID.Subject())})
			}
		}
		if len(rows) < exportPage {
			break
		}
		after = rows[len(rows)-1].ID
	}
	slices.SortFunc(x.left, func(a, b outside) int { return strings.Compare(a.pseudonym, b.pseudonym) })
	return nil
}

func (x *exporting) open(ctx context.Context, row Row, levels access.Levels) (one Exported, err error) {
	one = Exported{ID: row.ID, Levels: levels}
	if one.Profile, err = x.d.open(ctx, row, levels.AtLeast(access.Masked)); err != nil {
		return one, err
	}
	for s := range levels.AtLeast(access.Masked).All() {
		if levels.Of(s) == access.Masked {
			one.Profile.mask(s)
		}
	}
	if x.pseudonym != nil {
		one.Pseudonym, one.ID = x.pseudonym(row.ID.Subject()), ID{}
		f := row.Facts
		one.Profile.Facts = Facts{Group: f.Group, Categories: f.Categories, Library: f.Library}
	}
	return one, nil
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
