package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
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
		return net.FileConn(socket)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("connect to port %d in the sandbox: %w", port, err)
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
