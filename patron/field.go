package patron

import (
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
)

// A Field is one field of a segment.
type Field struct {
	Name   string
	Masked string // what of it is shown on the level masked, in words; empty: nothing

	low   bool // few values, or some frequent ones: not looked up by itself
	mask  func(string) string
	check func(string) bool
	want  string // what check wants
}

// Fields returns the fields of the entries of a segment, in the order in which they are encoded.
//
// On the level masked, the following is shown: of a phone number the last four digits, if it has at least seven; of an e-mail address the first
// letter and the domain; of an identifier the last four characters, if it has at least eight; of a birth date the year; of a street
// what has no digit in it; of a postcode the first three characters, if it has at least five; of names the first letter; city,
// region and country. Uses, which say what an entry is, are shown. Nothing else is.
func Fields(s access.Segment) []Field {
	if int(s) >= len(fieldTable) {
		return nil
	}
	return fieldTable[s]
}

var fieldTable = [access.SegmentCount][]Field{
	access.Names: {
		{Name: "prefix", low: true},
		{Name: "first", low: true, Masked: "the first letter", mask: maskName},
		{Name: "middle", low: true},
		{Name: "last", low: true, Masked: "the first letter", mask: maskName},
		{Name: "suffix", low: true},
	},
	access.Addresses: {
		{Name: "street", Masked: "without words that have a digit", mask: maskStreet},
		{Name: "extra"},
		{Name: "city", low: true, Masked: "all", mask: maskNothing},
		{Name: "region", low: true, Masked: "all", mask: maskNothing},
		{Name: "postcode", low: true, Masked: "the first three characters of five or more", mask: maskPostcode},
		{Name: "country", low: true, Masked: "all", mask: maskNothing},
		{Name: "from", low: true, check: isDate, want: wantDate},
		{Name: "until", low: true, check: isDate, want: wantDate},
	},
	access.Phones:      {{Name: "number", Masked: "the last four digits of seven or more", mask: maskPhone}},
	access.Emails:      {{Name: "address", Masked: "the first letter and the domain", mask: maskEmail, check: isEmail, want: "an e-mail address, as in name@example.org"}},
	access.Identifiers: {{Name: "value", Masked: "the last four characters of eight or more", mask: maskIdentifier}},
	access.Birth:       {{Name: "date", low: true, Masked: "the year", mask: maskDate, check: isDate, want: wantDate}},
	access.Blocks: {
		{Name: "note", low: true},
		{Name: "from", low: true, check: isDate, want: wantDate},
		{Name: "until", low: true, check: isDate, want: wantDate},
	},
	access.Notes: {
		{Name: "text", low: true},
		{Name: "at", low: true, check: isDate, want: wantDate},
		{Name: "author", low: true},
	},
	access.Roles: {
		{Name: "scope", low: true},
		{Name: "from", low: true, check: isDate, want: wantDate},
		{Name: "until", low: true, check: isDate, want: wantDate},
	},
	access.Campus:     {{Name: "name", low: true}},
	access.Statistics: {{Name: "value", low: true}},
	access.Photo:      {{Name: "link", low: true, check: isLink, want: "an https link"}},
}

const wantDate = "a date, as in 1984-02-29"

func isDate(s string) bool {
	_, err := time.Parse(time.DateOnly, s)
	return err == nil
}

func isEmail(s string) bool {
	local, domain, ok := cutAt(s)
	return ok && local != "" && domain != "" && !strings.ContainsFunc(s, unicode.IsSpace)
}

func cutAt(s string) (local, domain string, ok bool) {
	i := strings.LastIndexByte(s, '@')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

func isLink(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil
}

// mask leaves of a profile's segment what the level masked shows.
func (p *Profile) mask(s access.Segment) {
	masked := &Profile{}
	for e := range p.entries(s) {
		m := masked.add(s)
		if m.use != nil {
			*m.use = *e.use
		}
		for i, f := range fieldTable[s] {
			if f.mask != nil && !e.fields[i].IsEmpty() {
				*m.fields[i] = crypto.NewSecret(f.mask(e.fields[i].Reveal()))
			}
		}
	}
	p.take(s, masked)
}

const hidden = "…"

func maskNothing(s string) string { return s }

func maskName(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return s[:n] + hidden
}

// maskPhone counts digits only: how a number is written does not matter.
func maskPhone(s string) string {
	digits := strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return r
		}
		return -1
	}, s)
	return maskLast([]rune(digits), 7)
}

func maskIdentifier(s string) string { return maskLast([]rune(s), 8) }

// maskLast shows the last four of a text that is long enough for that to hide most of it.
func maskLast(s []rune, least int) string {
	if len(s) < least {
		return hidden
	}
	return hidden + string(s[len(s)-4:])
}

// maskEmail hides the first letter too when there is no other.
func maskEmail(s string) string {
	local, domain, ok := cutAt(s)
	if !ok {
		return hidden
	}
	_, n := utf8.DecodeRuneInString(local)
	if n == len(local) {
		n = 0
	}
	return local[:n] + hidden + "@" + domain
}

func maskDate(s string) string {
	if !isDate(s) {
		return hidden
	}
	return s[:4]
}

// maskStreet drops the number of the house, wherever it stands, and what belongs to it.
func maskStreet(s string) string {
	var kept []string
	for word := range strings.FieldsSeq(s) {
		if !strings.ContainsFunc(word, unicode.IsNumber) {
			kept = append(kept, word)
		}
	}
	return strings.Join(kept, " ")
}

func maskPostcode(s string) string {
	r := []rune(s)
	if len(r) < 5 {
		return hidden
	}
	return string(r[:3]) + hidden
}
