package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// A draft is a file that gets its name when all of it is there. Until then it has another one beside it; one that a killed process has left is of no use and may
// be removed.
type draft struct {
	*os.File
	path string
}

// draftOf begins a file that must not exist yet. Only its owner may read it.
func draftOf(path string) (*draft, error) {
	if err := absent(path); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.partial")
	if err != nil {
		return nil, fmt.Errorf("%s: cannot be written: %w", path, reason(err))
	}
	return &draft{f, path}, nil
}

// absent refuses a name at which there is something.
func absent(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: is there already; it is not overwritten", path)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, reason(err))
	}
	return nil
}

// failed says that writing failed, by the name that the file was to have.
func (d *draft) failed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: cannot be written: %w", d.path, reason(err))
}

// publish makes the file durable and gives it its name.
func (d *draft) publish() (size int64, err error) {
	info, err := d.Stat()
	if err == nil {
		err = d.Sync()
	}
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return 0, d.failed(err)
	}
	return info.Size(), putInPlace(d.Name(), d.path)
}

// drop removes what has got no name.
func (d *draft) drop() {
	d.Close()
	os.Remove(d.Name())
}

// putInPlace gives a file that was synced its last name, durably, and never in the place of another.
func putInPlace(from, to string) error {
	err := os.Link(from, to) // which unlike a rename replaces nothing
	switch {
	case errors.Is(err, os.ErrExist):
		return fmt.Errorf("%s: is there already; it is not overwritten", to)
	case err == nil:
		err = os.Remove(from)
	default: // a file system without links
		if err = absent(to); err != nil {
			return err
		}
		err = os.Rename(from, to)
	}
	if err == nil {
		err = syncDirectory(filepath.Dir(to))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", to, reason(err))
	}
	return nil
}

// syncDirectory makes names in a directory durable.
func syncDirectory(path string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be opened for that
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
