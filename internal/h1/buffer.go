package h1

import "sync"

// pageSize holds a small request with an ordinary head, so that it goes out in one write.
const pageSize = 32 << 10

var pages = sync.Pool{New: func() any { return new([pageSize]byte) }}

func newPage() []byte { return pages.Get().(*[pageSize]byte)[:] }

// freePage takes a page back; what has outgrown its page is left to the garbage collector.
func freePage(b []byte) {
	if cap(b) == pageSize {
		pages.Put((*[pageSize]byte)(b[:pageSize]))
	}
}

// buffer holds what was read from the socket and not taken yet. It has no page while it is empty and at rest.
type buffer struct {
	buf  []byte
	r, w int
}

func (b *buffer) bytes() []byte { return b.buf[b.r:b.w] }
func (b *buffer) len() int      { return b.w - b.r }
func (b *buffer) take(n int)    { b.r += n }

// room makes space for a read behind the bytes that are held, and gives it.
func (b *buffer) room() []byte {
	switch {
	case b.buf == nil:
		b.buf = newPage()
	case b.r == b.w:
		b.r, b.w = 0, 0
	case b.w == len(b.buf) && b.r > 0:
		b.w = copy(b.buf, b.bytes())
		b.r = 0
	case b.w == len(b.buf):
		grown := make([]byte, 2*len(b.buf))
		copy(grown, b.buf)
		freePage(b.buf)
		b.buf = grown
	}
	return b.buf[b.w:]
}

func (b *buffer) free() {
	freePage(b.buf)
	*b = buffer{}
}
