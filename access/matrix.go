package access

import (
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/carrel-project/carrel/internal/closed"
)

// A Matrix says what each role may see and do for each purpose, as [ParseMatrix] read it from a file. It is
// immutable and safe for concurrent use. The zero Matrix denies everything.
type Matrix struct {
	id, title string
	revision  int
	purposes  []purpose
	roles     []role

	// decisions holds the cells of the roles once more, for looking up. That a missing key yields the
	// zero Decision is the default deny.
	decisions map[place]Decision
}

// A place is where a decision stands in the matrix.
type place struct{ role, purpose string }

type purpose struct {
	name, meaning string
	line          int
}

type role struct {
	name, why      string
	line           int
	breakGlass     Set
	breakGlassLine int
	cells          []cell
}

type cell struct {
	purpose  string
	line     int
	decision Decision
}

// ParseMatrix reads an access file and runs the tests in it: a file whose tests fail is refused. Every error
// is an [*Error].
func ParseMatrix(data []byte) (*Matrix, error) {
	m, err := parseMatrix(data)
	return m, public(err)
}

func parseMatrix(data []byte) (*Matrix, error) {
	root, err := closed.Parse(data, "access file", "; see `carrel access init`")
	if err != nil {
		return nil, err
	}
	// The version comes first: what else stands in a file of another version is not ours to judge.
	if version := closed.Value(root, "carrel-access"); root.Kind == yaml.MappingNode && version.Value != "1" {
		return nil, closed.Fault(version, "carrel-access", "an access file begins with `carrel-access: 1`, the version of its format that this carrel knows")
	}
	m := &Matrix{decisions: map[place]Decision{}}
	err = closed.Mapping(root, "the access file", []closed.Field{
		{"carrel-access", func(*yaml.Node) error { return nil }},
		{"id", closed.Text(&m.id, "id")},
		{"revision", closed.Count(&m.revision, "revision")},
		{"title", closed.Text(&m.title, "title")},
		{"purposes", m.readPurposes},
		{"roles", m.readRoles},
		{"tests", m.runTests},
	})
	switch {
	case err != nil:
		return nil, err
	case m.id == "":
		return nil, closed.Fault(root, "id", "the access file has no id")
	case m.roles == nil:
		return nil, closed.Fault(root, "roles", "the access file has no roles: nobody could see anything")
	}
	return m, nil
}

// ID returns the id of the access file.
func (m *Matrix) ID() string { return m.id }

// Revision returns the revision of the access file, or 0 when it names none.
func (m *Matrix) Revision() int { return m.revision }

// Title returns the title of the access file, or "".
func (m *Matrix) Title() string { return m.title }

// Roles returns the names of the roles, in file order.
func (m *Matrix) Roles() []string {
	names := make([]string, len(m.roles))
	for i, r := range m.roles {
		names[i] = r.name
	}
	return names
}

// Why returns what the file says a role is there for, or "".
func (m *Matrix) Why(roleName string) string {
	if i := slices.IndexFunc(m.roles, func(r role) bool { return r.name == roleName }); i >= 0 {
		return m.roles[i].why
	}
	return ""
}

// Purposes returns the names of the purposes, in file order.
func (m *Matrix) Purposes() []string {
	names := make([]string, len(m.purposes))
	for i, p := range m.purposes {
		names[i] = p.name
	}
	return names
}

// Meaning returns what the file says a purpose means, or "" for an unknown one.
func (m *Matrix) Meaning(purposeName string) string {
	if i := slices.IndexFunc(m.purposes, func(p purpose) bool { return p.name == purposeName }); i >= 0 {
		return m.purposes[i].meaning
	}
	return ""
}

// A Cell is a role and a purpose that reach a level of a segment.
type Cell struct {
	Role, Purpose string
	Level         Level // what is shown without a grant
	BreakGlass    bool  // the level that was asked for is reached only by a grant
}

// WhoCan returns the cells that show a segment at the level or above, in file order, and, marked, those that
// reach it by break-glass. At least [None] are all cells; an unknown segment or level nobody reaches.
func (m *Matrix) WhoCan(s Segment, atLeast Level) (cells []Cell) {
	if s >= SegmentCount || atLeast > Full {
		return nil
	}
	for _, r := range m.roles {
		for _, c := range r.cells {
			level := c.decision.Levels.Of(s)
			if level >= atLeast || c.decision.BreakGlass.Has(s) {
				cells = append(cells, Cell{Role: r.name, Purpose: c.purpose, Level: level, BreakGlass: level < atLeast})
			}
		}
	}
	return cells
}
