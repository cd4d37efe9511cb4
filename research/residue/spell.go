package residue

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A Form is a way in which an identifier is written down.
type Form uint8

// The forms that are looked for.
const (
	Plain     Form = iota // also in lower and in upper case
	Backwards             // spelt backwards
	Hex                   // hexadecimal digits
	Base64                // with either alphabet, wherever in a longer text
	UTF16                 // either byte order
	Escaped               // as in URLs or JSON
	Binary                // the sixteen bytes of a UUID
)

func (f Form) String() string {
	return [...]string{"plain", "backwards", "hex", "base64", "utf-16", "escaped", "binary"}[f]
}

// A spelling is one sequence of bytes that stands for an identifier.
type spelling struct {
	text  []byte
	form  Form
	align uint8 // Base64: bytes of the group that come before the identifier; UTF16: 1 for big endian
}

// strong reports that an identifier is so long and so unlike other texts that it tells something wherever it stands. Eight digits are a
// date, and nine are few numbers' length in a library but bar codes'.
func strong(id string) bool {
	digits, letters := 0, 0
	for _, r := range id {
		switch {
		case r >= '0' && r <= '9':
			digits++
		case r >= utf8.RuneSelf || r|0x20 >= 'a' && r|0x20 <= 'z':
			letters++
		}
	}
	switch {
	case letters == 0 && digits == 0:
		return false
	case letters == 0:
		return digits >= 9
	case digits > 0:
		return len(id) >= shortest
	}
	return len(id) >= 8
}

// spellings returns all ways in which an identifier is written. None is shorter than shortest.
func spellings(id string) (all []spelling) {
	add := func(text []byte, form Form, align uint8) {
		if len(text) < shortest {
			return
		}
		for _, s := range all {
			if bytes.Equal(s.text, text) {
				return
			}
		}
		all = append(all, spelling{text, form, align})
	}
	lower, upper := strings.ToLower(id), strings.ToUpper(id)
	for _, s := range []string{id, lower, upper} {
		add([]byte(s), Plain, 0)
	}
	add([]byte(backwards(id)), Backwards, 0)
	add([]byte(hex.EncodeToString([]byte(id))), Hex, 0)
	add([]byte(strings.ToUpper(hex.EncodeToString([]byte(id)))), Hex, 0)
	for align := range uint8(3) {
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			add(base64At(id, align, e), Base64, align)
		}
	}
	units := utf16.Encode([]rune(id))
	little, big := make([]byte, 0, 2*len(units)), make([]byte, 0, 2*len(units))
	for _, u := range units {
		little, big = append(little, byte(u), byte(u>>8)), append(big, byte(u>>8), byte(u))
	}
	add(little, UTF16, 0)
	add(big, UTF16, 1)
	add([]byte(url.QueryEscape(id)), Escaped, 0)
	add([]byte(url.PathEscape(id)), Escaped, 0)
	quoted := strconv.QuoteToASCII(id)
	add([]byte(quoted[1:len(quoted)-1]), Escaped, 0)
	if b, err := hex.DecodeString(strings.ReplaceAll(id, "-", "")); err == nil && len(id) == 36 && len(b) == 16 {
		add(b, Binary, 0)
		add([]byte(hex.EncodeToString(b)), Plain, 0) // without dashes
	}
	return all
}

func backwards(s string) string {
	r := []rune(s)
	for i, j := 0, len(r)-1; i < j; i, j = i+1, j-1 {
		r[i], r[j] = r[j], r[i]
	}
	return string(r)
}

// base64Skip is how many characters of a group are not the identifier's alone, if so many bytes come before it.
var base64Skip = [3]int{0, 2, 3}

// base64At returns the characters of base64 that an identifier alone determines, if align bytes come before it in its group of three.
func base64At(id string, align uint8, e *base64.Encoding) []byte {
	text := e.EncodeToString(append(make([]byte, align), id...))
	end := (int(align) + len(id)) * 8 / 6
	if base64Skip[align] >= end {
		return nil
	}
	return []byte(text[base64Skip[align]:end])
}

// stands reports whether the spelling of an identifier at b[at:] is that identifier and not the beginning or end of a longer one, as
// p-1 is of p-12. Of an encoded one the neighbours are decoded. The encoding may have left out bits: these are looked at, too.
func stands(b []byte, at int, id string, s *spelling) bool {
	end := at + len(s.text)
	before, after := -1, -1
	first, last := id[0], id[len(id)-1]
	switch s.form {
	case Plain, Escaped:
		before, after = byteAt(b, at-1), byteAt(b, end)
	case Backwards:
		first, last = last, first
		before, after = byteAt(b, at-1), byteAt(b, end)
	case Hex:
		before, after = hexAt(b, at-2), hexAt(b, end)
	case UTF16:
		before, after = unitAt(b, at-2, s.align), unitAt(b, end, s.align)
	case Base64:
		if !base64Exact(b, at, id, s) {
			return false
		}
		group := at - base64Skip[s.align]
		before, after = base64ByteAt(b, group, int(s.align)-1), base64ByteAt(b, group, int(s.align)+len(id))
	}
	return !continues(before, first) && !continues(last, after)
}

// base64Exact reports that what is encoded at b[at:] is an identifier also in the bits that it shares a character with.
func base64Exact(b []byte, at int, id string, s *spelling) bool {
	for i := range len(id) {
		if base64ByteAt(b, at-base64Skip[s.align], int(s.align)+i) != int(id[i]) {
			return false
		}
	}
	return true
}

// continues reports that two neighbours are of one word or of one number.
func continues[A, B int | byte](a A, b B) bool {
	c := class(int(a))
	return c != 0 && c == class(int(b))
}

func class(c int) int {
	switch {
	case c >= '0' && c <= '9':
		return 1
	case c >= utf8.RuneSelf, c|0x20 >= 'a' && c|0x20 <= 'z':
		return 2
	}
	return 0
}

func byteAt(b []byte, i int) int {
	if i < 0 || i >= len(b) {
		return -1
	}
	return int(b[i])
}

func hexAt(b []byte, i int) int {
	high, low := hexDigit(byteAt(b, i)), hexDigit(byteAt(b, i+1))
	if high < 0 || low < 0 {
		return -1
	}
	return high<<4 | low
}

func hexDigit(c int) int {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return -1
}

func unitAt(b []byte, i int, big uint8) int {
	low, high := byteAt(b, i), byteAt(b, i+1)
	if big == 1 {
		low, high = high, low
	}
	if high != 0 {
		return -1
	}
	return low
}

// base64ByteAt returns byte number i of what is encoded from b[group:] on; it may be negative. -1: there is none.
func base64ByteAt(b []byte, group, i int) int {
	bit := 8 * i
	c := bit / 6
	if bit%6 < 0 {
		c--
	}
	high, low := sextet(byteAt(b, group+c)), sextet(byteAt(b, group+c+1))
	if high < 0 || low < 0 {
		return -1
	}
	return (high<<6 | low) >> (4 - (bit - 6*c)) & 0xff
}

func sextet(c int) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return c - 'A'
	case c >= 'a' && c <= 'z':
		return c - 'a' + 26
	case c >= '0' && c <= '9':
		return c - '0' + 52
	case c == '+', c == '-':
		return 62
	case c == '/', c == '_':
		return 63
	}
	return -1
}
