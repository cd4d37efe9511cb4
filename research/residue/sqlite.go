package residue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// SQLite searches a SQLite file, and beside it its write-ahead log and rollback journal. It opens no connection and takes no lock: it
// reads files, and changes and keeps out nobody. If the database is written to meanwhile, the report says that it may be incomplete.
func (se *Search) SQLite(ctx context.Context, path string) (report *Report, err error) {
	err = withFiles(path, func(parts [3]part) (err error) {
		report, err = se.sqlite(ctx, parts)
		return err
	})
	return report, err
}

// withFiles opens the files of a database: itself, its log and its journal, which may be missing.
func withFiles(path string, do func(parts [3]part) error) error {
	var parts [3]part
	for i, suffix := range []string{"", "-wal", "-journal"} {
		f, err := os.Open(path + suffix)
		if i > 0 && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		parts[i] = part{f, info.Size()}
	}
	return do(parts)
}

// A part is one of the files of a database.
type part struct {
	r    io.ReaderAt
	size int64
}

func (se *Search) sqlite(ctx context.Context, parts [3]part) (*Report, error) {
	d, err := openSQLite(parts[0], parts[1])
	if err != nil {
		return nil, err
	}
	d.journal = parts[2]
	before := d.stamp()
	report, err := se.run(ctx, "SQLite", d)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(before, d.stamp()) {
		report.Gaps = append(report.Gaps, Gap{"what was written meanwhile", "another program wrote to the database during the search; search a copy, or again when it is quiet", true})
		report.tidy()
	}
	return report, nil
}

// ErrNotSQLite means that a file is not a SQLite database.
var ErrNotSQLite = errors.New("residue: not a SQLite database")

// What is known of a page. What stays unknown belongs to nothing.
const (
	pageUnknown uint8 = iota
	pageTree
	pageOverflow
	pageFree
)

// A sqliteFile is a database file under its write-ahead log, as a reader of now would see it.
type sqliteFile struct {
	file, wal, journal part
	pageSize, usable   int
	pages              uint32
	encoding           int              // 1 UTF-8, 2 UTF-16LE, 3 UTF-16BE
	overlay            map[uint32]int64 // where in the log the current version of a page is
	log                walState
	tables             []*sqliteTable
	wordless           []string // full-text indexes that keep no text

	known []uint8 // by page, from 0
	chunk []byte  // pages of the file that were read at once
	first uint32  // the first of them
	many  int     // how many
	one   []byte  // a page out of order
	tree  []byte  // a page of the way down
	cell  []byte  // a payload that was put together
	text  []byte  // a body that was transcoded
	rec   record
}

// readAhead is how much is read of a file at once.
const readAhead = 1 << 20

func openSQLite(file, wal part) (*sqliteFile, error) {
	d := &sqliteFile{file: file, wal: wal, overlay: map[uint32]int64{}}
	header := make([]byte, 100)
	if n, err := file.r.ReadAt(header, 0); n < len(header) {
		if err != nil && err != io.EOF {
			return nil, err
		}
		return nil, ErrNotSQLite
	}
	if string(header[:16]) != "SQLite format 3\x00" {
		return nil, ErrNotSQLite
	}
	d.pageSize = int(binary.BigEndian.Uint16(header[16:]))
	if d.pageSize == 1 {
		d.pageSize = 1 << 16
	}
	d.usable = d.pageSize - int(header[20])
	if d.pageSize < 512 || d.pageSize&(d.pageSize-1) != 0 || d.usable < 480 {
		return nil, ErrNotSQLite
	}
	d.pages = uint32(min((file.size+int64(d.pageSize)-1)/int64(d.pageSize), 1<<32-2))
	d.one, d.tree = make([]byte, d.pageSize), make([]byte, d.pageSize)
	if err := d.readLog(); err != nil {
		return nil, err
	}
	if _, err := d.page(1, d.tree); err != nil {
		return nil, err
	}
	d.encoding = int(binary.BigEndian.Uint32(d.tree[56:]))
	return d, nil
}

// stamp is what changes when the database is written to.
func (d *sqliteFile) stamp() []byte {
	b := make([]byte, 100+walHeader)
	d.file.r.ReadAt(b[:100], 0)
	if d.wal.r != nil {
		d.wal.r.ReadAt(b[100:], 0)
		if f, ok := d.wal.r.(*os.File); ok {
			if info, err := f.Stat(); err == nil {
				b = binary.BigEndian.AppendUint64(b, uint64(info.Size()))
				b = binary.BigEndian.AppendUint64(b, uint64(info.ModTime().UnixNano()))
			}
		}
	}
	return b
}

var errPage = errors.New("residue: no such page")

