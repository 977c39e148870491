package module_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/module"
)

// suite lists the files of the engine's source that end in suffix: it has the WebAssembly test suite as binaries.
func suite(t testing.TB, suffix string) (files []string) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(strings.TrimSpace(string(out)), func(path string, d fs.DirEntry, err error) error {
		if strings.HasSuffix(path, suffix) {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatal("the engine's test suite is not there: ", err)
	}
	return files
}

func read(t testing.TB, path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// agree checks that what the engine and Parse accept, the engine accepts instrumented, and that what the engine
// refuses, it refuses instrumented too, so that checking the one checks the other.
func agree(t testing.TB, r wazero.Runtime, wasm []byte) (accepted bool) {
	m, err := module.Parse(wasm)
	if err != nil {
		return false
	}
	in := m.Instrument().Wasm
	changed, wrong := r.CompileModule(t.Context(), in)
	original, want := r.CompileModule(t.Context(), wasm)
	for _, c := range []wazero.CompiledModule{changed, original} {
		if c != nil {
			c.Close(t.Context())
		}
	}
	// A start function is exported, which declares it as one that a reference may be made of.
	if wrong == nil && want != nil && m.Facts().Start && strings.Contains(want.Error(), "undeclared function index") {
		return true
	}
	if (wrong == nil) != (want == nil) {
		t.Errorf("the engine says %v of the module and %v of the instrumented one", want, wrong)
	}
	return wrong == nil
}

func TestSuiteAccepts(t *testing.T) {
	r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter().
		WithCoreFeatures(artefact.Features).WithDebugInfoEnabled(false))
	defer r.Close(t.Context())
	accepted := 0
	for _, path := range suite(t, ".wasm") {
		if agree(t, r, read(t, path)) {
			accepted++
		}
		if t.Failed() {
			t.Fatal(path)
		}
	}
	if t.Logf("%d modules accepted", accepted); accepted < 2000 {
		t.Errorf("only %d modules were accepted", accepted)
	}
}

// TestGo: modules of Go's compiler are accepted and can be baked, whole programs and reactors.
func TestGo(t *testing.T) {
	r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter().
		WithCoreFeatures(artefact.Features).WithDebugInfoEnabled(false))
	defer r.Close(t.Context())
	for _, mode := range []string{"exe", "c-shared"} {
		out := filepath.Join(t.TempDir(), "main.wasm")
		cmd := exec.Command("go", "build", "-o", out, "-buildmode="+mode, "./testdata/program")
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		wasm := read(t, out)
		if !agree(t, r, wasm) {
			t.Fatalf("a module of mode %s is refused", mode)
		}
		m, err := module.Parse(wasm)
		if err != nil {
			t.Fatal(err)
		}
		in := m.Instrument()
		baked := in.Hollow().Bake(module.Snapshot{Pages: m.Facts().Memory.Min, Globals: make([]uint64, len(in.Globals))})
		if _, err := r.CompileModule(t.Context(), baked); err != nil || len(m.Facts().Stateful) > 0 {
			t.Errorf("mode %s: %v, %v", mode, err, m.Facts().Stateful)
		}
		for _, b := range [][]byte{in.Wasm, baked} {
			if !bytes.Contains(b, []byte("main.handle")) {
				t.Errorf("mode %s: the names of functions are gone", mode)
			}
		}
	}
}

// command of a file of the test suite, as wast2json writes it.
type command struct {
	Type, Name, Filename string
	Action               struct {
		Type, Module, Field string
		Args                []value
	}
}

type value struct {
	Type     string
	LaneType string `json:"lane_type"`
	Value    json.RawMessage
}

