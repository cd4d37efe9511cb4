package crypto

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// createFile writes a file that must not exist, durably. Whoever finds it finds all of it.
func createFile(path string, data []byte) error {
	tmp, err := writeTemporary(path, data)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	// A link, unlike a rename, does not replace what is there.
	err = os.Link(tmp, path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: %s", ErrExists, path)
	case err != nil: // a file system without links
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: %s", ErrExists, path)
		} else if err != nil {
			return fileError("file", path, err)
		}
		if err := writeAndSync(f, data); err != nil {
			os.Remove(path)
			return fileError("file", path, err)
		}
	}
	if err := syncDirectory(path); err != nil {
		os.Remove(path) // it is ours: whoever is told that it failed may try again
		return err
	}
	return nil
}

// replaceFile puts new contents in the place of a file, durably: after a crash there is the old file or the new one.
func replaceFile(path string, data []byte) error {
	target, err := filepath.EvalSymlinks(path) // or a link would become a file, and what it points at an old copy
	if err != nil {
		return fileError("file", path, err)
	}
	path = target
	tmp, err := writeTemporary(path, data)
	if err != nil {
		return err
	}
	if err := keepOwner(path, tmp); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return fileError("file", path, err)
	}
	return syncDirectory(path)
}

func writeTemporary(path string, data []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("crypto: %s: there is no directory %s; make it first: %w", path, filepath.Dir(path), fs.ErrNotExist)
	}
	if err != nil {
		return "", fileError("file", path, err)
	}
	if err := writeAndSync(f, data); err != nil {
		os.Remove(f.Name())
		return "", fileError("file", path, err)
	}
	return f.Name(), nil
}

func writeAndSync(f *os.File, data []byte) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDirectory makes the name of a file durable.
func syncDirectory(path string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be opened for that
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fileError("directory of", path, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fileError("directory of", path, err)
	}
	return nil
}

// openRegular opens a file to read it. Whatever is no file, such as a pipe that nobody writes to, is refused before it can be waited for.
func openRegular(what, path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fileError(what, path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("crypto: %s: a %s is a regular file", path, what)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(what, path, err)
	}
	return f, nil
}
