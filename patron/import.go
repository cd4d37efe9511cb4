package patron

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// Imported is what an import did, so far or altogether.
type Imported struct {
	Added   int
	Updated int
	Same    int
	Refused []Refusal
}

// A Refusal is a profile that was not taken over. The others were.
type Refusal struct {
	Row int // counted from 1
	Err error
}

// A Source says what the list that is imported knows best. The zero value is a list that knows nothing best.
type Source struct {
	Owns access.Set // segments that are replaced also by nothing

	// Key is the type of identifier by which the source tells people apart, such as its own number. Somebody who is there with
	// another one of that type is somebody else, though they share a bar code. Empty: whoever shares an identifier is the same.
	Key string
}

const importBatch = 1000

// Import adds patrons and brings them up to date, as a student information system or another system lists them. Somebody who is there is
// known by any of their identifiers. What replaces what: the facts, but the wish only if the profile has one; every segment that the profile has; those that the source owns also when the
// profile has nothing in them; of the identifiers, those of the types that the profile has.
//
// It works through the sequence in batches, each of which is recorded, and durable when it is done: if the import ends in the middle, do it
// again. Whoever cannot be taken over is refused and the rest goes on: [ErrDuplicate] when the identifiers belong to several
// patrons, or to one with another key of the source's, or what is wrong with the profile. An error of the sequence ends the import and is returned as it is. The sequence must not use the
// store while it yields, unless the store can read and write at once. Progress, which may be nil, is called after each batch.
//
// It needs the right to import, and the level full on every segment that it writes.
func (d *Directory) Import(ctx context.Context, call Call, source Source, profiles iter.Seq2[Profile, error], progress func(Imported)) (Imported, error) {
	in := &importing{d: d, call: call, source: source, claimed: map[crypto.Token]bool{}}
	if _, err := in.begin(ctx); err != nil {
		return in.done, err
	}
	row := 0
	for p, err := range profiles {
		if err != nil {
			return in.done, err
		}
		row++
		if err := errors.Join(p.check(), d.checkCombinations(&p)); err != nil {
			in.done.Refused = append(in.done.Refused, Refusal{row, err})
			continue
		}
		in.waiting = append(in.waiting, incoming{row: row, profile: p})
		if len(in.waiting) < importBatch {
			continue
		}
		if err := in.flush(ctx); err != nil {
			return in.done, err
		}
		if progress != nil {
			progress(in.done)
		}
	}
	err := in.flush(ctx)
	if err == nil && progress != nil {
		progress(in.done)
	}
	return in.done, err
}

// importing is an import under way.
type importing struct {
	d      *Directory
	call   Call
	source Source
	may    access.Set // segments that may be written
	done   Imported

	waiting []incoming
	claimed map[crypto.Token]bool // of those that wait
}

type incoming struct {
	row     int
	profile Profile
	tokens  []crypto.Token
}

// begin asks access, once for each batch: the event of a batch is its own.
func (in *importing) begin(ctx context.Context) (*act, error) {
	a, err := in.d.begin(ctx, in.call, audit.Import, ID{})
	if err != nil {
		return nil, err
	}
	if err := a.need(ctx, access.Import); err != nil {
		return nil, err
	}
	in.may = a.may.Levels.AtLeast(access.Full)
	if err := a.full(ctx, in.source.Owns); err != nil {
		return nil, err
	}
	return a, nil
}

// flush writes those that wait. Two of one batch who share an identifier go into the store one after the other.
func (in *importing) flush(ctx context.Context) error {
	for try := 0; len(in.waiting) > 0; {
		n, err := in.batch(ctx)
		switch {
		case err == nil:
			in.waiting = slices.Delete(in.waiting, 0, n)
			try = 0
		case (errors.Is(err, ErrConflict) || errors.Is(err, ErrDuplicate)) && try < attempts:
			try++
		default:
			return err
		}
	}
	return nil
}

// batch writes the first of those that wait, as many as can go together, and returns how many.
func (in *importing) batch(ctx context.Context) (n int, err error) {
	d := in.d
	a, err := in.begin(ctx)
	if err != nil {
		return 0, err
	}
	for _, w := range in.waiting {
		if w.profile.Segments()&^in.may != 0 {
			return 0, a.refuse(ctx, whyNoRight)
		}
	}
	owners, n, err := in.owners(ctx)
	if err != nil {
		return 0, err
	}
	var done Imported
	var list []writing
	var fresh []crypto.Subject
	segments := access.Set(0)
	for i, w := range in.waiting[:n] {
		one, err := in.one(ctx, w, owners[i])
		switch {
		case isRefusal(err):
			done.Refused = append(done.Refused, Refusal{w.row, err})
			continue
		case err != nil:
			return 0, err
		case one.same():
			done.Same++
			continue
		case one.old.Version == 0:
			done.Added++
			fresh = append(fresh, one.id.Subject())
		default:
			done.Updated++
		}
		list = append(list, one)
		segments |= one.segments
		a.event.Subjects = append(a.event.Subjects, one.subject())
	}
	if len(fresh) > 0 {
		if err := d.cfg.Keys.CreateKeys(ctx, fresh...); err != nil {
			return 0, err
		}
	}
	// Also of a batch that changes nothing: the counts tell who is there.
	a.event.Segments, a.event.Count = segments.Names(), len(list)
	if err := a.done(ctx); err != nil {
		return 0, err
	}
	if len(list) > 0 {
		if err := d.put(ctx, list); err != nil {
			return 0, a.undone(ctx, err)
		}
	}
	in.done.Added += done.Added
	in.done.Updated += done.Updated
	in.done.Same += done.Same
	in.done.Refused = append(in.done.Refused, done.Refused...)
	return n, nil
}

