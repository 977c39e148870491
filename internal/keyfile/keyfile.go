// Package keyfile keeps what only the owner of a file may know.
package keyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ModeError says that others than its owner can use a file.
type ModeError struct {
	Path string
	Mode fs.FileMode
}

// Error gives the path and the mode.
func (e *ModeError) Error() string {
	return fmt.Sprintf("others than its owner can use %s (mode %04o)", e.Path, e.Mode)
}

// maxSize is more than any file of keys has.
const maxSize = 1 << 20

// Read gives the content of the file at path, or a [ModeError]. Where there is none the error wraps
// fs.ErrNotExist.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of what is read, not of what has the name by now
	switch {
	case err != nil:
		return nil, err
	case info.Mode().Perm()&0o077 != 0:
		return nil, &ModeError{path, info.Mode().Perm()}
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, maxSize))
}

// Write makes the file appear whole or not at all, also when the machine stops, for its owner only. When it
// returned nil, content is what the file holds for good. There must be one writer at a time.
func Write(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	// One name, so that what a crash leaves of it does not stay beside the next one.
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := f.Chmod(0o600); err != nil {
		return errors.Join(err, f.Close())
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
