package patron

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
)

// A Lookup is a blind index over fields of the profile, beside the one of identifiers, by which patrons are found: by
// e-mail address, say, or by last name and birth date together. The zero value is not usable.
type Lookup struct {
	index crypto.Index
	of    []place
}

type place struct {
	segment access.Segment
	field   int
}

// NewLookup declares an index over fields, each written as segment.field ("emails.address", "names.last", "birth.date"; see
// [Fields]). What has few values, or some that are frequent, is refused by itself with [crypto.ErrLowEntropy]: a name, a birth
// date, a postcode; how often each token occurs would give it away. It is accepted together with a field that has many values; a last
// name counts as one beside a birth date. A field is named once.
func NewLookup(name string, fields ...string) (Lookup, error) {
	if name == crypto.IndexIdentifier {
		return Lookup{}, fmt.Errorf("patron: the lookup %s is there always", name)
	}
	l := Lookup{}
	declared := make([]crypto.Field, 0, len(fields))
	names := 0
	for _, f := range fields {
		segment, field, _ := strings.Cut(f, ".")
		s, err := access.ParseSegment(segment)
		if err != nil {
			return Lookup{}, fmt.Errorf("patron: lookup %s: no such field; want segment.field, as in emails.address", name)
		}
		at := -1
		for i, known := range Fields(s) {
			if known.Name == field {
				at = i
			}
		}
		if at < 0 {
			return Lookup{}, fmt.Errorf("patron: lookup %s: %v have no such field", name, s)
		}
		if slices.Contains(l.of, place{s, at}) {
			return Lookup{}, fmt.Errorf("patron: lookup %s: %v.%s is named twice", name, s, field)
		}
		l.of = append(l.of, place{s, at})
		low := Fields(s)[at].low
		if s == access.Names && field == "last" {
			names++
		}
		declared = append(declared, crypto.Field{Name: f, LowEntropy: low})
	}
	if names > 0 && slices.Contains(l.of, place{access.Birth, 0}) {
		for i := range declared {
			if l.of[i].segment == access.Names {
				declared[i].LowEntropy = false
			}
		}
	}
	var err error
	l.index, err = crypto.NewIndex(name, declared...)
	return l, err
}

// Index returns the index, to add it to a keyring: [crypto.Keyring.AddIndex].
func (l Lookup) Index() crypto.Index { return l.index }

// tokens appends the tokens of a profile. Fields of one segment are taken from the same entry; where segments differ, each entry of one goes
// with each of the other.
func (l Lookup) tokens(x *crypto.Indexes, p *Profile) ([]crypto.Token, error) {
	var all []crypto.Token
	err := l.combine(p, make([]string, len(l.of)), l.segments(), func(values []string) error {
		t, err := x.Tokens(l.index, values...)
		all = append(all, t...)
		return err
	})
	return all, err
}

// combine fills in the values of the segments that are left.
func (l Lookup) combine(p *Profile, values []string, left access.Set, do func([]string) error) error {
	for segment := range left.All() {
		for e := range p.entries(segment) {
			complete := true
			for i, at := range l.of {
				if at.segment == segment {
					values[i] = Normalize(e.fields[at.field].Reveal())
					complete = complete && values[i] != ""
				}
			}
			if !complete {
				continue
			}
			if err := l.combine(p, values, left.Without(segment), do); err != nil {
				return err
			}
		}
		return nil // the others were filled in by the calls above
	}
	return do(values)
}

const maxCombinations = 1000

var errManyCombinations = fmt.Errorf("patron: the profile has more than %d combinations of values to look up by", maxCombinations)

// checkCombinations refuses a profile of which the lookups would make a flood of tokens. The bound is on what is written anew: what is there is
// always indexed again, or a rotation could not end.
func (d *Directory) checkCombinations(p *Profile) error {
	lookups, err := d.lookups(d.cfg.Keys.Indexes())
	if err != nil {
		return err
	}
	all := 0
	for _, l := range lookups {
		n := 1
		for s := range l.segments().All() {
			entries := 0
			for range p.entries(s) {
				entries++
			}
			n *= entries
		}
		all += n
	}
	if all > maxCombinations {
		return errManyCombinations
	}
	return nil
}

// ErrUnknownIndex means that the keyring has an index that this version of carrel cannot make tokens for. It writes nothing then, because
// rows without those tokens would not be found.
var ErrUnknownIndex = errors.New("patron: the keyring has an index that this program does not know")

// known are the lookups of one state of the index keys.
type known struct {
	keys *crypto.Indexes
	list []Lookup
}

// lookups returns all lookups that there are index keys for, also those that another program has added: whoever writes a row makes
// all its tokens.
func (d *Directory) lookups(x *crypto.Indexes) ([]Lookup, error) {
	if k := d.known.Load(); k != nil && k.keys == x {
		return k.list, nil
	}
	k := &known{keys: x}
	all := x.All()
	delete(all, crypto.IndexIdentifier)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		l, err := NewLookup(name, all[name]...)
		if err != nil {
			return nil, ErrUnknownIndex
		}
		k.list = append(k.list, l)
	}
	d.known.Store(k)
	return k.list, nil
}

// indexed returns the segments that index tokens are made of.
func (d *Directory) indexed(x *crypto.Indexes) (access.Set, error) {
	lookups, err := d.lookups(x)
	set := access.SetOf(access.Identifiers)
	for _, l := range lookups {
		set |= l.segments()
	}
	return set, err
}

func (l Lookup) segments() (set access.Set) {
	for _, at := range l.of {
		set = set.With(at.segment)
	}
	return set
}
