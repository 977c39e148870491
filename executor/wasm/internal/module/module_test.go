package module_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/module"
	. "lambent/executor/wasm/internal/moduletest"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFacts(t *testing.T) {
	wasm := Module(
		Section(1, Vec(Func("\x7f\x7e", "\x7d"), Func("", ""))),
		Section(2, Vec(Import("m", "f", 0), Import("", "g", 1))),
		Section(3, Vec([]byte{1}, []byte{1})),
		Section(4, Vec([]byte{0x70, 0, 1}, []byte{0x6f, 1, 2, 9})),
		Section(5, []byte{1, 1, 2, 5}),
		Section(6, Vec([]byte{0x7f, 1, 0x41, 3, 0x0b}, []byte{0x7b, 1, 0xfd, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0b}, []byte{0x70, 0, 0xd2, 2, 0x0b})),
		Section(7, Vec(Export("f", 0, 0), Export("h", 0, 2), Export("m", 2, 0), Export("t", 1, 1), Export("g", 3, 0))),
		Section(8, []byte{3}),
		Section(10, Vec(Body(0x41, 0, 0xd0, 0x70, 0x26, 0), Body(0x41, 0, 0xd0, 0x70, 0x26, 0, 0x41, 0, 0x25, 0, 0x41, 1, 0xfc, 15, 0, 0x1a))),
	)
	m, err := module.Parse(wasm)
	check(t, err)
	typed := module.FuncType{Params: []module.ValueType{module.I32, module.I64}, Results: []module.ValueType{module.F32}}
	want := module.Facts{
		Imports: []module.Import{{Module: "m", Name: "f", Type: typed}, {Name: "g"}},
		Exports: []module.Export{{Name: "f", Type: typed}, {Name: "h"}, {Name: "m", Kind: module.KindMemory},
			{Name: "t", Kind: module.KindTable}, {Name: "g", Kind: module.KindGlobal}},
		Memory:   &module.Memory{Min: 2, Max: 5},
		Start:    true,
		Stateful: []string{"table.grow in function 3", "table.set in function 2", "global 1 is a variable of type v128"},
	}
	got := m.Facts()
	if got.Overhead <= 0 {
		t.Errorf("its instances take %d bytes besides memory", got.Overhead)
	}
	got.Overhead = 0 // how much it is the engine's tests compare with what its heap has
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if _, ok := want.Export("h", module.KindMemory); ok {
		t.Error("an export of another kind was found")
	}
}

