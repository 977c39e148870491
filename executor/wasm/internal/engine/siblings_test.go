package engine

import (
	"io"
	"testing"

	"lambent/executor/wasm/internal/artefact"
	pipeline "lambent/executor/wasm/internal/compile"
	. "lambent/executor/wasm/internal/moduletest"
)

// Two functions whose modules differ in one constant of their code run in one worker, each its own code.
func TestSiblings(t *testing.T) {
	e := open(t, Options{})
	programs := map[string]*Program{}
	for _, says := range []string{"0", "1"} {
		wasm := Module(
			Section(1, Vec(Func("", ""), Func("\x7f\x7f", ""))),
			Section(2, Vec(Import("lambent_v1", "write", 1))),
			Section(3, Vec([]byte{0})),
			Section(5, []byte{1, 0, 1}),
			Section(7, Vec(Export("handle", 0, 1), Export("memory", 2, 0))),
			Section(10, Vec(Body(0x41, 8, 0x41, says[0], 0x3a, 0, 0, 0x41, 8, 0x41, 1, 0x10, 0))))
		a, err := pipeline.Compile(t.Context(), wasm, pipeline.Options{})
		check(t, err)
		dir := t.TempDir()
		r, w := io.Pipe()
		go func() { w.CloseWithError(a.Send(w)) }()
		check(t, artefact.Receive(r, dir, nil))
		files, err := artefact.Open(dir)
		check(t, err)
		programs[says], err = e.Load(t.Context(), files, wasmPage)
		check(t, err)
		check(t, files.Close())
		t.Cleanup(func() { check(t, programs[says].Close()) })
	}
	for says, p := range programs {
		body, _, err := call(t, p, to("/"), Limits{})
		check(t, err)
		if body != says {
			t.Errorf("function %s says %q", says, body)
		}
	}
}
