package engine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lambent/executor/wasm/internal/abi"
	"lambent/executor/wasm/internal/artefact"
	. "lambent/executor/wasm/internal/moduletest"
)

func reason(err error) Reason {
	var failed *Error
	if errors.As(err, &failed) {
		return failed.Reason
	}
	return ""
}

// oneShot is a module that a reset could not put back. In the text format:
//
//	(module
//	  (import "lambent_v1" "write" (func $write (param i32 i32)))
//	  (memory 1)
//	  (data $hello "hello")
//	  (func (export "handle")
//	    (memory.init $hello (i32.const 8) (i32.const 0) (i32.const 5))
//	    (data.drop $hello)
//	    (call $write (i32.const 8) (i32.const 5))))
var oneShot = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x09\x02\x60\x00\x00\x60\x02\x7f\x7f\x00" +
	"\x02\x14\x01\x0alambent_v1\x05write\x00\x01" +
	"\x03\x02\x01\x00" +
	"\x05\x03\x01\x00\x01" +
	"\x07\x0a\x01\x06handle\x00\x01" +
	"\x0c\x01\x01" +
	"\x0a\x17\x01\x15\x00\x41\x08\x41\x00\x41\x05\xfc\x08\x00\x00\xfc\x09\x00\x41\x08\x41\x05\x10\x00\x0b" +
	"\x0b\x08\x01\x01\x05hello")

// TestFresh: a module that nothing can put back gets an instance for each call.
func TestFresh(t *testing.T) {
	e := open(t, Options{})
	files := pack(t, oneShot)
	if len(files.Meta.Fresh) == 0 {
		t.Fatal("the module was taken for one that can be reset")
	}
	p, err := e.Load(t.Context(), files, 1<<20)
	check(t, err)
	defer p.Close()
	for range 50 {
		if got, _, err := call(t, p, to("/"), Limits{}); got != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
		e.tidy(e.now() + time.Minute)
	}
}

// TestNoReset: where no way to reset works calls still get pristine instances, and the engine says why.
func TestNoReset(t *testing.T) {
	e := open(t, Options{})
	check(t, e.pages.close())
	e.pages = nil
	check(t, e.choose(t.Context(), "magic"))
	if way, why := e.Reset(); way != ResetNever || !strings.Contains(why, "magic") {
		t.Fatalf("%s: %s", way, why)
	}
	p := load(t, e, cGuest(t), 16<<20)
	for i := range 50 {
		secret := "a secret " + strconv.Itoa(i)
		for _, want := range []struct{ target, answer string }{{"/count", "42"}, {"/hide", "5"}, {"/find", "0"}} {
			if got, _, err := call(t, p, to(want.target, secret), Limits{}); got != want.answer {
				t.Fatalf("%s: %q, %v", want.target, got, err)
			}
		}
	}
}

// TestSelfTestFinds: the self-test notices what a reset has left.
func TestSelfTestFinds(t *testing.T) {
	e := open(t, Options{})
	p := &Program{engine: e, meta: artefact.Meta{Kind: string(abi.Reactor), Image: true, Pages: probePages, Max: 8, Epoch: "epoch"}}
	e.maps.take(programMaps)
	defer p.Close()
	check(t, e.compileWasm(t.Context(), p, probe))
	image := make([]byte, probePages*wasmPage)
	check(t, p.prepare(t.Context(), bytes.NewReader(image), 4*wasmPage))
	check(t, e.try(t.Context(), p, image))
	image[len(image)/2]++
	if err := e.try(t.Context(), p, image); err == nil || err.Error() != "memory is not what it was" {
		t.Fatalf("a byte that differs: %v", err)
	}
}