func TestRefused(t *testing.T) {
	code := func(b ...byte) []byte { return Command([][]byte{Body(b...)}) }
	function := func(body []byte) []byte { return append(U32(len(body)), body...) }
	for _, test := range []struct {
		name, want, hint string
		wasm             []byte
	}{
		{"nothing", "no WebAssembly module", "", nil},
		{"text", "no WebAssembly module", "", []byte("(module)")},
		{"header", "cut off", "", []byte("\x00asm\x01")},
		{"version", "version 2", "", []byte("\x00asm\x02\x00\x00\x00")},
		{"component", "component", "wasm32-wasip1", []byte("\x00asm\x0d\x00\x01\x00")},
		{"size", "more than", "", make([]byte, module.MaxSize+1)},
		{"cut section", "cut off", "", Module([]byte{1, 5, 0})},
		{"long number", "32 bits", "", Module([]byte{1, 0x80, 0x80, 0x80, 0x80, 0x10})},
		{"sections twice", "wrong place", "", Module(Section(3, []byte{0}), Section(3, []byte{0}))},
		{"late section", "wrong place", "", Module(Section(10, []byte{0}), Section(12, []byte{0}))},
		{"unknown section", "no section 14", "", Module(Section(14, nil))},
		{"rest of a section", "too many", "", Module(Section(1, []byte{0, 0}))},
		{"many types", "more than", "", Module(Section(1, U32(1<<30)))},
		{"types that are not there", "do not fit", "", Module(Section(1, U32(1000)))},
		{"tag", "exception", "fno-exceptions", Module(Section(13, []byte{0}))},
		{"struct type", "garbage collected", "collector", Module(Section(1, []byte{1, 0x5f, 0}))},
		{"typed reference", "function references", "wasm32-wasip1", Module(Section(1, []byte{1, 0x60, 1, 0x64, 0x70, 0}))},
		{"imported memory", `imports the memory "x" of "m"`, "--import-memory", Module(Section(2, Vec(slices.Concat(Name("m"), Name("x"), []byte{2, 0, 1}))))},
		{"unknown type", "no type 1", "", Module(Section(1, Vec(Func("", ""))), Section(3, []byte{1, 1}))},
		{"table that is cut off", "a table is cut off", "", Module(Section(4, []byte{2, 0x70, 0, 0}))},
		{"large table", "together", "", Module(Section(4, Vec(append([]byte{0x70, 0}, U32(module.MaxElements+1)...))))},
		{"two memories", "several memories", "wasm32-wasip1", Module(Section(5, []byte{2, 0, 1, 0, 1}))},
		{"shared memory", "threads", "-pthread", Module(Section(5, []byte{1, 3, 1, 1}))},
		{"64-bit memory", "64-bit", "32-bit", Module(Section(5, []byte{1, 4, 1}))},
		{"huge memory", "impossible", "", Module(Section(5, append([]byte{1, 0}, U32(65537)...)))},
		{"export twice", `"a"`, "", Command([][]byte{Body()}, Section(7, Vec(Export("a", 0, 0), Export("a", 0, 0))))},
		{"export of nothing", "no function 1", "", Command([][]byte{Body()}, Section(7, Vec(Export("a", 0, 1))))},
		{"export of the epoch", "no global 0", "", Command([][]byte{Body()}, Section(7, Vec(Export("a", 3, 0))))},
		{"start with a result", "start function", "", Command([][]byte{Body()}, Section(1, Vec(Func("", "\x7f"))), Section(8, []byte{0}))},
		{"no code", "1 functions are declared and 0", "", Module(Section(1, Vec(Func("", ""))), Section(3, []byte{1, 0}))},
		{"a million variables", "50000 local", "", Command([][]byte{function(slices.Concat(Vec(append(U32(1_000_000), 0x7f)), []byte{0x0b}))})},
		{"a million branches", "more than 65520", "", code(append(append([]byte{0x41, 0, 0x0e}, U32(1_000_000)...), make([]byte, 1_000_001)...)...)},
		{"references without end", "more than 65536 references", "", code(bytes.Repeat([]byte{0xd2, 0, 0x1a}, 65537)...)},
		{"blocks in blocks", "deeper than", "", code(append(bytes.Repeat([]byte{2, 0x40}, 100_000), bytes.Repeat([]byte{0x0b}, 100_000)...)...)},
		{"long function", "larger than", "", code(make([]byte, module.MaxBody)...)},
		{"many functions", "more than", "", Module(Section(1, Vec(Func("", ""))), Section(3, append(U32(200_000), make([]byte, 200_000)...)))},
		{"unended function", "cut off", "", Command([][]byte{function([]byte{0, 0x02, 0x40, 0x0b})})},
		{"code after the end", "too many", "", code(0x0b, 0x01)},
		{"branch outside", "no block label 1", "", code(0x0c, 1)},
		{"call of nothing", "no function 1", "", code(0x10, 1)},
		{"use of the epoch", "no global 0", "", code(0x23, 0, 0x1a)},
		{"type of yield", "no type 1", "", code(0x02, 1, 0x0b)},
		{"negative type", "type", "", code(0x02, 0xff, 0x7f, 0x0b)},
		{"throw", "exception", "panic=abort", code(0x08, 0)},
		{"call_ref", "function references", "wasm32-wasip1", code(0x14, 0)},
		{"struct.new", "garbage collected", "collector", code(0xfb, 0, 0)},
		{"atomic", "threads", "-pthread", code(0xfe, 0x03, 0)},
		{"second memory", "several memories", "wasm32-wasip1", code(0x41, 0, 0x28, 0x42, 0, 0, 0x1a)},
		{"memory.size of a second memory", "several memories", "wasm32-wasip1", code(0x3f, 1, 0x1a)},
		{"relaxed SIMD", "relaxed SIMD", "-mno-relaxed-simd", code(0xfd, 0x80, 2)},
		// The engine takes these for i16x8.abs and unreachable; what came next would be code to it and operands to others.
		{"long vector opcode", "shortest", "", code(0xfd, 0x80, 0)},
		{"long prefixed opcode", "shortest", "", code(0xfc, 0x80, 0)},
		{"unknown opcode", "0xff", "", code(0xff)},
		{"select of two types", "one type", "", code(0x1c, 2, 0x7f, 0x7f)},
		{"global by global", "not imported", "", Command([][]byte{Body()}, Section(6, Vec([]byte{0x7f, 0, 0x23, 0, 0x0b})))},
		{"call in a constant", "not constant", "", Command([][]byte{Body()}, Section(6, Vec([]byte{0x7f, 0, 0x10, 0, 0x0b})))},
		{"unknown segment", "unknown form", "", Command([][]byte{Body()}, Section(11, Vec([]byte{3})))},
		{"unknown elements", "unknown form", "", Command([][]byte{Body()}, Section(9, Vec([]byte{8})))},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := module.Parse(test.wasm)
			var own *module.Error
			if !errors.As(err, &own) || !strings.Contains(own.What, test.want) || !strings.Contains(own.Hint, test.hint) || (own.Hint == "") != (test.hint == "") {
				t.Errorf("got %#v, want %q with the hint %q", err, test.want, test.hint)
			}
		})
	}
}

