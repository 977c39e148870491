// Package python is the bootstrap that loads a Python handler inside a sandbox and serves it on the
// listening socket at descriptor 3. lambent_shim/__init__.py says how it speaks with the host.
package python

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Dir is where the shim's folder must be mounted in the sandbox; the working directory must be the code's.
const Dir = "/var/runtime"

//go:embed lambent_shim/*.py lib/*.py
var source embed.FS

// compile writes unchecked-hash pycs (PEP 552), so that their source's mtime does not matter. The file
// names that they carry are those inside the sandbox.
const compile = `
import glob, py_compile, sys
for name in glob.glob("*/*.py"):
    py_compile.compile(name, dfile=sys.argv[1] + "/" + name, doraise=True,
                       invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
`

// Install writes the shim into dir, compiled for interpreter (a path, Python 3.9 or later) and readable for
// every user. Shims for several interpreters may share a dir.
func Install(dir, interpreter string) error {
	files, err := fs.Glob(source, "*/*.py")
	if err != nil {
		return err
	}
	for _, name := range files {
		text, err := source.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, interpreter, "-I", "-c", compile, Dir)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the Python shim with %s: %w: %s", interpreter, err, out)
	}
	return readable(dir)
}

// readable undoes a narrow umask: the sandbox's user is another one.
func readable(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o644)
	})
}

// Command is the argv that runs the shim, mounted at [Dir], with interpreter. Without site and user packages
// (-S, -s) it boots several times faster and only the bundle counts; the code is read-only, so nothing tries to
// write bytecode (-B); text is UTF-8 whatever the locale. What a build has installed comes last, as packages do.
func Command(interpreter string) []string {
	return []string{
		interpreter, "-S", "-s", "-B", "-X", "utf8", "-c",
		"import sys; sys.path.insert(0, '" + Dir + "'); sys.path.append('/var/task/site-packages'); from lambent_shim.server import main; main()",
	}
}
