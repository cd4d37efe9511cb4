package carrel_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/carrel-project/carrel"

// A room says what the code of one package may import besides the standard library.
type room struct {
	ours  []string // packages of this module, as paths below it
	third []string // other modules
}

// house is the table: a package that is not in it is refused, so that a new one is a decision.
// A name that ends in /... stands for all packages below it; a fuller name wins.
var house = map[string]room{
	".": {},

	"crypto":      {third: []string{"github.com/tink-crypto/tink-go/v2"}},
	"access":      {third: []string{"go.yaml.in/yaml/v3"}},
	"circulation": {}, // not patron: a loan cannot name its borrower
	"audit":       {ours: []string{"crypto"}, third: []string{"golang.org/x/mod"}},
	"lockout":     {ours: []string{"audit", "crypto"}}, // crypto: its key is a Secret, and a patron in an event a Subject
	"patron":      {ours: []string{"crypto", "audit", "access"}, third: []string{"github.com/google/uuid"}},
	"anonymize":   {ours: []string{"circulation", "audit"}, third: []string{"go.yaml.in/yaml/v3"}}, // nor anonymize
	"rights":      {ours: []string{"patron", "circulation", "anonymize", "audit", "crypto"}, third: []string{"filippo.io/age"}},

	// Stores: database/sql at most, never a driver. storetest and memory run inside other people's
	// projects and bring nothing along.
	"store/sqlite":    {ours: append([]string{"internal/packed", "internal/receipt"}, domain...)},
	"store/postgres":  {ours: append([]string{"internal/packed", "internal/receipt"}, domain...)},
	"store/redis":     {ours: []string{"lockout"}, third: []string{"github.com/redis/go-redis/v9"}},
	"store/storetest": {ours: domain},
	"store/memory":    {ours: domain},

	"research/...": {ours: []string{"circulation", "anonymize"}},
	"cmd/...":      {ours: everything, third: commandModules},
	"examples/...": {ours: everything, third: commandModules},

	"internal/civil":     {},
	"internal/closed":    {ours: []string{"internal/nearest"}, third: []string{"go.yaml.in/yaml/v3"}},
	"internal/fold":      {third: []string{"golang.org/x/text"}}, // Unicode normalization of what is looked up
	"internal/nearest":   {},
	"internal/packed":    {ours: []string{"access", "crypto", "patron"}},                                      // one way for both databases
	"internal/receipt":   {ours: []string{"anonymize", "audit"}},                                              // the same
	"internal/histories": {ours: []string{"circulation", "anonymize"}, third: []string{"pgregory.net/rapid"}}, // see testOnly
	"internal/pgtest":    {},                                                                                  // see testOnly
	"internal/oracle":    {ours: []string{"circulation", "anonymize"}},                                        // see testOnly
}

var (
	domain     = []string{"crypto", "access", "circulation", "audit", "lockout", "patron", "anonymize", "rights"}
	everything = []string{"..."}

	// small holds the helpers that every package may use.
	small = []string{"internal/civil", "internal/closed", "internal/fold", "internal/nearest"}

	// testOnly holds packages that only tests may import: the independent second opinion is no use
	// when the code it judges can call it, and nobody's program starts servers to crash them.
	testOnly = []string{"internal/histories", "internal/oracle", "internal/pgtest"}

	commandModules = []string{
		"filippo.io/age",
		"github.com/jackc/pgx/v5",
		"github.com/pressly/goose/v3",
		"github.com/riverqueue/river",
		"github.com/schollz/progressbar/v3",
		"github.com/spf13/cobra",
		"github.com/nyaruka/phonenumbers",
		"github.com/redis/go-redis/v9",
		"github.com/spf13/pflag",
		"github.com/tink-crypto/tink-go/v2",
		"go.yaml.in/yaml/v3",
		"golang.org/x/crypto", // Argon2id in examples/pin
		"golang.org/x/mod",
		"golang.org/x/sync",
		"golang.org/x/term",
		"modernc.org/sqlite",
	}

	// testModules holds what tests may import in addition, in any package.
	testModules = []string{
		"github.com/tink-crypto/tink-go/v2", // fake key-encryption keys
		"github.com/davecgh/go-spew",
		"github.com/jackc/pgx/v5", // the driver that store/postgres is tested with
		"github.com/rogpeppe/go-internal",
		"github.com/sethvargo/go-limiter", // limiters that store/memory is measured beside
		"github.com/ulule/limiter/v3",
		"github.com/stretchr/testify",
		"github.com/transparency-dev/merkle", // a second opinion on the proofs of package audit
		"go.yaml.in/yaml/v3",
		"golang.org/x/mod",
		"modernc.org/sqlite",
		"pgregory.net/rapid",
	}
)

