package compile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"go.uber.org/goleak"

	"lambent"
	"lambent/executor/wasm/internal/abi"
	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/module"
	. "lambent/executor/wasm/internal/moduletest"
)

// compilerName is what the tests start themselves as to be a compiler process.
const compilerName = "compile-test"

func TestMain(m *testing.M) {
	if os.Args[0] == compilerName {
		var o struct {
			O Options
			L Limits
		}
		if err := json.Unmarshal([]byte(os.Args[2]), &o); err != nil {
			panic(err)
		}
		os.Exit(Main(os.Args[1], o.O, o.L, os.Stdout))
	}
	goleak.VerifyTestMain(m)
}

// guest is a loaded artefact, as a worker has it, but for the reset.
type guest struct {
	mod    api.Module
	kind   abi.Kind
	yields int
}

// load puts an artefact to use as a worker does. It fails when the engine compiles again.
func load(t *testing.T, dir string) *guest {
	files, err := artefact.Open(dir)
	must(t, err)
	defer files.Close()
	native := filepath.Join(t.TempDir(), files.Meta.Native)
	must(t, os.MkdirAll(filepath.Dir(native), 0o700))
	must(t, os.Link(files.Native.Name(), native))
	cache, err := wazero.NewCompilationCacheWithDir(filepath.Dir(filepath.Dir(native)))
	must(t, err)
	r := wazero.NewRuntimeWithConfig(t.Context(), artefact.Config(cache))
	t.Cleanup(func() {
		must(t, r.Close(context.Background()))
		must(t, cache.Close(context.Background()))
	})
	wasm, err := os.ReadFile(files.Module.Name())
	must(t, err)
	began := time.Now()
	compiled, err := r.CompileModule(t.Context(), wasm)
	must(t, err)
	t.Logf("%d bytes of module with %d of native code load in %v", len(wasm), size(t, native), time.Since(began))
	entries, err := os.ReadDir(filepath.Dir(native))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("the engine has compiled the module again: %v", entries)
	}
	g := &guest{kind: abi.Kind(files.Meta.Kind)}
	must(t, abi.Instantiate(t.Context(), r))
	_, err = r.NewHostModuleBuilder(module.YieldModule).NewFunctionBuilder().
		WithFunc(func() { g.yields++ }).Export(module.YieldName).Instantiate(t.Context())
	must(t, err)
	m := &memory{limit: int64(files.Meta.Pages+100) * module.PageSize}
	g.mod, err = r.InstantiateModule(experimental.WithMemoryAllocator(t.Context(), m), compiled,
		wazero.NewModuleConfig().WithName("").WithStartFunctions())
	must(t, err)
	if files.Meta.Image {
		if _, err := files.Image.ReadAt(m.now, 0); err != nil || size(t, files.Image.Name()) != int64(len(m.now)) {
			t.Fatalf("the image has %d bytes, the memory %d: %v", size(t, files.Image.Name()), len(m.now), err)
		}
	}
	g.mod.ExportedGlobal(files.Meta.Epoch).(api.MutableGlobal).Set(1)
	for _, name := range files.Meta.Init {
		_, err := g.mod.ExportedFunction(name).Call(abi.With(t.Context(), &abi.Call{Kind: g.kind, Log: func(string, []byte) {}}))
		must(t, err)
	}
	return g
}

