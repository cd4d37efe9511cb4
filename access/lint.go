package access

import (
	"cmp"
	"fmt"
	"slices"
)

// A Warning is something in an access file that is allowed and looks like a mistake.
type Warning struct {
	Line    int
	Message string
}

// String returns one line that begins with the place.
func (w Warning) String() string { return fmt.Sprintf("line %d: %s", w.Line, w.Message) }

// Lint returns what looks like a mistake in the file, by line: roles that see everything, purposes that
// nobody uses, break-glass and changes that make no sense, cells that allow nothing.
func (m *Matrix) Lint() []Warning {
	l := linter{}
	for _, p := range m.purposes {
		if !slices.ContainsFunc(m.roles, func(r role) bool { return r.cell(p.name) != nil }) {
			l.warn(p.line, "purpose %q is used by no role", p.name)
		}
	}
	reviewed := slices.ContainsFunc(m.roles, func(r role) bool { return r.may(Review) })
	for i := range m.roles {
		r := &m.roles[i]
		l.role(r)
		if r.breakGlass != 0 && !reviewed {
			l.warn(r.breakGlassLine, "role %q has break-glass, but no role may review it: everybody could use it once and never again", r.name)
		}
	}
	slices.SortStableFunc(l.found, func(a, b Warning) int { return cmp.Compare(a.Line, b.Line) })
	return l.found
}

type linter struct{ found []Warning }

func (l *linter) warn(line int, format string, args ...any) {
	l.found = append(l.found, Warning{Line: line, Message: fmt.Sprintf(format, args...)})
}

func (l *linter) role(r *role) {
	if r.why == "" {
		l.warn(r.line, "role %q does not say why it sees what it sees", r.name)
	}
	always := everySegment // what is shown in full whatever the purpose
	for _, c := range r.cells {
		always &= c.decision.Levels.AtLeast(Full)
		l.cell(r, &c)
	}
	switch {
	case len(r.cells) == 0 && r.breakGlass != 0:
		l.warn(r.breakGlassLine, "role %q has break-glass but no purpose to use it for", r.name)
		return
	case len(r.cells) == 0:
		return
	case always == everySegment:
		l.warn(r.line, "role %q sees everything in full for every purpose: the purpose decides nothing", r.name)
	}
	if both := r.breakGlass & always; both != 0 {
		l.warn(r.breakGlassLine, "role %q has break-glass on %s, which it sees in full for every purpose", r.name, both)
	}
}

func (l *linter) cell(r *role, c *cell) {
	d := c.decision
	full := d.Levels.AtLeast(Full)
	if d == (Decision{}) {
		l.warn(c.line, "role %q may see and do nothing for %q; leave it out", r.name, c.purpose)
	}
	if !d.Acts.Has(Change) {
		return
	}
	if full == 0 {
		l.warn(c.line, "role %q may change for %q, but sees nothing in full: there is nothing it could change", r.name, c.purpose)
	} else if part := d.Levels.AtLeast(Exists) &^ full; part != 0 {
		l.warn(c.line, "role %q may change for %q, but not %s, which it does not see in full", r.name, c.purpose, part)
	}
}

// cell returns the role's cell for a purpose, or nil.
func (r *role) cell(purpose string) *cell {
	for i := range r.cells {
		if r.cells[i].purpose == purpose {
			return &r.cells[i]
		}
	}
	return nil
}

// may reports whether the role may do something for any purpose.
func (r *role) may(a Act) bool {
	return slices.ContainsFunc(r.cells, func(c cell) bool { return c.decision.Acts.Has(a) })
}
