package wasm

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"lambent"
	"lambent/executor/wasm/internal/moduletest"
)

// hello makes a bundle of a small command that answers with a line.
func hello(t testing.TB) (dir string) {
	t.Helper()
	const answer = "Content-Type: text/plain\n\nhello\n"
	memory := binary.LittleEndian.AppendUint32(nil, 16) // an iovec at 0: the text at 16, and its length
	memory = append(binary.LittleEndian.AppendUint32(memory, uint32(len(answer))), make([]byte, 8)...)
	text := moduletest.Module(
		moduletest.Section(1, moduletest.Vec(moduletest.Func("\x7f\x7f\x7f\x7f", "\x7f"), moduletest.Func("", ""))),
		moduletest.Section(2, moduletest.Vec(moduletest.Import("wasi_snapshot_preview1", "fd_write", 0))),
		moduletest.Section(3, moduletest.Vec([]byte{1})),
		moduletest.Section(5, moduletest.Vec([]byte{0, 1})),
		moduletest.Section(7, moduletest.Vec(moduletest.Export("memory", 2, 0), moduletest.Export("_start", 0, 1))),
		moduletest.Section(10, moduletest.Vec(moduletest.Body(0x41, 1, 0x41, 0, 0x41, 1, 0x41, 8, 0x10, 0, 0x1a))),
		moduletest.Section(11, moduletest.Vec(append([]byte{0, 0x41, 0, 0x0b}, moduletest.Name(string(memory)+answer)...))),
	)
	dir = t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "fixture.wasm"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// BenchmarkHandle asks a small command, one request after another and many at a time.
func BenchmarkHandle(b *testing.B) {
	n := newBed(b, hello(b))
	g := n.start(b, "default", nil)
	ask := func() {
		if text, err := g.do(g.invocation("GET", "/", "")); text != "hello\n" || err != nil {
			b.Errorf("%q, %v", text, err)
		}
	}
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ask()
		}
	})
	b.Run("many", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(16)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				ask()
			}
		})
	})
}

// BenchmarkStart loads a small command whose artefact is there.
func BenchmarkStart(b *testing.B) {
	n := newBed(b, hello(b))
	rev := revision(b, "default", nil)
	var phases lambent.Phases
	for b.Loop() {
		g, err := n.try(b, n.code, rev)
		if err != nil {
			b.Fatal(err)
		}
		phases = g.StartPhases()
		g.Stop(0)
	}
	b.ReportMetric(float64(phases[lambent.PhaseLoad].Microseconds()), "load-us")
}
