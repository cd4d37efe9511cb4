package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// A spool is a directory of files, each with entries that the store did not take. A file appears whole, by renaming, and goes when the
// store has its entries. Nothing in it is more than what the store would hold: it is sealed in the same way.
//
// A file is the 16 bytes "carrel spool v1\n", the 32 hexadecimal digits of the keyring's ID, a newline, and entries, each as the length of its body in 4 bytes, big-endian, and the body. Its name is 32
// hexadecimal digits, drawn at random, and ".spool"; the key of the entry number i in it is these 16 bytes with i added to the last four.
type spool struct {
	dir   string
	limit int64
	head  string // of a file of ours
	key   *crypto.TrailKey

	mu      sync.Mutex // writing and counting
	size    int64      // of the files, as they were counted, and of those that this process has written since
	counted time.Time
	some    atomic.Bool // there may be files
	busy    sync.Mutex  // draining
}

const (
	spoolMagic  = "carrel spool v1\n"
	spoolSuffix = ".spool"
	spoolHalf   = ".tmp" // while it is written
)

var otherHead = regexp.MustCompile("^" + spoolMagic + "[0-9a-f]{32}\n")

// countEvery is how long what was counted of the spool is good.
const countEvery = 10 * time.Second

var errSpoolFull = errors.New("audit: the spool is full")

func openSpool(dir string, limit int64, id string, key *crypto.TrailKey) (*spool, error) {
	s := &spool{dir: dir, limit: limit, head: spoolMagic + id + "\n", key: key}
	files, _, err := s.files()
	if err != nil {
		return nil, err
	}
	s.some.Store(len(files) > 0)
	return s, nil
}

func (s *spool) filled() bool { return s.some.Load() }

// files returns the names of the files in the spool, and how many bytes they have.
func (s *spool) files() (names []string, size int64, err error) {
	list, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil // it is made when there is something to put in
	} else if err != nil {
		return nil, 0, fileError("spool", s.dir, err)
	}
	for _, f := range list {
		info, err := f.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, 0, fileError("spool", s.dir, err)
		}
		size += info.Size()
		if strings.HasSuffix(f.Name(), spoolHalf) && time.Since(info.ModTime()) > time.Hour {
			os.Remove(filepath.Join(s.dir, f.Name())) // who wrote it is no more
		}
		if strings.HasSuffix(f.Name(), spoolSuffix) && info.Mode().IsRegular() {
			names = append(names, f.Name())
		}
	}
	return names, size, nil
}

// put writes entries to a file of their own and returns when it is durable.
func (s *spool) put(entries []Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := []byte(s.head)
	for _, e := range entries {
		data = binary.BigEndian.AppendUint32(data, uint32(len(e.Body)))
		data = append(data, e.Body...)
	}
	// Counting anew for each would take the longer the more there are; but nobody is refused before it was counted what the others have left.
	n := int64(len(data))
	if time.Since(s.counted) > countEvery || s.size+n > s.limit {
		_, size, err := s.files()
		if err != nil {
			return err
		}
		s.size, s.counted = size, time.Now()
	}
	if s.size+n > s.limit {
		return errSpoolFull
	}
	s.size += n
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fileError("spool", s.dir, err)
	}
	var id [16]byte
	rand.Read(id[:12])
	name := filepath.Join(s.dir, hex.EncodeToString(id[:]))
	if err := writeSynced(name+spoolHalf, data); err != nil {
		os.Remove(name + spoolHalf)
		return fileError("spool", s.dir, err)
	}
	err := os.Rename(name+spoolHalf, name+spoolSuffix)
	if err == nil {
		s.some.Store(true) // whatever becomes of the rest
		err = syncDir(s.dir)
	}
	if err != nil {
		return fileError("spool", s.dir, err)
	}
	return nil
}

func writeSynced(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// syncDir makes the names in a directory durable, where the system can.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrInvalid) {
		return err
	}
	return nil
}

// errForged means that a file in the spool was not written by a trail of this keyring.
var errForged = errors.New("audit: a file in the spool is damaged or was not written by this trail")

// errOther means that a file in the spool was written by another installation, whose events it holds.
var errOther = errors.New("audit: a file in the spool belongs to another installation")

