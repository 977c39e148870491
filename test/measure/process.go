package measure

import (
	"errors"
	"fmt"
	"os/exec"

	"golang.org/x/sys/unix"
)

// process is one whose end is waited for.
type process struct {
	pid  int
	done chan struct{}
	err  error // of a child; read it after done
}

// ofCommand is the process of a command that has been started.
func ofCommand(cmd *exec.Cmd) *process {
	p := &process{pid: cmd.Process.Pid, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p
}

// ofPID is a process that need not be a child of ours; how it ends is not known.
func ofPID(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	p := &process{pid: pid, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer unix.Close(fd)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				p.err = err
				return
			}
		}
	}()
	return p, nil
}

func (p *process) wait() error {
	<-p.done
	return p.err
}
