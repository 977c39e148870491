package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestSmall keeps what is in every sandbox of runtime exec small.
func TestSmall(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(strings.Fields(string(out)), " "); got != "lambent/internal/cgi lambent/cmd/lambent-exec" {
		t.Errorf("it reaches %s", got)
	}
}
