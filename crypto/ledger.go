package crypto

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The erasure ledger is a text file, append-only, beside the keyring:
//
//	carrel-erasures 1 <keyring id>
//	1 2026-11-21T08:00:00Z <keyed id> <chain>
//
// A line is one tombstone: its number, when, HMAC(subject) and HMAC(the line so far, with the chain of the line before), both
// of 128 bits in base64 under a key of the keyring. It names nobody, and nobody without the key can write or change a line. A line
// without its line feed was never acknowledged and is cut off.
type ledger struct {
	path   string
	id     [16]byte
	key    hidden[[]byte]
	header string

	file sync.Mutex // held while the file is read or written, for what is below
	at   int64      // what has been read

	known sync.RWMutex       // never held for long: reading goes on while a tombstone is being written
	heads [][16]byte         // the chain after each tombstone
	dead  map[[16]byte]int64 // when, in seconds since 1970
	asked time.Time          // when the file was last looked at
}

func ledgerHeader(id [16]byte) string { return "carrel-erasures 1 " + hex.EncodeToString(id[:]) + "\n" }

func createLedger(path string, id [16]byte) error {
	return createFile(path, []byte(ledgerHeader(id)))
}

// openLedger reads a ledger, which must hold at least what the keyring and the store remember of it.
func openLedger(path string, id [16]byte, key []byte, marks ...ledgerMark) (*ledger, error) {
	now := time.Now()
	l := &ledger{path: path, id: id, key: hide(key), header: ledgerHeader(id), dead: map[[16]byte]int64{}, asked: now}
	f, err := openRegular("ledger", path)
	if err != nil {
		return nil, fmt.Errorf("%w: %v; restore it: without it people who were forgotten could come back", ErrLedger, err)
	}
	defer f.Close()
	if err := l.read(f); err != nil {
		return nil, err
	}
	for _, m := range marks {
		if err := l.contains(m); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// contains returns an error unless the ledger, as far as has been read, goes on from where a mark says that it was.
func (l *ledger) contains(m ledgerMark) error {
	l.known.RLock()
	defer l.known.RUnlock()
	switch n := uint64(len(l.heads)); {
	case m.Count == 0:
		return nil
	case n < m.Count:
		return l.untrusted("it has %d tombstones, but the keyring or its store knows of %d; bring back the newest copy: without it people who were forgotten could come back", n, m.Count)
	case !hmac.Equal(l.heads[m.Count-1][:], m.Head):
		return l.untrusted("up to line %d it is not the one that the keyring or its store knows; bring that back", m.Count+1)
	}
	return nil
}

// count returns how many tombstones have been read.
func (l *ledger) count() uint64 {
	l.known.RLock()
	defer l.known.RUnlock()
	return uint64(len(l.heads))
}

// head returns the chain so far.
func (l *ledger) head() (head [16]byte) {
	l.known.RLock()
	defer l.known.RUnlock()
	if n := len(l.heads); n > 0 {
		head = l.heads[n-1]
	}
	return head
}

func (l *ledger) untrusted(format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrLedger, l.path, fmt.Sprintf(format, args...))
}

// read reads the whole lines that follow what has been read.
func (l *ledger) read(f io.ReadSeeker) error {
	if _, err := f.Seek(l.at, io.SeekStart); err != nil {
		return fileError("ledger", l.path, err)
	}
	for in := bufio.NewReaderSize(f, 64<<10); ; {
		raw, err := in.ReadSlice('\n')
		line := string(raw)
		if errors.Is(err, bufio.ErrBufferFull) {
			return l.untrusted("line %d does not end", l.count()+2)
		} else if errors.Is(err, io.EOF) {
			if l.at == 0 {
				return l.untrusted("it has no header")
			}
			return nil // half a line was never acknowledged
		} else if err != nil {
			return fileError("ledger", l.path, err)
		}
		if l.at == 0 {
			if line != l.header {
				return l.untrusted("it belongs to another keyring, or is no ledger")
			}
		} else if err := l.line(strings.TrimSuffix(line, "\n")); err != nil {
			return err
		}
		l.at += int64(len(line))
	}
}

var ledgerText = base64.RawURLEncoding.Strict()

func (l *ledger) line(line string) error {
	body, chain, ok := cutLast(line)
	number, rest, _ := strings.Cut(body, " ")
	at, id, ok2 := strings.Cut(rest, " ")
	raw, err := ledgerText.DecodeString(id)
	when, terr := time.Parse(time.RFC3339, at)
	if !ok || !ok2 || err != nil || terr != nil || len(raw) != 16 || number != strconv.FormatUint(l.count()+1, 10) {
		return l.untrusted("line %d is not a tombstone", l.count()+2)
	}
	want := l.chain(l.head(), body)
	got, err := ledgerText.DecodeString(chain)
	if err != nil || !hmac.Equal(got, want[:]) {
		return l.untrusted("line %d is not as it was written", l.count()+2)
	}
	l.take([16]byte(raw), want, when)
	return nil
}

func cutLast(line string) (before, after string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

func (l *ledger) chain(head [16]byte, body string) [16]byte {
	b := append([]byte(labelChain), l.id[:]...)
	b = append(b, head[:]...)
	return mac(l.key(), appendPart(b, body))
}

func (l *ledger) take(id, head [16]byte, at time.Time) {
	l.known.Lock()
	defer l.known.Unlock()
	l.dead[id] = at.Unix()
	l.heads = append(l.heads, head)
}

func (l *ledger) idOf(s Subject) [16]byte {
	b := append([]byte(labelTombstone), l.id[:]...)
	return mac(l.key(), appendPart(b, string(s)))
}

// has reports whether the subject was shredded, as far as has been read.
func (l *ledger) has(s Subject) bool {
	l.known.RLock()
	empty := len(l.dead) == 0
	l.known.RUnlock()
	if empty {
		return false
	}
	return l.hasID(l.idOf(s))
}

// when returns when a subject was shredded, as far as has been read.
func (l *ledger) when(s Subject) (at time.Time, dead bool) {
	id := l.idOf(s)
	l.known.RLock()
	defer l.known.RUnlock()
	seconds, dead := l.dead[id]
	return time.Unix(seconds, 0).UTC(), dead
}

func (l *ledger) hasID(id [16]byte) bool {
	l.known.RLock()
	defer l.known.RUnlock()
	_, ok := l.dead[id]
	return ok
}

// refreshAfter reads what other processes have added, if that was last done so long ago, and returns when that was. What
// was shredded before then is known.
func (l *ledger) refreshAfter(now time.Time, d time.Duration) (asked time.Time, err error) {
	l.known.RLock()
	asked = l.asked
	l.known.RUnlock()
	if now.Sub(asked) < d {
		return asked, nil
	}
	return l.refresh()
}

// refresh reads what other processes have added.
func (l *ledger) refresh() (asked time.Time, err error) {
	l.file.Lock()
	defer l.file.Unlock()
	now := time.Now()
	f, err := os.Open(l.path)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %v", ErrLedger, fileError("ledger", l.path, err))
	}
	defer f.Close()
	if err := l.readOn(f); err != nil {
		return time.Time{}, err
	}
	l.known.Lock()
	defer l.known.Unlock()
	l.asked = now
	return now, nil
}

// readOn reads what is new in the file, which must not have become shorter.
func (l *ledger) readOn(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fileError("ledger", l.path, err)
	}
	if info.Size() < l.at {
		return l.untrusted("it has become shorter")
	}
	if info.Size() == l.at {
		return nil
	}
	return l.read(f)
}

