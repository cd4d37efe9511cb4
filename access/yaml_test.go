package access_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
)

func TestParseErrors(t *testing.T) {
	const head = "carrel-access: 1\nid: x\nrevision: 1\n"                          // lines 1 to 3
	const purposes = head + "purposes:\n  checkout: Lending\n  overdue: Notices\n" // to line 6
	cell := func(s string) string { return purposes + "roles:\n  desk:\n    for:\n      checkout: " + s + "\n" }
	test := func(s string) string {
		return purposes + "roles:\n  desk:\n    break-glass: [phones]\n    for:\n      checkout: {names: full, may: [find]}\n" + "tests:\n  - " + s + "\n"
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "line 1, column 1: the access file is empty; see `carrel access init`"},
		{"only a comment", "# nothing\n", "line 1, column 1: the access file is empty; see `carrel access init`"},
		{"a list", "- a\n", "line 1, column 1: the access file must be a mapping of keys to values"},
		{"not UTF-8", "carrel-access: 1\nid: \xff\n", "line 2, column 1: the file is not UTF-8 here"},
		{"two documents", head + "---\na: b\n", "line 4, column 1: a second document begins here; an access file is one YAML document"},
		{"not YAML", head + "purposes: {a\n", "line 4, column 1: not valid YAML: did not find expected ',' or '}'"},
		{"not YAML in a line", purposes + "roles: a: b\n", "line 7, column 1: not valid YAML: mapping values are not allowed in this context"},
		{"a key out of line", head + "roles:\n  - a\n b: c\n", "line 6, column 1: not valid YAML: did not find expected key"},
		{"a control character", head + "title: \x01\n", "line 4, column 1: not valid YAML: control characters are not allowed"},
		{"an unknown alias", head + "title: *a\n", "line 4, column 1: not valid YAML: unknown anchor 'a' referenced"},
		{"another sort of file", "carrel-retention: 1\nid: x\n", "line 1, column 1: an access file begins with `carrel-access: 1`, the version of its format that this carrel knows"},
		{"a later version", "carrel-access: 2\nid: x\nnews: 1\n", "line 1, column 16: an access file begins with `carrel-access: 1`, the version of its format that this carrel knows"},
		{"no version", "carrel-access:\nid: x\n", "line 1, column 15: an access file begins with `carrel-access: 1`, the version of its format that this carrel knows"},
		{"no id", "carrel-access: 1\nroles: {}\n", "line 1, column 1: the access file has no id"},
		{"no roles", purposes, "line 1, column 1: the access file has no roles: nobody could see anything"},
		{"empty roles", purposes + "roles: {}\n", "line 1, column 1: the access file has no roles: nobody could see anything"},
		{"revision 0", "carrel-access: 1\nid: x\nrevision: 0\n", "line 3, column 11: revision must be a whole number of at least 1"},
		{"an alias", head + "purposes: &p {a: b}\nroles: *p\n", "line 4, column 11: anchors are not used in access files; write it out"},
		{"a tag", head + "title: !!str x\n", "line 4, column 8: tags are not used in access files; write the plain value"},
		{"a merge key", cell("{<<: {names: full}}"), `line 10, column 18: unknown key "<<" in a purpose of a role; known are names, addresses, phones, emails, identifiers, birth, blocks, notes, roles, campus, statistics, photo, may`},
		{"deep", head + "title: " + strings.Repeat("[", 30) + strings.Repeat("]", 30) + "\n", "line 4, column 28: nested too deeply"},

		{"unknown key", head + "role:\n  desk: {}\n", `line 4, column 1: unknown key "role" in the access file; did you mean "roles"?`},
		{"key twice", head + "id: y\n", `line 4, column 1: "id" stands twice in the access file`},
		{"purposes as a list", head + "purposes: [a]\n", "line 4, column 11: purposes must be a mapping of names"},
		{"a purpose without meaning", head + "purposes:\n  checkout:\n", "line 5, column 12: the meaning of the purpose has no value"},
		{"a purpose twice", head + "purposes:\n  a: b\n  a: c\n", `line 6, column 3: "a" stands twice in purposes`},
		{"a purpose with a space", head + "purposes:\n  at the desk: b\n", `line 5, column 3: "at the desk" cannot name a purpose: a name has 1 to 64 ASCII letters, digits and - _ . : /`},
		{"a purpose of letters that look alike", head + "purposes:\n  \"сheckout\": b\n", `line 5, column 3: "сheckout" cannot name a purpose: a name has 1 to 64 ASCII letters, digits and - _ . : /`},
		{"a purpose without name", head + "purposes:\n  \"\": b\n", `line 5, column 3: "" cannot name a purpose: a name has 1 to 64 ASCII letters, digits and - _ . : /`},

		{"a role twice", purposes + "roles:\n  desk: {for: {}}\n  desk: {for: {}}\n", `line 9, column 3: "desk" stands twice in roles`},
		{"a role of nothing", purposes + "roles:\n  desk:\n", "line 8, column 8: a role must be a mapping of keys to values"},
		{"a role without purposes", purposes + "roles:\n  desk: {why: Lends}\n", "line 8, column 3: role \"desk\" does not say for what purposes it sees something; write `for: {}` if for none"},
		{"unknown key of a role", purposes + "roles:\n  desk: {fro: {}}\n", `line 8, column 10: unknown key "fro" in a role; did you mean "for"?`},
		{"break-glass misspelled", purposes + "roles:\n  desk: {breakglass: [names], for: {}}\n", `line 8, column 10: unknown key "breakglass" in a role; did you mean "break-glass"?`},
		{"break-glass on no segment", purposes + "roles:\n  desk: {break-glass: [adress], for: {}}\n", `line 8, column 24: break-glass cannot be "adress"; did you mean "addresses"?`},
		{"break-glass on nothing", purposes + "roles:\n  desk: {break-glass: [], for: {}}\n", "line 8, column 23: break-glass is an empty list; leave it out"},
		{"break-glass not a list", purposes + "roles:\n  desk: {break-glass: names, for: {}}\n", "line 8, column 23: break-glass must be a list"},
		{"break-glass twice on one", purposes + "roles:\n  desk: {break-glass: [names, names], for: {}}\n", `line 8, column 31: "names" stands twice in break-glass`},
		{"undeclared purpose", purposes + "roles:\n  desk: {for: {chekout: {names: full}}}\n", `line 8, column 16: purpose "chekout" is not declared under purposes; did you mean "checkout"?`},
		{"no purposes at all", head + "roles:\n  desk: {for: {checkout: {names: full}}}\n", `line 5, column 16: purpose "checkout" is not declared under purposes`},
		{"a cell twice", purposes + "roles:\n  desk: {for: {checkout: {}, checkout: {}}}\n", `line 8, column 30: "checkout" stands twice in for`},
		{"a cell of nothing", cell(""), "line 10, column 16: a purpose of a role must be a mapping of keys to values"},
		{"unknown segment", cell("{adresses: full}"), `line 10, column 18: unknown key "adresses" in a purpose of a role; did you mean "addresses"?`},
		{"a segment twice", cell("{names: none, names: full}"), `line 10, column 31: "names" stands twice in a purpose of a role`},
		{"unknown level", cell("{names: mask}"), `line 10, column 25: names cannot be "mask"; did you mean "masked"?`},
		{"a level in capitals", cell("{names: FULL}"), `line 10, column 25: names cannot be "FULL"; known are none, exists, masked, full`},
		{"yes is no level", cell("{names: yes}"), `line 10, column 25: names cannot be "yes"; known are none, exists, masked, full`},
		{"no level", cell("{names: }"), "line 10, column 25: names has no value"},
		{"levels", cell("{names: [full]}"), "line 10, column 25: names must be a single value"},
		{"unknown act", cell("{may: [finde]}"), `line 10, column 24: may cannot be "finde"; did you mean "find"?`},
		{"a single act", cell("{may: find}"), "line 10, column 23: may must be a list"},

		{"tests not a list", purposes + "roles: {desk: {for: {}}}\ntests: {}\n", "line 8, column 8: tests must be a list"},
		{"unknown key of a test", test("{nmae: t}"), `line 13, column 6: unknown key "nmae" in a test; did you mean "name"?`},
		{"a test without name", test("{role: desk}"), "line 13, column 5: a test needs a name"},
		{"a test without role", test("{name: t}"), `line 13, column 5: test "t" needs a role`},
		{"a test without purpose", test("{name: t, role: desk}"), `line 13, column 5: test "t" needs a purpose`},
		{"a test without want", test("{name: t, role: desk, purpose: checkout, want: {}}"), `line 13, column 5: test "t" does not say what it wants`},
		{"want is a word", test("{name: t, role: desk, purpose: checkout, want: none}"), "line 13, column 52: want must be a mapping of keys to values"},
		{"a test of nobody", test("{name: t, role: dsek, purpose: checkout, want: {names: none}}"), `line 13, column 21: role "dsek" is not declared under roles; did you mean "desk"?`},
		{"a test of no purpose", test("{name: t, role: desk, purpose: chekout, want: {names: none}}"), `line 13, column 36: purpose "chekout" is not declared under purposes; did you mean "checkout"?`},
		{"unknown segment in a test", test("{name: t, role: desk, purpose: checkout, want: {name: none}}"), `line 13, column 53: unknown key "name" in want; did you mean "names"?`},
		{"unknown level in a test", test("{name: t, role: desk, purpose: checkout, want: {names: ful}}"), `line 13, column 60: names cannot be "ful"; did you mean "full"?`},
		{"a test that fails", test("{name: no names, role: desk, purpose: checkout, want: {birth: none, names: none}}"), `line 13, column 80: test "no names" fails: names is full, but none is wanted`},
		{"for another purpose", test("{name: notices, role: desk, purpose: overdue, want: {names: full}}"), `line 13, column 65: test "notices" fails: names is none, but full is wanted`},
		{"acts in a test", test("{name: t, role: desk, purpose: checkout, want: {may: [find, resolve]}}"), `line 13, column 58: test "t" fails: may is [find], but [resolve, find] is wanted`},
		{"no acts in a test", test("{name: t, role: desk, purpose: checkout, want: {may: []}}"), `line 13, column 58: test "t" fails: may is [find], but [] is wanted`},
		{"unknown act in a test", test("{name: t, role: desk, purpose: checkout, want: {may: [serch]}}"), `line 13, column 59: may cannot be "serch"; known are create, change, import, export, resolve, find, reindex, review, report, erase, restrict`},
		{"break-glass in a test", test("{name: t, role: desk, purpose: checkout, want: {break-glass: []}}"), `line 13, column 66: test "t" fails: break-glass is [phones], but [] is wanted`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := access.ParseMatrix([]byte(c.text))
			require.EqualError(t, err, c.want)
			require.Nil(t, m)
			var e *access.Error
			require.ErrorAs(t, err, &e)
			require.Positive(t, e.Line)
		})
	}
	_, err := access.ParseMatrix([]byte(test("{name: t, role: desk, purpose: checkout, want: {names: full, may: [find], break-glass: [phones]}}")))
	require.NoError(t, err)
}

