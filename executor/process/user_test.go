package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/executor"
	"lambent/executor/executortest"
	"lambent/internal/thread"
)

// asUser runs tests of this binary as a user without privilege, and gives what they say.
func asUser(t *testing.T, tests string, start func(*exec.Cmd) error) string {
	t.Helper()
	cmd := executortest.AsUser(t, "-test.v", "-test.run", tests)
	dir := filepath.Dir(cmd.Path)
	for name, program := range map[string]func() ([]byte, error){"lambent-init": initProgram, "lambent-exec": execProgram} {
		raw, err := program()
		if err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), raw, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(cmd.Env, "LAMBENT_INITBIN="+dir)
	if err := errors.Join(start(cmd), cmd.Wait()); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	return out.String()
}

func needsRoot(t *testing.T) bool {
	if !privileged() {
		t.Log("this test is root's; a user's are those that it runs")
		return true
	}
	return false
}

// TestUnprivileged runs the conformance tests without root.
func TestUnprivileged(t *testing.T) {
	if needsRoot(t) {
		return
	}
	tests := "^(TestConformance|TestOrphansEndThemselves|TestJob.*|TestDamagedState|TestShareFolder|TestLeft.*|TestFakeInit|TestLongPath|TestFindings|TestRoots|TestSandboxFailureNamesTheStep|TestExitBeforeTheFirstWord|TestWatch|TestEgress.*)$"
	t.Log(asUser(t, tests, (*exec.Cmd).Start))
}

// TestWatch exceeds the memory limit of an instance without a cgroup, and of one that then sleeps.
func TestWatch(t *testing.T) {
	e, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if e.tree != nil {
		t.Log("cgroups limit memory here")
		return
	}
	exit, err := e.Run(t.Context(), newShell(t, "head -c 200000000 /dev/zero | tail").Job)
	if err != nil || !exit.OOM {
		t.Errorf("200 MB in 128 MiB: %+v, %v", exit, err)
	}
	s := newShell(t, "head -c 100000000 /dev/zero >/tmp/x & head -c 100000000 /dev/zero >/dev/shm/x; wait; sleep 1000")
	if exit, err = e.Run(t.Context(), s.Job); err != nil || !exit.OOM {
		t.Errorf("200 MB of files in 128 MiB: %+v, %v", exit, err)
	}
}

// TestDelegated gives a user control groups of his own.
func TestDelegated(t *testing.T) {
	if needsRoot(t) {
		return
	}
	name := fmt.Sprintf("lambent-test-user-%d", os.Getpid())
	var groups []string
	controllers := []string{"memory", "cpu", "cpuacct", "pids"}
	if len(hierarchies()) == 1 {
		controllers = []string{""}
	}
	for _, controller := range controllers {
		dir := filepath.Join("/sys/fs/cgroup", controller, name)
		groups = append(groups, dir)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			err := errors.Join(removeGroup(dir+"/lambent/daemon"), removeGroup(dir+"/lambent"), removeGroup(dir))
			if err != nil {
				t.Error(err)
			}
		})
		for _, file := range []string{"", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"} {
			if err := os.Chown(filepath.Join(dir, file), executortest.User, executortest.User); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
	out := asUser(t, "^TestConformance$/^(Echo|MemoryLimit|CPULimit|PidsLimit|Usage|Unprivileged|SweepAfterCrash)$", func(cmd *exec.Cmd) error {
		return startIn(cmd, groups)
	})
	for _, name := range []string{"MemoryLimit", "CPULimit", "PidsLimit", "Usage", "Unprivileged", "SweepAfterCrash"} {
		if !strings.Contains(out, "--- PASS: TestConformance/"+name+" ") {
			t.Errorf("%s did not pass\n%s", name, out)
		}
	}
}

// startIn starts cmd in the groups: threads go ahead in version 1, in version 2 the process is born there.
func startIn(cmd *exec.Cmd, groups []string) (err error) {
	if len(groups) == 1 {
		dir, err := os.Open(groups[0])
		if err != nil {
			return err
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		return cmd.Start()
	}
	thread.Spend(func() {
		for _, dir := range groups {
			err = errors.Join(err, os.WriteFile(dir+"/tasks", []byte("0"), 0o644))
		}
		err = errors.Join(err, cmd.Start())
	})
	return err
}

// removeGroup waits for the last process to leave it.
func removeGroup(dir string) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		err := syscall.Rmdir(dir)
		if err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if time.Now().After(deadline) {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
}

// revisionOf is a revision of the fixture.
func revisionOf(t *testing.T, change func(*lambent.Settings)) *lambent.Revision {
	t.Helper()
	s := lambent.Settings{Runtime: "go", Handler: "fixture"}
	if change != nil {
		change(&s)
	}
	s, err := s.Complete()
	if err != nil {
		t.Fatal(err)
	}
	return lambent.NewRevision("default", "fixture", s, "", "", time.Now())
}

// withoutNamespaces runs tests where no user namespace can be made, as another user than root.
func withoutNamespaces(t *testing.T, tests string) string {
	t.Helper()
	return asUser(t, tests, func(cmd *exec.Cmd) error {
		// The one that this user gets has room for no more. It is not root inside, but may set that limit.
		cmd.Args = append([]string{"sh", "-c", `echo 0 >/proc/sys/user/max_user_namespaces && exec "$0" "$@"`}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
		cmd.Path = "/bin/sh"
		cmd.Env = append(cmd.Env, noNamespacesEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: executortest.User, HostID: executortest.User, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: executortest.User, HostID: executortest.User, Size: 1}},
			Credential:  &syscall.Credential{Uid: executortest.User, Gid: executortest.User, NoSetGroups: true},
			AmbientCaps: []uintptr{unix.CAP_SYS_RESOURCE},
		}
		return cmd.Start()
	})
}

