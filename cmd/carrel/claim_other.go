//go:build !unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// claim makes a directory, or takes over the one that is there. The lock of a process that was killed stays and has to be removed by hand.
func claim(dir string) (release func(), err error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return nil, fmt.Errorf("%s: cannot be made: %w", dir, reason(err))
	}
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if os.IsExist(err) {
		return nil, fmt.Errorf("%s: another process is at work there, or was killed: then remove this file", name)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", name, reason(err))
	}
	return func() { f.Close(); os.Remove(name) }, nil
}
