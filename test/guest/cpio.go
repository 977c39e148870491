package guest

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
)

// writeInitramfs writes an archive of the format "newc" with the files, by their paths in it, all executable,
// the folders above them and the console's device. See Documentation/driver-api/early-userspace/buffer-format.rst
// of Linux.
func writeInitramfs(w io.Writer, files map[string]string) error {
	a := &archive{w: bufio.NewWriter(w), made: map[string]bool{".": true}}
	for _, dir := range []string{"dev", "proc", "sys", "root", "payload"} {
		a.folder(dir)
	}
	a.entry("dev/console", 0o020600, 5, 1, nil)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		content, err := os.ReadFile(files[name])
		if err != nil {
			return err
		}
		a.folder(path.Dir(name))
		a.entry(name, 0o100755, 0, 0, content)
	}
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.w.Flush()
}

type archive struct {
	w    *bufio.Writer // keeps its first error for Flush
	n    int           // entries so far
	made map[string]bool
}

func (a *archive) folder(name string) {
	if a.made[name] {
		return
	}
	a.folder(path.Dir(name))
	a.made[name] = true
	a.entry(name, 0o040755, 0, 0, nil)
}

func (a *archive) entry(name string, mode, major, minor int, content []byte) {
	a.n++
	const links = 1
	fmt.Fprintf(a.w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.n, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name)
	a.pad(110 + len(name) + 1)
	_, _ = a.w.Write(content)
	a.pad(len(content))
}

func (a *archive) pad(n int) { _, _ = a.w.Write(make([]byte, -n&3)) }
