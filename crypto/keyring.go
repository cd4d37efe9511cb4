package crypto

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"
)

// Config says how to open a keyring.
type Config struct {
	Path string    // of the keyring file; the erasure ledger is beside it, with ".ledger" added
	KEK  tink.AEAD // opens the keyring; see [OpenKEK]

	Store  KeyStore   // of subject keys; nil: only indexes and pseudonyms work
	Tokens TokenStore // of the tokens that pseudonyms are; nil: pseudonyms do not change with the epoch, and their key is kept for ever

	CacheSize int           // subject keys kept in memory; 0: 4,096
	CacheTTL  time.Duration // how long one is kept; 0: a minute. So long another process may still open what was shredded in this one

	Now func() time.Time // by which epochs begin and end; nil: time.Now
}

// A Keyring seals and opens. It is safe for concurrent use, also by several processes on the same file.
type Keyring struct {
	path   string
	kek    hidden[tink.AEAD]
	store  KeyStore
	tokens TokenStore

	state  atomic.Pointer[keys]
	reload sync.Mutex
	seen   atomic.Int64 // when the file was last looked at, in nanoseconds
	now    func() time.Time
	ledger *ledger
	cache  cache
	marked atomic.Bool // the store says that it is ours
}

// keys is what the keyring file holds, made ready for use. It is never changed.
type keys struct {
	id      [16]byte
	content content
	sum     [sha256.Size]byte // of what is sealed in the file
	sealed  []byte            // the key of the file, as it is in the file
	key     hidden[[]byte]    // the same, opened
	current uint32            // the epoch in which new subject keys are wrapped
	epochs  map[uint32]tink.AEAD
	indexes *Indexes
}

// content is the secret part of a keyring file.
type content struct {
	Generation  uint64         `json:"generation"` // grows with every change of the file
	Epochs      []epochKey     `json:"epochs"`
	Rotating    bool           `json:"rotating"` // subject keys of earlier epochs may be left to rewrap
	IndexChange uint64         `json:"index_change"`
	Indexes     []indexKey     `json:"indexes"`
	Pseudonyms  []pseudonymKey `json:"pseudonyms"`
	Ledger      ledgerMark     `json:"ledger"`
	Trail       []byte         `json:"trail,omitempty"`    // what the keys of the audit trail are derived from
	Pairwise    []byte         `json:"pairwise,omitempty"` // for third parties, whose pseudonyms outlive the epochs
	Schedule    Schedule       `json:"schedule"`
	Store       []byte         `json:"store,omitempty"` // whose keys are rotated: a store's mark, keyed
}

type epochKey struct {
	Number  uint32    `json:"number"`
	Created time.Time `json:"created"`
	Ended   time.Time `json:"ended,omitzero"` // when nothing was left that is wrapped in it
	Key     []byte    `json:"key"`
}

type ledgerMark struct {
	Key   []byte `json:"key"`
	Count uint64 `json:"count"` // of tombstones, at least
	Head  []byte `json:"head"`  // after so many
}

// A keyringFile is the file. What is not sealed in it is bound to what is.
type keyringFile struct {
	Version    int    `json:"carrel-keyring"`
	ID         string `json:"id"`
	Generation uint64 `json:"generation"`
	Key        []byte `json:"key"`    // of this file, under the KEK alone: key management services take a few thousand bytes, and not all of them associated data
	Sealed     []byte `json:"sealed"` // the content, under that key
}

func (f keyringFile) bound() []byte {
	b := []byte(labelKeyring)
	b = appendNumber(b, uint64(f.Version))
	b = appendPart(b, f.ID)
	return appendNumber(b, f.Generation)
}

