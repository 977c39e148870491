// Package keyfile keeps what only the owner of a file may know.
package keyfile

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"lambent/internal/durable"
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

// Write makes content what the file holds, for its owner only; see [durable.WriteFile].
func Write(path string, content []byte) error { return durable.WriteFile(path, content, 0o600) }
