package patron

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// What package rights builds on. What a patron may demand needs to be known of loans and fees as well, which this package never sees.

// Copy opens all that is kept of one patron, for the copy that they may demand (GDPR articles 15 and 20). It needs the right to export, and the level full on every segment
// that the patron has: half a copy is none. The approval is a reference to the request, and may be empty.
//
// Errors: [ErrDenied], [ErrNotFound], [ErrNotRecorded], [crypto.ErrShredded].
func (d *Directory) Copy(ctx context.Context, call Call, id ID, approval string) (View, error) {
	a, err := d.begin(ctx, call, audit.Export, id)
	if err != nil {
		return View{}, err
	}
	a.event.Approval = approval
	if err := a.need(ctx, access.Export); err != nil {
		return View{}, err
	}
	row, err := d.cfg.Store.Get(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return View{}, a.missing(ctx)
	} else if err != nil {
		return View{}, err
	}
	v := View{ID: id, Version: row.Version, Levels: a.may.Levels}
	for _, s := range row.Segments {
		v.Present = v.Present.With(s.Segment)
	}
	if err := a.full(ctx, v.Present); err != nil {
		return View{}, err
	}
	a.event.Segments = v.Present.Names()
	if err := a.done(ctx); err != nil {
		return View{}, err
	}
	if v.Profile, err = d.open(ctx, row, v.Present); err != nil {
		return View{}, a.undone(ctx, err)
	}
	return v, nil
}

// An Erasure is a patron on the way to being forgotten: [Directory.Erase] begins it, and one of its methods ends it. It is for one goroutine.
type Erasure struct {
	ID    ID
	Asked time.Time // when it was asked for, if that was earlier and something was still owed; else zero

	// Forgotten says that the key is destroyed already: an erasure that was interrupted is to be finished.
	Forgotten bool

	// References are those of the function [References]. Of one whose key is destroyed only the ID is known.
	References []crypto.Secret

	a   *act
	row Row // zero: it is removed already
}

// Erase begins to forget a patron. It needs the right to erase. The events of an erasure name nobody: who is gone is to be seen in the database, and from there a tag would lead to all that the
// trail says of them. Object names the erasure in the trail (the number of its certificate), approval says under which reference it was decided.
//
// A patron who was forgotten already is no error: see Erasure.Forgotten.
//
// Errors: [ErrDenied], [ErrNotFound], [ErrNotRecorded].
func (d *Directory) Erase(ctx context.Context, call Call, id ID, object, approval string) (*Erasure, error) {
	a, err := d.begin(ctx, call, audit.Erase, id)
	if err != nil {
		return nil, err
	}
	a.event.Count, a.event.Object, a.event.Approval = 1, object, approval
	if err := a.need(ctx, access.Erase); err != nil {
		return nil, err
	}
	e := &Erasure{ID: id, References: []crypto.Secret{crypto.NewSecret(id.String())}, a: a}
	gone, err := d.cfg.Keys.Forgotten(ctx, id.Subject())
	if err != nil {
		return nil, err
	}
	e.Forgotten = len(gone) > 0
	if e.row, err = d.cfg.Store.Get(ctx, id); errors.Is(err, ErrNotFound) {
		if !e.Forgotten {
			return nil, a.missing(ctx)
		}
		return e, nil
	} else if err != nil {
		return nil, err
	}
	e.Asked = e.row.Erasing
	a.event.Why = "asked"
	if err := a.done(ctx); err != nil {
		return nil, err
	}
	if e.Forgotten {
		return e, nil
	}
	p, err := d.open(ctx, e.row, access.SetOf(access.Identifiers))
	if err != nil {
		return nil, a.undone(ctx, err)
	}
	e.References = References(id, p)
	return e, nil
}

// References returns what the borrower tokens in a patron's circulation records may be made of ([Reference]): the ID, and each identifier with its type.
func References(id ID, p Profile) []crypto.Secret {
	list := []crypto.Secret{crypto.NewSecret(id.String())}
	for _, i := range p.Identifiers {
		list = append(list, crypto.NewSecret(Reference(i.Use, i.Value.Reveal())))
	}
	return list
}

// Refuse ends an erasure with nothing done, and records why, as a word.
func (e *Erasure) Refuse(ctx context.Context, why string) error {
	e.a.event.Outcome, e.a.event.Why = audit.Denied, why
	return e.a.record(ctx)
}

// Failed records that an erasure was broken off, and returns why.
func (e *Erasure) Failed(ctx context.Context, err error) error { return e.a.undone(ctx, err) }

// Begin marks the row before anything is erased, so that an erasure that is broken off is seen and taken up again ([Leaving]), and nobody changes the row meanwhile.
func (e *Erasure) Begin(ctx context.Context) error { return e.rewrite(ctx, 0) }

// settling are the segments by which a patron can be reached, and kept from borrowing, until what they owe is settled.
var settling = access.SetOf(access.Names, access.Addresses, access.Phones, access.Emails, access.Identifiers, access.Blocks)