// CreateKeyring makes a new keyring, with keys of its own, and its empty erasure ledger. It leaves existing files as they
// are: [ErrExists].
func CreateKeyring(path string, kek tink.AEAD) error {
	if kek == nil {
		return errors.New("crypto: a keyring needs a key-encryption key")
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%w: %s", ErrExists, path)
	}
	var id [16]byte
	copy(id[:], newKey(len(id)))
	c := content{
		Generation:  1,
		Epochs:      []epochKey{{Number: 1, Created: time.Now().UTC().Truncate(time.Second), Key: newKey(keySize)}},
		IndexChange: 1,
		Indexes:     []indexKey{{Name: IndexIdentifier, Fields: []string{IndexIdentifier}, Version: 1, State: indexActive, Key: newKey(keySize)}},
		Pseudonyms:  []pseudonymKey{{1, newKey(keySize)}},
		Ledger:      ledgerMark{Key: newKey(keySize)},
		Trail:       newKey(keySize),
		Pairwise:    newKey(keySize),
	}
	data, err := encodeKeyring(kek, id, c)
	if err != nil {
		return err
	}
	// The ledger first: a keyring without one is refused.
	if err := createLedger(ledgerPath(path), id); err != nil {
		return err
	}
	if err := createFile(path, data); err != nil {
		if !errors.Is(err, ErrExists) {
			os.Remove(ledgerPath(path))
		}
		return err
	}
	return nil
}

func ledgerPath(keyring string) string { return keyring + ".ledger" }

// encodeKeyring makes a file, with a key of its own.
func encodeKeyring(kek tink.AEAD, id [16]byte, c content) ([]byte, error) {
	key, sealed, err := newFileKey(kek)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	data, _, err := sealKeyring(key, sealed, id, c)
	return data, err
}

func newFileKey(kek tink.AEAD) (key, sealed []byte, err error) {
	key = newKey(keySize)
	if sealed, err = kek.Encrypt(key, nil); err != nil {
		return nil, nil, errors.New("crypto: the key-encryption key cannot seal the keyring") // a client's own words may hold anything
	}
	return key, sealed, nil
}

func sealKeyring(key, sealed []byte, id [16]byte, c content) (data []byte, sum [sha256.Size]byte, err error) {
	plain, err := json.Marshal(c)
	if err != nil {
		return nil, sum, errors.New("crypto: the keyring cannot be encoded")
	}
	defer clear(plain)
	f := keyringFile{Version: keyringVersion, ID: hex.EncodeToString(id[:]), Generation: c.Generation, Key: sealed}
	a, err := newAEAD(key)
	if err != nil {
		return nil, sum, err
	}
	if f.Sealed, err = a.Encrypt(plain, f.bound()); err != nil {
		return nil, sum, err
	}
	data, err = json.Marshal(f)
	return append(data, '\n'), f.sum(), err
}

// sum tells two files of one generation apart: one of them was made from an older copy.
func (f keyringFile) sum() [sha256.Size]byte { return sha256.Sum256(f.Sealed) }

