package process

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"lambent"
	"lambent/executor"
	"lambent/internal/sandbox"
	"lambent/shim/node"
	"lambent/shim/python"
)

// program is what an instance runs.
type program struct {
	argv     []string
	shim     string // folder for sandbox.RuntimeDir, "" for none
	port     uint16 // on which it may listen instead of on descriptor 3, 0 for none
	folders  []sandbox.Folder
	work     int64                    // room in sandbox.WorkDir
	output   func() (*os.File, error) // a job's, in place of a listening socket
	file     *os.File                 // a job's, what argv[0] stands for if it is set
	heapFull string                   // what it writes to stderr before it aborts because its own limit of memory is met, "" if it has none
}

func (e *Executor) programOf(spec executor.Spec) (program, error) {
	s := spec.Revision.Settings
	switch s.Runtime {
	case "go":
		return program{argv: []string{sandbox.CodeDir + "/" + s.Handler}}, checkExecutable(spec.CodeDir, s.Handler)
	case "http":
		argv, err := findCommand(spec.CodeDir, s.Command)
		return program{argv: argv, port: e.portOf(&s)}, err
	case "exec":
		return e.programOfExec(spec)
	}
	interpreter, _, err := e.shims.find(s.Runtime)
	if err != nil {
		return program{}, err
	}
	dir, err := e.shims.get(s.Runtime, interpreter)
	if err != nil {
		return program{}, lambent.Errorf(lambent.CodeTierUnavailable, "runtime %s: %w", s.Runtime, err)
	}
	if isNode(s.Runtime) {
		return program{argv: node.Command(interpreter, s.Memory), shim: dir, heapFull: heapFull(s.Runtime)}, nil
	}
	return program{argv: python.Command(interpreter), shim: dir}, nil
}

// portOf is the port on which a function may listen, 0 for none. Without a sandbox whoever listens there may be
// another function.
func (e *Executor) portOf(s *lambent.Settings) uint16 {
	if s.Runtime != "http" || e.level == lambent.IsolationNone {
		return 0
	}
	return s.Port()
}

// heapFull is what a runtime writes before it aborts because its own limit of memory is met, see program.
func heapFull(runtime string) string {
	if isNode(runtime) {
		return node.HeapFull
	}
	return ""
}

// programOfExec runs lambent-exec, which runs the command for each request.
func (e *Executor) programOfExec(spec executor.Spec) (program, error) {
	argv, err := findCommand(spec.CodeDir, spec.Revision.Settings.Command)
	if err != nil {
		return program{}, err
	}
	dir, err := e.shims.get("exec", "")
	if err != nil {
		return program{}, lambent.Errorf(lambent.CodeTierUnavailable, "runtime exec: %w", err)
	}
	return program{argv: append([]string{sandbox.RuntimeDir + "/" + execName}, argv...), shim: dir}, nil
}

func isNode(runtime string) bool { return strings.HasPrefix(runtime, "nodejs") }

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

// anyProgram are the runtimes that need no interpreter of ours to choose.
var anyProgram = []string{"go", "http", "exec"}

// Runtimes implements executor.Executor.
func (e *Executor) Runtimes() []string {
	if e.away != nil {
		return nil
	}
	return append(slices.Clone(anyProgram), e.shims.runtimes()...)
}

// Root implements executor.Executor. The identity is the host's system, whose /usr sandboxes see, and the
// interpreter's version: "debian-12.11/amd64/python3.11=3.11.2".
func (e *Executor) Root(name string) (string, error) {
	if e.away != nil {
		return "", e.away
	}
	root := system() + "/" + runtime.GOARCH
	if slices.Contains(anyProgram, name) {
		return root, nil
	}
	_, version, err := e.shims.find(name)
	if err != nil {
		return "", err
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
