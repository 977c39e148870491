package process

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/internal/cgroup"
	"lambent/internal/thread"
)

// Findings implements executor.Executor. Each is a try of the thing itself.
func (e *Executor) Findings() []lambent.Finding {
	found := []lambent.Finding{e.isolation()}
	try := func(name, good, hint string, err error) {
		f := lambent.Finding{Name: name, OK: err == nil, Detail: good}
		if err != nil {
			f.Detail, f.Hint = err.Error(), hint
		}
		found = append(found, f)
	}
	if e.level == lambent.IsolationFull {
		for _, ns := range []struct {
			name string
			flag int
		}{
			{"mount", unix.CLONE_NEWNS}, {"pid", unix.CLONE_NEWPID}, {"network", unix.CLONE_NEWNET},
			{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"cgroup", unix.CLONE_NEWCGROUP},
		} {
			try("namespace "+ns.name, "can be made", "run on a kernel and in a container that allow namespaces",
				onThread(func() error { return unix.Unshare(ns.flag) }))
		}
		try("mount_setattr", "mounts can be locked as a whole", "use Linux 5.12 or newer", tryMount())
	}
	try("seccomp", "filters can be loaded", "use a kernel with CONFIG_SECCOMP_FILTER", onThread(e.trySeccomp))
	if e.tree == nil {
		try("cgroup", "", "start lambent with cgroups of its own, such as with: systemd-run --user --scope -p Delegate=yes lambent up", e.capped)
	} else {
		try("cgroup", fmt.Sprintf("version %d with memory, cpu and pids", e.tree.Version()),
			"let this service manage its own cgroups (Delegate=yes)", e.tryCgroup())
	}
	for _, name := range e.Runtimes() {
		root, err := e.Root(name)
		try("runtime "+name, root, "", err)
	}
	return found
}

// isolation is the level, or why there is none.
func (e *Executor) isolation() lambent.Finding {
	f := lambent.Finding{Name: "isolation", OK: true, Detail: e.Isolation().String()}
	switch {
	case e.away != nil:
		return lambent.Finding{Name: f.Name, Detail: e.away.Message, Hint: e.away.Hint}
	case e.bare != nil:
		f.OK, f.Hint = false, e.bare.Hint
		f.Detail += ": " + e.bare.Message
	}
	return f
}

func onThread(f func() error) (err error) {
	thread.Spend(func() { err = f() })
	return err
}

func (e *Executor) trySeccomp() error {
	if len(e.filter) == 0 {
		return e.away
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(e.filter) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&e.filter[0]))}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// tryMount locks a copy of /usr that is never attached.
func tryMount() error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, "/usr", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	return os.NewSyscallError("mount_setattr", err)
}

func (e *Executor) tryCgroup() error {
	g, err := e.tree.Create(lambent.NewID(), cgroup.Limits{Memory: 64 << 20, CPU: 1000, Pids: 16})
	if err != nil {
		return err
	}
	_, _, err = g.Usage()
	return errors.Join(err, g.Remove())
}
