//go:build integration

package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// slower is how much slower the tests' programs run in the guest than beside it, at least.
const slower = 10

// TestIntegrationCgroup2 runs the tests of the process tier and of control groups in a guest, which
// has version 2 only.
func TestIntegrationCgroup2(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	build := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	// There is no Go in the guest: the test carries what runs in sandboxes, as releases do, and finds its fixture built.
	replace := map[string]string{}
	for _, name := range []string{"lambent-init", "lambent-exec"} {
		build("build", "-trimpath", "-ldflags", "-s -w", "-o", file(name), "lambent/cmd/"+name)
		replace[filepath.Join(strings.TrimSpace(string(root)), "executor/process/initbin", name)] = file(name)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("overlay"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	build("build", "-o", file("fixture"), "lambent/executor/executortest/testdata/fixture")
	build("test", "-c", "-o", file("cgroup.test"), "lambent/internal/cgroup")
	build("test", "-c", "-overlay", file("overlay"), "-tags", "lambent_embed", "-o", file("process.test"), "lambent/executor/process")

	files := map[string]string{"fixture": file("fixture"), "cgroup.test": file("cgroup.test"), "process.test": file("process.test")}
	script := fmt.Sprintf("export LAMBENT_TEST_FIXTURE=/payload/fixture LAMBENT_TEST_SLOWER=%d\n", slower) +
		"./cgroup.test -test.v -test.timeout 5m && ./process.test -test.v -test.timeout 15m -test.skip '^TestUnprivileged$'\n"
	t.Log("TestUnprivileged is left to the first tier: it is the conformance once more, without control groups")
	var out bytes.Buffer
	code, err := Run(ctx, Job{Files: files, Script: script, Output: io.MultiWriter(t.Output(), &out)})
	if code != 0 || err != nil {
		t.Errorf("the guest's tests gave %d, %v", code, err)
	}
	// An exit code is not proof enough that the tests have run, and of which hierarchy.
	for _, name := range []string{"TestLimits", "TestOOM", "TestContainer", "TestConformance", "TestConformance/ThousandStarts", "TestNested", "TestDelegated"} {
		if !strings.Contains(out.String(), "--- PASS: "+name+" ") {
			t.Errorf("the guest did not pass %s", name)
		}
	}
	if strings.Contains(out.String(), "--- FAIL") || strings.Contains(out.String(), "--- SKIP") {
		t.Error("the guest failed or skipped a test")
	}
}
