package system

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lambent"
	"lambent/executor/executortest"
)

// TestWithoutRoot runs whole daemons as a user without privilege.
func TestWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("all of these tests run without root here")
		return
	}
	cmd := executortest.AsUser(t, "-test.v", "-test.run", "^(TestDeployCallLogWhy|TestIsolation)$")
	dir := filepath.Dir(cmd.Path)
	build := exec.Command("go", "build", "-trimpath", "-o", dir, "lambent/cmd/lambent-init", "lambent/cmd/lambent-exec")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd.Env = append(cmd.Env, "LAMBENT_INITBIN="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS: ") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestIsolation asks for full isolation, which takes root, and for the least.
func TestIsolation(t *testing.T) {
	n := start(t, t.TempDir())
	level := lambent.IsolationUserns
	if os.Geteuid() == 0 {
		level = lambent.IsolationFull
	}
	d := n.python("any", hello, func(s *lambent.Settings) { s.Floor = lambent.IsolationUserns })
	f, err := n.client.Function(t.Context(), "default", "any")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []*lambent.Isolation{d.Function.Isolation, f.Isolation} {
		if i == nil || i.Level != level || (len(i.Lacks) == 0) != (level == lambent.IsolationFull) {
			t.Errorf("the isolation is %+v, want level %s", i, level)
		}
	}
	_, err = n.tryDeploy("full", files{"main.py": hello}, lambent.Settings{Runtime: "python", Floor: lambent.IsolationFull})
	if level == lambent.IsolationFull && err != nil || level != lambent.IsolationFull && !lambent.HasCode(err, lambent.CodeTierUnavailable) {
		t.Errorf("deployed with floor full: %v", err)
	}
	d, err = n.tryDeploy("site", files{"index.html": "hi"}, lambent.Settings{Runtime: "static", Floor: lambent.IsolationFull})
	if err != nil || d.Function.Isolation == nil || d.Function.Isolation.Level != lambent.IsolationFull {
		t.Errorf("static files need no isolation: %+v, %v", d, err)
	}
	system, err := n.client.System(t.Context())
	if err != nil || len(system.Findings) == 0 || system.Findings[0].Name != "isolation" || !strings.HasPrefix(system.Findings[0].Detail, level) {
		t.Errorf("the findings are %+v, %v", system, err)
	}
}
