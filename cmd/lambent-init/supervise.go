package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lambent/internal/sandbox"
)

// supervisor tells hosts what happens and does what they order.
type supervisor struct {
	exit   *os.File
	orphan time.Duration
	alone  *time.Timer // runs while no host is connected

	mu      sync.Mutex // guards what is below
	hosts   map[*os.File]bool
	reports []sandbox.Report // so far
	sockets []int            // what goes with Report.Listening
	main    int              // pid of the program, 0 before it began
}

func newSupervisor(exit *os.File, orphan time.Duration) *supervisor {
	return &supervisor{
		exit: exit, orphan: orphan, hosts: map[*os.File]bool{},
		alone: time.AfterFunc(orphan, func() { leave(0) }),
	}
}

// serve accepts hosts for ever.
func (s *supervisor) serve(listener int) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil:
			leave(1) // without hosts there is nobody to live for
		}
		go s.talk(os.NewFile(uintptr(fd), "host"))
	}
}

func (s *supervisor) talk(host *os.File) {
	s.mu.Lock()
	s.hosts[host] = true
	s.alone.Stop()
	for _, r := range s.reports {
		s.write(host, r)
	}
	s.mu.Unlock()

	for lines := bufio.NewScanner(host); lines.Scan(); {
		var order sandbox.Order
		if json.Unmarshal(lines.Bytes(), &order) == nil && order.Stop {
			s.stop(order.Grace)
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.hosts, host)
	if len(s.hosts) == 0 {
		s.alone.Reset(s.orphan)
	}
	host.Close()
}

// stop asks the program to end. Later, when the grace is over, our own end takes everything along.
func (s *supervisor) stop(grace time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.main == 0 || grace <= 0 {
		leave(0)
	}
	if err := unix.Kill(s.main, unix.SIGTERM); err == nil {
		time.AfterFunc(grace, func() { unix.Kill(s.main, unix.SIGKILL) })
	}
}

// report tells all hosts, and those that come later.
func (s *supervisor) report(r sandbox.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, r)
	for host := range s.hosts {
		s.write(host, r)
	}
}

// write leaves out a host that has gone: its talk notices.
func (s *supervisor) write(to *os.File, r sandbox.Report) {
	line, err := json.Marshal(r)
	if err != nil {
		panic(err) // plain data always marshals
	}
	line = append(line, '\n')
	if !r.Listening {
		to.Write(line)
		return
	}
	unix.Sendmsg(int(to.Fd()), line, unix.UnixRights(s.sockets...), nil, unix.MSG_NOSIGNAL)
}

func (s *supervisor) listening(sockets []int) {
	s.mu.Lock()
	s.sockets = sockets
	s.mu.Unlock()
	s.report(sandbox.Report{Listening: true})
}

func (s *supervisor) begun(pid int, at int64) {
	s.mu.Lock()
	s.main = pid
	s.mu.Unlock()
	s.report(sandbox.Report{Exec: &sandbox.Exec{PID: pid, At: at}})
}

// fail reports that the program could not begin.
func (s *supervisor) fail(err error) error {
	failure := sandbox.Failure{Step: "make the sandbox", Err: err.Error()}
	if e := (*stepError)(nil); errors.As(err, &e) {
		failure = sandbox.Failure{Step: e.step, Err: e.err.Error()}
	}
	return s.last(sandbox.Report{Error: &failure})
}

// last makes a report that outlives us: a host that was away finds it in the exit file.
func (s *supervisor) last(r sandbox.Report) error {
	s.write(s.exit, r)
	s.report(r)
	return nil
}

// reap waits for everything that dies here, until the program has. Then there is nothing left to do: when
// we end, the kernel kills what the program left behind and reaps it before anybody sees our end.
func (s *supervisor) reap(main int) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return // ECHILD: cannot happen while the program lives
		case pid == main && (status.Exited() || status.Signaled()):
			exit := sandbox.Exit{At: monotonic()}
			if status.Signaled() {
				exit.Signal = unix.SignalName(status.Signal())
			} else {
				exit.Code = status.ExitStatus()
			}
			s.last(sandbox.Report{Exit: &exit})
			leave(0)
		}
	}
}

// mortal are the signals by which a Go program ends.
var mortal = []unix.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV,
	unix.SIGSTKFLT, unix.SIGTERM, unix.SIGSYS,
}

// ignoreSignals keeps the function from ending us by a signal, which in a user namespace it may send. The kernel
// spares a PID 1 what it has no handler for, but Go's runtime has handlers, and package os/signal cannot ignore those of
// faults. The program gets the defaults, see run.
func ignoreSignals() error {
	action := [4]uint64{1} // a struct sigaction with SIG_IGN
	for _, sig := range mortal {
		_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
		if errno != 0 {
			return os.NewSyscallError("rt_sigaction", errno)
		}
	}
	return nil
}

// leave ends us. When we are PID 1 the kernel takes all along that runs inside; else we do.
func leave(code int) {
	if os.Getpid() != 1 {
		sandbox.KillBelow(os.Getpid())
	}
	os.Exit(code)
}
