package engine

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// built remembers modules for the whole run of the tests.
var built sync.Map

func buildOnce(t testing.TB, name string, build func(out string) *exec.Cmd) []byte {
	t.Helper()
	if wasm, ok := built.Load(name); ok {
		return wasm.([]byte)
	}
	out := filepath.Join(t.TempDir(), "guest.wasm")
	if text, err := build(out).CombinedOutput(); err != nil {
		t.Fatalf("build of %s: %v\n%s", name, err, text)
	}
	wasm, err := os.ReadFile(out)
	check(t, err)
	built.Store(name, wasm)
	return wasm
}

// cGuest is testdata/guest.c.
func cGuest(t testing.TB) []byte {
	return buildOnce(t, "guest.c", func(out string) *exec.Cmd {
		return exec.Command("clang", "--target=wasm32", "-nostdlib", "-O2", "-mbulk-memory", "-Wl,--no-entry",
			"-Wl,-z,stack-size=65536", "-o", out, "testdata/guest.c")
	})
}

// goGuest is testdata/guest: a Go reactor.
func goGuest(t testing.TB) []byte {
	return buildOnce(t, "guest", func(out string) *exec.Cmd {
		cmd := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", out, "./testdata/guest")
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
		return cmd
	})
}
