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

// keepOwner gives a file the owner of another, so that an administrator who changes the keyring does not lock the service out.
func keepOwner(of, file string) error {
	info, err := os.Stat(of)
	if err != nil {
		return fileError("file", of, err)
	}
	is, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(is.Uid) == os.Geteuid() {
		return nil
	}
	if err := os.Chown(file, int(is.Uid), int(is.Gid)); err != nil {
		return fileError("file", of, err)
	}
	return nil
}