// A listed package is what `go list -json` says of it, as far as this test looks at it.
type listed struct {
	ImportPath   string
	Dir          string
	Imports      []string
	TestImports  []string
	XTestImports []string

	IgnoredGoFiles []string // left out here by a build constraint
}

func TestImportTable(t *testing.T) {
	packages := list(t)
	require.NotEmpty(t, packages)
	for _, v := range importViolations(packages) {
		t.Error(v)
	}
}

// list returns the packages of the module, with the imports of files for other systems added.
func list(t *testing.T) (packages []listed) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps=false",
		"-json=ImportPath,Dir,Imports,TestImports,XTestImports,IgnoredGoFiles", "./...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else {
			require.NoError(t, err)
		}
		for _, name := range p.IgnoredGoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ImportsOnly)
			require.NoError(t, err)
			to := &p.Imports
			if strings.HasSuffix(name, "_test.go") {
				to = &p.TestImports
			}
			for _, spec := range f.Imports {
				*to = append(*to, strings.Trim(spec.Path.Value, "\"`"))
			}
		}
		packages = append(packages, p)
	}
}

// importViolations returns what in the list the table does not allow.
func importViolations(packages []listed) (found []string) {
	for _, p := range packages {
		name := below(p.ImportPath)
		r, ok := roomOf(name)
		if !ok {
			found = append(found, fmt.Sprintf("%s is not in the import table", name))
			continue
		}
		for _, imp := range p.Imports {
			switch of := below(imp); {
			case of == "" && !standard(imp) && !within(imp, r.third):
				found = append(found, fmt.Sprintf("%s imports %s", name, imp))
			case of != "" && !slices.Contains(small, of) && !allowed(of, r.ours):
				found = append(found, fmt.Sprintf("%s imports %s", name, of))
			}
		}
		for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
			if below(imp) == "" && !standard(imp) && !within(imp, r.third) && !within(imp, testModules) {
				found = append(found, fmt.Sprintf("a test of %s imports %s", name, imp))
			}
		}
	}
	return found
}

// below returns the path of a package below the module, "." for its root, "" for somebody else's.
func below(importPath string) string {
	if importPath == module {
		return "."
	}
	if rest, ok := strings.CutPrefix(importPath, module+"/"); ok {
		return rest
	}
	return ""
}

func roomOf(name string) (room, bool) {
	if r, ok := house[name]; ok {
		return r, true
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if r, ok := house[dir+"/..."]; ok {
			return r, true
		}
	}
	return room{}, false
}

func allowed(name string, ours []string) bool {
	if slices.Contains(testOnly, name) {
		return false
	}
	return slices.Contains(ours, "...") || slices.Contains(ours, name)
}

// standard reports whether a path is the standard library's: its first element has no dot. Cgo's "C" is not.
func standard(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".") && first != "C"
}

func within(importPath string, modules []string) bool {
	return slices.ContainsFunc(modules, func(m string) bool {
		return importPath == m || strings.HasPrefix(importPath, m+"/")
	})
}

