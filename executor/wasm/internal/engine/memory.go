package engine

import (
	"unsafe"

	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
)

// memory is the linear memory of one instance: a private view of the program's image, zeros after it, reserved for as much
// as the program may grow it.
type memory struct {
	image   *image
	budget  *budget
	base    []byte
	size    int    // bytes that the guest has
	heap    int64  // bytes that the instance takes besides
	charged int64  // to the budget
	starved Reason // why the guest did not get what it asked for: Memory, Capacity, or "" when it got it
	usual   int    // pages that the first call after a drop wrote; 0: there was none yet
	written int    // pages that are the process's own since the last reset
}

// newMemory maps a memory that can grow to reserve bytes, at least as many as the image has, for an instance that takes
// heap bytes besides.
func newMemory(im *image, reserve int, heap int64, b *budget) (*memory, error) {
	m := &memory{image: im, heap: heap, budget: b}
	if reserve == 0 {
		return m, nil
	}
	const protection, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_NORESERVE
	base, err := mmap(nil, reserve, protection, flags, nil, 0)
	if err != nil {
		return nil, err
	}
	m.base = unsafe.Slice((*byte)(base), reserve)
	if im.from < im.to {
		_, err = mmap(unsafe.Pointer(&m.base[im.from]), im.to-im.from, protection, flags, im.store, im.at+int64(im.from))
	}
	if err != nil {
		m.Free()
		return nil, err
	}
	return m, nil
}

// Allocate implements [experimental.MemoryAllocator]: it gives the memory itself, whose mapping is there already, because
// wazero cannot take no for an answer.
func (m *memory) Allocate(uint64, uint64) experimental.LinearMemory { return m }

// Reallocate implements [experimental.LinearMemory]. After a nil wazero says -1 to the guest.
func (m *memory) Reallocate(size uint64) []byte {
	if size > uint64(len(m.base)) {
		m.starved = Memory
		return nil
	}
	if more := m.need(int(size)) - m.charged; more > 0 && int(size) > m.size {
		if !m.budget.take(more) {
			m.starved = Capacity
			return nil
		}
		m.charged += more
	}
	m.size = int(size)
	return m.base[:size:size]
}

// Free implements [experimental.LinearMemory].
func (m *memory) Free() {
	m.budget.give(m.charged)
	m.charged = 0
	if m.base != nil {
		unmapOurs(m.base)
		m.base = nil
	}
}

// need is what a guest with size bytes of memory can write without a word to us, its stack too.
func (m *memory) need(size int) int64 { return int64(size) + stackLimit + m.heap }

// charge takes what the guest needs at the start.
func (m *memory) charge() bool {
	more := m.need(m.image.size) - m.charged
	if more <= 0 {
		return true
	}
	if !m.budget.take(more) {
		return false
	}
	m.charged += more
	return true
}

// maxRestore is how many pages are copied at most, which takes a tick.
const maxRestore = 4 << 20 / hostPage

// reset gives every written page its first content and takes back what was grown, but for wazero's idea of the size. Pages
// stay the process's own, so that the next call has no page faults; those of calls that wrote much more than usual go, and any that
// are so many that a collection would have to wait for the copy.
func (m *memory) reset(p *pages) error {
	high := m.size
	m.size, m.starved = m.image.size, ""
	if high == 0 {
		return nil
	}
	if p.way == ResetDrop {
		return m.drop(high)
	}
	if size := m.image.size; high > size { // what is parked is charged for its image only
		if err := unix.Madvise(m.base[size:high], unix.MADV_DONTNEED); err != nil {
			return err
		}
		high = size
	}
	s := p.scratch.Get().(*scratch)
	defer p.scratch.Put(s)
	start := uintptr(unsafe.Pointer(&m.base[0]))
	written, limit := 0, maxRestore
	if m.usual > 0 {
		limit = min(limit, 2*m.usual+64)
	}
	for at, end := start, start+uintptr(high); at < end; {
		spans, next, err := p.written(s, at, end)
		if err != nil {
			return err
		}
		for _, span := range spans {
			if written += int(span.to-span.from) / hostPage; written > limit {
				return m.drop(high)
			}
			m.restore(int(span.from-start), int(span.to-start))
		}
		at = next
	}
	if m.usual == 0 {
		m.usual = written
	}
	m.written = written
	return nil
}

// settle has the budget charged for what a parked instance holds.
func (m *memory) settle() {
	if m.image.whole {
		m.recharge(int64(m.written) * hostPage)
	} else {
		m.recharge(int64(m.image.size))
	}
}

// restore writes the first content of a part.
func (m *memory) restore(from, to int) {
	im := m.image
	clear(m.base[from:min(to, max(from, im.from))])
	if a, b := max(from, im.from), min(to, im.to); a < b {
		copy(m.base[a:b], im.view[a-im.from:b-im.from])
	}
	clear(m.base[max(from, min(to, im.to)):to])
}

// clean gives back the written pages of a memory that is as it was in the beginning.
func (m *memory) clean() {
	if m.written > 0 && m.image.whole {
		_ = m.drop(m.image.size) // advice that is not taken costs memory, and is still charged
	}
}

// drop forgets the written pages of the first size bytes.
func (m *memory) drop(size int) error {
	if err := unix.Madvise(m.base[:size], unix.MADV_DONTNEED); err != nil {
		return err
	}
	m.usual, m.written = 0, 0
	m.settle()
	return nil
}

func (m *memory) recharge(written int64) {
	to := written + m.heap
	m.budget.give(m.charged - to)
	m.charged = to
}
