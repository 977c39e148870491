package guest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/internal/h1"
)

func servers2() lambent.Settings {
	return lambent.Settings{Runtime: "http", Command: []string{"x"}, Protocol: lambent.ProtocolH2C}
}

// serve2 runs a server that speaks HTTP/2 only.
func serve2(tb testing.TB, s lambent.Settings, f http.HandlerFunc) (*host, *http.Server) {
	tb.Helper()
	l, dial := listen(tb)
	server := &http.Server{Handler: f, Protocols: new(http.Protocols)}
	server.Protocols.SetUnencryptedHTTP2(true)
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(l) })
	tb.Cleanup(func() { server.Close(); wg.Wait() })
	return connect(tb, s, dial), server
}

// script2 answers the preface of HTTP/2 with frames, and listens until the host hangs up.
func script2(tb testing.TB, s lambent.Settings, frames string) *host {
	tb.Helper()
	return script(tb, s, func(conn *net.UnixConn, in *bufio.Reader) {
		io.WriteString(conn, frames)
		io.Copy(io.Discard, in)
	})
}

const noSettings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

func TestH2Ready(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		code   lambent.Code
		text   string
	}{
		"settings":  {noSettings, "", ""},
		"HTTP/1.1":  {"HTTP/1.1 400 Bad Request\r\n\r\n", lambent.CodeStartFailed, "it answers in HTTP/1.1"},
		"garbage":   {"hello, world\n", lambent.CodeStartFailed, "settings of HTTP/2"},
		"ack first": {"\x00\x00\x00\x04\x01\x00\x00\x00\x00", lambent.CodeStartFailed, "settings of HTTP/2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := script2(t, servers2(), tt.answer).Ready(t.Context())
			if tt.code == "" && err != nil || tt.code != "" && (!lambent.HasCode(err, tt.code) || !strings.Contains(err.Error(), tt.text)) {
				t.Errorf("got %v", err)
			}
		})
	}
	h := script(t, servers2(), func(conn *net.UnixConn, _ *bufio.Reader) { conn.Close() })
	_, err := h.Ready(t.Context())
	wantCode(t, err, lambent.CodeStartFailed, false)
	h = script2(t, servers2(), "")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = h.Ready(ctx)
	wantCode(t, err, lambent.CodeStartTimeout, false)
}

func TestH2OneConnectionForAll(t *testing.T) {
	h, _ := serve2(t, servers2(), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Seen", fmt.Sprint(r.Method, r.RequestURI, r.Host, r.Header["User-Agent"], r.Header["Te"],
			r.Header["Lambent-Trigger"], r.Header["Lambent-Secret"], len(r.Header["Lambent-Invocation"]), r.Header["Expect"]))
		w.Header().Set("Lambent-Error", "forged")
		io.Copy(w, r.Body)
	})
	if _, _, err := h.do(t.Context(), call("/", "")); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			inv := call("//a%2Fb?x=%20&y", fmt.Sprint("hello ", i))
			inv.Header = http.Header{"Lambent-Secret": {"x"}, "Expect": {"100-continue"}}
			resp, body, err := h.do(t.Context(), inv)
			if err != nil || resp.Status != 200 || body != fmt.Sprint("hello ", i) {
				t.Error(resp, body, err)
				return
			}
			if got := resp.Header.Get("Seen"); got != "POST//a%2Fb?x=%20&yf.example[] [trailers] [http] [] 1 []" || resp.Header["Lambent-Error"] != nil {
				t.Errorf("the function saw %q, its answer has %v", got, resp.Header)
			}
			if want := int64(len(body)); inv.Outcome.BytesIn != want || inv.Outcome.BytesOut != want {
				t.Errorf("counted %d in, %d out", inv.Outcome.BytesIn, inv.Outcome.BytesOut)
			}
		})
	}
	all.Wait()
	if h.dials.Load() != 1 {
		t.Errorf("%d connections were made", h.dials.Load())
	}
}