func size(t *testing.T, path string) int64 {
	info, err := os.Stat(path)
	must(t, err)
	return info.Size()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (g *guest) request(t *testing.T, target string, body string) (status int, answer string) {
	var out bytes.Buffer
	call := &abi.Call{
		Kind: g.kind, Method: "POST", Target: target, Host: "h", Proto: "HTTP/1.1", Length: int64(len(body)),
		Body:    strings.NewReader(body),
		Respond: func(s int, _ []abi.Field, _ int64) error { status = s; return nil },
		Write:   out.Write,
		Log:     func(stream string, p []byte) { t.Logf("%s: %s", stream, p) },
	}
	_, err := g.mod.ExportedFunction(g.kind.Entry()).Call(abi.With(t.Context(), call))
	must(t, call.Finish(err))
	return status, out.String()
}

// write makes the artefact of a module in a folder.
func write(t *testing.T, wasm []byte, o Options) (*artefact.Artefact, string) {
	a, err := Compile(t.Context(), wasm, o)
	must(t, err)
	var stream bytes.Buffer
	must(t, a.Send(&stream))
	dir := t.TempDir()
	must(t, artefact.Receive(&stream, dir, nil))
	return a, dir
}

// TestWarmup: a request that is run before the snapshot is one that every instance has seen.
func TestWarmup(t *testing.T) {
	count := slices.Concat([]byte{0x41, 0xe4, 0, 0x41, 0xe4, 0, 0x2d, 0, 0, 0x41, 1, 0x6a, 0x3a, 0, 0}, []byte{0x41, 0xe4, 0, 0x41, 1, 0x10, 0})
	wasm := reactor(nil, Section(10, Vec(Body(0x41, 0xe4, 0, 0x41, 0x30, 0x3a, 0, 0), Body(count...))))
	for warmup, want := range map[string]string{"": "1", "/warm": "2"} {
		_, dir := write(t, wasm, Options{Warmup: warmup})
		if status, body := load(t, dir).request(t, "/", ""); status != 200 || body != want {
			t.Errorf("after the warm-up %q the answer is %d %q, want %q", warmup, status, body, want)
		}
	}
}

// TestNames: a stack trace of the artefact names the functions of the module.
func TestNames(t *testing.T) {
	names := Section(0, append(Name("name"), Section(1, Vec(append([]byte{0}, Name("outer")...), append([]byte{1}, Name("inner")...)))...))
	_, dir := write(t, append(Command([][]byte{Body(0x10, 1), Body(0)}), names...), Options{})
	_, err := load(t, dir).mod.ExportedFunction("_start").Call(t.Context())
	if err == nil || !strings.Contains(err.Error(), ".inner()\n\t.outer()") {
		t.Errorf("got %v", err)
	}
}

func expect(t *testing.T, err error, code lambent.Code, text string) {
	t.Helper()
	var own *lambent.Error
	if !errors.As(err, &own) || own.Code != code || !strings.Contains(own.Message, text) || own.Hint == "" {
		t.Errorf("got %#v, want %s with %q and a hint", err, code, text)
	}
}

// reactor is one whose _initialize has the code, and whose handle answers with byte 100 of the memory.
func reactor(initialize []byte, more ...[]byte) []byte {
	return Command([][]byte{Body(initialize...), Body(0x41, 0xe4, 0, 0x41, 1, 0x10, 0)}, append([][]byte{
		Section(1, Vec(Func("", ""), Func("\x7f\x7f", ""))),
		Section(2, Vec(Import("lambent_v1", "write", 1))),
		Section(7, Vec(Export("_initialize", 0, 1), Export("handle", 0, 2), Export("memory", 2, 0))),
	}, more...)...)
}

var loop = []byte{0x03, 0x40, 0x0c, 0, 0x0b}

func TestRefused(t *testing.T) {
	table := Section(4, Vec([]byte{0x70, 0, 1}))
	for _, test := range []struct {
		name string
		wasm []byte
		o    Options
		code lambent.Code
		text string
	}{
		{"nothing", nil, Options{}, lambent.CodeBundleInvalid, "no WebAssembly"},
		{"component", []byte("\x00asm\x0d\x00\x01\x00"), Options{}, lambent.CodeModuleUnsupported, "component"},
		{"ill typed", Command([][]byte{Body(0x1a)}), Options{}, lambent.CodeBundleInvalid, "drop"},
		{"threads", Command([][]byte{Body()}, Section(5, []byte{1, 3, 1, 1})), Options{}, lambent.CodeModuleUnsupported, "threads"},
		{"foreign import", Command([][]byte{Body()}, Section(2, Vec(Import("gojs", "x", 0)))), Options{}, lambent.CodeModuleUnsupported, "gojs"},
		{"no entry", Module(Section(5, []byte{1, 0, 1})), Options{}, lambent.CodeModuleUnsupported, "_start"},
		{"much memory", Command([][]byte{Body()}, Section(5, slices.Concat([]byte{1, 0}, U32(60_000)))), Options{}, lambent.CodeModuleUnsupported, "3750 MiB"},
		{"warm command", Command([][]byte{Body()}), Options{Warmup: "/"}, lambent.CodeModuleUnsupported, "cannot be warmed up"},
		{"warm with tables", reactor([]byte{0x41, 0, 0xd0, 0x70, 0x26, 0}, table), Options{Warmup: "/"}, lambent.CodeModuleUnsupported, "table.set"},
		{"trap", reactor([]byte{0}), Options{}, lambent.CodeStartFailed, "unreachable"},
		{"trap beside tables", reactor([]byte{0x41, 0, 0xd0, 0x70, 0x26, 0, 0}, table), Options{}, lambent.CodeStartFailed, "unreachable"},
		{"endless", reactor(loop), Options{Start: 50 * time.Millisecond}, lambent.CodeStartFailed, "more than 50ms"},
		{"recursion", reactor([]byte{0x10, 1}), Options{}, lambent.CodeStartFailed, "stack overflow"},
		{"endless start", Command([][]byte{Body(loop...)}, Section(8, []byte{0})), Options{Start: 50 * time.Millisecond}, lambent.CodeStartFailed, "more than 50ms"},
		{"memory in a loop", reactor([]byte{0x03, 0x40, 0x41, 1, 0x40, 0, 0x41, 0x7f, 0x47, 0x0d, 0, 0x0b, 0}), Options{}, lambent.CodeStartFailed, "unreachable"},
		{"data outside", Command([][]byte{Body()}, Section(11, Vec(slices.Concat([]byte{0, 0x41, 0x7f, 0x0b}, Name("x"))))), Options{}, lambent.CodeStartFailed, "data"},
		{"warm-up refused", Command([][]byte{Body(0x41, 0xf4, 3, 0x41, 0, 0x41, 0, 0x10, 0)},
			Section(1, Vec(Func("", ""), Func("\x7f\x7f\x7f", ""))), Section(2, Vec(Import("lambent_v1", "respond", 1))),
			Section(7, Vec(Export("handle", 0, 1), Export("memory", 2, 0)))), Options{Warmup: "/"}, lambent.CodeStartFailed, "status 500"},
		{"answer at start", reactor([]byte{0x41, 0, 0x41, 1, 0x10, 0}), Options{}, lambent.CodeStartFailed, "no request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Compile(t.Context(), test.wasm, test.o)
			expect(t, err, test.code, test.text)
		})
	}
}

