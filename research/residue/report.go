package residue

import (
	"cmp"
	"slices"
	"strings"
)

// A Kind says how a person and a thing are together.
type Kind string

// The kinds of findings.
const (
	Row   Kind = "row"   // in two columns of one row
	Value Kind = "value" // in one value
	Join  Kind = "join"  // in rows that values join
	Bytes Kind = "bytes" // near each other in bytes that are of no row
)

// A Finding is one way in which people of the sample can still be joined to what they borrowed.
type Finding struct {
	Kind       Kind     `json:"kind"`
	Table      string   `json:"table"`                 // where the person is; of bytes, what they are
	Column     string   `json:"column,omitempty"`      // where in it the person is
	ThingTable string   `json:"thing_table,omitempty"` // where the thing is, if elsewhere
	Thing      string   `json:"thing,omitempty"`       // the column with the thing
	Joins      []string `json:"joins,omitempty"`       // equal columns, from the person to the thing: "fees.loan_id = loans.id"
	Pairs      int      `json:"pairs"`                 // how many pairs of the sample are found here
	Rows       int64    `json:"rows,omitempty"`        // in how many rows
	Pages      int      `json:"pages,omitempty"`       // in how many pages
	Forms      []string `json:"forms"`                 // how identifiers are written here: see Form
	Expected   float64  `json:"expected,omitempty"`    // pairs that chance would have joined, where that can be
	Weak       bool     `json:"weak,omitempty"`        // the sample is too small to tell this from chance

	pairs bitset
	by    [2]*origin // that lead to the person and to the thing
}

// Where says how the person and the thing are together, in the manner of SQL.
func (f *Finding) Where() string {
	switch f.Kind {
	case Row:
		return f.Table + "." + f.Column + " beside " + f.Table + "." + f.Thing
	case Value:
		return f.Table + "." + f.Column + " holds both"
	case Join:
		return strings.Join(f.Joins, ", ") + ", " + f.ThingTable + "." + f.Thing
	}
	return "near each other"
}

// A Report says what a search found, what it looked at, and what not.
type Report struct {
	Database string    `json:"database"` // SQLite or PostgreSQL
	Pairs    int       `json:"pairs"`    // of the sample, that were looked for
	Given    int       `json:"pairs_given"`
	Persons  int       `json:"persons"`
	Things   int       `json:"things"` // identifiers of things
	Findings []Finding `json:"findings"`
	Tables   []Looked  `json:"tables"`          // what was looked at
	Pages    []Looked  `json:"pages,omitempty"` // and what of it is no table
	Bytes    int64     `json:"bytes"`           // read, each time it was
	Gaps     []Gap     `json:"not_looked_at"`
	Seconds  float64   `json:"seconds"`
}

// A Looked says how much of something was looked at.
type Looked struct {
	Name  string `json:"name"`
	Rows  int64  `json:"rows,omitempty"`
	Pages int64  `json:"pages,omitempty"`
	Bytes int64  `json:"bytes"`
}

// A Gap is something that was not looked at.
type Gap struct {
	What    string `json:"what"`
	Why     string `json:"why"`
	Warning bool   `json:"warning"` // it could have been: a table without permission, a damaged page
}

// tidy joins what was found in the same way with strong and with weak identifiers, and sorts.
func (r *Report) tidy() {
	type place struct {
		kind                       Kind
		table, column, tt, t, join string
	}
	at := map[place]int{}
	all := r.Findings[:0:0]
	for _, f := range r.Findings {
		p := place{f.Kind, f.Table, f.Column, f.ThingTable, f.Thing, strings.Join(f.Joins, ",")}
		i, ok := at[p]
		if !ok {
			at[p] = len(all)
			all = append(all, f)
			continue
		}
		to := &all[i]
		n := 0
		for w := range to.pairs {
			to.pairs[w] |= f.pairs[w]
		}
		to.pairs.each(func(int) { n++ })
		to.Pairs, to.Rows, to.Pages = n, to.Rows+f.Rows, to.Pages+f.Pages
		to.Weak, to.Expected = to.Weak && f.Weak, min(to.Expected, f.Expected)
		for _, form := range f.Forms {
			if !slices.Contains(to.Forms, form) {
				to.Forms = append(to.Forms, form)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Pairs, a.Pairs), cmp.Compare(len(a.Joins), len(b.Joins)), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Thing, b.Thing), cmp.Compare(a.Where(), b.Where()))
	})
	r.Findings = all
	if r.Findings == nil {
		r.Findings = []Finding{}
	}
	slices.SortStableFunc(r.Gaps, func(a, b Gap) int {
		if a.Warning != b.Warning {
			if a.Warning {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.What, b.What)
	})
}