// bury writes tombstones and returns when they are durable. Of one who has one already it writes none.
func (l *ledger) bury(subjects ...Subject) error {
	unlock, err := lockFile(l.path)
	if err != nil {
		return err
	}
	defer unlock()
	l.file.Lock()
	defer l.file.Unlock()
	f, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrLedger, fileError("ledger", l.path, err))
	}
	defer f.Close()
	if err := l.readOn(f); err != nil {
		return err
	}
	type tombstone struct{ id, chain [16]byte }
	var added []tombstone
	var lines []byte
	head, at := l.head(), time.Now().UTC().Truncate(time.Second)
	now := at.Format(time.RFC3339)
	for _, s := range subjects {
		id := l.idOf(s)
		if l.hasID(id) || slices.ContainsFunc(added, func(t tombstone) bool { return t.id == id }) {
			continue
		}
		body := fmt.Sprintf("%d %s %s", l.count()+uint64(len(added))+1, now, ledgerText.EncodeToString(id[:]))
		head = l.chain(head, body)
		lines = append(append(append(lines, body...), ' '), ledgerText.EncodeToString(head[:])+"\n"...)
		added = append(added, tombstone{id, head})
	}
	if len(added) > 0 {
		if err := f.Truncate(l.at); err != nil { // half a line of somebody who was killed
			return fileError("ledger", l.path, err)
		}
		if _, err := f.WriteAt(lines, l.at); err != nil {
			return fileError("ledger", l.path, err)
		}
	}
	// Also when there was nothing to write: whoever wrote it may have been killed before it was durable, or may have been told that it is not.
	if err := f.Sync(); err != nil {
		return fileError("ledger", l.path, err)
	}
	l.at += int64(len(lines))
	for _, t := range added {
		l.take(t.id, t.chain, at)
	}
	return nil
}

// mark returns what the keyring and its store are to remember, which goes on from what they remember now.
func (l *ledger) mark(now ledgerMark) (ledgerMark, error) {
	if _, err := l.refresh(); err != nil {
		return ledgerMark{}, err
	}
	if err := l.contains(now); err != nil {
		return ledgerMark{}, err
	}
	l.known.RLock()
	defer l.known.RUnlock()
	m := ledgerMark{Key: l.key(), Count: uint64(len(l.heads))}
	if m.Count > 0 {
		m.Head = bytes.Clone(l.heads[m.Count-1][:])
	}
	return m, nil
}