// TestStates: what code at the start has changed is there in the worker, with a snapshot and without.
func TestStates(t *testing.T) {
	store := []byte{0x41, 0xe4, 0, 0x41, 0x2a, 0x3a, 0, 0}             // byte 100 = '*'
	grow := []byte{0x41, 3, 0x40, 0, 0x1a}                             // three pages more
	setTable := []byte{0x41, 0, 0xd0, 0x70, 0x26, 0}                   // table[0] = null
	initData := []byte{0x41, 0xe4, 0, 0x41, 0, 0x41, 1, 0xfc, 8, 0, 0} // byte 100 = first of segment 0
	table := Section(4, Vec([]byte{0x70, 0, 1}))
	data := Section(11, Vec(slices.Concat([]byte{1}, Name("*")), slices.Concat([]byte{0, 0x41, 0, 0x0b}, Name("abc"))))
	for _, test := range []struct {
		name  string
		wasm  []byte
		image bool
		pages uint32
	}{
		{"memory", reactor(slices.Concat(store, grow)), true, 4},
		{"data", reactor(initData, data, Section(12, []byte{2})), true, 1},
		{"table", reactor(slices.Concat(store, setTable, grow), table), false, 1},
		{"start", reactor(nil, Section(8, []byte{3}), Section(3, Vec([]byte{0}, []byte{0}, []byte{0})),
			Section(10, Vec(Body(), Body(0x41, 0xe4, 0, 0x41, 1, 0x10, 0), Body(store...)))), true, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, dir := write(t, test.wasm, Options{})
			if a.Meta.Image != test.image || a.Meta.Pages != test.pages || (len(a.Meta.Fresh) == 0) != test.image {
				t.Errorf("%+v", a.Meta)
			}
			if _, body := load(t, dir).request(t, "/", ""); body != "*" {
				t.Errorf("the answer is %q", body)
			}
		})
	}
}

