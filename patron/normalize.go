package patron

import "github.com/carrel-project/carrel/internal/fold"

// Normalize returns the form in which values are compared: the index tokens are made of it, never what is stored or shown.
//
// It is Unicode NFKC, full case folding and NFKC again, without white space and without characters that are not seen
// (soft hyphens, zero-width and direction marks, variation selectors, control characters), over and over until nothing changes: leaving out
// what stands between a letter and its accent joins the two. So "Ｊ.Doe@Example.ORG " and "j.doe@example.org" are one, as are a bar code with and
// without spaces, and STRASSE and Straße. Accents count: Müller and Muller are two. The whole of an e-mail address is folded, though the part before the @ may in theory
// depend on case. Phone numbers should be E.164 before they come here.
func Normalize(s string) string { return fold.String(s) }