// Many that come at once each begin to connect; those that another's connection serves first are not hurt by it.
func TestH2AllAtOnce(t *testing.T) {
	const n = 32
	for range 30 {
		h, _ := serve2(t, servers2(), func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				if _, body, err := h.do(t.Context(), call("/", "mine")); body != "mine" || err != nil {
					t.Errorf("%q, %v", body, err)
				}
			})
		}
		all.Wait()
	}
}

func TestH2Reconnects(t *testing.T) {
	h, _ := serve2(t, servers2(), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/last" {
			w.Header().Set("Connection", "close") // GOAWAY, to net/http
		}
	})
	for _, target := range []string{"/", "/last", "/", "/last", "/"} {
		if _, _, err := h.do(t.Context(), call(target, "")); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.dials.Load(); n != 3 {
		t.Errorf("%d connections were made, want 3", n)
	}
}

// A function that allows no stream must not have us connect without end.
func TestH2NoStreams(t *testing.T) {
	s := servers2()
	s.Timeouts.FirstByte = lambent.Duration(200 * time.Millisecond)
	h := script2(t, s, "\x00\x00\x06\x04\x00\x00\x00\x00\x00"+"\x00\x03\x00\x00\x00\x00")
	for range 2 {
		_, _, err := h.do(t.Context(), call("/", "x"))
		if !lambent.HasCode(err, lambent.CodeFirstByteTimeout) {
			t.Errorf("got %v", err)
		}
	}
	if n := h.dials.Load(); n > 4 {
		t.Errorf("%d connections were made", n)
	}
}

