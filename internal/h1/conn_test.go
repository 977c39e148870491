package h1_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent/internal/h1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen makes a unix socket; dial connects to it.
func listen(tb testing.TB) (net.Listener, func() *h1.Conn) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "h1") // a unix socket's path must be short
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	return l, func() *h1.Conn {
		conn, err := net.Dial("unix", path)
		if err != nil {
			tb.Fatal(err)
		}
		c := h1.NewConn(conn)
		tb.Cleanup(func() { c.Close() })
		return c
	}
}

// serve runs a real net/http server.
func serve(tb testing.TB, h http.HandlerFunc) func() *h1.Conn {
	tb.Helper()
	l, dial := listen(tb)
	s := &http.Server{Handler: h}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	tb.Cleanup(func() { s.Close(); wg.Wait() })
	return dial
}

// script runs peer on the other end of the connection that it gives.
func script(tb testing.TB, peer func(conn *net.UnixConn, in *bufio.Reader)) *h1.Conn {
	tb.Helper()
	l, dial := listen(tb)
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		peer(conn.(*net.UnixConn), bufio.NewReader(conn))
	})
	c := dial()
	tb.Cleanup(func() { c.Close(); wg.Wait() })
	return c
}

// answers reads one request without a body and writes text; then it waits for us to hang up.
func answers(text string) func(*net.UnixConn, *bufio.Reader) {
	return func(conn *net.UnixConn, in *bufio.Reader) {
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		io.WriteString(conn, text)
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
	}
}

func get() *h1.Request { return &h1.Request{Method: "GET", Target: "/", Host: "x"} }

// soon bounds a test that waits for something that must come.
func soon() h1.Deadlines { return h1.Deadlines{Total: time.Now().Add(20 * time.Second)} }

func body(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }

func TestRefusesGarbage(t *testing.T) {
	many := strings.Repeat("A: b\r\n", 300)
	for name, answer := range map[string]string{
		"not http":               "hello\n",
		"binary":                 "\x00\x01\x02",
		"http/2":                 "HTTP/2 200 OK\r\n\r\n",
		"version 1.2":            "HTTP/1.2 200 OK\r\n\r\n",
		"lower case":             "http/1.1 200 OK\r\n\r\n",
		"no status":              "HTTP/1.1\r\n\r\n",
		"two digits":             "HTTP/1.1 20 OK\r\n\r\n",
		"four digits":            "HTTP/1.1 2000 OK\r\n\r\n",
		"signed status":          "HTTP/1.1 +20 OK\r\n\r\n",
		"status below 100":       "HTTP/1.1 099 OK\r\n\r\n",
		"NUL in the reason":      "HTTP/1.1 200 O\x00K\r\n\r\n",
		"CR in the reason":       "HTTP/1.1 200 O\rK\r\n\r\n",
		"bare LF after status":   "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
		"bare LF after a field":  "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n",
		"bare LF at the end":     "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n",
		"only bare LFs":          "HTTP/1.1 200 OK\n\n",
		"space before colon":     "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
		"space in name":          "HTTP/1.1 200 OK\r\nContent Length: 0\r\n\r\n",
		"no name":                "HTTP/1.1 200 OK\r\n: 0\r\n\r\n",
		"no colon":               "HTTP/1.1 200 OK\r\nhello\r\n\r\n",
		"folded field":           "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
		"folded first":           "HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
		"NUL in a value":         "HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
		"CR in a value":          "HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n",
		"lengths that differ":    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"list of lengths":        "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na",
		"negative length":        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\na",
		"signed length":          "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
		"hex length":             "HTTP/1.1 200 OK\r\nContent-Length: 0x1\r\n\r\na",
		"empty length":           "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\na",
		"huge length":            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\na",
		"both framings":          "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"gzip, chunked":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"identity":               "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
		"chunked twice":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"xchunked":               "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"chunked in 1.0":         "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"trailer of framing":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n",
		"endless field":          "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 100<<10),
		"endless fields":         "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 100),
		"too many fields":        "HTTP/1.1 200 OK\r\n" + many + "\r\n",
		"endless 1xx":            strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20),
		"big 1xx":                "HTTP/1.1 103 E\r\nA: " + strings.Repeat("b", 60<<10) + "\r\n\r\nHTTP/1.1 200 OK\r\nB: " + strings.Repeat("b", 10<<10) + "\r\n\r\n",
		"unasked switch":         "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"chunk: no size":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
		"chunk: not hex":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
		"chunk: 0x":              "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
		"chunk: signed":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
		"chunk: overflow":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n",
		"chunk: space":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
		"chunk: bare LF":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
		"chunk: LF in extension": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n",
		"chunk: CR in extension": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a\rb\r\na\r\n0\r\n\r\n",
		"chunk: long extension":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("a", 300) + "\r\na\r\n0\r\n\r\n",
		"chunk: many extensions": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\na\r\n", 50) + "0\r\n\r\n",
		"chunk: too much data":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
		"chunk: bare LF after":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n",
		"trailer: folded":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n",
		"trailer: no colon":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nhello\r\n\r\n",
		"trailer: endless":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + strings.Repeat("b", 100<<10),
		"trailer: too many":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + many + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := script(t, answers(answer))
			resp, err := c.RoundTrip(get(), soon())
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			var bad *h1.ProtocolError
			if !errors.As(err, &bad) {
				t.Fatalf("got %v, want a ProtocolError", err)
			}
			if c.Reusable() {
				t.Error("the connection is said to be reusable")
			}
		})
	}
}

