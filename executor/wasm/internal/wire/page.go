package wire

import (
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const pageSize = MaxStreams * 4

// Page is memory that the daemon shares with one worker. It has a word for each slot of a stream: the stream that was
// started in it last. The words are never reset, as no two streams have the same number for a long time.
type Page struct {
	words *[MaxStreams]atomic.Uint32
}

// NewPage makes a page, and the file that the worker opens it by, which the caller closes.
func NewPage() (*Page, *os.File, error) {
	fd, err := unix.MemfdCreate("lambent-streams", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil, fmt.Errorf("making the page shared with a worker: %w", err)
	}
	f := os.NewFile(uintptr(fd), "streams")
	if err = f.Truncate(pageSize); err == nil {
		// A worker that could make the file shorter could have the daemon fall on its missing page.
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
		if err == nil {
			var p *Page
			if p, err = OpenPage(f); err == nil {
				return p, f, nil
			}
		}
	}
	f.Close()
	return nil, nil, fmt.Errorf("making the page shared with a worker: %w", err)
}

// OpenPage maps the page that f is. It does not close f.
func OpenPage(f *os.File) (*Page, error) {
	memory, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the page shared with the daemon: %w", err)
	}
	p := &Page{(*[MaxStreams]atomic.Uint32)(unsafe.Pointer(&memory[0]))}
	runtime.AddCleanup(p, func(memory []byte) { _ = unix.Munmap(memory) }, memory) // it was mapped by us, whole
	return p, nil
}

// started tells whether the worker has started a stream, and start says so.
func (p *Page) started(id uint32) bool { return p.words[id%MaxStreams].Load() == id }
func (p *Page) start(id uint32)        { p.words[id%MaxStreams].Store(id) }