// guest is an instrumented module that runs.
func guest(t *testing.T, wasm []byte, yield func()) api.Module {
	r := wazero.NewRuntimeWithConfig(t.Context(), artefact.Config(nil))
	t.Cleanup(func() { r.Close(t.Context()) })
	_, err := r.NewHostModuleBuilder(module.YieldModule).NewFunctionBuilder().WithFunc(yield).Export(module.YieldName).Instantiate(t.Context())
	check(t, err)
	_, err = r.NewHostModuleBuilder("m").NewFunctionBuilder().WithFunc(func() uint32 { return 100 }).Export("f").Instantiate(t.Context())
	check(t, err)
	m, err := r.Instantiate(t.Context(), wasm)
	check(t, err)
	return m
}

func call(t *testing.T, m api.Module, name string, args ...uint64) uint64 {
	t.Helper()
	results, err := m.ExportedFunction(name).Call(t.Context(), args...)
	check(t, err)
	return results[0]
}

// TestReferences: every way to name a function still names the same one. Function 0 is imported and gives 100, function i
// gives i, and pick calls element i of table 0.
func TestReferences(t *testing.T) {
	give := func(i byte) []byte { return Body(0x41, i) }
	offset := func(i byte) []byte { return []byte{0x41, i, 0x0b} }
	ref := func(f byte) []byte { return []byte{0xd2, f, 0x0b} }
	wasm := Module(
		Section(1, Vec(Func("", "\x7f"), Func("\x7f", "\x7f"))),
		Section(2, Vec(Import("m", "f", 0))),
		Section(3, Vec([]byte{0}, []byte{0}, []byte{0}, []byte{0}, []byte{1}, []byte{0})),
		Section(4, Vec([]byte{0x70, 0, 20}, []byte{0x70, 0, 20})),
		Section(6, Vec(append([]byte{0x70, 0}, ref(2)...))),
		Section(7, Vec(Export("f", 0, 0), Export("1", 0, 1), Export("pick", 0, 5), Export("more", 0, 6))),
		Section(9, Vec(
			slices.Concat([]byte{0}, offset(0), Vec([]byte{0}, []byte{1})),
			slices.Concat([]byte{1, 0}, Vec([]byte{2}, []byte{3})),
			slices.Concat([]byte{2, 0}, offset(2), []byte{0}, Vec([]byte{2})),
			slices.Concat([]byte{3, 0}, Vec([]byte{4})),
			slices.Concat([]byte{4}, offset(3), Vec(ref(3), []byte{0xd0, 0x70, 0x0b})),
			slices.Concat([]byte{5, 0x70}, Vec(ref(4))),
			slices.Concat([]byte{6, 1}, offset(0), []byte{0x70}, Vec(ref(1))),
			slices.Concat([]byte{7, 0x70}, Vec(ref(2))),
		)),
		Section(10, Vec(give(1), give(2), give(3), give(4),
			Body(0x20, 0, 0x11, 0, 0),
			Body( // table.init of the passive segments to 5 and 7, table[8] = ref.func 4, table[9] = global 0, table[10] = table 1 [0]; return_call 1
				0x41, 5, 0x41, 0, 0x41, 2, 0xfc, 12, 1, 0,
				0x41, 7, 0x41, 0, 0x41, 1, 0xfc, 12, 5, 0,
				0x41, 8, 0xd2, 4, 0x26, 0,
				0x41, 9, 0x23, 0, 0x26, 0,
				0x41, 10, 0x41, 0, 0x25, 1, 0x26, 0,
				0x12, 1))),
	)
	m, err := module.Parse(wasm)
	check(t, err)
	g := guest(t, m.Instrument().Wasm, func() {})
	if got := []uint64{call(t, g, "f"), call(t, g, "1"), call(t, g, "more")}; !slices.Equal(got, []uint64{100, 1, 1}) {
		t.Errorf("exports give %v", got)
	}
	for i, want := range []uint64{100, 1, 2, 3, 0, 2, 3, 4, 4, 2, 1} {
		if i == 4 {
			continue // a null reference
		}
		if got := call(t, g, "pick", uint64(i)); got != want {
			t.Errorf("element %d gives %d, want %d", i, got, want)
		}
	}
}

