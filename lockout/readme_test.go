package lockout_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the README shows is what the example runs.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	_, rest, begun := strings.Cut(string(source), "func checkPIN(")
	code, _, ended := strings.Cut(rest, "\n}\n")
	require.True(t, begun && ended, "the example has lost checkPIN")
	require.Contains(t, string(readme), "```go\nfunc checkPIN("+code+"\n}\n```\n")
}
