package access

import (
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"slices"
	"strings"

	"github.com/carrel-project/carrel/internal/closed"
)

// A Segment is a part of a patron record that is sealed, shown and audited as one. The vocabulary is
// closed, and the order is part of the format: values are only ever appended. The zero Segment is [Names].
type Segment uint8

// The segments of a patron record.
const (
	Names       Segment = iota // what the patron is called
	Addresses                  // postal addresses
	Phones                     // telephone numbers
	Emails                     // e-mail addresses
	Identifiers                // barcodes, user names, external ids
	Birth                      // date or year of birth
	Blocks                     // why the patron may not borrow
	Notes                      // what staff wrote about the patron
	Roles                      // what the patron is to the institution
	Campus                     // where the patron belongs
	Statistics                 // free-text statistics
	Photo                      // a link to a picture
)

// SegmentCount is the number of segments.
const SegmentCount = 12

var segmentWords = [SegmentCount]string{
	"names", "addresses", "phones", "emails", "identifiers", "birth",
	"blocks", "notes", "roles", "campus", "statistics", "photo",
}

// String returns the word for the segment in files and trails, or segment(n) for none that exists.
func (s Segment) String() string {
	if s >= SegmentCount {
		return fmt.Sprintf("segment(%d)", uint8(s))
	}
	return segmentWords[s]
}

// ParseSegment reads the word that [Segment.String] writes. The error does not repeat the word, which may
// come from anywhere.
func ParseSegment(word string) (Segment, error) {
	i, err := parseWord(word, "segment", segmentWords[:])
	return Segment(i), err
}

// parseWord returns the index of a word in a closed vocabulary.
func parseWord(word, what string, known []string) (int, error) {
	i := slices.Index(known, word)
	if i < 0 {
		return 0, errors.New("access: unknown " + what + closed.Hint(word, known))
	}
	return i, nil
}

// AllSegments returns every segment in order.
func AllSegments() (all [SegmentCount]Segment) {
	for i := range all {
		all[i] = Segment(i)
	}
	return all
}

// A Set is a set of segments. The zero Set is empty. Sets are compared with == and combined with |, & and &^.
type Set uint16

// everySegment is the set of all segments; a bit outside of it stands for nothing.
const everySegment = Set(1<<SegmentCount - 1)

// SetOf returns the set of the segments. Unknown segments are left out.
func SetOf(segments ...Segment) Set { return Set(0).With(segments...) }

// Has reports whether the segment is in the set. An unknown segment never is.
func (s Set) Has(segment Segment) bool { return segment < SegmentCount && s&(1<<segment) != 0 }

// With returns the set with the segments added. Unknown segments are left out.
func (s Set) With(segments ...Segment) Set {
	for _, segment := range segments {
		if segment < SegmentCount {
			s |= 1 << segment
		}
	}
	return s
}

// Without returns the set with the segments taken out.
func (s Set) Without(segments ...Segment) Set { return s &^ SetOf(segments...) }

// Len returns how many segments the set has.
func (s Set) Len() int { return bits.OnesCount16(uint16(s & everySegment)) }

// All yields the segments of the set in their order.
func (s Set) All() iter.Seq[Segment] {
	return func(yield func(Segment) bool) {
		for _, segment := range AllSegments() {
			if s.Has(segment) && !yield(segment) {
				return
			}
		}
	}
}

// Names returns the words of the segments in their order; nil for the empty set.
func (s Set) Names() (names []string) {
	for segment := range s.All() {
		names = append(names, segment.String())
	}
	return names
}

// String returns the words of the segments, separated by commas.
func (s Set) String() string { return strings.Join(s.Names(), ", ") }
