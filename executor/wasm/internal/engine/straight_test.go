package engine

import (
	"bytes"
	"errors"
	"testing"
	"time"
	"unsafe"

	. "lambent/executor/wasm/internal/moduletest"
)

// signed is the encoding of a constant.
func signed(v int) (b []byte) {
	for v < -64 || v >= 64 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v)&0x7f)
}

// fill is the code of a memory.fill.
func fill(from, size int) []byte {
	code := append([]byte{0x41}, signed(from)...)
	code = append(append(code, 0x41, 7, 0x41), signed(size)...)
	return append(code, 0xfc, 0x0b, 0)
}

// What has no loop has its limits all the same: each of these would take for seconds.
func TestStraightCode(t *testing.T) {
	const pages = 2048
	random := append(append([]byte{0x41, 0, 0x41}, signed(1<<16)...), 0x10, 0, 0x1a)
	for _, c := range []struct {
		name string
		wasm []byte
	}{
		{"fills", Command([][]byte{Body(bytes.Repeat(fill(0, pages*wasmPage), 400)...)}, Section(5, append([]byte{1, 0}, U32(pages)...)))},
		{"host calls", Command([][]byte{Body(bytes.Repeat(random, 8000)...)},
			Section(1, Vec(Func("", ""), Func("\x7f\x7f", "\x7f"))),
			Section(2, Vec(Import("wasi_snapshot_preview1", "random_get", 1))),
			Section(7, Vec(Export("_start", 0, 1), Export("memory", 2, 0))))},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := load(t, open(t, Options{}), c.wasm, pages*wasmPage)
			_, _, err := callWith(t.Context(), p, to("/"), Limits{CPU: 20 * time.Millisecond})
			if e := (*Error)(nil); !errors.As(err, &e) || e.Reason != CPU {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

// beyond counts the pages that a memory has beyond its image.
func beyond(t *testing.T, m *memory) (n int) {
	t.Helper()
	p, err := newPages(ResetPagemap)
	check(t, err)
	defer p.close()
	start := uintptr(unsafe.Pointer(&m.base[0]))
	for at, end := start+uintptr(m.image.size), start+uintptr(len(m.base)); at < end; {
		spans, next, err := p.written(new(scratch), at, end)
		check(t, err)
		for _, s := range spans {
			n += int(s.to-s.from) / hostPage
		}
		at = next
	}
	return n
}

// An instance whose guest has grown and written 64 MiB holds none of it when it is parked.
func TestGrownMemoryGoes(t *testing.T) {
	const pages = 1024
	code := append(append([]byte{0x41}, signed(pages)...), 0x40, 0, 0x1a)
	code = append(code, fill(wasmPage, pages*wasmPage)...)
	p := load(t, open(t, Options{}), Command([][]byte{Body(code...)}), 128<<20)
	for range 3 {
		if _, _, err := callWith(t.Context(), p, to("/"), Limits{}); err != nil {
			t.Fatal(err)
		}
		for _, in := range p.parked {
			if n := beyond(t, in.memory); n > 0 {
				t.Errorf("it holds %d pages", n)
			}
		}
	}
}