func TestTruncation(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":                  "",
		"in the status line":       "HTTP/1.1 20",
		"in a field":               "HTTP/1.1 200 OK\r\nCont",
		"before the empty line":    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
		"after 100":                "HTTP/1.1 100 Continue\r\n\r\n",
		"in the body":              "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
		"before the body":          "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
		"before a chunk":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"in a size":                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5",
		"in a chunk":               "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
		"after a chunk":            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde",
		"before the last chunk":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
		"before the trailer's end": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
		"in the trailer":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := script(t, answers(answer))
			resp, err := c.RoundTrip(get(), soon())
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			var closed *h1.ClosedError
			if !errors.As(err, &closed) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("got %v, want a ClosedError of an unexpected EOF", err)
			}
			if closed.Answering != (answer != "") {
				t.Errorf("Answering is %v after %q", closed.Answering, answer)
			}
			if c.Reusable() {
				t.Error("the connection is said to be reusable")
			}
		})
	}
}

func TestAccepts(t *testing.T) {
	for name, tt := range map[string]struct {
		method, answer, body string
		status               int
		length               int64
		reusable             bool
		header, trailer      http.Header
	}{
		"length": {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", body: "ok", status: 200, length: 2, reusable: true,
			header: http.Header{"Content-Length": {"2"}}},
		"same length twice": {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nok", body: "ok", status: 200, length: 2, reusable: true,
			header: http.Header{"Content-Length": {"2"}}},
		"chunks": {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=\"y\"\r\nok\r\n0A\r\n0123456789\r\n0\r\n\r\n",
			body: "ok0123456789", status: 200, length: -1, reusable: true, header: http.Header{}, trailer: http.Header{}},
		"trailers": {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Sum, late\r\n\r\n2\r\nok\r\n0\r\nSum: 7\r\nMore: 8\r\nHost: x\r\n\r\n",
			body: "ok", status: 200, length: -1, reusable: true, header: http.Header{}, trailer: http.Header{"Sum": {"7"}, "Late": nil, "More": {"8"}}},
		"until close":   {answer: "HTTP/1.1 200 OK\r\n\r\nok", body: "ok", status: 200, length: -1, header: http.Header{}},
		"1.0":           {answer: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", body: "ok", status: 200, length: 2, header: http.Header{"Content-Length": {"2"}}},
		"no reason":     {answer: "HTTP/1.1 204\r\n\r\n", status: 204, reusable: true, header: http.Header{}},
		"close":         {answer: "HTTP/1.1 204 No\r\nConnection: Keep-Alive, Close\r\n\r\n", status: 204, header: http.Header{}},
		"204 and a lie": {answer: "HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok", status: 204, header: http.Header{"Content-Length": {"2"}}},
		"304":           {answer: "HTTP/1.1 304 Not\r\nContent-Length: 9\r\n\r\n", status: 304, length: 9, reusable: true, header: http.Header{"Content-Length": {"9"}}},
		"HEAD":          {method: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", status: 200, length: 9, reusable: true, header: http.Header{"Content-Length": {"9"}}},
		"HEAD chunked":  {method: "HEAD", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", status: 200, length: -1, reusable: true, header: http.Header{}},
		"1xx": {answer: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
			status: 200, reusable: true, header: http.Header{"Content-Length": {"0"}}},
		"two answers": {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
			body: "ok", status: 200, length: 2, header: http.Header{"Content-Length": {"2"}}},
		"hop-by-hop": {answer: "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\nx-stays: 1\r\nX-Stays:  2 \r\nContent-Length: 0\r\n\r\n",
			status: 200, reusable: true, header: http.Header{"X-Stays": {"1", "2"}, "Content-Length": {"0"}}},
		"big head": {answer: "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 60<<10) + "\r\nContent-Length: 2\r\n\r\nok", body: "ok", status: 200, length: 2, reusable: true,
			header: http.Header{"A": {strings.Repeat("b", 60<<10)}, "Content-Length": {"2"}}},
	} {
		for _, step := range []int{1, 7, 1 << 20} { // how much one Read may give
			t.Run(fmt.Sprint(name, "/", step), func(t *testing.T) {
				c := script(t, answers(tt.answer))
				req := get()
				if tt.method != "" {
					req.Method = tt.method
				}
				resp, err := c.RoundTrip(req, soon())
				if err != nil {
					t.Fatal(err)
				}
				got := readSteps(t, resp.Body, step)
				if err := resp.Body.Close(); err != nil {
					t.Error(err)
				}
				if resp.Status != tt.status || got != tt.body || resp.ContentLength != tt.length {
					t.Errorf("got %d %q of length %d", resp.Status, got, resp.ContentLength)
				}
				if c.Received() != int64(len(got)) {
					t.Errorf("counted %d bytes", c.Received())
				}
				if fmt.Sprint(resp.Header) != fmt.Sprint(tt.header) || fmt.Sprint(resp.Trailer) != fmt.Sprint(tt.trailer) {
					t.Errorf("header %v, trailer %v", resp.Header, resp.Trailer)
				}
				if c.Reusable() != tt.reusable {
					t.Errorf("reusable is %v", c.Reusable())
				}
				if _, err := resp.Body.Read(make([]byte, 1)); err != http.ErrBodyReadAfterClose {
					t.Errorf("Read after Close gives %v", err)
				}
			})
		}
	}
}

func readSteps(t *testing.T, r io.Reader, step int) string {
	t.Helper()
	var out strings.Builder
	p := make([]byte, step)
	for {
		n, err := r.Read(p)
		out.Write(p[:n])
		if err == io.EOF {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestRefusesToSend(t *testing.T) {
	for name, change := range map[string]func(*h1.Request){
		"no method":          func(r *h1.Request) { r.Method = "" },
		"method with space":  func(r *h1.Request) { r.Method = "GET /x" },
		"CONNECT":            func(r *h1.Request) { r.Method = "CONNECT" },
		"no target":          func(r *h1.Request) { r.Target = "" },
		"target with space":  func(r *h1.Request) { r.Target = "/ HTTP/1.1" },
		"target with CRLF":   func(r *h1.Request) { r.Target = "/\r\nA:b" },
		"absolute target":    func(r *h1.Request) { r.Target = "http://x/" },
		"host with CRLF":     func(r *h1.Request) { r.Host = "x\r\nA: b" },
		"value with CRLF":    func(r *h1.Request) { r.Header = http.Header{"A": {"b\r\nC: d"}} },
		"value with LF":      func(r *h1.Request) { r.Header = http.Header{"A": {"b\nC: d"}} },
		"value with CR":      func(r *h1.Request) { r.Header = http.Header{"A": {"b\rC: d"}} },
		"value with NUL":     func(r *h1.Request) { r.Header = http.Header{"A": {"\x00"}} },
		"name with colon":    func(r *h1.Request) { r.Header = http.Header{"A:b": {"c"}} },
		"name with space":    func(r *h1.Request) { r.Header = http.Header{"A ": {"c"}} },
		"empty name":         func(r *h1.Request) { r.Header = http.Header{"": {"c"}} },
		"extra with CRLF":    func(r *h1.Request) { r.Extra = []h1.Field{{"A", "\r\n\r\n"}} },
		"upgrade with CRLF":  func(r *h1.Request) { r.Upgrade = "a\r\nB: c" },
		"length and no body": func(r *h1.Request) { r.ContentLength = 4 },
	} {
		t.Run(name, func(t *testing.T) {
			var got []byte
			done := make(chan struct{})
			c := script(t, func(conn *net.UnixConn, in *bufio.Reader) {
				defer close(done)
				got, _ = io.ReadAll(in)
			})
			req := get()
			change(req)
			_, err := c.RoundTrip(req, soon())
			var bad *h1.RequestError
			if !errors.As(err, &bad) {
				t.Fatalf("got %v, want a RequestError", err)
			}
			if !c.Reusable() {
				t.Error("nothing was sent, yet the connection is not reusable")
			}
			c.Close()
			if <-done; len(got) > 0 {
				t.Errorf("%q was sent", got)
			}
		})
	}
}

func TestSendsWhatIsMeant(t *testing.T) {
	heads := make(chan *http.Request, 1)
	dial := serve(t, func(w http.ResponseWriter, r *http.Request) { heads <- r })
	c := dial()
	req := &h1.Request{
		Method: "POST", Target: "/a%20b?q=1", Host: "f.example",
		Header: http.Header{
			"Accept": {"a", "b"}, "Connection": {"close, x-hop"}, "X-Hop": {"1"}, "Transfer-Encoding": {"gzip"},
			"content-length": {"77"}, "Host": {"evil"}, "Trailer": {"A"}, "Expect": {"100-continue"}, "Te": {"trailers"},
			"lambent-id": {"forged"}, "Skip-Me": {"1"},
		},
		Extra: []h1.Field{{"Lambent-Id", "true"}},
		Skip:  func(name string) bool { return name == "Skip-Me" },
	}
	resp, err := c.RoundTrip(req, soon())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	r := <-heads
	want := http.Header{"Accept": {"a", "b"}, "Lambent-Id": {"true"}, "Content-Length": {"0"}}
	if fmt.Sprint(r.Header) != fmt.Sprint(want) || r.Host != "f.example" || r.RequestURI != "/a%20b?q=1" || r.ContentLength != 0 || r.Close {
		t.Errorf("the server saw %s %s %s %v", r.Method, r.RequestURI, r.Host, r.Header)
	}
	if !c.Reusable() {
		t.Error("the connection is not reusable")
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).EnableFullDuplex()
	w.Header().Set("Trailer", "Sum")
	n, err := io.Copy(flushing{w}, r.Body)
	if err != nil {
		return
	}
	w.Header().Set("Sum", fmt.Sprint(n, r.Trailer.Get("Client-Sum")))
}

type flushing struct{ http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	if ferr := http.NewResponseController(f.ResponseWriter).Flush(); err == nil {
		err = ferr
	}
	return n, err
}

func TestBodies(t *testing.T) {
	dial := serve(t, echo)
	c := dial()
	for _, size := range []int{0, 1, 16 << 10, 16<<10 + 1, 1 << 20, 9 << 20} {
		for _, known := range []bool{true, false} {
			for _, trailer := range []bool{false, true} {
				payload := strings.Repeat("0123456789abcdef", size/16+1)[:size]
				req := &h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: -1}
				if known {
					req.ContentLength = int64(size)
				}
				var in io.Reader = strings.NewReader(payload)
				wantSum := fmt.Sprint(size)
				if trailer && (size > 0 || !known) {
					req.Trailer = http.Header{"Client-Sum": nil, "Content-Length": {"3"}}
					in = io.MultiReader(in, onEOF(func() { req.Trailer.Set("Client-Sum", "-ok") }))
					wantSum += "-ok"
				}
				req.Body = io.NopCloser(in)
				resp, err := c.RoundTrip(req, soon())
				if err != nil {
					t.Fatalf("%d bytes, known %v: %v", size, known, err)
				}
				got, err := io.ReadAll(resp.Body)
				if err != nil || string(got) != payload {
					t.Fatalf("%d bytes, known %v: got %d, %v", size, known, len(got), err)
				}
				resp.Body.Close()
				if sum := resp.Trailer.Get("Sum"); sum != wantSum {
					t.Errorf("%d bytes, known %v: trailer %q, want %q", size, known, sum, wantSum)
				}
				if c.Sent() != int64(size) || c.Received() != int64(size) {
					t.Errorf("%d bytes counted as %d and %d", size, c.Sent(), c.Received())
				}
				if !c.Reusable() {
					t.Fatalf("%d bytes, known %v: not reusable", size, known)
				}
			}
		}
	}
}

type onEOF func()

func (f onEOF) Read([]byte) (int, error) { f(); return 0, io.EOF }

// Every read of the request's body must reach the function at once, and its answer us.
func TestStreamsBothWays(t *testing.T) {
	c := serve(t, echo)()
	in, out := io.Pipe()
	resp, err := c.RoundTrip(&h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: -1, Body: first("hi", in)}, soon())
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	for _, word := range []string{"hi", "you", "there"} {
		if word != "hi" {
			io.WriteString(out, word)
		}
		n, err := io.ReadFull(resp.Body, p[:len(word)])
		if err != nil || string(p[:n]) != word {
			t.Fatalf("got %q, %v", p[:n], err)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v", rest, err)
	}
	resp.Body.Close()
	if !c.Reusable() {
		t.Error("not reusable")
	}
}

// first gives s, then what r gives.
func first(s string, r io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(strings.NewReader(s), r), r}
}

// watched is a body that waits, and knows whether someone reads it.
type watched struct {
	*io.PipeReader
	reading atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	w.reading.Store(true)
	defer w.reading.Store(false)
	return w.PipeReader.Read(p)
}

func TestEarlyResponse(t *testing.T) {
	c := script(t, func(conn *net.UnixConn, in *bufio.Reader) {
		in.ReadString('\n')
		io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
		io.Copy(io.Discard, in)
	})
	r, w := io.Pipe()
	defer w.Close()
	req := &watched{PipeReader: r}
	resp, err := c.RoundTrip(&h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: 1 << 30, Body: req}, soon())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(resp.Body); string(got) != "no" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	resp.Body.Close()
	if req.reading.Load() {
		t.Error("Close returned while the body was being read")
	}
	if c.Reusable() {
		t.Error("reusable with half a request sent")
	}
}

// A server that answers and hangs up in the middle of an upload is not an error of ours.
func TestEarlyResponseAndHangUp(t *testing.T) {
	for range 20 {
		c := script(t, func(conn *net.UnixConn, in *bufio.Reader) {
			in.ReadString('\n')
			io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
		})
		zeros := io.NopCloser(io.LimitReader(zero{}, 1<<30))
		resp, err := c.RoundTrip(&h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: 1 << 30, Body: zeros}, soon())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); string(got) != "no" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		resp.Body.Close()
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBodyErrors(t *testing.T) {
	broken := errors.New("broken")
	fail := io.NopCloser(io.MultiReader(strings.NewReader("some"), errReader{broken}))
	for name, tt := range map[string]struct {
		length int64
		body   io.ReadCloser
		want   error
		sent   bool
	}{
		"small":         {10, fail, broken, false},
		"small, short":  {10, body("some"), io.ErrUnexpectedEOF, false},
		"large":         {1 << 20, io.NopCloser(io.MultiReader(strings.NewReader("some"), errReader{broken})), broken, true},
		"large, short":  {1 << 20, body("some"), io.ErrUnexpectedEOF, true},
		"chunked":       {-1, io.NopCloser(io.MultiReader(strings.NewReader("some"), errReader{broken})), broken, true},
		"without bytes": {-1, io.NopCloser(errReader{nil}), io.ErrNoProgress, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, echo)()
			resp, err := c.RoundTrip(&h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: tt.length, Body: tt.body}, soon())
			if err == nil { // the server began to answer first
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			var be *h1.BodyError
			if !errors.As(err, &be) || !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if c.Reusable() == tt.sent {
				t.Errorf("reusable is %v", c.Reusable())
			}
			if tt.sent && !c.HangUp(10*time.Second) {
				t.Error("the server did not hang up")
			}
		})
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestInvalidTrailerIsNotSent(t *testing.T) {
	got := make(chan error, 1)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		got <- err
	})()
	_, err := c.RoundTrip(&h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: -1, Body: body("x"),
		Trailer: http.Header{"A": {"b\r\n\r\nGET /evil HTTP/1.1"}}}, soon())
	if !errors.As(err, new(*h1.RequestError)) {
		t.Errorf("got %v", err)
	}
	c.Close()
	if err := <-got; err == nil {
		t.Error("the server took half a request for a whole one")
	}
}