// TestDigest: the engine finds the native code of one module as that of another, and when it does not, the other one is
// compiled. The code of both is the same.
func TestDigest(t *testing.T) {
	s, err := openShop(t.TempDir())
	must(t, err)
	m, err := module.Parse(reactor(loop, Section(6, Vec([]byte{0x7f, 1, 0x41, 3, 0x0b}))))
	must(t, err)
	in := m.Instrument()
	must(t, s.only(t.Context(), in.Wasm))
	before, code, err := s.read()
	must(t, err)
	baked := in.Bake(module.Snapshot{Pages: 9, Globals: []uint64{4}})
	for _, wrong := range []bool{false, true} {
		compiled := in.Wasm
		if wrong {
			compiled = compiled[:20]
		}
		must(t, s.only(t.Context(), in.Wasm))
		found, err := s.rename(t.Context(), compiled, baked)
		must(t, err)
		if found == wrong {
			t.Errorf("found: %t, wrong digest: %t", found, wrong)
		}
	}
	must(t, s.only(t.Context(), baked))
	after, again, err := s.read()
	must(t, err)
	if after == before || !bytes.Equal(code, again) {
		t.Errorf("%s with %d bytes, %s with %d bytes", before, len(code), after, len(again))
	}
}

// process runs a compiler process and receives what it says.
func process(t *testing.T, wasm []byte, o Options, l Limits) (string, error) {
	path := filepath.Join(t.TempDir(), "main.wasm")
	must(t, os.WriteFile(path, wasm, 0o600))
	text, err := json.Marshal(struct {
		O Options
		L Limits
	}{Options{Warmup: o.Warmup, Start: o.Start, Dir: t.TempDir()}, l})
	must(t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{compilerName, path, string(text)}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	dir := t.TempDir()
	received := artefact.Receive(out, dir, nil)
	must(t, cmd.Wait())
	return dir, received
}

func TestProcess(t *testing.T) {
	dir, err := process(t, reactor([]byte{0x41, 0xe4, 0, 0x41, 0x2a, 0x3a, 0, 0}), Options{}, Limits{})
	must(t, err)
	if _, body := load(t, dir).request(t, "/", ""); body != "*" {
		t.Errorf("the answer is %q", body)
	}
	_, err = process(t, reactor([]byte{0}), Options{}, Limits{})
	expect(t, err, lambent.CodeStartFailed, "unreachable")
}

// TestBombs: what would take the compiler minutes and gigabytes ends when its limits are met.
func TestBombs(t *testing.T) {
	nested := Body(slices.Concat(bytes.Repeat([]byte{3, 0x40}, 49_990), bytes.Repeat([]byte{0x0b}, 49_990))...)
	variables := slices.Concat(Vec(append(U32(50_000), 0x7f)), []byte{0x0b})
	variables = append(U32(len(variables)), variables...)
	_, err := process(t, Command([][]byte{nested}), Options{}, Limits{Time: time.Millisecond})
	expect(t, err, lambent.CodeStartTimeout, "more than 1ms")
	_, err = process(t, Command(slices.Repeat([][]byte{variables}, 20_000)), Options{}, Limits{Memory: 200 << 20})
	expect(t, err, lambent.CodeStartFailed, "more than 200 MiB")
	_, err = process(t, reactor(loop), Options{Start: 50 * time.Millisecond}, Limits{})
	expect(t, err, lambent.CodeStartFailed, "more than 50ms")
}

// TestSystem: that the machine lacks something for now is not said of the module.
func TestSystem(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	must(t, err)
	defer cache.Close(t.Context())
	r := wazero.NewRuntimeWithConfig(t.Context(), artefact.Config(cache))
	defer r.Close(t.Context())
	must(t, os.RemoveAll(dir))
	if _, err := translate(t.Context(), r, Command([][]byte{Body()})); !lambent.HasCode(err, lambent.CodeInternal) {
		t.Errorf("got %v", err)
	}
}
