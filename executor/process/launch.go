package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/executor"
	"lambent/executor/internal/guest"
	"lambent/internal/cgroup"
	"lambent/internal/egress"
	"lambent/internal/sandbox"
)

const (
	fileHTTP    = "http"    // the function's socket
	fileControl = "control" // lambent-init's socket
	fileExit    = "exit"    // lambent-init's last report
	fileDial    = "dial"    // lambent-init's socket for connections into the sandbox
	fileState   = "state"   // what another process must know to adopt it
	fileRoot    = "root."   // and the number of its user: where the root is mounted, seen inside only
)

// loadInit puts lambent-init into a sealed file in memory: it can be executed whatever is mounted noexec,
// and nobody can change it.
func loadInit(path string) (*os.File, error) {
	var raw []byte
	var err error
	if path != "" {
		raw, err = os.ReadFile(path)
	} else {
		raw, err = initProgram()
	}
	if err != nil {
		return nil, err
	}
	f, err := memoryFile("lambent-init", raw, unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func memoryFile(name string, content []byte, flags int) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|flags)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(content); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// launch starts a lambent-init. Nothing is left of it on error.
func (e *Executor) launch(ctx context.Context, spec executor.Spec, p program) (*instance, error) {
	if !e.claim(spec.ID) {
		return nil, sandboxFailed(fmt.Errorf("there is an instance %q already", spec.ID))
	}
	in := &instance{
		id: spec.ID, exec: e, revision: spec.Revision,
		log:   newLogger(spec),
		begun: make(chan sandbox.Report, 1), done: make(chan struct{}), gone: make(chan struct{}),
	}
	in.log.fatal = p.heapFull
	if err := in.makeGate(p); err != nil {
		e.forget(in.id, nil)
		return nil, err
	}
	if err := in.launch(ctx, spec, p); err != nil {
		in.release()
		e.forget(in.id, nil)
		return nil, sandboxFailed(err)
	}
	in.connectGuest(spec, p.port)
	in.watch()
	if !e.add(in) {
		in.Stop(0)
		return nil, lambent.Errorf(lambent.CodeShuttingDown, "this node is stopping")
	}
	return in, nil
}

// makeGate makes the way out, if there is one.
func (in *instance) makeGate(p program) (err error) {
	r := in.revision
	if len(r.Settings.Egress) > 0 && in.exec.level != lambent.IsolationNone {
		in.gate, err = in.exec.egress.NewGate(r.Namespace, r.Settings.Egress, p.port, in.log.platform)
	}
	return err
}

// connectGuest makes the client of the function, which may listen on port if that is not 0.
func (in *instance) connectGuest(spec executor.Spec, port uint16) {
	e := in.exec
	o := guest.Options{
		Revision: spec.Revision, Instance: spec.ID,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return in.backlog.dial(ctx, e.path(spec.ID, fileHTTP))
		},
		Begin: in.log.begin, End: in.log.end, Died: in.died, Dying: in.dying, Redact: in.log.hide.String,
	}
	if port != 0 {
		o.DialPort = func(ctx context.Context, wait bool) (net.Conn, error) { return in.dialPort(ctx, port, wait) }
	}
	in.guest = guest.New(o)
}

func sandboxFailed(err error) error {
	return lambent.Errorf(lambent.CodeSandboxFailed, "the sandbox could not be made: %w", err).
		WithHint("lambent doctor tells what this node lacks")
}

