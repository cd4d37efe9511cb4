package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), dir, &out))
	require.Equal(t, `printed:  [redacted]
revealed: Tunda
the desk and a birth date: patron: not allowed: no-right
after that: crypto: the key of this subject has been destroyed
`, out.String())
	for _, name := range []string{"library.db", "library.db-wal", "anchor"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		for _, secret := range []string{"Tunda", "fola@example.org", "29000000000077"} {
			require.NotContains(t, string(data), secret, name)
		}
	}
	anchor, err := os.ReadFile(filepath.Join(dir, "anchor"))
	require.NoError(t, err)
	require.Regexp(t, `^carrel/trail/[0-9a-f]{32}\n6\n`, string(anchor), "created, found, seen, refused, destroyed, and not opened; what says the same within half an hour is not written twice")
}

// What the README shows is what compiles and runs here.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	_, rest, begun := strings.Cut(string(source), "// README: begin\n")
	code, _, ended := strings.Cut(rest, "\n// README: end\n")
	require.True(t, begun && ended, "main.go has lost its README marks")
	require.Contains(t, string(readme), "```go\n"+code+"```\n")
}
