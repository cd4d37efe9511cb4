package residue

import (
	"encoding/binary"
	"math"
	"unicode/utf16"
	"unicode/utf8"
)

// What the first byte of a b-tree page says, https://sqlite.org/fileformat2.html#b_tree_pages.
const (
	innerIndex = 0x02
	innerTable = 0x05
	leafIndex  = 0x0a
	leafTable  = 0x0d
)

// mostPayload bounds the memory that one row takes. What is longer is searched up to here.
const mostPayload = 64 << 20

// headerAt returns where the header of a b-tree page begins: on page 1, after that of the file.
func headerAt(n uint32) int {
	if n == 1 {
		return 100
	}
	return 0
}

// A varint is up to nine bytes, the last of which has eight bits. n is 0 if it goes beyond the end.
func varint(b []byte) (v uint64, n int) {
	for i, c := range b {
		if i == 8 {
			return v<<8 | uint64(c), 9
		}
		v = v<<7 | uint64(c&0x7f)
		if c < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

// A btreePage is a page whose header was read.
type btreePage struct {
	b     []byte
	kind  byte
	free  int // the first free block
	cells int
	start int // of the content of cells
	array int // of the pointers to them
}

func (d *sqliteFile) header(b []byte, at int) (p btreePage, ok bool) {
	p = btreePage{b: b, kind: b[at]}
	p.free = int(binary.BigEndian.Uint16(b[at+1:]))
	p.cells = int(binary.BigEndian.Uint16(b[at+3:]))
	p.start = int(binary.BigEndian.Uint16(b[at+5:]))
	if p.start == 0 {
		p.start = 1 << 16
	}
	p.array = at + 8
	switch p.kind {
	case innerIndex, innerTable:
		p.array += 4
	case leafIndex, leafTable:
	default:
		return p, false
	}
	return p, p.array+2*p.cells <= d.usable
}

// pointer returns where cell i is, 0 if it is outside the page.
func (d *sqliteFile) pointer(p *btreePage, i int) int {
	at := int(binary.BigEndian.Uint16(p.b[p.array+2*i:]))
	if at < p.array+2*p.cells || at >= d.usable {
		return 0
	}
	return at
}

// children returns the pages below an inner page.
func (d *sqliteFile) children(b []byte, at int) (list []uint32, ok bool) {
	p, ok := d.header(b, at)
	if !ok || p.kind != innerIndex && p.kind != innerTable {
		return nil, false
	}
	for i := range p.cells {
		c := d.pointer(&p, i)
		if c == 0 || c+4 > d.usable {
			ok = false
			continue
		}
		list = append(list, binary.BigEndian.Uint32(b[c:]))
	}
	return append(list, binary.BigEndian.Uint32(b[at+8:])), ok
}

// rows visits the rows of a page. It reports false if some of it makes no sense.
func (d *sqliteFile) rows(b []byte, n uint32, t *sqliteTable, visit func(*record)) bool {
	p, ok := d.header(b, headerAt(n))
	if !ok {
		return t.stray
	}
	if p.kind == innerTable {
		return true
	}
	for i := range p.cells {
		c := d.pointer(&p, i)
		if c == 0 {
			ok = false
			continue
		}
		cell := b[c:d.usable]
		if p.kind == innerIndex {
			if len(cell) < 4 {
				ok = false
				continue
			}
			cell = cell[4:]
		}
		size, k := varint(cell)
		if k == 0 {
			ok = false
			continue
		}
		cell = cell[k:]
		rowid := uint64(0)
		if p.kind == leafTable {
			if rowid, k = varint(cell); k == 0 {
				ok = false
				continue
			}
			cell = cell[k:]
		}
		payload, good := d.payload(cell, size, p.kind == leafTable, t)
		ok = ok && good
		if t.index || payload == nil {
			continue
		}
		if !d.decode(payload) {
			ok = false
			continue
		}
		if t.rowid >= 0 && t.rowid < len(d.rec.cells) && p.kind == leafTable && d.rec.cells[t.rowid].kind == kindNull {
			d.rec.cells[t.rowid] = cell64(int64(rowid))
		}
		if t.samples {
			d.unpackSample()
		}
		if d.encoding > 1 {
			d.transcode()
		}
		visit(&d.rec)
	}
	return ok || t.stray
}

func cell64(n int64) cell { return cell{kind: kindInt, n: n} }

// payload returns what is in a cell, put together from its overflow pages. Of an index nothing is needed but to know whose those are.
func (d *sqliteFile) payload(cell []byte, size uint64, inTable bool, t *sqliteTable) (payload []byte, ok bool) {
	u := uint64(d.usable)
	most := (u-12)*64/255 - 23
	if inTable {
		most = u - 35
	}
	if size <= most {
		if size > uint64(len(cell)) {
			return nil, false
		}
		return cell[:size], true
	}
	if size > 1<<31 {
		return nil, false
	}
	least := (u-12)*32/255 - 23
	local := least + (size-least)%(u-4)
	if local > most {
		local = least
	}
	if local+4 > uint64(len(cell)) {
		return nil, false
	}
	if t.stray { // its overflow pages may be somebody else's by now
		return cell[:local], true
	}
	next := binary.BigEndian.Uint32(cell[local:])
	d.cell = append(d.cell[:0], cell[:local]...)
	left := size - local
	for left > 0 {
		if next == 0 || next > d.pages || d.known[next] != pageUnknown {
			return d.cell, false
		}
		d.known[next] = pageOverflow
		p, err := d.page(next, d.tree)
		if err != nil {
			return d.cell, false
		}
		n := min(left, u-4)
		if !t.index && len(d.cell) < mostPayload {
			d.cell = append(d.cell, p[4:4+n]...)
		}
		left -= n
		next = binary.BigEndian.Uint32(p)
	}
	return d.cell, size <= mostPayload
}

// decode reads the cells of a record. What was cut off is shorter or missing.
func (d *sqliteFile) decode(b []byte) bool {
	d.rec.body = b
	var ok bool
	d.rec.cells, ok = decodeRecord(b, 0, d.rec.cells[:0])
	return ok
}

// decodeRecord appends the cells of the record at b[base:] to cells.
func decodeRecord(b []byte, base int, cells []cell) ([]cell, bool) {
	size, k := varint(b[base:])
	if k == 0 || size > uint64(len(b)-base) || size < uint64(k) {
		return cells, false
	}
	head := b[base+k : base+int(size)]
	at := base + int(size)
	for len(head) > 0 {
		serial, k := uint64(head[0]), 1
		if serial >= 0x80 {
			if serial, k = varint(head); k == 0 {
				return cells, false
			}
		}
		head = head[k:]
		c := cell{}
		n := 0
		switch {
		case serial == 0 || serial == 10 || serial == 11:
		case serial <= 4:
			n = int(serial)
		case serial == 5:
			n = 6
		case serial <= 7:
			n = 8
		case serial <= 9:
			c.kind, c.n = kindInt, int64(serial-8)
		default:
			length := (serial - 12) / 2
			c.kind = kindBlob
			if serial&1 == 1 {
				c.kind = kindText
			}
			end := min(uint64(at)+length, uint64(len(b)))
			c.off, c.end = int32(at), int32(end)
			cells = append(cells, c)
			at = int(end)
			continue
		}
		if at+n > len(b) {
			return cells, true // cut off
		}
		if n > 0 {
			v := int64(int8(b[at]))
			for _, x := range b[at+1 : at+n] {
				v = v<<8 | int64(x)
			}
			c.kind, c.n = kindInt, v
			if serial == 7 {
				c.kind = kindReal
				if f := math.Float64frombits(uint64(v)); f == math.Trunc(f) && math.Abs(f) < 1<<53 {
					c.kind, c.n = kindInt, int64(f) // 42.0, as tables are imported from elsewhere
				}
			}
			at += n
		}
		cells = append(cells, c)
	}
	return cells, true
}

// unpackSample makes cells of a row of sqlite_stat4's sample, which is a record itself.
func (d *sqliteFile) unpackSample() {
	if len(d.rec.cells) < 6 {
		return
	}
	last := &d.rec.cells[5]
	if last.kind != kindBlob || last.end == last.off {
		return
	}
	off, end := int(last.off), int(last.end)
	*last = cell{}
	d.rec.cells, _ = decodeRecord(d.rec.body[:end], off, d.rec.cells[:6])
}

// transcode makes UTF-8 of the texts of a database in UTF-16.
func (d *sqliteFile) transcode() {
	d.text = d.text[:0]
	for i := range d.rec.cells {
		c := &d.rec.cells[i]
		if c.kind != kindText && c.kind != kindBlob {
			continue
		}
		from := len(d.text)
		if b := d.rec.body[c.off:c.end]; c.kind == kindBlob {
			d.text = append(d.text, b...)
		} else {
			d.text = appendUTF8(d.text, b, d.encoding == 3)
		}
		c.off, c.end = int32(from), int32(len(d.text))
	}
	d.rec.body = d.text
}

func appendUTF8(to, b []byte, big bool) []byte {
	unit := func(i int) rune {
		if big {
			return rune(b[i])<<8 | rune(b[i+1])
		}
		return rune(b[i+1])<<8 | rune(b[i])
	}
	for i := 0; i+1 < len(b); i += 2 {
		r := unit(i)
		if utf16.IsSurrogate(r) {
			second := rune(utf8.RuneError)
			if i+3 < len(b) {
				second = unit(i + 2)
			}
			if r = utf16.DecodeRune(r, second); r != utf8.RuneError {
				i += 2
			}
		}
		to = utf8.AppendRune(to, r)
	}
	return to
}

// slack searches what of a b-tree page belongs to no cell.
func (d *sqliteFile) slack(b []byte, n uint32, unused *rawTally) {
	p, ok := d.header(b, headerAt(n))
	if !ok {
		unused.page(b)
		return
	}
	unused.pages++
	found := d.unused(b, p.array+2*p.cells, p.start, unused)
	for at, most := p.free, 0; at != 0 && at+4 <= d.usable && most < d.usable/4; most++ {
		found = d.unused(b, at+4, at+int(binary.BigEndian.Uint16(b[at+2:])), unused) || found
		next := int(binary.BigEndian.Uint16(b[at:]))
		if next <= at {
			break
		}
		at = next
	}
	if found {
		unused.found++
	}
}

func (d *sqliteFile) unused(b []byte, from, to int, unused *rawTally) bool {
	to = min(to, d.usable)
	if to-from < window {
		return false
	}
	part := b[from:to]
	unused.bytes += int64(len(part))
	zero := true
	for ; len(part) >= 8 && zero; part = part[8:] {
		zero = binary.LittleEndian.Uint64(part) == 0
	}
	return !zero && unused.look(b[from:to])
}
