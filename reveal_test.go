package carrel_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Plaintext leaves a Secret by one method. These are the places that call it, outside of package crypto and of tests: a new one is a change
// to be reviewed, and then to be counted here.
var reviewed = map[string]int{
	"audit/encode.go":           3, // encoded to be sealed
	"audit/report_changes.go":   1, // decoded from that
	"cmd/carrel/lockoutwhom.go": 1, // a login that leads to no account, as it was typed
	"cmd/carrel/patron.go":      2, // what patron resolve was asked; the segments that show and export print
	"examples/sealed/main.go":   1,
	"lockout/key.go":            1, // the key of the names
	"patron/field.go":           1, // masks
	"patron/find.go":            5, // looked up, as tokens; the reference of a borrower token, taken apart and compared
	"patron/import.go":          3, // compared
	"patron/grant.go":           2, // the reason of a break-glass: its length and letters are counted
	"patron/lookup.go":          1, // as tokens
	"patron/profile.go":         2, // Profile.Reveal, and for all segments
	"patron/rights.go":          3, // identifiers as references; those hashed for a tombstone, and taken apart to look up
	"patron/segment.go":         4, // encoded to be sealed, decoded from that, checked
	"rights/export.go":          1, // what was written about a patron, in their copy
	"rights/office.go":          1, // references as tokens
	"rights/restrict.go":        1, // the same
	"patron/write.go":           3, // compared with what was there, twice; as tokens
}

func TestPlaintextIsRevealedWhereItWasReviewed(t *testing.T) {
	found := map[string]int{}
	require.NoError(t, filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		name = filepath.ToSlash(name)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == "crypto" || strings.HasPrefix(d.Name(), ".") && name != "."):
			return fs.SkipDir
		case path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Reveal" {
				found[name]++
			}
			return true
		})
		return nil
	}))
	require.Equal(t, reviewed, found)
}