// Reduce erases of a patron what is not needed to settle what is still owed: all but names, addresses, telephone numbers, e-mail addresses, identifiers and blocks. The rest waits, marked as by Begin. The key stays until
// then; with it, what the trail has sealed of earlier changes can be opened. It returns the segments that went and those that stay.
func (e *Erasure) Reduce(ctx context.Context) (gone, kept []string, err error) {
	e.a.event.Why = "partial"
	if err := e.a.done(ctx); err != nil {
		return nil, nil, err
	}
	before := e.row.Segments
	if err := e.rewrite(ctx, ^settling); err != nil {
		return nil, nil, err
	}
	for _, s := range before {
		if settling.Has(s.Segment) {
			kept = append(kept, s.Segment.String())
		} else {
			gone = append(gone, s.Segment.String())
		}
	}
	return gone, kept, nil
}

// rewrite marks the row and takes segments from it, whoever changes it meanwhile. There is no event with what was in them: it would keep it.
func (e *Erasure) rewrite(ctx context.Context, drop access.Set) error {
	d := e.a.d
	for try := 1; ; try++ {
		dropped := access.Set(0)
		for _, s := range e.row.Segments {
			if drop.Has(s.Segment) {
				dropped = dropped.With(s.Segment)
			}
		}
		if dropped == 0 && !e.row.Erasing.IsZero() {
			return nil
		}
		w, err := d.revise(ctx, e.row, Update{Segments: dropped})
		if err == nil {
			w.standing = &standing{e.row.Restricted, e.row.Erasing}
			if w.standing.erasing.IsZero() {
				w.standing.erasing = e.a.at
			}
			err = d.put(ctx, []writing{w})
		}
		if err != nil && (!errors.Is(err, ErrConflict) || try == attempts) {
			return e.a.undone(ctx, err)
		}
		if e.row, err = d.cfg.Store.Get(ctx, e.ID); err != nil {
			return e.a.undone(ctx, err)
		}
	}
}

// Destroy destroys the patron's key, and then removes the row. Before that it is recorded. From the moment the tombstone is durable nothing of the patron's opens again; with an
// error after it, what is left is removed by erasing once more. It writes tombstones for the References, too ([ReferenceSubject]), so that a database that is restored can be searched for loans
// that name them.
func (e *Erasure) Destroy(ctx context.Context) error {
	d := e.a.d
	e.a.event.Why = ""
	if err := e.a.done(ctx); err != nil {
		return err
	}
	subjects := []crypto.Subject{e.ID.Subject()}
	if !e.Forgotten {
		for _, r := range e.References {
			subjects = append(subjects, ReferenceSubject(r))
		}
	}
	if err := d.cfg.Keys.Shred(ctx, subjects...); err != nil {
		return e.a.undone(ctx, err)
	}
	if err := d.remove(ctx, e.ID); err != nil {
		return e.a.undone(ctx, err)
	}
	return nil
}

// ReferenceSubject is whose tombstone says that a reference in borrower tokens ([Erasure]) was a patron's who is forgotten. The same number may be given to somebody else later, or again: then a
// patron lives who has it.
func ReferenceSubject(reference crypto.Secret) crypto.Subject {
	sum := sha256.Sum256([]byte(reference.Reveal()))
	return crypto.Subject("reference " + hex.EncodeToString(sum[:]))
}

// Gone says of references in borrower tokens ([References]) which lead to somebody who is forgotten, and to nobody else: no patron who lives has the identifier now. A database that was restored knows
// such, and an export that came late. It opens nothing. There may be thousands of references.
func (d *Directory) Gone(ctx context.Context, references ...crypto.Secret) ([]bool, error) {
	owners, err := d.owners(ctx, references)
	if err != nil {
		return nil, err
	}
	var ask []crypto.Subject
	for i, r := range references {
		ask = append(ask, ReferenceSubject(r))
		for _, id := range owners[i] {
			ask = append(ask, id.Subject())
		}
	}
	dead := map[crypto.Subject]bool{}
	list, err := d.cfg.Keys.Forgotten(ctx, ask...)
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		dead[s] = true
	}
	gone := make([]bool, len(references))
	for i, r := range references {
		lives := func(id ID) bool { return !dead[id.Subject()] }
		gone[i] = (len(owners[i]) > 0 || dead[ReferenceSubject(r)]) && !slices.ContainsFunc(owners[i], lives)
	}
	return gone, nil
}

// owners returns for each reference whose it may be: the patron of the ID, whether there is such a one or not, or those who have the identifier.
func (d *Directory) owners(ctx context.Context, references []crypto.Secret) (owners [][]ID, err error) {
	x, err := d.indexes(ctx)
	if err != nil {
		return nil, err
	}
	for {
		if !x.Ready(crypto.IndexIdentifier) {
			return nil, ErrNotReady
		}
		owners = make([][]ID, len(references))
		tokens := make([][]crypto.Token, len(references))
		var all []crypto.Token
		for i, r := range references {
			if id, err := ParseID(r.Reveal()); err == nil {
				owners[i] = []ID{id}
			} else if _, identifier, ok := strings.Cut(r.Reveal(), ":"); ok && Normalize(identifier) != "" {
				if tokens[i], err = x.Tokens(d.identifier, Normalize(identifier)); err != nil {
					return nil, err
				}
				all = append(all, tokens[i]...)
			}
		}
		found, err := d.cfg.Store.Find(ctx, distinct(all))
		if err != nil {
			return nil, err
		}
		if found.Indexed <= x.Change() {
			for i, list := range tokens {
				for _, token := range list {
					owners[i] = append(owners[i], found.Owners[token]...)
				}
			}
			return owners, nil
		}
		if x, err = d.newer(x); err != nil {
			return nil, err
		}
	}
}

