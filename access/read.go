package access

import (
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/carrel-project/carrel/internal/closed"
)

func (m *Matrix) readPurposes(n *yaml.Node) error {
	return entries(n, "purposes", "a purpose", func(key, n *yaml.Node) error {
		p := purpose{name: key.Value, line: key.Line}
		if err := closed.Text(&p.meaning, "the meaning of the purpose")(n); err != nil {
			return err
		}
		m.purposes = append(m.purposes, p)
		return nil
	})
}

func (m *Matrix) readRoles(n *yaml.Node) error {
	return entries(n, "roles", "a role", func(key, n *yaml.Node) error {
		r := role{name: key.Value, line: key.Line}
		var cells *yaml.Node
		err := closed.Mapping(n, "a role", []closed.Field{
			{"why", closed.Text(&r.why, "why")},
			{"break-glass", func(n *yaml.Node) error {
				r.breakGlassLine = n.Line
				return words(func(i int) { r.breakGlass = r.breakGlass.With(Segment(i)) }, "break-glass", segmentWords[:], false)(n)
			}},
			{"for", func(n *yaml.Node) error { cells = n; return nil }},
		})
		if err != nil {
			return err
		}
		// A role that sees nothing is possible, but must say so.
		if cells == nil {
			return closed.Fault(key, "for", "role %q does not say for what purposes it sees something; write `for: {}` if for none", r.name)
		}
		if err := m.readCells(cells, &r); err != nil {
			return err
		}
		m.roles = append(m.roles, r)
		return nil
	})
}

func (m *Matrix) readCells(n *yaml.Node, r *role) error {
	return entries(n, "for", "a purpose", func(key, n *yaml.Node) error {
		if err := m.declared(key); err != nil {
			return err
		}
		c := cell{purpose: key.Value, line: key.Line, decision: Decision{BreakGlass: r.breakGlass}}
		fields := make([]closed.Field, 0, SegmentCount+1)
		for _, s := range AllSegments() {
			set := func(i int) { c.decision.Levels = c.decision.Levels.With(s, Level(i)) }
			fields = append(fields, closed.Field{s.String(), choice(set, s.String(), levelWords[:])})
		}
		may := func(i int) { c.decision.Acts |= ActsOf(Act(i)) }
		fields = append(fields, closed.Field{"may", words(may, "may", actWords[:], false)})
		if err := closed.Mapping(n, "a purpose of a role", fields); err != nil {
			return err
		}
		r.cells = append(r.cells, c)
		m.decisions[place{r.name, c.purpose}] = c.decision
		return nil
	})
}

// declared refuses a purpose that the file does not declare.
func (m *Matrix) declared(n *yaml.Node) error {
	if known := m.Purposes(); !slices.Contains(known, n.Value) {
		return closed.Fault(n, n.Value, "purpose %q is not declared under purposes%s", n.Value, closed.Hint(n.Value, known))
	}
	return nil
}
