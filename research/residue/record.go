package residue

import "slices"

// What a cell holds.
const (
	kindNull uint8 = iota
	kindInt
	kindReal
	kindText
	kindBlob
)

// A cell is one value of a row. Of texts and blobs it says where in the record's body they are.
type cell struct {
	kind     uint8
	off, end int32
	n        int64
}

// A record is one row. Its texts lie one behind the other, so that they are searched in one go.
type record struct {
	body  []byte
	cells []cell
}

// columnOf returns the cell in which b[from:to] of the body lies, or -1.
func (r *record) columnOf(from, to int) int {
	for i := range r.cells {
		c := &r.cells[i]
		if c.kind >= kindText && int(c.off) <= from && to <= int(c.end) {
			return i
		}
	}
	return -1
}

// A table is what is known of a table before it is read.
type table struct {
	name    string
	columns []string
	key     []bool // part of a primary key or a unique index, or pointed at: may join rows
	unique  []bool // tells rows apart, alone
	refs    []ref
	list    map[int32]bool // columns whose values are of many rows, as the blocks of a search index
}

// A ref is a declared foreign key of one column.
type ref struct {
	column         int
	table, pointed string
}

func (t *table) column(i int32) string {
	if int(i) < len(t.columns) {
		return t.columns[i]
	}
	return "column " + digits(int(i)+1)
}

// joinable reports whether the values of a column may lead from a row to others. Without any declared key, all may: what does not tell
// rows apart is found out when they are counted.
func (t *table) joinable(i int) bool {
	if !slices.Contains(t.key, true) {
		return true
	}
	return i < len(t.key) && t.key[i]
}

func (t *table) isUnique(i int) bool { return i < len(t.unique) && t.unique[i] }
