package access_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/access"
)

// The oracle's own vocabulary, written out again from the design, so that a slip in the package's tables
// is not repeated here.
const (
	oracleSegments = "names addresses phones emails identifiers birth blocks notes roles campus statistics photo"
	oracleLevels   = "none exists masked full"
	oracleActs     = "create change import export resolve find reindex review"
)

// An oracle answers from the YAML as generic maps and lists of strings, by linear search, word by word.
type oracle struct{ file map[string]any }

func newOracle(t require.TestingT, text string) oracle {
	var o oracle
	require.NoError(t, yaml.Unmarshal([]byte(text), &o.file))
	return o
}

// under walks down through mappings; ok is false when a key on the way is not there.
func under(v any, keys ...string) (any, bool) {
	for _, key := range keys {
		m, isMap := v.(map[string]any)
		if !isMap {
			return nil, false
		}
		found := false
		for k, inner := range m {
			if k == key {
				v, found = inner, true
			}
		}
		if !found {
			return nil, false
		}
	}
	return v, true
}

func (o oracle) level(role, purpose, segment string) string {
	if v, ok := under(o.file, "roles", role, "for", purpose, segment); ok {
		return v.(string)
	}
	return "none"
}

func (o oracle) may(role, purpose, act string) bool {
	v, _ := under(o.file, "roles", role, "for", purpose, "may")
	return listed(v, act)
}

func (o oracle) breaksGlass(role, purpose, segment string) bool {
	if _, ok := under(o.file, "roles", role, "for", purpose); !ok {
		return false
	}
	v, _ := under(o.file, "roles", role, "break-glass")
	return listed(v, segment)
}

func listed(v any, word string) bool {
	list, _ := v.([]any)
	for _, w := range list {
		if w == word {
			return true
		}
	}
	return false
}

// keys returns the names in the file under a key, and then names that are not there, although they look it.
func (o oracle) keys(key string) (names []string) {
	v, _ := under(o.file, key)
	m, _ := v.(map[string]any)
	for k := range m {
		names = append(names, k, strings.ToUpper(k), " "+k, k+" ", k+"\x00", k[:len(k)-1], k+"s")
	}
	slices.Sort(names)
	return append(names, "", "*", "none", "nobody", "default", "names", "break-glass")
}

// disagreement goes through every role × purpose × segment × level, known and unknown, every act and every
// break-glass, and returns the first on which a decider and the file differ.
func (o oracle) disagreement(d access.Decider) string {
	for _, role := range o.keys("roles") {
		for _, purpose := range o.keys("purposes") {
			r := access.Request{Actor: "a", Role: role, Purpose: purpose, Subject: "s"}
			is, err := d.Decide(context.Background(), r)
			if err != nil {
				return err.Error()
			}
			if s := o.differs(role, purpose, is); s != "" {
				return fmt.Sprintf("%q for %q: %s", role, purpose, s)
			}
		}
	}
	return ""
}

func (o oracle) differs(role, purpose string, is access.Decision) string {
	for i, word := range strings.Fields(oracleSegments) {
		segment := access.Segment(i)
		want := o.level(role, purpose, word)
		if got := is.Levels.Of(segment).String(); got != want {
			return fmt.Sprintf("%s is %s, want %s", word, got, want)
		}
		reached := true // every level up to the wanted one is reached, those above are not
		for l, level := range strings.Fields(oracleLevels) {
			if is.Levels.AtLeast(access.Level(l)).Has(segment) != reached {
				return fmt.Sprintf("%s at least %s is %v", word, level, !reached)
			}
			reached = reached && level != want
		}
		if got := is.BreakGlass.Has(segment); got != o.breaksGlass(role, purpose, word) {
			return fmt.Sprintf("break-glass on %s is %v", word, got)
		}
		mayChange := want == "full" && o.may(role, purpose, "change")
		if is.MayChange(segment) != mayChange {
			return fmt.Sprintf("may change %s is %v", word, !mayChange)
		}
	}
	for i, word := range strings.Fields(oracleActs) {
		if got := is.Acts.Has(access.Act(i)); got != o.may(role, purpose, word) {
			return fmt.Sprintf("may %s is %v", word, got)
		}
	}
	for n := access.SegmentCount; n < 256; n++ { // unknown segments and acts are never allowed
		if s := access.Segment(n); is.Levels.Of(s) != access.None || is.BreakGlass.Has(s) || is.MayChange(s) {
			return s.String() + " is allowed"
		}
		if a := access.Act(n); is.Acts.Has(a) {
			return a.String() + " is allowed"
		}
	}
	return ""
}

