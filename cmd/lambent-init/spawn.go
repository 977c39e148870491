package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"lambent/internal/sandbox"
)

// setLimits sets what the program inherits. The limits that matter are its cgroups'. A core limit of 0 would
// not keep a crash from the host's core handler if that is a program, see core(5); 1 does, and suppresses
// core files too.
func setLimits() error {
	for resource, want := range map[int]uint64{
		unix.RLIMIT_NOFILE: 65536, unix.RLIMIT_CORE: 1, unix.RLIMIT_NICE: 0, unix.RLIMIT_RTPRIO: 0,
		unix.RLIMIT_MEMLOCK: 8 << 20, unix.RLIMIT_MSGQUEUE: 64 << 10,
	} {
		var limit unix.Rlimit
		if err := unix.Getrlimit(resource, &limit); err != nil {
			return step("read a resource limit", err)
		}
		limit.Max = min(limit.Max, want)
		limit.Cur = limit.Max
		if err := unix.Setrlimit(resource, &limit); err != nil {
			return step("set a resource limit", err)
		}
	}
	return nil
}

// The steps of the child between fork and exec, as it reports them.
const (
	childExec = iota // the zero step: the program is about to begin, or was refused
	childJoin
	childSession
	childNamespace
	childUserns
	childProcesses
	childBounding
	childUser
	childCapabilities
	childNoNewPrivs
	childClose
	childSignals
	childFilter
	childBegun
)

var childSteps = [...]string{
	childExec: sandbox.StepExec, childJoin: "join the cgroups", childSession: "make a session",
	childNamespace: "make a cgroup namespace", childUserns: "make a user namespace for the program",
	childProcesses: "limit processes", childBounding: "empty the capability bounding set",
	childUser: "change the user", childCapabilities: "drop the capabilities",
	childNoNewPrivs: "set no_new_privs", childClose: "close descriptors", childSignals: "reset signals",
	childFilter: "load the seccomp filter",
}

// plan is all that the child needs, made ready before the fork because it cannot allocate.
type plan struct {
	level   level
	join    []int
	id      uintptr
	proc    uintptr  // the host's /proc, with userns
	maps    [2]*byte // names of the files below proc that map users and groups
	mapping []byte   // what they shall hold
	pids    unix.Rlimit
	program unix.SockFprog
	path    *byte
	argv    []*byte
	env     []*byte
	secrets [][]byte // of env
	pidText []byte   // where the child writes its pid, behind "LISTEN_PID=" in env
	pipe    uintptr
	capHead unix.CapUserHeader
	capData [2]unix.CapUserData
	action  [32]byte // a struct sigaction of zeros: the default action
	mask    uint64
	time    unix.Timespec
	report  [16]byte // step, and an errno or for childBegun the time
	zero    [1]byte
}

// spawn forks and, in the child, moves into the cgroups, gives all privilege up and executes the program.
//
// It is a plain fork and not syscall.ForkExec, for two reasons. LISTEN_PID must hold the child's own pid.
// And credentials belong to threads: the child has one only, whereas here they would have to be given up
// for a thread of a process that keeps its own.
//
// In a user namespace of our own it makes one more for the program, for three reasons. Ours stays out of the
// program's reach, whatever it might do to get its capabilities back. The kernel lets nobody trace out of his
// namespace into one above. And it counts processes by user namespace, so that a limit is the program's alone.
func spawn(spec *sandbox.Spec, join []int, proc int) (pid int, at int64, err error) {
	p, r, err := newPlan(spec, join, proc)
	if err != nil {
		return 0, 0, err
	}
	defer r.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	all := ^uint64(0)
	var old uint64
	// A signal in the child would run the handlers of a Go runtime that is not there.
	if err := sigprocmask(&all, &old); err != nil {
		return 0, 0, step("block signals", err)
	}
	id, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if id == 0 && errno == 0 {
		p.run() // does not return
	}
	for _, secret := range p.secrets { // the child has its own
		clear(secret)
	}
	runtime.KeepAlive(p)
	unix.Close(int(p.pipe))
	if err := sigprocmask(&old, nil); err != nil {
		return 0, 0, step("unblock signals", err)
	}
	if errno != 0 {
		return 0, 0, step("fork", errno)
	}
	at, err = readReports(r)
	return int(id), at, err
}