func TestNotSent(t *testing.T) {
	l, dial := listen(t)
	c := dial()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	serveOne := func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			t.Error(err)
		}
		io.WriteString(conn, "HTTP/1.1 204 No\r\n\r\n")
	}
	roundTrip := func(c *h1.Conn, req *h1.Request) error {
		resp, err := c.RoundTrip(req, soon())
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { serveOne(peer) })
	if err := roundTrip(c, get()); err != nil || !c.Reusable() {
		t.Fatal(err, c.Reusable())
	}
	wg.Wait()
	peer.Close()

	// The same request, small body and all, goes to another connection.
	req := &h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: 2, Body: body("ok")}
	if err := roundTrip(c, req); !errors.Is(err, h1.ErrNotSent) || c.Reusable() {
		t.Fatalf("got %v", err)
	}
	c2 := dial()
	peer2, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer2.Close()
	got := make(chan string, 1)
	wg.Go(func() {
		r, err := http.ReadRequest(bufio.NewReader(peer2))
		if err != nil {
			t.Error(err)
			return
		}
		b, _ := io.ReadAll(r.Body)
		got <- string(b)
		io.WriteString(peer2, "HTTP/1.1 204 No\r\n\r\n")
	})
	if err := roundTrip(c2, req); err != nil {
		t.Fatal(err)
	}
	if b := <-got; b != "ok" {
		t.Errorf("the second connection got %q", b)
	}
	wg.Wait()

	// Bytes that nobody asked for are no answer to the next request.
	io.WriteString(peer2, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
	if err := roundTrip(c2, get()); !errors.Is(err, h1.ErrNotSent) {
		t.Errorf("got %v", err)
	}

	// A fresh connection whose peer has gone takes nothing either.
	c3 := dial()
	peer3, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	peer3.Close()
	if err := roundTrip(c3, get()); !errors.Is(err, h1.ErrNotSent) || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %v", err)
	}
}

// A peer that dies with our request unread makes the socket give ECONNRESET.
func TestReset(t *testing.T) {
	for name, tt := range map[string]struct {
		answer    string
		answering bool
		read      int
	}{
		"before": {"", false, 1}, "at the end": {"", false, 1000}, "in the head": {"HTTP/1.1 200", true, 1},
		"in the body": {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na", true, 1}, "until close": {"HTTP/1.1 200 OK\r\n\r\na", true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			c := script(t, func(conn *net.UnixConn, in *bufio.Reader) {
				conn.Read(make([]byte, tt.read))
				io.WriteString(conn, tt.answer)
			})
			req := &h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: 2, Body: body("ok")}
			resp, err := c.RoundTrip(req, soon())
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			var closed *h1.ClosedError
			unread := !tt.answering && tt.read == 1
			if !errors.As(err, &closed) || closed.Answering != tt.answering || errors.Is(err, syscall.ECONNRESET) != (tt.read == 1) ||
				closed.Unread != unread {
				t.Fatalf("got %v", err)
			}
			if again := req.Untaken(); (string(again) == "ok") != unread {
				t.Errorf("the body to send again is %q", again)
			}
		})
	}
}