func (v value) words(t testing.TB) []uint64 {
	number := func(s string) uint64 {
		if s == "null" {
			return 0
		}
		if strings.HasPrefix(s, "nan:") {
			return 0x7ff8_0000_7fc0_0000
		}
		n, err := strconv.ParseUint(s, 10, 64)
		if strings.HasPrefix(s, "-") {
			var signed int64
			signed, err = strconv.ParseInt(s, 10, 64)
			n = uint64(signed)
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if v.Type != "v128" {
		var s string
		if err := json.Unmarshal(v.Value, &s); err != nil {
			t.Fatal(err)
		}
		return []uint64{number(s)}
	}
	var lanes []string
	if err := json.Unmarshal(v.Value, &lanes); err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, lane := range lanes {
		b = append(b, binary.LittleEndian.AppendUint64(nil, number(lane))[:16/len(lanes)]...)
	}
	return []uint64{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}
}

// pair is a module as it was and the same instrumented, whose epoch asks for the first hundred yields of each call.
type pair struct {
	original, changed api.Module
	epoch             api.MutableGlobal
	memory            bool
}

func (p *pair) invoke(ctx context.Context, field string, args []uint64) (want, got string) {
	call := func(m api.Module) string {
		f := m.ExportedFunction(field)
		if f == nil {
			return "no function"
		}
		results, err := f.Call(ctx, args...)
		for i, typ := range f.Definition().ResultTypes() {
			if typ == api.ValueType(module.FuncRef) && results != nil {
				results[i] = min(results[i], 1) // else an address
			}
		}
		text, _, _ := strings.Cut(fmt.Sprint(err), "\n")
		return fmt.Sprint(results, " ", text)
	}
	p.epoch.Set(1)
	return call(p.original), call(p.changed)
}

// engines run the modules of one file, one those as they were and one the instrumented ones.
type engines struct {
	original, changed wazero.Runtime
	asked             api.MutableGlobal // epoch of the module that runs
	yields            int
}

func newEngines(t testing.TB) *engines {
	e := &engines{}
	for _, r := range []*wazero.Runtime{&e.original, &e.changed} {
		*r = wazero.NewRuntimeWithConfig(t.Context(), artefact.Config(nil))
		host := (*r).NewHostModuleBuilder(module.YieldModule)
		host.NewFunctionBuilder().WithFunc(func() {
			if e.yields++; e.yields%100 == 0 {
				e.asked.Set(0)
			}
		}).Export(module.YieldName)
		if _, err := host.Instantiate(t.Context()); err != nil {
			t.Fatal(err)
		}
		host = (*r).NewHostModuleBuilder("spectest")
		host.NewFunctionBuilder().WithFunc(func() {}).Export("print")
		host.NewFunctionBuilder().WithFunc(func(int32) {}).Export("print_i32")
		host.NewFunctionBuilder().WithFunc(func(int64) {}).Export("print_i64")
		host.NewFunctionBuilder().WithFunc(func(float32) {}).Export("print_f32")
		host.NewFunctionBuilder().WithFunc(func(float64) {}).Export("print_f64")
		host.NewFunctionBuilder().WithFunc(func(int32, float32) {}).Export("print_i32_f32")
		host.NewFunctionBuilder().WithFunc(func(float64, float64) {}).Export("print_f64_f64")
		if _, err := host.Instantiate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func (e *engines) close() {
	e.original.Close(context.Background())
	e.changed.Close(context.Background())
}

func (e *engines) load(t testing.TB, wasm []byte) (p *pair, ok bool) {
	m, err := module.Parse(wasm)
	if err != nil {
		return nil, false
	}
	p = &pair{memory: m.Facts().Memory != nil}
	config := wazero.NewModuleConfig().WithName("")
	if p.original, err = e.original.InstantiateWithConfig(t.Context(), wasm, config); err != nil {
		return nil, false // imports of other modules, or a start that traps
	}
	in := m.Instrument()
	if p.changed, err = e.changed.InstantiateWithConfig(t.Context(), in.Wasm, config); err != nil {
		t.Fatal(err)
	}
	p.epoch = p.changed.ExportedGlobal(in.Epoch).(api.MutableGlobal)
	if in.Start != "" {
		e.asked = p.epoch
		p.epoch.Set(1)
		if _, err := p.changed.ExportedFunction(in.Start).Call(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return p, true
}

func (p *pair) same(t testing.TB) {
	if !p.memory {
		return
	}
	if m, n := p.original.Memory(), p.changed.Memory(); m.Size() != n.Size() {
		t.Errorf("memories of %d and %d bytes", m.Size(), n.Size())
	} else if a, _ := m.Read(0, m.Size()); true {
		if b, _ := n.Read(0, n.Size()); !bytes.Equal(a, b) {
			t.Error("memories differ")
		}
	}
}

// TestSuiteBehaves runs the calls of the test suite in modules as they are and instrumented: same results, same traps,
// same memory.
func TestSuiteBehaves(t *testing.T) {
	calls, modules, yields := 0, 0, 0
	files := suite(t, ".json")
	files = slices.DeleteFunc(files, func(path string) bool {
		arithmetic := strings.HasPrefix(filepath.Base(path), "simd_f") || strings.HasPrefix(filepath.Base(path), "simd_i")
		return arithmetic || strings.Contains(path, "/v1/") // the one tells about the engine, the other is in version 2 again
	})
	for _, path := range files {
		var script struct{ Commands []command }
		if err := json.Unmarshal(read(t, path), &script); err != nil {
			t.Fatal(err)
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			e := newEngines(t)
			defer e.close()
			defer func() { yields += e.yields }()
			named, now, usable := map[string]*pair{}, (*pair)(nil), false
			for _, c := range script.Commands {
				switch c.Type {
				case "module":
					if now, usable = e.load(t, read(t, filepath.Join(filepath.Dir(path), c.Filename))); usable {
						modules++
						named[c.Name] = now
					} else {
						delete(named, c.Name)
					}
				case "assert_return", "assert_trap", "action", "assert_exhaustion":
					p, ok := now, usable
					if c.Action.Module != "" {
						p, ok = named[c.Action.Module]
					}
					if !ok || c.Action.Type != "invoke" {
						continue
					}
					var args []uint64
					for _, a := range c.Action.Args {
						args = append(args, a.words(t)...)
					}
					calls++
					e.asked = p.epoch
					if want, got := p.invoke(t.Context(), c.Action.Field, args); want != got {
						t.Errorf("%s%v: %s as it was, %s instrumented", c.Action.Field, args, want, got)
					}
				}
			}
			for _, p := range named {
				p.same(t)
			}
		})
	}
	if t.Logf("%d calls in %d modules, %d yields", calls, modules, yields); calls < 15_000 || yields < calls {
		t.Errorf("only %d calls in %d modules, and %d yields", calls, modules, yields)
	}
}
