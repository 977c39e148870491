package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"lambent"
	"lambent/internal/pipes"
	"lambent/internal/wsframe"
)

// serveInMemory serves h until the end of the test.
func serveInMemory(t *testing.T, h http.HandlerFunc) *pipes.Listener {
	l := pipes.Listen()
	srv := &http.Server{Handler: h}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return l
}

// forward is an invoker whose function is the server at l.
func forward(l *pipes.Listener, drain <-chan struct{}) invokerFunc {
	return func(ctx context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		c, err := l.Dial(ctx)
		if err != nil {
			return nil, err
		}
		r := &http.Request{Method: inv.Method, Host: inv.Host, Header: inv.Header.Clone()}
		r.URL, err = r.URL.Parse("http://function" + inv.Target)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", inv.Upgrade)
		if err := r.Write(c); err != nil {
			return nil, err
		}
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, r)
		if err != nil {
			return nil, err
		}
		resp.Header.Del("Connection")
		return &lambent.Response{Status: resp.StatusCode, Header: resp.Header, Drain: drain,
			Body: struct {
				io.Reader
				duplex
			}{br, duplex{c}}}, nil
	}
}

// Both sides speak while the WebSocket is drained: what arrives is whole, in order, and ends with 1012 on both. That
// takes no time but what they need to speak, which does not pass here.
func TestWebSocketDrains(t *testing.T) {
	for round := range 20 {
		synctest.Test(t, func(t *testing.T) { drainWebSocket(t, 5*round) })
	}
}

// drainWebSocket drains one when the client has got as many messages.
func drainWebSocket(t *testing.T, messages int) {
	drain := make(chan struct{})
	codes := make(chan error, 2)
	var talking sync.WaitGroup
	text := func(i int) string { // sizes of all forms of a frame's length
		return fmt.Sprintf("%d %s", i, strings.Repeat("x", i*i*i%70_000))
	}
	talk := func(c *websocket.Conn, got func(i int)) {
		c.SetReadLimit(-1)
		talking.Go(func() {
			for i := range 1000 { // then time passes
				if c.Write(context.Background(), websocket.MessageText, []byte(text(i))) != nil {
					return
				}
			}
		})
		for i := 0; ; i++ {
			got(i)
			_, got, err := c.Read(context.Background())
			if err != nil {
				codes <- err
				return
			}
			if string(got) != text(i) {
				t.Errorf("message %d is %.10q of %d bytes", i, got, len(got))
				return
			}
		}
	}
	function := serveInMemory(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		talk(c, func(int) {})
	})
	door := serveInMemory(t, handler(t, forward(function, drain), nil).ServeHTTP)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return door.Dial(ctx) }}
	c, _, err := websocket.Dial(t.Context(), "http://localhost/fn/hello", &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	talk(c, func(i int) {
		if i == messages {
			close(drain)
		}
	})
	for range 2 {
		err := <-codes
		var end websocket.CloseError
		if !errors.As(err, &end) || end.Code != websocket.StatusServiceRestart {
			t.Errorf("a side ended with %v", err)
		}
	}
	if took := time.Since(began); took > 0 {
		t.Errorf("it took %v", took)
	}
	c.CloseNow()
	talking.Wait()
}

// duplex is a function's side of a switched connection in memory.
type duplex struct{ net.Conn }

func (d duplex) CloseWrite() error { return d.Close() }

