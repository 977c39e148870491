// Package cgroup limits, measures and ends groups of processes. It drives both versions of control groups;
// a hybrid host, where the controllers it needs are in version 1, counts as version 1.
//
// A [Tree] is one owner's folder, lambent/<name>, in every hierarchy that is needed. A [Group] in it has
// two leaves: "init" for a supervisor, free of limits, and "fn" for what it supervises. A supervisor is
// thus never the victim of its ward's limits, and what a crash left behind is found by the tree's name.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	parent    = "lambent"
	leafInit  = "init"
	leafFn    = "fn"
	cpuPeriod = 100 * time.Millisecond
)

// Limits are what the processes of a group may use together.
type Limits struct {
	Memory int64 // bytes, swap included
	CPU    int   // thousandths of a core
	Pids   int   // processes and threads
}

// hierarchies says where the controllers are mounted.
type hierarchies struct {
	version int
	dirs    map[string]string // controller -> folder; "cpuacct" in version 1 only
	roots   map[string]string // controller -> path of the group that is mounted there
}

// Tree is one owner's folder in every hierarchy.
type Tree struct {
	version int
	dirs    map[string]string // controller -> the tree's folder
	folders []string          // the distinct folders among them
}

// Open makes the tree of that name, or opens it with what a crash left in it. It is at the top of the hierarchies
// or, where we may not write there, in our own group, if that was delegated to us. In a container the top may be our
// own group, which the kernel calls busy as long as we are in it.
func Open(name string) (*Tree, error) {
	h, err := detect("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	t, err := h.open(name)
	if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EROFS) {
		return t, err
	}
	own, err := h.own("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	t, err = own.delegated(name)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("other processes are in our control group, so that it cannot be divided: %w", err)
	case err != nil:
		return nil, fmt.Errorf("no control group is delegated to user %d: %w", os.Geteuid(), err)
	}
	return t, nil
}

// detect finds the hierarchies in a mountinfo file, see proc_pid_mountinfo(5).
func detect(mountinfo string) (hierarchies, error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return hierarchies{}, err
	}
	defer f.Close()
	v1, roots := map[string]string{}, map[string]string{}
	var unified, unifiedRoot string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		mount, kind := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(kind) < 3 {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			unified, unifiedRoot = mount[4], mount[3]
		case "cgroup":
			for option := range strings.SplitSeq(kind[2], ",") {
				if slices.Contains([]string{"memory", "cpu", "cpuacct", "pids"}, option) {
					v1[option], roots[option] = mount[4], mount[3]
				}
			}
		}
	}
	if len(v1) == 0 && unified != "" {
		return version2(unified, unifiedRoot), nil
	}
	for _, controller := range []string{"memory", "cpu", "cpuacct", "pids"} {
		if v1[controller] == "" {
			return hierarchies{}, fmt.Errorf("no mounted cgroup hierarchy has the controller %s", controller)
		}
	}
	return hierarchies{1, v1, roots}, nil
}

func version2(dir, root string) hierarchies {
	return hierarchies{2, map[string]string{"memory": dir, "cpu": dir, "pids": dir}, map[string]string{"": root}}
}

