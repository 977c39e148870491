package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	hostPage = 4096    // bytes of a page of the processor
	wasmPage = 1 << 16 // bytes of a page of WebAssembly
)

// store holds the images of all programs in one file that only this process knows: an image cannot shrink under a mapping
// of it, which would be the end of the process, and needs no descriptor of its own. Only pages that are not zero take room.
type store struct {
	file *os.File
	maps *budget
	mu   sync.Mutex
	end  int64 // where the next image begins; a file is so long that none needs to begin where another was; guarded by mu
}

func newStore(maps *budget) (*store, error) {
	fd, err := unix.MemfdCreate("images", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	return &store{file: os.NewFile(uintptr(fd), "images"), maps: maps}, nil
}

// image is the first content of a program's memory.
type image struct {
	store    *store
	at       int64  // in the store
	size     int    // bytes, whole pages of WebAssembly
	from, to int    // what lies outside is zero
	view     []byte // from to to, read-only; nil when nobody needs it
	whole    bool   // it is all that there is at first; without it a module has data segments of its own
}

// add copies an image of size bytes. Errors are *[Error].
func (s *store) add(from io.ReaderAt, size int) (*image, error) {
	at, err := s.room(size)
	if err != nil {
		return nil, errorf(Capacity, "no room for the image: %w", err)
	}
	im := &image{store: s, whole: true, size: size, at: at, from: size}
	chunk := make([]byte, min(size, wasmPage))
	for at := 0; at < size; at += len(chunk) {
		if n, err := from.ReadAt(chunk, int64(at)); n < len(chunk) {
			return nil, errors.Join(errorf(Stale, "the image ends after %d of %d bytes", at+n, size), err, im.remove())
		}
		for page := 0; page < len(chunk); page += hostPage {
			content := chunk[page : page+hostPage]
			if bytes.Equal(content, zeros[:]) {
				continue
			}
			if _, err := s.file.WriteAt(content, im.at+int64(at+page)); err != nil {
				return nil, errors.Join(errorf(Capacity, "no room for the image: %w", err), im.remove())
			}
			im.from, im.to = min(im.from, at+page), at+page+hostPage
		}
	}
	im.from = min(im.from, im.to)
	return im, nil
}

// room makes the file longer. It is the end of what was there if another makes it shorter again.
func (s *store) room(size int) (at int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.file.Truncate(s.end + int64(size)); err != nil {
		return 0, err
	}
	at = s.end
	s.end += int64(size)
	return at, nil
}

var zeros [hostPage]byte

// remove gives the room back. Nothing may be mapped.
func (im *image) remove() error {
	im.hide()
	if im.from == im.to {
		return nil
	}
	return unix.Fallocate(int(im.store.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
		im.at+int64(im.from), int64(im.to-im.from))
}

// show makes the view.
func (im *image) show() error {
	if im.view != nil || im.from == im.to {
		return nil
	}
	if !im.store.maps.take(1) {
		return errNoMaps
	}
	at, err := mmap(nil, im.to-im.from, unix.PROT_READ, unix.MAP_SHARED, im.store, im.at+int64(im.from))
	if err != nil {
		im.store.maps.give(1)
		return err
	}
	im.view = unsafe.Slice((*byte)(at), im.to-im.from)
	return nil
}

// hide takes the view away.
func (im *image) hide() {
	if im.view != nil {
		unmapOurs(im.view)
		im.view = nil
		im.store.maps.give(1)
	}
}

// mmap maps length bytes of the store, or nothing when it is nil, at the address at, or where there is room when it is nil.
// unix.Mmap would keep a table of all mappings.
func mmap(at unsafe.Pointer, length, protection, flags int, from *store, offset int64) (unsafe.Pointer, error) {
	fd := -1
	if from == nil {
		flags |= unix.MAP_ANONYMOUS
	} else {
		fd = int(from.file.Fd())
	}
	if at != nil {
		flags |= unix.MAP_FIXED
	}
	p, err := unix.MmapPtr(fd, offset, at, uintptr(length), protection, flags)
	if err != nil {
		return nil, fmt.Errorf("mmap of %d bytes: %w", length, err)
	}
	return p, nil
}

// unmapOurs ends a mapping that mmap made. That cannot fail unless address or length are wrong, and then nothing is safe.
func unmapOurs(b []byte) {
	if err := unix.MunmapPtr(unsafe.Pointer(&b[0]), uintptr(len(b))); err != nil {
		panic("engine: munmap: " + err.Error())
	}
}
