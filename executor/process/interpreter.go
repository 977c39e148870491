package process

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/shim/node"
	"lambent/shim/python"
)

// Interpreters are looked for where sandboxes have them: they see nothing but /usr. A Python's name tells its
// version, a Node.js must be asked for it.
var (
	pythonPaths = "/usr/bin/python3.*"
	nodePaths   = []string{"/usr/bin/node", "/usr/local/bin/node"}
)

// shims finds the interpreters, asks for their versions and installs their shims, each once.
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

// name is that of the folder of this process's shims. Each process has its own, because older sandboxes go on to see
// what they saw when they began.
func (s *shims) name() string { return filepath.Base(s.dir) }

// runtimes names those that have an interpreter here.
func (s *shims) runtimes() (names []string) {
	pythons, err := filepath.Glob(pythonPaths)
	if err != nil {
		panic(err) // the pattern is valid
	}
	for _, path := range pythons {
		if name := filepath.Base(path); s.has(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, path := range nodePaths {
		version, err := s.version(path)
		major, _, _ := strings.Cut(version, ".")
		if name := "nodejs" + major; err == nil && s.has(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (s *shims) has(runtime string) bool {
	_, _, err := s.find(runtime)
	return err == nil
}

// find gives the interpreter of a runtime, and its version.
func (s *shims) find(runtime string) (path, version string, err error) {
	if rt, ok := lambent.RuntimeOf(runtime); !ok || rt.Server || rt.Command {
		return "", "", lambent.Errorf(lambent.CodeTierUnavailable, "the process tier has no runtime %s", runtime)
	}
	paths := nodePaths
	if !isNode(runtime) {
		paths = []string{filepath.Join(filepath.Dir(pythonPaths), runtime)}
	}
	var found []string
	for _, path := range paths {
		version, err := s.version(path)
		switch {
		case err != nil:
			found = append(found, err.Error())
		case isNode(runtime) && !strings.HasPrefix(version, strings.TrimPrefix(runtime, "nodejs")+"."):
			found = append(found, path+" is version "+version)
		default:
			return path, version, nil
		}
	}
	return "", "", lambent.Errorf(lambent.CodeTierUnavailable, "this node has no runtime %s: %s", runtime, strings.Join(found, ", ")).
		WithHint("install it, or use one of the runtimes that lambent doctor lists")
}

// version asks an interpreter, which must be there for sandboxes too.
func (s *shims) version(path string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(real, "/usr/") {
		return "", fmt.Errorf("%s is a link to %s, which sandboxes do not see", path, real)
	}
	info, err := os.Stat(real)
	if err != nil {
		return "", err
	}
	if v, ok := s.versions[path]; ok && os.SameFile(v.file, info) && v.file.ModTime().Equal(info.ModTime()) {
		return v.version, nil
	}
	ask := []string{"-ISc", "import sys; print('%d.%d.%d' % sys.version_info[:3])"}
	if slices.Contains(nodePaths, path) {
		ask = []string{"-p", "process.versions.node"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, ask...)
	cmd.Env = []string{} // no NODE_OPTIONS of ours
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	if s.versions == nil {
		s.versions = map[string]versionOf{}
	}
	s.versions[path] = versionOf{info, strings.TrimSpace(string(out))}
	return s.versions[path].version, nil
}

const execName = "lambent-exec"

func installExec(dir string) error {
	raw, err := execProgram()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file := filepath.Join(dir, execName)
	if err := os.WriteFile(file, raw, 0o755); err != nil {
		return err
	}
	return os.Chmod(file, 0o755) // whatever the umask
}

// get gives the folder with the shim of a runtime.
func (s *shims) get(runtime, interpreter string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(s.dir, runtime)
	if s.installed[runtime] {
		return dir, nil
	}
	install := func() error { return python.Install(dir, interpreter) }
	switch {
	case isNode(runtime):
		install = func() error { return node.Install(dir) }
	case runtime == "exec":
		install = func() error { return installExec(dir) }
	}
	if err := install(); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return "", err
	}
	if s.installed == nil {
		s.installed = map[string]bool{}
	}
	s.installed[runtime] = true
	return dir, nil
}
