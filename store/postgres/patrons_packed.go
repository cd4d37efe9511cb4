package postgres

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// Segments and tokens of a patron are packed into one column each, byte for byte as store/sqlite does it: rows can be copied from one to the other.

var (
	errDamaged  = errors.New("postgres: a patron's row is damaged")
	errSegments = errors.New("postgres: a patron has a segment twice")
	errTokens   = errors.New("postgres: a patron has a token twice")
	errText     = errors.New("a text has a NUL byte in it or is not UTF-8: PostgreSQL keeps no such text")
)

// storable reports that PostgreSQL can keep these texts. It refuses others; and what cannot be kept is not there.
func storable(texts ...string) bool {
	for _, s := range texts {
		if strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
			return false
		}
	}
	return true
}

// Times are UTC microseconds in the database; NULL is the zero time, not known.

func micros(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	us := t.UnixMicro()
	return &us
}

func instant(us *int64) time.Time {
	if us == nil {
		return time.Time{}
	}
	return time.UnixMicro(*us).UTC()
}

// packSegments writes each segment as its number in one byte, its revision and length as unsigned varints, and its bytes.
func packSegments(list []patron.SealedSegment) ([]byte, error) {
	size := 0
	for i := range list {
		size += 1 + 2*binary.MaxVarintLen64 + len(list[i].Data)
	}
	b := make([]byte, 0, size)
	var seen [256]bool
	for i := range list {
		s := &list[i]
		if seen[s.Segment] {
			return nil, errSegments
		}
		seen[s.Segment] = true
		b = append(b, byte(s.Segment))
		b = binary.AppendUvarint(b, s.Revision)
		b = binary.AppendUvarint(b, uint64(len(s.Data)))
		b = append(b, s.Data...)
	}
	return b, nil
}

// unpackSegments reads what packSegments writes, and nothing else. The segments share the memory of b, but cannot grow
// into each other.
func unpackSegments(b []byte) (list []patron.SealedSegment, err error) {
	var seen [256]bool
	for len(b) > 0 {
		number := b[0]
		revision, rest, ok := uvarint(b[1:])
		if !ok || seen[number] {
			return nil, errDamaged
		}
		seen[number] = true
		length, rest, ok := uvarint(rest)
		if !ok || length > uint64(len(rest)) {
			return nil, errDamaged
		}
		list = append(list, patron.SealedSegment{Segment: access.Segment(number), Revision: revision, Data: rest[:length:length]})
		b = rest[length:]
	}
	return list, nil
}

// uvarint reads a varint that is no longer than it must be.
func uvarint(b []byte) (v uint64, rest []byte, ok bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

func packTokens(list []crypto.Token) []byte {
	b := make([]byte, 0, len(list)*len(crypto.Token{}))
	for i := range list {
		b = append(b, list[i][:]...)
	}
	return b
}

func unpackTokens(b []byte) ([]crypto.Token, error) {
	const size = len(crypto.Token{})
	if len(b)%size != 0 {
		return nil, errDamaged
	}
	list := make([]crypto.Token, len(b)/size)
	for i := range list {
		copy(list[i][:], b[i*size:])
	}
	return list, nil
}

func packCategories(list []string) (string, error) {
	if len(list) == 0 {
		return "", nil
	}
	for _, s := range list {
		if !utf8.ValidString(s) { // a NUL byte is escaped
			return "", errText
		}
	}
	b, err := json.Marshal(list)
	return string(b), err
}

func unpackCategories(s string) (list []string, err error) {
	if s != "" && json.Unmarshal([]byte(s), &list) != nil {
		return nil, errDamaged
	}
	return list, nil
}
