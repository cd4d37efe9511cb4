package access

import (
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/carrel-project/carrel/internal/closed"
)

// runTests runs the tests of an access file and returns the first that fails.
func (m *Matrix) runTests(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return closed.Fault(n, "", "tests must be a list")
	}
	for _, test := range n.Content {
		if err := m.runTest(test); err != nil {
			return err
		}
	}
	return nil
}

func (m *Matrix) runTest(n *yaml.Node) error {
	var name, roleName, purposeName string
	var want *yaml.Node
	err := closed.Mapping(n, "a test", []closed.Field{
		{"name", closed.Text(&name, "name")},
		{"role", closed.Text(&roleName, "role")},
		{"purpose", closed.Text(&purposeName, "purpose")},
		{"want", func(n *yaml.Node) error { want = n; return nil }},
	})
	switch {
	case err != nil:
		return err
	case name == "":
		return closed.Fault(n, "name", "a test needs a name")
	case roleName == "":
		return closed.Fault(n, "role", "test %q needs a role", name)
	case purposeName == "":
		return closed.Fault(n, "purpose", "test %q needs a purpose", name)
	case want == nil || want.Kind == yaml.MappingNode && len(want.Content) == 0:
		return closed.Fault(n, "want", "test %q does not say what it wants", name)
	}
	// A test of a mistyped role would pass when it wants nothing to be seen, so it must be a known one. The role
	// need not have the purpose: that it sees nothing is worth testing.
	if known := m.Roles(); !slices.Contains(known, roleName) {
		return closed.Fault(closed.Value(n, "role"), roleName, "role %q is not declared under roles%s", roleName, closed.Hint(roleName, known))
	}
	if err := m.declared(closed.Value(n, "purpose")); err != nil {
		return err
	}
	return m.decisions[place{roleName, purposeName}].compare(name, want)
}

// compare holds a decision against what a test wants. Segments that the test does not name may have any
// level; lists that it names must be exactly that.
func (d Decision) compare(name string, want *yaml.Node) error {
	fields := make([]closed.Field, 0, SegmentCount+2)
	for _, s := range AllSegments() {
		fields = append(fields, closed.Field{s.String(), func(n *yaml.Node) error {
			var wanted Level
			if err := choice(func(i int) { wanted = Level(i) }, s.String(), levelWords[:])(n); err != nil {
				return err
			}
			if is := d.Levels.Of(s); is != wanted {
				return closed.Fault(n, name, "test %q fails: %s is %s, but %s is wanted", name, s, is, wanted)
			}
			return nil
		}})
	}
	fields = append(fields, closed.Field{"may", func(n *yaml.Node) error {
		var wanted Acts
		if err := words(func(i int) { wanted |= ActsOf(Act(i)) }, "may", actWords[:], true)(n); err != nil {
			return err
		}
		if d.Acts != wanted {
			return closed.Fault(n, name, "test %q fails: may is [%s], but [%s] is wanted", name, d.Acts, wanted)
		}
		return nil
	}}, closed.Field{"break-glass", func(n *yaml.Node) error {
		var wanted Set
		if err := words(func(i int) { wanted = wanted.With(Segment(i)) }, "break-glass", segmentWords[:], true)(n); err != nil {
			return err
		}
		if d.BreakGlass != wanted {
			return closed.Fault(n, name, "test %q fails: break-glass is [%s], but [%s] is wanted", name, d.BreakGlass, wanted)
		}
		return nil
	}})
	return closed.Mapping(want, "want", fields)
}
