package engine

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"lambent/executor/wasm/internal/abi"
)

// pristine fails the test when a parked instance differs in a byte from what the artefact says.
func pristine(t *testing.T, p *Program, image []byte) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, in := range p.parked {
		if !bytes.Equal(*in.parts.buffer, image) {
			t.Fatalf("memory differs from byte %d on", firstDifference(*in.parts.buffer, image))
		}
		if got := in.module.Memory().Size(); got != uint32(len(image)) || in.parts.local[1] != uint64(len(image)) {
			t.Fatalf("memory has %d bytes", got)
		}
		*in.cell() = 0 // the ticker may have asked, see there
		if !bytes.Equal(in.parts.globals, in.pristine) {
			t.Fatal("globals differ")
		}
	}
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// TestExact: whatever a guest did, of whatever language and kind it is, an instance is byte for byte what it was, by each
// way to reset.
func TestExact(t *testing.T) {
	for _, guest := range []struct {
		name  string
		build func(testing.TB) []byte
	}{
		{"C reactor", cGuest}, {"AssemblyScript reactor", scriptGuest}, {"Go reactor", goGuest},
		{"C command", cCommand}, {"Rust command", rustCommand}, {"Go command", goCommand},
	} {
		t.Run(guest.name, func(t *testing.T) {
			e := open(t, Options{})
			files := pack(t, guest.build(t))
			if len(files.Meta.Fresh) > 0 {
				t.Fatalf("it cannot be reset: %q", files.Meta.Fresh)
			}
			image, err := io.ReadAll(files.Image)
			check(t, err)
			p, err := e.Load(t.Context(), files, 64<<20)
			check(t, err)
			defer p.Close()
			for _, way := range []Reset{ResetScan, ResetPagemap, ResetDrop} {
				pages, err := newPages(way)
				check(t, err)
				e.pages, pages = pages, e.pages
				check(t, pages.close())
				var first string
				for i := range 200 {
					body := fmt.Sprintf("call %3d by %s", i, way)
					if i%10 == 9 {
						body += strings.Repeat(" with more", 30) // which makes the guests take memory
					}
					c := to("/hide", body)
					if p.kind == abi.Reactor && i%2 == 0 {
						c = to("/echo", body)
					}
					got, usage, err := call(t, p, c, Limits{})
					if err != nil {
						t.Fatal(err)
					}
					if got = strings.ReplaceAll(got, body, "BODY"); i == 0 {
						first = got
						t.Logf("%s: %q, %+v, %d pages written", way, got, usage, p.parked[0].memory.written)
					}
					if i%2 == 0 && got != first {
						t.Fatalf("call %d said %q, the first %q", i, got, first)
					}
					pristine(t, p, image)
				}
				if len(p.parked) != 1 {
					t.Errorf("%d instances for calls in a row", len(p.parked))
				}
			}
		})
	}
}
