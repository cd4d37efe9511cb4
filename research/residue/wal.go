package residue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The sizes of the headers of the write-ahead log and of its frames, https://sqlite.org/fileformat2.html#the_write_ahead_log.
const (
	walHeader   = 32
	frameHeader = 24
)

// A walState says where the frames of the log are.
type walState struct {
	valid bool
	size  int64 // of a frame with its header
}

// readLog finds out which pages the log has newer versions of: those of transactions that were committed. Frames after the last of these
// are of a transaction that was not, or of an earlier run of the log.
func (d *sqliteFile) readLog() error {
	if d.wal.size < walHeader {
		return nil
	}
	header := make([]byte, walHeader)
	if err := readFull(d.wal, header, 0); err != nil {
		return fmt.Errorf("the log: %w", err)
	}
	magic := binary.BigEndian.Uint32(header)
	size := int(binary.BigEndian.Uint32(header[8:]))
	if magic&^1 != 0x377f0682 || size != d.pageSize {
		return nil // it is searched as bytes
	}
	d.log = walState{true, int64(frameHeader + d.pageSize)}
	var order binary.ByteOrder = binary.LittleEndian
	if magic&1 == 1 {
		order = binary.BigEndian
	}
	sum := checksum(order, [2]uint32{}, header[:24])
	if sum[0] != binary.BigEndian.Uint32(header[24:]) || sum[1] != binary.BigEndian.Uint32(header[28:]) {
		return nil
	}
	pending := map[uint32]int64{}
	frame := make([]byte, d.log.size)
	for at := int64(walHeader); at+d.log.size <= d.wal.size; at += d.log.size {
		if err := readFull(d.wal, frame, at); err != nil {
			return fmt.Errorf("the log: %w", err)
		}
		if string(frame[8:16]) != string(header[16:24]) {
			break // of an earlier run
		}
		sum = checksum(order, checksum(order, sum, frame[:8]), frame[frameHeader:])
		if sum[0] != binary.BigEndian.Uint32(frame[16:]) || sum[1] != binary.BigEndian.Uint32(frame[20:]) {
			break
		}
		n := binary.BigEndian.Uint32(frame)
		if n == 0 {
			break
		}
		pending[n] = at + frameHeader
		if commit := binary.BigEndian.Uint32(frame[4:]); commit != 0 {
			for n, at := range pending {
				d.overlay[n] = at
			}
			clear(pending)
			d.pages = max(min(commit, 1<<32-2), d.pages)
		}
	}
	// A damaged frame may name any page, and memory is kept for each: no database is larger than its files.
	most := uint32(min((d.file.size+d.wal.size)/int64(d.pageSize)+1, 1<<32-2))
	d.pages = min(d.pages, most)
	for n := range d.overlay {
		if n > d.pages {
			delete(d.overlay, n)
		}
	}
	return nil
}

func checksum(order binary.ByteOrder, s [2]uint32, b []byte) [2]uint32 {
	s0, s1 := s[0], s[1]
	for ; len(b) >= 8; b = b[8:] {
		s0 += order.Uint32(b) + s1
		s1 += order.Uint32(b[4:]) + s0
	}
	return [2]uint32{s0, s1}
}

// searchLog searches all frames of the log but those that are the newest version of a page, which were read as such.
func (d *sqliteFile) searchLog(ctx context.Context, s *scan) error {
	if d.wal.size == 0 {
		return nil
	}
	t := s.rawTally("write-ahead log")
	if !d.log.valid {
		return d.searchBytes(ctx, t, d.wal)
	}
	old := s.tally(&table{name: t.name})
	old.raw = true
	current := map[int64]bool{}
	for _, at := range d.overlay {
		current[at] = true
	}
	i := 0
	for at := int64(walHeader + frameHeader); at < d.wal.size; at += d.log.size {
		if i++; i%64 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if current[at] {
			continue
		}
		if err := readFull(d.wal, d.one, at); err != nil {
			return fmt.Errorf("the log: %w", err)
		}
		s.read(t.name, len(d.one))
		t.page(d.one)
		d.deletedRows(d.one, old)
	}
	old.end()
	t.end()
	return nil
}

// searchJournal searches the rollback journal: pages as they were before the last transaction.
func (d *sqliteFile) searchJournal(ctx context.Context, s *scan) error {
	if d.journal.size == 0 {
		return nil
	}
	return d.searchBytes(ctx, s.rawTally("rollback journal"), d.journal)
}

// searchBytes searches a file in parts of which each holds the end of the one before.
func (d *sqliteFile) searchBytes(ctx context.Context, t *rawTally, p part) error {
	overlap := t.s.cfg.Near + 4*longest
	buf := make([]byte, max(64<<10, 4*overlap))
	for at := int64(0); at < p.size; at += int64(len(buf) - overlap) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := p.r.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("the %s: %w", t.name, err)
		}
		t.s.read(t.name, n)
		t.page(buf[:n])
		if n < len(buf) {
			break
		}
	}
	t.end()
	return nil
}
