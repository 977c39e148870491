package process

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/internal/sandbox"
	"lambent/shim/python"
)

// program is what an instance runs.
type program struct {
	argv []string
	shim string // folder for sandbox.RuntimeDir, "" for none
}

func (e *Executor) programOf(spec executor.Spec) (program, error) {
	s := spec.Revision.Settings
	if s.Runtime == "go" {
		return program{argv: []string{sandbox.CodeDir + "/" + s.Handler}}, checkExecutable(spec.CodeDir, s.Handler)
	}
	interpreter, err := interpreterOf(s.Runtime)
	if err != nil {
		return program{}, err
	}
	dir, err := e.shims.get(s.Runtime, interpreter)
	if err != nil {
		return program{}, lambent.Errorf(lambent.CodeTierUnavailable, "runtime %s: %w", s.Runtime, err)
	}
	return program{argv: python.Command(interpreter), shim: dir}, nil
}

// checkExecutable finds out what the kernel's errno would not tell: which file is missing, and why.
func checkExecutable(codeDir, name string) error {
	root, err := os.OpenRoot(codeDir)
	if err != nil {
		return lambent.Errorf(lambent.CodeCodeUnavailable, "the code is not on this node: %w", err)
	}
	defer root.Close()
	info, err := root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return lambent.Errorf(lambent.CodeStartFailed, "the bundle has no file %q to execute", name).
			WithHint("build it for linux/%s with CGO_ENABLED=0 go build -o %s, or name another file as the handler", runtime.GOARCH, name)
	case err != nil:
		return lambent.Errorf(lambent.CodeStartFailed, "%q in the bundle cannot be executed: %w", name, err)
	case !info.Mode().IsRegular():
		return lambent.Errorf(lambent.CodeStartFailed, "%q in the bundle is no regular file", name)
	case info.Mode()&0o111 == 0:
		return lambent.Errorf(lambent.CodeStartFailed, "%q in the bundle is not executable", name).WithHint("chmod +x %s", name)
	}
	return nil
}

// interpreters are looked for where sandboxes have them: they see nothing but /usr.
const interpreters = "/usr/bin/"

func interpreterOf(name string) (string, error) {
	if rt, ok := lambent.RuntimeOf(name); !ok || rt.Server {
		return "", lambent.Errorf(lambent.CodeTierUnavailable, "the process tier has no runtime %s", name)
	}
	path := interpreters + name
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", lambent.Errorf(lambent.CodeTierUnavailable, "this node has no runtime %s: %s is not there", name, path).
			WithHint("install %s, or use one of the runtimes that lambent doctor lists", name)
	}
	return path, nil
}

// Runtimes implements executor.Executor.
func (e *Executor) Runtimes() []string {
	if e.away != nil {
		return nil
	}
	names := []string{"go"}
	paths, err := filepath.Glob(interpreters + "python3.*")
	if err != nil {
		panic(err) // the pattern is valid
	}
	slices.Sort(paths)
	for _, path := range paths {
		name := filepath.Base(path)
		if _, err := interpreterOf(name); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// Root implements executor.Executor. The identity is the host's system, whose /usr sandboxes see, and the
// interpreter's version: "debian-12.11/amd64/python3.11=3.11.2".
func (e *Executor) Root(name string) (string, error) {
	if e.away != nil {
		return "", e.away
	}
	root := system() + "/" + runtime.GOARCH
	if name == "go" {
		return root, nil
	}
	interpreter, err := interpreterOf(name)
	if err != nil {
		return "", err
	}
	version, err := e.shims.version(interpreter)
	if err != nil {
		return "", lambent.Errorf(lambent.CodeTierUnavailable, "runtime %s: %w", name, err)
	}
	return root + "/" + name + "=" + version, nil
}

// system names the host's distribution by os-release(5); Debian's point release stands in a file of its own.
var system = sync.OnceValue(func() string {
	fields := map[string]string{"ID": "linux"}
	if f, err := os.Open("/etc/os-release"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if key, value, ok := strings.Cut(lines.Text(), "="); ok {
				fields[key] = strings.Trim(value, `"'`)
			}
		}
	}
	version := fields["VERSION_ID"]
	if raw, err := os.ReadFile("/etc/debian_version"); err == nil && fields["ID"] == "debian" {
		version = strings.TrimSpace(string(raw))
	}
	if version == "" {
		return fields["ID"]
	}
	return fields["ID"] + "-" + version
})

// shims installs the interpreters' shims and asks for their versions, each once.
type shims struct {
	dir string

	mu        sync.Mutex // guards what is below; also held while an interpreter works, so that it works once
	installed map[string]bool
	versions  map[string]versionOf
}

// versionOf is a version and the file that it was asked of: an upgrade replaces the file.
type versionOf struct {
	file    os.FileInfo
	version string
}

func (s *shims) get(name, interpreter string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(s.dir, name)
	if s.installed[name] {
		return dir, nil
	}
	if err := python.Install(dir, interpreter); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return "", err
	}
	if s.installed == nil {
		s.installed = map[string]bool{}
	}
	s.installed[name] = true
	return dir, nil
}

func (s *shims) version(interpreter string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := os.Stat(interpreter)
	if err != nil {
		return "", err
	}
	if v, ok := s.versions[interpreter]; ok && os.SameFile(v.file, info) && v.file.ModTime().Equal(info.ModTime()) {
		return v.version, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, interpreter, "-ISc", "import sys; print('%d.%d.%d' % sys.version_info[:3])").Output()
	if err != nil {
		return "", err
	}
	if s.versions == nil {
		s.versions = map[string]versionOf{}
	}
	s.versions[interpreter] = versionOf{info, strings.TrimSpace(string(out))}
	return s.versions[interpreter].version, nil
}
