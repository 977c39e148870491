package process

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"lambent"
	"lambent/internal/sandbox"
)

// searchPath is where a command is looked for that is not in the bundle: the host's folders, which sandboxes
// see under the same names. visible are all of those.
var (
	searchPath = []string{"/usr/local/bin", "/usr/bin", "/bin"}
	visible    = []string{"/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/"}
)

// findCommand gives the command with the path inside of its program, when that can be executed there. A
// program is meant to be in the bundle when its name has a slash or the bundle has a file of that name.
func findCommand(codeDir string, command []string) ([]string, error) {
	root, err := os.OpenRoot(codeDir)
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeCodeUnavailable, "the code is not on this node: %w", err)
	}
	defer root.Close()
	c := finder{root}
	file, err := c.find(command[0])
	if err != nil {
		return nil, err
	}
	return append([]string{file}, command[1:]...), nil
}

type finder struct{ root *os.Root }

func (c finder) find(name string) (inside string, err error) {
	clean := path.Clean(name)
	local, inBundle := strings.CutPrefix(clean, sandbox.CodeDir+"/")
	switch {
	case path.IsAbs(name) && !inBundle:
		return clean, c.checkSystem(clean)
	case strings.Contains(name, "/"):
		return path.Join(sandbox.CodeDir, local), c.checkBundle(local)
	}
	if info, err := c.root.Stat(name); err == nil && info.Mode().IsRegular() {
		return path.Join(sandbox.CodeDir, name), c.checkBundle(name)
	}
	return c.search(name)
}

// search looks on the path.
func (c finder) search(name string) (string, error) {
	for _, dir := range searchPath {
		if file := path.Join(dir, name); c.checkSystem(file) == nil {
			return file, nil
		}
	}
	for _, dir := range searchPath { // tell what is wrong with the one that is there
		file := path.Join(dir, name)
		if _, err := os.Lstat(file); err == nil {
			return "", c.checkSystem(file)
		}
	}
	return "", lambent.Errorf(lambent.CodeStartFailed, "there is no program %q: neither in the bundle nor in %s of this node", name, strings.Join(searchPath, ", ")).
		WithHint("add it to the bundle, or install it on the node")
}

// checkSystem checks a program of the node.
func (c finder) checkSystem(file string) error {
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return cannot(file, err).WithHint("install it on the node, or add it to the bundle")
	}
	if !slices.ContainsFunc(visible, func(dir string) bool { return strings.HasPrefix(real, dir) }) {
		return lambent.Errorf(lambent.CodeStartFailed, "%q is %s, which a sandbox does not see", file, real).
			WithHint("install it under /usr, or add it to the bundle")
	}
	f, err := os.Open(real)
	if err != nil {
		return cannot(file, err)
	}
	defer f.Close()
	return c.check(file, f)
}

// checkBundle checks a program of the bundle.
func (c finder) checkBundle(name string) error {
	f, err := c.root.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return lambent.Errorf(lambent.CodeStartFailed, "the bundle has no file %q to execute", name).
			WithHint("a command with a slash names a file of the bundle, relative to its root; one without may also be on the node's PATH")
	case err != nil:
		return cannot(name, err)
	}
	defer f.Close()
	return c.check(name, f)
}

func cannot(name string, err error) *lambent.Error {
	return lambent.Errorf(lambent.CodeStartFailed, "%q cannot be executed: %w", name, err)
}

// machines are the values of e_machine in an ELF header, see elf(5).
var machines = map[string]uint16{"amd64": 62, "arm64": 183}

// check finds out what the kernel's errno would not tell.
func (c finder) check(name string, f *os.File) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return cannot(name, err)
	case !info.Mode().IsRegular():
		return lambent.Errorf(lambent.CodeStartFailed, "%q is no regular file", name)
	case info.Mode()&0o111 == 0:
		return lambent.Errorf(lambent.CodeStartFailed, "%q is not executable", name).WithHint("chmod +x %s", name)
	}
	head := make([]byte, 256) // the kernel reads no more of a first line (BINPRM_BUF_SIZE)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return cannot(name, err)
	}
	head = head[:n]
	if bytes.HasPrefix(head, []byte("\x7fELF")) && n >= 20 {
		if binary.LittleEndian.Uint16(head[18:]) != machines[runtime.GOARCH] {
			return lambent.Errorf(lambent.CodeStartFailed, "%q is a program for another kind of machine", name).
				WithHint("build it for linux/%s", runtime.GOARCH)
		}
		return nil
	}
	line, isScript := bytes.CutPrefix(head, []byte("#!"))
	if !isScript {
		return lambent.Errorf(lambent.CodeStartFailed, "%q is neither a program nor a script that says what runs it", name).
			WithHint("begin a script with a line such as #!/bin/sh")
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	return c.checkScript(name, string(line))
}

// checkScript checks what the first line of a script asks for.
func (c finder) checkScript(name, line string) error {
	if strings.HasSuffix(line, "\r") {
		return lambent.Errorf(lambent.CodeStartFailed, "the first line of %q ends in CR LF, so the kernel looks for an interpreter whose name ends in CR", name).
			WithHint("save it with Unix line ends")
	}
	words := strings.Fields(line)
	if len(words) == 0 {
		return lambent.Errorf(lambent.CodeStartFailed, "the first line of %q names no interpreter", name).WithHint("such as #!/bin/sh")
	}
	missing := func(what string, err error) error {
		return lambent.Errorf(lambent.CodeStartFailed, "%q asks for %q to run it, which a sandbox does not have: %w", name, what, err).
			WithHint("install it on the node under /usr, or name another in the script's first line")
	}
	if local, inBundle := strings.CutPrefix(words[0], sandbox.CodeDir+"/"); inBundle {
		if _, err := c.root.Stat(local); err != nil {
			return missing(words[0], err)
		}
		return nil
	}
	if !path.IsAbs(words[0]) {
		return missing(words[0], errors.New("it is no absolute path"))
	}
	real, err := filepath.EvalSymlinks(words[0])
	if err == nil && !slices.ContainsFunc(visible, func(dir string) bool { return strings.HasPrefix(real, dir) }) {
		err = errors.New("it is " + real)
	}
	if err != nil {
		return missing(words[0], err)
	}
	if path.Base(words[0]) != "env" || len(words) < 2 || strings.HasPrefix(words[1], "-") || strings.ContainsAny(words[1], "=/") {
		return nil
	}
	for _, dir := range searchPath {
		if _, err = os.Stat(path.Join(dir, words[1])); err == nil {
			return nil
		}
	}
	return missing(words[1], err)
}