// OpenKeyring opens a keyring and replays its erasure ledger. The KEK is asked once.
//
// Errors: fs.ErrNotExist when there is no keyring, [ErrWrongKEK], [ErrLedger], [ErrForeignStore], [ErrOldKeyring], [ErrEnded]. Defects of the Config name the field.
func OpenKeyring(ctx context.Context, cfg Config) (*Keyring, error) {
	switch {
	case cfg.Path == "":
		return nil, errors.New("crypto: Config.Path is empty, want the path of the keyring")
	case cfg.KEK == nil:
		return nil, errors.New("crypto: Config.KEK is nil, want the key-encryption key")
	case cfg.CacheSize < 0:
		return nil, fmt.Errorf("crypto: Config.CacheSize is %d, must not be negative", cfg.CacheSize)
	case cfg.CacheTTL < 0:
		return nil, fmt.Errorf("crypto: Config.CacheTTL is %v, must not be negative", cfg.CacheTTL)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k := &Keyring{path: cfg.Path, kek: hide(cfg.KEK), store: cfg.Store, tokens: cfg.Tokens, now: cfg.Now}
	if k.now == nil {
		k.now = time.Now
	}
	k.cache.init(cmp.Or(cfg.CacheSize, 4096), cmp.Or(cfg.CacheTTL, time.Minute))
	s, err := k.read(nil)
	if err != nil {
		return nil, err
	}
	k.state.Store(s)
	marks := []ledgerMark{s.content.Ledger}
	if k.store != nil {
		if err := k.checkStore(ctx); err != nil {
			return nil, err
		}
		_, known, err := k.readNote(ctx)
		if err != nil {
			return nil, err
		}
		marks = append(marks, known)
	}
	if k.ledger, err = openLedger(ledgerPath(cfg.Path), s.id, s.content.Ledger.Key, marks...); err != nil {
		return nil, err
	}
	return k, nil
}

// mark is the subject whose key says whose a store is: only its keyring can unwrap it.
const mark Subject = "carrel installation"

// checkStore looks whether the store is another keyring's.
func (k *Keyring) checkStore(ctx context.Context) error {
	w, _, err := k.readReserved(ctx, mark)
	switch {
	case errors.Is(err, ErrNoKey):
		return nil // nothing was sealed yet
	case errors.Is(err, ErrNoEpoch) && w.Epoch > 0 && w.Epoch < k.state.Load().current:
		return fmt.Errorf("%w: it is of epoch %d", ErrEnded, w.Epoch)
	case errors.Is(err, ErrNoEpoch):
		return fmt.Errorf("%w: %s", ErrOldKeyring, k.path)
	case errors.Is(err, ErrNotAuthentic):
		return fmt.Errorf("%w: %s", ErrForeignStore, k.path)
	case err != nil:
		return err
	}
	k.marked.Store(true)
	return nil
}

// ID returns the installation's ID: 32 hexadecimal digits that are bound into all that the keyring seals.
func (k *Keyring) ID() string {
	s := k.state.Load()
	return hex.EncodeToString(s.id[:])
}

const (
	maxKeyring     = 16 << 20
	keyringVersion = 2 // 1 has no schedule and no epochs of pseudonyms, which a carrel that does not know them would drop
)

// read reads the file and asks the KEK, unless the file still has the key that it had.
func (k *Keyring) read(seen *keys) (*keys, error) {
	f, err := k.readFile()
	if err != nil {
		return nil, err
	}
	s := &keys{epochs: map[uint32]tink.AEAD{}}
	id, err := hex.DecodeString(f.ID)
	if copy(s.id[:], id) != len(s.id) || len(id) != len(s.id) || err != nil {
		return nil, fmt.Errorf("crypto: %s: not a keyring: its id is not 32 hexadecimal digits", k.path)
	}
	s.sealed, s.sum = f.Key, f.sum()
	if seen != nil && bytes.Equal(seen.sealed, f.Key) {
		s.key = seen.key
	} else if key, err := k.kek().Decrypt(f.Key, nil); err == nil && len(key) == keySize {
		s.key = hide(key)
	} else {
		return nil, fmt.Errorf("%w: %s", ErrWrongKEK, k.path)
	}
	a, err := newAEAD(s.key())
	if err != nil {
		return nil, fmt.Errorf("crypto: %s: %w", k.path, errDamaged)
	}
	plain, err := a.Decrypt(f.Sealed, f.bound())
	if err != nil {
		return nil, fmt.Errorf("crypto: %s: %w", k.path, errDamaged)
	}
	defer clear(plain)
	d := json.NewDecoder(bytes.NewReader(plain))
	d.DisallowUnknownFields() // what a newer carrel put there must not be lost with the next change
	if err := d.Decode(&s.content); err != nil || d.More() {
		return nil, fmt.Errorf("crypto: %s: the keyring is damaged, or a newer carrel's", k.path) // the decoder's words may quote it
	}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("crypto: %s: %w", k.path, err)
	}
	return s, nil
}

