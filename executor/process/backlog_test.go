package process

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
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

func TestBodiesOfUnacceptedRequests(t *testing.T) {
	big := make([]byte, 1<<20)
	rand.Read(big)
	for _, c := range []struct {
		name string
		size int // of the body
		req  h1.Request
	}{
		{"none", 0, h1.Request{Method: "GET"}},
		{"small", 1000, h1.Request{ContentLength: 1000}},
		{"of known length", 1 << 20, h1.Request{ContentLength: 1 << 20}},
		{"chunked", 50 << 10, h1.Request{ContentLength: -1}},
		{"with a trailer", 1000, h1.Request{ContentLength: 1000, Trailer: http.Header{"Sum": {"1"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			program, b, path := listening(t)
			req := c.req
			req.Method, req.Target, req.Host = cmp.Or(req.Method, "POST"), "/", "localhost"
			if c.size > 0 {
				req.Body = io.NopCloser(bytes.NewReader(big[:c.size]))
			}
			raw := dialBacklog(t, b, path)
			conn := h1.NewConn(raw)
			done := make(chan error, 1)
			go func() {
				_, err := conn.RoundTrip(&req, h1.Deadlines{FirstByte: time.Now().Add(30 * time.Second)})
				done <- err
			}()
			awaitSent(t, raw)
			program.Close() // it dies
			if err := b.giveBack(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !errors.Is(err, h1.ErrUnaccepted) || !errors.Is(err, h1.ErrNotSent) || conn.Begun() {
				t.Fatalf("the request failed with %v, begun: %t", err, conn.Begun())
			}
			got := req.Untaken()
			if got == nil && req.Body != nil {
				var err error
				if got, err = io.ReadAll(req.Body); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, big[:c.size]) {
				t.Errorf("%d of %d bytes of the body are left", len(got), c.size)
			}
			if _, err := b.dial(t.Context(), path); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("another connection gives %v", err)
			}
		})
	}
}

// awaitSent waits until something waits for whoever accepts conn.
func awaitSent(t *testing.T, conn net.Conn) {
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
		if waiting > 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatal("nothing was sent")
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
		if n, err := conn.Read(page); n != 0 || !errors.Is(err, h1.ErrUnaccepted) {
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

// A program may have chosen a short queue, as Python's socketserver does.
func TestBacklogFull(t *testing.T) {
	program, b, path := listening(t)
	if err := unix.Listen(int(program.Fd()), 0); err != nil {
		t.Fatal(err)
	}
	dialBacklog(t, b, path)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.dial(ctx, path); err == nil || ctx.Err() == nil {
		t.Fatalf("got %v before its time was up", err)
	}
	made := make(chan error, 1)
	go func() {
		conn, err := b.dial(t.Context(), path)
		if err == nil {
			conn.Close()
		}
		made <- err
	}()
	fd, _, err := unix.Accept4(int(program.Fd()), unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := <-made; err != nil {
		t.Error(err)
	}
}

// A connection whose client has left holds nobody up.
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
	if _, err := stays.Read(make([]byte, 100)); !errors.Is(err, h1.ErrUnaccepted) {
		t.Errorf("the one that waits gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.dial(ctx, path); err == nil {
		t.Error("a dial of nobody succeeds")
	}
}
