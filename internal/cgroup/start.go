package cgroup

import (
	"os"
	"path/filepath"

	"lambent/internal/thread"
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
	thread.Spend(func() {
		for _, dir := range g.tree.folders {
			if err = os.WriteFile(filepath.Join(dir, g.id, leafInit, "tasks"), []byte("0"), 0o644); err != nil {
				return
			}
		}
		p, err = os.StartProcess(path, argv, attr)
	})
	return p, err
}