func (k *Keyring) readFile() (f keyringFile, err error) {
	file, err := openRegular("keyring", k.path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return f, fmt.Errorf("crypto: keyring %s: %w; without it nothing that it sealed can be opened: restore it, or create one for a new installation", k.path, fs.ErrNotExist)
		}
		return f, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxKeyring))
	if err != nil {
		return f, fileError("keyring", k.path, err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil || d.More() {
		return f, fmt.Errorf("crypto: %s: not a keyring", k.path)
	}
	if f.Version < 1 || f.Version > keyringVersion {
		return f, fmt.Errorf("crypto: %s: a keyring of version %d; this carrel reads versions 1 to %d", k.path, f.Version, keyringVersion)
	}
	return f, nil
}

var errDamaged = errors.New("the keyring is damaged")

// prepare makes the primitives.
func (s *keys) prepare() error {
	c := &s.content
	if len(c.Epochs) == 0 || len(c.Pseudonyms) == 0 || len(c.Ledger.Key) != keySize {
		return errDamaged
	}
	for _, e := range c.Epochs {
		if len(e.Key) != keySize || s.epochs[e.Number] != nil {
			return errDamaged
		}
		a, err := newAEAD(e.Key)
		if err != nil {
			return errDamaged
		}
		s.epochs[e.Number] = a
		s.current = max(s.current, e.Number)
	}
	for _, key := range [][]byte{c.Trail, c.Pairwise} {
		if n := len(key); n != 0 && n != keySize {
			return errDamaged
		}
	}
	for _, p := range c.Pseudonyms {
		if len(p.Key) != keySize {
			return errDamaged
		}
	}
	var err error
	s.indexes, err = newIndexes(c.IndexChange, c.Indexes)
	return err
}

// recent returns what is known, as of not longer ago than keys are kept in memory.
func (k *Keyring) recent() (*keys, error) {
	s := k.state.Load()
	if time.Since(time.Unix(0, k.seen.Load())) < k.cache.ttl {
		return s, nil
	}
	return k.refresh(s)
}

// refresh reads the keyring again if another process has changed it since seen, and returns what is known now.
func (k *Keyring) refresh(seen *keys) (*keys, error) {
	k.reload.Lock()
	defer k.reload.Unlock()
	if now := k.state.Load(); now != seen {
		return now, nil
	}
	f, err := k.readFile()
	if err != nil {
		return nil, err
	}
	k.seen.Store(time.Now().UnixNano())
	if f.Generation == seen.content.Generation && f.sum() == seen.sum {
		return seen, nil
	}
	return k.readAgain(seen)
}

// readAgain takes over a changed file. The caller holds reload.
func (k *Keyring) readAgain(seen *keys) (*keys, error) {
	s, err := k.read(seen)
	if err != nil {
		return nil, err
	}
	if s.id != seen.id || s.content.Generation < seen.content.Generation || s.content.Generation == seen.content.Generation && s.sum != seen.sum {
		return nil, fmt.Errorf("crypto: %s: was replaced by another keyring or an older copy", k.path)
	}
	k.state.Store(s)
	return s, nil
}

// change lets f alter the keyring and writes it, alone among all processes. F gets the contents as they are in the file
// now, not shared with anybody. If it returns false, nothing is written. The file gets a new key of its own.
func (k *Keyring) change(ctx context.Context, f func(*content) (changed bool, err error)) error {
	return k.rewrite(ctx, true, f)
}

// rewrite is change, which without a new key does not ask the KEK.
func (k *Keyring) rewrite(ctx context.Context, rekey bool, f func(*content) (changed bool, err error)) error {
	unlock, err := lockFile(k.path)
	if err != nil {
		return err
	}
	defer unlock()
	k.reload.Lock()
	defer k.reload.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	s := k.state.Load()
	file, err := k.readFile()
	if err != nil {
		return err
	}
	if file.Generation != s.content.Generation || file.sum() != s.sum {
		if s, err = k.readAgain(s); err != nil {
			return err
		}
	}
	c := s.content
	c.Epochs, c.Indexes, c.Pseudonyms = slices.Clone(c.Epochs), slices.Clone(c.Indexes), slices.Clone(c.Pseudonyms)
	changed, err := f(&c)
	if err != nil || !changed {
		return err
	}
	if c.Ledger, err = k.ledger.mark(c.Ledger); err != nil {
		return err
	}
	c.Generation++
	next := &keys{id: s.id, content: c, sealed: s.sealed, key: s.key, epochs: map[uint32]tink.AEAD{}}
	if err := next.prepare(); err != nil {
		return err
	}
	if rekey {
		key, sealed, err := newFileKey(k.kek())
		if err != nil {
			return err
		}
		next.key, next.sealed = hide(key), sealed
	}
	data, sum, err := sealKeyring(next.key(), next.sealed, s.id, c)
	if err != nil {
		return err
	}
	if err := replaceFile(k.path, data); err != nil {
		return err
	}
	next.sum = sum
	k.state.Store(next)
	k.seen.Store(time.Now().UnixNano())
	return nil
}
