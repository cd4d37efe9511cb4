package access

import "fmt"

// A Level says how much of a segment is shown. Higher levels show more. The zero Level is [None].
type Level uint8

// The levels.
const (
	None   Level = iota // not even whether there is a value
	Exists              // that there is a value, not which
	Masked              // enough of it to recognise, not to use
	Full                // all of it
)

var levelWords = [...]string{"none", "exists", "masked", "full"}

// String returns the word for the level, or level(n) for none that exists.
func (l Level) String() string {
	if l > Full {
		return fmt.Sprintf("level(%d)", uint8(l))
	}
	return levelWords[l]
}

// ParseLevel reads the word that [Level.String] writes. The error does not repeat the word.
func ParseLevel(word string) (Level, error) {
	i, err := parseWord(word, "level", levelWords[:])
	return Level(i), err
}

// Levels holds a level for each segment, two bits a segment. The zero Levels shows nothing of anything.
type Levels uint32

// Of returns the level of a segment; [None] for an unknown one.
func (l Levels) Of(s Segment) Level {
	if s >= SegmentCount {
		return None
	}
	return Level(l >> (2 * s) & 3)
}

// With returns the levels with one of them changed. An unknown segment changes nothing, and an unknown
// level is [None]: a mistake shows less, never more.
func (l Levels) With(s Segment, level Level) Levels {
	if s >= SegmentCount {
		return l
	}
	if level > Full {
		level = None
	}
	return l&^(3<<(2*s)) | Levels(level)<<(2*s)
}

// AtLeast returns the segments that are shown at the level or above. That is every segment for [None], and
// no segment for an unknown level.
func (l Levels) AtLeast(level Level) (set Set) {
	for _, s := range AllSegments() {
		if l.Of(s) >= level {
			set = set.With(s)
		}
	}
	return set
}

// Max returns, segment by segment, the higher level of the two.
func (l Levels) Max(other Levels) (most Levels) {
	for _, s := range AllSegments() {
		most = most.With(s, max(l.Of(s), other.Of(s)))
	}
	return most
}
