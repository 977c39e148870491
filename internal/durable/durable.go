// Package durable writes files that are whole whenever the machine stops, and there for good once a call returned nil.
//
// A file gets its name when its content is on the disk, and the folder is synced after that: otherwise the new name may
// lead to nothing after a loss of power, or be forgotten. After an error nothing is certain but that the name leads to
// the old content or to the new one, whole: a sync that failed must not be repeated and believed, because the kernel
// forgets what it could not write (https://lwn.net/Articles/752063/). To write all again is right.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Suffix ends the name of what WriteFile has not finished. A crash may leave such a file, the next WriteFile replaces it.
const Suffix = ".new"

// WriteFile makes content what the file at path holds, with that mode whatever the umask. There must be one writer
// at a time.
func WriteFile(path string, content []byte, mode fs.FileMode) error {
	temp := path + Suffix
	// It may be there, of a writer that crashed, and of another mode.
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	err = f.Chmod(mode)
	if err == nil {
		_, err = f.Write(content)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return SyncDir(filepath.Dir(path))
}

// Rename gives a file or folder, whose content has been synced, a name in another folder or the same one.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// MkdirAll is [os.MkdirAll] for folders that last.
func MkdirAll(path string, mode fs.FileMode) error {
	if info, err := os.Stat(path); err == nil {
		if info.IsDir() {
			return nil
		}
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	}
	parent := filepath.Dir(path)
	if err := MkdirAll(parent, mode); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode); err != nil {
		return err
	}
	return SyncDir(parent)
}

// SyncDir makes the names in a folder last.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// RemoveUnfinished removes what calls of WriteFile have left in a folder by a crash.
func RemoveUnfinished(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "*"+Suffix))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}