// level is a Spec.Level as a child can compare it.
type level int

const (
	full level = iota
	userns
	none
)

var levels = map[string]level{sandbox.Full: full, sandbox.Userns: userns, sandbox.None: none}

func newPlan(spec *sandbox.Spec, join []int, proc int) (*plan, *os.File, error) {
	if len(spec.Filter)%8 != 0 {
		return nil, nil, step("read the seccomp filter", errors.New("it is no whole number of instructions"))
	}
	argv, err := syscall.SlicePtrFromStrings(spec.Argv)
	if err != nil {
		return nil, nil, step("read the arguments", err)
	}
	env, err := syscall.SlicePtrFromStrings(spec.Env)
	if err != nil {
		return nil, nil, step("read the environment", err)
	}
	path := argv[0]
	if spec.Exec {
		if path, err = syscall.BytePtrFromString(fmt.Sprintf("/proc/self/fd/%d", sandbox.FDExec)); err != nil {
			return nil, nil, step("name the program", err)
		}
	}
	const name = "LISTEN_PID="
	listen := append([]byte(name), make([]byte, 12)...)
	env = append([]*byte{&listen[0]}, env...)
	secrets := secretEnv(spec)
	for _, secret := range secrets {
		env = slices.Insert(env, 0, &secret[0])
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, step("make a pipe", err)
	}
	defer w.Close()
	fd, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 0) // a number that no finalizer closes
	if err != nil {
		return nil, nil, errors.Join(step("make a pipe", err), r.Close())
	}
	uidMap, gidMap := []byte("self/uid_map\x00"), []byte("self/gid_map\x00")
	return &plan{
		level: levels[spec.Level], proc: uintptr(proc), maps: [2]*byte{&uidMap[0], &gidMap[0]},
		mapping: fmt.Appendf(nil, "%d 0 1", spec.ID), pids: unix.Rlimit{Cur: uint64(spec.Pids), Max: uint64(spec.Pids)},
		join: join, id: uintptr(spec.ID), path: path, argv: argv, env: env, secrets: secrets, pidText: listen[len(name):], pipe: uintptr(fd),
		program: unix.SockFprog{Len: uint16(len(spec.Filter) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&spec.Filter[0]))},
		capHead: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3},
		zero:    [1]byte{'0'},
	}, r, nil
}

// readReports reads what the child says until its exec closes the pipe.
func readReports(r io.Reader) (at int64, err error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return 0, step("wait for the program", err)
	}
	for ; len(raw) >= 16; raw = raw[16:] {
		what, value := binary.NativeEndian.Uint64(raw), binary.NativeEndian.Uint64(raw[8:])
		if what != childBegun {
			return 0, step(childSteps[what], unix.Errno(value))
		}
		at = int64(value)
	}
	if at == 0 {
		return 0, step("start the program", errors.New("it ended before it began"))
	}
	return at, nil
}

// run is the child. It may not allocate, grow its stack, take a lock or call anything that does: the
// other threads of the runtime do not exist here. The linker checks the stack of nosplit functions.
//
//go:nosplit
//go:norace
func (p *plan) run() {
	for _, fd := range p.join {
		p.must(childJoin, unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&p.zero[0])), 1)
	}
	p.must(childSession, unix.SYS_SETSID, 0, 0, 0)
	if p.level != none {
		p.confine()
	}
	p.must(childCapabilities, unix.SYS_CAPSET, uintptr(unsafe.Pointer(&p.capHead)), uintptr(unsafe.Pointer(&p.capData[0])), 0)
	p.must(childNoNewPrivs, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0)
	p.must(childClose, unix.SYS_CLOSE_RANGE, sandbox.FDListen+1, ^uintptr(0)>>32, unix.CLOSE_RANGE_CLOEXEC)
	p.must(childClose, unix.SYS_FCNTL, sandbox.FDListen, unix.F_SETFD, 0)
	// What the host's parent ignored must not be ignored for ever, nor may a handler of ours run.
	for sig := uintptr(1); sig <= 64; sig++ {
		if sig != uintptr(unix.SIGKILL) && sig != uintptr(unix.SIGSTOP) {
			p.must4(childSignals, unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&p.action[0])), 0, 8)
		}
	}
	p.must4(childSignals, unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&p.mask)), 0, 8)
	p.writePID()
	p.must(childFilter, unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&p.program)))
	p.must(childFilter, unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&p.time)), 0)
	p.tell(childBegun, uint64(p.time.Sec)*1e9+uint64(p.time.Nsec))
	p.must(childExec, unix.SYS_EXECVE, uintptr(unsafe.Pointer(p.path)), uintptr(unsafe.Pointer(&p.argv[0])), uintptr(unsafe.Pointer(&p.env[0])))
}

