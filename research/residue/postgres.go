package residue

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Postgres searches a database of a PostgreSQL server, 14 or newer: the tables and materialized views of all schemas but the server's
// own, large objects, and the samples that ANALYZE took. It reads everything as it was at one moment, in one transaction that cannot
// write, page by page. That transaction keeps nobody from reading or writing; but what drops or rewrites a table waits for it, and
// what VACUUM would clear away stays until it ends.
func (se *Search) Postgres(ctx context.Context, db *sql.DB) (*Report, error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return nil, refused(ctx, "begin", err)
	}
	defer tx.Rollback() // it wrote nothing
	// Rows that a policy hides must be an error and not be missing in silence; and text must be what this program reads.
	for _, setting := range []string{"row_security = off", "bytea_output = 'hex'"} {
		if _, err := tx.ExecContext(ctx, "SET LOCAL "+setting); err != nil {
			return nil, refused(ctx, "set", err)
		}
	}
	return se.run(ctx, "PostgreSQL", &postgres{tx: tx, schemas: se.cfg.Schemas})
}

// refused says that the server did not do something, without the driver's text, which may hold rows.
func refused(ctx context.Context, what string, err error) error {
	var state interface{ SQLState() string }
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &state):
		return &RefusedError{what, state.SQLState()}
	}
	return &RefusedError{what, ""}
}

// A RefusedError says that PostgreSQL refused something.
type RefusedError struct {
	What  string // that was to be done
	State string // SQLSTATE, if the server said one
}

func (e *RefusedError) Error() string {
	if e.State == "" {
		return "residue: " + e.What + ": the connection to PostgreSQL failed"
	}
	return "residue: " + e.What + ": PostgreSQL refuses (SQLSTATE " + e.State + ")"
}

// SQLState returns the code of what went wrong, as the drivers do.
func (e *RefusedError) SQLState() string { return e.State }

// A postgres is a source of rows. Rows come as the texts of composite values: one value a row costs a tenth of one value a column.
type postgres struct {
	tx      *sql.Tx
	schemas []string
	tables  []*postgresTable
	rec     record
	body    []byte
}

type postgresTable struct {
	table
	from  string // as it stands after FROM
	bytes int64
	pages int64
	blobs []bool // columns of type bytea
}

// pagesAtOnce is how many pages of a table one statement reads.
const pagesAtOnce = 1024

func (p *postgres) each(ctx context.Context, s *scan) error {
	if p.tables == nil {
		if err := p.schema(ctx, s); err != nil {
			return err
		}
	}
	s.total = 0
	for _, t := range p.tables {
		s.total += t.bytes
	}
	for _, t := range p.tables {
		if err := p.guarded(ctx, s, t.name, func() error { return p.read(ctx, s, t) }); err != nil {
			return err
		}
	}
	if !s.collecting {
		return nil
	}
	if err := p.guarded(ctx, s, "large objects", func() error { return p.largeObjects(ctx, s) }); err != nil {
		return err
	}
	for _, q := range samples {
		if err := p.guarded(ctx, s, q.name, func() error { return p.samples(ctx, s, q.name, q.query) }); err != nil {
			return err
		}
	}
	s.gap("deleted rows, and the old versions of changed ones", "the server does not show them; VACUUM FULL or a dump and restore removes them", false)
	s.gap("the server's write-ahead log, its archive, replicas and backups", "they are not to be read over SQL", false)
	s.gap("indexes", "what is in them is also in their tables, but for what was deleted", false)
	return nil
}

// guarded reads something that the server may refuse. Then the transaction goes on, and the report says so.
func (p *postgres) guarded(ctx context.Context, s *scan, what string, read func() error) error {
	if _, err := p.tx.ExecContext(ctx, "SAVEPOINT carrel_residue"); err != nil {
		return refused(ctx, "read", err)
	}
	err := read()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var r *RefusedError
	if errors.As(err, &r) && r.State != "" {
		why := "PostgreSQL refuses (SQLSTATE " + r.State + ")"
		switch r.State {
		case "42501":
			why = "the role may not read it, or not all of its rows"
		case "42P01":
			why = "it was dropped meanwhile"
		case "55P03":
			why = "another program holds a lock on it"
		}
		s.gap(what, why, true)
		_, err = p.tx.ExecContext(ctx, "ROLLBACK TO SAVEPOINT carrel_residue")
	}
	if err == nil {
		_, err = p.tx.ExecContext(ctx, "RELEASE SAVEPOINT carrel_residue")
	}
	if err != nil && r == nil {
		return refused(ctx, "read", err)
	}
	return err
}

