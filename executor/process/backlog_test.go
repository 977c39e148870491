package process

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"lambent/internal/h1"
)

// listening gives a listening socket, as the program has it, and the host's share of it.
func listening(t *testing.T) (program *os.File, b *backlog, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "http")
	program, err := listen(path, unix.SOCK_STREAM, unix.SOMAXCONN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	if b, err = newBacklog(program); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.socket.Close() })
	return program, b, path
}

func dialBacklog(t *testing.T, b *backlog, path string) net.Conn {
	t.Helper()
	conn, err := b.dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// slow is a body of which there is no more before its rest is closed.
type slow struct {
	io.Reader
	rest chan struct{}
	tail io.Reader
	once sync.Once
}

func (s *slow) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err == io.EOF {
		<-s.rest
		return s.tail.Read(p)
	}
	return n, err
}

func (s *slow) Close() error {
	s.once.Do(func() { close(s.rest) })
	return nil
}

func TestBodiesOfReturnedRequestsAreWhole(t *testing.T) {
	big := make([]byte, 3<<20)
	rand.Read(big)
	for _, c := range []struct {
		name string
		size int // of the body
		req  h1.Request
		body func(io.Reader) io.ReadCloser
	}{
		{"none", 0, h1.Request{Method: "GET"}, nil},
		{"small", 1000, h1.Request{ContentLength: 1000}, io.NopCloser},
		{"of known length, within the socket's buffer", 60 << 10, h1.Request{ContentLength: 60 << 10}, io.NopCloser},
		{"of known length, beyond it", 3 << 20, h1.Request{ContentLength: 3 << 20}, io.NopCloser},
		{"chunked, within", 50 << 10, h1.Request{ContentLength: -1}, io.NopCloser},
		{"chunked, beyond", 3 << 20, h1.Request{ContentLength: -1}, io.NopCloser},
		{"chunked in bytes", 3000, h1.Request{ContentLength: -1}, func(r io.Reader) io.ReadCloser { return io.NopCloser(iotest.OneByteReader(r)) }},
		{"chunked, of which some is not there yet", 5000, h1.Request{ContentLength: -1}, func(r io.Reader) io.ReadCloser {
			return &slow{Reader: io.LimitReader(r, 3000), rest: make(chan struct{}), tail: r}
		}},
		{"with a trailer", 50 << 10, h1.Request{ContentLength: -1, Trailer: http.Header{"Sum": {"1"}}}, io.NopCloser},
	} {
		t.Run(c.name, func(t *testing.T) {
			program, b, path := listening(t)
			req := c.req
			if req.Method == "" {
				req.Method = "POST"
			}
			req.Target, req.Host, req.Header = "/", "localhost", http.Header{"X": {"y"}}
			if c.body != nil {
				req.Body = c.body(bytes.NewReader(big[:c.size]))
			}
			raw := dialBacklog(t, b, path)
			conn := h1.NewConn(raw)
			done := make(chan error, 1)
			go func() {
				_, err := conn.RoundTrip(&req, h1.Deadlines{FirstByte: time.Now().Add(30 * time.Second)})
				done <- err
			}()
			awaitSent(t, raw, min(c.size, 3000))
			program.Close() // it dies
			if err := b.giveBack(); err != nil {
				t.Fatal(err)
			}
			err := <-done
			if !errors.As(err, new(*h1.ReturnedError)) || !errors.Is(err, h1.ErrNotSent) || conn.Begun() {
				t.Fatalf("the request failed with %v, begun: %t", err, conn.Begun())
			}
			body := req.Untaken()
			if body == nil && req.Body != nil {
				body = req.Body
			}
			if body == nil {
				return
			}
			if s, ok := req.Body.(*slow); ok {
				s.Close()
			}
			got, err := io.ReadAll(body)
			if err != nil || !bytes.Equal(got, big[:c.size]) {
				t.Errorf("%d of %d bytes of the body came back, %v", len(got), c.size, err)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
			if _, err := b.dial(t.Context(), path); !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
				t.Errorf("another connection gives %v", err)
			}
		})
	}
}

// awaitSent waits until n bytes wait for whoever accepts conn, as far as the kernel tells.
func awaitSent(t *testing.T, conn net.Conn, n int) {
	t.Helper()
	raw, err := conn.(*dialled).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		waiting := 0
		if e := raw.Control(func(fd uintptr) { waiting, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); e != nil || err != nil {
			t.Fatal(e, err)
		}
		if waiting > n {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d bytes were sent, not %d", waiting, n)
		}
	}
}

func TestBacklogGivesBackOnlyWhatWaits(t *testing.T) {
	program, b, path := listening(t)
	accepted := dialBacklog(t, b, path)
	fd, _, err := unix.Accept4(int(program.Fd()), unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fd), "accepted")
	defer theirs.Close()
	const n = 1000
	var waiting []net.Conn
	for range n {
		waiting = append(waiting, dialBacklog(t, b, path))
	}
	if err := unix.SetNonblock(int(program.Fd()), true); err != nil { // as many programs do
		t.Fatal(err)
	}
	program.Close()
	if err := b.giveBack(); err != nil {
		t.Fatal(err)
	}
	page := make([]byte, 100)
	for i, conn := range waiting {
		if n, err := conn.Read(page); n != 0 || !errors.As(err, new(*h1.ReturnedError)) {
			t.Fatalf("connection %d gives %d bytes, %v", i, n, err)
		}
	}
	if _, err := theirs.Write([]byte("HTTP/1.1 ")); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if got, err := io.ReadAll(accepted); err != nil || string(got) != "HTTP/1.1 " {
		t.Errorf("the accepted connection gives %q, %v", got, err)
	}
}

// A connection whose client has left, and one whose client does not read, hold nobody up.
func TestBacklogOfClientsThatLeft(t *testing.T) {
	program, b, path := listening(t)
	gone := dialBacklog(t, b, path)
	if _, err := gone.Write([]byte("GET /")); err != nil {
		t.Fatal(err)
	}
	gone.Close()
	stays := dialBacklog(t, b, path)
	program.Close()
	if err := b.giveBack(); err != nil {
		t.Fatal(err)
	}
	if _, err := stays.Read(make([]byte, 100)); !errors.As(err, new(*h1.ReturnedError)) {
		t.Errorf("the one that waits gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.dial(ctx, path); err == nil {
		t.Error("a dial of nobody succeeds")
	}
}
