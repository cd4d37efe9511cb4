package audit

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// The tags of the public part, in the order in which fields are written. The package comment specifies them.
const (
	tagTime = 1 + iota
	tagAction
	tagOutcome
	tagWhy
	tagActor
	tagRole
	tagPurpose
	tagChannel
	tagNetwork
	tagSegment
	tagCount
	tagGrant
	tagRecipient
	tagApproval
	tagObject
	tagKind
	tagTally
	tagCovers
	tagBefore
	tagRanges
	tagCollapsed
)

// errEncoding means that bytes are not the one encoding of anything.
var errEncoding = errors.New("audit: not an encoded event")

func appendField[T string | []byte](b []byte, tag byte, value T) []byte {
	b = binary.AppendUvarint(append(b, tag), uint64(len(value)))
	return append(b, value...)
}

func appendNumber(b []byte, tag byte, n uint64) []byte {
	if n == 0 {
		return b
	}
	var v [binary.MaxVarintLen64]byte
	return appendField(b, tag, v[:binary.PutUvarint(v[:], n)])
}

// encode returns the public part of an event. The event has been checked.
func (e *Event) encode() []byte {
	b := make([]byte, 0, 256)
	b = appendNumber(b, tagTime, uint64(e.Time.UnixMicro()))
	texts := e.texts()
	upTo := func(tag byte) {
		for len(texts) > 0 && texts[0].tag < tag {
			if *texts[0].text != "" {
				b = appendField(b, texts[0].tag, *texts[0].text)
			}
			texts = texts[1:]
		}
	}
	upTo(tagSegment)
	segments := e.Segments
	if !slices.IsSorted(segments) {
		segments = slices.Sorted(slices.Values(segments))
	}
	for i, s := range segments {
		if i == 0 || s != segments[i-1] {
			b = appendField(b, tagSegment, s)
		}
	}
	b = appendNumber(b, tagCount, uint64(e.Count))
	upTo(tagTally)
	for _, t := range e.Tally {
		b = appendField(b, tagTally, binary.AppendUvarint(appendField(nil, 0, t.Name), uint64(t.Count)))
	}
	b = appendNumber(b, tagCovers, uint64(e.Covers/time.Second))
	if !e.Before.IsZero() {
		b = appendNumber(b, tagBefore, uint64(e.Before.UnixMicro()))
	}
	if len(e.Ranges) > 0 {
		var list []byte
		last := uint64(0)
		for _, r := range e.Ranges {
			list = binary.AppendUvarint(list, r.From-last)
			list = binary.AppendUvarint(list, r.To-r.From)
			last = r.To
		}
		b = appendField(b, tagRanges, list)
	}
	return appendNumber(b, tagCollapsed, e.Collapsed)
}

// A reader takes an encoding apart. After an error it reads nothing more.
type reader struct {
	b   []byte
	bad bool
}

// uvarint reads a number in its shortest form.
func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || size > 1 && r.b[size-1] == 0 {
		r.fail()
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) part() []byte { return r.bytes(r.uvarint()) }

