package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Reset names a way to put the memory of an instance back.
type Reset string

// The ways to reset, the best one first.
const (
	ResetScan    Reset = "scan"    // copy back the pages that the ioctl PAGEMAP_SCAN finds to be written; Linux 6.7
	ResetPagemap Reset = "pagemap" // copy back the pages that /proc/self/pagemap says to be written
	ResetDrop    Reset = "drop"    // drop all pages, each is a page fault in the next call
	ResetNever   Reset = "never"   // make a fresh instance for each call
)

// pages finds the pages that this process has written in a private mapping.
type pages struct {
	way     Reset
	pagemap *os.File // nil with ResetDrop
	scratch sync.Pool
}

// span is a run of pages, addresses in bytes.
type span struct{ from, to uintptr }

// scanRegion and scanArg are struct page_region and struct pm_scan_arg of linux/fs.h.
type (
	scanRegion struct{ start, end, _ uint64 }
	scanArg    struct {
		size, flags, start, end, walkEnd, vec, vecLen, maxPages       uint64
		categoryInverted, categoryMask, categoryAnyOfMask, returnMask uint64
	}
)

// From linux/fs.h, and Documentation/admin-guide/mm/pagemap.rst for the bits of pagemap.
const (
	pagemapScan   = 0xc0606610 // _IOWR('f', 16, struct pm_scan_arg)
	pageFile      = 1 << 2
	pagePresent   = 1 << 3
	pageSwapped   = 1 << 4
	pageZero      = 1 << 5
	bitFile       = 1 << 61
	bitsPresent   = 1<<63 | 1<<62 // or swapped
	scratchLength = 64
)

type scratch struct {
	arg     scanArg
	regions [scratchLength]scanRegion
	spans   [scratchLength]span
	entries [scratchLength * 8]byte
}

func newPages(way Reset) (*pages, error) {
	if !slices.Contains([]Reset{ResetScan, ResetPagemap, ResetDrop}, way) {
		return nil, errors.New("there is no such way")
	}
	p := &pages{way: way}
	p.scratch.New = func() any { return new(scratch) }
	if way == ResetDrop {
		return p, nil
	}
	var err error
	if p.pagemap, err = os.Open("/proc/self/pagemap"); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *pages) close() error {
	if p.pagemap == nil {
		return nil
	}
	return p.pagemap.Close()
}

// written lists the first written pages from on, and where to go on. The list is s's until the next call.
func (p *pages) written(s *scratch, from, to uintptr) (spans []span, next uintptr, err error) {
	if p.way == ResetScan {
		return p.scan(s, from, to)
	}
	return p.read(s, from, to)
}

func (p *pages) scan(s *scratch, from, to uintptr) ([]span, uintptr, error) {
	s.arg = scanArg{
		size: uint64(unsafe.Sizeof(s.arg)), start: uint64(from), end: uint64(to),
		vec: uint64(uintptr(unsafe.Pointer(&s.regions))), vecLen: scratchLength,
		categoryInverted: pageFile | pageZero, categoryMask: pageFile | pageZero,
		categoryAnyOfMask: pagePresent | pageSwapped, returnMask: pagePresent,
	}
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, p.pagemap.Fd(), pagemapScan, uintptr(unsafe.Pointer(&s.arg)))
	runtime.KeepAlive(s)
	if errno != 0 {
		return nil, 0, fmt.Errorf("PAGEMAP_SCAN: %w", errno)
	}
	for i, r := range s.regions[:n] {
		s.spans[i] = span{uintptr(r.start), uintptr(r.end)}
	}
	return s.spans[:n], uintptr(s.arg.walkEnd), nil
}

// read is scan for older kernels. Pages of zeros that were only read look as if they were written.
func (p *pages) read(s *scratch, from, to uintptr) ([]span, uintptr, error) {
	count := min(int(to-from)/hostPage, scratchLength)
	if n, err := p.pagemap.ReadAt(s.entries[:count*8], int64(from/hostPage)*8); n < count*8 {
		return nil, 0, fmt.Errorf("read of pagemap: %w", err)
	}
	n := 0
	for i := range count {
		entry := binary.NativeEndian.Uint64(s.entries[i*8:])
		if entry&bitsPresent == 0 || entry&bitFile != 0 {
			continue
		}
		at := from + uintptr(i*hostPage)
		if n > 0 && s.spans[n-1].to == at {
			s.spans[n-1].to += hostPage
			continue
		}
		s.spans[n] = span{at, at + hostPage}
		n++
	}
	return s.spans[:n], from + uintptr(count*hostPage), nil
}