// TestIdleGivesWay: what idle programs hold that cannot be reset is there for one that is called.
func TestIdleGivesWay(t *testing.T) {
	e := open(t, Options{Memory: 256 << 20})
	for i := range 8 {
		p := load(t, e, Command([][]byte{Body(0x41, 0, 0xd0, 0x70, 0x26, 0, 0x41, byte(i), 0x1a)},
			Section(4, Vec([]byte{0x70, 0, 1})), Section(5, append([]byte{1, 0}, U32(1024)...))), 64<<20)
		e.tidy(e.now() + time.Minute)
		if _, _, err := call(t, p, to("/"), Limits{}); reason(err) != "" {
			t.Fatalf("program %d: %v", i, err)
		}
	}
}

// TestFreshLogs: the last line of an initialisation is in the log, though it has no end.
func TestFreshLogs(t *testing.T) {
	text := append([]byte{0, 0x41, 0, 0x0b}, Name("\x08\x00\x00\x00\x02\x00\x00\x00hi")...) // an iovec, and what it is of
	p := load(t, open(t, Options{}), Command([][]byte{Body(0x41, 0, 0xd0, 0x70, 0x26, 0),   // handle needs a fresh instance
		Body(0x41, 2, 0x41, 0, 0x41, 1, 0x41, 16, 0x10, 0, 0x1a)},
		Section(1, Vec(Func("", ""), Func("\x7f\x7f\x7f\x7f", "\x7f"))),
		Section(2, Vec(Import("wasi_snapshot_preview1", "fd_write", 1))),
		Section(4, Vec([]byte{0x70, 0, 1})),
		Section(7, Vec(Export("_start", 0, 1), Export("memory", 2, 0))), Section(8, []byte{2}), Section(11, Vec(text))), wasmPage)
	c, log := to("/"), ""
	c.Log = func(stream string, line []byte) { log += stream + " " + string(line) }
	if _, _, err := call(t, p, c, Limits{}); log != "stderr hi\n" {
		t.Errorf("the log is %q: %v", log, err)
	}
}

// TestLargeReset: memory is not copied back when that would take long, so that no collection waits for it.
func TestLargeReset(t *testing.T) {
	const pages = 512
	p := load(t, open(t, Options{}), Command([][]byte{Body(fill(0, pages*wasmPage)...)}, Section(5, append([]byte{1, 0}, U32(pages)...))), pages*wasmPage)
	for range 3 {
		if _, _, err := call(t, p, to("/"), Limits{}); reason(err) != "" {
			t.Fatal(err)
		}
		if m := p.parked[0].memory; m.written > maxRestore || m.charged != p.meta.Overhead {
			t.Errorf("a parked instance has %d written pages and is charged %d bytes", m.written, m.charged)
		}
	}
}

// TestWhoseMemory: a guest within its limit that the worker has no memory for is told so.
func TestWhoseMemory(t *testing.T) {
	code := slices.Concat([]byte{0x41}, signed(1024), []byte{0x40, 0, 0x41, 0x7f, 0x46, 0x04, 0x40, 0, 0x0b}) // a trap after -1
	for limit, want := range map[int64]Reason{128 << 20: Capacity, 2 << 20: Memory} {
		p := load(t, open(t, Options{Memory: 32 << 20}), Command([][]byte{Body(code...)}), limit)
		if _, _, err := call(t, p, to("/"), Limits{}); reason(err) != want {
			t.Errorf("with a limit of %d bytes: %v", limit, err)
		}
	}
}

// endless is a module that makes references to functions in a loop:
//
//	(module
//	  (import "lambent_v1" "write" (func $write (param i32 i32)))
//	  (memory 1)
//	  (func $handle (export "handle") (loop (drop (ref.func $handle)) (br 0))))
var endless = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x09\x02\x60\x00\x00\x60\x02\x7f\x7f\x00" +
	"\x02\x14\x01\x0alambent_v1\x05write\x00\x01" +
	"\x03\x02\x01\x00" +
	"\x05\x03\x01\x00\x01" +
	"\x07\x0a\x01\x06handle\x00\x01" +
	"\x0a\x0c\x01\x0a\x00\x03\x40\xd2\x01\x1a\x0c\x00\x0b\x0b")

