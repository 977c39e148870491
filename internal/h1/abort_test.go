package h1_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"lambent/internal/h1"
)

func TestUpgrade(t *testing.T) {
	c := script(t, func(conn *net.UnixConn, in *bufio.Reader) {
		r, err := http.ReadRequest(in)
		if err != nil || r.Header.Get("Upgrade") != "echo" || r.Header.Get("Connection") != "Upgrade" {
			t.Errorf("got %v, %v", r, err)
		}
		// What comes with the head must not be lost.
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: Echo\r\nX: y\r\n\r\nhello")
		io.Copy(conn, in)
		io.WriteString(conn, "bye")
	})
	req := get()
	req.Upgrade = "echo"
	resp, err := c.RoundTrip(req, soon())
	if err != nil {
		t.Fatal(err)
	}
	body := resp.Body.(h1.Tunnel)
	if resp.Status != 101 || fmt.Sprint(resp.Header) != "map[X:[y]]" {
		t.Errorf("got %d %v", resp.Status, resp.Header)
	}
	p := make([]byte, 5)
	if _, err := io.ReadFull(body, p); err != nil || string(p) != "hello" {
		t.Fatalf("got %q, %v", p, err)
	}
	var wg sync.WaitGroup
	sent := bytes.Repeat([]byte("0123456789"), 100<<10)
	wg.Go(func() {
		if _, err := body.Write(sent); err != nil {
			t.Error(err)
		}
		if err := body.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(body)
	if err != nil || string(got) != string(sent)+"bye" {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	wg.Wait()
	if c.Sent() != int64(len(sent)) || c.Received() != int64(len(sent))+8 {
		t.Errorf("counted %d and %d", c.Sent(), c.Received())
	}
	body.Close()
	if c.Reusable() {
		t.Error("reusable")
	}
}

func TestUpgradeRefused(t *testing.T) {
	for name, answer := range map[string]string{
		"other protocol": "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
		"no protocol":    "HTTP/1.1 101 S\r\nConnection: upgrade\r\n\r\n",
		"no connection":  "HTTP/1.1 101 S\r\nUpgrade: echo\r\n\r\n",
		"1.0":            "HTTP/1.0 101 S\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := script(t, answers(answer))
			req := get()
			req.Upgrade = "echo"
			if _, err := c.RoundTrip(req, soon()); !errors.As(err, new(*h1.ProtocolError)) {
				t.Errorf("got %v", err)
			}
		})
	}
	c := script(t, answers("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n"))
	req := get()
	req.Upgrade = "echo"
	resp, err := c.RoundTrip(req, soon())
	if err != nil || resp.Status != 426 {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	if !c.Reusable() {
		t.Error("not reusable")
	}
}

func TestAbort(t *testing.T) {
	t.Run("waiting for the head, uploading", func(t *testing.T) {
		got := make(chan struct{})
		c := script(t, func(conn *net.UnixConn, in *bufio.Reader) {
			in.ReadString('\n')
			close(got)
			io.Copy(io.Discard, in)
		})
		r, w := io.Pipe()
		defer w.Close()
		req := &watched{PipeReader: r}
		go func() { <-got; c.Abort() }()
		_, err := c.RoundTrip(&h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: -1, Body: req}, soon())
		if !errors.Is(err, h1.ErrAborted) {
			t.Errorf("got %v", err)
		}
		if req.reading.Load() {
			t.Error("RoundTrip returned while the body was being read")
		}
		if !c.HangUp(10 * time.Second) {
			t.Error("the peer did not hang up")
		}
	})
	t.Run("reading a small body", func(t *testing.T) {
		c := script(t, func(conn *net.UnixConn, in *bufio.Reader) { io.Copy(io.Discard, in) })
		r, w := io.Pipe()
		go func() { io.WriteString(w, "some"); c.Abort() }()
		_, err := c.RoundTrip(&h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: 10, Body: r}, soon())
		if !errors.Is(err, h1.ErrAborted) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("writing to a peer that does not read", func(t *testing.T) {
		stop := make(chan struct{})
		c := script(t, func(conn *net.UnixConn, in *bufio.Reader) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
			<-stop
		})
		defer close(stop)
		zeros := io.NopCloser(io.LimitReader(zero{}, 1<<30))
		resp, err := c.RoundTrip(&h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: 1 << 30, Body: zeros}, soon())
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(resp.Body, make([]byte, 3))
		go c.Abort()
		if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, h1.ErrAborted) {
			t.Errorf("got %v", err)
		}
		resp.Body.Close()
		if c.HangUp(time.Millisecond) {
			t.Error("the peer is said to have hung up")
		}
	})
}

// Many exchanges that are aborted at any point never hang, never leak and never touch a body afterwards.
func TestAbortAnywhere(t *testing.T) {
	dial := serve(t, echo)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 100 {
				c := dial()
				r, w := io.Pipe()
				req := &watched{PipeReader: r}
				go func() {
					for range 50 {
						if _, err := w.Write(make([]byte, 1000)); err != nil {
							return
						}
					}
					w.Close()
				}()
				time.AfterFunc(time.Duration(i*worker)*5*time.Microsecond, c.Abort)
				resp, err := c.RoundTrip(&h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: -1, Body: req}, soon())
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				if err != nil && !errors.Is(err, h1.ErrAborted) {
					t.Error(err)
				}
				if req.reading.Load() {
					t.Error("the body is still being read")
				}
				r.Close()
				c.HangUp(10 * time.Second)
			}
		})
	}
	wg.Wait()
}
