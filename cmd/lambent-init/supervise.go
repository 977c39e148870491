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
	alone  *time.Timer // runs while no host is connected, or nothing but last words keeps us
	kept   []int       // what goes with Report.Kept

	mu      sync.Mutex        // guards what is below
	met     bool              // there has been a host
	hosts   map[*os.File]bool // the connected ones, and whether they answer for us
	reports []sandbox.Report  // so far
	sockets []int             // what goes with Report.Listening
	main    int               // pid of the program, 0 before it began
	over    bool              // the program has ended, and we keep its last words for the next host
}

func newSupervisor(exit *os.File, spec *sandbox.Spec) *supervisor {
	s := &supervisor{
		exit: exit, orphan: spec.Orphan, hosts: map[*os.File]bool{},
		alone: time.AfterFunc(spec.Orphan, func() { leave(0) }),
	}
	if spec.Keep {
		s.kept = []int{sandbox.FDListen, sandbox.FDStdout, sandbox.FDStderr}
	}
	return s
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
	s.hosts[host] = !s.met
	s.met = true
	if !s.over {
		s.alone.Stop()
	}
	for _, r := range s.reports {
		s.write(host, r)
	}
	s.mu.Unlock()

	for lines := bufio.NewScanner(host); lines.Scan(); {
		var order sandbox.Order
		if json.Unmarshal(lines.Bytes(), &order) != nil {
			continue
		}
		if order.Adopt {
			s.give(host)
		}
		if order.Leave {
			s.mu.Lock()
			s.hosts[host] = false
			s.mu.Unlock()
		}
		if order.Stop {
			s.stop(order)
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

// answered tells whether a host answers for us. One that has left may still be connected, for the requests that it serves.
func (s *supervisor) answered() bool {
	for _, answers := range s.hosts {
		if answers {
			return true
		}
	}
	return false
}

// give hands over what we keep. Nothing keeps us afterwards when the program has ended.
func (s *supervisor) give(host *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(host, sandbox.Report{Kept: true})
	if s.over {
		leave(0)
	}
	s.hosts[host] = true
}

// stop asks the program to end. Later, when the grace is over, our own end takes everything along.
func (s *supervisor) stop(order sandbox.Order) {
	s.report(sandbox.Report{Ordered: &order})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.main == 0 || s.over || order.Grace <= 0 {
		leave(0)
	}
	if err := unix.Kill(s.main, unix.SIGTERM); err == nil {
		time.AfterFunc(order.Grace, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if !s.over { // else the pid may be another's
				unix.Kill(s.main, unix.SIGKILL)
			}
		})
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
	var with []int
	switch {
	case r.Listening:
		with = s.sockets
	case r.Kept:
		with = s.kept
	default:
		to.Write(line)
		return
	}
	unix.Sendmsg(int(to.Fd()), line, unix.UnixRights(with...), nil, unix.MSG_NOSIGNAL)
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
// we end, the kernel kills what the program left behind and reaps it before anybody sees our end. But while no host
// answers for us, what the program wrote last is in our hands only.
func (s *supervisor) reap(main int) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD): // nothing is left, and we linger
			select {}
		case err != nil:
			return // cannot happen
		case pid == main && (status.Exited() || status.Signaled()):
			exit := sandbox.Exit{At: monotonic()}
			if status.Signaled() {
				exit.Signal = unix.SignalName(status.Signal())
			} else {
				exit.Code = status.ExitStatus()
			}
			s.last(sandbox.Report{Exit: &exit})
			if !s.linger() {
				leave(0)
			}
		}
	}
}

// linger tells whether we stay for the next host, and ends what the program left behind then. The first host has seen
// to the pipes before there was a program.
func (s *supervisor) linger() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = s.met && !s.answered() && len(s.kept) > 0
	if s.over {
		s.alone.Reset(s.orphan) // a host that has left may stay
		killRest()
	}
	return s.over
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

// killRest ends all that runs inside beside us.
func killRest() {
	if os.Getpid() != 1 {
		sandbox.KillBelow(os.Getpid())
		return
	}
	_ = unix.Kill(-1, unix.SIGKILL) // an error means that there is nothing
}

// leave ends us. When we are PID 1 the kernel takes all along that runs inside; else we do.
func leave(code int) {
	if os.Getpid() != 1 {
		sandbox.KillBelow(os.Getpid())
	}
	os.Exit(code)
}