// YAML counts these as ends of lines.
func lines(data []byte) int {
	n := 1
	for _, r := range string(data) {
		if strings.ContainsRune("\n\r\u0085\u2028\u2029", r) {
			n++
		}
	}
	return n
}

func FuzzParseMatrix(f *testing.F) {
	for _, name := range access.Presets() {
		text, err := access.Preset(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		f.Add(bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")))
	}
	f.Add([]byte("carrel-access: 1\nid: x\npurposes: {a: b}\nroles: {r: {break-glass: [names], for: {a: {names: full, may: [find]}}}}\ntests: [{name: t, role: r, purpose: a, want: {names: full}}]\n"))
	f.Add([]byte("carrel-access: 1\n? [a]\n: b\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("\xff\xfe"))
	f.Add([]byte("%YAML 1.1\n---\n...\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := access.ParseMatrix(data)
		if err != nil {
			var e *access.Error
			if !errors.As(err, &e) || m != nil {
				t.Fatalf("%T beside a matrix: %v", err, m != nil)
			}
			if e.Line < 1 || e.Line > lines(data)+1 || e.Column < 1 || e.Message == "" {
				t.Fatalf("%d lines, and: %v", lines(data), e)
			}
			return
		}
		// What was read denies what is not in it.
		for _, role := range append(m.Roles(), "", "nobody's role") {
			if decide(m, role, "") != (access.Decision{}) || decide(m, role, "no such purpose") != (access.Decision{}) {
				t.Fatal("something is allowed for no purpose")
			}
		}
		for _, s := range access.AllSegments() {
			for _, c := range m.WhoCan(s, access.Exists) {
				d := decide(m, c.Role, c.Purpose)
				if d.Levels.Of(s) != c.Level || c.BreakGlass != (c.Level == access.None) || c.BreakGlass && !d.BreakGlass.Has(s) {
					t.Fatalf("WhoCan says %+v, Decide says %+v", c, d)
				}
			}
		}
		m.Lint()
	})
}
