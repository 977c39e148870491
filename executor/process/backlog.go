package process

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"lambent/internal/h1"
)

// backlog is the host's share of the socket that an instance's program listens on. When the program has ended, the host
// accepts in its stead what still waits there, and answers each connection with the nonce. Whoever reads the nonce
// knows that no program ever had the connection.
//
// The nonce is not secret from those who connect: nobody else ever gets to read it. A program that told one of its
// own connections the nonce, could it know it, would only have its requests sent to its next instance.
type backlog struct {
	socket *os.File
	nonce  []byte // nonceSize random bytes
}

const nonceSize = 16

// newBacklog makes the backlog of a new instance, of whose listening socket it takes a duplicate.
func newBacklog(socket *os.File) (*backlog, error) {
	ours, err := duplicate(socket)
	if err != nil {
		return nil, err
	}
	b := &backlog{socket: ours, nonce: make([]byte, nonceSize)}
	rand.Read(b.nonce)
	return b, nil
}

// close closes the socket, possibly once more.
func (b *backlog) close() {
	if b != nil {
		b.socket.Close() // of a nil file, it only says so
	}
}

// dial connects to the socket, which is at path. While its queue is full, the length of which the program may have
// chosen, the kernel refuses instead of waiting, so dial tries again until ctx ends.
func (b *backlog) dial(ctx context.Context, path string) (net.Conn, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			return &dialled{UnixConn: conn.(*net.UnixConn), nonce: b.nonce}, nil
		case !errors.Is(err, unix.EAGAIN):
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// giveBack has further connections refused and gives back those that wait. It closes the socket.
func (b *backlog) giveBack() error {
	defer b.socket.Close()
	fd := int(b.socket.Fd())
	// From here on connecting fails, and accepting does not wait, whatever the program has made of the socket.
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		return os.NewSyscallError("shutdown", err)
	}
	for until := time.Now().Add(lastWords); time.Now().Before(until); {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch {
		case err == nil:
			_, _ = unix.Write(conn, b.nonce) // an error means that its other side has gone
			unix.Close(conn)
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EAGAIN):
			return nil
		case !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("accept4", err)
		}
	}
	return os.ErrDeadlineExceeded
}

// dialled is a connection to an instance. Its reader gives it room for the nonce.
type dialled struct {
	*net.UnixConn
	nonce    []byte
	accepted bool // by the program, which has answered
}

// Read implements net.Conn. It gives h1.ErrUnaccepted when the connection was given back.
func (c *dialled) Read(p []byte) (int, error) {
	n, err := c.UnixConn.Read(p)
	if c.accepted || n == 0 {
		return n, err
	}
	if bytes.HasPrefix(p[:n], c.nonce) {
		return 0, h1.ErrUnaccepted
	}
	c.accepted = true
	return n, err
}
