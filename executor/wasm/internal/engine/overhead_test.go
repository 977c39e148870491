package engine

import (
	"bytes"
	"encoding/json"
	"runtime"
	"slices"
	"testing"
	"time"

	. "lambent/executor/wasm/internal/moduletest"
)

// heap is what is alive on this process's heap.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A module of many globals, tables or elements is charged for what wazero keeps of them for each instance.
func TestOverhead(t *testing.T) {
	globals := Section(6, Vec(slices.Repeat([][]byte{{0x7e, 1, 0x42, 0, 0x0b}}, 16_000)...))
	table := func(size int) []byte { return Section(4, Vec(append([]byte{0x70, 0}, U32(size)...))) }
	elements := Section(9, Vec(append(append([]byte{0, 0x41, 0, 0x0b}, U32(60_000)...), make([]byte, 60_000)...)))
	passive := Section(9, Vec(append(append([]byte{1, 0}, U32(60_000)...), make([]byte, 60_000)...)))
	references := Section(6, Vec(slices.Repeat([][]byte{{0x70, 0, 0xd2, 0, 0x0b}}, 16_000)...))
	segments := Section(9, Vec(slices.Repeat([][]byte{{0, 0x41, 0, 0x0b, 0}}, 60_000)...))
	for _, test := range []struct {
		name string
		wasm []byte
	}{
		{"globals", Command([][]byte{Body()}, globals)},
		{"tables", Command([][]byte{Body()}, table(1<<17))},
		{"elements", Command([][]byte{Body()}, table(60_000), elements)},
		{"passive elements", Command([][]byte{Body()}, passive)},
		{"references in globals", Command([][]byte{Body()}, references)},
		{"segments", Command([][]byte{Body()}, table(1), segments)},
		{"a table that grows", Command([][]byte{Body(slices.Concat([]byte{0xd0, 0x70, 0x41}, signed(100_000), []byte{0xfc, 15, 0, 0x1a})...)}, table(1))},
	} {
		t.Run(test.name, func(t *testing.T) {
			const count = 20
			p := load(t, open(t, Options{}), test.wasm, wasmPage)
			before := heap()
			var instances []*instance
			for range count {
				in, err := p.instantiate(t.Context())
				check(t, err)
				check(t, in.call(&run{Context: t.Context()}, in.entry))
				instances = append(instances, in)
			}
			if more := heap() - before; more > count*(p.meta.Overhead+8<<10) {
				t.Errorf("%d instances take %d bytes of heap, and %d are said", count, more, count*p.meta.Overhead)
			}
			if used := p.engine.memory.used.Load(); used < count*p.meta.Overhead {
				t.Errorf("%d bytes are charged", used)
			}
			for _, in := range instances {
				in.close()
			}
			p.mu.Lock()
			parked := p.parked[0].memory.charged
			p.mu.Unlock()
			if parked < p.meta.Overhead {
				t.Errorf("a parked instance is charged %d bytes", parked)
			}
			if text, err := json.Marshal(p.meta); err != nil || len(text) > 2000 {
				t.Errorf("a worker is told %d bytes about the artefact: %v", len(text), err)
			}
		})
	}
}

// A guest that waits cannot have made more references than it is charged for.
func TestReferencesThatWait(t *testing.T) {
	code := append([]byte{0x41, 0, 0x42}, signed(int(10*time.Second))...)
	code = append(code, 0x37, 3, 24) // the timeout of a subscription of poll_oneoff
	code = append(code, 0x41, 0, 0x41, 0xe4, 0, 0x41, 1, 0x41, 0xc8, 1, 0x10, 0, 0x1a)
	p := load(t, open(t, Options{}), Command([][]byte{
		Body(slices.Concat(bytes.Repeat([]byte{0x10, 2}, 40), code)...), // calls the other one
		Body(bytes.Repeat([]byte{0xd2, 1, 0x1a}, 2000)...),
	}, Section(1, Vec(Func("", ""), Func("\x7f\x7f\x7f\x7f", "\x7f"))),
		Section(2, Vec(Import("wasi_snapshot_preview1", "poll_oneoff", 1))),
		Section(7, Vec(Export("_start", 0, 1), Export("memory", 2, 0)))), wasmPage)
	if p.meta.Overhead < 1<<20 {
		t.Errorf("an instance is charged %d bytes for its references", p.meta.Overhead)
	}
	if _, _, err := call(t, p, to("/"), Limits{CPU: time.Minute}); reason(err) != Memory {
		t.Error(err)
	}
}