// rows calls visit with every row of a query, whose columns are texts that are valid until it returns.
func (p *postgres) rows(ctx context.Context, query string, visit func(columns []sql.RawBytes)) error {
	rows, err := p.tx.QueryContext(ctx, query)
	if err != nil {
		return refused(ctx, "read", err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return refused(ctx, "read", err)
	}
	columns := make([]sql.RawBytes, len(names))
	to := make([]any, len(names))
	for i := range columns {
		to[i] = &columns[i]
	}
	for rows.Next() {
		if err := rows.Scan(to...); err != nil {
			return refused(ctx, "read", err)
		}
		visit(columns)
	}
	if err := rows.Err(); err != nil {
		return refused(ctx, "read", err)
	}
	return nil
}

// where restricts a query to the schemas that are searched, of which column is the name.
func (p *postgres) where(column string) string {
	if len(p.schemas) == 0 {
		return column + ` NOT LIKE 'pg\_%' AND ` + column + ` <> 'information_schema'`
	}
	quoted := make([]string, len(p.schemas))
	for i, schema := range p.schemas {
		quoted[i] = "'" + strings.ReplaceAll(schema, "'", "''") + "'"
	}
	return column + " IN (" + strings.Join(quoted, ", ") + ")"
}

// schema asks for tables, columns, keys and what points where.
func (p *postgres) schema(ctx context.Context, s *scan) error {
	byOID := map[string]*postgresTable{}
	numbers := map[string]map[string]int{} // by table and attribute, the column
	others := p.where("n.nspname")
	err := p.rows(ctx, `SELECT c.oid::text, n.nspname, c.relname, c.relkind::text, c.relpersistence::text,
			CASE WHEN c.relkind IN ('r', 'm') THEN pg_table_size(c.oid) ELSE 0 END::text,
			CASE WHEN c.relkind IN ('r', 'm') THEN pg_relation_size(c.oid) / current_setting('block_size')::bigint ELSE 0 END::text,
			quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relispopulated::text
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'm', 'f') AND `+others+` ORDER BY n.nspname, c.relname`, func(c []sql.RawBytes) {
		name := string(c[1]) + "." + string(c[2])
		switch {
		case string(c[3]) == "f":
			s.gap(name, "a foreign table: search the database where its rows are", false)
			return
		case string(c[4]) == "t":
			s.gap(name, "a temporary table of a session", false)
			return
		case string(c[8]) != "true":
			s.gap(name, "a materialized view without rows", false)
			return
		}
		t := &postgresTable{table: table{name: name}, from: string(c[7])}
		fmt.Sscan(string(c[5]), &t.bytes)
		fmt.Sscan(string(c[6]), &t.pages)
		byOID[string(c[0])] = t
		p.tables = append(p.tables, t)
	})
	if err != nil {
		return err
	}
	if len(p.schemas) > 0 {
		s.gap("other schemas than "+strings.Join(p.schemas, ", "), "they were not asked for", false)
	}
	err = p.rows(ctx, `SELECT a.attrelid::text, a.attnum::text, a.attname, (a.atttypid = 'bytea'::regtype)::text
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'm') AND a.attnum > 0 AND NOT a.attisdropped AND `+others+` ORDER BY a.attrelid, a.attnum`, func(c []sql.RawBytes) {
		t := byOID[string(c[0])]
		if t == nil {
			return
		}
		if numbers[string(c[0])] == nil {
			numbers[string(c[0])] = map[string]int{}
		}
		numbers[string(c[0])][string(c[1])] = len(t.columns)
		t.columns = append(t.columns, string(c[2]))
		t.key, t.unique, t.blobs = append(t.key, false), append(t.unique, false), append(t.blobs, string(c[3]) == "true")
	})
	if err != nil {
		return err
	}
	column := func(oid, number string) (*postgresTable, int) {
		t := byOID[oid]
		i, ok := numbers[oid][number]
		if t == nil || !ok {
			return nil, 0
		}
		return t, i
	}
	err = p.rows(ctx, `SELECT i.indrelid::text, k::text, (i.indnkeyatts = 1)::text
		FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace, unnest(i.indkey) k
		WHERE i.indisunique AND i.indpred IS NULL AND `+others, func(c []sql.RawBytes) {
		if t, i := column(string(c[0]), string(c[1])); t != nil {
			t.key[i] = true
			t.unique[i] = t.unique[i] || string(c[2]) == "true"
		}
	})
	if err != nil {
		return err
	}
	return p.rows(ctx, `SELECT o.conrelid::text, o.conkey[1]::text, o.confrelid::text, o.confkey[1]::text
		FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE o.contype = 'f' AND cardinality(o.conkey) = 1 AND `+others, func(c []sql.RawBytes) {
		from, i := column(string(c[0]), string(c[1]))
		to, k := column(string(c[2]), string(c[3]))
		if from != nil && to != nil {
			from.refs = append(from.refs, ref{i, to.name, to.columns[k]})
			to.key[k] = true
		}
	})
}

// read reads one table, so many pages at a time.
func (p *postgres) read(ctx context.Context, s *scan, t *postgresTable) error {
	a := s.tally(&t.table)
	bytes := int64(0)
	for from := int64(0); from < t.pages; from += pagesAtOnce {
		// The name of the table must not be that of a column, which would come first.
		query := fmt.Sprintf(`SELECT ROW("carrel residue".*)::text FROM ONLY %s "carrel residue" WHERE ctid >= '(%d,0)'::tid AND ctid < '(%d,0)'::tid`, t.from, from, from+pagesAtOnce)
		if err := p.rows(ctx, query, func(c []sql.RawBytes) {
			bytes += int64(len(c[0]))
			s.read(t.name, len(c[0]))
			p.parse(c[0], t.blobs)
			a.row(&p.rec)
		}); err != nil {
			return err
		}
	}
	a.end()
	s.looked(a, bytes)
	return nil
}

// parse reads the text of a composite value: (1,"two, or ""more""",\x00ff,).
func (p *postgres) parse(text []byte, blobs []bool) {
	p.body, p.rec.cells = p.body[:0], p.rec.cells[:0]
	if len(text) < 2 {
		p.rec.body = p.body
		return
	}
	b := text[1 : len(text)-1]
	for i := 0; ; i++ { // b[i:] is a value
		start := len(p.body)
		quoted := false
		for i < len(b) && b[i] != ',' {
			if b[i] != '"' {
				p.body = append(p.body, b[i])
				i++
				continue
			}
			quoted = true
			for i++; i < len(b); i++ {
				if b[i] == '"' || b[i] == '\\' {
					if i+1 >= len(b) || b[i] == '"' && b[i+1] != '"' {
						break
					}
					i++
				}
				p.body = append(p.body, b[i])
			}
			i++
		}
		c := cell{kind: kindText, off: int32(start), end: int32(len(p.body))}
		if start == len(p.body) && !quoted {
			c.kind = kindNull
		}
		if n := len(p.rec.cells); n < len(blobs) && blobs[n] && c.kind == kindText && c.end-c.off >= 2 {
			raw, err := hex.Decode(p.body[start:], p.body[start+2:]) // it ends before what it reads
			if err == nil {
				p.body = p.body[:start+raw]
				c.kind, c.end = kindBlob, int32(start+raw)
			}
		}
		p.rec.cells = append(p.rec.cells, c)
		if i >= len(b) {
			break
		}
	}
	p.rec.body = p.body
}

// largeObjects reads large objects in parts, of which each holds the end of the one before.
func (p *postgres) largeObjects(ctx context.Context, s *scan) error {
	t := s.rawTally("large objects")
	const size = 1 << 20
	overlap := int64(s.cfg.Near + 4*longest)
	for after := "0"; ; {
		var oids []string
		if err := p.rows(ctx, "SELECT oid::text FROM pg_largeobject_metadata WHERE oid > "+after+" ORDER BY oid LIMIT 1000", func(c []sql.RawBytes) {
			oids = append(oids, string(c[0]))
		}); err != nil {
			return err
		}
		if len(oids) == 0 {
			break
		}
		after = oids[len(oids)-1]
		for _, oid := range oids {
			err := p.guarded(ctx, s, "large object "+oid, func() error {
				for at, more := int64(0), true; more; at += size - overlap {
					var part []byte
					if err := p.tx.QueryRowContext(ctx, fmt.Sprintf("SELECT lo_get(%s, %d, %d)", oid, at, size)).Scan(&part); err != nil {
						return refused(ctx, "read", err)
					}
					s.read(t.name, len(part))
					t.page(part)
					more = len(part) == size
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	t.end()
	return nil
}

// samples are the values that ANALYZE took of columns, and of several columns together. Each is a value of its own: that two are in one
// list says nothing.
var samples = []struct{ name, query string }{
	{"pg_stats", `SELECT unnest(coalesce(most_common_vals::text::text[], '{}') || coalesce(histogram_bounds::text::text[], '{}') || coalesce(most_common_elems::text::text[], '{}')) FROM pg_stats WHERE `},
	{"pg_stats_ext", `SELECT array_to_string(most_common_vals[i:i], E'\n') FROM (SELECT *, generate_subscripts(most_common_vals, 1) i FROM pg_stats_ext) x WHERE `},
}

func (p *postgres) samples(ctx context.Context, s *scan, name, query string) error {
	a := s.tally(&table{name: name, columns: []string{"value"}})
	bytes := int64(0)
	if err := p.rows(ctx, query+p.where("schemaname"), func(c []sql.RawBytes) {
		bytes += int64(len(c[0]))
		s.read(name, len(c[0]))
		p.rec.body = c[0]
		p.rec.cells = append(p.rec.cells[:0], cell{kind: kindText, end: int32(len(c[0]))})
		a.row(&p.rec)
	}); err != nil {
		return err
	}
	a.end()
	s.looked(a, bytes)
	return nil
}
