package drain

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers with the request's body.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l.(*net.TCPListener)
}

// share gives a second listener on the socket of l, as another process has it after an upgrade. It is not made by
// l.File: net.FileListener makes the socket of such a file block for a moment, and an Accept of l that comes then
// blocks past its deadline.
func share(t *testing.T, l *net.TCPListener) *net.TCPListener {
	t.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var f *os.File
	cerr := raw.Control(func(fd uintptr) {
		var second int
		if second, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			f = os.NewFile(uintptr(second), "second")
		}
	})
	if err := errors.Join(cerr, err); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	second, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return second.(*net.TCPListener)
}

// serve serves h on l and gives what waits for the end of Serve.
func serve(t *testing.T, h http.Handler, l net.Listener, config *tls.Config) (*Server, func()) {
	t.Helper()
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(config == nil)
	p.SetHTTP2(config != nil)
	s := New(&http.Server{Handler: h, Protocols: p, TLSConfig: config.Clone()}, l)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() { s.Close(); serving.Wait() })
	return s, serving.Wait
}

// post sends what net/http's client must not send twice by itself.
func post(c *http.Client, url, text string) error {
	req, err := http.NewRequest("POST", url, io.NopCloser(bytes.NewReader([]byte(text))))
	if err != nil {
		return err
	}
	req.ContentLength = int64(len(text))
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && string(got) != text {
		err = fmt.Errorf("%d %q came back for %q", resp.StatusCode, got, text)
	}
	return err
}

// Clients that keep their connections and send at random moments notice none of 50 successions.
func TestSuccession(t *testing.T) {
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	config := &tls.Config{Certificates: certs.TLS.Certificates}
	certs.Close()
	insecure := &tls.Config{InsecureSkipVerify: true}
	for _, c := range []struct {
		name   string
		server *tls.Config
		client func() *http.Transport
	}{
		{"HTTP/1", nil, func() *http.Transport { return &http.Transport{} }},
		{"HTTP/1 by TLS", config, func() *http.Transport { return &http.Transport{TLSClientConfig: insecure} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			const clients, drains = 8, 50
			scheme := "http://"
			if c.server != nil {
				scheme = "https://"
			}
			l := listen(t)
			url := scheme + l.Addr().String()
			s, served := serve(t, echo, l, c.server)
			ctx, cancel := context.WithCancel(t.Context())
			var calls atomic.Int64
			var calling sync.WaitGroup
			for range clients {
				calling.Go(func() {
					transport := c.client()
					defer transport.CloseIdleConnections()
					client := &http.Client{Transport: transport}
					for ctx.Err() == nil {
						if err := post(client, url, fmt.Sprint(calls.Add(1))); err != nil {
							t.Error(err)
							return
						}
						time.Sleep(time.Duration(rand.IntN(int(20 * time.Millisecond))))
					}
				})
			}
			for i := range drains {
				next := share(t, l)
				old, oldServed := s, served
				s, served = serve(t, echo, next, c.server)
				l = next
				if cut := old.Drain(ctx, Options{Idle: 5 * time.Second, Shared: true}); cut != 0 {
					t.Errorf("drain %d cut %d connections", i, cut)
				}
				oldServed()
			}
			cancel()
			calling.Wait()
			if calls.Load() < 10*clients {
				t.Errorf("only %d calls", calls.Load())
			}
			t.Logf("%d calls", calls.Load())
		})
	}
}

