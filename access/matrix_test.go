package access_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
)

func ExampleParseMatrix() {
	m, err := access.ParseMatrix([]byte(`
carrel-access: 1
id: branch
revision: 1
purposes:
  checkout: Lending and returning at the desk
roles:
  circulation:
    why: The desk lends and returns
    break-glass: [phones]
    for:
      checkout: {names: full, emails: masked, may: [find]}
tests:
  - name: the desk sees no birth date
    role: circulation
    purpose: checkout
    want: {birth: none, names: full}
`))
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	d, err := m.Decide(ctx, access.Request{Role: "circulation", Purpose: "checkout"})
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range []access.Segment{access.Names, access.Emails, access.Birth} {
		fmt.Println(s, d.Levels.Of(s))
	}
	fmt.Println("find:", d.Acts.Has(access.Find), "export:", d.Acts.Has(access.Export))
	d, err = m.Decide(ctx, access.Request{Role: "circulation", Purpose: "curiosity"})
	fmt.Println("for curiosity:", d.Levels.AtLeast(access.Exists).Len(), "segments", err)
	// Output:
	// names full
	// emails masked
	// birth none
	// find: true export: false
	// for curiosity: 0 segments <nil>
}

func TestVocabularies(t *testing.T) {
	for i, word := range strings.Fields(oracleSegments) {
		s, err := access.ParseSegment(word)
		require.NoError(t, err)
		require.Equal(t, access.Segment(i), s)
		require.Equal(t, word, s.String())
		require.Equal(t, s, access.AllSegments()[i])
	}
	require.Len(t, strings.Fields(oracleSegments), access.SegmentCount)
	require.Equal(t, []access.Segment{
		access.Names, access.Addresses, access.Phones, access.Emails, access.Identifiers, access.Birth,
		access.Blocks, access.Notes, access.Roles, access.Campus, access.Statistics, access.Photo,
	}, slices.Collect(access.Set(1<<12-1).All()))
	for i, word := range strings.Fields(oracleLevels) {
		l, err := access.ParseLevel(word)
		require.NoError(t, err)
		require.Equal(t, access.Level(i), l)
		require.Equal(t, word, l.String())
	}
	for i, word := range strings.Fields(oracleActs) {
		a, err := access.ParseAct(word)
		require.NoError(t, err)
		require.Equal(t, access.Act(i), a)
		require.Equal(t, word, a.String())
		require.Equal(t, []string{word}, access.ActsOf(a).Names())
	}
	require.Equal(t, "segment(12)", access.Segment(12).String())
	require.Equal(t, "level(4)", access.Level(4).String())
	require.Equal(t, "act(11)", access.Act(11).String())

	_, err := access.ParseSegment("adresses")
	require.EqualError(t, err, `access: unknown segment; did you mean "addresses"?`)
	_, err = access.ParseLevel("FULL")
	require.EqualError(t, err, "access: unknown level; known are none, exists, masked, full")
	_, err = access.ParseAct("exprot")
	require.EqualError(t, err, `access: unknown act; did you mean "export"?`)
	_, err = access.Preset("defualt")
	require.EqualError(t, err, `access: there is no such preset; did you mean "default"?`)
	_, err = access.Preset("../preset")
	require.Error(t, err)
	// What was typed may be anything, a card number even, and is not repeated.
	for _, canary := range []string{"21987001234567", "Ada Lovelace"} {
		_, e1 := access.ParseSegment(canary)
		_, e2 := access.ParseLevel(canary)
		_, e3 := access.ParseAct(canary)
		_, e4 := access.Preset(canary)
		require.NotContains(t, errors.Join(e1, e2, e3, e4).Error(), canary)
	}
}

func TestSetsAndLevels(t *testing.T) {
	s := access.SetOf(access.Photo, access.Names, access.Segment(40))
	require.Equal(t, []string{"names", "photo"}, s.Names())
	require.Equal(t, "names, photo", s.String())
	require.Equal(t, 2, s.Len())
	require.False(t, s.Has(access.Segment(16)))
	require.Equal(t, access.SetOf(access.Photo), s.Without(access.Names, access.Birth))
	require.Nil(t, access.Set(0).Names())
	for range s.All() {
		break // a caller may stop
	}
	require.Empty(t, access.Set(1<<15).Names(), "bits that stand for no segment")
	require.Zero(t, access.Set(1<<15).Len())
	require.False(t, access.Set(1<<15).Has(access.Segment(15)))
	require.False(t, access.Acts(1<<15).Has(access.Act(15)))

	l := access.Levels(0).With(access.Photo, access.Full).With(access.Names, access.Masked)
	require.Equal(t, l, l.With(access.Segment(12), access.Full), "an unknown segment")
	require.Equal(t, access.None, l.With(access.Photo, access.Level(9)).Of(access.Photo), "an unknown level shows nothing")
	require.Equal(t, access.None, access.Levels(1<<32-1).Of(access.Segment(12)))
	require.Equal(t, access.SetOf(access.Photo), l.AtLeast(access.Full))
	require.Equal(t, access.SegmentCount, l.AtLeast(access.None).Len())
	require.Zero(t, l.AtLeast(access.Level(4)))
	other := access.Levels(0).With(access.Photo, access.Exists).With(access.Birth, access.Exists)
	require.Equal(t, l.With(access.Birth, access.Exists), l.Max(other))
	require.Equal(t, l.Max(other), other.Max(l))

	require.Zero(t, access.ActsOf(access.Act(11), access.Act(200)))
	require.Equal(t, "change, find", access.ActsOf(access.Find, access.Change).String())
}

