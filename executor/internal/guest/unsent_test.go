package guest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"

	"lambent"
	"lambent/executor"
)

// A function may close idle connections whenever it likes.
func TestStaleConnection(t *testing.T) {
	closed := make(chan struct{}, 10)
	h := script(t, servers(), func(conn *net.UnixConn, in *bufio.Reader) {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		conn.Close()
		closed <- struct{}{}
	})
	for range 5 {
		_, body, err := h.do(t.Context(), call("/", "once"))
		if err != nil || body != "once" {
			t.Fatal(body, err)
		}
		<-closed
	}
}

// A request that no instance took goes to another with its body, although it was read for a connection that had died.
func TestNotSentKeepsTheBody(t *testing.T) {
	l, dial := listen(t)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
		l.Close()
		conn.Close()
	}()
	h := connect(t, servers(), dial)
	if _, _, err := h.do(t.Context(), call("/", "first")); err != nil {
		t.Fatal(err)
	}
	<-gone
	inv := call("/", "second")
	if _, err := h.Handle(t.Context(), inv, soon()); !errors.Is(err, executor.ErrNotSent) {
		t.Fatal(err)
	}
	other := serve(t, servers(), func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	if _, body, err := other.do(t.Context(), inv); err != nil || body != "second" {
		t.Errorf("the other instance got %q, %v", body, err)
	}
}

// peek waits until something can be read from conn.
func peek(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return err != syscall.EAGAIN
	})
}

// What a function has not read it has not got, on a connection that it has accepted too.
func TestUnseen(t *testing.T) {
	long := strings.Repeat("x", 3<<10)
	for name, tt := range map[string]struct {
		settings lambent.Settings
		body     string
		read     int // bytes of the request, before its process dies
		unseen   bool
		stream   bool
	}{
		"without a body":                         {servers(), "", 0, true, false},
		"of which it read a part":                {servers(), "", 20, true, false},
		"that it read":                           {servers(), "", 4 << 10, false, false},
		"small":                                  {servers(), "ok", 0, true, false},
		"long, and its head was read":            {servers(), long, 1 << 10, false, false},
		"long, to a shim":                        {handlers(), long, 0, true, false},
		"long, to a shim that read it":           {handlers(), long, 8 << 10, false, false},
		"long, to lambent-exec":                  {lambent.Settings{Runtime: "exec", Command: []string{"cat"}}, long, 1 << 10, false, false},
		"a stream":                               {servers(), long, 0, true, true},
		"a stream, of whose head it read a part": {servers(), long, 20, true, true},
		"a stream, and its head was read":        {servers(), long, 8 << 10, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := script(t, tt.settings, func(conn *net.UnixConn, _ *bufio.Reader) {
				if err := peek(conn); err != nil {
					t.Error(err)
				}
				if tt.read > 0 {
					conn.Read(make([]byte, tt.read))
				}
			})
			h.died = func() *lambent.Error { return lambent.Errorf(lambent.CodeInstanceExited, "killed by SIGKILL") }
			inv := call("/", tt.body)
			if tt.stream {
				inv.ContentLength = -1
			}
			_, err := h.Handle(t.Context(), inv, soon())
			if errors.Is(err, executor.ErrNotSent) != tt.unseen || !lambent.HasCode(err, lambent.CodeInstanceExited) {
				t.Fatal(err)
			}
			if tt.unseen && tt.body != "" {
				if body, err := io.ReadAll(inv.Body); string(body) != tt.body || err != nil {
					t.Errorf("the next instance would get %q, %v", body, err)
				}
			}
			h.died = func() *lambent.Error { return nil }
			_, err = h.Handle(t.Context(), call("/", tt.body), soon())
			if errors.Is(err, executor.ErrNotSent) || !lambent.HasCode(err, lambent.CodeBadResponse) {
				t.Errorf("one that lives gives %v", err)
			}
		})
	}
}

// A function may hang up an idle connection at the moment that a request is sent on it.
func TestHangUpAtTheLastMoment(t *testing.T) {
	var conns atomic.Int32
	h := script(t, servers(), func(conn *net.UnixConn, in *bufio.Reader) {
		first := conns.Add(1) == 1
		for {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			io.WriteString(conn, "HTTP/1.1 204 No\r\n\r\n")
			if first {
				peek(conn)
				return
			}
		}
	})
	for range 3 {
		if _, _, err := h.do(t.Context(), call("/", "")); err != nil {
			t.Fatal(err)
		}
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// A server that reads a head in pieces may act on it, and hang up with a small body unread.
func TestHangUpOnBody(t *testing.T) {
	for name, tt := range map[string]struct {
		settings lambent.Settings
		acts     bool // on the head; else it reads nothing
		conns    int32
	}{
		"a server": {servers(), true, 1},
		"a shim":   {handlers(), false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var conns, acted atomic.Int32
			h := script(t, tt.settings, func(conn *net.UnixConn, _ *bufio.Reader) {
				first := conns.Add(1) == 1
				in := bufio.NewReader(conn)
				if r, err := http.ReadRequest(in); err == nil {
					io.Copy(io.Discard, r.Body)
				}
				io.WriteString(conn, "HTTP/1.1 204 No\r\n\r\n")
				switch {
				case !first:
					peek(conn)
					return
				case tt.acts:
					http.ReadRequest(bufio.NewReaderSize(iotest.OneByteReader(conn), 16))
					acted.Add(1)
				default:
					peek(conn)
				}
			})
			if _, _, err := h.do(t.Context(), call("/", "")); err != nil {
				t.Fatal(err)
			}
			_, _, err := h.do(t.Context(), call("/", "the body"))
			if tt.acts {
				if errors.Is(err, executor.ErrNotSent) || !lambent.HasCode(err, lambent.CodeBadResponse) {
					t.Errorf("got %v", err)
				}
			} else if err != nil {
				t.Error(err)
			}
			if n := conns.Load(); n != tt.conns {
				t.Errorf("%d connections, want %d", n, tt.conns)
			}
		})
	}
}

func TestNotSent(t *testing.T) {
	l, dial := listen(t)
	h := connect(t, servers(), dial)
	l.Close()
	_, err := h.Handle(t.Context(), call("/", ""), soon())
	if !errors.Is(err, executor.ErrNotSent) || !lambent.HasCode(err, lambent.CodeBadResponse) {
		t.Errorf("got %v", err)
	}
	h.died = func() *lambent.Error { return lambent.Errorf(lambent.CodeMemoryExceeded, "too much") }
	_, err = h.Handle(t.Context(), call("/", ""), soon())
	if !errors.Is(err, executor.ErrNotSent) || !lambent.HasCode(err, lambent.CodeMemoryExceeded) {
		t.Errorf("got %v", err)
	}
	h = connect(t, servers(), func(context.Context) (net.Conn, error) { return nil, os.ErrPermission })
	_, err = h.Handle(t.Context(), call("/", ""), soon())
	if !errors.Is(err, executor.ErrNotSent) || !lambent.HasCode(err, lambent.CodeInternal) {
		t.Errorf("got %v", err)
	}
}
