// Package node is the bootstrap that loads a JavaScript handler inside a sandbox and serves it on the listening
// socket at descriptor 3. lambent_shim/main.cjs says how it speaks with the host.
package node

import (
	"embed"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Dir is where the shim's folder must be mounted in the sandbox; the working directory must be the code's.
const Dir = "/var/runtime"

// HeapFull is part of what V8 writes to stderr before it aborts the process because its heap is full.
const HeapFull = "JavaScript heap out of memory"

//go:embed lambent_shim/*.cjs
var source embed.FS

// Install writes the shim into dir, readable for every user.
func Install(dir string) error {
	files, err := fs.Glob(source, "lambent_shim/*.cjs")
	if err != nil {
		return err
	}
	folder := filepath.Join(dir, "lambent_shim")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, path := range []string{dir, folder} { // whatever the umask
		if err := os.Chmod(path, 0o755); err != nil {
			return err
		}
	}
	for _, name := range files {
		text, err := source.ReadFile(name)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Command is the argv that runs the shim, mounted at [Dir], with interpreter (a path, Node.js 18 or later) in memory
// MiB. V8 must know that limit, or it would not collect its garbage in time: three quarters are for what lives long,
// a tenth at most for what is new (three semi-spaces), the rest is for Node.js itself, buffers and /tmp.
func Command(interpreter string, memory int) []string {
	return []string{
		interpreter,
		"--max-old-space-size=" + strconv.Itoa(memory*3/4),
		"--max-semi-space-size=" + strconv.Itoa(min(max(memory/32, 1), 16)),
		Dir + "/lambent_shim/main.cjs",
	}
}
