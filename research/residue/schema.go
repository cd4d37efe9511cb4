package residue

import (
	"slices"
	"strings"
)

// schema reads sqlite_schema: which b-trees there are, and what their columns are called.
func (d *sqliteFile) schema() (all []*sqliteTable, damage bool) {
	entries := &sqliteTable{table: table{name: "sqlite_schema", columns: strings.Fields("type name tbl_name rootpage sql")}, root: 1, rowid: -1}
	inner, leaves, damage := d.walk(1)
	type entry struct {
		kind, name, of, sql string
		root                uint32
	}
	var list []entry
	for _, n := range append(inner, leaves...) {
		p, err := d.page(n, d.one)
		if err != nil || !d.rows(p, n, entries, func(r *record) {
			if len(r.cells) < 5 {
				return
			}
			text := func(i int) string { return string(r.body[r.cells[i].off:r.cells[i].end]) }
			list = append(list, entry{text(0), text(1), text(2), text(4), uint32(r.cells[3].n)})
		}) {
			damage = true
		}
	}
	clear(d.known)
	all = append(all, entries)
	byName := map[string]*sqliteTable{}
	for _, e := range list {
		if e.kind != "table" || e.root == 0 {
			continue
		}
		t := parseTable(e.sql)
		t.name, t.root = e.name, e.root
		if e.name == "sqlite_stat4" {
			t.samples = true
			for i := range 8 {
				t.columns = append(t.columns, "sample "+digits(i+1))
			}
		}
		byName[strings.ToLower(e.name)] = t
		all = append(all, t)
	}
	for _, e := range list {
		switch {
		case e.kind == "index" && e.root != 0:
			all = append(all, &sqliteTable{table: table{name: e.name}, root: e.root, index: true, rowid: -1})
			if t := byName[strings.ToLower(e.of)]; t != nil {
				t.addUnique(uniqueIndex(e.sql))
			}
		case e.kind == "table" && e.root == 0:
			// The blocks of a full-text index hold words of many rows, and words that begin alike only in part.
			if data := byName[strings.ToLower(e.name+"_data")]; data != nil && byName[strings.ToLower(e.name+"_content")] == nil {
				data.words = e.name
				d.wordless = append(d.wordless, e.name)
			}
			for suffix, column := range map[string]string{"_data": "block", "_segments": "block", "_segdir": "root"} {
				if t := byName[strings.ToLower(e.name+suffix)]; t != nil {
					if i := slices.Index(t.columns, column); i >= 0 {
						t.list = map[int32]bool{int32(i): true}
					}
				}
			}
		}
	}
	// A column that others point at may join rows, too.
	for _, t := range byName {
		for i := range t.refs {
			r := &t.refs[i]
			to := byName[strings.ToLower(r.table)]
			if to == nil {
				continue
			}
			r.table = to.name
			if r.pointed == "" { // the primary key
				k := to.rowid
				if k < 0 {
					k = slices.Index(to.unique, true)
				}
				if k >= 0 {
					r.pointed = to.columns[k]
				}
			}
			if k := slices.IndexFunc(to.columns, func(c string) bool { return strings.EqualFold(c, r.pointed) }); k >= 0 {
				to.key[k] = true
			}
		}
	}
	return all, damage
}

// addUnique notes that columns tell rows apart.
func (t *sqliteTable) addUnique(columns []string) {
	for _, c := range columns {
		for i, name := range t.columns {
			if strings.EqualFold(name, c) {
				t.key[i] = true
				t.unique[i] = t.unique[i] || len(columns) == 1
			}
		}
	}
}

// A token is a word, a name in quotes or a sign of a CREATE statement.
type token struct {
	text   string
	quoted bool
}

func (t token) is(word string) bool { return !t.quoted && strings.EqualFold(t.text, word) }

func tokens(sql string) (all []token) {
	for i := 0; i < len(sql); {
		c := sql[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f':
			i++
		case strings.HasPrefix(sql[i:], "--"):
			end := strings.IndexByte(sql[i:], '\n')
			if end < 0 {
				return all
			}
			i += end
		case strings.HasPrefix(sql[i:], "/*"):
			end := strings.Index(sql[i+2:], "*/")
			if end < 0 {
				return all
			}
			i += end + 4
		case c == '"' || c == '`' || c == '\'' || c == '[':
			end := c
			if c == '[' {
				end = ']'
			}
			var b strings.Builder
			for i++; i < len(sql); i++ {
				if sql[i] == end {
					if c == '[' || i+1 >= len(sql) || sql[i+1] != end {
						break
					}
					i++
				}
				b.WriteByte(sql[i])
			}
			i++
			all = append(all, token{b.String(), true})
		case wordByte(c):
			start := i
			for i < len(sql) && wordByte(sql[i]) {
				i++
			}
			all = append(all, token{sql[start:i], false})
		default:
			all = append(all, token{sql[i : i+1], false})
			i++
		}
	}
	return all
}

func wordByte(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c == '$' || c >= 0x80
}

