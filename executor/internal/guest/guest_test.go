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
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"lambent"
	"lambent/executor"
	"lambent/executor/internal/guest"
	"lambent/internal/pipes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is the tier's side of a Client.
type host struct {
	*guest.Client
	dials, begun, ended atomic.Int32
	died                func() *lambent.Error
}

// connect makes a Client of the settings that dials through dial.
func connect(tb testing.TB, s lambent.Settings, dial func(context.Context) (net.Conn, error)) *host {
	tb.Helper()
	return connectPort(tb, s, dial, nil)
}

// connectPort makes one that may dial a port too.
func connectPort(tb testing.TB, s lambent.Settings, dial func(context.Context) (net.Conn, error), port func(context.Context, bool) (net.Conn, error)) *host {
	tb.Helper()
	s, err := s.Complete()
	if err != nil {
		tb.Fatal(err)
	}
	h := &host{died: func() *lambent.Error { return nil }}
	h.Client = guest.New(guest.Options{
		Revision: lambent.NewRevision("default", "f", s, "sha256:0", "", time.Now()), Instance: "i-1",
		Dial: func(ctx context.Context) (net.Conn, error) {
			h.dials.Add(1)
			return dial(ctx)
		},
		Begin:    func(*lambent.Invocation) { h.begun.Add(1) },
		End:      func(*lambent.Invocation) { h.ended.Add(1) },
		Died:     func() *lambent.Error { return h.died() },
		Dying:    func() bool { return h.died() != nil },
		DialPort: port,
		Redact:   func(text string) string { return strings.ReplaceAll(text, "hunter22", "***") },
	})
	tb.Cleanup(func() {
		h.Close()
		if h.begun.Load() != h.ended.Load() {
			tb.Errorf("%d calls begun, %d ended", h.begun.Load(), h.ended.Load())
		}
	})
	return h
}

func listen(tb testing.TB) (*net.UnixListener, func(context.Context) (net.Conn, error)) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "guest") // a unix socket's path must be short
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	return l, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
}

// serve runs a Go function: a net/http server.
func serve(tb testing.TB, s lambent.Settings, f http.HandlerFunc) *host {
	tb.Helper()
	l, dial := listen(tb)
	return serveOn(tb, l, dial, s, f)
}

func serveOn(tb testing.TB, l net.Listener, dial func(context.Context) (net.Conn, error), s lambent.Settings, f http.HandlerFunc) *host {
	tb.Helper()
	server := &http.Server{Handler: f}
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(l) })
	tb.Cleanup(func() { server.Close(); wg.Wait() })
	s.Runtime = "go"
	return connect(tb, s, dial)
}

// script runs peer on every connection; it may read requests from in and must return when that ends.
func script(tb testing.TB, s lambent.Settings, peer func(conn *net.UnixConn, in *bufio.Reader)) *host {
	tb.Helper()
	l, dial := listen(tb)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(20 * time.Second))
				peer(conn, bufio.NewReader(conn))
			})
		}
	})
	h := connect(tb, s, dial)
	tb.Cleanup(func() { h.Close(); l.Close(); wg.Wait() })
	return h
}

// answers gives text to every request.
func answers(text string) func(*net.UnixConn, *bufio.Reader) {
	return func(conn *net.UnixConn, in *bufio.Reader) {
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(conn, text)
		}
	}
}

func handlers() lambent.Settings { return lambent.Settings{Runtime: "python3.11"} }
func servers() lambent.Settings  { return lambent.Settings{Runtime: "go"} }

func call(target, body string) *lambent.Invocation {
	inv := &lambent.Invocation{
		ID: lambent.NewID(), Trigger: lambent.TriggerHTTP, Method: "POST", Target: target, Host: "f.example",
		Header: http.Header{}, ContentLength: int64(len(body)),
	}
	if body != "" {
		inv.Body = io.NopCloser(strings.NewReader(body))
	}
	return inv
}

func soon() time.Time { return time.Now().Add(20 * time.Second) }

// do makes a whole call.
func (h *host) do(ctx context.Context, inv *lambent.Invocation) (*lambent.Response, string, error) {
	resp, err := h.Handle(ctx, inv, soon())
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), errors.Join(err, resp.Body.Close())
}

