package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	// lastWords is how long what has left a program's process group may keep its output open.
	lastWords = time.Second
	maxLine   = 64 << 10 // longer lines of the log are split
	maxTail   = 8 << 10  // bytes of the log in an error's trace
	tailLines = 20
)

// child is one run of the program, in a process group of its own.
type child struct {
	pid            int
	stdin          *os.File // our end, as all three
	stdout, stderr stream

	mu     sync.Mutex // held while the group is killed, which must not be another's by then
	reaped bool       // guarded by mu

	exited chan struct{}
	state  *os.ProcessState // set before exited is closed
	said   chan struct{}    // closed when stderr is at its end
	tail   []byte           // of stderr; set before said is closed
}

func start(argv, env []string) (*child, error) {
	c := &child{exited: make(chan struct{}), said: make(chan struct{})}
	pidfd := -1
	var ours, its []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			f.Close()
		}
	}
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(append(ours, its...))
			return nil, err
		}
		if len(ours) == 0 { // stdin is read by the program, the others by us
			ours, its = append(ours, w), append(its, r)
		} else {
			ours, its = append(ours, r), append(its, w)
		}
	}
	c.stdin, c.stdout, c.stderr = ours[0], stream{File: ours[1]}, stream{File: ours[2]}
	process, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Env: env, Files: its, Sys: &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd},
	})
	closeAll(its)
	if err != nil {
		closeAll(ours)
		return nil, err
	}
	c.pid = process.Pid
	go c.wait(process, pidfd)
	go c.log()
	return c, nil
}

// wait reaps the program, after what it has left behind in its group is killed: until the program is reaped, no
// other group can have the number.
func (c *child) wait(process *os.Process, pidfd int) {
	defer close(c.exited)
	if err := untilExit(pidfd); err != nil {
		fmt.Fprintln(os.Stderr, "lambent-exec: waiting for the program:", err)
		os.Exit(1) // cannot happen: Linux can do this since 5.4
	}
	c.mu.Lock()
	_ = syscall.Kill(-c.pid, syscall.SIGKILL) // fails when nothing is left
	state, err := process.Wait()
	c.reaped = true
	c.mu.Unlock()
	if err == nil {
		c.state = state
	}
	for _, s := range []*stream{&c.stdout, &c.stderr} {
		_ = s.SetReadDeadline(time.Unix(1, 0)) // fails when it has been closed
	}
}

// stream is what the program writes. Its deadline passes when the program has ended: what it wrote is there
// then, and only what has left its process group can hold the stream open any longer.
type stream struct {
	*os.File
	ending bool      // the program has ended
	rest   io.Reader // what was there when the time for last words was over
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for s.rest == nil {
		n, err := s.File.Read(p)
		switch {
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return n, err
		case s.ending:
			s.rest = bytes.NewReader(s.held())
		default:
			s.ending = true
			if err := s.SetReadDeadline(time.Now().Add(lastWords)); err != nil {
				return 0, err
			}
		}
	}
	return s.rest.Read(p)
}

// held takes what the pipe holds, whatever the deadline is, and no more.
func (s *stream) held() []byte {
	var held []byte
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	_ = raw.Control(func(fd uintptr) { // fails when the stream has been closed
		const pending = 0x541b // FIONREAD
		var size int32
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, pending, uintptr(unsafe.Pointer(&size))); errno == 0 && size > 0 {
			held = make([]byte, size)
			n, _ := syscall.Read(int(fd), held) // never waits
			held = held[:max(n, 0)]
		}
	})
	return held
}

// untilExit returns when the process of pidfd has ended, and leaves it to be reaped. A thread that waits for
// each would count as a process of the sandbox, and Go ends a program that gets no thread.
func untilExit(pidfd int) error {
	if err := syscall.SetNonblock(pidfd, true); err != nil { // for the poller of Go's runtime to take it
		return os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(pidfd), "pidfd")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Read(func(fd uintptr) (done bool) {
		const byPidfd, exited, leave = 3, 4, 0x01000000 // P_PIDFD, WEXITED, WNOWAIT
		var info [128]byte                              // siginfo_t, which begins with the signal's number
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, byPidfd, fd, uintptr(unsafe.Pointer(&info)), exited|leave|syscall.WNOHANG, 0, 0)
		runtime.KeepAlive(&info)
		switch errno {
		case 0:
			return info[0] != 0
		case syscall.EAGAIN: // as a pidfd that does not block says it
			return false
		}
		failed = os.NewSyscallError("waitid", errno)
		return true
	})
	return cmp.Or(failed, err)
}

// kill ends the whole group.
func (c *child) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reaped {
		_ = syscall.Kill(-c.pid, syscall.SIGKILL) // fails when all have ended
	}
}

// feed gives the request's body to the program. One that breaks off must not pass for the whole.
func (c *child) feed(body io.Reader) {
	defer c.stdin.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			if _, err := c.stdin.Write(buffer[:n]); err != nil {
				return // it reads no more, which is its right
			}
		}
		if err != nil {
			if err != io.EOF {
				c.kill()
			}
			return
		}
	}
}

// log passes stderr on, in whole lines, because other programs write to the same log.
func (c *child) log() {
	defer close(c.said)
	var line []byte
	buffer := make([]byte, 8<<10)
	for {
		n, err := c.stderr.Read(buffer)
		c.tail = append(c.tail, buffer[:n]...)
		c.tail = c.tail[max(0, len(c.tail)-maxTail):]
		line = append(line, buffer[:n]...)
		end := bytes.LastIndexByte(line, '\n') + 1
		if err != nil || len(line) >= maxLine {
			end = len(line)
		}
		if end > 0 {
			whole := line[:end]
			if err != nil && whole[end-1] != '\n' {
				whole = append(whole, '\n')
			}
			_, _ = os.Stderr.Write(whole) // without a log there is nobody to tell
			line = line[:copy(line, line[end:])]
		}
		if err != nil {
			return
		}
	}
}

// lastLines is the end of what the program wrote to stderr.
func (c *child) lastLines() string {
	<-c.said
	lines := strings.Split(strings.TrimRight(string(c.tail), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// failure says how the program ended; "" if it ended well.
func (c *child) failure() string {
	<-c.exited
	switch {
	case c.state == nil:
		return "ended in an unknown way"
	case c.state.Success():
		return ""
	case c.state.Exited():
		return "ended with " + strings.Replace(c.state.String(), "exit status", "exit code", 1)
	}
	return "was ended by " + c.state.String() // "signal: killed"
}
