package hostile

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	. "lambent/executor/wasm/internal/moduletest"
)

// corpus is the modules that mutants are made of: real programs of several compilers, from the engine's own examples,
// and what fuzzing has kept.
func corpus() (modules [][]byte, err error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{strings.TrimSpace(string(out)) + "/imports", strings.TrimSpace(string(out)) + "/examples", "testdata/corpus"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".wasm") {
				return err
			}
			wasm, err := os.ReadFile(path)
			if len(wasm) < 60_000 { // so that the compiler is not what this measures
				modules = append(modules, wasm)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return modules, nil
}

// generate makes module i: the same one each time.
func generate(modules [][]byte, i int) []byte {
	r := rand.New(rand.NewPCG(5, uint64(i)))
	switch k := r.IntN(10); {
	case k < 1:
		return garbage(r)
	case k < 5:
		wasm := slices.Clone(modules[r.IntN(len(modules))])
		for range 1 + r.IntN(4) {
			wasm = mutate(r, wasm, modules)
		}
		return wasm
	case k < 6:
		return mutate(r, program(r), modules)
	default:
		return program(r)
	}
}

// garbage has the form of sections and nothing in them that is right.
func garbage(r *rand.Rand) []byte {
	var sections [][]byte
	for id := byte(1); id < 13; id++ {
		if r.IntN(2) == 0 {
			sections = append(sections, Section(id, random(r, r.IntN(40))))
		}
	}
	return Module(sections...)
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func mutate(r *rand.Rand, wasm []byte, modules [][]byte) []byte {
	if len(wasm) < 20 {
		return wasm
	}
	at := 8 + r.IntN(len(wasm)-8)
	end := min(len(wasm), at+1+r.IntN(16))
	switch r.IntN(6) {
	case 0:
		wasm[at] ^= 1 << r.IntN(8)
	case 1:
		wasm[at] = byte(r.Uint32())
	case 2: // another instruction of the same shape, if it was one
		wasm[at] = byte(0x45 + r.IntN(0x7f))
	case 3:
		wasm = slices.Delete(wasm, at, end)
	case 4:
		wasm = slices.Insert(wasm, at, slices.Clone(wasm[at:end])...)
	default:
		other := modules[r.IntN(len(modules))]
		from := r.IntN(len(other))
		copy(wasm[at:end], other[from:])
	}
	return wasm
}

// writer writes well-typed code at random: what it does is nobody's intention.
type writer struct {
	*rand.Rand
	code      []byte
	depth     int // of nested blocks
	left      int // instructions that may still be written
	functions int // that can be called, of type [] -> []
}

// imports are functions of WASI that a random program calls, and how many parameters they take.
var imports = []struct {
	name   string
	params string
}{
	{"fd_write", "\x7f\x7f\x7f\x7f"}, {"fd_read", "\x7f\x7f\x7f\x7f"}, {"random_get", "\x7f\x7f"}, {"environ_get", "\x7f\x7f"},
	{"environ_sizes_get", "\x7f\x7f"}, {"clock_time_get", "\x7f\x7e\x7f"}, {"poll_oneoff", "\x7f\x7f\x7f\x7f"}, {"fd_close", "\x7f"},
	{"args_get", "\x7f\x7f"}, {"fd_fdstat_get", "\x7f\x7f"}, {"fd_prestat_get", "\x7f\x7f"},
}

// program is a command with functions, globals, a table, a memory with data, and loops without an end.
func program(r *rand.Rand) []byte {
	functions := 1 + r.IntN(5)
	types, imported := [][]byte{Func("", "")}, [][]byte(nil)
	for i, f := range imports {
		types = append(types, Func(f.params, "\x7f"))
		imported = append(imported, Import("wasi_snapshot_preview1", f.name, i+1))
	}
	var declared, bodies [][]byte
	for range functions {
		declared = append(declared, []byte{0})
		w := &writer{Rand: r, left: 5 + r.IntN(60), functions: functions}
		w.block()
		body := slices.Concat(Vec([]byte{2, 0x7f}, []byte{2, 0x7e}), w.code, []byte{0x0b})
		bodies = append(bodies, slices.Concat(U32(len(body)), body))
	}
	global := func(t byte, value ...byte) []byte { return slices.Concat([]byte{t, 1}, value, []byte{0x0b}) }
	sections := [][]byte{
		Section(1, Vec(types...)),
		Section(2, Vec(imported...)),
		Section(3, Vec(declared...)),
		Section(4, Vec([]byte{0x70, 0, 8})),
		Section(5, slices.Concat([]byte{1, 0}, U32(1+r.IntN(4)))),
		Section(6, Vec(global(0x7f, 0x41, 7), global(0x7e, 0x42, 9))),
		Section(7, Vec(Export("_start", 0, len(imports)), Export("memory", 2, 0))),
	}
	if r.IntN(20) == 0 {
		sections = append(sections, Section(8, U32(len(imports)+r.IntN(functions))))
	}
	return Module(append(sections,
		Section(9, Vec(slices.Concat([]byte{0, 0x41, 0, 0x0b}, Vec(U32(len(imports)), U32(len(imports)+functions-1))))),
		Section(10, Vec(bodies...)),
		Section(11, Vec(slices.Concat([]byte{0, 0x41, 8, 0x0b}, Name(string(random(r, 300)))))),
	)...)
}

func (w *writer) put(b ...byte) { w.code = append(w.code, b...) }

// block writes statements.
func (w *writer) block() {
	for n := 1 + w.IntN(6); n > 0 && w.left > 0; n-- {
		w.statement()
	}
}

func (w *writer) statement() {
	w.left--
	switch w.IntN(14) {
	case 0, 1: // loop while
		if w.depth < 6 {
			w.put(0x03, 0x40)
			w.depth++
			w.block()
			w.i32(3)
			w.put(0x0d, 0)
			w.depth--
			w.put(0x0b)
		}
	case 2, 3: // if, else
		if w.depth < 6 {
			w.i32(3)
			w.put(0x04, 0x40)
			w.depth++
			w.block()
			w.put(0x05)
			w.block()
			w.depth--
			w.put(0x0b)
		}
	case 4:
		w.put(0x10)
		w.put(U32(len(imports) + w.IntN(w.functions))...)
	case 5: // call_indirect
		w.i32(2)
		w.put(0x11, 0, 0)
	case 6, 7: // i32.store, i64.store
		w.i32(3)
		w.i32(3)
		w.put(0x36, 2, byte(w.IntN(100)))
	case 8:
		w.i32(2)
		w.i64(3)
		w.put(0x37, 3, 0)
	case 9:
		w.i32(3)
		w.put(0x24, 0)
	case 10:
		w.i64(3)
		w.put(0x21, 2+byte(w.IntN(2)))
	case 11: // memory.fill, memory.copy
		w.i32(2)
		w.i32(2)
		w.i32(2)
		if w.IntN(2) == 0 {
			w.put(0xfc, 11, 0)
		} else {
			w.put(0xfc, 10, 0, 0)
		}
	case 12:
		w.i32(3)
		w.put(0x21, byte(w.IntN(2)))
	default: // a function of the host
		i := w.IntN(len(imports))
		for _, t := range imports[i].params {
			if t == 0x7e {
				w.i64(1)
			} else {
				w.i32(2)
			}
		}
		w.put(0x10)
		w.put(U32(i)...)
		w.put(0x21, 0)
	}
}

// i32 writes an expression of that type, nested at most so deep.
func (w *writer) i32(deep int) {
	w.left--
	if deep == 0 || w.left < 0 {
		w.put(0x41)
		if w.IntN(2) == 0 {
			w.put(byte(w.IntN(64)))
		} else {
			w.put(byte(w.Uint32())|0x80, byte(w.Uint32())|0x80, byte(w.IntN(64)))
		}
		return
	}
	switch w.IntN(9) {
	case 0, 1:
		w.i32(0)
	case 2:
		w.put(0x20, byte(w.IntN(2)))
	case 3:
		w.put(0x23, 0)
	case 4:
		w.i32(deep - 1)
		w.put(0x28, 2, byte(w.IntN(100)))
	case 5: // memory.grow
		w.i32(0)
		w.put(0x40, 0)
	case 6:
		w.i64(deep - 1)
		w.put(0xa7)
	default: // a comparison, or an operator
		w.i32(deep - 1)
		w.i32(deep - 1)
		w.put([]byte{0x46, 0x48, 0x4f, 0x6a, 0x6b, 0x6c, 0x6d, 0x70, 0x71, 0x73, 0x74, 0x76, 0x77}[w.IntN(13)])
	}
}

func (w *writer) i64(deep int) {
	w.left--
	if deep == 0 || w.left < 0 {
		w.put(0x42, byte(w.Uint32())|0x80, byte(w.IntN(64)))
		return
	}
	switch w.IntN(5) {
	case 0:
		w.put(0x20, 2+byte(w.IntN(2)))
	case 1:
		w.put(0x23, 1)
	case 2:
		w.i32(deep - 1)
		w.put(0xac)
	case 3:
		w.i32(deep - 1)
		w.put(0x29, 3, 0)
	default:
		w.i64(deep - 1)
		w.i64(deep - 1)
		w.put([]byte{0x7c, 0x7d, 0x7e, 0x7f, 0x80, 0x83, 0x85, 0x86, 0x88, 0x8a}[w.IntN(10)])
	}
}
