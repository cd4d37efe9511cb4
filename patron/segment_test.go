package patron

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/access"
)

// drawProfile draws a profile that is fit to be stored, with identifiers of its own.
func drawProfile(t *rapid.T) Profile {
	var p Profile
	text := rapid.StringMatching(`[\p{L}\p{N} '.\-\x{301}]{1,20}`)
	for s := range allSegments.All() {
		n := 1
		switch s {
		case access.Identifiers:
			n = rapid.IntRange(1, 3).Draw(t, "identifiers")
		case access.Birth, access.Photo:
			n = rapid.IntRange(0, 1).Draw(t, s.String())
		default:
			n = rapid.IntRange(0, 3).Draw(t, s.String())
		}
		for range n {
			e := p.add(s)
			if e.use != nil {
				*e.use = rapid.StringMatching(`[a-z0-9_\-]{0,12}`).Draw(t, "use")
			}
			for i, f := range Fields(s) {
				v := ""
				switch {
				case s == access.Identifiers:
					v = NewID().String()
				case f.want == wantDate:
					v = rapid.SampledFrom([]string{"1984-02-29", "2026-11-22"}).Draw(t, f.Name)
				case s == access.Emails:
					v = rapid.StringMatching(`[a-zåäö.+]{1,12}@[a-z\-]{1,8}\.org`).Draw(t, f.Name)
				case s == access.Photo:
					v = "https://example.org/" + rapid.StringMatching(`[a-z0-9]{1,8}`).Draw(t, f.Name)
				default:
					v = text.Draw(t, f.Name)
				}
				if e.use == nil || s == access.Identifiers || rapid.Bool().Draw(t, "there") {
					*e.fields[i] = secret(v)
				}
			}
		}
	}
	require.NoError(t, p.check())
	return p
}

func TestSegmentRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, got := drawProfile(t), person("somebody else")
		for s := range allSegments.All() {
			require.NoError(t, got.decode(s, p.encode(s)))
			require.Equal(t, p.Has(s), got.Has(s))
		}
		require.Equal(t, plain(p), plain(got))
	})
}

