package engine

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	stackReserve = 50_000_256&^(hostPage-1) + hostPage // bytes of address space, see layout.setStack
	stackLimit   = 1 << 20                             // bytes of stack that a guest may use: about what browsers give
	stackKept    = 64 << 10                            // bytes of an unused stack that keep their pages
)

// stacks are what guests run on. wazero gives every function object a stack on Go's heap, for ever, and more when a guest
// wants it, up to 100 MB; here only calls that run have one, with a limit, and an idle instance has none.
type stacks struct {
	mu   sync.Mutex
	free [][]byte
	maps *budget
}

func (s *stacks) get() ([]byte, error) {
	s.mu.Lock()
	if n := len(s.free); n > 0 {
		defer s.mu.Unlock()
		stack := s.free[n-1]
		s.free = s.free[:n-1]
		return stack, nil
	}
	s.mu.Unlock()
	if !s.maps.take(1) {
		return nil, errNoMaps
	}
	at, err := mmap(nil, stackReserve, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_NORESERVE, nil, 0)
	if err != nil {
		s.maps.give(1)
		return nil, err
	}
	return unsafe.Slice((*byte)(at), stackReserve), nil
}

func (s *stacks) put(stack []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, stack)
}

// tidy gives back all but a few of the unused stacks, and of those the pages that deep recursion has left.
func (s *stacks) tidy(keep int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.free) > keep {
		unmapOurs(s.free[0])
		s.free = s.free[1:]
		s.maps.give(1)
	}
	for _, stack := range s.free {
		// Advice that is not taken costs memory, nothing else.
		_ = unix.Madvise(stack[:stackReserve-stackKept], unix.MADV_DONTNEED)
	}
}
