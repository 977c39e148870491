package wasm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"lambent"
	"lambent/executor"
	"lambent/executor/executortest"
	"lambent/executor/process"
)

func TestMain(m *testing.M) {
	Main()
	goleak.VerifyTestMain(m)
}

// node is an executor with the tier that its workers run in.
type node struct {
	*Executor
	sandbox *process.Executor
	dir     string
}

// Close closes both, the outer first, and finds out whether something is left.
func (n node) Close() error {
	err := n.Executor.Close()
	left, failed := filepath.Glob(filepath.Join(n.dir, "run", "instances", "*"))
	if len(left) > 0 {
		failed = fmt.Errorf("left over: %v", left)
	}
	return errors.Join(err, failed, n.sandbox.Close())
}

func open(dir string) (node, error) {
	sandbox, err := process.New(process.Options{Dir: filepath.Join(dir, "run"), Unsandboxed: os.Getenv(noNamespacesEnv) != ""})
	if err != nil {
		return node{}, err
	}
	e, err := New(Options{Dir: filepath.Join(dir, "wasm"), Sandbox: sandbox})
	if err != nil {
		return node{}, errors.Join(err, sandbox.Close())
	}
	return node{e, sandbox, dir}, nil
}

// noNamespacesEnv tells a test that it runs where no user namespace can be made.
const noNamespacesEnv = "LAMBENT_WASM_TEST_NO_NAMESPACES"

const (
	ofRequests = "each request has a sandbox of its own, which ends with it: it meets no other, and its end is not the instance's"
	ofModules  = "a module has no such thing"
)

var setup = executortest.Setup{
	New:     func(dir string) (executor.Executor, error) { return open(dir) },
	Fixture: buildFixture,
	Serve:   func(s *lambent.Settings) { s.Runtime, s.Handler = "wasm", "fixture.wasm" },
	Lacks: map[executortest.Ability]string{
		executortest.WebSocket: ofModules, executortest.Processes: ofModules, executortest.Files: ofModules, executortest.Loopback: ofModules,
		executortest.Python: ofModules, executortest.Node: ofModules, executortest.HTTPServer: ofModules, executortest.Exec: ofModules,
		executortest.Concurrency: ofRequests, executortest.OneProcess: ofRequests, executortest.Signals: ofRequests,
		executortest.Users: ofRequests, executortest.OwnUser: ofRequests,
		executortest.CPULimit: "timeouts.cpu limits the processor time of a request, see TestLimits",
		executortest.Survival: "workers end with their daemon",
	},
	Leftovers: func(dir string) ([]string, error) { // beside the worker of a namespace and the spare
		found, err := filepath.Glob(filepath.Join(dir, "run", "instances", "*"))
		if len(found) <= 2 {
			return nil, err
		}
		return found, err
	},
}

// fixtureEnv names a file with the fixture as built, for a user who cannot build it.
const fixtureEnv = "LAMBENT_WASM_TEST_FIXTURE"

func buildFixture(t testing.TB, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if built := os.Getenv(fixtureEnv); built != "" {
		content, err := os.ReadFile(built)
		if err = errors.Join(err, os.WriteFile(filepath.Join(dir, "fixture.wasm"), content, 0o644)); err != nil {
			t.Fatal(err)
		}
		return
	}
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", filepath.Join(dir, "fixture.wasm"), "./testdata/fixture")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the fixture: %v\n%s", err, out)
	}
}

func TestConformance(t *testing.T) { executortest.Run(t, setup) }