func preset(t require.TestingT, name string) (string, *access.Matrix) {
	text, err := access.Preset(name)
	require.NoError(t, err)
	m, err := access.ParseMatrix(text)
	require.NoError(t, err)
	return string(text), m
}

func TestPresetsAgainstOracle(t *testing.T) {
	for _, name := range access.Presets() {
		text, m := preset(t, name)
		require.Empty(t, newOracle(t, text).disagreement(m), name)
	}
}

func TestGeneratedAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := generated(t)
		m, err := access.ParseMatrix([]byte(text))
		require.NoError(t, err, text)
		require.Empty(t, newOracle(t, text).disagreement(m), text)
	})
}

// generated writes a random access file.
func generated(t *rapid.T) string {
	var b strings.Builder
	name := rapid.StringMatching(`[a-z][a-z0-9-]{0,5}`).Filter(func(s string) bool {
		return !slices.Contains([]string{"n", "y", "no", "yes", "on", "off", "null", "true", "false"}, s) // words that YAML reads otherwise in the oracle
	})
	some := func(words, label string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(strings.Fields(words)), 0, 12, rapid.ID).Draw(t, label)
	}
	fmt.Fprintf(&b, "carrel-access: 1\nid: x\nrevision: 3\npurposes:\n")
	purposes := rapid.SliceOfNDistinct(name, 1, 5, rapid.ID).Draw(t, "purposes")
	for _, p := range purposes {
		fmt.Fprintf(&b, "  %s: meaning\n", p)
	}
	b.WriteString("roles:\n")
	for _, r := range rapid.SliceOfNDistinct(name, 1, 5, rapid.ID).Draw(t, "roles") {
		fmt.Fprintf(&b, "  %s:\n", r)
		if glass := some(oracleSegments, "glass"); len(glass) > 0 {
			fmt.Fprintf(&b, "    break-glass: [%s]\n", strings.Join(glass, ", "))
		}
		b.WriteString("    for: {")
		for i, p := range rapid.SliceOfNDistinct(rapid.SampledFrom(purposes), 0, len(purposes), rapid.ID).Draw(t, "cells") {
			if i > 0 {
				b.WriteString(", ")
			}
			var entries []string
			for _, s := range some(oracleSegments, "segments") {
				entries = append(entries, s+": "+rapid.SampledFrom(strings.Fields(oracleLevels)).Draw(t, s))
			}
			if acts := some(strings.Join(strings.Fields(oracleActs)[:8], " "), "acts"); len(acts) > 0 {
				entries = append(entries, "may: ["+strings.Join(acts, ", ")+"]")
			}
			fmt.Fprintf(&b, "%s: {%s}", p, strings.Join(entries, ", "))
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// A mutant is a decider that is broken in one way.
type mutant struct {
	m      *access.Matrix
	decide func(m *access.Matrix, role, purpose string) access.Decision
}

func (x mutant) Decide(_ context.Context, r access.Request) (access.Decision, error) {
	return x.decide(x.m, r.Role, r.Purpose), nil
}

func decide(m *access.Matrix, role, purpose string) access.Decision {
	d, _ := m.Decide(context.Background(), access.Request{Role: role, Purpose: purpose})
	return d
}

// either is the union of two decisions.
func either(a, b access.Decision) access.Decision {
	return access.Decision{Levels: a.Levels.Max(b.Levels), Acts: a.Acts | b.Acts, BreakGlass: a.BreakGlass | b.BreakGlass}
}

// What the oracle test is worth: each of these plausible mistakes is seen by it.
func TestOracleCatches(t *testing.T) {
	text, m := preset(t, "default")
	o := newOracle(t, text)
	for name, broken := range map[string]func(m *access.Matrix, role, purpose string) access.Decision{
		"an unknown role is the union of all": func(m *access.Matrix, role, purpose string) (d access.Decision) {
			if slices.Contains(m.Roles(), role) {
				return decide(m, role, purpose)
			}
			for _, r := range m.Roles() {
				d = either(d, decide(m, r, purpose))
			}
			return d
		},
		"an unknown purpose is the union of all": func(m *access.Matrix, role, purpose string) (d access.Decision) {
			if slices.Contains(m.Purposes(), purpose) {
				return decide(m, role, purpose)
			}
			for _, p := range m.Purposes() {
				d = either(d, decide(m, role, p))
			}
			return d
		},
		"no purpose is any purpose": func(m *access.Matrix, role, purpose string) access.Decision {
			if purpose == "" {
				purpose = "checkout"
			}
			return decide(m, role, purpose)
		},
		"no role is the first role": func(m *access.Matrix, role, purpose string) access.Decision {
			if role == "" {
				role = m.Roles()[0]
			}
			return decide(m, role, purpose)
		},
		"a purpose that the role lacks falls back to another": func(m *access.Matrix, role, purpose string) access.Decision {
			if d := decide(m, role, purpose); d != (access.Decision{}) || !slices.Contains(m.Purposes(), purpose) {
				return d
			}
			return decide(m, role, "support")
		},
		"role names in any case": func(m *access.Matrix, role, purpose string) access.Decision {
			return decide(m, strings.ToLower(role), purpose)
		},
		"purposes are trimmed": func(m *access.Matrix, role, purpose string) access.Decision {
			return decide(m, role, strings.TrimSpace(purpose))
		},
		"role names end at a zero byte": func(m *access.Matrix, role, purpose string) access.Decision {
			role, _, _ = strings.Cut(role, "\x00")
			return decide(m, role, purpose)
		},
		"role names by prefix": func(m *access.Matrix, role, purpose string) access.Decision {
			for _, r := range m.Roles() {
				if role != "" && strings.HasPrefix(r, role) {
					role = r
				}
			}
			return decide(m, role, purpose)
		},
		"masked is full": func(m *access.Matrix, role, purpose string) access.Decision {
			d := decide(m, role, purpose)
			for s := range d.Levels.AtLeast(access.Masked).All() {
				d.Levels = d.Levels.With(s, access.Full)
			}
			return d
		},
		"levels are off by a segment": func(m *access.Matrix, role, purpose string) access.Decision {
			d := decide(m, role, purpose)
			d.Levels <<= 2
			return d
		},
		"a level too many bits": func(m *access.Matrix, role, purpose string) access.Decision {
			d := decide(m, role, purpose)
			d.Levels |= d.Levels << 1 // exists becomes full
			return d
		},
		"who may find may resolve": func(m *access.Matrix, role, purpose string) access.Decision {
			d := decide(m, role, purpose)
			if d.Acts.Has(access.Find) {
				d.Acts |= access.ActsOf(access.Resolve)
			}
			return d
		},
		"acts of every purpose": func(m *access.Matrix, role, purpose string) access.Decision {
			d := decide(m, role, purpose)
			if d != (access.Decision{}) {
				for _, p := range m.Purposes() {
					d.Acts |= decide(m, role, p).Acts
				}
			}
			return d
		},
		"break-glass for any purpose": func(m *access.Matrix, role, purpose string) access.Decision {
			d := decide(m, role, purpose)
			for _, p := range m.Purposes() {
				d.BreakGlass |= decide(m, role, p).BreakGlass
			}
			return d
		},
		"break-glass is opened already": func(m *access.Matrix, role, purpose string) access.Decision {
			d := decide(m, role, purpose)
			for s := range d.BreakGlass.All() {
				d.Levels = d.Levels.With(s, access.Full)
			}
			return d
		},
		"everything is denied": func(*access.Matrix, string, string) access.Decision { return access.Decision{} },
	} {
		t.Run(name, func(t *testing.T) {
			require.NotEmpty(t, o.disagreement(mutant{m, broken}))
		})
	}
	require.Empty(t, o.disagreement(mutant{m, decide}), "and what is not broken passes")
}

// WhoCan lists, in file order, exactly what Decide allows.
func TestWhoCanAgreesWithDecide(t *testing.T) {
	agrees := func(t require.TestingT, m *access.Matrix, o oracle) {
		for _, s := range access.AllSegments() {
			require.Nil(t, m.WhoCan(s, access.Full+1))
			for level := access.None; level <= access.Full; level++ {
				var want []access.Cell
				for _, r := range m.Roles() {
					for _, p := range m.Purposes() {
						d := decide(m, r, p)
						is := d.Levels.Of(s)
						_, written := under(o.file, "roles", r, "for", p)
						switch {
						case is >= level && written:
							want = append(want, access.Cell{Role: r, Purpose: p, Level: is})
						case d.BreakGlass.Has(s):
							want = append(want, access.Cell{Role: r, Purpose: p, Level: is, BreakGlass: true})
						}
					}
				}
				got := m.WhoCan(s, level)
				require.ElementsMatch(t, want, got)
				roles := m.Roles() // cells of a role stand together, roles in file order
				require.True(t, slices.IsSortedFunc(got, func(a, b access.Cell) int {
					return slices.Index(roles, a.Role) - slices.Index(roles, b.Role)
				}))
			}
		}
		require.Nil(t, m.WhoCan(access.SegmentCount, access.None))
	}
	text, m := preset(t, "default")
	agrees(t, m, newOracle(t, text))
	rapid.Check(t, func(t *rapid.T) {
		text := generated(t)
		m, err := access.ParseMatrix([]byte(text))
		require.NoError(t, err, text)
		agrees(t, m, newOracle(t, text))
	})
}