// The unhappy ends, with time that does not pass by itself.
func TestWebSocketEnds(t *testing.T) {
	text := func(s string) []byte { return append([]byte{0x81, byte(len(s))}, s...) }
	goodbye := wsframe.Close(serviceRestart, "service restart", false)
	send := func(t *testing.T, c net.Conn, p []byte) {
		t.Helper()
		if _, err := c.Write(p); err != nil {
			t.Error(err)
		}
	}
	hear := func(t *testing.T, c net.Conn, want []byte) {
		t.Helper()
		got := make([]byte, len(want))
		if n, err := io.ReadFull(c, got); err != nil || string(got) != string(want) {
			t.Errorf("%q, %v, want %q", got[:n], err, want)
		}
	}
	// hearGoodbye is for the function, which gets it masked.
	hearGoodbye := func(t *testing.T, c net.Conn) {
		t.Helper()
		got := make([]byte, len(goodbye)+4)
		if _, err := io.ReadFull(c, got); err != nil || got[0] != 0x88 {
			t.Errorf("%q, %v is no Close frame", got, err)
		}
	}
	nothing := func(t *testing.T, c net.Conn) {
		t.Helper()
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Errorf("%q, %v is left", rest, err)
		}
	}
	for _, c := range []struct {
		name string
		run  func(t *testing.T, client, function net.Conn, drain chan struct{})
		took time.Duration
	}{
		{"both answer", func(t *testing.T, client, function net.Conn, drain chan struct{}) {
			close(drain)
			hearGoodbye(t, function)
			go send(t, function, goodbye)
			hear(t, client, goodbye)
			send(t, client, goodbye)
			nothing(t, client)
			nothing(t, function)
		}, 0},
		{"the function's last words, and a code of its own", func(t *testing.T, client, function net.Conn, drain chan struct{}) {
			close(drain)
			hearGoodbye(t, function)
			last := append(text("one"), text("two")...)
			go send(t, function, append(bytes.Clone(last), wsframe.Close(1000, "", false)...))
			hear(t, client, last)
			hear(t, client, goodbye)
			send(t, client, goodbye)
			nothing(t, client)
			nothing(t, function)
		}, 0},
		{"a function that does not answer", func(t *testing.T, client, function net.Conn, drain chan struct{}) {
			close(drain)
			hearGoodbye(t, function)
			go send(t, function, text("still here"))
			hear(t, client, text("still here"))
			hear(t, client, goodbye)
			send(t, client, goodbye)
			nothing(t, function)
		}, farewell},
		{"frames under way end first, and none comes after them", func(t *testing.T, client, function net.Conn, drain chan struct{}) {
			one := text("client")
			go send(t, client, one[:3])
			hear(t, function, one[:3])
			other := text("function")
			go send(t, function, other[:1])
			hear(t, client, other[:1])
			close(drain)
			synctest.Wait()
			go send(t, client, append(one[3:], text("late")...))
			hear(t, function, one[3:])
			hearGoodbye(t, function)
			go send(t, function, append(append(other[1:], goodbye...), text("late")...))
			hear(t, client, other[1:])
			hear(t, client, goodbye)
			send(t, client, goodbye)
			nothing(t, client)
			nothing(t, function)
		}, 0},
		{"a frame that never ends", func(t *testing.T, client, function net.Conn, drain chan struct{}) {
			half := []byte{0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0}
			go send(t, client, half)
			hear(t, function, half)
			close(drain)
			hear(t, client, goodbye)
			nothing(t, function)
			nothing(t, client)
		}, farewell},
		{"a client that ignores it", func(t *testing.T, client, function net.Conn, drain chan struct{}) {
			close(drain)
			hear(t, client, goodbye)
			hearGoodbye(t, function)
			send(t, function, goodbye)
			for range 3 {
				send(t, client, text("still here"))
			}
			nothing(t, client)
		}, farewell},
		{"a client that does not read", func(t *testing.T, client, function net.Conn, drain chan struct{}) {
			close(drain)
			hearGoodbye(t, function)
			nothing(t, function)
		}, farewell},
		{"a function that hangs up", func(t *testing.T, client, function net.Conn, drain chan struct{}) {
			close(drain)
			hearGoodbye(t, function)
			function.Close()
			hear(t, client, goodbye)
			send(t, client, goodbye)
			nothing(t, client)
		}, 0},
		{"the client has closed it already", func(t *testing.T, client, function net.Conn, drain chan struct{}) {
			go send(t, client, goodbye)
			hear(t, function, goodbye)
			close(drain)
			synctest.Wait()
			go send(t, function, goodbye)
			hear(t, client, goodbye)
			nothing(t, function)
			nothing(t, client)
		}, 0},
		{"it ends before it is drained", func(t *testing.T, client, function net.Conn, drain chan struct{}) {
			function.Close()
			nothing(t, client)
			close(drain)
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, door := net.Pipe()
				function, up := net.Pipe()
				drain := make(chan struct{})
				began := time.Now()
				var joined sync.WaitGroup
				joined.Go(func() {
					j := &junction{client: door, function: duplex{up}, fromClient: door, toClient: door, toFunction: up}
					j.joinFrames(drain)
					if took := time.Since(began); took != c.took {
						t.Errorf("it took %v, want %v", took, c.took)
					}
				})
				c.run(t, client, function, drain)
				joined.Wait()
				client.Close()
				function.Close()
			})
		})
	}
}

// What following the frames costs.
func BenchmarkWebSocket(b *testing.B) {
	for _, size := range []int{100, 4 << 10} {
		message := append([]byte{0x82, 126, byte(size >> 8), byte(size)}, make([]byte, size)...)
		for _, c := range []struct {
			name string
			join func(*junction)
		}{
			{"plain", (*junction).join},
			{"followed", func(j *junction) { j.joinFrames(nil) }},
		} {
			b.Run(fmt.Sprintf("%d bytes, %s", size, c.name), func(b *testing.B) {
				client, door := connection(b)
				function, up := connection(b)
				var joined sync.WaitGroup
				joined.Go(func() {
					c.join(&junction{client: door, function: duplex{up}, fromClient: door, toClient: door, toFunction: up})
				})
				joined.Go(func() {
					for range b.N {
						if _, err := function.Write(message); err != nil {
							b.Error(err)
							return
						}
					}
				})
				b.SetBytes(int64(len(message)))
				b.ResetTimer()
				if _, err := io.CopyN(io.Discard, client, int64(b.N*len(message))); err != nil {
					b.Error(err)
				}
				b.StopTimer()
				client.Close()
				function.Close()
				joined.Wait()
			})
		}
	}
}

func connection(b *testing.B) (near, far net.Conn) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	return near, far
}