func (h hierarchies) open(name string) (*Tree, error) {
	t := &Tree{version: h.version, dirs: map[string]string{}}
	for _, controller := range slices.Sorted(maps.Keys(h.dirs)) { // the same failure is always told the same way
		dir := filepath.Join(h.dirs[controller], parent, name)
		t.dirs[controller] = dir
		if !slices.Contains(t.folders, dir) {
			t.folders = append(t.folders, dir)
		}
	}
	for _, dir := range t.folders {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if t.version == 2 {
		root := h.dirs["memory"]
		for _, dir := range []string{root, filepath.Join(root, parent), t.folders[0]} {
			if err := delegate(dir); err != nil {
				return nil, err
			}
		}
		for _, file := range []string{"cgroup.kill", "memory.peak"} {
			if _, err := os.Stat(filepath.Join(t.folders[0], file)); err != nil {
				return nil, fmt.Errorf("control groups of version 2 need Linux 5.19 or newer: %w", err)
			}
		}
	}
	// All groups together weigh as much as two busy threads on every processor. The default is the weight
	// of one thread on the whole machine: next to a few busy programs every group would starve.
	return t, t.weigh(filepath.Dir(t.dirs["cpu"]), 2000*runtime.NumCPU())
}

// weigh sets a folder's share of a contended processor, in thousandths of what an ordinary thread gets.
func (t *Tree) weigh(dir string, thousandths int) error {
	if t.version == 2 {
		return os.WriteFile(filepath.Join(dir, "cpu.weight"), fmt.Append(nil, min(max(1, thousandths/10), 10000)), 0o644)
	}
	return os.WriteFile(filepath.Join(dir, "cpu.shares"), fmt.Append(nil, min(max(2, thousandths*1024/1000), 1<<18)), 0o644)
}

// delegate gives the controllers to the children of a folder of version 2. The kernel refuses it with EBUSY
// for a folder that holds processes itself and is not the root of the machine.
func delegate(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory +cpu +pids"), 0o644)
}

// Version is 1 or 2.
func (t *Tree) Version() int { return t.version }

// Groups are the names of the groups in the tree, half-made ones too.
func (t *Tree) Groups() ([]string, error) {
	names := map[string]bool{}
	for _, dir := range t.folders {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() {
				names[e.Name()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// Close removes the tree's own folders; its groups must have been removed.
func (t *Tree) Close() error {
	var errs []error
	for _, dir := range t.folders {
		errs = append(errs, remove(dir))
	}
	return errors.Join(errs...)
}

// Group is the folders of one supervisor and its ward.
type Group struct {
	tree *Tree
	id   string
}

// Group is the group of that name; whether it is there its methods tell.
func (t *Tree) Group(id string) *Group { return &Group{t, id} }

func (g *Group) file(controller, leaf, name string) string {
	return filepath.Join(g.tree.dirs[controller], g.id, leaf, name)
}

// Create makes a group with limits on its fn leaf. On error nothing of it is left.
func (t *Tree) Create(id string, l Limits) (*Group, error) {
	g := t.Group(id)
	err := g.create(l)
	if err != nil {
		return nil, errors.Join(err, g.Remove())
	}
	return g, nil
}

func (g *Group) create(l Limits) error {
	for _, dir := range g.tree.folders {
		group := filepath.Join(dir, g.id)
		if err := os.Mkdir(group, 0o755); err != nil {
			return err
		}
		if g.tree.version == 2 {
			if err := delegate(group); err != nil {
				return err
			}
		}
		for _, leaf := range []string{leafInit, leafFn} {
			if err := os.Mkdir(filepath.Join(group, leaf), 0o755); err != nil {
				return err
			}
		}
	}
	if err := g.tree.weigh(filepath.Join(g.tree.dirs["cpu"], g.id), l.CPU); err != nil {
		return err
	}
	quota := int64(cpuPeriod/time.Microsecond) * int64(l.CPU) / 1000
	period := int64(cpuPeriod / time.Microsecond)
	if g.tree.version == 2 {
		return errors.Join(
			g.set("memory", "memory.max", l.Memory),
			g.setIfThere("memory", "memory.swap.max", 0), // there if the kernel counts swap
			g.set("pids", "pids.max", int64(l.Pids)),
			os.WriteFile(g.file("cpu", leafFn, "cpu.max"), fmt.Appendf(nil, "%d %d", quota, period), 0o644))
	}
	return errors.Join(
		g.set("memory", "memory.limit_in_bytes", l.Memory),
		g.setIfThere("memory", "memory.memsw.limit_in_bytes", l.Memory), // there if the kernel counts swap
		g.set("memory", "memory.swappiness", 0),
		g.set("cpu", "cpu.cfs_period_us", period),
		g.set("cpu", "cpu.cfs_quota_us", quota),
		g.set("pids", "pids.max", int64(l.Pids)))
}

func (g *Group) set(controller, file string, v int64) error {
	return os.WriteFile(g.file(controller, leafFn, file), strconv.AppendInt(nil, v, 10), 0o644)
}

func (g *Group) setIfThere(controller, file string, v int64) error {
	if _, err := os.Stat(g.file(controller, leafFn, file)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return g.set(controller, file, v)
}

// JoinFiles are the files by which a process of a single thread that writes "0" moves into the fn leaf.
func (g *Group) JoinFiles() []string {
	if g.tree.version == 2 {
		return []string{g.file("memory", leafFn, "cgroup.procs")}
	}
	files := make([]string, 0, 4)
	for _, dir := range g.tree.folders {
		// Writing "0" to tasks moves just the caller: the kernel then skips the lock of the whole machine
		// that moving a process by cgroup.procs takes.
		files = append(files, filepath.Join(dir, g.id, leafFn, "tasks"))
	}
	return files
}

// OOMKills is how often the kernel killed a process for the memory limit.
func (g *Group) OOMKills() (int64, error) {
	file := "memory.oom_control"
	if g.tree.version == 2 {
		file = "memory.events"
	}
	return field(g.file("memory", leafFn, file), "oom_kill")
}

// Empty tells whether no process runs in the fn leaf. One that has died and was not waited for yet does not
// run.
func (g *Group) Empty() (bool, error) {
	raw, err := os.ReadFile(g.file("pids", leafFn, "cgroup.procs"))
	return len(raw) == 0, err
}

// Usage is the processor time that the fn leaf used and its highest use of memory in bytes.
func (g *Group) Usage() (cpu time.Duration, peak int64, err error) {
	if g.tree.version == 2 {
		us, err1 := field(g.file("cpu", leafFn, "cpu.stat"), "usage_usec")
		peak, err2 := number(g.file("memory", leafFn, "memory.peak"))
		return time.Duration(us) * time.Microsecond, peak, errors.Join(err1, err2)
	}
	ns, err1 := number(g.file("cpuacct", leafFn, "cpuacct.usage"))
	peak, err2 := number(g.file("memory", leafFn, "memory.max_usage_in_bytes"))
	return time.Duration(ns), peak, errors.Join(err1, err2)
}

func number(file string) (int64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
}

// field gives the number behind a name in a file of "name number" lines.
func field(file, name string) (int64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}

// Remove kills what is in the group and removes its folders. It gives up after five seconds, which only a
// process that the kernel cannot end makes it wait for.
func (g *Group) Remove() error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := g.remove()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		// A process leaves its group a moment after it has ended, and nothing tells when.
		if err := g.kill(); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

func (g *Group) remove() error {
	for _, dir := range g.tree.folders {
		group := filepath.Join(dir, g.id)
		for _, d := range []string{filepath.Join(group, leafInit), filepath.Join(group, leafFn), group} {
			if err := remove(d); err != nil {
				return err
			}
		}
	}
	return nil
}

func remove(dir string) error {
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// kill sends SIGKILL to all in the group. In version 2 the kernel does it at once, in version 1
// it is the supervisor's turn first: as PID 1 it takes the rest with it.
func (g *Group) kill() error {
	if g.tree.version == 2 {
		err := os.WriteFile(filepath.Join(g.tree.dirs["memory"], g.id, "cgroup.kill"), []byte("1"), 0o644)
		if errors.Is(err, os.ErrNotExist) {
			return nil // nothing was there, or has gone meanwhile
		}
		return err
	}
	for _, leaf := range []string{leafInit, leafFn} {
		for _, dir := range g.tree.folders {
			raw, err := os.ReadFile(filepath.Join(dir, g.id, leaf, "cgroup.procs"))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			for line := range strings.Lines(string(raw)) {
				pid, err := strconv.Atoi(strings.TrimSpace(line))
				if err != nil || pid <= 0 || pid == os.Getpid() {
					continue // 0 is a process that we cannot see; we are there while the thread of Start ends
				}
				if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("kill %d: %w", pid, err)
				}
			}
		}
	}
	return nil
}
