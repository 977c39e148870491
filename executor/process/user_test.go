package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"lambent/executor/executortest"
)

// asUser runs tests of this binary as a user without privilege, and gives what they say.
func asUser(t *testing.T, tests string, change func(*exec.Cmd)) string {
	t.Helper()
	cmd := executortest.AsUser(t, "-test.v", "-test.run", tests)
	program, err := initProgram()
	if err != nil {
		t.Fatal(err)
	}
	init := filepath.Join(filepath.Dir(cmd.Path), "lambent-init")
	if err := os.WriteFile(init, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, initEnv+"="+init)
	if change != nil {
		change(cmd)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
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
	tests := "^(TestConformance|TestOrphansEndThemselves|TestJob|TestJobEnds|TestLongPath|TestWatch|TestEgress.*)$"
	t.Log(asUser(t, tests, nil))
}

// TestWatch exceeds the memory limit of an instance without a cgroup, and of one that then sleeps.
func TestWatch(t *testing.T) {
	e, err := New(Options{Dir: t.TempDir(), Init: os.Getenv(initEnv)})
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
