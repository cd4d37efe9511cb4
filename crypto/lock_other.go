//go:build !unix

package crypto

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// lockFile takes the lock beside a file, waiting for whoever has it, at most a minute: the lock of a process that was
// killed stays and has to be removed by hand.
func lockFile(path string) (unlock func(), err error) {
	name := path + ".lock"
	for range 600 {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err == nil {
			return func() { f.Close(); os.Remove(name) }, nil
		}
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrPermission) { // Windows says so of one that is being removed
			return nil, fileError("lock of", path, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("crypto: %s is held; if no other program uses the keyring, remove it", name)
}

// keepOwner does nothing: files of these systems belong to whoever their directory belongs to.
func keepOwner(_, _ string) error { return nil }