func TestImportTableCatches(t *testing.T) {
	for name, c := range map[string]struct {
		pkg      string
		imports  []string
		ofTests  []string
		outcomes []string
	}{
		"a loan that knows patrons": {
			pkg: "circulation", imports: []string{"time", module + "/patron"},
			outcomes: []string{"circulation imports patron"}},
		"a policy that knows patrons": {
			pkg: "anonymize", imports: []string{module + "/circulation", module + "/patron"},
			outcomes: []string{"anonymize imports patron"}},
		"a driver in an adapter": {
			pkg: "store/sqlite", imports: []string{"database/sql", "modernc.org/sqlite"},
			outcomes: []string{"store/sqlite imports modernc.org/sqlite"}},
		"testify in the suite that others import": {
			pkg: "store/storetest", imports: []string{"testing", "github.com/stretchr/testify/require"},
			outcomes: []string{"store/storetest imports github.com/stretchr/testify/require"}},
		"testify in the command": {
			pkg: "cmd/carrel", imports: []string{"github.com/stretchr/testify/require"},
			outcomes: []string{"cmd/carrel imports github.com/stretchr/testify/require"}},
		"a module whose name begins like an allowed one": {
			pkg: "anonymize", imports: []string{"go.yaml.in/yaml/v3extra"},
			outcomes: []string{"anonymize imports go.yaml.in/yaml/v3extra"}},
		"the oracle outside a test": {
			pkg: "cmd/carrel", imports: []string{module + "/internal/oracle"},
			outcomes: []string{"cmd/carrel imports internal/oracle"}},
		"cgo": {
			pkg: "circulation", imports: []string{"C"},
			outcomes: []string{"circulation imports C"}},
		"a package nobody decided on": {
			pkg:      "util",
			outcomes: []string{"util is not in the import table"}},
		"a package below one that is in the table": {
			pkg:      "circulation/legacy",
			outcomes: []string{"circulation/legacy is not in the import table"}},
		"a stranger in a test": {
			pkg: "circulation", ofTests: []string{"example.org/mock"},
			outcomes: []string{"a test of circulation imports example.org/mock"}},
		"all of it allowed": {
			pkg:     "anonymize",
			imports: []string{"context", module + "/circulation", module + "/internal/civil", "go.yaml.in/yaml/v3"},
			ofTests: []string{module + "/internal/oracle", module + "/store/memory", "github.com/stretchr/testify/require", "pgregory.net/rapid"}},
		"an example on a driver": {
			pkg: "examples/ownschema", imports: []string{module + "/store/storetest", "modernc.org/sqlite"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := listed{ImportPath: module + "/" + c.pkg, Imports: c.imports, XTestImports: c.ofTests}
			require.Equal(t, c.outcomes, importViolations([]listed{p}))
		})
	}
}

// The rules of the house that the import table cannot see.
func TestHouseRules(t *testing.T) {
	files := 0
	require.NoError(t, filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			hidden := strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_")
			if name != "." && (hidden || d.Name() == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files++
		for _, v := range houseViolations(filepath.ToSlash(name), src) {
			t.Error(v)
		}
		return nil
	}))
	require.NotZero(t, files)
}

// houseViolations looks at one file for init functions, for ways to end the process, and for package-level
// state. It knows state by its form (no value, make, new, a pointer, a lock), not by who writes to it.
func houseViolations(name string, src []byte) (found []string) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return []string{err.Error()}
	}
	report := func(n ast.Node, format string, args ...any) {
		found = append(found, fmt.Sprintf("%s:%d: ", name, fset.Position(n.Pos()).Line)+fmt.Sprintf(format, args...))
	}
	test := strings.HasSuffix(name, "_test.go")
	example := strings.HasPrefix(name, "examples/") && f.Name.Name == "main"
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				report(d, "func init")
			}
			mayExit := d.Recv == nil && (d.Name.Name == "main" && (name == "cmd/carrel/main.go" || example) || d.Name.Name == "TestMain" && test)
			mayLogFatal := mayExit || test && strings.HasPrefix(d.Name.Name, "Example")
			ast.Inspect(d, func(n ast.Node) bool {
				switch fn := selector(n); {
				case fn == "os.Exit" && !mayExit, strings.HasPrefix(fn, "log.Fatal") && !mayLogFatal:
					report(n, "%s outside main", fn)
				}
				return true
			})
		case *ast.GenDecl:
			if d.Tok != token.VAR || test {
				continue
			}
			for _, spec := range d.Specs {
				if v := spec.(*ast.ValueSpec); state(v) && !embedded(d.Doc) && !embedded(v.Doc) {
					report(v, "package-level state %s", v.Names[0].Name)
				}
			}
		}
	}
	return found
}

