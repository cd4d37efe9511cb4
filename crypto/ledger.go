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
	head [16]byte   // the chain so far

	known sync.RWMutex // never held for long: reading goes on while a tombstone is being written
	count uint64       // of tombstones
	dead  map[[16]byte]struct{}
	asked time.Time // when the file was last looked at
}

func ledgerHeader(id [16]byte) string { return "carrel-erasures 1 " + hex.EncodeToString(id[:]) + "\n" }

func createLedger(path string, id [16]byte) error {
	return createFile(path, []byte(ledgerHeader(id)))
}

// openLedger reads a ledger, which must hold at least what the keyring remembers of it.
func openLedger(path string, id [16]byte, mark ledgerMark) (*ledger, error) {
	now := time.Now()
	l := &ledger{path: path, id: id, key: hide(mark.Key), header: ledgerHeader(id), dead: map[[16]byte]struct{}{}, asked: now}
	f, err := openRegular("ledger", path)
	if err != nil {
		return nil, fmt.Errorf("%w: %v; restore it: without it people who were forgotten could come back", ErrLedger, err)
	}
	defer f.Close()
	if err := l.read(f, mark.Count, mark.Head); err != nil {
		return nil, err
	}
	if l.count < mark.Count {
		return nil, l.untrusted("it has %d tombstones, but the keyring knows of %d", l.count, mark.Count)
	}
	return l, nil
}

func (l *ledger) untrusted(format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrLedger, l.path, fmt.Sprintf(format, args...))
}

// read reads the whole lines that follow what has been read. After the given number of lines the chain must be head.
func (l *ledger) read(f io.ReadSeeker, number uint64, head []byte) error {
	if _, err := f.Seek(l.at, io.SeekStart); err != nil {
		return fileError("ledger", l.path, err)
	}
	for in := bufio.NewReaderSize(f, 64<<10); ; {
		raw, err := in.ReadSlice('\n')
		line := string(raw)
		if errors.Is(err, bufio.ErrBufferFull) {
			return l.untrusted("line %d does not end", l.count+2)
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
		if l.count == number && number > 0 && !hmac.Equal(l.head[:], head) {
			return l.untrusted("up to line %d it is not the one that the keyring knows", l.count+1)
		}
	}
}

var ledgerText = base64.RawURLEncoding.Strict()

func (l *ledger) line(line string) error {
	body, chain, ok := cutLast(line)
	number, rest, _ := strings.Cut(body, " ")
	_, id, ok2 := strings.Cut(rest, " ")
	raw, err := ledgerText.DecodeString(id)
	if !ok || !ok2 || err != nil || len(raw) != 16 || number != strconv.FormatUint(l.count+1, 10) {
		return l.untrusted("line %d is not a tombstone", l.count+2)
	}
	want := l.chain(body)
	got, err := ledgerText.DecodeString(chain)
	if err != nil || !hmac.Equal(got, want[:]) {
		return l.untrusted("line %d is not as it was written", l.count+2)
	}
	l.take([16]byte(raw), want)
	return nil
}

func cutLast(line string) (before, after string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

func (l *ledger) chain(body string) [16]byte {
	b := append([]byte(labelChain), l.id[:]...)
	b = append(b, l.head[:]...)
	return mac(l.key(), appendPart(b, body))
}

func (l *ledger) take(id, head [16]byte) {
	l.head = head
	l.known.Lock()
	defer l.known.Unlock()
	l.dead[id] = struct{}{}
	l.count++
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
	return l.read(f, 0, nil)
}

// bury writes a tombstone and returns when it is durable. Of one who has one already it writes none.
func (l *ledger) bury(s Subject) error {
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
	id := l.idOf(s)
	if l.hasID(id) {
		// Whoever wrote it may have been killed before it was durable, or may have been told that it is not.
		if err := f.Sync(); err != nil {
			return fileError("ledger", l.path, err)
		}
		return nil
	}
	body := fmt.Sprintf("%d %s %s", l.count+1, time.Now().UTC().Format(time.RFC3339), ledgerText.EncodeToString(id[:]))
	chain := l.chain(body)
	line := body + " " + ledgerText.EncodeToString(chain[:]) + "\n"
	if err := f.Truncate(l.at); err != nil { // half a line of somebody who was killed
		return fileError("ledger", l.path, err)
	}
	if _, err := f.WriteAt([]byte(line), l.at); err != nil {
		return fileError("ledger", l.path, err)
	}
	if err := f.Sync(); err != nil {
		return fileError("ledger", l.path, err)
	}
	l.at += int64(len(line))
	l.take(id, chain)
	return nil
}

// mark returns what the keyring is to remember, which is never less than what it remembers now.
func (l *ledger) mark(now ledgerMark) (ledgerMark, error) {
	if _, err := l.refresh(); err != nil {
		return ledgerMark{}, err
	}
	l.file.Lock()
	defer l.file.Unlock()
	if l.count < now.Count || l.count == now.Count && now.Count > 0 && !hmac.Equal(l.head[:], now.Head) {
		return ledgerMark{}, l.untrusted("it is not the one that the keyring knows")
	}
	return ledgerMark{Key: l.key(), Count: l.count, Head: bytes.Clone(l.head[:])}, nil
}
