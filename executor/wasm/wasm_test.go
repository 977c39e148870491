package wasm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

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