// TestChecks: a look at the epoch stands at every function's entry and every loop's head.
func TestChecks(t *testing.T) {
	// count(n): calls itself n times, in a loop with a parameter; so 1 + 2n checks.
	wasm := Module(
		Section(1, Vec(Func("\x7f", "\x7f"), Func("", ""))),
		Section(3, Vec([]byte{0}, []byte{1})),
		Section(7, Vec(Export("count", 0, 0), Export("lambent:epoch", 0, 0), Export("lambent:epoch'", 0, 1))),
		Section(10, Vec(
			Body(0x20, 0, 0x03, 0, 0x10, 1, 0x41, 1, 0x6b, 0x22, 0, 0x20, 0, 0x0d, 0, 0x0b),
			Body())),
	)
	m, err := module.Parse(wasm)
	check(t, err)
	in := m.Instrument()
	if in.Epoch != "lambent:epoch''" {
		t.Errorf("the epoch has the name %q", in.Epoch)
	}
	yields := 0
	g := guest(t, in.Wasm, func() { yields++ })
	for _, epoch := range []uint64{0, 1} {
		yields = 0
		g.ExportedGlobal(in.Epoch).(api.MutableGlobal).Set(epoch)
		if got := call(t, g, "count", 10); got != 0 {
			t.Errorf("count gives %d", got)
		}
		if want := 21 * int(epoch); yields != want {
			t.Errorf("%d yields with the epoch %d, want %d", yields, epoch, want)
		}
	}
}