// isRefusal reports whether an error concerns one patron, so that the others can go on.
func isRefusal(err error) bool {
	return errors.Is(err, ErrDuplicate) || errors.Is(err, errUnfit) || errors.Is(err, errRestricted) || errors.Is(err, errErasing) || errors.Is(err, crypto.ErrShredded) || isDamage(err)
}

// owners finds whose the identifiers are of those that wait: of the first n, no two of whom share one or are the same patron.
func (in *importing) owners(ctx context.Context) (owners [][]ID, n int, err error) {
	d := in.d
	x, err := d.indexes(ctx)
	if err != nil {
		return nil, 0, err
	}
	for {
		clear(in.claimed)
		var all []crypto.Token
		for n = 0; n < len(in.waiting); n++ {
			w := &in.waiting[n]
			if w.tokens, err = d.identifierTokens(x, &w.profile); err != nil {
				return nil, 0, err
			}
			if slices.ContainsFunc(w.tokens, func(t crypto.Token) bool { return in.claimed[t] }) {
				break
			}
			for _, t := range w.tokens {
				in.claimed[t] = true
			}
			all = append(all, w.tokens...)
		}
		found, err := d.cfg.Store.Find(ctx, all)
		if err != nil {
			return nil, 0, err
		}
		if found.Indexed > x.Change() {
			if x, err = d.newer(x); err != nil {
				return nil, 0, err
			}
			continue
		}
		seen := map[ID]bool{}
		for i := range n {
			var of []ID
			for _, t := range in.waiting[i].tokens {
				for _, id := range found.Owners[t] {
					if !slices.Contains(of, id) {
						of = append(of, id)
					}
				}
			}
			if slices.ContainsFunc(of, func(id ID) bool { return seen[id] }) {
				return owners, i, nil
			}
			for _, id := range of {
				seen[id] = true
			}
			owners = append(owners, of)
		}
		return owners, n, nil
	}
}

// errMoved refuses to write one patron's data into another's record because a token was hung on it in the database.
var errMoved = fmt.Errorf("%w: the row that is found by this identifier does not have it", crypto.ErrNotAuthentic)

func sharesIdentifier(a, b []Identifier) bool {
	return slices.ContainsFunc(a, func(x Identifier) bool {
		return slices.ContainsFunc(b, func(y Identifier) bool { return Normalize(x.Value.Reveal()) == Normalize(y.Value.Reveal()) })
	})
}

var errUnfit = errors.New("patron: together with what is there it is no patron")

// one works out what becomes of one profile.
func (in *importing) one(ctx context.Context, w incoming, owners []ID) (writing, error) {
	switch len(owners) {
	case 0:
		return writing{id: NewID(), facts: w.profile.Facts, after: w.profile, segments: w.profile.Segments()}, nil
	case 1:
	default:
		return writing{}, ErrDuplicate
	}
	row, err := in.d.cfg.Store.Get(ctx, owners[0])
	if errors.Is(err, ErrNotFound) {
		return writing{}, &ConflictError{owners[0]} // it went meanwhile
	} else if err != nil {
		return writing{}, err
	}
	switch {
	case !row.Restricted.IsZero():
		return writing{}, errRestricted
	case !row.Erasing.IsZero():
		return writing{}, errErasing
	}
	facts := w.profile.Facts
	if facts.Wish == WishNone {
		facts.Wish, facts.WishSince = row.Facts.Wish, row.Facts.WishSince
	}
	u := Update{Facts: &facts, Segments: in.source.Owns | w.profile.Segments(), Profile: w.profile}
	there, err := in.d.open(ctx, row, access.SetOf(access.Identifiers))
	if err != nil {
		return writing{}, err
	}
	if !sharesIdentifier(there.Identifiers, w.profile.Identifiers) {
		return writing{}, errMoved
	}
	if !sameKey(in.source.Key, there.Identifiers, w.profile.Identifiers) {
		return writing{}, ErrDuplicate
	}
	u.Profile.Identifiers = mergeIdentifiers(there.Identifiers, w.profile.Identifiers)
	one, err := in.d.revise(ctx, row, u)
	if err != nil {
		return writing{}, err
	}
	if err := errors.Join(one.after.checkSegments(u.Segments), in.d.checkCombinations(&one.after)); err != nil {
		return writing{}, fmt.Errorf("%w: %w", errUnfit, err)
	}
	return one, nil
}

// sameKey reports that two lists do not name different people by identifiers of a type.
func sameKey(key string, old, list []Identifier) bool {
	of := func(ids []Identifier) (values []string) {
		for _, id := range ids {
			if id.Use == key {
				values = append(values, Normalize(id.Value.Reveal()))
			}
		}
		return values
	}
	if key == "" {
		return true
	}
	was, is := of(old), of(list)
	return len(was) == 0 || len(is) == 0 || slices.ContainsFunc(is, func(v string) bool { return slices.Contains(was, v) })
}

// mergeIdentifiers keeps those of types that the new list does not have. The others take the places of their type, in their order, so
// that two systems that know different types do not change a record back and forth.
func mergeIdentifiers(old, list []Identifier) (merged []Identifier) {
	rest := slices.Clone(list)
	for _, id := range old {
		same := func(x Identifier) bool { return x.Use == id.Use }
		if !slices.ContainsFunc(list, same) {
			merged = append(merged, id)
		} else if i := slices.IndexFunc(rest, same); i >= 0 {
			merged = append(merged, rest[i])
			rest = slices.Delete(rest, i, i+1)
		}
	}
	return append(merged, rest...)
}
