package compile

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tetratelabs/wazero"

	"lambent/executor/wasm/internal/artefact"
)

// build makes a reactor of the Go program.
func build(t testing.TB) []byte {
	out := filepath.Join(t.TempDir(), "main.wasm")
	cmd := exec.Command("go", "build", "-o", out, "-buildmode=c-shared", "-ldflags=-s -w", "./testdata/reactor")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	wasm, err := os.ReadFile(out)
	must(t, err)
	return wasm
}

// BenchmarkLoad has the engine load a module of Go, as a worker does after a restart.
func BenchmarkLoad(b *testing.B) {
	a, err := Compile(b.Context(), build(b), Options{})
	must(b, err)
	dir := b.TempDir()
	native := filepath.Join(dir, a.Meta.Native)
	must(b, os.MkdirAll(filepath.Dir(native), 0o700))
	must(b, os.WriteFile(native, a.Native, 0o400))
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	must(b, err)
	r := wazero.NewRuntimeWithConfig(b.Context(), artefact.Config(cache))
	b.ReportAllocs()
	for b.Loop() {
		c, err := r.CompileModule(b.Context(), a.Module)
		must(b, err)
		must(b, c.Close(b.Context()))
	}
	must(b, r.Close(b.Context()))
}
