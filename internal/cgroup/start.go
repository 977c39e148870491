package cgroup

import (
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Start starts a process in the group's init leaf. It is born there, so that no crash of the caller can
// leave a process outside of the tree.
func (g *Group) Start(path string, argv []string, attr *os.ProcAttr) (p *os.Process, err error) {
	if g.tree.version == 2 {
		dir, err := os.Open(g.file("memory", leafInit, ""))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(dir.Fd())
		return os.StartProcess(path, argv, attr)
	}
	// Version 1 groups threads: one goes ahead into the leaf, forks there, and ends.
	onOwnThread(func() {
		for _, dir := range g.tree.folders {
			if err = os.WriteFile(filepath.Join(dir, g.id, leafInit, "tasks"), []byte("0"), 0o644); err != nil {
				return
			}
		}
		p, err = os.StartProcess(path, argv, attr)
	})
	return p, err
}

// onOwnThread runs f on a thread that ends with it. The first thread of a process is no such thread: Go
// would keep it for ever, in the cgroup where f left it.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		onOwnThread(f)
		runtime.UnlockOSThread()
	}()
	<-done
}