// asUser runs tests of this binary as a user without privilege, and gives what they say.
func asUser(t *testing.T, tests string, start func(*exec.Cmd) error) string {
	t.Helper()
	cmd := executortest.AsUser(t, "-test.v", "-test.run", tests)
	dir := filepath.Dir(cmd.Path)
	build := exec.Command("go", "build", "-o", dir+"/", "lambent/cmd/lambent-init", "lambent/cmd/lambent-exec")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	buildFixture(t, dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(cmd.Env, "LAMBENT_INITBIN="+dir, fixtureEnv+"="+filepath.Join(dir, "fixture.wasm"))
	if err := errors.Join(start(cmd), cmd.Wait()); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	return out.String()
}

// TestUnprivileged runs workers without root.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("this test is root's; a user's are those that it runs")
		return
	}
	out := asUser(t, "^(TestConformance|TestWorkerDies|TestWorkerIsConfined|TestFindings)$/^(|Echo|Stream|Env|Logs|Timeouts|Usage|CloseStopsAll)$", (*exec.Cmd).Start)
	for _, name := range []string{"TestConformance/Timeouts", "TestWorkerDies", "TestFindings"} {
		if !strings.Contains(out, "--- PASS: "+name+" ") {
			t.Errorf("%s did not pass\n%s", name, out)
		}
	}
}

// TestUnsandboxed runs workers where no namespaces can be made: one user namespace that has room for no more.
func TestUnsandboxed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("this test is root's")
		return
	}
	out := asUser(t, "^(TestConformance|TestWorkerDies|TestWithoutSandbox)$/^(|Echo|Logs|CloseStopsAll)$", func(cmd *exec.Cmd) error {
		cmd.Args = append([]string{"sh", "-c", `echo 0 >/proc/sys/user/max_user_namespaces && exec "$0" "$@"`}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
		cmd.Path = "/bin/sh"
		cmd.Env = append(cmd.Env, noNamespacesEnv+"=1")
		id := []syscall.SysProcIDMap{{ContainerID: executortest.User, HostID: executortest.User, Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER, UidMappings: id, GidMappings: id,
			Credential:  &syscall.Credential{Uid: executortest.User, Gid: executortest.User, NoSetGroups: true},
			AmbientCaps: []uintptr{unix.CAP_SYS_RESOURCE},
		}
		return cmd.Start()
	})
	for _, name := range []string{"TestConformance/Echo", "TestWorkerDies", "TestWithoutSandbox"} {
		if !strings.Contains(out, "--- PASS: "+name+" ") {
			t.Errorf("%s did not pass\n%s", name, out)
		}
	}
}

// TestWithoutSandbox says what isolates guests there, and refuses them where nobody has asked for that.
func TestWithoutSandbox(t *testing.T) {
	if os.Getenv(noNamespacesEnv) == "" {
		return // TestUnsandboxed runs it
	}
	b := newBed(t, built(t))
	if isolation := b.Isolation(); isolation.Level != lambent.IsolationNone || len(isolation.Lacks) == 0 {
		t.Errorf("the isolation is %s", isolation)
	}
	sandbox, err := process.New(process.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer sandbox.Close()
	e, err := New(Options{Dir: t.TempDir(), Sandbox: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	_, err = e.Start(t.Context(), executor.Spec{ID: lambent.NewID(), Revision: revision(t, "default", nil), CodeDir: b.code, Log: func(lambent.LogLine) {}})
	if !lambent.HasCode(err, lambent.CodeTierUnavailable) || len(e.Runtimes()) != 0 || e.Findings()[0].OK {
		t.Errorf("without --unsandboxed: %v, %v", err, e.Runtimes())
	}
}

func TestFindings(t *testing.T) {
	b := newBed(t, "")
	found := b.Findings()
	if len(found) != 1 || found[0].Name != "wasm" || !found[0].OK || !strings.Contains(found[0].Detail, "wazero") {
		t.Errorf("found %+v", found)
	}
	b.mu.Lock()
	if b.spare != nil {
		t.Error("a worker stays where there is no module")
	}
	b.mu.Unlock()
	if again := b.Findings(); !reflect.DeepEqual(again, found) {
		t.Errorf("then it finds %+v", again)
	}
	if root, err := b.Root("wasm"); root != "wasm" || err != nil {
		t.Errorf("the root is %q, %v", root, err)
	}
	if level := b.Isolation().Level; level != b.sandbox.Isolation().Level {
		t.Errorf("the isolation is %s", level)
	}
}
