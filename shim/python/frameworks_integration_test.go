//go:build integration

package python

import (
	"os/exec"
	"testing"
)

// TestIntegrationFrameworks serves applications of FastAPI, Starlette, Django and Flask as their users install them.
func TestIntegrationFrameworks(t *testing.T) {
	packages := t.TempDir()
	pip := exec.CommandContext(t.Context(), interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
		"--root-user-action=ignore", "--no-compile", "--target", packages, "-r", "tests/frameworks/requirements.txt")
	if out, err := pip.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run(t, "tests/frameworks", "FRAMEWORKS="+packages)
}
