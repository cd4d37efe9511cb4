package main

import (
	"fmt"
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

// What people copy from these pages into units, manifests and shells must be there: commands and flags.
func TestDocumentedCommandsExist(t *testing.T) {
	for _, page := range []string{"README.md", "docs/backups.md", "docs/formats.md", "docs/keys.md", "docs/lockout.md", "docs/operations.md", "docs/residue.md", "docs/rights.md", "docs/trail.md"} {
		text, err := os.ReadFile("../../" + page)
		require.NoError(t, err)
		lines := documentedCommands(string(text))
		require.NotEmpty(t, lines, page)
		for _, line := range lines {
			assert.NoError(t, commandExists(line), "%s: carrel %s", page, strings.Join(line, " "))
		}
	}
}

// The test above sees what it is there for.
func TestDocumentedCommandsAreSeen(t *testing.T) {
	page := "```sh\nA=1 carrel sweep --db x --polcy y # no such\n```\n\n```ini\nExecStart=/usr/local/bin/carrel swep --db x\n```\n\n```yaml\nargs:\n  - sweep\n  - --db=x\n  - --chard=$(I)/4\n```\n" +
		"Run `carrel doctr --db x`, and not carrel by itself.\n"
	lines := documentedCommands(page)
	require.Len(t, lines, 4)
	for _, line := range lines {
		assert.Error(t, commandExists(line), line)
	}
	assert.NoError(t, commandExists(words("sweep --db=x --policy y --shard 0/4")))
}

var (
	fenced  = regexp.MustCompile("(?s)```[a-z]*\n(.*?)```")
	inCode  = regexp.MustCompile("`carrel ([^`\n]+)`")
	asWord  = regexp.MustCompile(`(?m)(?:^|[\s=/|])carrel ([a-z].*)$`)
	inArgs  = regexp.MustCompile(`(?m)^ *args:\n((?: *- .*\n)+)`)
	oneArg  = regexp.MustCompile(`(?m)^ *- ([^\s]+)`)
	aFormat = regexp.MustCompile(` v[0-9]+$|^installation$|^erasure ledger$|^example key, `) // what files and keys are called
	aFlag   = regexp.MustCompile(`^--?[a-z][a-z-]*`)
	endings = regexp.MustCompile(` #.*| \|.*|>.*|&&.*|;.*`)
)

// documentedCommands returns what stands after carrel, in code blocks and between backticks, and the args of manifests.
func documentedCommands(page string) (lines [][]string) {
	add := func(line string) { lines = append(lines, strings.Fields(endings.ReplaceAllString(line, ""))) }
	for _, block := range fenced.FindAllStringSubmatch(page, -1) {
		for _, m := range asWord.FindAllStringSubmatch(block[1], -1) {
			add(m[1])
		}
		for _, m := range inArgs.FindAllStringSubmatch(block[1], -1) {
			var line []string
			for _, arg := range oneArg.FindAllStringSubmatch(m[1], -1) {
				line = append(line, arg[1])
			}
			lines = append(lines, line)
		}
	}
	for _, m := range inCode.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		if !aFormat.MatchString(m[1]) {
			add(m[1])
		}
	}
	return lines
}

// commandExists looks up a command and its flags. Values are not looked at.
func commandExists(line []string) error {
	cmd, rest, err := newRoot().Find(line)
	if err != nil {
		return err
	}
	if cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		if rest[0] == strings.ToUpper(rest[0]) {
			return nil // any of them
		}
		return fmt.Errorf("carrel has no %s", strings.Join(line, " "))
	}
	cmd.InitDefaultHelpFlag()
	for _, arg := range rest {
		name := strings.TrimPrefix(aFlag.FindString(arg), "--")
		if name != "" && name[0] != '-' && cmd.Flags().Lookup(name) == nil && cmd.InheritedFlags().Lookup(name) == nil {
			return fmt.Errorf("%s has no --%s", cmd.CommandPath(), name)
		}
	}
	return nil
}
