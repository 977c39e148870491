package inbound_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lambent"
	"lambent/internal/inbound"
)

// serve runs handle once per request on a real server and gives its URL.
func serve(t *testing.T, http2 bool, handle http.HandlerFunc) (*httptest.Server, *http.Client) {
	t.Helper()
	s := httptest.NewUnstartedServer(handle)
	s.EnableHTTP2 = http2
	if http2 {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s, s.Client()
}

func TestLimit(t *testing.T) {
	for _, tt := range []struct {
		body    string
		limit   int64
		chunked bool
		want    string
		tooLong bool
	}{
		{body: "", limit: 0},
		{body: "hello", limit: 5, want: "hello"},
		{body: "hello", limit: 5, chunked: true, want: "hello"},
		{body: "hello", limit: -1, want: "hello"},
		{body: "hello", limit: 4, tooLong: true},
		{body: "hello", limit: 4, chunked: true, want: "hell", tooLong: true},
		{body: "hello", limit: 0, chunked: true, tooLong: true},
		{body: strings.Repeat("x", 1<<20), limit: 1 << 20, chunked: true, want: strings.Repeat("x", 1<<20)},
	} {
		var got string
		var err error
		s, c := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
			got, err = "", nil
			b, end, e := inbound.Body(w, r, tt.limit)
			defer end()
			if b == nil {
				err = e
				return
			}
			raw, e := io.ReadAll(b)
			got, err = string(raw), e
			if e := b.Close(); e != nil {
				t.Error(e)
			}
		})
		var src io.Reader = strings.NewReader(tt.body)
		if tt.chunked {
			src = io.MultiReader(src) // hides the length
		}
		resp, e := c.Post(s.URL, "", src)
		if e != nil {
			t.Fatal(e)
		}
		resp.Body.Close()
		if got != tt.want || lambent.HasCode(err, lambent.CodeBodyTooLarge) != tt.tooLong || (err != nil) != tt.tooLong {
			t.Errorf("%.9q limit %d chunked %v: %.9q, %v", tt.body, tt.limit, tt.chunked, got, err)
		}
	}
}

// A client that never ends its body: Close must free the reader, and the server must finish the request.
func TestCloseEndsRead(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		readErr := make(chan error, 1)
		s, c := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
			b, end, err := inbound.Body(w, r, -1)
			if err != nil {
				t.Error(err)
				return
			}
			defer end()
			reading := make(chan struct{})
			go func() {
				_, err := b.Read(make([]byte, 1))
				close(reading)
				if err == nil {
					_, err = b.Read(make([]byte, 1)) // there is no second byte
				}
				readErr <- err
			}()
			<-reading
			_, _ = io.WriteString(w, "early")
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			if err := errors.Join(b.Close(), b.Close()); err != nil {
				t.Error(err)
			}
			if err := <-readErr; err == nil {
				t.Error("a Read after Close gave data")
			}
			if _, err := b.Read(make([]byte, 1)); err == nil {
				t.Error("a later Read gave data")
			}
		})
		pr, pw := io.Pipe()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		req, _ := http.NewRequestWithContext(ctx, "POST", s.URL, pr)
		go func() { _, _ = pw.Write([]byte("x")) }()
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("http2 %v: %v", http2, err)
		}
		if raw, _ := io.ReadAll(resp.Body); string(raw) != "early" {
			t.Errorf("http2 %v: answer %q", http2, raw)
		}
		resp.Body.Close()
		pw.Close()
		cancel()
	}
}

// Close after the whole body was read must not cancel the request, nor break the connection.
func TestCloseAfterEnd(t *testing.T) {
	s, c := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		b, end, err := inbound.Body(w, r, -1)
		if err != nil {
			t.Error(err)
			return
		}
		defer end()
		if _, err := io.Copy(io.Discard, b); err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		select {
		case <-r.Context().Done():
			t.Error("the request was cancelled")
		case <-time.After(50 * time.Millisecond): // long enough for the server's background read to fail
		}
		_, _ = io.WriteString(w, r.RemoteAddr)
	})
	var addrs []string
	for range 2 {
		resp, err := c.Post(s.URL, "", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		addrs = append(addrs, string(raw))
	}
	if addrs[0] != addrs[1] {
		t.Errorf("the connection was not kept: %v", addrs)
	}
}

func TestBrokenOff(t *testing.T) {
	got := make(chan error, 1)
	s, _ := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		b, end, err := inbound.Body(w, r, -1)
		defer end()
		if err == nil {
			_, err = io.ReadAll(b)
		}
		got <- err
	})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
	conn.Close()
	if err := <-got; !lambent.HasCode(err, lambent.CodeClientClosed) {
		t.Errorf("error %v", err)
	}
}

// The rest of a body that the handler did not read must not become the next request of its connection,
// whether it came before or after the answer; the client gets the whole answer all the same.
func TestRestIsNoRequest(t *testing.T) {
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, tt := range []struct {
		name          string
		head          string
		closes, first bool // the handler closes the body; the rest comes with the head
	}{
		{name: "length, after", head: fmt.Sprintf("Content-Length: %d\r\n\r\n", 4+len(smuggled))},
		{name: "length, before", head: fmt.Sprintf("Content-Length: %d\r\n\r\n", 4+len(smuggled)), first: true},
		{name: "chunked, after", head: fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", 4+len(smuggled))},
		{name: "closed", head: fmt.Sprintf("Content-Length: %d\r\n\r\n", 4+len(smuggled)), closes: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var requests atomic.Int32
			s, _ := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				b, end, err := inbound.Body(w, r, -1)
				defer end()
				if err != nil || b == nil {
					t.Errorf("%s: body %v, %v", r.URL, b, err)
					return
				}
				if _, err := io.ReadFull(b, make([]byte, 4)); err != nil {
					t.Error(err)
				}
				_, _ = io.WriteString(w, "answer")
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
				if tt.closes {
					if err := b.Close(); err != nil {
						t.Error(err)
					}
				}
			})
			conn, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			request := "POST / HTTP/1.1\r\nHost: x\r\n" + tt.head + "half"
			if tt.first {
				request += smuggled
			}
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(conn)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if raw, err := io.ReadAll(resp.Body); string(raw) != "answer" || err != nil {
				t.Errorf("answer %q, %v", raw, err)
			}
			if !tt.first {
				_, _ = io.WriteString(conn, smuggled) // the server may have closed already
			}
			if more, err := io.ReadAll(in); len(more) > 0 {
				t.Errorf("the connection went on: %q, %v", more, err)
			}
			if n := requests.Load(); n != 1 {
				t.Errorf("%d requests were handled", n)
			}
		})
	}
}
