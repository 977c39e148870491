package wire

import "sync"

// ring is a queue of bytes. It grows, by doubling, to hold what is in it and has no memory while it is new or released.
type ring struct {
	buf  []byte // of a length that is a power of two
	from int    // where the first byte is
	size int
}

const smallRing = 4 << 10

var smallRings = sync.Pool{New: func() any { return new([smallRing]byte) }}

func (r *ring) write(p []byte) {
	if r.size+len(p) > len(r.buf) {
		r.grow(r.size + len(p))
	}
	at := (r.from + r.size) & (len(r.buf) - 1)
	copy(r.buf, p[copy(r.buf[at:], p):])
	r.size += len(p)
}

func (r *ring) read(p []byte) int {
	n := min(len(p), r.size)
	if n == 0 {
		return 0
	}
	copied := copy(p[:n], r.buf[r.from:])
	copy(p[copied:n], r.buf)
	r.from = (r.from + n) & (len(r.buf) - 1)
	r.size -= n
	return n
}

func (r *ring) grow(need int) {
	size := max(smallRing, len(r.buf))
	for size < need {
		size *= 2
	}
	var buf []byte
	if size == smallRing {
		buf = smallRings.Get().(*[smallRing]byte)[:]
	} else {
		buf = make([]byte, size)
	}
	n := r.size
	r.read(buf[:n])
	r.release()
	r.buf, r.size = buf, n
}

// release gives the memory away, and what is in it.
func (r *ring) release() {
	if len(r.buf) == smallRing {
		smallRings.Put((*[smallRing]byte)(r.buf))
	}
	*r = ring{}
}