// Requests of HTTP/2 that cross the end are answered, or known to their client as not heard.
func TestHTTP2(t *testing.T) {
	for i := range 10 {
		l := listen(t)
		s, served := serve(t, echo, l, nil)
		next := share(t, l)
		_, _ = serve(t, echo, next, nil)
		p := new(http.Protocols)
		p.SetUnencryptedHTTP2(true)
		transport := &http.Transport{Protocols: p}
		client := &http.Client{Transport: transport}
		ctx, cancel := context.WithCancel(t.Context())
		var calling sync.WaitGroup
		for range 4 {
			calling.Go(func() {
				for ctx.Err() == nil {
					resp, err := client.Post("http://"+l.Addr().String(), "text/plain", bytes.NewReader([]byte("x")))
					if err != nil {
						t.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(int(20 * time.Millisecond))))
		if cut := s.Drain(ctx, Options{Idle: 5 * time.Second, Shared: true}); cut != 0 {
			t.Errorf("drain %d cut %d connections", i, cut)
		}
		served()
		cancel()
		calling.Wait()
		transport.CloseIdleConnections()
	}
}

// Where nobody goes on to accept, a client is served or refused: none that has connected is let down.
func TestQueue(t *testing.T) {
	for range 10 {
		l := listen(t)
		s, served := serve(t, echo, l, nil)
		s.Pause() // so that connections wait
		addr := l.Addr().String()
		ctx, cancel := context.WithCancel(t.Context())
		var calls atomic.Int64
		var calling sync.WaitGroup
		for range 8 {
			calling.Go(func() {
				for ctx.Err() == nil {
					err := once(addr)
					if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, errSilent) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					calls.Add(1)
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(int(10 * time.Millisecond))))
		if rand.IntN(2) == 0 {
			s.Resume()
			time.Sleep(time.Duration(rand.IntN(int(10 * time.Millisecond))))
		}
		if cut := s.Drain(ctx, Options{Idle: time.Second}); cut != 0 {
			t.Errorf("%d connections were cut", cut)
		}
		served()
		cancel()
		calling.Wait()
		if calls.Load() == 0 {
			t.Error("no client was served")
		}
	}
}

var errSilent = errors.New("no answer to the first packet")

// once asks on a connection of its own.
func once(addr string) error {
	c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
	if err != nil {
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			return errSilent
		}
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func TestEnds(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	var s *Server
	hold := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hold":
			begun <- struct{}{}
			<-release
			if s.Draining() {
				w.Header().Set("Connection", "close")
			}
		case "/for-ever":
			begun <- struct{}{}
			<-r.Context().Done()
		case "/hijack":
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
		}
	})
	dial := func(t *testing.T, l net.Listener) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
	ask := func(t *testing.T, c net.Conn, path string) {
		t.Helper()
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
			t.Fatal(err)
		}
	}
	answer := func(t *testing.T, c net.Conn) (closing bool) {
		t.Helper()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.Close
	}

	t.Run("idle", func(t *testing.T) {
		l := listen(t)
		s, _ = serve(t, hold, l, nil)
		used, fresh := dial(t, l), dial(t, l)
		ask(t, used, "/")
		if answer(t, used) {
			t.Error("the server closes although nobody drains it")
		}
		const idle = 100 * time.Millisecond
		began := time.Now()
		if cut := s.Drain(t.Context(), Options{Idle: idle}); cut != 0 || time.Since(began) < idle {
			t.Errorf("%d were cut after %v", cut, time.Since(began))
		}
		for _, c := range []net.Conn{used, fresh} {
			if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("an idle connection gave %d bytes, %v", n, err)
			}
		}
	})
	t.Run("busy", func(t *testing.T) {
		l := listen(t)
		s, _ = serve(t, hold, l, nil)
		c := dial(t, l)
		ask(t, c, "/hold")
		<-begun
		hijacked := dial(t, l)
		ask(t, hijacked, "/hijack")
		hijacked.Read(make([]byte, 1))
		if busy, idle := s.Left(); busy != 1 || idle != 0 {
			t.Errorf("%d busy and %d idle connections", busy, idle)
		}
		drained := make(chan int)
		go func() { drained <- s.Drain(t.Context(), Options{Idle: time.Millisecond}) }()
		for !s.Draining() {
			time.Sleep(time.Millisecond)
		}
		release <- struct{}{}
		if !answer(t, c) {
			t.Error("the answer does not say that the connection is closed")
		}
		if cut := <-drained; cut != 0 {
			t.Errorf("%d were cut", cut)
		}
	})
	t.Run("never", func(t *testing.T) {
		l := listen(t)
		s, _ = serve(t, hold, l, nil)
		ask(t, dial(t, l), "/for-ever")
		<-begun
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if cut := s.Drain(ctx, Options{Idle: time.Millisecond}); cut != 1 {
			t.Errorf("%d were cut", cut)
		}
	})
	t.Run("pause", func(t *testing.T) {
		l := listen(t)
		s, _ = serve(t, hold, l, nil)
		s.Pause()
		s.Pause()
		c := dial(t, l)
		ask(t, c, "/")
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("an answer although accepting is paused")
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		s.Resume()
		s.Resume()
		answer(t, c)
		c.Close()
		s.Pause()
		waiting := dial(t, l)
		ask(t, waiting, "/")
		if cut := s.Drain(t.Context(), Options{Idle: time.Minute}); cut != 0 { // time enough to read the request
			t.Errorf("%d were cut", cut)
		}
		if !answer(t, waiting) {
			t.Error("what waited in the queue was not told that its connection is closed")
		}
		s.Resume()
		s.Pause()
	})
}

// What the bookkeeping adds to a request.
func BenchmarkRequest(b *testing.B) {
	for _, c := range []struct {
		name string
		run  func(*http.Server, net.Listener)
	}{
		{"net/http", func(h *http.Server, l net.Listener) { h.Serve(l) }},
		{"drain", func(h *http.Server, l net.Listener) { New(h, l).Serve() }},
	} {
		b.Run(c.name, func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			h := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})}
			defer h.Close()
			go c.run(h, l)
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			b.ReportAllocs()
			for b.Loop() {
				io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
		})
	}
}
