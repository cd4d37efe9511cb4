package patron

import (
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Normalize returns the form in which values are compared: the index tokens are made of it, never what is stored or shown.
//
// It is Unicode NFKC, then full case folding, then NFKC again, without white space and without characters that are not seen
// (category Cf: soft hyphens, zero-width and direction marks). So "Ｊ.Doe@Example.ORG " and "j.doe@example.org" are one, as are a bar code with and
// without spaces, and STRASSE and Straße. Accents count: Müller and Muller are two. The whole of an e-mail address is folded, though the part before the @ may in theory
// depend on case. Phone numbers should be E.164 before they come here.
func Normalize(s string) string {
	s = norm.NFKC.String(s)
	s = norm.NFKC.String(cases.Fold().String(s))
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, s)
}
