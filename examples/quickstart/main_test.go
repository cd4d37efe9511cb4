package main

import (
	"context"
	"log"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func Example() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
	// Output:
	// fee: 1 named a borrower, 0 unlinked map[], 1 kept map[open-fee:1 unfinished:1]
	// loan: 3 named a borrower, 1 unlinked map[everyone:1], 2 kept map[open-fee:1 period-not-passed:1]
}

// What the README shows is what compiles and runs here.
func TestReadmeShowsThisExample(t *testing.T) {
	readme, source := read(t, "../../README.md"), read(t, "main.go")
	_, rest, begun := strings.Cut(source, "// README: begin\n")
	code, _, ended := strings.Cut(rest, "// README: end\n")
	require.True(t, begun && ended, "main.go has lost its README marks")
	require.Equal(t, strings.Trim(code, "\n"), block(t, readme, "go"))
	require.Equal(t, strings.Trim(string(policyFile), "\n"), block(t, readme, "yaml"))
}

// block returns the first code block of a language.
func block(t *testing.T, markdown, language string) string {
	t.Helper()
	_, rest, begun := strings.Cut(markdown, "```"+language+"\n")
	code, _, ended := strings.Cut(rest, "\n```")
	require.True(t, begun && ended, "the README has no block of %s", language)
	return code
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(data)
}