// parseTable reads a CREATE TABLE statement, as far as it says what rows look like. Columns are in the order in which they are stored.
func parseTable(sql string) *sqliteTable {
	t := &sqliteTable{rowid: -1}
	all := tokens(sql)
	open := slices.IndexFunc(all, func(k token) bool { return k.is("(") })
	if open < 0 {
		return t
	}
	defs, rest := split(all[open+1:])
	for i := range rest {
		if i+1 < len(rest) && rest[i].is("WITHOUT") && rest[i+1].is("ROWID") {
			t.keyed = true
		}
	}
	var integer, virtual []bool
	var primary []string
	var uniques [][]string
	alias := ""
	for _, def := range defs {
		if len(def) == 0 {
			continue
		}
		if def[0].is("CONSTRAINT") && len(def) > 2 {
			def = def[2:]
		}
		switch {
		case def[0].is("PRIMARY"):
			primary = list(def)
			if len(primary) == 1 {
				alias = primary[0]
			}
			continue
		case def[0].is("UNIQUE"):
			uniques = append(uniques, list(def))
			continue
		case def[0].is("CHECK"):
			continue
		case def[0].is("FOREIGN"):
			columns := list(def)
			i := slices.IndexFunc(def, func(k token) bool { return k.is("REFERENCES") })
			if len(columns) == 1 && i >= 0 && i+1 < len(def) {
				if c := slices.IndexFunc(t.columns, func(c string) bool { return strings.EqualFold(c, columns[0]) }); c >= 0 {
					t.refs = append(t.refs, reference(c, def[i+1:]))
				}
			}
			continue
		}
		name := def[0].text
		t.columns = append(t.columns, name)
		integer = append(integer, len(def) > 1 && def[1].is("INTEGER") && (len(def) == 2 || !def[2].is("(")))
		isVirtual := false
		for i, depth := 1, 0; i < len(def); i++ {
			switch k := def[i]; {
			case k.is("("):
				depth++
			case k.is(")"):
				depth--
			case depth > 0:
			case k.is("PRIMARY"):
				primary = []string{name}
				if i+2 >= len(def) || !def[i+2].is("DESC") {
					alias = name
				}
			case k.is("UNIQUE"):
				uniques = append(uniques, []string{name})
			case k.is("REFERENCES") && i+1 < len(def):
				t.refs = append(t.refs, reference(len(t.columns)-1, def[i+1:]))
			case k.is("AS"):
				isVirtual = true
			case k.is("STORED"):
				isVirtual = false
			}
		}
		virtual = append(virtual, isVirtual)
	}
	t.key, t.unique = make([]bool, len(t.columns)), make([]bool, len(t.columns))
	t.addUnique(primary)
	for _, u := range uniques {
		t.addUnique(u)
	}
	t.arrange(primary, virtual)
	if i := slices.IndexFunc(t.columns, func(c string) bool { return strings.EqualFold(c, alias) }); i >= 0 && !t.keyed && integer[originalIndex(virtual, i)] {
		t.rowid = i
	}
	return t
}

// originalIndex returns which column of the statement is stored as number i.
func originalIndex(virtual []bool, i int) int {
	for c, v := range virtual {
		if v {
			continue
		}
		if i == 0 {
			return c
		}
		i--
	}
	return 0
}

// arrange puts columns in the order in which they are stored: those that are computed are not, and those of the key of a table
// without rowid come first.
func (t *sqliteTable) arrange(primary []string, virtual []bool) {
	var order []int
	if t.keyed {
		for _, p := range primary {
			if i := slices.IndexFunc(t.columns, func(c string) bool { return strings.EqualFold(c, p) }); i >= 0 && !slices.Contains(order, i) {
				order = append(order, i)
			}
		}
	}
	for i := range t.columns {
		if !virtual[i] && !slices.Contains(order, i) {
			order = append(order, i)
		}
	}
	old := t.table
	t.columns, t.key, t.unique, t.refs = nil, nil, nil, nil
	for to, from := range order {
		t.columns, t.key, t.unique = append(t.columns, old.columns[from]), append(t.key, old.key[from]), append(t.unique, old.unique[from])
		for _, r := range old.refs {
			if r.column == from {
				r.column = to
				t.refs = append(t.refs, r)
			}
		}
	}
}

// split divides what stands up to the closing parenthesis at its commas, and returns also what follows.
func split(all []token) (defs [][]token, rest []token) {
	depth, start := 0, 0
	for i, k := range all {
		switch {
		case k.is("("):
			depth++
		case k.is(")") && depth == 0:
			return append(defs, all[start:i]), all[i+1:]
		case k.is(")"):
			depth--
		case k.is(",") && depth == 0:
			defs = append(defs, all[start:i])
			start = i + 1
		}
	}
	return append(defs, all[start:]), nil
}

// list returns the columns in the first parentheses.
func list(def []token) (names []string) {
	open := slices.IndexFunc(def, func(k token) bool { return k.is("(") })
	if open < 0 {
		return nil
	}
	parts, _ := split(def[open+1:])
	for _, p := range parts {
		if len(p) > 0 {
			names = append(names, p[0].text)
		}
	}
	return names
}

// reference reads what stands after REFERENCES.
func reference(column int, def []token) ref {
	r := ref{column: column, table: def[0].text}
	if len(def) > 1 && def[1].is("(") {
		if columns := list(def[1:]); len(columns) == 1 {
			r.pointed = columns[0]
		}
	}
	return r
}

// uniqueIndex returns the columns of a CREATE UNIQUE INDEX statement. A part of the rows tells nothing of the others.
func uniqueIndex(sql string) []string {
	all := tokens(sql)
	if len(all) < 2 || !all[1].is("UNIQUE") || slices.ContainsFunc(all, func(k token) bool { return k.is("WHERE") }) {
		return nil
	}
	on := slices.IndexFunc(all, func(k token) bool { return k.is("ON") })
	if on < 0 {
		return nil
	}
	return list(all[on:])
}

// SQLiteTables returns the names of the tables in a SQLite file. Like [Search.SQLite] it takes no lock and no driver.
func SQLiteTables(path string) ([]string, error) {
	var names []string
	err := withFiles(path, func(parts [3]part) error {
		d, err := openSQLite(parts[0], parts[1])
		if err != nil {
			return err
		}
		d.known = make([]uint8, d.pages+1)
		tables, _ := d.schema()
		for _, t := range tables {
			if !t.index {
				names = append(names, t.name)
			}
		}
		return nil
	})
	return names, err
}
