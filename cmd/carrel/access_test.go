package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
)

// An access file without warnings, in which desk sees names and, by break-glass, telephone numbers.
const simpleAccess = `carrel-access: 1
id: test/simple
revision: 3
title: Two roles
purposes: {checkout: Lending, review: Looking at break-glass, account: Keeping records right}
roles:
  desk:
    why: Lends
    break-glass: [phones]
    for:
      checkout: {names: full, identifiers: masked, notes: exists, may: [find]}
      account: {names: full, emails: full, may: [change]}
  chief:
    why: Reviews
    for:
      review: {identifiers: full, may: [review]}
tests:
  - {name: no birth dates, role: desk, purpose: checkout, want: {birth: none, may: [find]}}
`

// runAccess runs an access command.
func runAccess(t testing.TB, stdin string, args ...string) result {
	t.Helper()
	return carrelIn(t, stdin, append([]string{"access"}, args...)...)
}

func TestAccessCheck(t *testing.T) {
	clean := file(t, "clean.yaml", simpleAccess)
	odd := file(t, "odd.yaml", strings.Replace(simpleAccess, "    why: Lends\n", "", 1))
	broken := file(t, "broken.yaml", strings.Replace(simpleAccess, "names: full", "nmaes: full", 1))
	failing := file(t, "failing.yaml", simpleAccess+"  - {name: wrong, role: desk, purpose: checkout, want: {names: none}}\n")

	want := clean + ": valid: test/simple revision 3, 2 roles, 3 purposes, 1 test passed, no warnings\n"
	assert.Equal(t, want, good(t, runAccess(t, "", "check", clean)))
	assert.Equal(t, want, good(t, runAccess(t, "", "check", "--access", clean)))
	assert.Equal(t, "-"+strings.TrimPrefix(want, clean), good(t, runAccess(t, simpleAccess, "check", "-")))
	assert.Contains(t, good(t, runAccess(t, "", "check")), "preset default: valid: default revision 1, ")

	r := runAccess(t, "", "check", odd)
	assert.Equal(t, exitFound, r.code)
	assert.Regexp(t, `odd\.yaml:7: warning: role "desk" does not say why`, r.out)
	assert.Contains(t, r.out, "1 warning\n")
	assert.Empty(t, r.stderr)

	refused(t, runAccess(t, "", "check", broken), "broken.yaml:11:18: ", "nmaes", `did you mean "names"?`)
	refused(t, runAccess(t, "", "check", failing), "failing.yaml:", "wrong")
	refused(t, runAccess(t, "", "check", filepath.Join(t.TempDir(), "none")), "no such file")
	refused(t, runAccess(t, "", "check", t.TempDir()), "is a directory")
	refused(t, runAccess(t, "", "check", "-"), "empty")
	refused(t, runAccess(t, "", "check", ""), "access check: ", "has no name")
	refused(t, runAccess(t, "", "check", "--access", ""), "access check: ", "has no name")
	refused(t, runAccess(t, "", "check", clean, odd), "one access file at a time")
	refused(t, runAccess(t, "", "check", clean, "--access", odd), "the access file once")
	refused(t, runAccess(t, "", "check", "--acess", clean), `did you mean "--access"?`)
	refused(t, runAccess(t, "", "chekc"), `did you mean "check"?`)

	var c checkedAccess
	require.NoError(t, json.Unmarshal([]byte(good(t, runAccess(t, "", "check", "--json", clean))), &c))
	assert.Equal(t, checkedAccess{File: clean, Valid: true, ID: "test/simple", Revision: 3, Title: "Two roles",
		Roles: []string{"desk", "chief"}, Purposes: []string{"checkout", "review", "account"}, Tests: 1, Warnings: []fileWarning{}}, c)

	r = runAccess(t, "", "check", "--json", broken)
	assert.Equal(t, exitFailed, r.code)
	assert.Equal(t, 1, strings.Count(r.stderr, "\n"))
	c = checkedAccess{}
	require.NoError(t, json.Unmarshal([]byte(r.out), &c))
	assert.False(t, c.Valid)
	assert.Equal(t, 11, c.Error.Line)
	assert.Equal(t, "nmaes", c.Error.Key)
}

