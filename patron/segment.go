package patron

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"unicode/utf8"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
)

// A segment's plaintext is its entries, one after the other, each as
//
//	length of the use, use, number of fields, and for each field that is not empty: its number, its length, its bytes
//
// with all numbers as unsigned varints and fields in ascending order, numbered from 0 in the order of [Fields]. It
// begins with the byte 1. There is one encoding of a value.

// An entry is a value with a use and fields: one of a list, or the only one of its segment.
type entry struct {
	use    *string // nil: the segment has no uses
	fields []*crypto.Secret
}

func (p *Name) entry() entry {
	return entry{&p.Use, []*crypto.Secret{&p.Prefix, &p.First, &p.Middle, &p.Last, &p.Suffix}}
}
func (p *Address) entry() entry {
	return entry{&p.Use, []*crypto.Secret{&p.Street, &p.Extra, &p.City, &p.Region, &p.Postcode, &p.Country, &p.From, &p.Until}}
}
func (p *Phone) entry() entry      { return entry{&p.Use, []*crypto.Secret{&p.Number}} }
func (p *Email) entry() entry      { return entry{&p.Use, []*crypto.Secret{&p.Address}} }
func (p *Identifier) entry() entry { return entry{&p.Use, []*crypto.Secret{&p.Value}} }
func (p *Block) entry() entry      { return entry{&p.Use, []*crypto.Secret{&p.Note, &p.From, &p.Until}} }
func (p *Note) entry() entry       { return entry{&p.Use, []*crypto.Secret{&p.Text, &p.At, &p.Author}} }
func (p *Role) entry() entry       { return entry{&p.Use, []*crypto.Secret{&p.Scope, &p.From, &p.Until}} }
func (p *Campus) entry() entry     { return entry{&p.Use, []*crypto.Secret{&p.Name}} }
func (p *Statistic) entry() entry  { return entry{&p.Use, []*crypto.Secret{&p.Value}} }

// A part is where a segment lies in a Profile.
type part struct {
	entries func(*Profile) iter.Seq[entry]
	add     func(*Profile) entry
	take    func(to, from *Profile)
}

var parts = [access.SegmentCount]part{
	access.Names:       many(func(p *Profile) *[]Name { return &p.Names }),
	access.Addresses:   many(func(p *Profile) *[]Address { return &p.Addresses }),
	access.Phones:      many(func(p *Profile) *[]Phone { return &p.Phones }),
	access.Emails:      many(func(p *Profile) *[]Email { return &p.Emails }),
	access.Identifiers: many(func(p *Profile) *[]Identifier { return &p.Identifiers }),
	access.Birth:       single(func(p *Profile) *crypto.Secret { return &p.Birth }),
	access.Blocks:      many(func(p *Profile) *[]Block { return &p.Blocks }),
	access.Notes:       many(func(p *Profile) *[]Note { return &p.Notes }),
	access.Roles:       many(func(p *Profile) *[]Role { return &p.Roles }),
	access.Campus:      many(func(p *Profile) *[]Campus { return &p.Campus }),
	access.Statistics:  many(func(p *Profile) *[]Statistic { return &p.Statistics }),
	access.Photo:       single(func(p *Profile) *crypto.Secret { return &p.Photo }),
}

// entryOf is a pointer to T that can say its entry.
type entryOf[T any] interface {
	*T
	entry() entry
}

// many is a segment of any number of entries.
func many[T any, P entryOf[T]](of func(*Profile) *[]T) part {
	return part{
		entries: func(p *Profile) iter.Seq[entry] {
			return func(yield func(entry) bool) {
				list := *of(p)
				for i := range list {
					if !yield(P(&list[i]).entry()) {
						return
					}
				}
			}
		},
		add: func(p *Profile) entry {
			list := of(p)
			*list = append(*list, *new(T))
			return P(&(*list)[len(*list)-1]).entry()
		},
		take: func(to, from *Profile) { *of(to) = *of(from) },
	}
}

// single is a segment of one value, without a use.
func single(of func(*Profile) *crypto.Secret) part {
	return part{
		entries: func(p *Profile) iter.Seq[entry] {
			return func(yield func(entry) bool) {
				if s := of(p); !s.IsEmpty() {
					yield(entry{nil, []*crypto.Secret{s}})
				}
			}
		},
		add:  func(p *Profile) entry { return entry{nil, []*crypto.Secret{of(p)}} },
		take: func(to, from *Profile) { *of(to) = *of(from) },
	}
}

// entries yields the entries of a segment that are there; none of one that does not exist.
func (p *Profile) entries(s access.Segment) iter.Seq[entry] {
	if int(s) >= len(parts) {
		return func(func(entry) bool) {}
	}
	return parts[s].entries(p)
}

// add appends an empty entry to a segment and returns it.
func (p *Profile) add(s access.Segment) entry { return parts[s].add(p) }

// take replaces a segment by that of another profile.
func (p *Profile) take(s access.Segment, from *Profile) { parts[s].take(p, from) }

// drop empties a segment.
func (p *Profile) drop(s access.Segment) { p.take(s, &Profile{}) }

// Has reports whether the profile has anything in a segment.
func (p *Profile) Has(s access.Segment) bool {
	for range p.entries(s) {
		return true
	}
	return false
}

// Segments returns the segments in which the profile has anything.
func (p *Profile) Segments() (set access.Set) {
	for _, s := range access.AllSegments() {
		if p.Has(s) {
			set = set.With(s)
		}
	}
	return set
}

