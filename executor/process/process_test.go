package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent"
	"lambent/executor"
	"lambent/executor/executortest"
	"lambent/internal/cgroup"
	"lambent/internal/sandbox"
)

// orphanEnv is how long instances outlive the executor that executortest crashes.
const orphanEnv = "LAMBENT_PROCESS_TEST_ORPHAN"

var setup = executortest.Setup{
	New: func(dir string) (executor.Executor, error) {
		orphan, err := time.ParseDuration(os.Getenv(orphanEnv))
		if err != nil {
			orphan = 0 // the default
		}
		return New(Options{Dir: dir, Orphan: orphan, Unsandboxed: os.Getenv(noNamespacesEnv) != ""})
	},
	Lacks:     lacks(),
	Leftovers: leftovers,
}

// lacks is what this user's sandboxes cannot do.
func lacks() map[executortest.Ability]string {
	if privileged() {
		return nil
	}
	lacks := map[executortest.Ability]string{executortest.OwnUser: "a user namespace of somebody without root has one user"}
	tree, err := cgroup.Open(fmt.Sprintf("test-%d", os.Getpid()))
	if err != nil {
		lacks[executortest.MemoryLimit] = "memory is looked at from time to time, as there is no cgroup: " + err.Error()
		lacks[executortest.CPULimit] = "there is no cgroup: " + err.Error()
		return lacks
	}
	if err := tree.Close(); err != nil {
		panic(err)
	}
	return lacks
}

func TestMain(m *testing.M) {
	executortest.Crash(setup)
	goleak.VerifyTestMain(m)
}

func TestConformance(t *testing.T) { executortest.Run(t, setup) }

func BenchmarkColdStart(b *testing.B) { executortest.ColdStart(b, setup) }

// leftovers lists the cgroups, processes and folders of the instances of an executor on dir.
func leftovers(dir string) ([]string, error) {
	name, _ := identify(dir)
	found, err := filepath.Glob(filepath.Join(dir, instancesDir, "*"))
	for _, root := range hierarchies() {
		groups, failed := filepath.Glob(root + "/lambent/" + name + "/*/")
		found, err = append(found, groups...), errors.Join(err, failed)
	}
	inits, failed := initsOf(name)
	for pid := range inits {
		found = append(found, fmt.Sprintf("lambent-init %d", pid))
		for _, below := range sandbox.Below(pid) {
			found = append(found, fmt.Sprintf("process %d", below))
		}
	}
	return found, errors.Join(err, failed)
}

// hierarchies are the mounted control groups: one in version 2, one for each controller in version 1.
func hierarchies() []string {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err == nil {
		return []string{root}
	}
	return []string{root + "/pids", root + "/memory", root + "/cpu"}
}

