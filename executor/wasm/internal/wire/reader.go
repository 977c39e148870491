package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// bufferSize is how much is read at once.
const bufferSize = 64 << 10

// reader reads frames.
type reader struct {
	raw      syscall.RawConn
	buf      []byte
	from, to int        // what of buf holds
	limit    int        // bytes of a frame
	oob      []byte     // nil: descriptors that come are dropped by the kernel
	files    []*os.File // those that no frame has taken yet
}

// newReader makes a reader of frames of at most limit bytes. One that takes what loads programs takes descriptors, too.
func newReader(conn *net.UnixConn, limit int) (*reader, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &reader{raw: raw, buf: make([]byte, bufferSize), limit: limit}
	if limit == maxSpec {
		r.oob = make([]byte, unix.CmsgSpace(4*MaxFiles))
	}
	return r, nil
}

// run gives every frame to handle, until that fails or the socket does. It gives io.EOF when the peer has hung up between
// two frames.
func (r *reader) run(handle func(frame) error) error {
	defer r.closeFiles()
	var err error
	rerr := r.raw.Read(func(fd uintptr) bool {
		// To the end of what is there, not just to a short read: that the peer has hung up comes with no news of its own
		// when it had done so before the read.
		for err = nil; err == nil; {
			if err = r.fill(int(fd)); err == nil {
				err = r.handle(handle)
			}
		}
		return err != unix.EAGAIN
	})
	if rerr != nil {
		return rerr
	}
	return err
}

// fill reads once.
func (r *reader) fill(fd int) error {
	var n int
	err := error(unix.EINTR)
	for err == unix.EINTR {
		if r.oob == nil {
			n, err = unix.Read(fd, r.buf[r.to:])
		} else {
			n, err = r.receive(fd, r.buf[r.to:])
		}
	}
	switch {
	case err != nil:
		return err
	case n == 0 && r.from < r.to:
		return io.ErrUnexpectedEOF
	case n == 0:
		return io.EOF
	}
	r.to += n
	return nil
}

// receive reads, and takes the descriptors that come.
func (r *reader) receive(fd int, p []byte) (int, error) {
	n, oobn, flags, _, err := unix.Recvmsg(fd, p, r.oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || oobn == 0 {
		return n, err
	}
	messages, err := unix.ParseSocketControlMessage(r.oob[:oobn])
	for _, m := range messages {
		fds, rerr := unix.ParseUnixRights(&m)
		err = errors.Join(err, rerr)
		for _, fd := range fds {
			r.files = append(r.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if err == nil && (flags&unix.MSG_CTRUNC != 0 || len(r.files) > MaxFiles) {
		err = violation("more than %d descriptors at a time", MaxFiles)
	}
	return n, err
}

// handle gives the frames that are complete to handle, and makes room for the rest.
func (r *reader) handle(handle func(frame) error) error {
	for {
		f, size, err := next(r.buf[r.from:r.to], r.limit)
		if err != nil {
			return err
		}
		if size > r.to-r.from {
			r.makeRoom(size)
			return nil
		}
		r.from += size
		if err := handle(f); err != nil {
			return err
		}
	}
}

// makeRoom moves what is left to the front of a buffer that size bytes fit into.
func (r *reader) makeRoom(size int) {
	rest := r.buf[r.from:r.to]
	switch {
	case size > len(r.buf):
		r.buf = make([]byte, max(size, bufferSize))
	case len(r.buf) > bufferSize && size <= bufferSize:
		r.buf = make([]byte, bufferSize)
	}
	r.from, r.to = 0, copy(r.buf, rest)
}

// take takes the descriptors of a frame.
func (r *reader) take(n int) ([]*os.File, error) {
	if n > len(r.files) {
		return nil, violation("%d descriptors are announced, %d came", n, len(r.files))
	}
	files := r.files[:n:n]
	r.files = r.files[n:]
	return files, nil
}

func (r *reader) closeFiles() {
	for _, f := range r.files {
		f.Close()
	}
	r.files = nil
}
