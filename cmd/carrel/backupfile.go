package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"filippo.io/age"
)

// A backup is an age file of a tar of three files, in this order. What opens the database's sealed parts, the keyring and its ledger, is never among them.
const (
	backupVersion = 1

	headName     = "head.json"
	databaseName = "library.db"
	manifestName = "manifest.json"

	maxHead     = 64 << 10
	maxManifest = 4 << 20
)

// A backupHead is what has to be known before the database is unpacked.
type backupHead struct {
	Version int    `json:"carrel-backup"`
	Created string `json:"created"`
	Keyring string `json:"keyring"` // the ID of the keyring that it belongs to
	Schema  int    `json:"schema"`
	Size    int64  `json:"size"` // of the database, in bytes
}

// A backupManifest is what the database should turn out to be. It comes last, because a stream is written once.
type backupManifest struct {
	backupHead
	SHA256     string           `json:"sha256"` // of the database
	Epoch      uint32           `json:"epoch"`  // of its tokens
	Tombstones uint64           `json:"tombstones"`
	Trail      backupTrail      `json:"trail"`
	Counts     map[string]int64 `json:"counts"` // rows, by table
}

// A backupTrail is how far the audit trail in the database is.
type backupTrail struct {
	Size       uint64 `json:"size"`
	Pending    uint64 `json:"pending"`
	Checkpoint string `json:"checkpoint"`
}

// errDamagedBackup means that what a backup holds is not what was written, or ends before its end.
var errDamagedBackup = errors.New("the backup is damaged, or a part of one")

// writeBackup writes a backup of a database, as long as the head says. The rest of the manifest is asked for when that has been read.
func writeBackup(ctx context.Context, out io.Writer, to []age.Recipient, head backupHead, at time.Time, database io.Reader, rest func() (backupManifest, error), progress func(int64)) (m backupManifest, err error) {
	sealed, err := age.Encrypt(out, to...)
	if err != nil {
		return m, err
	}
	t := tar.NewWriter(sealed)
	entry := func(name string, size int64) error {
		return t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: at.Truncate(time.Second)})
	}
	text := func(name string, v any) error {
		data, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			return err
		}
		data = append(data, '\n')
		if err := entry(name, int64(len(data))); err != nil {
			return err
		}
		_, err = t.Write(data)
		return err
	}
	if err := text(headName, head); err != nil {
		return m, err
	}
	if err := entry(databaseName, head.Size); err != nil {
		return m, err
	}
	sum := sha256.New()
	if err := copyExactly(ctx, t, database, head.Size, sum, progress); err != nil {
		return m, err
	}
	if m, err = rest(); err != nil {
		return m, err
	}
	m.backupHead, m.SHA256 = head, hex.EncodeToString(sum.Sum(nil))
	if err := text(manifestName, m); err != nil {
		return m, err
	}
	if err := t.Close(); err != nil {
		return m, err
	}
	return m, sealed.Close()
}

// A readError says that it was reading that failed, not writing.
type readError struct{ error }

func (e readError) Unwrap() error { return e.error }

// copyExactly copies so many bytes, and hashes them while the next ones are read.
func copyExactly(ctx context.Context, to io.Writer, from io.Reader, size int64, sum hash.Hash, progress func(int64)) error {
	type chunk struct {
		data []byte
		err  error
	}
	const ahead = 3 // chunks: one is read, one waits, one is written
	free, full := make(chan []byte, ahead), make(chan chunk, ahead)
	for range ahead {
		free <- make([]byte, 256<<10)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		defer close(full)
		for left := size; left > 0; {
			var buffer []byte
			select {
			case buffer = <-free:
			case <-done:
				return
			}
			n, err := io.ReadFull(from, buffer[:min(left, int64(len(buffer)))])
			sum.Write(buffer[:n])
			left -= int64(n)
			full <- chunk{buffer[:n], err} // there is room for all that there are
			if err != nil {
				return
			}
		}
	}()
	copied := int64(0)
	for c := range full {
		if err := ctx.Err(); err != nil {
			return err
		}
		if c.err != nil {
			return readError{c.err}
		}
		n, err := to.Write(c.data)
		if err != nil {
			return err
		}
		copied += int64(n)
		progress(copied)
		free <- c.data[:cap(c.data)]
	}
	return nil
}

// A backupReader reads a backup from front to end.
type backupReader struct {
	backupHead
	plain io.Reader
	tar   *tar.Reader
}

// readBackup opens a backup and reads its head. Its errors are whole but for the name of the file.
func readBackup(from io.Reader, with []age.Identity) (*backupReader, error) {
	plain, err := age.Decrypt(from, with...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none):
		return nil, errors.New("this identity or passphrase does not open it")
	case err != nil:
		return nil, errors.New("is not an age file, or only a part of one")
	}
	r := &backupReader{plain: plain, tar: tar.NewReader(plain)}
	if err := r.text(headName, maxHead, &r.backupHead); err != nil {
		return nil, errors.New("is an age file, but not a backup of carrel's, or it is damaged")
	}
	switch {
	case r.Version != backupVersion:
		return nil, fmt.Errorf("is a backup of format %d; this carrel reads format %d", r.Version, backupVersion)
	case r.Size < 0:
		return nil, errDamagedBackup
	}
	return r, nil
}

// next goes to the file that must follow.
func (r *backupReader) next(name string) (size int64, err error) {
	h, err := r.tar.Next()
	if err != nil || h.Typeflag != tar.TypeReg || h.Name != name {
		return 0, errDamagedBackup
	}
	return h.Size, nil
}

func (r *backupReader) text(name string, most int64, v any) error {
	size, err := r.next(name)
	if err != nil || size > most {
		return errDamagedBackup
	}
	data, err := io.ReadAll(r.tar)
	if err != nil || json.Unmarshal(data, v) != nil {
		return errDamagedBackup
	}
	return nil
}

// unpack writes the database and returns what it should be. Whatever is not as it was written is [errDamagedBackup]; any other error is one of writing, or of ctx.
func (r *backupReader) unpack(ctx context.Context, to io.Writer, progress func(int64)) (m backupManifest, err error) {
	if size, err := r.next(databaseName); err != nil || size != r.Size {
		return m, errDamagedBackup
	}
	sum := sha256.New()
	err = copyExactly(ctx, to, r.tar, r.Size, sum, progress)
	if errors.As(err, new(readError)) {
		err = errDamagedBackup
	}
	if err != nil {
		return m, err
	}
	if err := r.text(manifestName, maxManifest, &m); err != nil {
		return m, err
	}
	if _, err := r.tar.Next(); !errors.Is(err, io.EOF) {
		return m, errDamagedBackup
	}
	// Age says only at the end of its file that this is the end.
	if _, err := io.Copy(io.Discard, r.plain); err != nil {
		return m, errDamagedBackup
	}
	if m.backupHead != r.backupHead || m.SHA256 != hex.EncodeToString(sum.Sum(nil)) {
		return m, errDamagedBackup
	}
	return m, nil
}