func wantCode(t *testing.T, err error, code lambent.Code, busy bool) {
	t.Helper()
	if !lambent.HasCode(err, code) || errors.Is(err, executor.ErrBusy) != busy {
		t.Fatalf("got %v, want %s, busy %v", err, code, busy)
	}
}

func TestReady(t *testing.T) {
	exit := lambent.Errorf(lambent.CodeInstanceExited, "exited")
	for name, tt := range map[string]struct {
		settings lambent.Settings
		answer   string
		code     lambent.Code
		text     string
		first    int64
	}{
		"server":             {servers(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "", "", 0},
		"server, 404":        {servers(), "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "", "", 0},
		"server, endless":    {servers(), "HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", "", "", 0},
		"server, forging":    {servers(), "HTTP/1.1 204 No\r\nLambent-Start: 5\r\n\r\n", "", "", 0},
		"server, garbage":    {servers(), "hello\n", lambent.CodeStartFailed, "HTTP/1.1", 0},
		"handler":            {handlers(), "HTTP/1.1 204 No Content\r\nLambent-Start: 12345\r\n\r\n", "", "", 12345},
		"handler, no start":  {handlers(), "HTTP/1.1 204 No Content\r\n\r\n", lambent.CodeStartFailed, "when it started", 0},
		"handler, 404":       {handlers(), "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", lambent.CodeStartFailed, "404", 0},
		"handler, raising":   {handlers(), "HTTP/1.1 500 E\r\nLambent-Error: start_failed\r\nContent-Length: 58\r\n\r\n" + `{"type":"ImportError","message":"no x","trace":["a","b"]}` + "\n", lambent.CodeStartFailed, "ImportError: no x", 0},
		"handler, malformed": {handlers(), "HTTP/1.1 500 E\r\nLambent-Error: start_failed\r\nContent-Length: 3\r\n\r\n{}x", lambent.CodeStartFailed, "malformed", 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := script(t, tt.settings, answers(tt.answer))
			h.died = func() *lambent.Error { return exit }
			started, err := h.Ready(t.Context())
			if tt.code == "" {
				if err != nil || started.FirstLine != tt.first {
					t.Fatalf("got %+v, %v", started, err)
				}
				return
			}
			wantCode(t, err, tt.code, false)
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%q does not say %q", err, tt.text)
			}
			if name == "handler, raising" && lambent.ErrorOf(err).Trace != "a\nb" {
				t.Errorf("the trace is %q", lambent.ErrorOf(err).Trace)
			}
		})
	}
}

func TestReadyWaits(t *testing.T) {
	h := script(t, servers(), func(_ *net.UnixConn, in *bufio.Reader) { io.Copy(io.Discard, in) })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := h.Ready(ctx)
	wantCode(t, err, lambent.CodeStartTimeout, false)

	ctx, stop := context.WithCancelCause(t.Context())
	stop(lambent.Errorf(lambent.CodeShuttingDown, "stopping"))
	_, err = h.Ready(ctx)
	wantCode(t, err, lambent.CodeShuttingDown, false)

	h = script(t, servers(), func(conn *net.UnixConn, _ *bufio.Reader) { conn.Close() })
	_, err = h.Ready(t.Context())
	wantCode(t, err, lambent.CodeStartFailed, false)
}

// The connection that readiness was asked on serves the requests after it.
func TestOneConnectionForAll(t *testing.T) {
	h := serve(t, lambent.Settings{}, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	if _, err := h.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		inv := call("/", fmt.Sprint("hello ", i))
		resp, body, err := h.do(t.Context(), inv)
		if err != nil || resp.Status != 200 || body != fmt.Sprint("hello ", i) {
			t.Fatal(resp, body, err)
		}
		if inv.Outcome.BytesIn != 7 || inv.Outcome.BytesOut != 7 {
			t.Errorf("counted %d in, %d out", inv.Outcome.BytesIn, inv.Outcome.BytesOut)
		}
	}
	if h.dials.Load() != 1 {
		t.Errorf("%d connections were made", h.dials.Load())
	}
}

