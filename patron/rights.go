package patron

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"iter"
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
	if a.barred(row) {
		return View{}, a.refuse(ctx, whyRestricted)
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

// An Erasure is a patron on the way to being forgotten: [Directory.Erase] begins it. It is for one goroutine.
type Erasure struct {
	ID      ID
	Asked   time.Time // when it was asked for, if that was earlier and something was still owed; else zero
	Expires time.Time // when the account expires or expired

	// Forgotten says that the key is destroyed already: an erasure that was interrupted is to be finished, or only the key was destroyed.
	Forgotten bool
	Gone      bool // and the row is removed, too: there is nothing left to do

	// References are those of the function [References]. Of one whose key is destroyed only the ID is known.
	References []crypto.Secret

	a   *act
	row Row // zero: it is removed already
}

// Erase begins to forget a patron. It needs the right to erase. The events of an erasure name nobody: who is gone is to be seen in the database, and from there a tag would lead to all that the
// trail says of them. Object names the erasure in the trail (the number of its certificate), approval says under which reference it was decided.
//
// A patron who was forgotten already is no error: see Erasure.Forgotten. One whose record is restricted is not erased until that is lifted.
//
// Errors: [ErrDenied], [ErrNotFound], [ErrNotRecorded].
func (d *Directory) Erase(ctx context.Context, call Call, id ID, object, approval string) (*Erasure, error) {
	a, err := d.eraser(ctx, call, id)
	if err != nil {
		return nil, err
	}
	a.event.Object, a.event.Approval = object, approval
	e := &Erasure{ID: id, a: a}
	a.event.Why = "asked"
	return e, e.Reload(ctx)
}

// eraser asks whether a call may erase.
func (d *Directory) eraser(ctx context.Context, call Call, id ID) (*act, error) {
	a, err := d.begin(ctx, call, audit.Erase, id)
	if err != nil {
		return nil, err
	}
	a.event.Count = 1
	return a, a.need(ctx, access.Erase)
}

// FindToErase is Find for who is about to be erased: it needs the right to erase, and its event names nobody, or it would say whom the next one is about.
//
// Errors: [ErrNotFound], [ErrDenied], [ErrNotRecorded].
func (d *Directory) FindToErase(ctx context.Context, call Call, identifier crypto.Secret) (ID, error) {
	a, err := d.eraser(ctx, call, ID{})
	if err != nil {
		return ID{}, err
	}
	ids, err := d.byIdentifier(ctx, identifier)
	if err != nil {
		return ID{}, err
	}
	if len(ids) == 0 {
		return ID{}, a.missing(ctx)
	}
	a.event.Why = "find"
	return ids[0], a.done(ctx)
}

// Reload looks at the patron anew, after [Erasure.Begin] said that somebody has changed the record meanwhile.
func (e *Erasure) Reload(ctx context.Context) error {
	d, a := e.a.d, e.a
	dead, err := d.cfg.Keys.Forgotten(ctx, e.ID.Subject())
	if err != nil {
		return err
	}
	e.Forgotten, e.Gone, e.References, e.row = len(dead) > 0, false, []crypto.Secret{crypto.NewSecret(e.ID.String())}, Row{}
	row, err := d.cfg.Store.Get(ctx, e.ID)
	switch {
	case errors.Is(err, ErrNotFound) && e.Forgotten:
		e.Gone = true
		return nil
	case errors.Is(err, ErrNotFound):
		return a.missing(ctx)
	case err != nil:
		return err
	}
	e.row, e.Asked, e.Expires = row, row.Erasing, row.Facts.Expires
	if !row.Restricted.IsZero() && !e.Forgotten {
		return a.refuse(ctx, whyRestricted)
	}
	if !a.recorded {
		if err := a.done(ctx); err != nil {
			return err
		}
	}
	if e.Forgotten {
		return nil
	}
	p, err := d.open(ctx, row, access.SetOf(access.Identifiers))
	if errors.Is(err, crypto.ErrShredded) { // by somebody else, just now
		e.Forgotten = true
		return nil
	} else if err != nil {
		return a.undone(ctx, err)
	}
	e.References = References(e.ID, p)
	return nil
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

// Begin marks the row before anything is erased, so that an erasure that is broken off is seen and taken up again ([Leaving]), and nobody changes the row from then on. When somebody has changed it since
// it was looked at, the error is an [ErrConflict] and nothing was done: [Erasure.Reload], and look again at what is owed.
func (e *Erasure) Begin(ctx context.Context) error {
	err := e.rewrite(ctx, 0)
	if err != nil && !errors.Is(err, ErrConflict) {
		return e.a.undone(ctx, err)
	}
	return err
}

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
	for try := 1; ; try++ {
		if err = e.rewrite(ctx, ^settling); err == nil {
			break
		}
		if !errors.Is(err, ErrConflict) || try == attempts {
			return nil, nil, e.a.undone(ctx, err)
		}
		if e.row, err = e.a.d.cfg.Store.Get(ctx, e.ID); err != nil {
			return nil, nil, e.a.undone(ctx, err)
		}
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

// Segments returns which segments the patron's record has.
func (e *Erasure) Segments() (names []string) {
	for _, s := range e.row.Segments {
		names = append(names, s.Segment.String())
	}
	return names
}

// rewrite marks the row and takes segments from it, if it is as it was looked at. There is no event with what was in them: it would keep it.
func (e *Erasure) rewrite(ctx context.Context, drop access.Set) error {
	d := e.a.d
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
	if err != nil {
		return err
	}
	w.standing = &standing{e.row.Restricted, e.row.Erasing}
	if w.standing.erasing.IsZero() {
		w.standing.erasing = e.a.at
	}
	if err := d.put(ctx, []writing{w}); err != nil {
		return err
	}
	e.row, err = d.cfg.Store.Get(ctx, e.ID)
	return err
}

// Shred destroys the patron's key, after that was recorded. From the moment the tombstone is durable nothing of the patron's opens again; with an
// error after it, what is left is removed by erasing once more. It writes tombstones for the References, too ([ReferenceSubject]), so that loans that name them are known when they come back. The row stays: [Erasure.Remove].
func (e *Erasure) Shred(ctx context.Context) error {
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
	if err := e.a.d.cfg.Keys.Shred(ctx, subjects...); err != nil {
		return e.a.undone(ctx, err)
	}
	return nil
}

// Remove removes the row.
func (e *Erasure) Remove(ctx context.Context) error {
	if err := e.a.d.remove(ctx, e.ID); err != nil {
		return e.a.undone(ctx, err)
	}
	return nil
}

// Withdraw takes back what Begin has marked: the patron does not demand it any more. What was erased stays erased. It needs the right to erase.
//
// Errors: [ErrDenied], [ErrNotFound], [ErrNotRecorded], [crypto.ErrShredded].
func (d *Directory) Withdraw(ctx context.Context, call Call, id ID, approval string) error {
	a, err := d.eraser(ctx, call, id)
	if err != nil {
		return err
	}
	a.event.Approval, a.event.Why = approval, "withdrawn"
	for try := 1; ; try++ {
		row, err := d.cfg.Store.Get(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return a.missing(ctx)
		} else if err != nil {
			return err
		}
		w, err := d.revise(ctx, row, Update{})
		if err == nil && !a.recorded {
			err = a.done(ctx)
		}
		if err != nil || row.Erasing.IsZero() {
			return err
		}
		w.standing = &standing{restricted: row.Restricted}
		if err = d.put(ctx, []writing{w}); err == nil {
			return nil
		} else if try == attempts || !errors.Is(err, ErrConflict) {
			return a.undone(ctx, err)
		}
	}
}

// ReferenceSubject is whose tombstone says that a reference in borrower tokens ([Erasure]) was a patron's who is forgotten. The same number may be given to somebody else later, or again: then a
// patron lives who has it.
func ReferenceSubject(reference crypto.Secret) crypto.Subject {
	sum := sha256.Sum256([]byte(reference.Reveal()))
	return crypto.Subject("reference " + hex.EncodeToString(sum[:]))
}

// Departed says of a reference whether it was that of somebody who is forgotten.
type Departed struct {
	Since time.Time // they are forgotten; zero: nobody is
	Lives bool      // somebody who lives has it now
}

// Gone says of references in borrower tokens ([References]) which lead to somebody who is forgotten, and since when. A record that began before then was theirs. One that began later is not: the number may have been given to
// somebody else, or to them again. A database that was restored knows such, and an export that came late. It opens nothing. There may be thousands of references.
func (d *Directory) Gone(ctx context.Context, references ...crypto.Secret) ([]Departed, error) {
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
	dead, err := d.cfg.Keys.Forgotten(ctx, ask...)
	if err != nil {
		return nil, err
	}
	gone := make([]Departed, len(references))
	for i, r := range references {
		g := &gone[i]
		g.Since = dead[ReferenceSubject(r)]
		_, isID := ParseID(r.Reveal())
		for _, id := range owners[i] {
			switch at, is := dead[id.Subject()]; {
			case !is:
				g.Lives = g.Lives || isID != nil // an ID that was never forgotten need not be anybody's
			case at.After(g.Since): // of one whose key only was destroyed, no reference has a tombstone
				g.Since = at
			}
		}
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

// RemoveForgotten removes the rows of patrons whose keys are destroyed, which a restored database brought back, and their keys with them. It needs the right to erase. It returns how many there were.
func (d *Directory) RemoveForgotten(ctx context.Context, call Call) (n int, err error) {
	if _, err := d.eraser(ctx, call, ID{}); err != nil {
		return 0, err
	}
	for after := (ID{}); ; {
		rows, err := d.cfg.Store.Rows(ctx, Query{After: after, Limit: exportPage})
		if err != nil || len(rows) == 0 {
			return n, err
		}
		subjects := make([]crypto.Subject, len(rows))
		for i, row := range rows {
			subjects[i] = row.ID.Subject()
		}
		dead, err := d.cfg.Keys.Forgotten(ctx, subjects...)
		if err != nil {
			return n, err
		}
		for _, row := range rows {
			if _, is := dead[row.ID.Subject()]; !is {
				continue
			}
			// There is a tombstone already; this deletes the key.
			if err := errors.Join(d.cfg.Keys.Shred(ctx, row.ID.Subject()), d.remove(ctx, row.ID)); err != nil {
				return n, err
			}
			n++
		}
		after = rows[len(rows)-1].ID
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

// Why an import leaves somebody as they are.
var (
	ErrRestricted = errors.New("patron: the record is restricted: it is not changed until that is lifted")
	ErrErasing    = errors.New("patron: the patron is on the way to being forgotten: the record is not changed any more")
	ErrReturning  = errors.New("patron: has an identifier of somebody who is forgotten, and is not there")
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
		if action == audit.Restrict && !row.Erasing.IsZero() {
			return nil, a.refuse(ctx, whyErasing)
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
		_, err := d.eraser(ctx, call, ID{})
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