// TestReferences: a guest cannot fill the worker's own memory with references.
func TestReferences(t *testing.T) {
	e := open(t, Options{})
	p := load(t, e, endless, 1<<20)
	if _, _, err := call(t, p, to("/"), Limits{CPU: 10 * time.Second}); reason(err) != Memory {
		t.Fatal(err)
	}
}

// TestBudget: when the worker has no memory to spare a call fails for it, no guest gets more, and what is parked gives way.
func TestBudget(t *testing.T) {
	e := open(t, Options{Memory: 72 << 20, Tokens: 4})
	p := load(t, e, cGuest(t), 128<<20)
	e.memory.limit += 64 * p.meta.Overhead
	if _, usage, err := call(t, p, to("/bomb"), Limits{}); reason(err) != Capacity || usage.Memory > 71<<20 {
		t.Fatalf("%+v, %v", usage, err)
	}
	if used := e.memory.used.Load(); used != 0 {
		t.Fatalf("%d bytes are charged to nobody", used)
	}
	// Calls that wait hold 128 KB and a stack each, and 72 MB are 64 times that.
	var wg sync.WaitGroup
	failed := make(chan error, 100)
	r, w := io.Pipe()
	for range 100 {
		wg.Go(func() {
			c := to("/wait")
			c.Body = r
			_, _, err := callWith(t.Context(), p, c, Limits{})
			failed <- err
		})
	}
	for range 36 {
		if err := <-failed; reason(err) != Capacity {
			t.Fatalf("a call without memory: %v", err)
		}
	}
	check(t, w.Close())
	wg.Wait()
	for range 64 {
		check(t, <-failed)
	}
	if used := e.memory.used.Load(); used > 16<<20 {
		t.Fatalf("%d bytes are charged for 64 parked instances", used)
	}
	other := load(t, e, cCommand(t), 16<<20)
	if got, _, err := call(t, other, to("/", strings.Repeat("x", 200)), Limits{}); err != nil || got == "" {
		t.Fatalf("%q, %v", got, err)
	}
	e.tidy(e.now() + idleClean + time.Second)
	idle := int64(0)
	for _, p := range []*Program{p, other} {
		idle += int64(len(p.parked)) * p.meta.Overhead
	}
	if used := e.memory.used.Load(); used != idle {
		t.Fatalf("%d bytes are charged after a while, not %d", used, idle)
	}
}

// TestMappings: the engine stops before the kernel does.
func TestMappings(t *testing.T) {
	e := open(t, Options{})
	p := load(t, e, cGuest(t), 16<<20)
	limit := e.maps.limit
	e.maps.limit = e.maps.used.Load()
	if _, err := e.Load(t.Context(), pack(t, cGuest(t)), 16<<20); reason(err) != Capacity {
		t.Fatal(err)
	}
	in, err := p.take(t.Context())
	check(t, err)
	if _, _, err := call(t, p, to("/count"), Limits{}); reason(err) != Capacity {
		t.Fatal(err)
	}
	p.give(in, true)
	e.maps.limit = limit
	if got, _, err := call(t, p, to("/count"), Limits{}); got != "42" {
		t.Fatal(got, err)
	}
}

