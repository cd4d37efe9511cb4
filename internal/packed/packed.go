// Package packed is how the stores of this module write what a patron has several of into one column each: byte for byte the same in all of them, so that rows can be
// copied from one to another.
package packed

import (
	"encoding/binary"
	"encoding/json"
	"errors"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// Segments and tokens of a patron are packed into one column each: a patron is read and written whole, and nine rows
// of a table beside it cost ten times what one does.

// What can be wrong with a row, or with what is to become one.
var (
	ErrDamaged  = errors.New("carrel: a patron's row is damaged")
	ErrSegments = errors.New("carrel: a patron has a segment twice")
	ErrTokens   = errors.New("carrel: a patron has a token twice")
)

// Segments writes each segment as its number in one byte, its revision and length as unsigned varints, and its bytes.
func Segments(list []patron.SealedSegment) ([]byte, error) {
	size := 0
	for i := range list {
		size += 1 + 2*binary.MaxVarintLen64 + len(list[i].Data)
	}
	b := make([]byte, 0, size)
	var seen [256]bool
	for i := range list {
		s := &list[i]
		if seen[s.Segment] {
			return nil, ErrSegments
		}
		seen[s.Segment] = true
		b = append(b, byte(s.Segment))
		b = binary.AppendUvarint(b, s.Revision)
		b = binary.AppendUvarint(b, uint64(len(s.Data)))
		b = append(b, s.Data...)
	}
	return b, nil
}

// ParseSegments reads what Segments writes, and nothing else. The segments share the memory of b, but cannot grow
// into each other.
func ParseSegments(b []byte) (list []patron.SealedSegment, err error) {
	var seen [256]bool
	for len(b) > 0 {
		number := b[0]
		revision, rest, ok := uvarint(b[1:])
		if !ok || seen[number] {
			return nil, ErrDamaged
		}
		seen[number] = true
		length, rest, ok := uvarint(rest)
		if !ok || length > uint64(len(rest)) {
			return nil, ErrDamaged
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

// Tokens writes tokens one after the other.
func Tokens(list []crypto.Token) []byte {
	b := make([]byte, 0, len(list)*len(crypto.Token{}))
	for i := range list {
		b = append(b, list[i][:]...)
	}
	return b
}

// ParseTokens reads what Tokens writes.
func ParseTokens(b []byte) ([]crypto.Token, error) {
	const size = len(crypto.Token{})
	if len(b)%size != 0 {
		return nil, ErrDamaged
	}
	list := make([]crypto.Token, len(b)/size)
	for i := range list {
		copy(list[i][:], b[i*size:])
	}
	return list, nil
}

// Categories writes a JSON array; nothing when there are none.
func Categories(list []string) (string, error) {
	if len(list) == 0 {
		return "", nil
	}
	b, err := json.Marshal(list)
	return string(b), err
}

// ParseCategories reads what Categories writes.
func ParseCategories(s string) (list []string, err error) {
	if s != "" && json.Unmarshal([]byte(s), &list) != nil {
		return nil, ErrDamaged
	}
	return list, nil
}