func TestPoolIsBounded(t *testing.T) {
	var open sync.WaitGroup
	open.Add(10)
	h := serve(t, lambent.Settings{Concurrency: 3}, func(w http.ResponseWriter, r *http.Request) { open.Done(); open.Wait() })
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, _, err := h.do(t.Context(), call("/", "x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	open.Add(10)
	for range 10 {
		wg.Go(func() {
			if _, _, err := h.do(t.Context(), call("/", "x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := h.dials.Load(); n != 17 {
		t.Errorf("%d connections were made for 20 calls, want 10 and 7 more", n)
	}
}

func TestHostFields(t *testing.T) {
	got := make(chan http.Header, 1)
	h := serve(t, lambent.Settings{}, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header
		w.Header().Set("Lambent-Error", "handler_error")
		w.Header().Set("Lambent-Invocation", "forged")
		w.Header().Set("Trailer", "Lambent-Sum, Sum")
		io.WriteString(w, strings.Repeat("x", 10000))
		w.Header().Set("Lambent-Sum", "1")
		w.Header().Set("Sum", "2")
	})
	inv := call("/", "")
	inv.Header = http.Header{"Lambent-Invocation": {"forged"}, "Lambent_trigger": {"forged"}, "lambent-deadline": {"1"}, "Lambent-X": {"y"}, "Lambently": {"stays"}}
	deadline := time.UnixMilli(1<<42 + 7)
	resp, err := h.Handle(t.Context(), inv, deadline)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	want := http.Header{"Lambent-Invocation": {inv.ID}, "Lambent-Trigger": {"http"}, "Lambent-Deadline": {fmt.Sprint(1<<42 + 7)},
		"Lambently": {"stays"}, "Content-Length": {"0"}}
	if seen := <-got; fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("the function saw %v", seen)
	}
	for name := range resp.Header {
		if strings.HasPrefix(name, "Lambent") {
			t.Errorf("the client would see %s", name)
		}
	}
	if fmt.Sprint(resp.Trailer) != "map[Sum:[2]]" {
		t.Errorf("the trailer is %v", resp.Trailer)
	}
}

func TestReportedErrors(t *testing.T) {
	report := func(code, body string) string {
		return fmt.Sprintf("HTTP/1.1 500 E\r\nLambent-Error: %s\r\nContent-Length: %d\r\n\r\n%s", code, len(body), body)
	}
	for name, tt := range map[string]struct {
		answer string
		code   lambent.Code
		text   string
	}{
		"raised":    {report("handler_error", `{"type":"E","message":"m","trace":["1","2"]}`), lambent.CodeHandlerError, "E: m"},
		"encoding":  {report("bad_response", `{"type":"E","message":"m"}`), lambent.CodeBadResponse, "E: m"},
		"json":      {report("invalid_json", `{"type":"E","message":"m"}`), lambent.CodeInvalidJSON, "E: m"},
		"blames us": {report("internal", `{"type":"E","message":"m"}`), lambent.CodeBadResponse, "unknown code"},
		"malformed": {report("handler_error", `no`), lambent.CodeBadResponse, "malformed"},
		"too long":  {report("handler_error", `{"type":"`+strings.Repeat("E", 300<<10)+`"}`), lambent.CodeBadResponse, "longer"},
	} {
		t.Run(name, func(t *testing.T) {
			h := script(t, handlers(), answers(tt.answer))
			_, _, err := h.do(t.Context(), call("/", "{}"))
			wantCode(t, err, tt.code, false)
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%q does not say %q", err, tt.text)
			}
			if name == "raised" {
				if lambent.ErrorOf(err).Trace != "1\n2" {
					t.Errorf("the trace is %q", lambent.ErrorOf(err).Trace)
				}
				if h.do(t.Context(), call("/", "{}")); h.dials.Load() != 1 {
					t.Error("the connection was not kept")
				}
			}
		})
	}
}

func TestBrokenConnections(t *testing.T) {
	exited := lambent.Errorf(lambent.CodeInstanceExited, "exited with code 3")
	for name, tt := range map[string]struct {
		answer, text string
		died         bool
		code         lambent.Code
	}{
		"dead before":  {"", "code 3", true, lambent.CodeInstanceExited},
		"dead within":  {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "code 3", true, lambent.CodeInstanceExited},
		"alive before": {"", "without an answer", false, lambent.CodeBadResponse},
		"alive within": {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "middle", false, lambent.CodeBadResponse},
		"garbage":      {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\nabc", "Content-Length", false, lambent.CodeBadResponse},
		"late garbage": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "chunk", false, lambent.CodeBadResponse},
	} {
		t.Run(name, func(t *testing.T) {
			h := script(t, servers(), func(conn *net.UnixConn, in *bufio.Reader) {
				http.ReadRequest(in)
				io.WriteString(conn, tt.answer)
			})
			if tt.died {
				h.died = func() *lambent.Error { return exited }
			}
			_, _, err := h.do(t.Context(), call("/", ""))
			wantCode(t, err, tt.code, false)
			if !strings.Contains(err.Error(), tt.text) || errors.Is(err, executor.ErrNotSent) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestUnsendable(t *testing.T) {
	h := serve(t, lambent.Settings{}, func(w http.ResponseWriter, r *http.Request) {})
	inv := call("/", "")
	inv.Header.Set("A", "b\r\nC: d")
	_, _, err := h.do(t.Context(), inv)
	wantCode(t, err, lambent.CodeInvalidRequest, false)
	if _, _, err := h.do(t.Context(), call("/", "")); err != nil || h.dials.Load() != 1 {
		t.Error("the connection was not kept", err)
	}
}

func TestClientLeaves(t *testing.T) {
	// polite notices that its caller has left; stubborn does not, until the test ends.
	polite := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	end := make(chan struct{})
	defer close(end)
	stubborn := func(w http.ResponseWriter, r *http.Request) { <-end }
	for name, tt := range map[string]struct {
		wait http.HandlerFunc
		busy bool
	}{"polite": {polite, false}, "stubborn": {stubborn, true}} {
		t.Run(name+", before the head", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			h := serve(t, lambent.Settings{}, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body) // net/http sees a caller leave only behind the body
				cancel()
				tt.wait(w, r)
			})
			_, err := h.Handle(ctx, call("/", "x"), soon())
			wantCode(t, err, lambent.CodeClientClosed, tt.busy)
		})
		t.Run(name+", within the body", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			h := serve(t, lambent.Settings{}, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "abc")
				http.NewResponseController(w).Flush()
				tt.wait(w, r)
			})
			inv := call("/", "x")
			resp, err := h.Handle(ctx, inv, soon())
			if err != nil {
				t.Fatal(err)
			}
			io.ReadFull(resp.Body, make([]byte, 3))
			cancel()
			_, err = resp.Body.Read(make([]byte, 1))
			wantCode(t, err, lambent.CodeClientClosed, false)
			if err := resp.Body.Close(); (err == executor.ErrBusy) != tt.busy || inv.Outcome.BytesOut != 3 {
				t.Errorf("Close gave %v after %d bytes", err, inv.Outcome.BytesOut)
			}
		})
		t.Run(name+", Close alone", func(t *testing.T) {
			h := serve(t, lambent.Settings{}, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "abc")
				http.NewResponseController(w).Flush()
				tt.wait(w, r)
			})
			resp, err := h.Handle(t.Context(), call("/", "x"), soon())
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() { io.Copy(io.Discard, resp.Body) }) // a Read in another goroutine ends
			for range 2 {
				if err := resp.Body.Close(); (err == executor.ErrBusy) != tt.busy {
					t.Errorf("Close gave %v", err)
				}
			}
			wg.Wait()
			if h.ended.Load() != 1 {
				t.Errorf("it ended %d times", h.ended.Load())
			}
		})
	}
	t.Run("before it began", func(t *testing.T) {
		h := serve(t, lambent.Settings{}, stubborn)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(lambent.Errorf(lambent.CodeShuttingDown, "stopping"))
		_, err := h.Handle(ctx, call("/", "x"), soon())
		wantCode(t, err, lambent.CodeShuttingDown, false)
	})
}

