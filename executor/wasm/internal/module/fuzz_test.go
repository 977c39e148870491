package module_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"

	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/module"
	. "lambent/executor/wasm/internal/moduletest"
)

// seed adds small modules of the test suite, a few of each of its files, and some by hand.
func seed(f *testing.F) {
	last, n := "", 0
	for _, path := range suite(f, ".wasm") {
		name, _, _ := strings.Cut(path, ".")
		if name != last {
			last, n = name, 0
		}
		if info, err := os.Stat(path); err != nil || info.Size() > 2000 || n == 3 {
			continue
		}
		n++
		f.Add(read(f, path))
	}
	f.Add(Command([][]byte{Body(0x10, 0), Body(0x03, 0x40, 0x0c, 0, 0x0b)}, Section(0, append(Name("name"), 1, 4, 1, 0, 1, 'f'))))
}

// FuzzParse: whatever the bytes are, Parse accepts them or says where they are wrong.
func FuzzParse(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, wasm []byte) {
		m, err := module.Parse(wasm)
		if err == nil {
			m.Facts()
			return
		}
		var own *module.Error
		if !errors.As(err, &own) || own.What == "" || own.Offset < 0 || own.Offset > len(wasm) {
			t.Fatalf("%#v", err)
		}
	})
}

// FuzzInstrument: the engine says of what Instrument makes what it says of the module, and takes it baked as well.
func FuzzInstrument(f *testing.F) {
	seed(f)
	r := wazero.NewRuntimeWithConfig(f.Context(), wazero.NewRuntimeConfigInterpreter().
		WithCoreFeatures(artefact.Features).WithDebugInfoEnabled(false))
	f.Cleanup(func() { r.Close(f.Context()) })
	f.Fuzz(func(t *testing.T, wasm []byte) {
		m, err := module.Parse(wasm)
		if err != nil || !agree(t, r, bare(wasm)) {
			return
		}
		in := m.Instrument()
		s := module.Snapshot{Globals: make([]uint64, len(in.Globals))}
		if memory := m.Facts().Memory; memory != nil {
			s.Pages = memory.Max
		}
		for i := range s.Globals {
			s.Globals[i] = 0xfedc_ba98_8000_0001 * uint64(i+1)
		}
		c, err := r.CompileModule(t.Context(), in.Bake(s))
		if err != nil {
			t.Fatalf("the engine refuses the baked module: %v", err)
		}
		c.Close(t.Context())
		if _, err := module.Parse(in.Wasm); err != nil {
			t.Fatalf("Parse refuses the instrumented module: %v", err)
		}
	})
}

// bare is a module without its custom sections: the engine believes the counts in them.
func bare(wasm []byte) []byte {
	out := append([]byte(nil), wasm[:8]...)
	for at := 8; at < len(wasm); {
		size, n := 0, 0
		for shift, more := 0, true; more; shift, n = shift+7, n+1 {
			size |= int(wasm[at+1+n]&0x7f) << shift
			more = wasm[at+1+n] >= 0x80
		}
		end := at + 1 + n + size
		if wasm[at] != 0 {
			out = append(out, wasm[at:end]...)
		}
		at = end
	}
	return out
}
