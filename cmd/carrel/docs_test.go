package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// docs/formats.md is what people write their exports by: it must name every column and nothing else.
func TestFormatsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/formats.md")
	require.NoError(t, err)
	doc := string(text)
	section := func(heading string) string {
		_, rest, ok := strings.Cut(doc, heading+"\n")
		require.True(t, ok, heading)
		body, _, _ := strings.Cut(rest, "\n##")
		return body
	}
	first := regexp.MustCompile(`(?m)^\| ([^|]+) \|`)
	named := func(table string, trim string) (all []string) {
		for _, m := range first.FindAllStringSubmatch(table, -1)[1:] { // without the head
			for word := range strings.SplitSeq(m[1], ",") {
				all = append(all, strings.Trim(word, trim))
			}
		}
		return all
	}
	for _, kind := range fileKinds() {
		assert.ElementsMatch(t, kind.columns, named(section("### "+kind.name), " *"), kind.name)
	}
	assert.ElementsMatch(t, circulation.RecordKeys(), named(section("## Records"), " `"))
	for r := anonymize.Reasons(1); r <= anonymize.AlreadyUnlinked; r <<= 1 {
		assert.Contains(t, section("## Decisions"), "`"+r.Names()[0]+"`")
		assert.NotEmpty(t, reasonMeaning(r.Names()[0]))
	}

	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(doc, -1)
	require.Len(t, blocks, 4)
	_, err = anonymize.ParsePolicy([]byte(blocks[0][1]))
	assert.NoError(t, err)
	for _, b := range blocks[1:3] {
		_, err = parseMapping([]byte(b[1]))
		assert.NoError(t, err)
	}
	assert.Equal(t, concertoMap, blocks[2][1])
	_, err = access.ParseMatrix([]byte(blocks[3][1]))
	assert.NoError(t, err)
	var r circulation.Record
	line := regexp.MustCompile(`(?m)^\{"kind":"loan".*"newer_by_borrower".*$`).FindString(doc)
	assert.NoError(t, circulation.NewRecordParser(nil).Parse([]byte(line), &r))
}