func TestRequestBodyFails(t *testing.T) {
	for _, length := range []int64{10, -1} {
		h := serve(t, lambent.Settings{}, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		inv := call("/", "")
		tooLarge := lambent.Errorf(lambent.CodeBodyTooLarge, "over the limit")
		inv.ContentLength, inv.Body = length, io.NopCloser(io.MultiReader(strings.NewReader("some"), failing{tooLarge}))
		_, _, err := h.do(t.Context(), inv)
		wantCode(t, err, lambent.CodeBodyTooLarge, false)

		inv = call("/", "")
		inv.ContentLength, inv.Body = length, io.NopCloser(io.MultiReader(strings.NewReader("some"), failing{io.ErrUnexpectedEOF}))
		_, _, err = h.do(t.Context(), inv)
		wantCode(t, err, lambent.CodeClientClosed, false)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A slow client's small body runs into the limit, but the function has not seen anything: it is not busy.
func TestSlowSmallBodyIsNotTheFunctionsFault(t *testing.T) {
	h := serve(t, lambent.Settings{Timeouts: lambent.Timeouts{FirstByte: lambent.Duration(20 * time.Millisecond)}},
		func(w http.ResponseWriter, r *http.Request) {})
	inv := call("/", "")
	r, w := io.Pipe()
	defer w.Close()
	inv.ContentLength, inv.Body = 10, r
	_, err := h.Handle(t.Context(), inv, soon())
	wantCode(t, err, lambent.CodeRequestTimeout, false)
}

func TestTimeouts(t *testing.T) {
	const short = 30 * time.Millisecond
	some := lambent.Duration(short)
	for name, tt := range map[string]struct {
		timeouts lambent.Timeouts
		total    time.Duration
		head     bool
		code     lambent.Code
		text     string
	}{
		"first byte":       {lambent.Timeouts{FirstByte: some}, time.Hour, false, lambent.CodeFirstByteTimeout, "30ms"},
		"idle":             {lambent.Timeouts{Idle: some}, time.Hour, true, lambent.CodeIdleTimeout, "30ms"},
		"total, no head":   {lambent.Timeouts{Total: some}, short, false, lambent.CodeTotalTimeout, "30ms"},
		"total, in a body": {lambent.Timeouts{Total: some}, short, true, lambent.CodeTotalTimeout, "30ms"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cut := make(chan struct{})
				l := pipes.Listen()
				h := serveOn(t, l, l.Dial, lambent.Settings{Timeouts: tt.timeouts}, func(w http.ResponseWriter, r *http.Request) {
					if tt.head {
						http.NewResponseController(w).Flush()
					}
					<-r.Context().Done()
					close(cut)
				})
				began := time.Now()
				resp, err := h.Handle(t.Context(), call("/", ""), began.Add(tt.total))
				if tt.head {
					if err != nil {
						t.Fatal(err)
					}
					_, err = resp.Body.Read(make([]byte, 1))
					<-cut // before Close
					if cerr := resp.Body.Close(); cerr != executor.ErrBusy {
						t.Errorf("Close gave %v", cerr)
					}
				}
				wantCode(t, err, tt.code, !tt.head)
				if !strings.Contains(err.Error(), tt.text) {
					t.Errorf("%q does not say %q", err, tt.text)
				}
				<-cut
				if took := time.Since(began); took != short {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestUpgrade(t *testing.T) {
	h := serve(t, lambent.Settings{}, func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
		io.Copy(conn, rw)
	})
	inv := call("/", "")
	inv.Method, inv.Upgrade = "GET", "echo"
	resp, err := h.Handle(t.Context(), inv, soon())
	if err != nil || resp.Status != 101 {
		t.Fatal(resp, err)
	}
	body := resp.Body.(lambent.UpgradedBody)
	var wg sync.WaitGroup
	wg.Go(func() {
		io.WriteString(body, ", world")
		body.CloseWrite()
	})
	got, err := io.ReadAll(body)
	if err != nil || string(got) != "hello, world" {
		t.Errorf("got %q, %v", got, err)
	}
	wg.Wait()
	for range 2 {
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
	if inv.Outcome.BytesIn != 7 || inv.Outcome.BytesOut != 12 {
		t.Errorf("counted %+v", inv.Outcome)
	}

	// Close and the end of ctx both end a Read that waits.
	ctx, cancel := context.WithCancel(t.Context())
	for name, end := range map[string]func(lambent.UpgradedBody){
		"close": func(b lambent.UpgradedBody) { b.Close() }, "ctx": func(lambent.UpgradedBody) { cancel() },
	} {
		inv := call("/", "")
		inv.Method, inv.Upgrade = "GET", "echo"
		c := ctx
		if name == "close" {
			c = t.Context()
		}
		resp, err := h.Handle(c, inv, soon())
		if err != nil {
			t.Fatal(err)
		}
		body := resp.Body.(lambent.UpgradedBody)
		io.ReadFull(body, make([]byte, 5))
		wg.Go(func() {
			_, err := body.Read(make([]byte, 1))
			if !lambent.HasCode(err, lambent.CodeClientClosed) {
				t.Errorf("%s: Read gave %v", name, err)
			}
		})
		end(body)
		wg.Wait()
		body.Close()
	}
	cancel()
}

func TestStreamsBothWays(t *testing.T) {
	h := serve(t, lambent.Settings{}, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		p := make([]byte, 100)
		for {
			n, err := r.Body.Read(p)
			w.Write(p[:n])
			http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	})
	inv := call("/", "")
	r, w := io.Pipe()
	inv.ContentLength, inv.Body = -1, r
	go io.WriteString(w, "one")
	resp, err := h.Handle(t.Context(), inv, soon())
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 3)
	for _, word := range []string{"one", "two", "six"} {
		if word != "one" {
			io.WriteString(w, word)
		}
		if _, err := io.ReadFull(resp.Body, p); err != nil || string(p) != word {
			t.Fatalf("got %q, %v", p, err)
		}
	}
	w.Close()
	io.Copy(io.Discard, resp.Body)
	if err := resp.Body.Close(); err != nil || inv.Outcome.BytesIn != 9 || inv.Outcome.BytesOut != 9 {
		t.Error(err, inv.Outcome)
	}
}

// A shim in Python, with the listening socket as descriptor 3.
func TestPython(t *testing.T) {
	l, dial := listen(t)
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	shim := exec.Command("/usr/bin/python3", "-I", "-S", "testdata/server.py")
	shim.ExtraFiles, shim.Stderr = []*os.File{file}, os.Stderr
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	l.SetUnlinkOnClose(false)
	l.Close() // the shim's copy alone listens now
	exited := make(chan struct{})
	go func() { shim.Wait(); close(exited) }()
	t.Cleanup(func() { shim.Process.Kill(); <-exited })

	h := connect(t, handlers(), dial)
	h.died = func() *lambent.Error {
		<-exited
		return lambent.Errorf(lambent.CodeInstanceExited, "%s", shim.ProcessState)
	}
	started, err := h.Ready(t.Context())
	if err != nil || started.FirstLine <= 0 {
		t.Fatal(started, err)
	}
	for _, body := range []string{"", "hello", strings.Repeat("x", 100<<10)} {
		inv := call("/", body)
		resp, got, err := h.do(t.Context(), inv)
		if err != nil || got != body || resp.Header.Get("Lambent-Secret") != "" {
			t.Fatalf("got %v, %d bytes, %v", resp, len(got), err)
		}
		if ours := resp.Header.Get("X-Ours"); !strings.Contains(ours, inv.ID) || !strings.Contains(ours, "Lambent-Trigger: http") {
			t.Errorf("the shim saw %q", ours)
		}
	}
	_, _, err = h.do(t.Context(), call("/raise", "{}"))
	wantCode(t, err, lambent.CodeHandlerError, false)
	if h.dials.Load() != 1 {
		t.Errorf("%d connections were made", h.dials.Load())
	}
	_, _, err = h.do(t.Context(), call("/die", "{}"))
	wantCode(t, err, lambent.CodeInstanceExited, false)
	_, _, err = h.do(t.Context(), call("/", "{}"))
	wantCode(t, err, lambent.CodeInstanceExited, false)
	if !errors.Is(err, executor.ErrNotSent) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkHandle is a whole call of a Go echo function, the function's own cost included; what its server
// allocates is in the figure too (26 a request, see internal/h1's BenchmarkRoundTrip/bytes).
func BenchmarkHandle(b *testing.B) {
	h := serve(b, lambent.Settings{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.Copy(w, r.Body)
	})
	const text = `{"a":1,"b":"hello","c":[1,2,3]}`
	header := http.Header{"Accept": {"*/*"}, "Content-Type": {"application/json"}, "User-Agent": {"bench/1"}}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	p := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		inv := lambent.Invocation{ID: "0190a0b0-0000-7000-8000-000000000000", Trigger: lambent.TriggerHTTP, Method: "POST",
			Target: "/", Host: "f", Header: header, ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text))}
		resp, err := h.Handle(ctx, &inv, soon())
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.ReadFull(resp.Body, p[:len(text)]); err != nil {
			b.Fatal(n, err)
		}
		if err := resp.Body.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