func TestH2BrokenAnswers(t *testing.T) {
	h, _ := serve2(t, servers2(), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "begun")
			http.NewResponseController(w).Flush()
		}
		panic(http.ErrAbortHandler) // resets the stream
	})
	for _, target := range []string{"/head", "/body"} {
		_, _, err := h.do(t.Context(), call(target, "x"))
		wantCode(t, err, lambent.CodeBadResponse, false)
		if !strings.Contains(err.Error(), "reset the stream") {
			t.Errorf("%s: %v", target, err)
		}
	}
	if h.dials.Load() != 1 {
		t.Errorf("%d connections were made: a reset is of one stream", h.dials.Load())
	}
	exit := lambent.Errorf(lambent.CodeInstanceExited, "exited")
	for name, frames := range map[string]string{"dies": "", "garbage": "hello, world"} {
		h := script(t, servers2(), func(conn *net.UnixConn, in *bufio.Reader) {
			in.ReadByte()
			io.WriteString(conn, frames)
			conn.Close()
		})
		h.died = func() *lambent.Error { return exit }
		if name == "garbage" {
			h.died = func() *lambent.Error { return nil }
		}
		_, _, err := h.do(t.Context(), call("/", "x"))
		if code := lambent.ErrorOf(err).Code; name == "dies" && code != lambent.CodeInstanceExited || name == "garbage" && code != lambent.CodeBadResponse {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the function says that it did not begin goes to another instance. Nothing is sent to the same one twice, as
// net/http does after some errors.
func TestH2Refused(t *testing.T) {
	const headers, rst, goaway, protocol, refused = 1, 3, 7, 1, 7
	for name, tt := range map[string]struct {
		frame  []byte
		unsent bool
	}{
		"protocol error": {[]byte{0, 0, 4, rst, 0, 0, 0, 0, 1, 0, 0, 0, protocol}, false},
		"refused stream": {[]byte{0, 0, 4, rst, 0, 0, 0, 0, 1, 0, 0, 0, refused}, true},
		"goaway":         {[]byte{0, 0, 8, goaway, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, true},
		"goaway after":   {[]byte{0, 0, 8, goaway, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2}, false},
	} {
		for _, body := range []string{"", "x", strings.Repeat("x", 60<<10)} {
			t.Run(fmt.Sprint(name, " ", len(body)), func(t *testing.T) {
				var requests atomic.Int32
				h := script(t, servers2(), func(conn *net.UnixConn, in *bufio.Reader) {
					context.AfterFunc(t.Context(), func() { conn.Close() }) // net/http may not have seen yet that it is idle
					in.Discard(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
					io.WriteString(conn, noSettings)
					head := make([]byte, 9)
					for asked, left := false, len(body); ; {
						if _, err := io.ReadFull(in, head); err != nil {
							return
						}
						size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
						in.Discard(size)
						if head[3] == 0 {
							left -= size
						}
						if head[3] == headers {
							requests.Add(1)
							asked = true
						}
						if asked && left == 0 {
							conn.Write(tt.frame)
							asked = false
							if !tt.unsent && name == "goaway after" {
								conn.Close()
							}
						}
					}
				})
				inv := call("/", body)
				_, _, err := h.do(t.Context(), inv)
				wantCode(t, err, lambent.CodeBadResponse, false)
				unsent := tt.unsent && len(body) <= 1
				if errors.Is(err, executor.ErrNotSent) != unsent {
					t.Error(err)
				}
				if unsent && body != "" {
					if rest, err := io.ReadAll(inv.Body); string(rest) != body || err != nil {
						t.Errorf("another instance would get %q, %v", rest, err)
					}
				}
				if requests.Load() != 1 || h.dials.Load() != 1 {
					t.Errorf("%d requests on %d connections", requests.Load(), h.dials.Load())
				}
			})
		}
	}
}

// A request goes to another connection with its body when the one that there was takes no more.
func TestH2GoneMeanwhile(t *testing.T) {
	h, _ := serve2(t, servers2(), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // GOAWAY, to net/http
		_, _ = io.Copy(w, r.Body)
	})
	for range 20 {
		inv := call("/", "again")
		if _, body, err := h.do(t.Context(), inv); err != nil && !errors.Is(err, executor.ErrNotSent) || err == nil && body != "again" {
			t.Fatal(body, err)
		}
	}
}

// unaccepted is a connection that is given back once something was sent on it.
type unaccepted struct {
	net.Conn
	sent chan struct{}
	once sync.Once
}

func (c *unaccepted) Write(p []byte) (int, error) {
	if len(p) > 24 { // beyond the preface
		c.once.Do(func() { close(c.sent) })
	}
	return c.Conn.Write(p)
}

func (c *unaccepted) Read([]byte) (int, error) {
	<-c.sent
	return 0, h1.ErrUnaccepted
}

func TestH2Unaccepted(t *testing.T) {
	_, dial := listen(t)
	h := connect(t, servers2(), func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		return &unaccepted{Conn: conn, sent: make(chan struct{})}, err
	})
	h.died = func() *lambent.Error { return lambent.Errorf(lambent.CodeInstanceExited, "killed") }
	for _, body := range []string{"", "x"} {
		inv := call("/", body)
		_, err := h.Handle(t.Context(), inv, soon())
		if !errors.Is(err, executor.ErrNotSent) || !lambent.HasCode(err, lambent.CodeInstanceExited) {
			t.Errorf("got %v", err)
		}
		if body != "" {
			if rest, err := io.ReadAll(inv.Body); string(rest) != body || err != nil {
				t.Errorf("another instance would get %q, %v", rest, err)
			}
		}
	}
}

func TestH2NotSent(t *testing.T) {
	h := connect(t, servers2(), func(context.Context) (net.Conn, error) { return nil, errors.New("no way") })
	inv := call("/", "x")
	_, err := h.Handle(t.Context(), inv, soon())
	if !errors.Is(err, executor.ErrNotSent) || errors.Is(err, executor.ErrBusy) {
		t.Errorf("got %v", err)
	}
	if rest, err := io.ReadAll(inv.Body); string(rest) != "x" || err != nil {
		t.Errorf("the body has %q left, %v: another instance cannot have it", rest, err)
	}
}

func TestH2Unsendable(t *testing.T) {
	h := connect(t, servers2(), func(context.Context) (net.Conn, error) { return nil, errors.New("dialled") })
	for name, change := range map[string]func(*lambent.Invocation){
		"method":  func(inv *lambent.Invocation) { inv.Method = "CONNECT" },
		"target":  func(inv *lambent.Invocation) { inv.Target = "http://evil/" },
		"space":   func(inv *lambent.Invocation) { inv.Target = "/a b" },
		"escape":  func(inv *lambent.Invocation) { inv.Target = "/%zz" },
		"host":    func(inv *lambent.Invocation) { inv.Host = "a\r\nb" },
		"field":   func(inv *lambent.Invocation) { inv.Header = http.Header{"X": {"a\nb"}} },
		"name":    func(inv *lambent.Invocation) { inv.Header = http.Header{"X Y": {"a"}} },
		"upgrade": func(inv *lambent.Invocation) { inv.Upgrade = "websocket" },
	} {
		inv := call("/", "")
		change(inv)
		_, err := h.Handle(t.Context(), inv, soon())
		if !lambent.HasCode(err, lambent.CodeInvalidRequest) || errors.Is(err, executor.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestH2RequestBodyFails(t *testing.T) {
	seen := make(chan error, 2)
	h, _ := serve2(t, servers2(), func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		seen <- err
	})
	for name, body := range map[string]io.Reader{
		"error": io.MultiReader(strings.NewReader("abc"), failing{errors.New("broke off")}), "short": strings.NewReader("abc"),
	} {
		inv := call("/", "")
		inv.Body, inv.ContentLength = io.NopCloser(body), 10
		_, _, err := h.do(t.Context(), inv)
		if !lambent.HasCode(err, lambent.CodeClientClosed) {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-seen; err == nil {
			t.Errorf("%s: the function took what came for the whole", name)
		}
	}
}

// TestH2Either asks an instance that answers on the port, on the socket, on both, or on none.
func TestH2Either(t *testing.T) {
	accepting := func(context.Context) (net.Conn, error) {
		here, there := net.Pipe()
		go io.Copy(io.Discard, there)
		go func() {
			io.WriteString(there, noSettings)
			there.Close()
		}()
		return here, nil
	}
	refusing := func(context.Context) (net.Conn, error) { return nil, errors.New("refused") }
	closing := func(context.Context) (net.Conn, error) {
		here, there := net.Pipe()
		there.Close()
		return here, nil
	}
	silent := func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, c := range []struct {
		name         string
		socket, port func(context.Context) (net.Conn, error)
		code         lambent.Code
		way          []string
	}{
		{"socket", accepting, silent, "", []string{"socket"}},
		{"port", silent, accepting, "", []string{"port"}},
		{"port, socket closed", closing, accepting, "", []string{"port"}},
		{"port, socket refused", refusing, accepting, "", []string{"port"}},
		{"either", accepting, accepting, "", []string{"socket", "port"}},
		{"socket closed, port broken", closing, closing, lambent.CodeStartFailed, nil},
		{"port broken", silent, closing, lambent.CodeStartFailed, nil},
		{"none", silent, silent, lambent.CodeStartTimeout, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ready atomic.Bool
			ways := make(chan string, 10)
			h := connectPort(t, servers2(), func(ctx context.Context) (net.Conn, error) {
				if ready.Load() {
					ways <- "socket"
				}
				return c.socket(ctx)
			}, func(ctx context.Context, wait bool) (net.Conn, error) {
				if wait == ready.Load() {
					t.Errorf("asked to wait: %v, when ready", wait)
				}
				if ready.Load() {
					ways <- "port"
				}
				return c.port(ctx)
			})
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err := h.Ready(ctx)
			if c.code != "" {
				wantCode(t, err, c.code, false)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			ready.Store(true)
			_, _, err = h.do(t.Context(), call("/", "")) // which is answered with the settings and no more
			wantCode(t, err, lambent.CodeBadResponse, false)
			if way := <-ways; !slices.Contains(c.way, way) || len(ways) > 1 {
				t.Errorf("requests go to the %s, want %v; %d connections more", way, c.way, len(ways))
			}
		})
	}
}