// noNamespacesEnv tells a test that it runs where no user namespace can be made.
const noNamespacesEnv = "LAMBENT_PROCESS_TEST_NO_NAMESPACES"

// TestWithoutNamespaces proves that nothing runs without a sandbox but where that was asked for, and what then.
func TestWithoutNamespaces(t *testing.T) {
	if os.Getenv(noNamespacesEnv) == "" {
		if !needsRoot(t) {
			out := withoutNamespaces(t, "^TestWithoutNamespaces$")
			if !strings.Contains(out, "--- PASS: TestWithoutNamespaces/unsandboxed ") {
				t.Error(out)
			}
			t.Log(withoutNamespaces(t, "^TestConformance$/^(SweepAfterCrash|Adopt|AdoptBusy|AdoptLastWords|AdoptMany|Handover)$"))
			t.Log(withoutNamespaces(t, "^TestJobWithSocket$"))
		}
		return
	}
	t.Run("refused", func(t *testing.T) {
		e, err := New(Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		_, err = e.Start(t.Context(), executor.Spec{ID: lambent.NewID(), Revision: revisionOf(t, nil), CodeDir: t.TempDir()})
		check := func(err error) {
			t.Helper()
			if !lambent.HasCode(err, lambent.CodeTierUnavailable) || !strings.Contains(err.Error(), "no space left on device") ||
				!strings.Contains(err.Error(), "user.max_user_namespaces") || !strings.Contains(err.Error(), "--unsandboxed") {
				t.Errorf("got %v", err)
			}
		}
		check(err)
		_, err = e.Root("go")
		check(err)
		f := e.Findings()[0]
		if f.Name != "isolation" || f.OK || !strings.Contains(f.Detail, "no space left") || !strings.Contains(f.Hint, "sysctl") || len(e.Runtimes()) != 0 {
			t.Errorf("found %+v, runtimes %v", f, e.Runtimes())
		}
	})
	t.Run("unsandboxed", func(t *testing.T) { testUnsandboxed(t) })
}

func testUnsandboxed(t *testing.T) {
	dir, code := t.TempDir(), t.TempDir()
	executortest.BuildFixture(t, code)
	e, err := New(Options{Dir: dir, Unsandboxed: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	isolation := e.Isolation()
	if isolation.Level != lambent.IsolationNone || !strings.Contains(isolation.String(), "a sandbox: it has the files") ||
		!lambent.HasCode(isolation.Check(lambent.IsolationUserns), lambent.CodeTierUnavailable) {
		t.Errorf("the isolation is %s", isolation)
	}
	if f := e.Findings()[0]; f.OK || !strings.Contains(f.Detail, "no space left on device") || !strings.Contains(f.Hint, "sysctl") {
		t.Errorf("found %+v", f)
	}
	if _, err := e.Run(t.Context(), newShell(t, "true").Job); !lambent.HasCode(err, lambent.CodeTierUnavailable) {
		t.Errorf("a job: %v", err)
	}
	testServersOutside(t, e, code)
	in, err := e.Start(t.Context(), executor.Spec{
		ID: lambent.NewID(), Revision: revisionOf(t, nil), CodeDir: code, Log: func(l lambent.LogLine) { t.Log(l.Text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	get := func(target string) string {
		resp, err := in.Handle(t.Context(), &lambent.Invocation{ID: lambent.NewID(), Revision: revisionOf(t, nil), Method: "GET", Target: target}, time.Now().Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	for _, want := range []string{`"NoNewPrivs":"1"`, `"Seccomp":"2"`, `"CapEff":"0000000000000000"`, `"fds":["0","1","2","3"]`} {
		if self := get("/self"); !strings.Contains(self, want) {
			t.Errorf("it is not %s: %s", want, self)
		}
	}
	get("/fork?n=3&keep=1")
	left, err := leftovers(dir)
	if err != nil || len(left) < 5 {
		t.Errorf("there are %v, %v", left, err)
	}
	in.Stop(0)
	if left, err := leftovers(dir); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// testServersOutside has servers that share the host's ports with another, which answers on theirs.
func testServersOutside(t *testing.T, e *Executor, code string) {
	neighbour := httptest.NewServer(http.NotFoundHandler())
	defer neighbour.Close()
	_, port, err := net.SplitHostPort(neighbour.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	start := func(serve string) (executor.Instance, *lambent.Revision, error) {
		r := revisionOf(t, func(s *lambent.Settings) {
			s.Runtime, s.Handler, s.Command = "http", "", []string{"./fixture"}
			s.Env = map[string]string{"PORT": port, "SERVE": serve}
		})
		in, err := e.Start(t.Context(), executor.Spec{ID: lambent.NewID(), Revision: r, CodeDir: code, Log: func(lambent.LogLine) {}})
		return in, r, err
	}
	if _, _, err := start("127.0.0.1"); !lambent.HasCode(err, lambent.CodeStartFailed) || !strings.Contains(err.Error(), "descriptor 3") {
		t.Errorf("a server on a port that is taken: %v", err)
	}
	in, r, err := start("")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Stop(0)
	resp, err := in.Handle(t.Context(), &lambent.Invocation{ID: lambent.NewID(), Revision: r, Method: "GET", Target: "/env"}, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Status != http.StatusOK {
		t.Errorf("a server on descriptor 3: the neighbour answered with %d", resp.Status)
	}
}
