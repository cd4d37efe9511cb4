package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
)

func TestDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	var r demoResult
	cmd := command(t, "demo", "--dir", dir, "--loans", "3000", "--json")
	installed := filepath.Join(t.TempDir(), "anchor")
	cmd.Env = append(cmd.Env, "CARREL_ANCHOR="+installed)
	require.NoError(t, json.Unmarshal([]byte(good(t, finish(t, cmd))), &r))
	assert.NoFileExists(t, installed, "a demonstration leaves the anchor of the installation alone")
	assert.Positive(t, r.Search.Sought)
	assert.Equal(t, r.Search.Sought, r.Search.Before, "the search finds what is there")
	assert.Zero(t, r.Search.After)
	assert.Equal(t, 3000, r.Sweep.Kinds["loan"].LinkedBefore)
	assert.Positive(t, r.Sweep.Kinds["loan"].ByReason["legal-hold"])

	page, err := os.ReadFile(r.Page)
	require.NoError(t, err)
	assert.NotRegexp(t, regexp.MustCompile(`https?://|src=|<script|<link|@import|url\(`), string(page), "the page needs nothing from anywhere")
	assert.NotContains(t, string(page), "ZgotmplZ", "html/template refused a value")
	assert.Contains(t, string(page), "special-collections")

	assert.Zero(t, r.Trail.Findings)
	good(t, carrel(t, "sweep", "--db", r.Database, "--policy", r.Policy))
	refused(t, carrel(t, "demo", "--dir", dir), "exists already; choose another --dir")
	refused(t, carrel(t, "demo", "--loans", "0"), "--loans must be")
	refused(t, carrel(t, "demo", "--dir", "/dev/null/x"), "not a directory")
}

func TestDemoPolicyIsClean(t *testing.T) {
	p, err := anonymize.ParsePolicy(demoPolicy)
	require.NoError(t, err)
	for _, w := range p.Lint() {
		t.Log(w.Line, w.Message) // a layered policy has some; they are for its author to weigh
	}
}

func TestFound(t *testing.T) {
	words := map[string]bool{"0123456789": true, "abcdefgh": true, "zzzzzzzz": true, "01234567xx": true}
	assert.Equal(t, 2, found([]byte("..0123456789..0123456789abcdefgh"), words))
	assert.Equal(t, 0, found([]byte("012345678"), words))
	assert.Equal(t, 0, found(nil, words))
}