// TestBake: a baked module begins where the snapshot was taken.
func TestBake(t *testing.T) {
	number := func(typ, op byte, value ...byte) []byte {
		return slices.Concat([]byte{typ, 1, op}, value, []byte{0x0b})
	}
	wasm := Module(
		Section(1, Vec(Func("", "\x7f"), Func("", ""))),
		Section(3, Vec([]byte{0}, []byte{1}, []byte{0})),
		Section(5, []byte{1, 0, 1}),
		Section(6, Vec(number(0x7f, 0x41, 1), number(0x7e, 0x42, 2), number(0x7d, 0x43, 0, 0, 0, 0), number(0x7c, 0x44, 0, 0, 0, 0, 0, 0, 0, 0),
			[]byte{0x7f, 0, 0x41, 55, 0x0b})),
		Section(7, Vec(Export("constant", 0, 0), Export("init", 0, 2))),
		Section(8, []byte{1}),
		Section(12, []byte{2}),
		Section(10, Vec(Body(0x23, 4), Body(0),
			Body(0x41, 9, 0x41, 0, 0x41, 2, 0xfc, 8, 1, 0, 0x41, 9, 0x2f, 0, 0))),
		Section(11, Vec(append([]byte{0, 0x41, 0, 0x0b}, Name("abc")...), append([]byte{1}, Name("xy")...))),
	)
	m, err := module.Parse(wasm)
	check(t, err)
	in := m.Instrument()
	if in.Start != "lambent:start" || len(in.Globals) != 4 {
		t.Fatalf("%+v", in)
	}
	values := []uint64{0xffff_fffe, 1 << 63, 0x7fa0_0001, 0xfff4_0000_0000_0001}
	baked := in.Bake(module.Snapshot{Pages: 3, Globals: values})
	g := guest(t, baked, func() {})
	for i, exposed := range in.Globals {
		if got := g.ExportedGlobal(exposed.Name).Get(); got != values[i] {
			t.Errorf("global %d of type %s is %#x, want %#x", i, exposed.Type, got, values[i])
		}
	}
	if got, _ := g.Memory().Read(0, 3); g.Memory().Size() != 3*module.PageSize || !bytes.Equal(got, []byte{0, 0, 0}) {
		t.Errorf("the memory has %d bytes and begins with %q", g.Memory().Size(), got)
	}
	if got := call(t, g, "constant"); got != 55 {
		t.Errorf("the constant is %d", got)
	}
	if got := call(t, g, "init"); got != uint64(binary.LittleEndian.Uint16([]byte("xy"))) {
		t.Errorf("the passive segment has %#x", got)
	}
}

// TestTables: tables cannot grow beyond what is theirs, as nobody counts them as memory.
func TestTables(t *testing.T) {
	for _, test := range []struct {
		name  string
		table []byte
		want  uint64
	}{
		{"alone", Vec([]byte{0x70, 0, 1}), 1},
		{"with a limit", Vec([]byte{0x70, 1, 1, 5}), 0xffff_ffff},
		{"many", Vec(slices.Repeat([][]byte{{0x6f, 0, 1}}, 64)...), 0xffff_ffff},
	} {
		t.Run(test.name, func(t *testing.T) {
			wasm := Module(Section(1, Vec(Func("", "\x7f"))), Section(3, []byte{1, 0}), Section(4, test.table),
				Section(7, Vec(Export("grow", 0, 0))),
				Section(10, Vec(Body(slices.Concat([]byte{0xd0, test.table[1], 0x41}, []byte{0xff, 0xff, 3}, []byte{0xfc, 15, 0})...))))
			m, err := module.Parse(wasm)
			check(t, err)
			if got := call(t, guest(t, m.Instrument().Wasm, func() {}), "grow"); got != test.want {
				t.Errorf("growing by 65535 gives %d, want %d", got, test.want)
			}
		})
	}
	if s := fmt.Sprint(module.I64, module.ExternRef, module.ValueType(1)); s != "i64 externref type 0x1" {
		t.Error(s)
	}
}
