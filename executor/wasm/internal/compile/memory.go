package compile

import (
	"bytes"

	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
)

// memory is the linear memory of the one instance that is initialised. It takes room as it is written, not as it grows.
type memory struct {
	limit     int64 // bytes that it may grow to
	base, now []byte
	err       error // of the reservation
}

// Allocate implements experimental.MemoryAllocator.
func (m *memory) Allocate(_, most uint64) experimental.LinearMemory {
	if size := min(int64(most), m.limit); size > 0 {
		m.base, m.err = unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	}
	return m
}

// Reallocate implements experimental.LinearMemory: nil is a memory.grow that fails.
func (m *memory) Reallocate(size uint64) []byte {
	if size > uint64(len(m.base)) {
		return nil
	}
	m.now = m.base[:size:size]
	return m.now
}

// Free implements experimental.LinearMemory.
func (m *memory) Free() {
	if m.base != nil {
		_ = unix.Munmap(m.base) // of a mapping of ours, which is there
	}
	m.base, m.now = nil, nil
}

// image copies what is not zero.
func (m *memory) image() []byte {
	const block = 4096
	var zeros [block]byte
	image := make([]byte, len(m.now))
	for at := 0; at < len(image); at += block {
		if part := m.now[at : at+block]; !bytes.Equal(part, zeros[:]) {
			copy(image[at:], part)
		}
	}
	return image
}
