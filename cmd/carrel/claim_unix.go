//go:build unix

package main

import (
	"fmt"
	"os"
	"syscall"
)

// claim makes a directory that only its owner may enter, or takes over the one that a killed process has left. Nobody else has it until release, or until this process
// ends, however that comes about.
func claim(dir string) (release func(), err error) {
	for {
		if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
			return nil, fmt.Errorf("%s: cannot be made: %w", dir, reason(err))
		}
		f, err := os.Open(dir)
		if os.IsNotExist(err) {
			continue // its owner is done with it
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, reason(err))
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: another process is at work there", dir)
		}
		have, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", dir, reason(err))
		}
		if named, err := os.Lstat(dir); err == nil && os.SameFile(have, named) {
			if !have.IsDir() || have.Mode().Perm()&0o077 != 0 {
				f.Close()
				return nil, fmt.Errorf("%s: is in the way: it is not a directory that only its owner may enter", dir)
			}
			return func() { f.Close() }, nil
		}
		f.Close()
	}
}