// page returns a page as it is now. It is in buf, or in the chunk that was read last.
func (d *sqliteFile) page(n uint32, buf []byte) ([]byte, error) {
	if n == 0 || n > d.pages {
		return nil, errPage
	}
	if at, ok := d.overlay[n]; ok {
		return buf, readFull(d.wal, buf, at)
	}
	if n >= d.first && n < d.first+uint32(d.many) {
		i := int(n-d.first) * d.pageSize
		return d.chunk[i : i+d.pageSize], nil
	}
	return buf, readFull(d.file, buf, int64(n-1)*int64(d.pageSize))
}

// readFull fills b; what lies beyond the end of a file that was cut off is zero.
func readFull(p part, b []byte, at int64) error {
	n, err := p.r.ReadAt(b, at)
	if n < len(b) {
		clear(b[n:])
		if err == io.EOF {
			err = nil
		}
		return err
	}
	return nil
}

// ahead reads pages of the file that are wanted one after the other, beginning with the first of list. Pages in between that nobody wants
// are read as well, as long as they are not the greater part.
func (d *sqliteFile) ahead(list []uint32) error {
	n := list[0]
	if n >= d.first && n < d.first+uint32(d.many) {
		return nil
	}
	most := uint32(max(1, readAhead/d.pageSize))
	last := n
	for i, m := range list {
		if m-n >= most {
			break
		}
		if 2*uint32(i+1) >= m-n {
			last = m
		}
	}
	size := int(last-n+1) * d.pageSize
	if d.chunk == nil {
		d.chunk = make([]byte, int(most)*d.pageSize)
	}
	d.first, d.many = n, 0
	if err := readFull(d.file, d.chunk[:size], int64(n-1)*int64(d.pageSize)); err != nil {
		return err
	}
	d.many = int(last-n) + 1
	return nil
}

// each implements source.
func (d *sqliteFile) each(ctx context.Context, s *scan) error {
	d.known = make([]uint8, d.pages+1)
	s.total = int64(d.pages)*int64(d.pageSize) + d.wal.size + d.journal.size
	if d.tables == nil { // once: what was found in the first round points at these
		var damage bool
		if d.tables, damage = d.schema(); damage {
			s.gap("part of the schema", "the pages of sqlite_schema are damaged; what is in tables that are not known is searched as bytes", true)
		}
	}
	unused := s.rawTally("unused space in pages")
	for _, t := range d.tables {
		if err := d.btree(ctx, s, t, unused); err != nil {
			return err
		}
	}
	if !s.collecting {
		return nil
	}
	free, lost, old := s.rawTally("free pages"), s.rawTally("pages of no table"), s.rawTally("pages of the file before the log")
	deleted := s.tally(&table{name: "free pages"})
	deleted.raw = true
	d.markFree(s)
	if err := d.rest(ctx, free, lost, old, deleted); err != nil {
		return err
	}
	deleted.end()
	for _, t := range []*rawTally{unused, free, lost, old} {
		t.end()
	}
	if err := d.searchLog(ctx, s); err != nil {
		return err
	}
	if err := d.searchJournal(ctx, s); err != nil {
		return err
	}
	s.gap("identifiers that are short or numbers, in bytes that belong to no row", "they tell something only where they are a whole cell", false)
	for _, name := range d.wordless {
		s.gap("identifiers of more than one word in the full-text index "+name, "it keeps no text of its own, and its words apart from each other", false)
	}
	s.gap("copies of the database elsewhere", "backups, replicas, exports and temporary files are other files", false)
	return nil
}

// A sqliteTable is a b-tree of the schema.
type sqliteTable struct {
	table
	root    uint32
	index   bool   // an index: what is in it is in its table as well
	keyed   bool   // WITHOUT ROWID
	rowid   int    // the column that is another name of the rowid, or -1
	samples bool   // sqlite_stat4
	words   string // the name of the full-text index whose blocks are in it, if that keeps no text
	stray   bool   // no table, but a page that once was of one
}

