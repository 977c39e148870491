package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestStaysSmall keeps what is in every sandbox small: few packages, few bytes.
func TestStaysSmall(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"golang.org/x/sys/unix", "lambent/internal/sandbox", "lambent/cmd/lambent-init"}
	if got := strings.Fields(string(out)); !slices.Equal(got, want) {
		t.Errorf("it reaches %v, want %v", got, want)
	}
	file := filepath.Join(t.TempDir(), "lambent-init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 3<<20 {
		t.Errorf("it has %d bytes", info.Size())
	}
}
