package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/carrel-project/carrel/crypto"
)

// An Anchor takes checkpoints to where the owner of the database cannot change them: a file on another machine, a mail to the
// auditor, a bucket that only grows. Put returns nil when the checkpoint is durable there. It may get the same one twice, and of several processes
// an older one after a newer one. To verify against it, hand what it has, in its order, to [Verify]; [SplitCheckpoints] takes apart what stands in one piece.
type Anchor interface {
	Put(ctx context.Context, checkpoint []byte) error
}

// Origin returns the name of the trail of an installation, with which its checkpoints begin.
func Origin(keys *crypto.Keyring) string { return originPrefix + keys.ID() }

const originPrefix = "carrel/trail/"

// VerifierKey returns the text with which anybody can check the checkpoints of a trail: see [note.NewVerifier].
func VerifierKey(ctx context.Context, keys *crypto.Keyring) (string, error) {
	key, err := keys.TrailKey(ctx)
	if err != nil {
		return "", err
	}
	return note.NewEd25519VerifierKey(Origin(keys), key.Public())
}

// A signer signs checkpoints. It implements note.Signer, without the secret key in a field or text; name and hash of the key are the verifier's.
type signer struct {
	note.Verifier
	key *crypto.TrailKey
}

func (s signer) Sign(msg []byte) ([]byte, error) { return s.key.Sign(msg), nil }

// formatCheckpoint writes the text of a checkpoint: https://c2sp.org/tlog-checkpoint.
func formatCheckpoint(origin string, tree tlog.Tree) string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, tree.N, base64.StdEncoding.EncodeToString(tree.Hash[:]))
}

var errCheckpoint = errors.New("audit: not a checkpoint of this trail")

// OpenCheckpoint checks the signature of a checkpoint and returns the tree it speaks of.
func OpenCheckpoint(checkpoint []byte, verifier note.Verifier) (tlog.Tree, error) {
	n, err := note.Open(checkpoint, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, errCheckpoint
	}
	lines := strings.SplitN(n.Text, "\n", 4)
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, errCheckpoint
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return tlog.Tree{}, errCheckpoint
	}
	hash, err := tlog.ParseHash(lines[2])
	if err != nil {
		return tlog.Tree{}, errCheckpoint
	}
	return tlog.Tree{N: size, Hash: hash}, nil
}

// A FileAnchor is a file to which checkpoints are appended. It belongs on another disk than the database, better another machine, where
// the database's owner can append but not overwrite. It is safe for concurrent use, also by several processes.
type FileAnchor struct {
	path string
	mu   sync.Mutex
	last []byte // that this one has written
}

// NewFileAnchor returns the anchor in a file, which the first checkpoint creates.
func NewFileAnchor(path string) *FileAnchor { return &FileAnchor{path: path} }

// Put appends a checkpoint, in one piece, and syncs.
func (a *FileAnchor) Put(ctx context.Context, checkpoint []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if bytes.Equal(a.last, checkpoint) {
		return nil
	}
	info, err := os.Stat(a.path)
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("audit: anchor %s is no regular file", a.path)
	}
	created := errors.Is(err, os.ErrNotExist)
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return fileError("anchor", a.path, err)
	}
	err = appendWhole(f, checkpoint)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && created {
		err = syncDir(filepath.Dir(a.path))
	}
	if err != nil {
		return fileError("anchor", a.path, err)
	}
	a.last = bytes.Clone(checkpoint)
	return nil
}

// appendWhole appends a checkpoint. A crash or a full disk may have left half of one, which is given its own paragraph.
func appendWhole(f *os.File, checkpoint []byte) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if size := info.Size(); size > 0 {
		origin, _, _ := bytes.Cut(checkpoint, []byte("\n"))
		first, last := make([]byte, min(size, int64(len(origin)))), make([]byte, 1)
		if _, err := f.ReadAt(first, 0); err != nil {
			return err
		}
		line, _, _ := bytes.Cut(first, []byte("\n")) // all of it, or what a torn write left of it
		if len(line) == 0 || !bytes.HasPrefix(origin, line) {
			return errors.New("is not an anchor of this trail, and was left alone")
		}
		end := make([]byte, min(size, int64(len(checkpoint))))
		if _, err := f.ReadAt(end, size-int64(len(end))); err != nil {
			return err
		}
		if bytes.Equal(end, checkpoint) {
			return f.Sync() // another trail has put it here
		}
		if _, err := f.ReadAt(last, size-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			checkpoint = append([]byte("\n\n"), checkpoint...)
		}
	}
	if _, err := f.Write(checkpoint); err != nil {
		return err
	}
	return f.Sync()
}

// Checkpoints returns what is in the file, in its order. That there is no file is not an error: then nothing was ever anchored, or the
// anchor is gone.
func (a *FileAnchor) Checkpoints() ([][]byte, error) {
	f, err := a.open()
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fileError("anchor", a.path, err)
	}
	return SplitCheckpoints(data), nil
}

// open opens the file to be read; nil if there is none. A pipe would be waited for.
func (a *FileAnchor) open() (*os.File, error) {
	info, err := os.Stat(a.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("audit: anchor %s is no regular file", a.path)
	}
	f, err := os.Open(a.path)
	if err != nil {
		return nil, fileError("anchor", a.path, err)
	}
	return f, nil
}

// recentBytes is how much of the end of an anchor is read to know how far it is.
const recentBytes = 64 << 10

// Recent returns the last checkpoints in the file, in its order.
func (a *FileAnchor) Recent() ([][]byte, error) {
	f, err := a.open()
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fileError("anchor", a.path, err)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-recentBytes), recentBytes))
	if err != nil {
		return nil, fileError("anchor", a.path, err)
	}
	return SplitCheckpoints(data), nil
}

// SplitCheckpoints takes apart checkpoints that stand one after another. What is none, or only a part of one, is returned
// as it is, between the others, for [Verify] to name.
func SplitCheckpoints(data []byte) (list [][]byte) {
	const sig = "— "
	for len(data) > 0 {
		// A note is a text, an empty line and lines of signatures; the next begins after the last of these. An empty line that no signature follows ends
		// half of one, and so does the first line of another.
		end, empty, signed := 0, false, false
		for end < len(data) {
			line, _, _ := bytes.Cut(data[end:], []byte("\n"))
			isSig := bytes.HasPrefix(line, []byte(sig)) || len(line) > 0 && strings.HasPrefix(sig, string(line))
			if (signed || empty) && !isSig || end > 0 && bytes.HasPrefix(line, []byte(originPrefix)) {
				break
			}
			signed = signed || isSig
			empty = len(line) == 0 && end > 0
			end = min(len(data), end+len(line)+1)
		}
		if one := bytes.TrimLeft(data[:end], "\n"); len(one) > 0 {
			list = append(list, one)
		}
		data = data[end:]
	}
	return list
}

// fileError says what is wrong with a file of ours, without what is in it.
func fileError(what, path string, err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("audit: %s %s: %w", what, path, err)
}
