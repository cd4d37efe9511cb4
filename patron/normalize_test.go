package patron

import (
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestNormalize(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{" \t\u3000", ""},
		{"ABC def", "abcdef"},
		{"Ｊ.Doe@Example.ORG ", "j.doe@example.org"},
		{"９９９", "999"},
		{"Straße", "strasse"},
		{"STRASSE", "strasse"},
		{"STRAẞE", "strasse"},
		{"so\u00adft", "soft"},
		{"a\u200b\u200d\u2060\ufeffb\u200f", "ab"},
		{"a\ufe0f\u034fb", "ab"},
		{"a\x00b\x1b\x7f", "ab"},
		{"Mu\u0308ller", "müller"},
		{"Müller", "müller"},
		{"Muller", "muller"},
		{"I", "i"},
		{"İ", "i\u0307"}, // full folding, not the Turkish one: a capital dotted i is an i and a dot
		{"ı", "ı"},
		{"ΟΔΟΣ", "οδοσ"},
		{"οδος", "οδοσ"},
		{"ﬁ", "fi"},
		{"②", "2"},
		{"ᎶꮆᏸᏰ", "ᎶᎶᏰᏰ"},       // package cases turns these into each other, for ever
		{"e\u200d\u0301", "é"}, // the joiner keeps the two apart until it is gone
		{"e\u00b4", "é"},       // an accent by itself is a space and a combining accent
	} {
		require.Equal(t, c.want, Normalize(c.in), "%+q", c.in)
	}
}

func TestNormalizeIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[a-zA-Z0-9\x{300}-\x{36f}\x{200b}-\x{200f}\x{b4}\x{130}\x{131}\x{390}\x{1f80}-\x{1fff}\x{fb00}-\x{fb06}\x{ac00}-\x{ac20}\x{1100}-\x{1175} ]{0,12}`).Draw(t, "s")
		n := Normalize(s)
		require.Equal(t, n, Normalize(n))
		require.Equal(t, n, Normalize(" "+s+"\u00ad"))
	})
}

// The short way for ASCII is the long way, only shorter.
func TestNormalizeASCII(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[\x00-\x7f]{0,12}`).Draw(t, "s")
		require.Equal(t, Normalize(s+"é"), Normalize(s)+"é")
	})
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"", "Straße", "e\u200d\u0301", "İ", "\u0345\u0313", "\xff", "Ꮆꮆ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := Normalize(s)
		if Normalize(n) != n {
			t.Errorf("%+q becomes %+q becomes %+q", s, n, Normalize(n))
		}
	})
}

// Each letter by itself and before an accent: the rounds are enough, and both cases are one.
func TestNormalizeEveryLetter(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if r >= 0x3400 && r < 0xa000 || r >= 0xac00 && r < 0xf900 || r >= 0x20000 && r < 0xe0000 || r >= 0xe1000 {
			continue // without case: ideographs, Hangul; surrogates, private use, and what is not assigned
		}
		for _, s := range []string{string(r), "a" + string(r) + "\u0301", string(unicode.ToUpper(r)), string(unicode.ToLower(r))} {
			n := Normalize(s)
			if again := Normalize(n); again != n {
				t.Errorf("%+q becomes %+q becomes %+q", s, n, again)
			}
		}
	}
}