// What decode takes, encode writes the same way: there is one encoding of a value.
func FuzzDecode(f *testing.F) {
	p := Profile{Birth: secret("1984-02-29"), Names: []Name{{Use: "legal", First: secret("A"), Last: secret("B")}, {}}}
	for s := range allSegments.All() {
		f.Add(uint8(s), p.encode(s).Reveal())
	}
	for _, s := range []string{"\x01", "\x02", "\x01\x00\x00", "\x01\x80\x00\x00", "\x01\x00\x01\x00\x00", "\x01\x00\x02\x01\x01a\x00\x01b", "\x01\xff\xff\xff\xff\xff\xff\xff"} {
		f.Add(uint8(access.Birth), s)
		f.Add(uint8(access.Names), s)
	}
	f.Fuzz(func(t *testing.T, segment uint8, text string) {
		s := access.Segment(segment % access.SegmentCount)
		var p Profile
		if err := p.decode(s, secret(text)); err != nil {
			return
		}
		if got := p.encode(s).Reveal(); got != text {
			t.Errorf("%v: two encodings of one value: %x and %x", s, text, got)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct {
		s    access.Segment
		text string
	}{
		{access.Names, "\x01"},                                     // nothing, written at length
		{access.Names, "\x02\x00\x00"},                             // another format
		{access.Names, "\x01\x80\x00\x00"},                         // a number that is too long
		{access.Names, "\x01\x00\x01\x00\x00"},                     // an empty field, written at length
		{access.Names, "\x01\x00\x02\x01\x01a\x00\x01b"},           // in another order
		{access.Names, "\x01\x00\x02\x01\x01a\x01\x01b"},           // twice
		{access.Names, "\x01\x00\x01\x05\x01a"},                    // a field that it has not
		{access.Names, "\x01\x00\x01\x00\x02a"},                    // cut
		{access.Names, "\x01\x00"},                                 // cut
		{access.Birth, "\x01\x01x\x01\x00\x01a"},                   // a use where there is none
		{access.Birth, "\x01\x00\x00"},                             // without a value
		{access.Birth, "\x01\x00\x01\x00\x01a\x00\x01\x00\x01a"},   // two where there is one
		{access.Birth, "\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff"}, // a number without end
	} {
		var p Profile
		require.ErrorIs(t, p.decode(c.s, secret(c.text)), errSegment, "%v %x", c.s, c.text)
	}
}

func TestCheck(t *testing.T) {
	good := person("1")
	require.NoError(t, good.check())
	for _, c := range []struct {
		want string
		do   func(*Profile)
	}{
		{"at least one", func(p *Profile) { p.Identifiers = nil }},
		{"it is empty", func(p *Profile) { p.Identifiers[0].Value = secret(" \u200b") }},
		{"an e-mail address", func(p *Profile) { p.Emails = []Email{{"", secret("Canary")}} }},
		{"an e-mail address", func(p *Profile) { p.Emails = []Email{{"", secret("Canary<canary@example.org>")}} }},
		{"an e-mail address", func(p *Profile) { p.Emails = []Email{{"", secret("c@example.org(canary)")}} }},
		{"birth, number 1: date must be a date", func(p *Profile) { p.Birth = secret("canary") }},
		{"a date", func(p *Profile) { p.Birth = secret("1985-02-29") }},
		{"an https link", func(p *Profile) { p.Photo = secret("http://canary.example.org/") }},
		{"an https link", func(p *Profile) { p.Photo = secret("https://canary:canary@example.org/") }},
		{"an https link", func(p *Profile) { p.Photo = secret("data:canary") }},
		{"longer than 4096 bytes", func(p *Profile) { p.Notes = []Note{{Text: secret(strings.Repeat("canary", 1000))}} }},
		{"not UTF-8", func(p *Profile) { p.Notes = []Note{{Text: secret("canary\xff")}} }},
		{"its use must be a word", func(p *Profile) { p.Notes = []Note{{Use: "Canary canary"}} }},
		{"its use must be a word", func(p *Profile) { p.Notes = []Note{{Use: strings.Repeat("canary", 7)}} }},
		{"more than 100", func(p *Profile) { p.Phones = make([]Phone, 101) }},
		{"more than 100", func(p *Profile) { p.Facts.Categories = make([]string, 101) }},
		{"wish must be", func(p *Profile) { p.Facts.Wish = "canary" }},
		{"UTF-8", func(p *Profile) { p.Facts.Group = "canary\xff" }},
	} {
		p := person("1")
		c.do(&p)
		err := p.check()
		require.ErrorContains(t, err, c.want)
		require.NotContains(t, strings.ToLower(err.Error()), "canary")
	}
}

func TestID(t *testing.T) {
	id := NewID()
	again, err := ParseID(id.String())
	require.NoError(t, err)
	require.Equal(t, id, again)
	text, err := id.MarshalText()
	require.NoError(t, err)
	var from ID
	require.NoError(t, from.UnmarshalText(text))
	require.Equal(t, id, from)
	for _, s := range []string{"", "canary", strings.ToUpper(id.String()), "{" + id.String() + "}", "urn:uuid:" + id.String(),
		"00000000-0000-0000-0000-000000000000", "6f9619ff-8b86-1d01-b42d-00cf4fc964ff", "6f9619ff-8b86-4d01-042d-00cf4fc964ff"} {
		_, err := ParseID(s)
		require.ErrorIs(t, err, errNoID)
		require.NotContains(t, err.Error(), "canary")
	}
	require.True(t, ID{}.IsZero())
}

// Reveal hands on all that there is, and nothing that there is not.
func TestReveal(t *testing.T) {
	p := canaries()
	for s := range allSegments.All() {
		n := 0
		p.Reveal(s, func(entry map[string]string) {
			for _, f := range Fields(s) {
				require.NotEmpty(t, entry[f.Name], "%v.%s", s, f.Name)
				n++
			}
			if use, ok := entry["use"]; ok {
				require.Equal(t, "some-use", use)
				n++
			}
			require.Len(t, entry, n)
		})
		require.Positive(t, n)
	}
	(&Profile{Phones: []Phone{{}}}).Reveal(access.Phones, func(entry map[string]string) { require.Empty(t, entry) })
	(&Profile{}).Reveal(access.Phones, func(map[string]string) { t.Error("there is no entry") })
}
