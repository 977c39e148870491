package engine

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// goBuild builds a package for wasip1.
func goBuild(t testing.TB, dir string, flags ...string) []byte {
	return buildOnce(t, dir, func(out string) *exec.Cmd {
		cmd := exec.Command("go", slices.Concat([]string{"build", "-ldflags=-s -w", "-o", out}, flags, []string{"./" + dir})...)
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
		return cmd
	})
}

// goGuest is a Go reactor.
func goGuest(t testing.TB) []byte { return goBuild(t, "testdata/guest", "-buildmode=c-shared") }

func goCommand(t testing.TB) []byte { return goBuild(t, "testdata/command") }

func cCommand(t testing.TB) []byte {
	return buildOnce(t, "command.c", func(out string) *exec.Cmd {
		return exec.Command("clang", "--target=wasm32-wasi", "-Os", "-Wl,--stack-first", "-o", out, "testdata/command.c")
	})
}

func rustCommand(t testing.TB) []byte {
	return buildOnce(t, "command.rs", func(out string) *exec.Cmd {
		return exec.Command("/usr/bin/rustc", "--target=wasm32-wasi", "-O", "-o", out, "testdata/command.rs")
	})
}

func scriptGuest(t testing.TB) []byte {
	compilers, err := filepath.Glob("/usr/local/lib/lambent/assemblyscript/*/node_modules/assemblyscript/bin/asc.js")
	check(t, err)
	if len(compilers) == 0 {
		t.Fatal("scripts/setup has not been run")
	}
	return buildOnce(t, "guest.ts", func(out string) *exec.Cmd {
		return exec.Command("node", compilers[0], "testdata/guest.ts", "-O", "--runtime", "minimal", "--use", "abort=", "-o", out)
	})
}

// helloGuest is testdata/hello.c, another module for each salt.
func helloGuest(t testing.TB, salt uint32) []byte {
	wasm := buildOnce(t, "hello.c", func(out string) *exec.Cmd {
		return exec.Command("clang", "--target=wasm32", "-nostdlib", "-O2", "-Wl,--no-entry",
			"-Wl,-z,stack-size=65536", "-o", out, "testdata/hello.c")
	})
	// An i32.const of five bytes: the constant of the source would take four, and the linker pads nothing.
	old := []byte{0x41, 0xa1, 0x86, 0x95, 0x3b}
	if bytes.Count(wasm, old) != 1 {
		t.Fatalf("the constant is there %d times: % x", bytes.Count(wasm, old), wasm)
	}
	return bytes.Replace(wasm, old, []byte{0x41, 0x80 | byte(salt&0x7f), 0x80 | byte(salt>>7&0x7f), 0x80 | byte(salt>>14&0x7f), byte(salt >> 21 & 0x3f)}, 1)
}
