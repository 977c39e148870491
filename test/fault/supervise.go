package fault

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// question is struct seccomp_notif, answer struct seccomp_notif_resp.
type question struct {
	id     uint64
	thread uint32
	_      uint32
	number int32
	_      uint32
	_      uint64
	args   [6]uint64
}

type answer struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

func (p *Process) ioctl(request uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, p.notify.Fd(), request, uintptr(arg))
	return errno
}

// supervise answers until ended is at its end, or nobody is left who could ask.
func (p *Process) supervise(ended *os.File) {
	var asked, done unix.PollFd
	asked.Fd, asked.Events = int32(p.notify.Fd()), unix.POLLIN
	done.Fd, done.Events = int32(ended.Fd()), unix.POLLIN
	var answers sync.WaitGroup
	defer func() {
		answers.Wait()
		p.notify.Close()
		ended.Close()
		p.stop.Close()
	}()
	for {
		fds := []unix.PollFd{asked, done}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			panic(err) // the descriptors are ours
		}
		if fds[1].Revents != 0 || fds[0].Revents&(unix.POLLIN|unix.POLLHUP) == unix.POLLHUP {
			return
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			continue
		}
		var q question
		if p.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&q)) != 0 {
			continue // who asked has ended
		}
		call := p.callOf(&q)
		if call == nil {
			p.answer(q.id, 0)
			continue
		}
		p.mu.Lock()
		rule := p.rule
		p.mu.Unlock()
		answers.Go(func() { p.carryOut(&q, call, rule(call)) })
	}
}

func (p *Process) carryOut(q *question, call *Call, v Verdict) {
	time.Sleep(v.Delay)
	switch {
	case v.Kill, v.Tear:
		if v.Tear {
			p.tear(q)
		}
		p.mu.Lock()
		p.killed = true
		p.mu.Unlock()
		_ = unix.Kill(p.pid, unix.SIGKILL) // an error means that another verdict was faster
		return                             // nobody waits for an answer
	case v.Errno != 0:
		if v.Lose {
			p.lose(call.Path)
		}
		p.answer(q.id, v.Errno)
		return
	}
	p.mu.Lock()
	p.trace = append(p.trace, call)
	switch call.Name {
	case "pwrite64":
		p.dirty[call.Path] = append(p.dirty[call.Path], span{int64(q.args[3]), int64(q.args[2])})
	case "fsync", "fdatasync":
		delete(p.dirty, call.Path)
	}
	p.mu.Unlock()
	p.answer(q.id, 0)
}

// answer lets a call go on, or fails it.
func (p *Process) answer(id uint64, errno unix.Errno) {
	a := answer{id: id, errno: -int32(errno)}
	if errno == 0 {
		a.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	}
	p.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a)) // fails when who asked has ended
}

// callOf tells what q asks about; nil when that is none of the process's, or not below the folder.
func (p *Process) callOf(q *question) *Call {
	if !p.asks(q.thread) {
		return nil
	}
	c := &Call{Name: calls[uint32(q.number)].name}
	switch c.Name {
	case "openat", "mkdirat", "unlinkat":
		c.Path = p.path(q, 0, 1)
	case "renameat", "renameat2", "linkat":
		c.Path, c.To = p.path(q, 0, 1), p.path(q, 2, 3)
	default:
		c.Path = p.file(q.args[0])
	}
	if !c.Below(p.dir) {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	c.Nth = p.asked
	return c
}

// asks tells whether a thread is one of the process.
func (p *Process) asks(thread uint32) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", p.pid, thread))
	return err == nil
}

// file gives the path that a descriptor of the process is open on.
func (p *Process) file(fd uint64) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", p.pid, int32(fd)))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(path, " (deleted)")
}

// path gives the path that two arguments name, a folder's descriptor and the address of a string.
func (p *Process) path(q *question, dirArg, nameArg int) string {
	name := p.text(q.args[nameArg])
	switch {
	case strings.HasPrefix(name, "/proc/self/"):
		name = fmt.Sprintf("/proc/%d/%s", p.pid, strings.TrimPrefix(name, "/proc/self/"))
	case filepath.IsAbs(name):
	case int32(q.args[dirArg]) == unix.AT_FDCWD:
		name = fmt.Sprintf("/proc/%d/cwd/%s", p.pid, name)
	default:
		name = filepath.Join(p.file(q.args[dirArg]), name)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(name))
	if err != nil {
		return name // the call will fail as well
	}
	return filepath.Join(dir, filepath.Base(name))
}

func (p *Process) memory() (*os.File, error) {
	return os.Open("/proc/" + strconv.Itoa(p.pid) + "/mem")
}

// text reads a string from the process's memory.
func (p *Process) text(address uint64) string {
	memory, err := p.memory()
	if err != nil {
		return ""
	}
	defer memory.Close()
	raw := make([]byte, unix.PathMax)
	n, _ := memory.ReadAt(raw, int64(address)) // less than all, where what is mapped ends
	text, _, _ := bytes.Cut(raw[:n], []byte{0})
	return string(text)
}

// span is a part of a file, in bytes.
type span struct{ from, size int64 }

// lose does what a disk does that fails a sync: what it should have written is not there when it is read again.
func (p *Process) lose(path string) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return // it has been removed
	}
	defer f.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.dirty[path] {
		_, _ = f.WriteAt(make([]byte, s.size), s.from)
	}
	delete(p.dirty, path)
}

// tear writes the first half of what a pwrite64 wants to.
func (p *Process) tear(q *question) {
	memory, err := p.memory()
	if err != nil {
		return // it has ended
	}
	defer memory.Close()
	half := make([]byte, q.args[2]/2)
	if _, err := memory.ReadAt(half, int64(q.args[1])); err != nil {
		return
	}
	f, err := os.OpenFile(p.file(q.args[0]), os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteAt(half, int64(q.args[3]))
}