func TestOrphansEndThemselves(t *testing.T) {
	dir, code := t.TempDir(), t.TempDir()
	executortest.BuildFixture(t, code)
	executortest.KillOne(t, dir, code, orphanEnv+"=3s")
	name, _ := identify(dir)
	processes := func() int {
		inits, err := initsOf(name)
		if err != nil {
			t.Fatal(err)
		}
		n := len(inits)
		for pid := range inits {
			n += len(sandbox.Below(pid))
		}
		return n
	}
	if n := processes(); n != 6 {
		t.Errorf("%d processes have survived, want 3 lambent-inits and 3 functions", n)
	}
	deadline := time.Now().Add(30 * time.Second)
	for n := processes(); n > 0; n = processes() {
		if time.Now().After(deadline) {
			t.Fatalf("%d processes are still there", n)
		}
		time.Sleep(20 * time.Millisecond)
	}
	e, err := setup.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.(executor.Adopter).Sweep(), e.Close()); err != nil {
		t.Error(err)
	}
	if left, err := leftovers(dir); len(left) > 0 || err != nil {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestNested runs an executor in a daemon that sits in cgroups of its own.
func TestNested(t *testing.T) {
	if needsRoot(t) {
		return
	}
	var dirs []string
	for _, root := range hierarchies() {
		dir := fmt.Sprintf("%s/lambent-test-%d", root, os.Getpid())
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
	}
	var script strings.Builder
	for _, dir := range dirs {
		script.WriteString("echo $$ > " + dir + "/cgroup.procs && ")
	}
	script.WriteString("exec /proc/$PPID/exe -test.v -test.run '^TestConformance$/^(Echo|MemoryLimit|PidsLimit|CPULimit)$'")
	out, err := exec.Command("/bin/sh", "-c", script.String()).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, name := range []string{"Echo", "MemoryLimit", "PidsLimit", "CPULimit"} {
		if !strings.Contains(string(out), "--- PASS: TestConformance/"+name+" ") {
			t.Errorf("%s did not pass\n%s", name, out)
		}
	}
}

func TestFindings(t *testing.T) {
	e, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	names := []string{}
	for _, f := range e.Findings() {
		names = append(names, f.Name)
		if _, lacks := setup.Lacks[executortest.CPULimit]; !f.OK && (!lacks || f.Name != "cgroup") {
			t.Errorf("%s: %s (%s)", f.Name, f.Detail, f.Hint)
		}
	}
	want := []string{"isolation"}
	if privileged() {
		want = append(want, "namespace mount", "namespace pid", "namespace network", "namespace ipc", "namespace uts",
			"namespace cgroup", "mount_setattr")
	}
	want = append(want, "seccomp", "cgroup")
	for _, name := range e.Runtimes() {
		want = append(want, "runtime "+name)
	}
	if !slices.Equal(names, want) {
		t.Errorf("found %q, want %q", names, want)
	}
}

func TestRoots(t *testing.T) {
	e, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	goRoot, err := e.Root("go")
	if err != nil || strings.Count(goRoot, "/") != 1 {
		t.Errorf("go: %q, %v", goRoot, err)
	}
	for range 2 {
		python, err := e.Root("python3.11")
		if err != nil || !strings.HasPrefix(python, goRoot+"/python3.11=3.11.") {
			t.Errorf("python3.11: %q, %v", python, err)
		}
	}
	runtimes := e.Runtimes()
	if len(runtimes) < 3 || runtimes[0] != "go" || !slices.Contains(runtimes, "python3.11") {
		t.Errorf("the runtimes are %q", runtimes)
	}
	js := runtimes[len(runtimes)-1]
	if root, err := e.Root(js); err != nil || !strings.HasPrefix(root, goRoot+"/"+js+"="+strings.TrimPrefix(js, "nodejs")+".") {
		t.Errorf("%s: %q, %v", js, root, err)
	}
	for _, name := range []string{"python3.99", "nodejs99", "cobol"} {
		if _, err := e.Root(name); !lambent.HasCode(err, lambent.CodeTierUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLongPath makes sockets whose paths are longer than a unix address.
func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	code := t.TempDir()
	executortest.BuildFixture(t, code)
	e, err := setup.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	s, err := lambent.Settings{Runtime: "go", Handler: "fixture"}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	in, err := e.Start(t.Context(), executor.Spec{
		ID: lambent.NewID(), Revision: lambent.NewRevision("default", "long", s, "", "", time.Now()),
		CodeDir: code, Log: func(lambent.LogLine) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	in.Stop(0)
}

func TestSandboxFailureNamesTheStep(t *testing.T) {
	code := t.TempDir()
	executortest.BuildFixture(t, code)
	e, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	e.filter = bytes.Repeat([]byte{0xff}, 8)
	s, err := lambent.Settings{Runtime: "go", Handler: "fixture"}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Start(t.Context(), executor.Spec{
		ID: lambent.NewID(), Revision: lambent.NewRevision("default", "broken", s, "", "", time.Now()),
		CodeDir: code, Log: func(lambent.LogLine) {},
	})
	if !lambent.HasCode(err, lambent.CodeSandboxFailed) || !strings.Contains(err.Error(), "load the seccomp filter: invalid argument") {
		t.Errorf("got %v", err)
	}
}

// TestExitBeforeTheFirstWord has a lambent-init that ends before it has taken up the host's connection.
func TestExitBeforeTheFirstWord(t *testing.T) {
	code, script := t.TempDir(), filepath.Join(t.TempDir(), "init")
	executortest.BuildFixture(t, code)
	e, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	s, err := lambent.Settings{Runtime: "go", Handler: "fixture"}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	told := fmt.Sprintf(`echo '{"exit":{"code":3}}' >&%d`, sandbox.FDExit)
	for want, text := range map[lambent.Code]string{lambent.CodeStartFailed: told, lambent.CodeSandboxFailed: "exit 3"} {
		if err := os.WriteFile(script, []byte("#!/bin/sh\n"+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := e.init.Close(); err != nil {
			t.Fatal(err)
		}
		if e.init, err = loadInit(script); err != nil {
			t.Fatal(err)
		}
		_, err := e.Start(t.Context(), executor.Spec{
			ID: lambent.NewID(), Revision: lambent.NewRevision("default", "brief", s, "", "", time.Now()),
			CodeDir: code, Log: func(lambent.LogLine) {},
		})
		if !lambent.HasCode(err, want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

// TestKillBelow has a process that was waited for, and whose pid has become another's.
func TestKillBelow(t *testing.T) {
	child := exec.Command("/bin/sleep", "600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	ended, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ended.Wait(); err != nil {
		t.Fatal(err)
	}
	killBelow(ended, os.Getpid())
	if !slices.Contains(sandbox.Below(os.Getpid()), child.Process.Pid) {
		t.Error("it killed a process of the pid's next owner")
	}
}

// TestInstallAgain installs lambent-exec where an earlier try has failed half way.
func TestInstallAgain(t *testing.T) {
	s := shims{dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(s.dir, "exec"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.get("exec", ""); err != nil {
		t.Error(err)
	}
}

func TestUsers(t *testing.T) {
	for half := range 2 {
		u := newUsers(5, half)
		first := 1<<30 + 5<<16 + half<<15
		u.keep(first + 3)
		seen := map[int]bool{first + 3: true}
		for range usersPerHalf - 1 {
			id, err := u.take()
			if err != nil || seen[id] || id < first || id >= first+1<<15 {
				t.Fatalf("%d, %v", id, err)
			}
			seen[id] = true
		}
		if id, err := u.take(); err == nil {
			t.Errorf("there is one more user, %d", id)
		}
		u.free(first + 77)
		if id, err := u.take(); err != nil || id != first+77 {
			t.Errorf("%d, %v", id, err)
		}
	}
}
