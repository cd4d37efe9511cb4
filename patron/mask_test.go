package patron

import (
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/access"
)

// maskOf masks one field of a segment as a View would.
func maskOf(t require.TestingT, field, value string) string {
	var p Profile
	segment, name, _ := strings.Cut(field, ".")
	s, err := access.ParseSegment(segment)
	require.NoError(t, err)
	at := -1
	for i, f := range Fields(s) {
		if f.Name == name {
			at = i
		}
	}
	*p.add(s).fields[at] = secret(value)
	p.mask(s)
	for e := range p.entries(s) {
		return e.fields[at].Reveal()
	}
	return ""
}

func TestMask(t *testing.T) {
	for _, c := range []struct{ field, value, want string }{
		{"names.first", "Anna", "A…"},
		{"names.last", "Øster", "Ø…"},
		{"names.last", "李", "…"}, // the first letter would be all of it
		{"names.last", "J.", "…"},
		{"names.last", "'t Hooft", "…"},
		{"names.last", " Svensson", "…"},
		{"names.prefix", "Prof", ""},
		{"names.middle", "Maria", ""},
		{"names.suffix", "Jr", ""},
		{"addresses.street", "Storgatan 12", "Storgatan"},
		{"addresses.street", "Storgatan 12b", "Storgatan"},
		{"addresses.street", "Storgatan 12 B", "Storgatan"},
		{"addresses.street", "12b Main Street Apt 4", "Main Street Apt"},
		{"addresses.street", "12b Main Street, Apt. C", "Main Street, Apt."},
		{"addresses.street", "Storgatan ١٢", "Storgatan"},
		{"addresses.street", "Storgatan Ⅻ", "Storgatan"},
		{"addresses.street", "Storgatan ½", "Storgatan"},
		{"addresses.street", "Storgatan１２", "…"},
		{"addresses.street", "17", "…"},
		{"addresses.street", "Storgatan 12-14/3", "Storgatan"},
		{"addresses.extra", "c/o Andersson", ""},
		{"addresses.city", "Lund", "Lund"},
		{"addresses.region", "Skåne", "Skåne"},
		{"addresses.country", "SE", "SE"},
		{"addresses.postcode", "223 50", "223…"},
		{"addresses.postcode", "SW1A 1AA", "SW1…"},
		{"addresses.postcode", "1000", "…"},
		{"addresses.postcode", "1 0 0 0", "…"},
		{"addresses.from", "2026-01-01", ""},
		{"phones.number", "+46701234567", "…4567"},
		{"phones.number", "070-123 45 67", "…4567"},
		{"phones.number", "1234567", "…4567"},
		{"phones.number", "123456", "…"},
		{"phones.number", "12-34-56", "…"},
		{"phones.number", "ask Anna", "…"},
		{"emails.address", "anna@example.org", "a…@example.org"},
		{"emails.address", "a@example.org", "…@example.org"},
		{"emails.address", "å.@example.org", "…@example.org"},
		{"emails.address", "anna@home@example.org", "a…@example.org"},
		{"identifiers.value", "99999395390", "…5390"},
		{"identifiers.value", "12345678", "…5678"},
		{"identifiers.value", "1234567", "…"},
		{"identifiers.value", "12 34 56 7", "…"},
		{"identifiers.value", "\u200b\u200b\u200b\u200babcd", "…"},
		{"identifiers.value", "anna@example.org", "….org"},
		{"birth.date", "1984-02-29", "1984"},
		{"birth.date", "29 February 1984", "…"},
		{"blocks.note", "owes", ""},
		{"notes.text", "rude", ""},
		{"notes.author", "Bo", ""},
		{"notes.at", "2026-01-01", ""},
		{"roles.scope", "MATH-101", ""},
		{"campus.name", "North", ""},
		{"statistics.value", "x", ""},
		{"photo.link", "https://example.org/p", ""},
	} {
		require.Equal(t, c.want, maskOf(t, c.field, c.value), "%s of %q", c.field, c.value)
	}
}

// What is shown of a field is at most what the rule says, however the value is written. The rules are put in other words here than in
// the code: as the letters and digits that may be left of a value.
func TestMaskHides(t *testing.T) {
	count := func(s string) (n int) {
		for _, r := range s {
			if unicode.IsLetter(r) || unicode.IsNumber(r) {
				n++
			}
		}
		return n
	}
	least := map[string]int{ // that many letters and digits are hidden of a value that has any
		"names.first": 1, "names.last": 1, "phones.number": 3, "identifiers.value": 0, "addresses.postcode": 0,
	}
	for s := range allSegments.All() {
		for _, f := range Fields(s) {
			field := s.String() + "." + f.Name
			t.Run(field, rapid.MakeCheck(func(t *rapid.T) {
				value := rapid.StringMatching(`[\p{L}\p{N}@. \-\x{200b}\x{301}]{1,30}`).Draw(t, "value")
				got := maskOf(t, field, value)
				if f.mask == nil {
					require.Empty(t, got)
					return
				}
				if f.Masked == "all" {
					require.Equal(t, value, got)
					return
				}
				if n, ok := least[field]; ok && got != hidden {
					require.LessOrEqual(t, count(got), count(value)-n)
				}
				switch field {
				case "names.first", "names.last":
					require.LessOrEqual(t, count(got), 1)
				case "phones.number", "identifiers.value", "birth.date":
					require.LessOrEqual(t, count(got), 4)
				case "addresses.postcode":
					require.LessOrEqual(t, count(got), 3)
				case "addresses.street":
					require.False(t, strings.ContainsFunc(got, unicode.IsNumber))
				case "emails.address":
					local, _, _ := cutAt(got)
					require.LessOrEqual(t, count(local), 1)
				}
				if count(value) > 0 && got == value {
					// Nothing in a street is a secret when there is no number in it.
					require.Equal(t, "addresses.street", field)
				}
			}))
		}
	}
}

// Masked says in words what mask does: where one is, so is the other.
func TestMaskWords(t *testing.T) {
	for s := range allSegments.All() {
		for _, f := range Fields(s) {
			require.Equal(t, f.mask == nil, f.Masked == "", "%v.%s", s, f.Name)
		}
	}
	require.Nil(t, Fields(access.SegmentCount))
}