// remove removes a row, whoever changes it meanwhile.
func (d *Directory) remove(ctx context.Context, id ID) error {
	x := d.cfg.Keys.Indexes()
	for try := 1; ; try++ {
		row, err := d.cfg.Store.Get(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		err = d.cfg.Store.Write(ctx, Batch{Indexed: x.Change(), Writes: []Write{{Row: Row{ID: id}, Old: row.Version, Remove: true}}})
		switch {
		case errors.Is(err, ErrStaleIndexes):
			if x, err = d.newer(x); err != nil {
				return err
			}
		case !errors.Is(err, ErrConflict) || try == attempts:
			return err
		}
	}
}

// barred reports whether a row is kept from whoever asks, because it is restricted. Patrons are not kept from their own.
func (a *act) barred(row Row) bool { return barred(row, a.call, a.may) }

func barred(row Row, call Call, may access.Decision) bool {
	return !row.Restricted.IsZero() && call.Self != row.ID && !may.Acts.Has(access.Restrict)
}

var (
	errRestricted = errors.New("patron: the record is restricted: it is not changed until that is lifted")
	errErasing    = errors.New("patron: the patron is on the way to being forgotten: the record is not changed any more")
)

// Restrict keeps everybody from a patron's record who has not the right to restrict (GDPR article 18): it is not shown, exported or changed, but for the patron. It needs that right.
// [Directory.Lift] ends it. The approval is a reference to the request. Doing it twice is not an error. It returns the patron's [References].
//
// Errors: [ErrDenied], [ErrNotFound], [ErrNotRecorded], [crypto.ErrShredded].
func (d *Directory) Restrict(ctx context.Context, call Call, id ID, approval string) ([]crypto.Secret, error) {
	return d.restrict(ctx, call, audit.Restrict, id, approval)
}

// Lift ends what [Directory.Restrict] has begun. The patron is to be told before (article 18, 3). Errors as there.
func (d *Directory) Lift(ctx context.Context, call Call, id ID, approval string) ([]crypto.Secret, error) {
	return d.restrict(ctx, call, audit.Lift, id, approval)
}

func (d *Directory) restrict(ctx context.Context, call Call, action audit.Action, id ID, approval string) ([]crypto.Secret, error) {
	a, err := d.begin(ctx, call, action, id)
	if err != nil {
		return nil, err
	}
	a.event.Approval = approval
	if err := a.need(ctx, access.Restrict); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		row, err := d.cfg.Store.Get(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return nil, a.missing(ctx)
		} else if err != nil {
			return nil, err
		}
		w, err := d.revise(ctx, row, Update{})
		if err != nil {
			return nil, a.undone(ctx, err)
		}
		if on := action == audit.Restrict; on == row.Restricted.IsZero() {
			w.standing = &standing{erasing: row.Erasing}
			if on {
				w.standing.restricted = a.at
			}
		}
		if err = d.write(ctx, a, w); err == nil {
			return References(id, w.before), nil
		} else if try == attempts || !errors.Is(err, ErrConflict) {
			return nil, err
		}
	}
}

// Leaving says which patrons [Directory.Leaving] is to name.
type Leaving struct {
	ExpiredBefore time.Time // whose account expired earlier; zero: it does not matter
	Erasing       bool      // whose erasure was asked for and waits
}

// Leaving yields the IDs of patrons who may be about to go. It needs the right to erase. What becomes of the patrons meanwhile does not matter to it. The sequence ends with its first error.
func (d *Directory) Leaving(ctx context.Context, call Call, l Leaving) iter.Seq2[ID, error] {
	return func(yield func(ID, error) bool) {
		a, err := d.begin(ctx, call, audit.Erase, ID{})
		if err == nil {
			err = a.need(ctx, access.Erase)
		}
		for after := (ID{}); err == nil; {
			var rows []Row
			if rows, err = d.cfg.Store.Rows(ctx, Query{After: after, Limit: exportPage, Erasing: l.Erasing}); err != nil {
				break
			}
			for _, row := range rows {
				if e := row.Facts.Expires; !l.ExpiredBefore.IsZero() && (e.IsZero() || !e.Before(l.ExpiredBefore)) {
					continue
				}
				if !yield(row.ID, nil) {
					return
				}
			}
			if len(rows) < exportPage {
				return
			}
			after = rows[len(rows)-1].ID
		}
		yield(ID{}, err)
	}
}
