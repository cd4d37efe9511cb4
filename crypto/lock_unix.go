//go:build unix

package crypto

import (
	"os"
	"syscall"
)

// lockFile takes the lock beside a file, waiting for whoever has it. The system releases it when the process ends,
// however that ends.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fileError("lock of", path, err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fileError("lock of", path, err)
	}
	return func() { f.Close() }, nil
}