// selector returns "os.Exit" for that expression, "" for anything that is not a name after a name.
func selector(n ast.Node) string {
	if s, ok := n.(*ast.SelectorExpr); ok {
		if x, ok := s.X.(*ast.Ident); ok {
			return x.Name + "." + s.Sel.Name
		}
	}
	return ""
}

func state(v *ast.ValueSpec) bool {
	if v.Names[0].Name == "_" {
		return false
	}
	if len(v.Values) == 0 || lock(v.Type) {
		return true
	}
	return slices.ContainsFunc(v.Values, func(value ast.Expr) bool {
		switch value := value.(type) {
		case *ast.UnaryExpr:
			return value.Op == token.AND
		case *ast.CallExpr:
			fn, ok := value.Fun.(*ast.Ident)
			return ok && (fn.Name == "make" || fn.Name == "new")
		case *ast.CompositeLit:
			return lock(value.Type)
		}
		return false
	})
}

func lock(typ ast.Expr) bool {
	if generic, ok := typ.(*ast.IndexExpr); ok {
		typ = generic.X
	}
	name := selector(typ)
	return strings.HasPrefix(name, "sync.") || strings.HasPrefix(name, "atomic.")
}

func embedded(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

func TestHouseRulesCatch(t *testing.T) {
	cases := map[string]struct{ name, src, want string }{
		"init":               {"audit/a.go", "func init() {}", "func init"},
		"init in a test":     {"audit/a_test.go", "func init() {}", "func init"},
		"a method is none":   {"audit/a.go", "func (x t) init() {}", ""},
		"exit":               {"audit/a.go", "func f() { os.Exit(1) }", "os.Exit outside main"},
		"exit as a value":    {"cmd/carrel/a.go", "func f() { quit := os.Exit; quit(1) }", "os.Exit outside main"},
		"exit beside main":   {"cmd/carrel/main.go", "func run() { os.Exit(1) }", "os.Exit outside main"},
		"exit in main":       {"cmd/carrel/main.go", "func main() { os.Exit(1) }", ""},
		"exit in TestMain":   {"audit/a_test.go", "func TestMain(m *testing.M) { os.Exit(m.Run()) }", ""},
		"fatal in a package": {"audit/a.go", "func f() { log.Fatalf(``) }", "log.Fatalf outside main"},
		"fatal in an example": {
			"audit/a_test.go", "func ExampleF() { log.Fatal() }", ""},
		"no value":           {"audit/a.go", "var cache map[string]int", "package-level state cache"},
		"map":                {"audit/a.go", "var cache = make(map[string]int)", "package-level state cache"},
		"pointer":            {"audit/a.go", "var Default = &Config{}", "package-level state Default"},
		"lock":               {"audit/a.go", "var mu = sync.Mutex{}", "package-level state mu"},
		"atomic":             {"audit/a.go", "var n atomic.Pointer[int]", "package-level state n"},
		"table":              {"audit/a.go", "var names = [...]string{``}", ""},
		"error":              {"audit/a.go", "var ErrX = errors.New(``)", ""},
		"claim":              {"audit/a.go", "var _ Store = (*T)(nil)", ""},
		"embedded":           {"audit/a.go", "//go:embed schema.sql\nvar schema string", ""},
		"embedded, in group": {"audit/a.go", "var (\n\t//go:embed schema.sql\n\tschema string\n)", ""},
		"state in a test":    {"audit/a_test.go", "var n int", ""},
	}
	for _, what := range slices.Sorted(maps.Keys(cases)) {
		c := cases[what]
		t.Run(what, func(t *testing.T) {
			found := houseViolations(c.name, []byte("package p\n"+c.src))
			if c.want == "" {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			require.True(t, strings.HasSuffix(found[0], ": "+c.want), found[0])
		})
	}
}
