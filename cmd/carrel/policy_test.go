package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
)

// A policy without warnings: thirty days for everything, in a zone that is not UTC.
const simplePolicy = `carrel-retention: 1
id: test/simple
revision: 3
clock: {zone: Europe/Stockholm}
records:
  loans: [{name: month, why: A month is enough, after: P30D}]
  requests: [{name: month, after: P30D}]
  sharing: [{name: month, after: P30D}]
  fees: [{name: settled, after: P30D}]
  notices: [{name: soon, after: P7D}]
keep-fields:
  loans: {library: keep, item: keep, returned: month}
  requests: {library: keep}
  sharing: {library: keep}
  fees: {library: keep}
`

func TestPolicyCheck(t *testing.T) {
	clean := file(t, "clean.yaml", simplePolicy)
	odd := file(t, "odd.yaml", "carrel-retention: 1\nid: odd\nrecords:\n  loans: [{name: a, after: P1D}]\n")
	broken := file(t, "broken.yaml", "carrel-retention: 1\nid: broken\nrecords:\n  loanz: []\n")
	failing := file(t, "failing.yaml", simplePolicy+"tests:\n- {name: wrong, record: {kind: loan, ended: 2026-10-01}, on: 2026-10-02, want: unlink}\n")

	assert.Contains(t, good(t, carrel(t, "policy", "check", clean)), clean+": valid: test/simple revision 3, no warnings")

	r := carrel(t, "policy", "check", odd)
	assert.Equal(t, exitFound, r.code)
	assert.Regexp(t, `odd\.yaml:\d+: warning: `, r.out)
	assert.Empty(t, r.stderr)

	refused(t, carrel(t, "policy", "check", broken), "broken.yaml:4:3: ", "loanz", `did you mean "loans"?`)
	refused(t, carrel(t, "policy", "check", failing), "failing.yaml:", "wrong")
	refused(t, carrel(t, "policy", "check", filepath.Join(t.TempDir(), "none")), "no such file")
	refused(t, carrel(t, "policy", "check", t.TempDir()), "is a directory")
	refused(t, carrelIn(t, "", "policy", "check", "-"), "empty")

	r = carrel(t, "policy", "check", broken, odd, "/nonexistent", "--json")
	assert.Equal(t, exitFailed, r.code)
	assert.Equal(t, 2, strings.Count(r.stderr, "\n"), "a line for each broken file")
	var report struct{ Files []checkedPolicy }
	require.NoError(t, json.Unmarshal([]byte(r.out), &report))
	require.Len(t, report.Files, 3)
	assert.Equal(t, 4, report.Files[0].Error.Line)
	assert.Equal(t, "loanz", report.Files[0].Error.Key)
	assert.True(t, report.Files[1].Valid)
	assert.NotEmpty(t, report.Files[1].Warnings)
	assert.NotEmpty(t, report.Files[1].Digest)
	assert.False(t, report.Files[2].Valid)
}

func TestPolicyInit(t *testing.T) {
	list := good(t, carrel(t, "policy", "init", "--list"))
	for _, name := range anonymize.Presets() {
		assert.Contains(t, list, name)
		text := good(t, carrel(t, "policy", "init", "--preset", name))
		assert.NotEqual(t, exitFailed, carrelIn(t, text, "policy", "check", "-").code, name)
	}
	refused(t, carrel(t, "policy", "init", "--preset", "stritc"), `did you mean "strict"?`, "koha-default")
	refused(t, carrel(t, "policy", "init"), "--preset is missing", "koha-default")

	out := filepath.Join(t.TempDir(), "policy.yaml")
	assert.Empty(t, good(t, carrel(t, "policy", "init", "--preset", "strict", "--out", out)))
	before, err := os.ReadFile(out)
	require.NoError(t, err)
	refused(t, carrel(t, "policy", "init", "--preset", "rero", "--out", out), "exists already")
	after, err := os.ReadFile(out)
	require.NoError(t, err)
	assert.Equal(t, before, after)
}
