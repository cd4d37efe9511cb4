// Package fold says when two things that somebody typed are one.
package fold

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// String returns the form in which identifiers are compared: Unicode NFKC, full case folding and NFKC again, without white space and without characters
// that are not seen (soft hyphens, zero-width and direction marks, variation selectors, control characters), over and over until nothing changes: leaving out
// what stands between a letter and its accent joins the two.
func String(s string) string {
	if isASCII(s) { // as bar codes and addresses mostly are
		return strings.Map(func(r rune) rune {
			switch {
			case r <= ' ' || r == 0x7f:
				return -1
			case 'A' <= r && r <= 'Z':
				return r + 'a' - 'A'
			}
			return r
		}, s)
	}
	for range maxRounds {
		next := norm.NFKC.String(s)
		next = norm.NFKC.String(strings.Map(foldCherokee, cases.Fold().String(next)))
		next = norm.NFKC.String(Visible(next))
		if next == s {
			break
		}
		s = next
	}
	return s
}

// maxRounds is more than any text is known to need. It bounds the time that a text can cost which somebody made up for that.
const maxRounds = 8

// foldCherokee folds small Cherokee letters to capital ones, as Unicode does, of all scripts, for this one. Package cases turns each
// into the other, so that nothing would ever be in its final form.
func foldCherokee(r rune) rune {
	switch {
	case 0xAB70 <= r && r <= 0xABBF:
		return r - 0xAB70 + 0x13A0
	case 0x13F8 <= r && r <= 0x13FD:
		return r - 8
	}
	return r
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Visible leaves out white space and what is not seen.
func Visible(s string) string {
	return strings.Map(func(r rune) rune {
		if blank(r) || unicode.IsSpace(r) || unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) {
			return -1
		}
		return r
	}, s)
}

// blank reports characters that are not seen, or stand for something that is not there, though Unicode counts them as symbols: the empty
// Braille pattern, the object replacement character, the null note head.
func blank(r rune) bool { return r == 0x2800 || r == 0xFFFC || r == 0x1D159 }
