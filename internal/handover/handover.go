// Package handover connects a process with the one that it starts to take its place: messages in JSON, and
// descriptors with them, over a pair of unix sockets that nobody else has.
package handover

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// variable names the descriptor of the connection to a process that was started by [Start].
const variable = "LAMBENT_HANDOVER"

// Bounds of one message: bytes of JSON, and descriptors (SCM_MAX_FD of the kernel).
const (
	MaxMessage     = 16 << 20
	MaxDescriptors = 253
)

// Conn is one end of the connection. Send may be called by many goroutines, Receive by one. When the other process
// ends or closes its end, Receive gives io.EOF.
type Conn struct {
	conn    *net.UnixConn
	sending sync.Mutex
	lines   *bufio.Scanner
	in      *reader
}

// frame is a line on the wire.
type frame struct {
	Files   int             `json:"files,omitempty"`
	Message json.RawMessage `json:"message"`
}

// Start starts cmd with one end of a new connection and gives the other.
func Start(cmd *exec.Cmd) (*Conn, error) {
	ours, theirs, err := Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", variable, 3+len(cmd.ExtraFiles)))
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return newConn(ours), nil
}

// Inherited gives this process's end if it was started by [Start], and nil otherwise. What this process starts
// itself does not get to see it. It is for the beginning of main.
func Inherited() (*Conn, error) {
	text, ok := os.LookupEnv(variable)
	if !ok {
		return nil, nil
	}
	if err := os.Unsetenv(variable); err != nil {
		return nil, err
	}
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s: %q is no descriptor", variable, text)
	}
	if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
		return nil, fmt.Errorf("%s: descriptor %d is no unix socket", variable, fd)
	}
	conn, err := connOf(fd)
	if err != nil {
		return nil, err
	}
	return newConn(conn), nil
}

// Pair gives both ends of a new connection. The second is for another process.
func Pair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "handover")
	ours, err := connOf(fds[0])
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

// connOf takes the descriptor fd over.
func connOf(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "handover")
	defer f.Close() // net has its own
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

func newConn(conn *net.UnixConn) *Conn {
	c := &Conn{conn: conn, in: &reader{conn: conn}}
	c.lines = bufio.NewScanner(c.in)
	c.lines.Buffer(make([]byte, 0, 64<<10), MaxMessage)
	return c
}

// Close ends the connection, and a Receive that waits.
func (c *Conn) Close() error { return c.conn.Close() }

// Send sends message, and the descriptors of files with it. Those stay open here, and as they are: what os.File.Fd
// does to them would also be done to them in the other process.
func (c *Conn) Send(message any, files ...syscall.Conn) error {
	raw, err := json.Marshal(message)
	if err != nil {
		return err
	}
	line, err := json.Marshal(frame{len(files), raw})
	if err != nil {
		return err
	}
	if line = append(line, '\n'); len(line) > MaxMessage || len(files) > MaxDescriptors {
		return fmt.Errorf("a message of %d bytes and %d descriptors is too large", len(line), len(files))
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, f := range files {
		fd, err := duplicate(f)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	if len(fds) > 0 {
		n, _, err := c.conn.WriteMsgUnix(line, unix.UnixRights(fds...), nil)
		if err != nil {
			return err
		}
		if line = line[n:]; len(line) == 0 {
			return nil // to write nothing can fail, when the other has closed since
		}
	}
	_, err = c.conn.Write(line)
	return err
}

func duplicate(f syscall.Conn) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(cerr, err)
}

// Receive reads the next message into message, and gives the descriptors that came with it. With [ErrLost] the message
// is there, and they are not.
func (c *Conn) Receive(message any) ([]*os.File, error) {
	if !c.lines.Scan() {
		return nil, c.in.end(c.lines.Err())
	}
	var f frame
	if err := json.Unmarshal(c.lines.Bytes(), &f); err != nil {
		return nil, fmt.Errorf("a message that is none: %w", err)
	}
	files, lost := c.in.take(f.Files)
	if lost != nil && lost != ErrLost {
		return nil, lost
	}
	if err := json.Unmarshal(f.Message, message); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("a message that is none: %w", err)
	}
	return files, lost
}