// TestLoadRefuses: what is wrong with an artefact is said, and nothing is left of it.
func TestLoadRefuses(t *testing.T) {
	e := open(t, Options{})
	maps := e.maps.used.Load()
	for _, test := range []struct {
		name string
		want Reason
		mend func(f *artefact.Files)
	}{
		{"more memory than allowed", Memory, func(f *artefact.Files) { f.Meta.Pages = 1000 }},
		{"short image", Stale, func(f *artefact.Files) { f.Meta.Pages++ }},
		{"another's native code", Stale, func(f *artefact.Files) { f.Meta.Native = "wazero-1/" + strings.Repeat("0", 64) }},
		{"native code outside", Stale, func(f *artefact.Files) { f.Meta.Native = "../native" }},
		{"native code of another version", Stale, func(f *artefact.Files) { f.Native = f.Module }},
		{"no module", Stale, func(f *artefact.Files) { f.Module = f.Image }},
		{"another epoch", Stale, func(f *artefact.Files) { f.Meta.Epoch = "epoch" }},
		{"another kind", Stale, func(f *artefact.Files) { f.Meta.Kind = "command" }},
	} {
		files := pack(t, cGuest(t))
		test.mend(files)
		if _, err := e.Load(t.Context(), files, 16<<20); reason(err) != test.want {
			t.Errorf("%s: %v", test.name, err)
		} else {
			t.Logf("%s: %v", test.name, err)
		}
		if left, err := filepath.Glob(filepath.Join(e.dir, "*", strings.Repeat("?", 64))); err != nil || len(left) > 0 {
			t.Errorf("%s: left %q, %v", test.name, left, err)
		}
	}
	if used := e.maps.used.Load(); used != maps {
		t.Errorf("%d mappings are left", used-maps)
	}
}

// TestClose: a program ends when its last call does.
func TestClose(t *testing.T) {
	e := open(t, Options{})
	p := load(t, e, cGuest(t), 16<<20)
	before := e.maps.used.Load()
	r, w := io.Pipe()
	done := make(chan error)
	c := to("/wait")
	c.Body = r
	go func() {
		_, _, err := callWith(t.Context(), p, c, Limits{})
		done <- err
	}()
	_, err := w.Write([]byte("x"))
	check(t, err)
	check(t, p.Close())
	if _, _, err := call(t, p, to("/count"), Limits{}); reason(err) != Internal {
		t.Errorf("after Close: %v", err)
	}
	check(t, w.Close())
	check(t, <-done)
	if used := e.maps.used.Load(); used > before-programMaps {
		t.Errorf("%d mappings are left of %d", used, before)
	}
}

// TestFootprint: what a program that was called once costs, in memory of the process.
func TestFootprint(t *testing.T) {
	e := open(t, Options{})
	one := func(salt uint32) {
		files := pack(t, helloGuest(t, salt))
		p, err := e.Load(t.Context(), files, 16<<20)
		check(t, err)
		check(t, files.Close())
		t.Cleanup(func() { check(t, p.Close()) })
		if got, _, err := call(t, p, to("/"), Limits{}); got != "hello\n" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	resident := func() int {
		e.tidy(e.now() + idleClean + time.Second)
		runtime.GC()
		debug.FreeOSMemory()
		text, err := os.ReadFile("/proc/self/statm")
		check(t, err)
		pages, err := strconv.Atoi(strings.Fields(string(text))[1])
		check(t, err)
		return pages * hostPage
	}
	for i := range 20 {
		one(uint32(i))
	}
	const n = 200
	before := resident()
	for i := range n {
		one(uint32(1000 + i))
	}
	each := (resident() - before) / n
	t.Logf("%d bytes for each program", each)
	if each > 128<<10 { // with 20 MB in all for what else the process does
		t.Error("too much")
	}
}

// On cores that it shares with four others each, a guest is charged for its part of them.
func TestProcessorTimeOfABusyMachine(t *testing.T) {
	p := load(t, open(t, Options{}), cGuest(t), 1<<20)
	spinners := 4 * runtime.NumCPU()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spinners))
	var ended atomic.Bool
	var spinning sync.WaitGroup
	for range spinners {
		spinning.Go(func() {
			for !ended.Load() {
			}
		})
	}
	began := time.Now()
	_, usage, err := call(t, p, to("/loop"), Limits{CPU: 200 * time.Millisecond})
	wall := time.Since(began)
	ended.Store(true)
	spinning.Wait()
	if reason(err) != CPU {
		t.Errorf("it ended with %v", err)
	}
	if usage.CPU > wall*3/4 {
		t.Errorf("it is charged for %v of %v", usage.CPU, wall)
	}
}