// launch fills in what release undoes.
func (in *instance) launch(ctx context.Context, spec executor.Spec, p program) (err error) {
	e, s := in.exec, spec.Revision.Settings
	if in.user, err = e.users.take(); err != nil {
		return err
	}
	if err := os.Mkdir(e.path(in.id, ""), 0o700); err != nil {
		return err
	}
	root := fileRoot + strconv.Itoa(in.user)
	if err := os.Mkdir(e.path(in.id, root), 0o700); err != nil {
		return err
	}
	limits := limitsOf(&s)
	if in.group, err = e.limit(in.id, limits); err != nil {
		return err
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", e.dir.Fd()))
	if err != nil {
		return err
	}
	code, err := filepath.Abs(spec.CodeDir)
	if err != nil {
		return err
	}
	if e.level == lambent.IsolationNone {
		p.argv = outside(p.argv, code, p.shim)
	}
	secrets := secretsOf(spec)
	if e.level == lambent.IsolationNone && len(secrets.Files) > 0 {
		return fmt.Errorf("there is no place for secrets as files, give them as environment variables: %w", e.bare)
	}
	raw, err := json.Marshal(in.withEgress(sandbox.Spec{
		Level: e.level, Pids: s.Pids,
		Root: filepath.Join(path, instancesDir, in.id, root), Code: code, Runtime: p.shim, Folders: p.folders, Work: p.work,
		Hostname: spec.Revision.Function, ID: in.user, TmpBytes: limits.Memory,
		Argv: p.argv, Exec: p.file != nil, Env: environment(spec, p, in.gate), Filter: e.filter, Join: in.group.JoinFiles(), Orphan: e.orphan,
		Keep: p.output == nil, Secrets: secrets,
	}))
	if err != nil {
		return err
	}
	defer clear(raw)
	return in.spawn(ctx, raw, p)
}

func limitsOf(s *lambent.Settings) cgroup.Limits {
	return cgroup.Limits{Memory: int64(s.Memory) << 20, CPU: s.CPU, Pids: s.Pids}
}

// spawn starts lambent-init with the descriptors that sandbox names.
func (in *instance) spawn(ctx context.Context, spec []byte, p program) (err error) {
	var files []*os.File // the child's, in their order
	defer func() {
		for _, f := range files {
			f.Close() // the child has its own
		}
	}()
	add := func(f *os.File, e error) {
		if e == nil {
			files = append(files, f)
		}
		err = errors.Join(err, e)
	}
	add(os.Open(os.DevNull))
	add(in.log.pipe("stdout"))
	add(in.log.pipe("stderr"))
	if p.output != nil {
		add(p.output())
	} else {
		socket, e := listen(in.exec.path(in.id, fileHTTP), unix.SOCK_STREAM, unix.SOMAXCONN)
		add(socket, e)
		if e == nil {
			in.backlog, e = newBacklog(socket)
			err = errors.Join(err, e)
		}
	}
	add(listen(in.exec.path(in.id, fileControl), unix.SOCK_STREAM, 16))
	add(memoryFile("spec", spec, 0))
	add(os.OpenFile(in.exec.path(in.id, fileExit), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600))
	add(listen(in.exec.path(in.id, fileDial), unix.SOCK_SEQPACKET, unix.SOMAXCONN))
	add(duplicate(in.exec.init))
	if p.output == nil {
		for _, pipe := range in.log.pipes {
			add(duplicateFD(pipe.fd, pipe.stream))
		}
	}
	if p.file != nil {
		files = append(files, make([]*os.File, sandbox.FDExec-len(files))...)
		add(duplicate(p.file))
	}
	if err != nil {
		return err
	}
	// The connection waits in the socket's queue for lambent-init. Made later, it might come too late for one
	// that has failed.
	control, err := new(net.Dialer).DialContext(ctx, "unix", in.exec.path(in.id, fileControl))
	if err != nil {
		return err
	}
	in.control = control.(*net.UnixConn)
	// The child resolves the path after its descriptors have been arranged. In a user namespace it may not look at
	// ours.
	program := fmt.Sprintf("/proc/self/fd/%d", sandbox.FDProgram)
	process, err := in.group.Start(program, []string{initName, in.exec.name, in.id}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: files, Sys: in.exec.namespaces(),
	})
	if err != nil {
		return err
	}
	in.process, in.pid = process, process.Pid
	return nil
}

// duplicate gives another descriptor of the same file.
func duplicate(f *os.File) (*os.File, error) { return duplicateFD(int(f.Fd()), f.Name()) }

func duplicateFD(fd int, name string) (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func listen(path string, kind, backlog int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), f.Close())
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, errors.Join(os.NewSyscallError("listen", err), f.Close())
	}
	return f, nil
}

// environment is what the function's program gets: what the user says wins over our defaults, and what the
// platform says of the function over both.
func environment(spec executor.Spec, p program, gate *egress.Gate) []string {
	r, s := spec.Revision, spec.Revision.Settings
	env := map[string]string{
		"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "TZ": "UTC",
	}
	if gate != nil {
		maps.Copy(env, gate.Env())
	}
	maps.Copy(env, s.Env)
	if p.port != 0 {
		env["PORT"] = strconv.Itoa(int(p.port))
	}
	maps.Copy(env, map[string]string{
		"LAMBENT_NAMESPACE": r.Namespace, "LAMBENT_FUNCTION": r.Function, "LAMBENT_REVISION": r.ID,
		"LAMBENT_INSTANCE": spec.ID, "LAMBENT_MEMORY": strconv.Itoa(s.Memory), "LAMBENT_CONCURRENCY": strconv.Itoa(s.Concurrency),
		"LAMBENT_HANDLER": s.Handler, "LAMBENT_RUNTIME": s.Runtime,
	})
	if r.Settings.Runtime != "" { // otherwise it is a job, which has no socket
		maps.Copy(env, map[string]string{"LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"})
	}
	delete(env, "LISTEN_PID") // lambent-init knows it
	for target := range spec.Secrets {
		delete(env, target) // it takes the place of a default
	}
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// lastReport is what lambent-init left in the exit file.
func (in *instance) lastReport() (last sandbox.Report, ok bool) {
	raw, err := os.ReadFile(in.exec.path(in.id, fileExit))
	if err != nil {
		return last, false
	}
	readReports(bytes.NewReader(raw), func(r sandbox.Report) { last, ok = r, true })
	return last, ok
}