func TestAccessCheckDecides(t *testing.T) {
	clean := file(t, "clean.yaml", simpleAccess)
	out := good(t, runAccess(t, "", "check", clean, "--role", "desk", "--purpose", "checkout"))
	_, out, _ = strings.Cut(out, "\n")
	assert.Equal(t, `
desk for checkout

SEGMENT      LEVEL
names        full
addresses    none
phones       none
emails       none
identifiers  masked
birth        none
blocks       none
notes        exists
roles        none
campus       none
statistics   none
photo        none

may: find
break-glass: phones
`, out)

	out = good(t, runAccess(t, "", "check", clean, "--role", "desk", "--purpose", "account"))
	assert.Contains(t, out, "may: change\nmay change: names, emails\n")
	out = good(t, runAccess(t, "", "check", clean, "--role", "chief", "--purpose", "account"))
	assert.Contains(t, out, "may: nothing\nbreak-glass: nothing\n", "both are known, but not together")
	assert.NotContains(t, out, "full")

	r := runAccess(t, "", "check", clean, "--role", "dsek", "--purpose", "spying")
	assert.Equal(t, exitFound, r.code)
	assert.Contains(t, r.out, "dsek for spying is denied everything:\n"+
		"role \"dsek\" is not in the file; did you mean \"desk\"?\npurpose \"spying\" is not in the file\n")
	assert.NotContains(t, r.out, "SEGMENT")
	assert.Empty(t, r.stderr)

	r = runAccess(t, "", "check", clean, "--role", "desk", "--purpose", "chekout", "--json")
	assert.Equal(t, exitFound, r.code)
	var c checkedAccess
	require.NoError(t, json.Unmarshal([]byte(r.out), &c))
	assert.Equal(t, []accessUnknown{{"purpose", "chekout", "checkout"}}, c.Decision.Unknown)
	assert.NotContains(t, r.out, "null")
	for _, s := range c.Decision.Segments {
		assert.Equal(t, "none", s.Level, s.Segment)
	}

	refused(t, runAccess(t, "", "check", clean, "--role", "desk"), "--purpose is missing")
	refused(t, runAccess(t, "", "check", clean, "--purpose", "checkout"), "--role is missing")
	refused(t, runAccess(t, "", "check", clean, "--role", "", "--purpose", ""), "--role is missing")
}

func TestAccessWhoCan(t *testing.T) {
	clean := file(t, "clean.yaml", simpleAccess)
	assert.Equal(t, "ROLE   PURPOSE   LEVEL\ndesk   checkout  masked\nchief  review    full\n",
		good(t, runAccess(t, "", "who-can", "identifiers", clean)))
	assert.Equal(t, "ROLE   PURPOSE  LEVEL\nchief  review   full\n",
		good(t, runAccess(t, "", "who-can", "identifiers", "--level", "full", "--access", clean)))
	assert.Equal(t, "ROLE  PURPOSE   LEVEL\ndesk  checkout  none, full by break-glass\ndesk  account   none, full by break-glass\n",
		good(t, runAccess(t, "", "who-can", "phones", clean)))
	assert.Equal(t, "nobody sees notes at the level masked\n", good(t, runAccess(t, "", "who-can", "notes", clean)))
	assert.Contains(t, good(t, runAccess(t, "", "who-can", "notes", "--level", "exists", clean)), "desk  checkout  exists")
	assert.Contains(t, good(t, runAccess(t, "", "who-can", "birth")), "patron-services  registration")

	var w whoCan
	require.NoError(t, json.Unmarshal([]byte(good(t, runAccess(t, simpleAccess, "who-can", "phones", "-", "--json"))), &w))
	assert.Equal(t, whoCan{"-", "phones", "masked", []whoCanCell{{"desk", "checkout", "none", true}, {"desk", "account", "none", true}}}, w)
	assert.Contains(t, good(t, runAccess(t, "", "who-can", "birth", clean, "--json")), `"cells":[]`)

	refused(t, runAccess(t, "", "who-can"), "which segment?", "names, addresses")
	refused(t, runAccess(t, "", "who-can", "adresses"), `did you mean "addresses"?`)
	refused(t, runAccess(t, "", "who-can", "names", "--level", "none"), "--level must be exists, masked or full")
	refused(t, runAccess(t, "", "who-can", "names", "--level", ""), "--level must be")
	refused(t, runAccess(t, "", "who-can", "names", "a", "b"), "one access file at a time")
	refused(t, runAccess(t, "", "who-can", "names", "a", "--access", "b"), "the access file once")
	refused(t, runAccess(t, "", "who-can", "names", filepath.Join(t.TempDir(), "none")), "no such file")

	r := runAccess(t, "", "who-can", "patron-0815")
	refused(t, r, "unknown segment")
	assert.NotContains(t, r.stderr, "0815", "an argument may be somebody's number")
}

func TestAccessInit(t *testing.T) {
	list := good(t, runAccess(t, "", "init", "--list"))
	for _, name := range access.Presets() {
		assert.Contains(t, list, name)
		text := good(t, runAccess(t, "", "init", "--preset", name))
		assert.Contains(t, good(t, runAccess(t, text, "check", "-")), "no warnings", name)
	}
	assert.Equal(t, good(t, runAccess(t, "", "init", "--preset", "default")), good(t, runAccess(t, "", "init")))
	refused(t, runAccess(t, "", "init", "--preset", "defualt"), `did you mean "default"?`)
	refused(t, runAccess(t, "", "init", "more"), "takes no argument")

	out := filepath.Join(t.TempDir(), "access.yaml")
	assert.Empty(t, good(t, runAccess(t, "", "init", "--out", out)))
	before, err := os.ReadFile(out)
	require.NoError(t, err)
	refused(t, runAccess(t, "", "init", "--out", out), "exists already")
	after, err := os.ReadFile(out)
	require.NoError(t, err)
	assert.Equal(t, before, after)
}
