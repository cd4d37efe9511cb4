package patron

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// Find returns the patron who has an identifier, of whatever type. It needs the right to find.
//
// Errors: [ErrNotFound], [ErrDenied], [ErrNotRecorded].
func (d *Directory) Find(ctx context.Context, call Call, identifier crypto.Secret) (ID, error) {
	a, err := d.begin(ctx, call, audit.Find, ID{})
	if err != nil {
		return ID{}, err
	}
	if err := a.need(ctx, access.Find); err != nil {
		return ID{}, err
	}
	ids, err := d.byIdentifier(ctx, identifier)
	if err != nil {
		return ID{}, err
	}
	ids, err = a.found(ctx, ids)
	if err != nil {
		return ID{}, err
	}
	return ids[0], nil
}

// FindBy returns the patrons who have the values, one for each field of a lookup; at most some thousand. It needs
// the right to find, and the level full on every segment of the lookup: whom a value finds tells the value.
//
// Errors: [ErrNotFound], [ErrDenied], [ErrNotRecorded], [ErrNotReady].
func (d *Directory) FindBy(ctx context.Context, call Call, lookup string, values ...crypto.Secret) ([]ID, error) {
	a, err := d.begin(ctx, call, audit.Find, ID{})
	if err != nil {
		return nil, err
	}
	if err := a.need(ctx, access.Find); err != nil {
		return nil, err
	}
	l, err := d.lookup(lookup)
	if err != nil {
		return nil, err
	}
	for s := range l.segments().All() {
		if a.may.Levels.Of(s) != access.Full {
			return nil, a.refuse(ctx, whyNoRight)
		}
	}
	normal := make([]string, len(values))
	for i, v := range values {
		normal[i] = Normalize(v.Reveal())
	}
	ids, err := d.lookUp(ctx, l.index, normal...)
	if err != nil {
		return nil, err
	}
	return a.found(ctx, ids)
}

// lookup returns the lookup of a name: one that there are keys for, or one of the Config that is not built yet.
func (d *Directory) lookup(name string) (Lookup, error) {
	list, err := d.lookups(d.cfg.Keys.Indexes())
	if err != nil {
		return Lookup{}, err
	}
	named := func(l Lookup) bool { return l.index.Name() == name }
	if i := slices.IndexFunc(list, named); i >= 0 {
		return list[i], nil
	}
	x, err := d.cfg.Keys.RefreshIndexes() // another program may have added it
	if err != nil {
		return Lookup{}, err
	}
	if list, err = d.lookups(x); err != nil {
		return Lookup{}, err
	}
	list = slices.Concat(list, d.cfg.Lookups)
	if i := slices.IndexFunc(list, named); i >= 0 {
		return list[i], nil
	}
	return Lookup{}, errors.New("patron: there is no such lookup")
}

// found records who was found, or that nobody was. A patron who acts for themself finds nobody else.
func (a *act) found(ctx context.Context, ids []ID) ([]ID, error) {
	if self := a.call.Self; !self.IsZero() {
		ids = slices.DeleteFunc(ids, func(id ID) bool { return id != self })
	}
	if len(ids) == 0 {
		return nil, a.missing(ctx)
	}
	for _, id := range ids {
		a.about(id)
	}
	if err := a.done(ctx); err != nil {
		return nil, err
	}
	return ids, nil
}

// Resolve returns the patron behind a borrower token of a circulation record, for an overdue notice or a lost item. It needs the right to resolve.
//
// Errors: [ErrNotFound], also for a token of another installation; [ErrDenied], [ErrNotRecorded].
func (d *Directory) Resolve(ctx context.Context, call Call, token string) (ID, error) {
	a, err := d.begin(ctx, call, audit.Resolve, ID{})
	if err != nil {
		return ID{}, err
	}
	if err := a.need(ctx, access.Resolve); err != nil {
		return ID{}, err
	}
	var ids []ID
	reference, err := d.borrowers.Open(token)
	if err == nil {
		ids, err = d.byReference(ctx, reference)
	} else if errors.Is(err, crypto.ErrNotPseudonym) {
		err = nil
	}
	if err != nil {
		return ID{}, err
	}
	ids, err = a.found(ctx, ids)
	if err != nil {
		return ID{}, err
	}
	return ids[0], nil
}

// Reference returns what a borrower token of a patron is made of who is known by an identifier of a type, and whose ID is not at hand:
// to make tokens for an export of another system, whose records name borrowers by its own numbers. The identifier is normalized, so that one
// person has one token however their number is written.
func Reference(use string, identifier string) string { return use + ":" + Normalize(identifier) }

