package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// volatile is where a system keeps what need not outlive it, see file-hierarchy(7).
const volatile = "/run"

// runFolder gives the folder of what sandboxes need on a disk. Where it can be, for root, that is in memory, behind a
// link in the data folder: then functions start on a full disk, too, and faster. A folder that is there stays.
func (c *Config) runFolder() (string, error) {
	path := c.path("run")
	target, err := os.Readlink(path)
	switch {
	case err == nil:
		if !filepath.IsAbs(target) {
			target = c.path(target)
		}
		return path, os.MkdirAll(target, 0o700) // gone since the machine was started
	case !errors.Is(err, fs.ErrNotExist), os.Getuid() != 0, !inMemory(volatile):
		return path, nil
	}
	sum := sha256.Sum256([]byte(c.Data))
	target = filepath.Join(volatile, "lambent", hex.EncodeToString(sum[:8]))
	if os.MkdirAll(target, 0o700) != nil { // for example in a container that may not write there
		return path, nil
	}
	return path, os.Symlink(target, path)
}

// leaveRunFolder removes a folder in memory that is empty: the data folder may be removed, and nobody would find it.
func (c *Config) leaveRunFolder() {
	if target, err := os.Readlink(c.path("run")); err == nil {
		_ = os.Remove(target) // it is not empty while another process has instances there
	}
}

// inMemory tells whether a folder is in memory, and programs can be run from there.
func inMemory(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.TMPFS_MAGIC && fs.Flags&(unix.ST_NOEXEC|unix.ST_RDONLY) == 0
}
