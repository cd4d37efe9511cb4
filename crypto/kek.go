package crypto

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"

	"github.com/tink-crypto/tink-go/v2/tink"
)

// A key file is one line, so that it can be kept on paper or in a password safe:
//
//	carrel-kek-1:<32 bytes in base64>
const kekPrefix = "carrel-kek-1:"

// CreateKEK makes a new key-encryption key in a file of its own, which only its owner may read. An existing file is
// left as it is: [ErrExists].
func CreateKEK(path string) error {
	line := kekPrefix + base64.StdEncoding.EncodeToString(newKey(keySize)) + "\n"
	return createFile(path, []byte(line))
}

// OpenKEK reads a key-encryption key from a file that [CreateKEK] made. It refuses a file that others than its owner may
// read or write ([ErrPermissions]; not checked on Windows), and a key that is a published example or was not drawn at
// random ([ErrWeakKey]). A missing file is an fs.ErrNotExist.
func OpenKEK(path string) (tink.AEAD, error) {
	if strings.HasPrefix(strings.TrimSpace(path), kekPrefix) {
		return nil, errors.New("crypto: this is a key, want the path of a key file") // without the path, for that reason
	}
	f, err := openRegular("key file", path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fileError("key file", path, err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s; chmod 600 it, and think about who has read it", ErrPermissions, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, fileError("key file", path, err)
	}
	key, err := parseKEK(string(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, path)
	}
	a, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return localKEK{hide(a)}, nil
}

// A localKEK is a key-encryption key that does not print; Tink's own do.
type localKEK struct{ aead hidden[tink.AEAD] }

func (k localKEK) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	return k.aead().Encrypt(plaintext, associatedData)
}

func (k localKEK) Decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	return k.aead().Decrypt(ciphertext, associatedData)
}

var errNoKEK = errors.New("crypto: not a key file: want one line, carrel-kek-1: and 32 bytes in base64")

func parseKEK(text string) ([]byte, error) {
	line, ok := strings.CutPrefix(strings.TrimSpace(text), kekPrefix)
	if !ok {
		return nil, errNoKEK
	}
	key, err := base64.StdEncoding.Strict().DecodeString(line)
	if err != nil || len(key) != keySize || strings.ContainsAny(line, "\r\n") {
		return nil, errNoKEK // without the decoder's words, which quote
	}
	return key, checkRandom(key)
}

// fileError says which file, in the system's words, of which fs.PathError's repeat the path.
func fileError(what, path string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("crypto: %s %s: %w", what, path, err)
}
