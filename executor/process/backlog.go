package process

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"lambent/internal/h1"
)

// backlog is the host's share of the socket that an instance's program listens on. When the program has ended, the host
// accepts in its stead what still waits there, and answers each connection with the nonce and with what was
// sent on it. Whoever reads the nonce knows that no program ever had the connection.
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

// dial connects to the socket, which is at path.
func (b *backlog) dial(ctx context.Context, path string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return &dialled{UnixConn: conn.(*net.UnixConn), nonce: b.nonce}, nil
}

// giveBack has further connections refused and gives back those that wait. It closes the socket.
func (b *backlog) giveBack() error {
	defer b.socket.Close()
	fd := int(b.socket.Fd())
	// From here on connecting fails, and accepting does not wait, whatever the program has made of the socket.
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		return os.NewSyscallError("shutdown", err)
	}
	until := time.Now().Add(lastWords)
	for time.Now().Before(until) {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch {
		case err == nil:
			b.answer(conn, until)
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EAGAIN):
			return nil
		case !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("accept4", err)
		}
	}
	return os.ErrDeadlineExceeded
}

// answer gives one connection back. Errors mean that its other side has gone, or is late.
func (b *backlog) answer(fd int, until time.Time) {
	conn := os.NewFile(uintptr(fd), "unaccepted")
	defer conn.Close()
	_ = conn.SetDeadline(until)
	if unix.Shutdown(fd, unix.SHUT_RD) != nil { // it can send no more, and what it has sent has an end
		return
	}
	if sent, err := io.ReadAll(conn); err == nil {
		_, _ = conn.Write(append(bytes.Clone(b.nonce), sent...))
	}
}

// dialled is a connection to an instance. Its reader gives it 16 bytes of room or more.
type dialled struct {
	*net.UnixConn
	nonce    []byte
	answered bool   // the program has accepted it
	returned bool   // it begins with the nonce
	sent     []byte // what has come back
}

// Read implements net.Conn. It gives *h1.ReturnedError when the connection was given back.
func (c *dialled) Read(p []byte) (int, error) {
	if c.answered {
		return c.UnixConn.Read(p)
	}
	for {
		n, err := c.UnixConn.Read(p)
		got := p[:n]
		if !c.returned && n > 0 {
			if got, c.returned = bytes.CutPrefix(got, c.nonce); !c.returned {
				c.answered = true
				return n, err
			}
		}
		c.sent = append(c.sent, got...)
		switch {
		case c.returned && err == io.EOF:
			return 0, &h1.ReturnedError{Sent: c.sent}
		case err != nil:
			return 0, err
		}
	}
}
