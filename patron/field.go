package patron

import (
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/internal/fold"
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
// the words of two letters and more without a digit; of a postcode the first three characters, if it has at least five; of first and last names the
// first letter; city, region and country. What is first of a name or an address and also all of it is not shown, and white space and
// characters that are not seen do not count. Uses, which say what an entry is, are shown. Nothing else is.
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
		{Name: "street", Masked: "words of two letters and more without a digit", mask: maskStreet},
		{Name: "extra", low: true},
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
	// The domain is shown on the level masked, so that nothing else may stand in it: no closing bracket, no comment.
	return ok && local != "" && domain != "" && !strings.ContainsFunc(s, unicode.IsSpace) &&
		!strings.ContainsFunc(domain, func(r rune) bool {
			return !unicode.In(r, unicode.Letter, unicode.Mark, unicode.Number) && !strings.ContainsRune("-.[]:", r)
		})
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

func maskName(s string) string { return maskFirst(s) }

// maskFirst shows the first letter of a text that has more than one.
func maskFirst(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana) {
		return hidden // there the first character is half of the name, or all of the surname
	}
	if !isLetter(r) || !strings.ContainsFunc(s[n:], isLetter) {
		return hidden
	}
	return s[:n] + hidden
}

func isLetter(r rune) bool { return unicode.In(r, unicode.Letter, unicode.Number) }

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

func maskIdentifier(s string) string { return maskLast([]rune(fold.Visible(s)), 8) }

// maskLast shows the last four of a text that is long enough for that to hide most of it.
func maskLast(s []rune, least int) string {
	if len(s) < least {
		return hidden
	}
	return hidden + string(s[len(s)-4:])
}

func maskEmail(s string) string {
	local, domain, ok := cutAt(s)
	if !ok {
		return hidden
	}
	return maskFirst(local) + "@" + domain
}

func maskDate(s string) string {
	if !isDate(s) {
		return hidden
	}
	return s[:4]
}

// maskStreet drops the number of the house, wherever it stands, and the letter of the staircase or the flat.
func maskStreet(s string) string {
	var kept []string
	for word := range strings.FieldsSeq(s) {
		letters := 0
		for _, r := range word {
			if unicode.IsLetter(r) {
				letters++
			}
		}
		if letters > 1 && !strings.ContainsFunc(word, unicode.IsNumber) {
			kept = append(kept, word)
		}
	}
	if kept == nil {
		return hidden
	}
	return strings.Join(kept, " ")
}

func maskPostcode(s string) string {
	r := []rune(fold.Visible(s))
	if len(r) < 5 {
		return hidden
	}
	return string(r[:3]) + hidden
}
