// Command lambent-init is the launcher, PID 1 and supervisor of one sandbox. The host starts it in new
// namespaces with the descriptors and the Spec of package sandbox. It makes the sandbox, runs the function's
// program in it with no privilege, reaps what dies, and reports on the control socket. Without a sandbox, at
// the level sandbox.None, it is not PID 1 but adopts orphans like one.
//
// It outlives the host that started it, so that the next can take it over by connecting: meanwhile it holds what the
// function writes to and listens on. When none is connected for Spec.Orphan, it ends, and as it is PID 1, the kernel
// ends all that runs inside with it.
package main

import (
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"lambent/internal/sandbox"
)

func main() {
	if err := run(); err != nil {
		os.Stderr.WriteString("lambent-init: " + err.Error() + "\n")
		leave(1)
	}
}

func run() error {
	for fd := sandbox.FDListen; fd < sandbox.FDCount; fd++ {
		unix.CloseOnExec(fd)
	}
	spec, err := readSpec()
	if err != nil {
		return err
	}
	if err := ignoreSignals(); err != nil {
		return err
	}
	s := newSupervisor(os.NewFile(sandbox.FDExit, "exit"), spec)
	go s.serve(sandbox.FDControl)
	pid, at, err := launch(spec, s)
	if err != nil {
		return s.fail(err)
	}
	if !spec.Keep {
		unix.Close(sandbox.FDListen)
	}
	go serveDials(sandbox.FDDial)
	s.begun(pid, at)
	// Privileges are dropped behind the report: nothing of the function can reach us in between.
	if err := dropPrivileges(); err != nil {
		return err
	}
	s.reap(pid)
	return nil
}

func readSpec() (*sandbox.Spec, error) {
	f := os.NewFile(sandbox.FDSpec, "spec")
	defer f.Close()
	raw, err := readOnce(f)
	if err != nil {
		return nil, err
	}
	defer clear(raw) // it may hold secrets
	spec := new(sandbox.Spec)
	if err := json.Unmarshal(raw, spec); err != nil {
		return nil, err
	}
	if _, known := levels[spec.Level]; !known || len(spec.Argv) == 0 || len(spec.Filter) == 0 || spec.Level != sandbox.None && spec.ID <= 0 {
		return nil, errors.New("the spec lacks a level, a program, a user or a filter")
	}
	return spec, nil
}

// launch makes the sandbox and starts the program in it.
func launch(spec *sandbox.Spec, s *supervisor) (pid int, at int64, err error) {
	// Nobody but a tracer with CAP_SYS_PTRACE looks into us, whatever our user is.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return 0, 0, step("make lambent-init undumpable", err)
	}
	join, err := openAll(spec.Join) // before their paths go out of sight
	if err != nil {
		return 0, 0, err
	}
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // the new one will be read-only
	if err != nil {
		return 0, 0, step("open /proc", err)
	}
	defer unix.Close(proc)
	dir := spec.Code
	if spec.Level == sandbox.None {
		err = step("adopt orphans", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	} else {
		dir, err = inside(spec, s)
	}
	if err != nil {
		return 0, 0, err
	}
	if err := setLimits(); err != nil {
		return 0, 0, err
	}
	unix.Umask(0o022)
	if err := unix.Chdir(dir); err != nil {
		return 0, 0, step("enter "+dir, err)
	}
	return spawn(spec, join, proc)
}

// inside makes the root and the network, and tells where the program begins.
func inside(spec *sandbox.Spec, s *supervisor) (dir string, err error) {
	if err := buildRoot(spec); err != nil {
		return "", err
	}
	if err := loopbackUp(); err != nil {
		return "", step("bring up the loopback interface", err)
	}
	if len(spec.Listen) > 0 {
		sockets, err := listen(spec.Listen)
		if err != nil {
			return "", err
		}
		s.listening(sockets)
	}
	if spec.Work > 0 {
		return sandbox.WorkDir, nil
	}
	return sandbox.CodeDir, nil
}

func openAll(files []string) ([]int, error) {
	fds := make([]int, 0, len(files))
	for _, file := range files {
		fd, err := unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, step("open "+file, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// stepError is what went wrong in which step of making the sandbox.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }

func step(what string, err error) error {
	if err == nil {
		return nil
	}
	return &stepError{what, err}
}

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // cannot happen: the clock exists and the address is ours
	}
	return ts.Nano()
}
