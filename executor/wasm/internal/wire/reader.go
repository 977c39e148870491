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
	oob      []byte     // nil: descriptors that come are dropped by the kernel
	files    []*os.File // those that no frame has taken yet
}

func newReader(conn *net.UnixConn, files bool) (*reader, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &reader{raw: raw, buf: make([]byte, bufferSize)}
	if files {
		r.oob = make([]byte, unix.CmsgSpace(4*MaxFiles))
	}
	return r, nil
}

// run gives every frame to handle, until that fails or the socket does. It gives io.EOF when the peer has hung up between
// two frames.
func (r *reader) run(handle func(frame) error) error {
	defer r.closeFiles()
	// All is read in one call of Read, because that has the poller forget what it knew at its beginning. The function
	// that it calls may say "wait" without having met an empty socket: a read that gave less than it asked for has
	// emptied it, and the poller has not forgotten what came since. Descriptors cut a read short, too.
	var err error
	rerr := r.raw.Read(func(fd uintptr) bool {
		for short := false; !short; {
			if short, err = r.fill(int(fd)); err == nil {
				err = r.handle(handle)
			}
			if err != nil {
				return err != unix.EAGAIN
			}
		}
		return false
	})
	if rerr != nil {
		return rerr
	}
	return err
}

// fill reads once. It tells whether the socket is empty now.
func (r *reader) fill(fd int) (short bool, err error) {
	var n int
	room := r.buf[r.to:]
	for {
		if r.oob == nil {
			n, err = unix.Read(fd, room)
		} else {
			n, err = r.receive(fd, room)
		}
		if err != unix.EINTR {
			break
		}
	}
	switch {
	case err != nil:
		return false, err
	case n == 0 && r.from < r.to:
		return false, io.ErrUnexpectedEOF
	case n == 0:
		return false, io.EOF
	}
	r.to += n
	return n < len(room) && r.oob == nil, nil
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
		f, size, err := next(r.buf[r.from:r.to])
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
