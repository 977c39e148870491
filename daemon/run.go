package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// volatile is where a system keeps what need not outlive it, see file-hierarchy(7).
const volatile = "/run"

// runFolder gives the folder of what sandboxes need on a disk. Where it can be, for root, that is in volatile, behind a
// link in the data folder: then functions start on a full disk, too, and faster. A folder that is there stays. A link to
// elsewhere came with a copy of the data folder, and leads to what another daemon may have there.
func (c *Config) runFolder(volatile string) (string, error) {
	path := c.path("run")
	info, err := os.Lstat(path)
	link := err == nil && info.Mode().Type() == fs.ModeSymlink
	if err == nil && !link || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	target, err := c.inMemory(volatile)
	if err != nil {
		return "", err
	}
	if link {
		if is, err := os.Readlink(path); err != nil || is == target {
			return path, err
		}
		if err := os.Remove(path); err != nil {
			return "", err
		}
	}
	if target == "" {
		return path, nil
	}
	return path, os.Symlink(target, path)
}

// inMemory makes a folder in memory for this data folder, and gives "" where there can be none. It is named by what the
// kernel knows the data folder by: that stays when it is moved or mounted elsewhere, and a copy's is another.
func (c *Config) inMemory(volatile string) (string, error) {
	if os.Getuid() != 0 || !forPrograms(volatile) {
		return "", nil
	}
	var data unix.Stat_t
	if err := unix.Stat(c.Data, &data); err != nil {
		return "", &os.PathError{Op: "stat", Path: c.Data, Err: err}
	}
	target := filepath.Join(volatile, "lambent", fmt.Sprintf("%x-%x", data.Dev, data.Ino))
	if os.MkdirAll(target, 0o700) != nil { // for example in a container that may not write there
		return "", nil
	}
	return target, nil
}

// leaveRunFolder removes a folder in memory that is empty: the data folder may be removed, and nobody would find it.
func (c *Config) leaveRunFolder() {
	if target, err := os.Readlink(c.path("run")); err == nil {
		_ = os.Remove(target) // it is not empty while another process has instances there
	}
}

// forPrograms tells whether a folder is in memory, and programs can be run from there.
func forPrograms(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.TMPFS_MAGIC && fs.Flags&(unix.ST_NOEXEC|unix.ST_RDONLY) == 0
}
