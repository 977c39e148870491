package handover

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// reader reads a connection and keeps the descriptors that come with the bytes. The kernel gives them no later than
// the first byte that was sent with them.
type reader struct {
	conn  *net.UnixConn
	files []*os.File // nil in place of those of a message that were lost
}

// ErrLost is what Receive gives with a message whose descriptors did not all come: this process has too many. What
// comes after it is whole.
var ErrLost = errors.New("descriptors were lost: this process has too many")

// Read implements io.Reader.
func (r *reader) Read(b []byte) (int, error) {
	var rights [MaxDescriptors*4 + 32]byte
	n, size, flags, _, err := r.conn.ReadMsgUnix(b, rights[:])
	n = max(n, 0) // -1 comes with an error
	if size > 0 {
		messages, perr := unix.ParseSocketControlMessage(rights[:size])
		for _, m := range messages {
			fds, rerr := unix.ParseUnixRights(&m)
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				r.files = append(r.files, os.NewFile(uintptr(fd), "handover"))
			}
			perr = cmp.Or(perr, rerr)
		}
		err = cmp.Or(err, perr)
	}
	if flags&unix.MSG_CTRUNC != 0 { // the kernel gives the descriptors of one message at a time
		r.files = append(r.files, nil)
	}
	if n == 0 && (err == nil || errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET)) {
		err = io.EOF // ECONNRESET: the other end closed and left unread what was sent to it
	}
	return n, err
}

// take gives the next n descriptors that have come, or ErrLost when some of a message were lost.
func (r *reader) take(n int) ([]*os.File, error) {
	if lost := slices.Index(r.files, nil); 0 <= lost && lost < n {
		closeAll(r.files[:lost])
		r.files = r.files[lost+1:]
		return nil, ErrLost
	}
	if n < 0 || n > len(r.files) {
		return nil, fmt.Errorf("a message with %d descriptors of %d", len(r.files), n)
	}
	files := r.files[:n:n]
	r.files = r.files[n:]
	return files, nil
}

// end closes what nobody has taken, and gives how reading ended.
func (r *reader) end(err error) error {
	closeAll(r.files)
	r.files = nil
	return cmp.Or(err, io.EOF)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close() // of nil it does nothing
	}
}