// confine makes the child's last namespaces, and gives up its user and what it could become.
//
//go:nosplit
//go:norace
func (p *plan) confine() {
	p.must(childNamespace, unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP, 0, 0)
	if p.level == userns {
		p.must(childUserns, unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0)
		for _, file := range p.maps {
			fd, _, errno := syscall.RawSyscall6(unix.SYS_OPENAT, p.proc, uintptr(unsafe.Pointer(file)), unix.O_WRONLY|unix.O_CLOEXEC, 0, 0, 0)
			if errno != 0 {
				p.die(childUserns, errno)
			}
			p.must(childUserns, unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&p.mapping[0])), uintptr(len(p.mapping)))
		}
		if p.pids.Max > 0 {
			p.must4(childProcesses, unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NPROC, uintptr(unsafe.Pointer(&p.pids)), 0)
		}
	} else {
		p.must(childUser, unix.SYS_SETGROUPS, 0, 0, 0)
	}
	for c := uintptr(0); c < 64; c++ {
		_, _, errno := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0, 0)
		if errno == unix.EINVAL {
			break // past the kernel's last capability
		}
		if errno != 0 {
			p.die(childBounding, errno)
		}
	}
	p.must(childUser, unix.SYS_SETRESGID, p.id, p.id, p.id)
	p.must(childUser, unix.SYS_SETRESUID, p.id, p.id, p.id)
}

// writePID writes our pid in decimal behind "LISTEN_PID=".
//
//go:nosplit
//go:norace
func (p *plan) writePID() {
	pid, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
	digits := 1
	for n := pid; n >= 10; n /= 10 {
		digits++
	}
	for i := digits - 1; i >= 0; i-- {
		p.pidText[i] = byte('0' + pid%10)
		pid /= 10
	}
}

//go:nosplit
//go:norace
func (p *plan) must(step int, call, a, b, c uintptr) { p.must4(step, call, a, b, c, 0) }

//go:nosplit
//go:norace
func (p *plan) must4(step int, call, a, b, c, d uintptr) {
	if _, _, errno := syscall.RawSyscall6(call, a, b, c, d, 0, 0); errno != 0 {
		p.die(step, errno)
	}
}

//go:nosplit
//go:norace
func (p *plan) die(step int, errno syscall.Errno) {
	p.tell(step, uint64(errno))
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
}

//go:nosplit
//go:norace
func (p *plan) tell(step int, value uint64) {
	*(*uint64)(unsafe.Pointer(&p.report[0])) = uint64(step)
	*(*uint64)(unsafe.Pointer(&p.report[8])) = value
	syscall.RawSyscall(unix.SYS_WRITE, p.pipe, uintptr(unsafe.Pointer(&p.report[0])), uintptr(len(p.report)))
}

func sigprocmask(set, old *uint64) error {
	_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// dropPrivileges leaves us the one capability that a supervisor needs: to signal the function's user.
func dropPrivileges() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if os.Getpid() == 1 {
		data[0] = unix.CapUserData{Effective: 1 << unix.CAP_KILL, Permitted: 1 << unix.CAP_KILL}
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return step(childSteps[childCapabilities], errno)
	}
	// With no_new_privs the bounding set does not matter: no exec of ours could gain anything.
	_, _, errno = syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno != 0 {
		return step(childSteps[childNoNewPrivs], errno)
	}
	return nil
}