// btree reads one b-tree.
func (d *sqliteFile) btree(ctx context.Context, s *scan, t *sqliteTable, unused *rawTally) error {
	if t.index && !s.collecting {
		return nil
	}
	inner, leaves, damage := d.walk(t.root)
	if damage {
		s.gap(t.name, "some of its pages are damaged", true)
	}
	a := s.tally(&t.table)
	slices.Sort(leaves)
	bytes := int64(0)
	row := a.row
	if t.words != "" && s.collecting {
		w := s.wordIndex(t.words)
		defer w.end()
		row = func(r *record) {
			w.row(r)
			a.row(r)
		}
	}
	visit := func(n uint32) error {
		p, err := d.page(n, d.one)
		if err != nil {
			return fmt.Errorf("page %d: %w", n, err)
		}
		s.read(t.name, len(p))
		bytes += int64(len(p))
		if !d.rows(p, n, t, row) {
			s.gap(t.name, "some of its rows are damaged", true)
		}
		if s.collecting {
			d.slack(p, n, unused)
		}
		return nil
	}
	for _, n := range inner {
		if err := visit(n); err != nil {
			return err
		}
	}
	for i, n := range leaves {
		if i%64 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if _, logged := d.overlay[n]; !logged {
			if err := d.ahead(leaves[i:]); err != nil {
				return fmt.Errorf("page %d: %w", n, err)
			}
		}
		if err := visit(n); err != nil {
			return err
		}
	}
	if t.index {
		unused.pages += int64(len(inner) + len(leaves))
		return nil
	}
	a.end()
	s.looked(a, bytes)
	return nil
}

// walk goes down a b-tree and returns its pages. All leaves are at one depth, so that they need not be read here.
func (d *sqliteFile) walk(root uint32) (inner, leaves []uint32, damage bool) {
	if root == 0 {
		return nil, nil, false
	}
	level := []uint32{root}
	for depth := 0; len(level) > 0 && depth < 24; depth++ {
		var good, next []uint32
		for _, n := range level {
			if n == 0 || n > d.pages || d.known[n] != pageUnknown {
				damage = true
				continue
			}
			good = append(good, n)
			d.known[n] = pageTree
		}
		if len(good) == 0 {
			return inner, leaves, true
		}
		p, err := d.page(good[0], d.tree)
		if err != nil {
			return inner, leaves, true
		}
		if kind := p[headerAt(good[0])]; kind == leafTable || kind == leafIndex {
			return inner, good, damage
		}
		for _, n := range good {
			p, err := d.page(n, d.tree)
			if err != nil {
				damage = true
				continue
			}
			children, ok := d.children(p, headerAt(n))
			damage = damage || !ok
			next = append(next, children...)
		}
		inner = append(inner, good...)
		level = next
	}
	return inner, leaves, damage
}

// markFree walks the list of free pages.
func (d *sqliteFile) markFree(s *scan) {
	p, err := d.page(1, d.tree)
	if err != nil {
		return
	}
	for trunk := binary.BigEndian.Uint32(p[32:]); trunk != 0; {
		if trunk > d.pages || d.known[trunk] != pageUnknown {
			s.gap("part of the list of free pages", "it is damaged; its pages are searched as pages of no table", true)
			return
		}
		d.known[trunk] = pageFree
		if p, err = d.page(trunk, d.tree); err != nil {
			return
		}
		n := min(int(binary.BigEndian.Uint32(p[4:])), d.usable/4-2)
		for i := range n {
			if leaf := binary.BigEndian.Uint32(p[8+4*i:]); leaf <= d.pages && d.known[leaf] == pageUnknown {
				d.known[leaf] = pageFree
			}
		}
		trunk = binary.BigEndian.Uint32(p)
	}
}

// rest searches the pages that are of no b-tree, and those of the file that the log has newer versions of: a checkpoint will overwrite
// them some day.
func (d *sqliteFile) rest(ctx context.Context, free, lost, old *rawTally, deleted *tally) error {
	var list []uint32
	for n := uint32(1); n <= d.pages; n++ {
		if _, logged := d.overlay[n]; logged || d.known[n] == pageFree || d.known[n] == pageUnknown {
			list = append(list, n)
		}
	}
	look := func(t *rawTally, p []byte) {
		t.s.read(t.name, len(p))
		t.page(p)
		d.deletedRows(p, deleted)
	}
	of := map[uint8]*rawTally{pageFree: free, pageUnknown: lost}
	for i, n := range list {
		if i%64 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := d.ahead(list[i:]); err != nil {
			return fmt.Errorf("page %d: %w", n, err)
		}
		i := int(n-d.first) * d.pageSize
		p := d.chunk[i : i+d.pageSize]
		at, logged := d.overlay[n]
		if !logged {
			look(of[d.known[n]], p)
			continue
		}
		look(old, p)
		if t := of[d.known[n]]; t != nil {
			if err := readFull(d.wal, d.one, at); err != nil {
				return fmt.Errorf("page %d in the log: %w", n, err)
			}
			look(t, d.one)
		}
	}
	return nil
}

// deletedRows counts the rows of a page that is no longer one of a table, for what is too short to be found as bytes.
func (d *sqliteFile) deletedRows(p []byte, a *tally) {
	if a.s.index.exact.n > 0 && p[0] == leafTable {
		d.rows(p, 0, &sqliteTable{rowid: -1, stray: true}, a.row)
	}
}
