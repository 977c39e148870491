package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lambent/internal/sandbox"
)

// dialPort connects to a port of the sandbox's own loopback, which lambent-init alone reaches. With wait it
// goes on trying until somebody listens there or ctx ends.
func (in *instance) dialPort(ctx context.Context, port uint16, wait bool) (net.Conn, error) {
	ask := sandbox.Dial{Port: port}
	if wait {
		ask.Wait = sandbox.MaxDialWait
	}
	raw, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unixpacket", in.exec.path(in.id, fileDial))
	if err != nil {
		return nil, err
	}
	defer conn.Close() // lambent-init stops trying
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	socket, err := exchange(conn.(*net.UnixConn), raw)
	if err == nil {
		defer socket.Close()
		return newPrompt(socket)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("connect to port %d in the sandbox: %w", port, err)
}

// prompt acknowledges what was read at once. Many servers write the head and the body of an answer apart, and then
// the kernel on their side holds the body back until ours has acknowledged the head, for which it takes 40 ms.
type prompt struct {
	*net.TCPConn
	raw         syscall.RawConn
	acknowledge func(fd uintptr)
}

func newPrompt(socket *os.File) (net.Conn, error) {
	conn, err := net.FileConn(socket)
	if err != nil {
		return nil, err
	}
	c := &prompt{TCPConn: conn.(*net.TCPConn)}
	if c.raw, err = c.SyscallConn(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c.acknowledge = func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) // fails when the connection has broken
	}
	return c, nil
}

// Read implements net.Conn. The kernel forgets the wish as soon as something is sent.
func (c *prompt) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if n > 0 {
		_ = c.raw.Control(c.acknowledge) // fails when the connection has been closed
	}
	return n, err
}

// exchange asks lambent-init and takes the connected socket.
func exchange(conn *net.UnixConn, ask []byte) (*os.File, error) {
	if _, err := conn.Write(ask); err != nil {
		return nil, err
	}
	packet, rights := make([]byte, 128), make([]byte, unix.CmsgSpace(4))
	n, nr, _, _, err := conn.ReadMsgUnix(packet, rights)
	switch {
	case errors.Is(err, io.EOF): // lambent-init has ended, and the sandbox with it
		return nil, unix.ECONNRESET
	case err != nil:
		return nil, err
	}
	var answer sandbox.Dialled
	if err := json.Unmarshal(packet[:n], &answer); err != nil {
		return nil, err
	}
	if answer.Errno != 0 {
		return nil, unix.Errno(answer.Errno)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:nr])
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(errors.New("lambent-init sent no descriptor"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errors.New("lambent-init sent no descriptor"), err)
	}
	return os.NewFile(uintptr(fds[0]), "port"), nil
}