func TestZeroMatrixDenies(t *testing.T) {
	var m access.Matrix
	for _, name := range []string{"", "circulation"} {
		d, err := m.Decide(context.Background(), access.Request{Role: name, Purpose: name})
		require.NoError(t, err)
		require.Zero(t, d)
	}
	require.Empty(t, m.WhoCan(access.Names, access.None))
	require.Empty(t, m.Lint())
}

func TestMatrixSaysWhatItIs(t *testing.T) {
	_, m := preset(t, "default")
	require.Equal(t, "default", m.ID())
	require.Equal(t, 1, m.Revision())
	require.NotEmpty(t, m.Title())
	require.Equal(t, []string{
		"circulation", "reference", "patron-services", "cataloguing", "acquisitions", "systems", "integration", "self", "reviewer",
	}, m.Roles())
	for _, r := range m.Roles() {
		require.NotEmpty(t, m.Why(r))
	}
	require.Equal(t, "checkout", m.Purposes()[0])
	for _, p := range m.Purposes() {
		require.NotEmpty(t, m.Meaning(p))
	}
	require.Empty(t, m.Why("nobody"))
	require.Empty(t, m.Meaning("nothing"))
	m.Roles()[0] = "changed" // a copy
	require.Equal(t, "circulation", m.Roles()[0])
	require.Empty(t, m.Lint(), "the preset is an example to follow")

	require.Equal(t, []access.Cell{
		{Role: "patron-services", Purpose: "account", Level: access.Full},
		{Role: "patron-services", Purpose: "legal", Level: access.Full},
		{Role: "self", Purpose: "legal", Level: access.Full},
	}, m.WhoCan(access.Notes, access.Full))
	require.Contains(t, m.WhoCan(access.Phones, access.Full),
		access.Cell{Role: "circulation", Purpose: "overdue", Level: access.Masked, BreakGlass: true})
}

// No row of the default preset lets a patron change what the library says of them, or a role other than
// patron-services and integration change anybody.
func TestPresetChanges(t *testing.T) {
	_, m := preset(t, "default")
	for _, r := range m.Roles() {
		for _, p := range m.Purposes() {
			d := decide(m, r, p)
			for _, s := range access.AllSegments() {
				if !d.MayChange(s) {
					continue
				}
				require.Contains(t, []string{"patron-services", "integration", "self"}, r)
				if r == "self" {
					require.Contains(t, []access.Segment{access.Addresses, access.Phones, access.Emails}, s)
				}
			}
		}
	}
}

func TestLint(t *testing.T) {
	all := strings.ReplaceAll(oracleSegments, " ", ": full, ") + ": full"
	m, err := access.ParseMatrix([]byte(`carrel-access: 1
id: lint
purposes:
  a: One
  b: Two
  unused: Three
roles:
  boss:
    why: Sees all
    for:
      a: {` + all + `}
      b: {` + all + `, may: [change]}
  desk:
    break-glass: [names, phones, birth]
    for:
      a: {names: full, phones: full, birth: full}
      b: {names: full, phones: full, emails: masked, may: [change]}
  blind:
    why: Changes unseen
    for:
      a: {may: [change]}
      b: {names: none}
  idle:
    why: Nothing to do
    break-glass: [names]
    for: {}
  stranger:
    why: Nothing at all
    for: {}
`))
	require.NoError(t, err)
	var got []string
	for _, w := range m.Lint() {
		got = append(got, w.String())
	}
	require.Equal(t, []string{
		`line 6: purpose "unused" is used by no role`,
		`line 8: role "boss" sees everything in full for every purpose: the purpose decides nothing`,
		`line 13: role "desk" does not say why it sees what it sees`,
		`line 14: role "desk" has break-glass on names, phones, which it sees in full for every purpose`,
		`line 14: role "desk" has break-glass, but no role may review it: everybody could use it once and never again`,
		`line 17: role "desk" may change for "b", but not emails, which it does not see in full`,
		`line 21: role "blind" may change for "a", but sees nothing in full: there is nothing it could change`,
		`line 22: role "blind" may see and do nothing for "b"; leave it out`,
		`line 25: role "idle" has break-glass but no purpose to use it for`,
		`line 25: role "idle" has break-glass, but no role may review it: everybody could use it once and never again`,
	}, got)
}

func BenchmarkDecide(b *testing.B) {
	_, m := preset(b, "default")
	var d access.Decider = m
	ctx := context.Background()
	r := access.Request{Actor: "a", Role: "patron-services", Purpose: "account", Subject: "s"}
	b.Run("all segments", func(b *testing.B) {
		b.ReportAllocs()
		shown := 0
		for b.Loop() {
			decision, err := d.Decide(ctx, r)
			if err != nil {
				b.Fatal(err)
			}
			for s := range access.Segment(access.SegmentCount) {
				if decision.Levels.Of(s) == access.Full {
					shown++
				}
			}
		}
		if shown == 0 {
			b.Fatal("nothing shown")
		}
	})
	r.Role = "unknown-role"
	b.Run("denied", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if decision, err := d.Decide(ctx, r); err != nil || decision != (access.Decision{}) {
				b.Fatal("allowed")
			}
		}
	})
}

func TestDecideAllocatesNothing(t *testing.T) {
	_, m := preset(t, "default")
	r := access.Request{Role: "circulation", Purpose: "checkout"}
	ctx := context.Background()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if d, err := m.Decide(ctx, r); err != nil || d.Levels.Of(access.Names) != access.Full {
			t.Error(err)
		}
	}))
}