func (r *reader) byte() byte {
	if b := r.bytes(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *reader) fail() { r.b, r.bad = nil, true }

// number reads a field that is a number and not zero.
func number(value []byte) (n uint64, ok bool) {
	r := reader{b: value}
	n = r.uvarint()
	return n, !r.bad && len(r.b) == 0 && n > 0
}

func instant(value []byte) (t time.Time, ok bool) {
	n, ok := number(value)
	return time.UnixMicro(int64(n)).UTC(), ok && n < 1<<58
}

// decode reads the public part of an event. It accepts what encode writes and nothing else.
func decode(public []byte) (e Event, err error) {
	r := reader{b: public}
	texts := map[byte]*string{}
	for _, f := range e.texts() {
		texts[f.tag] = f.text
	}
	last := byte(0)
	for len(r.b) > 0 {
		tag, ok := r.byte(), true
		value := r.part()
		if r.bad || len(value) == 0 {
			return Event{}, errEncoding
		}
		if tag < last || tag == last && tag != tagSegment && tag != tagTally {
			return Event{}, errEncoding
		}
		last = tag
		var n uint64
		switch tag {
		case tagTime:
			e.Time, ok = instant(value)
		case tagSegment:
			s := string(value)
			ok = len(e.Segments) == 0 || e.Segments[len(e.Segments)-1] < s
			e.Segments = append(e.Segments, s)
		case tagCount:
			n, ok = number(value)
			e.Count = int(n)
		case tagTally:
			v := reader{b: value}
			ok = v.byte() == 0
			t := Tally{Name: string(v.part()), Count: int(v.uvarint())}
			ok = ok && !v.bad && len(v.b) == 0
			e.Tally = append(e.Tally, t)
		case tagCovers:
			n, ok = number(value)
			ok = ok && n < 1<<32
			e.Covers = time.Duration(n) * time.Second
		case tagBefore:
			e.Before, ok = instant(value)
		case tagRanges:
			v := reader{b: value}
			for at := uint64(0); len(v.b) > 0; {
				from := at + v.uvarint()
				to := from + v.uvarint()
				ok = ok && at <= from && from < to
				e.Ranges = append(e.Ranges, Range{from, to})
				at = to
			}
			ok = ok && !v.bad
		case tagCollapsed:
			e.Collapsed, ok = number(value)
		default:
			text := texts[tag]
			if text == nil {
				return Event{}, errEncoding
			}
			*text = string(value)
		}
		if !ok {
			return Event{}, errEncoding
		}
	}
	if r.bad || e.check() != nil {
		return Event{}, errEncoding
	}
	return e, nil
}

// What is sealed of a subject.
const (
	sealedVersion = 1 + iota
	sealedNote
	sealedChange
	sealedPadding
)

// padTo is what the length of what is sealed is a multiple of: lengths would tell which change of which record it was.
const padTo = 128

// encode returns what an event says about a subject beyond that it is about them; nothing when that is all.
func (s *Subject) encode() string {
	b := appendNumber(nil, sealedVersion, s.Version)
	if !s.Note.IsEmpty() {
		b = appendField(b, sealedNote, s.Note.Reveal())
	}
	for _, c := range s.Changes {
		change := appendField(nil, 0, c.Segment)
		change = appendField(change, 0, c.Before.Reveal())
		b = appendField(b, sealedChange, appendField(change, 0, c.After.Reveal()))
	}
	if len(b) == 0 {
		return ""
	}
	if over := len(b) % padTo; over > 0 { // the tag and the length, of one byte, are a part of it
		b = appendField(b, sealedPadding, make([]byte, (2*padTo-over-2)%padTo))
	}
	return string(b)
}

// decodeSubject reads what encode wrote.
func decodeSubject(id crypto.Subject, plain string) (s Subject, err error) {
	s.ID = id
	r := reader{b: []byte(plain)}
	for len(r.b) > 0 {
		tag := r.byte()
		value := r.part()
		if r.bad {
			return s, errEncoding
		}
		switch tag {
		case sealedVersion:
			var ok bool
			if s.Version, ok = number(value); !ok {
				return s, errEncoding
			}
		case sealedNote:
			s.Note = crypto.NewSecret(string(value))
		case sealedChange:
			v := reader{b: value}
			var parts [3]string
			for i := range parts {
				if v.byte() != 0 {
					v.fail()
				}
				parts[i] = strings.Clone(string(v.part()))
			}
			if v.bad || len(v.b) > 0 {
				return s, errEncoding
			}
			s.Changes = append(s.Changes, Change{parts[0], crypto.NewSecret(parts[1]), crypto.NewSecret(parts[2])})
		case sealedPadding:
		default:
			return s, errEncoding
		}
	}
	return s, nil
}