// read returns the entries of a file.
func (s *spool) read(name string) ([]Entry, error) {
	file := filepath.Join(s.dir, name)
	if info, err := os.Stat(file); err != nil {
		return nil, err
	} else if info.Size() > s.limit+int64(len(s.head)) {
		return nil, errForged // we write none so large
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(strings.TrimSuffix(name, spoolSuffix))
	if err != nil || len(id) != 16 {
		return nil, errForged
	}
	rest, ok := strings.CutPrefix(string(data), s.head)
	if !ok && otherHead.Match(data) {
		return nil, errOther
	} else if !ok {
		return nil, errForged
	}
	r := reader{b: []byte(rest)}
	var entries []Entry
	for i := uint32(0); len(r.b) > 0; i++ {
		size := r.bytes(4)
		if r.bad {
			return nil, errForged
		}
		body := r.bytes(uint64(binary.BigEndian.Uint32(size)))
		o, err := open(body)
		if r.bad || err != nil {
			return nil, errForged
		}
		if leaf, err := leafOf(nil, body); err != nil || !authentic(s.key, leaf) {
			return nil, errForged
		}
		e := Entry{Action: o.event.Action, Time: o.event.Time, Tags: sortTags(o.tags), Body: body}
		copy(e.Key[:], id)
		binary.BigEndian.PutUint32(e.Key[12:], i)
		entries = append(entries, e)
	}
	return entries, nil
}

// drain moves what is in the spool to the store. What was forged is put aside, and stays in the directory.
func (t *Trail) drain(ctx context.Context) {
	if s := t.spool; s.busy.TryLock() {
		defer s.busy.Unlock()
		t.empty(ctx)
	}
}

// drained is drain after which nothing is on its way: one that has begun comes to its end first.
func (t *Trail) drained(ctx context.Context) {
	t.spool.busy.Lock()
	defer t.spool.busy.Unlock()
	t.empty(ctx)
}

// empty is drain, for who has locked busy.
func (t *Trail) empty(ctx context.Context) {
	defer func() {
		if recover() != nil {
			t.log.Error("carrel: the audit store panicked")
		}
	}()
	s := t.spool
	names, _, err := s.files()
	if err != nil {
		t.log.Error("carrel: the audit spool cannot be read", "error", err)
		return
	}
	moved, others := 0, map[string]bool{} // of other installations
	for _, name := range names {
		if ctx.Err() != nil {
			return
		}
		file := filepath.Join(s.dir, name)
		entries, err := s.read(name)
		switch {
		case errors.Is(err, fs.ErrNotExist): // another process was faster
			continue
		case errors.Is(err, errOther):
			t.log.Error("carrel: a file in the audit spool belongs to another installation; give each a directory of its own", "file", name)
			others[name] = true
			continue
		case errors.Is(err, errForged):
			t.log.Error("carrel: a file in the audit spool is damaged or forged, and was put aside", "file", name)
			os.Rename(file, file+".bad")
			continue
		case err != nil:
			t.log.Error("carrel: the audit spool cannot be read", "error", fileError("spool", file, err))
			continue // the others may be
		}
		if entries, err = t.absent(ctx, entries); err != nil {
			return
		}
		for len(entries) > 0 {
			n := min(len(entries), maxGroup)
			if err := t.toStore(entries[:n]); err != nil {
				return // the store is still down
			}
			entries = entries[n:]
			moved += n
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.log.Error("carrel: the audit spool cannot be cleared", "error", fileError("spool", s.dir, err))
			return
		}
	}
	s.mu.Lock()
	if names, _, err := s.files(); err == nil {
		s.some.Store(slices.ContainsFunc(names, func(name string) bool { return !others[name] }))
	}
	s.mu.Unlock()
	if moved > 0 {
		t.log.Info("carrel: the audit store is back", "events moved from the spool", moved)
		t.tree.schedule(t)
	}
}

// absent returns the entries that are not in the store: an append that failed, or took too long, may have been carried out all the same. Each is asked for
// by its action and time, by which a store finds it however long the log is.
func (t *Trail) absent(ctx context.Context, entries []Entry) (absent []Entry, err error) {
	for _, e := range entries {
		there := false
		for q := (Query{Actions: []Action{e.Action}, Since: e.Time, Until: e.Time.Add(time.Microsecond), Limit: sequencePage}); !there; {
			page, err := t.store.Entries(ctx, q)
			if err != nil {
				return nil, err
			}
			there = slices.ContainsFunc(page.Entries, func(x Entry) bool { return bytes.Equal(x.Body, e.Body) })
			if q.Cursor = page.Cursor; q.Cursor == "" {
				break
			}
		}
		if !there {
			absent = append(absent, e)
		}
	}
	return absent, nil
}

// Spooled returns how many bytes of events wait in the spool directory, and how many files were put aside because they are damaged or forged.
func Spooled(dir string) (size int64, aside int, err error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	} else if err != nil {
		return 0, 0, fmt.Errorf("audit: spool %s cannot be read", dir)
	}
	for _, f := range list {
		info, err := f.Info()
		switch {
		case err != nil:
		case strings.HasSuffix(f.Name(), ".bad"):
			aside++
		case strings.HasSuffix(f.Name(), spoolSuffix):
			size += info.Size()
		}
	}
	return size, aside, nil
}
