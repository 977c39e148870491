package cgroup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var trees int // made so far, for their names

func tree(t *testing.T) *Tree {
	t.Helper()
	trees++
	tr, err := Open(fmt.Sprintf("test-%d-%d", os.Getpid(), trees))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(sweep(tr), tr.Close()); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// sweep removes all groups.
func sweep(tr *Tree) error {
	names, err := tr.Groups()
	for _, name := range names {
		err = errors.Join(err, tr.Group(name).Remove())
	}
	return err
}

// start runs a shell in the init leaf, which moves the rest of the script into the fn leaf.
func start(t *testing.T, g *Group, script string) *os.Process {
	t.Helper()
	var join strings.Builder
	for _, file := range g.JoinFiles() {
		join.WriteString("echo 0 > " + file + "; ")
	}
	p, err := g.Start("/bin/sh", []string{"sh", "-c", join.String() + script}, &os.ProcAttr{
		Sys: &syscall.SysProcAttr{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLimits(t *testing.T) {
	tr := tree(t)
	g, err := tr.Create("one", Limits{Memory: 64 << 20, CPU: 250, Pids: 20})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[int]map[string]string{
		1: {
			g.file("memory", leafFn, "memory.limit_in_bytes"):       "67108864",
			g.file("memory", leafFn, "memory.memsw.limit_in_bytes"): "67108864",
			g.file("memory", leafFn, "memory.swappiness"):           "0",
			g.file("cpu", leafFn, "cpu.cfs_quota_us"):               "25000",
			g.file("cpu", leafFn, "cpu.cfs_period_us"):              "100000",
			g.file("pids", leafFn, "pids.max"):                      "20",
			g.file("cpu", "", "cpu.shares"):                         "256",
			g.file("pids", leafInit, "pids.max"):                    "max",
		},
		2: {
			g.file("memory", leafFn, "memory.max"):       "67108864",
			g.file("memory", leafFn, "memory.swap.max"):  "0",
			g.file("memory", leafFn, "memory.oom.group"): "0",
			g.file("cpu", leafFn, "cpu.max"):             "25000 100000",
			g.file("pids", leafFn, "pids.max"):           "20",
			g.file("cpu", "", "cpu.weight"):              "25",
			g.file("pids", leafInit, "pids.max"):         "max",
			g.file("memory", leafInit, "memory.max"):     "max",
		},
	}[tr.Version()] {
		raw, err := os.ReadFile(file)
		if got := strings.TrimSpace(string(raw)); got != want || err != nil {
			t.Errorf("%s is %q, want %q, %v", file, got, want, err)
		}
	}
	if _, err := tr.Create("one", Limits{Memory: 64 << 20, CPU: 250, Pids: 20}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second group of that name: %v", err)
	}
}

func TestOOM(t *testing.T) {
	g, err := tree(t).Create("eater", Limits{Memory: 16 << 20, CPU: 1000, Pids: 20})
	if err != nil {
		t.Fatal(err)
	}
	// tail keeps what has no line end.
	p := start(t, g, "head -c 100m /dev/zero | tail > /dev/null")
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if n, err := g.OOMKills(); n == 0 || err != nil { // the shell may go too
		t.Errorf("%d kills, %v", n, err)
	}
	cpu, peak, err := g.Usage()
	if err != nil || cpu <= 0 || peak < 15<<20 || peak > 16<<20 {
		t.Errorf("used %v and %d bytes, %v", cpu, peak, err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
}

// TestSweep leaves processes in both leaves, and groups that are half made, as a crash does.
func TestSweep(t *testing.T) {
	tr := tree(t)
	g, err := tr.Create("left", Limits{Memory: 64 << 20, CPU: 1000, Pids: 20})
	if err != nil {
		t.Fatal(err)
	}
	inFn := start(t, g, "exec sleep 600")
	inInit, err := g.Start("/bin/sleep", []string{"sleep", "600"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(tr.dirs["pids"], "half"), 0o755); err != nil {
		t.Fatal(err)
	}
	other := tree(t)
	if _, err := other.Create("neighbour", Limits{Memory: 64 << 20, CPU: 1000, Pids: 20}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(g.file("pids", leafInit, "cgroup.procs"))
	if err != nil || !slices.Contains(strings.Fields(string(raw)), strconv.Itoa(inInit.Pid)) {
		t.Errorf("%d was not born in the init leaf, which holds %q, %v", inInit.Pid, raw, err)
	}
	again, err := Open(filepath.Base(tr.folders[0]))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan syscall.Signal, 2)
	for _, p := range []*os.Process{inFn, inInit} {
		go func() {
			state, err := p.Wait()
			if err != nil {
				ended <- 0
				return
			}
			ended <- state.Sys().(syscall.WaitStatus).Signal()
		}()
	}
	if err := sweep(again); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case sig := <-ended:
			if sig != syscall.SIGKILL {
				t.Errorf("a process ended by signal %d", sig)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a process lives on")
		}
	}
	for _, dir := range tr.folders {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				t.Errorf("%s/%s is left", dir, e.Name())
			}
		}
	}
	if _, err := os.Stat(other.Group("neighbour").file("pids", leafFn, "pids.max")); err != nil {
		t.Errorf("the neighbour's group: %v", err)
	}
}

// TestEmpty has a process close its end of a pipe by dying. A moment later the group must be empty, although
// nobody has waited for the process.
func TestEmpty(t *testing.T) {
	g, err := tree(t).Create("mortal", Limits{Memory: 64 << 20, CPU: 1000, Pids: 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		script := "echo; exec sleep 600"
		for _, file := range g.JoinFiles() {
			script = "echo 0 > " + file + "; " + script
		}
		p, err := g.Start("/bin/sh", []string{"sh", "-c", script}, &os.ProcAttr{Files: []*os.File{nil, w}, Sys: &syscall.SysProcAttr{}})
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if empty, err := g.Empty(); empty || err != nil {
			t.Errorf("with a process in it: %v, %v", empty, err)
		}
		if err := p.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v", n, err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for empty, err := g.Empty(); !empty; empty, err = g.Empty() {
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("after its death: %v, %v", empty, err)
			}
			time.Sleep(time.Millisecond)
		}
		if _, err := p.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRemoveAtOnce removes groups in which the thread that started a process may still be: it must not take
// this process for one of theirs.
func TestRemoveAtOnce(t *testing.T) {
	tr := tree(t)
	for range 50 {
		g, err := tr.Create("brief", Limits{Memory: 64 << 20, CPU: 1000, Pids: 20})
		if err != nil {
			t.Fatal(err)
		}
		p, err := g.Start("/bin/sleep", []string{"sleep", "600"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Remove(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// containerEnv tells TestContainer that it runs in one, and how.
const containerEnv = "LAMBENT_CGROUP_TEST_CONTAINER"

// TestContainer opens a tree where all that is to be seen of version 2 is the group that we are in.
func TestContainer(t *testing.T) {
	if how := os.Getenv(containerEnv); how != "" {
		inContainer(t, how == "crowded")
		return
	}
	h, err := detect("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if h.version == 1 || os.Geteuid() != 0 {
		t.Log("only root can make such a group, and only in version 2")
		return
	}
	root := h.dirs["memory"]
	if err := delegate(root); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"alone", "crowded"} {
		dir := filepath.Join(root, fmt.Sprintf("lambent-test-%d-%s", os.Getpid(), how))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		const script = `echo $$ >"$0/cgroup.procs" && export TEST=/proc/$PPID/exe && exec unshare -Cm sh -c 'umount -l "$0" && mount -t cgroup2 cgroup2 "$0" && exec $TEST -test.v -test.run "^TestContainer$"' "$1"`
		cmd := exec.Command("/bin/sh", "-c", script, dir, root)
		cmd.Env = append(os.Environ(), containerEnv+"="+how)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestContainer ") {
			t.Errorf("%s: %v\n%s", how, err, out)
		}
		for _, d := range []string{"lambent/daemon", "lambent/container", "lambent", ""} {
			deadline := time.Now().Add(5 * time.Second)
			for err := remove(filepath.Join(dir, d)); err != nil; err = remove(filepath.Join(dir, d)) {
				if time.Now().After(deadline) {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
		}
	}
}

func inContainer(t *testing.T, crowded bool) {
	if crowded {
		other := exec.Command("/bin/sleep", "600")
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		defer other.Wait()
		defer other.Process.Kill()
		if _, err := Open("container"); err == nil || !strings.Contains(err.Error(), "other processes are in our control group") {
			t.Errorf("among others: %v", err)
		}
		return
	}
	tr, err := Open("container")
	if err != nil {
		t.Fatal(err)
	}
	g, err := tr.Create("one", Limits{Memory: 64 << 20, CPU: 250, Pids: 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := start(t, g, "exec true").Wait(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(sweep(tr), tr.Close()); err != nil {
		t.Error(err)
	}
}

// TestVersion2Files checks what is written and read, in plain folders. That the kernel does what it is
// asked in these files is proved by the other tests where it has version 2 (make test-cgroup2).
func TestVersion2Files(t *testing.T) {
	root := t.TempDir()
	h := version2(root, "/")
	if _, err := h.open("node"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "5.19") {
		t.Errorf("on an old kernel: %v", err)
	}
	for _, file := range []string{"cgroup.kill", "memory.peak"} {
		if err := os.WriteFile(filepath.Join(root, "lambent/node", file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tr, err := h.open("node")
	if err != nil {
		t.Fatal(err)
	}
	g, err := tr.Create("one", Limits{Memory: 64 << 20, CPU: 250, Pids: 20})
	if err != nil {
		t.Fatal(err)
	}
	const controllers = "+memory +cpu +pids"
	for file, want := range map[string]string{
		"lambent/node/one/cpu.weight":             "25",
		"cgroup.subtree_control":                  controllers,
		"lambent/cgroup.subtree_control":          controllers,
		"lambent/node/cgroup.subtree_control":     controllers,
		"lambent/node/one/cgroup.subtree_control": controllers,
		"lambent/node/one/fn/memory.max":          "67108864",
		"lambent/node/one/fn/cpu.max":             "25000 100000",
		"lambent/node/one/fn/pids.max":            "20",
	} {
		raw, err := os.ReadFile(filepath.Join(root, file))
		if string(raw) != want || err != nil {
			t.Errorf("%s is %q, want %q, %v", file, raw, want, err)
		}
	}
	if _, err := os.Stat(g.file("memory", leafFn, "memory.swap.max")); err == nil {
		t.Error("a file was made that the kernel does not have")
	}
	if got := g.JoinFiles(); !slices.Equal(got, []string{filepath.Join(root, "lambent/node/one/fn/cgroup.procs")}) {
		t.Errorf("a process joins by %v", got)
	}
	for file, text := range map[string]string{
		"memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n",
		"cpu.stat":      "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n",
		"memory.peak":   "4096\n",
	} {
		if err := os.WriteFile(g.file("memory", leafFn, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := g.OOMKills(); n != 2 || err != nil {
		t.Errorf("%d kills, %v", n, err)
	}
	if cpu, peak, err := g.Usage(); cpu != 1500*time.Microsecond || peak != 4096 || err != nil {
		t.Errorf("used %v and %d bytes, %v", cpu, peak, err)
	}
}

func TestDetect(t *testing.T) {
	const rest = " rw - "
	for _, c := range []struct {
		name, mounts string
		version      int
		memory, cpu  string
		fails        bool
	}{
		{"pure version 2", "30 1 0:26 / /sys/fs/cgroup" + rest + "cgroup2 cgroup2 rw,nsdelegate\n", 2, "/sys/fs/cgroup", "/sys/fs/cgroup", false},
		{"hybrid", "30 1 0:26 / /sys/fs/cgroup/unified" + rest + "cgroup2 cgroup2 rw\n" +
			"31 1 0:27 / /sys/fs/cgroup/memory" + rest + "cgroup cgroup rw,memory\n" +
			"32 1 0:28 / /sys/fs/cgroup/cpu,cpuacct shared:9" + rest + "cgroup cgroup rw,cpu,cpuacct\n" +
			"33 1 0:29 / /sys/fs/cgroup/pids" + rest + "cgroup cgroup rw,pids\n" +
			"34 1 0:30 / /sys/fs/cgroup/systemd" + rest + "cgroup cgroup rw,name=systemd\n", 1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu,cpuacct", false},
		{"no memory", "32 1 0:28 / /c/cpu" + rest + "cgroup cgroup rw,cpu,cpuacct\n33 1 0:29 / /c/pids" + rest + "cgroup cgroup rw,pids\n", 0, "", "", true},
		{"none", "20 1 0:20 / /proc" + rest + "proc proc rw\n", 0, "", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "mountinfo")
			if err := os.WriteFile(file, []byte(c.mounts), 0o600); err != nil {
				t.Fatal(err)
			}
			h, err := detect(file)
			if c.fails != (err != nil) || h.version != c.version || h.dirs["memory"] != c.memory || h.dirs["cpu"] != c.cpu {
				t.Errorf("%+v, %v", h, err)
			}
		})
	}
}
