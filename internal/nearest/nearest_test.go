package nearest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/internal/nearest"
)

func TestWord(t *testing.T) {
	known := []string{"claimed_returned", "lost", "library", "location", "undergraduate", "graduate", "id", "ended"}
	for in, want := range map[string]string{
		"claimed_retuned":        "claimed_returned", // a letter missing
		"claimed_returnned":      "claimed_returned", // one too many
		"claimed_returnex":       "claimed_returned", // a wrong one
		"claimed_reutrned":       "claimed_returned", // two swapped
		"lots":                   "lost",
		"endde":                  "ended",
		"libary":                 "library",
		"gradute":                "graduate",
		"lost":                   "", // itself is no suggestion, nothing else is near
		"":                       "",
		"x":                      "",
		"zzzzzzzz":               "",
		strings.Repeat("y", 65):  "",
		strings.Repeat("y", 500): "", // too long to measure is not near
	} {
		require.Equal(t, want, nearest.Word(in, known), "%.70q", in)
	}
	require.Equal(t, "", nearest.Word("lost", nil))
	require.Equal(t, "aab", nearest.Word("aaa", []string{"aab", "aac"}), "the first of equals")
}

func TestHint(t *testing.T) {
	require.Equal(t, `; did you mean "lost"?`, nearest.Hint("lots", []string{"lost"}))
	require.Equal(t, "", nearest.Hint("zzz", []string{"lost"}))
}

// One edit in a word of four letters or more always finds it back when nothing else is known.
func TestOneEditIsNear(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-z]{4,64}`).Draw(t, "word")
		i := rapid.IntRange(0, len(word)-1).Draw(t, "at")
		typo := map[string]string{
			"delete":  word[:i] + word[i+1:],
			"replace": word[:i] + "#" + word[i+1:],
			"insert":  (word[:i] + "#" + word[i:])[:min(len(word)+1, 64)],
			"swap":    word[:i] + swap(word[i:]),
		}[rapid.SampledFrom([]string{"delete", "replace", "insert", "swap"}).Draw(t, "edit")]
		if typo != word {
			require.Equal(t, word, nearest.Word(typo, []string{word}))
		}
	})
}

func swap(s string) string {
	if len(s) < 2 {
		return s
	}
	return s[1:2] + s[:1] + s[2:]
}

func FuzzWord(f *testing.F) {
	f.Add("lots", "lost")
	f.Fuzz(func(t *testing.T, s, known string) {
		w := nearest.Word(s, []string{known})
		if w != "" && (w != known || w == s || len(w) > 64 || len(s) > 64) {
			t.Errorf("Word(%q, %q) = %q", s, known, w)
		}
	})
}