const segmentFormat = 1

// encode returns the plaintext of a segment, empty when there is nothing in it.
func (p *Profile) encode(s access.Segment) crypto.Secret {
	var b []byte
	for e := range p.entries(s) {
		if b == nil {
			b = append(make([]byte, 0, 128), segmentFormat)
		}
		b = e.append(b)
	}
	return crypto.NewSecret(string(b))
}

func (e entry) append(b []byte) []byte {
	use := ""
	if e.use != nil {
		use = *e.use
	}
	b = binary.AppendUvarint(b, uint64(len(use)))
	b = append(b, use...)
	n := 0
	for _, f := range e.fields {
		if !f.IsEmpty() {
			n++
		}
	}
	b = binary.AppendUvarint(b, uint64(n))
	for i, f := range e.fields {
		if f.IsEmpty() {
			continue
		}
		v := f.Reveal()
		b = binary.AppendUvarint(b, uint64(i))
		b = binary.AppendUvarint(b, uint64(len(v)))
		b = append(b, v...)
	}
	return b
}

var errSegment = errors.New("patron: a segment is damaged or was written by a newer carrel")

// decode fills a segment from its plaintext.
func (p *Profile) decode(s access.Segment, plain crypto.Secret) error {
	text := plain.Reveal()
	p.drop(s)
	if text == "" {
		return nil
	}
	if text[0] != segmentFormat || len(text) == 1 { // without entries it would be a second encoding of nothing
		return errSegment
	}
	d := decoder{text[1:], true}
	for len(d.rest) > 0 {
		e := p.add(s)
		use := d.text()
		switch {
		case e.use != nil:
			*e.use = use
		case use != "":
			return errSegment
		}
		last := -1
		for range d.number() {
			i := d.number()
			v := d.text()
			if !d.ok || i >= uint64(len(e.fields)) || int(i) <= last || v == "" {
				return errSegment
			}
			last = int(i)
			*e.fields[i] = crypto.NewSecret(v)
		}
		if !d.ok || e.use == nil && (last < 0 || len(d.rest) > 0) {
			return errSegment
		}
	}
	return nil
}

// A decoder reads varints and texts until something is wrong.
type decoder struct {
	rest string
	ok   bool
}

func (d *decoder) number() uint64 {
	// Not binary.Uvarint, which wants bytes and would copy, and takes several encodings of one number.
	var n uint64
	for i := 0; i < len(d.rest) && i < 5; i++ {
		c := d.rest[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if c == 0 && i > 0 {
				break
			}
			d.rest = d.rest[i+1:]
			return n
		}
	}
	d.ok, d.rest = false, ""
	return 0
}

func (d *decoder) text() string {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.ok, d.rest = false, ""
		return ""
	}
	v := d.rest[:n]
	d.rest = d.rest[n:]
	return v
}

const (
	maxEntries = 100
	maxUse     = 40
	maxValue   = 4096
)

// check says what makes a profile unfit to be stored. It repeats nothing of it.
func (p *Profile) check() error {
	if err := p.checkSegments(allSegments); err != nil {
		return err
	}
	return p.Facts.check()
}

func (p *Profile) checkSegments(segments access.Set) error {
	if segments.Has(access.Identifiers) && len(p.Identifiers) == 0 {
		return errors.New("patron: identifiers: none; a patron needs at least one by which to be found")
	}
	for s := range segments.All() {
		fields, n := Fields(s), 0
		for e := range p.entries(s) {
			if n++; n > maxEntries {
				return fmt.Errorf("patron: %v: more than %d", s, maxEntries)
			}
			if e.use != nil && !isUse(*e.use) {
				return fmt.Errorf("patron: %v, number %d: its use must be a word of small letters, digits, and - or _, at most %d", s, n, maxUse)
			}
			for i, f := range e.fields {
				v := f.Reveal()
				switch {
				case len(v) > maxValue:
					return fmt.Errorf("patron: %v, number %d: %s is longer than %d bytes", s, n, fields[i].Name, maxValue)
				case !utf8.ValidString(v):
					return fmt.Errorf("patron: %v, number %d: %s is not UTF-8", s, n, fields[i].Name)
				case v != "" && fields[i].check != nil && !fields[i].check(v):
					return fmt.Errorf("patron: %v, number %d: %s must be %s", s, n, fields[i].Name, fields[i].want)
				}
			}
		}
	}
	if segments.Has(access.Identifiers) {
		for i, id := range p.Identifiers {
			if Normalize(id.Value.Reveal()) == "" {
				return fmt.Errorf("patron: identifiers, number %d: it is empty", i+1)
			}
		}
	}
	return nil
}

func (f Facts) check() error {
	if f.Wish != WishNone && f.Wish != WishKeep && f.Wish != WishForget {
		return errors.New("patron: wish must be keep, forget or empty")
	}
	if len(f.Categories) > maxEntries {
		return fmt.Errorf("patron: more than %d categories", maxEntries)
	}
	for _, v := range append([]string{f.Group, f.Library}, f.Categories...) {
		if len(v) > maxValue || !utf8.ValidString(v) {
			return fmt.Errorf("patron: a group, library or category must be UTF-8 of at most %d bytes", maxValue)
		}
	}
	return nil
}

func isUse(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return len(s) <= maxUse
}
