package fault

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// launchEnv tells a test program that it is the launcher of another program, and names the descriptor of its socket.
const launchEnv = "LAMBENT_FAULT_SOCKET"

// calls are what the filter stops. Where flags are given, only calls with one of them in the argument flagArg.
var calls = map[uint32]struct {
	name           string
	flagArg, flags uint32
}{
	unix.SYS_OPENAT:          {"openat", 2, unix.O_CREAT | unix.O_TRUNC},
	unix.SYS_PWRITE64:        {name: "pwrite64"},
	unix.SYS_FTRUNCATE:       {name: "ftruncate"},
	unix.SYS_FSYNC:           {name: "fsync"},
	unix.SYS_FDATASYNC:       {name: "fdatasync"},
	unix.SYS_SYNC_FILE_RANGE: {name: "sync_file_range"},
	unix.SYS_SYNCFS:          {name: "syncfs"},
	unix.SYS_RENAMEAT:        {name: "renameat"},
	unix.SYS_RENAMEAT2:       {name: "renameat2"},
	unix.SYS_LINKAT:          {name: "linkat"},
	unix.SYS_UNLINKAT:        {name: "unlinkat"},
	unix.SYS_MKDIRAT:         {name: "mkdirat"},
	// Not write: too much else uses it. What is written by it becomes a file by a call that is stopped.
}

// Launch is the launcher, where this process is one: then it does not return. TestMain calls it first.
func Launch() {
	text, ok := os.LookupEnv(launchEnv)
	if !ok {
		return
	}
	err := become(text, os.Args)
	fmt.Fprintln(os.Stderr, "fault:", err)
	os.Exit(1)
}

// become installs the filter, gives its descriptor to the test and becomes the program that args names.
func become(socket string, args []string) error {
	fd, err := strconv.Atoi(socket)
	if err != nil {
		return err
	}
	unix.CloseOnExec(fd)
	runtime.LockOSThread() // a filter is of the thread, and this one becomes the program
	notify, err := install()
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(fd, []byte{0}, unix.UnixRights(notify), nil, 0); err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return len(s) > len(launchEnv) && s[:len(launchEnv)+1] == launchEnv+"=" })
	return &os.PathError{Op: "exec", Path: args[0], Err: syscall.Exec(args[0], args, env)}
}

// install gives the descriptor that asks about calls.
func install() (int, error) {
	code, err := filter()
	if err != nil {
		return 0, err
	}
	if os.Getuid() != 0 {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return 0, os.NewSyscallError("prctl", err)
		}
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	// Go interrupts its threads by signals; without the flag a call would be asked about anew after each.
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, os.NewSyscallError("seccomp", errno)
	}
	return int(fd), nil
}

// filter is a program for struct seccomp_data: the number at 0, the architecture at 4, the arguments from 16 on.
func filter() ([]unix.SockFilter, error) {
	arch, ok := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("no filter for %s", runtime.GOARCH)
	}
	const ask, allow = unix.SECCOMP_RET_USER_NOTIF, unix.SECCOMP_RET_ALLOW
	code := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arch, SkipTrue: 1},
		bpf.RetConstant{Val: allow},
	}
	for number, c := range calls {
		code = append(code, bpf.LoadAbsolute{Off: 0, Size: 4})
		if c.flags == 0 {
			code = append(code, bpf.JumpIf{Cond: bpf.JumpEqual, Val: number, SkipFalse: 1})
		} else {
			code = append(code, bpf.JumpIf{Cond: bpf.JumpEqual, Val: number, SkipFalse: 4},
				bpf.LoadAbsolute{Off: 16 + 8*c.flagArg, Size: 4},
				bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: c.flags, SkipTrue: 1},
				bpf.RetConstant{Val: allow})
		}
		code = append(code, bpf.RetConstant{Val: ask})
	}
	raw, err := bpf.Assemble(append(code, bpf.RetConstant{Val: allow}))
	if err != nil {
		return nil, err
	}
	out := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		out[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return out, nil
}

// launchTimeout is how long a launcher may take to install its filter.
const launchTimeout = 20 * time.Second

// launch starts cmd by way of a launcher, this program once more, and gives the descriptor of the filter.
func launch(cmd *exec.Cmd) (notify *os.File, err error) {
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "launcher"), os.NewFile(uintptr(pair[1]), "test")
	defer ours.Close()
	defer theirs.Close()
	cmd.Args = append([]string{cmd.Path}, cmd.Args[1:]...)
	cmd.Path = self
	cmd.Env = append(cmd.Environ(), fmt.Sprintf("%s=%d", launchEnv, 3+len(cmd.ExtraFiles)))
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	theirs.Close()
	if notify, err = receive(ours); err != nil {
		_ = cmd.Process.Kill() // it may have ended, as the error says then
		_ = cmd.Wait()
		return nil, fmt.Errorf("fault: the launcher gave no filter (has TestMain called fault.Launch?): %w", err)
	}
	return notify, nil
}

// receive gives the descriptor that comes through socket.
func receive(socket *os.File) (*os.File, error) {
	conn, err := net.FileConn(socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(launchTimeout)); err != nil {
		return nil, err
	}
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "seccomp"), nil
}
