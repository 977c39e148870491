package process

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// supervisor is the process of a lambent-init: an [os.Process] if this process has started it, else a stranger.
type supervisor interface {
	Signal(os.Signal) error
	Kill() error
	Wait() (*os.ProcessState, error) // no state of a stranger
}

// stranger is a process that is no child of ours. What is done to it is done to no other that gets its pid.
type stranger struct{ pidfd *os.File }

func openStranger(pid int) (*stranger, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK) // so that waiting takes no thread
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &stranger{os.NewFile(uintptr(fd), "pidfd")}, nil
}

func (s *stranger) close() { s.pidfd.Close() }

// Signal implements supervisor.
func (s *stranger) Signal(sig os.Signal) error {
	raw, err := s.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.PidfdSendSignal(int(fd), sig.(syscall.Signal), nil, 0) })
	return errors.Join(err, failed)
}

// Kill implements supervisor.
func (s *stranger) Kill() error { return s.Signal(unix.SIGKILL) }

// Wait implements supervisor.
func (s *stranger) Wait() (*os.ProcessState, error) {
	defer s.close()
	raw, err := s.pidfd.SyscallConn()
	if err != nil {
		return nil, err
	}
	return nil, raw.Read(func(fd uintptr) bool { // it is readable when the process has ended
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
}