// byReference finds a patron by ID or by an identifier of one type: that somebody else has the same text as a bar code does not matter.
func (d *Directory) byReference(ctx context.Context, reference crypto.Secret) ([]ID, error) {
	if id, err := ParseID(reference.Reveal()); err == nil {
		switch _, err := d.cfg.Store.Get(ctx, id); {
		case err == nil:
			return []ID{id}, nil
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
		return nil, nil
	}
	use, identifier, ok := strings.Cut(reference.Reveal(), ":")
	if !ok {
		return nil, nil
	}
	ids, err := d.byIdentifier(ctx, crypto.NewSecret(identifier))
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	row, err := d.cfg.Store.Get(ctx, ids[0])
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	p, err := d.open(ctx, row, access.SetOf(access.Identifiers))
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(p.Identifiers, func(i Identifier) bool {
		return i.Use == use && Normalize(i.Value.Reveal()) == Normalize(identifier)
	}) {
		return nil, nil
	}
	return ids, nil
}

func (d *Directory) byIdentifier(ctx context.Context, identifier crypto.Secret) ([]ID, error) {
	value := Normalize(identifier.Reveal())
	if value == "" {
		return nil, nil
	}
	return d.lookUp(ctx, d.identifier, value)
}

// ErrNotReady means that an index is still being built.
var ErrNotReady = errors.New("patron: this index is still being built; see Reindex")

// ErrOldKeyring means that the store was written with index keys that the keyring file does not have: it is an old copy.
var ErrOldKeyring = errors.New("patron: the keyring is older than the database")

// lookUp asks the store with keys that are not older than the store's. While an index is rotated, it looks for old and new tokens, and
// when somebody else ended the rotation meanwhile, it looks again.
func (d *Directory) lookUp(ctx context.Context, index crypto.Index, values ...string) ([]ID, error) {
	x, err := d.indexes(ctx)
	if err != nil {
		return nil, err
	}
	for {
		if !x.Ready(index.Name()) {
			if x, err = d.cfg.Keys.RefreshIndexes(); err != nil {
				return nil, err
			}
			if !x.Ready(index.Name()) {
				return nil, ErrNotReady
			}
		}
		tokens, err := x.Tokens(index, values...)
		if err != nil {
			return nil, err
		}
		found, err := d.cfg.Store.Find(ctx, tokens)
		if err != nil {
			return nil, err
		}
		if found.Indexed <= x.Change() {
			ids := map[ID]bool{}
			for _, owners := range found.Owners {
				for _, id := range owners {
					ids[id] = true
				}
			}
			return slices.SortedFunc(maps.Keys(ids), func(a, b ID) int { return slices.Compare(a[:], b[:]) }), nil
		}
		if x, err = d.newer(x); err != nil {
			return nil, err
		}
	}
}

// ErrOldDatabase means that an index was rotated or added after the state in which the store is: it is an old copy, in which nobody
// would be found and identifiers would be given twice. [Directory.Reindex] mends it.
var ErrOldDatabase = errors.New("patron: the database is older than the keyring: rewrite its index tokens (Reindex) before anything else")

// indexes returns the index keys, if the store is not too old for them. It is asked once for each state of the keys.
func (d *Directory) indexes(ctx context.Context) (*crypto.Indexes, error) {
	x := d.cfg.Keys.Indexes()
	if d.checked.Load() == x {
		return x, nil
	}
	old, _, err := d.tooOld(ctx, x)
	if err != nil {
		return nil, err
	}
	if old {
		return nil, ErrOldDatabase
	}
	if !x.Ready(crypto.IndexIdentifier) { // a Reindex of an old database is under way, or was interrupted
		if x, err = d.cfg.Keys.RefreshIndexes(); err != nil {
			return nil, err
		}
		if !x.Ready(crypto.IndexIdentifier) {
			return nil, ErrNotReady
		}
	}
	d.checked.Store(x)
	return x, nil
}

// tooOld reports whether the store lacks tokens that are looked up by, and the change that it has seen.
func (d *Directory) tooOld(ctx context.Context, x *crypto.Indexes) (old bool, seen uint64, err error) {
	found, err := d.cfg.Store.Find(ctx, nil)
	if err != nil || found.Indexed >= x.Since() {
		return false, found.Indexed, err
	}
	rows, err := d.cfg.Store.Rows(ctx, Query{Limit: 1})
	return len(rows) > 0, found.Indexed, err // else it is a new one
}

// newer returns index keys that are newer than the ones given.
func (d *Directory) newer(x *crypto.Indexes) (*crypto.Indexes, error) {
	next, err := d.cfg.Keys.RefreshIndexes()
	if err == nil && next.Change() <= x.Change() {
		err = ErrOldKeyring
	}
	return next, err
}
