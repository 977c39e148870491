package h1_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"lambent/internal/h1"
)

// tape is a connection whose peer says in, whatever it hears.
type tape struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (t *tape) Read(p []byte) (int, error)       { return t.in.Read(p) }
func (t *tape) Write(p []byte) (int, error)      { return t.out.Write(p) }
func (t *tape) Close() error                     { return nil }
func (t *tape) SetDeadline(time.Time) error      { return nil }
func (t *tape) SetReadDeadline(time.Time) error  { return nil }
func (t *tape) SetWriteDeadline(time.Time) error { return nil }

// meaning is what a response says, in a form that can be compared.
type meaning struct {
	Status          int
	Header, Trailer string
	Body            string
	Length          int64
}

func fields(h http.Header, drop ...string) string {
	var out strings.Builder
	for _, key := range slices.Sorted(maps.Keys(h)) {
		if len(h[key]) > 0 && !slices.Contains(drop, key) {
			fmt.Fprintf(&out, "%s: %q\n", key, h[key])
		}
	}
	return out.String()
}

// ours parses wire; ok tells whether all of it was accepted. headLen is how much was read for the head.
func ours(wire []byte, method string) (m meaning, reusable, ok bool) {
	t := &tape{in: bytes.NewReader(wire)}
	c := h1.NewConn(t)
	resp, err := c.RoundTrip(&h1.Request{Method: method, Target: "/", Host: "x"}, h1.Deadlines{})
	if err != nil {
		return m, c.Reusable(), false
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	m = meaning{resp.Status, fields(resp.Header, "Content-Length"), fields(resp.Trailer), string(body), resp.ContentLength}
	return m, c.Reusable(), err == nil
}

// theirs is what net/http makes of it, after the interim responses.
func theirs(wire []byte, method string) (meaning, error) {
	r := bufio.NewReader(bytes.NewReader(wire))
	for {
		head, rest, _ := bytes.Cut(wire, []byte("\r\n\r\n"))
		wire = rest
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return meaning{}, err
		}
		if resp.StatusCode < 200 {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return meaning{}, err
		}
		hop := []string{"Content-Length", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
			"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings", "Connection"}
		named := hop
		// net/http takes a Connection field that says close away, so it is looked up in the text.
		in := textproto.NewReader(bufio.NewReader(io.MultiReader(bytes.NewReader(head), strings.NewReader("\r\n\r\n"))))
		in.ReadLine()
		all, err := in.ReadMIMEHeader()
		if err != nil {
			return meaning{}, err
		}
		for _, list := range all["Connection"] {
			for name := range strings.SplitSeq(list, ",") {
				for key := range resp.Header {
					if strings.EqualFold(key, strings.Trim(name, " \t")) {
						named = append(named, key)
					}
				}
			}
		}
		return meaning{resp.StatusCode, fields(resp.Header, named...), fields(resp.Trailer, append(hop, "Host", "Expect")...),
			string(body), resp.ContentLength}, nil
	}
}

// serialise writes m in one way that there is for it.
func (m meaning) serialise(resp http.Header, trailer http.Header, method string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %03d\r\n", m.Status)
	resp.Write(&b)
	if method == "HEAD" || m.Status == 204 || m.Status == 304 {
		b.WriteString("\r\n")
		return b.Bytes()
	}
	b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
	w := httputil.NewChunkedWriter(&b)
	io.WriteString(w, m.Body)
	w.Close()
	trailer.Write(&b)
	b.WriteString("\r\n")
	return b.Bytes()
}

// FuzzResponse proves that what is accepted means the same to net/http, survives being written again,
// and that nothing but one whole response leaves the connection reusable.
func FuzzResponse(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.0 404\r\nContent-Type: text/plain\r\n\r\nuntil close",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n2;x=y\r\nok\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nConnection: close, x\r\nX: y\r\nETag: \"a\"\r\nContent-Length: 7\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, wire []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		got, reusable, ok := ours(wire, method)
		if !ok {
			if reusable {
				t.Fatalf("refused, yet reusable: %q", wire)
			}
			return
		}
		want, err := theirs(wire, method)
		if err != nil {
			t.Fatalf("net/http refuses what we accept: %v: %q", err, wire)
		}
		if got.Status == 204 {
			want.Length = got.Length // net/http gives what a 204 must not say
		}
		if got.Status == 304 {
			want.Length = got.Length // net/http says 0, whatever the peer said
		}
		if got != want {
			t.Fatalf("we got  %+v\nnet/http %+v\nof %q", got, want, wire)
		}

		c := h1.NewConn(&tape{in: bytes.NewReader(wire)})
		resp, err := c.RoundTrip(&h1.Request{Method: method, Target: "/", Host: "x"}, h1.Deadlines{})
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		resp.Header.Del("Content-Length")
		again := got.serialise(resp.Header, resp.Trailer, method)
		twice, reusable, ok := ours(again, method)
		got.Length, twice.Length = 0, 0
		if !ok || !reusable || got != twice {
			t.Fatalf("%+v was written as %q and read as %+v, reusable %v", got, again, twice, reusable)
		}
	})
}

// FuzzChunked proves that a chunked body that is accepted is the same to net/http's chunk reader, in
// whatever steps it is read.
func FuzzChunked(f *testing.F) {
	for _, seed := range []string{
		"0\r\n\r\n", "2\r\nok\r\n0\r\n\r\n", "00002;a=b\r\nok\r\nA\r\n0123456789\r\n0;x\r\nB: c\r\n\r\n",
		"2 \r\nok\r\n0\r\n\r\n", "2\nok\n0\n\n", "ffffffffffffffff\r\n", "3\r\nok\r\n0\r\n\r\n", "1\r\nok\r\n0\r\n\r\n",
	} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, chunks []byte, step uint8) {
		wire := append([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), chunks...)
		whole, _, ok := ours(wire, "GET")
		c := h1.NewConn(&tape{in: bytes.NewReader(wire)})
		resp, err := c.RoundTrip(&h1.Request{Method: "GET", Target: "/", Host: "x"}, h1.Deadlines{})
		if err != nil {
			t.Fatal(err)
		}
		var inSteps []byte
		p := make([]byte, int(step)+1)
		for err == nil {
			var n int
			n, err = resp.Body.Read(p)
			inSteps = append(inSteps, p[:n]...)
		}
		if (err == io.EOF) != ok || string(inSteps) != whole.Body {
			t.Fatalf("in steps of %d: %q, %v; at once: %q, %v", len(p), inSteps, err, whole.Body, ok)
		}
		if !ok {
			return
		}
		theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(chunks)))
		if err != nil || string(theirs) != whole.Body {
			t.Fatalf("net/http reads %q, %v; we read %q", theirs, err, whole.Body)
		}
	})
}

// FuzzRequest proves that whatever is sent reads as exactly one request that means what was asked.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/a?b", "x", "Name", "value", "", int64(0))
	f.Add("POST", "/\r\nA: b", "x y", "Transfer-Encoding", "chunked", "body", int64(4))
	f.Add("PUT", "*", "", "Content-Length", "7", "some\r\n\r\nGET / HTTP/1.1\r\n\r\n", int64(-1))
	f.Add("POST", "/", "x", "a b", "c\r\n\r\n", "xyz", int64(2))
	f.Fuzz(func(t *testing.T, method, target, host, name, value, text string, length int64) {
		conn := &tape{in: bytes.NewReader([]byte("HTTP/1.1 204\r\n\r\n"))}
		c := h1.NewConn(conn)
		req := &h1.Request{Method: method, Target: target, Host: host, Header: http.Header{name: {value}},
			ContentLength: max(length, -1), Body: io.NopCloser(strings.NewReader(text)), Trailer: http.Header{}}
		resp, err := c.RoundTrip(req, h1.Deadlines{})
		if err != nil {
			return
		}
		resp.Body.Close()
		if !c.Reusable() && length != 0 {
			return // the body was shorter than announced
		}
		in := bufio.NewReader(&conn.out)
		r, err := http.ReadRequest(in)
		if err != nil {
			if strings.Contains(err.Error(), "invalid URI") || strings.Contains(err.Error(), "invalid URL escape") || strings.Contains(err.Error(), "parse ") {
				return // a path is not ours to judge
			}
			t.Fatalf("%v", err)
		}
		if r.Method != method || r.RequestURI != target {
			t.Fatalf("%q %q was read as %q %q", method, target, r.Method, r.RequestURI)
		}
		for key, values := range r.Header {
			if key != "Content-Length" && (key != http.CanonicalHeaderKey(name) || len(values) != 1 || values[0] != strings.Trim(value, " \t")) {
				t.Fatalf("%q: %q was read as %q: %q", name, value, key, values)
			}
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		want := text
		if length >= 0 {
			want = text[:min(int(length), len(text))]
		}
		if string(body) != want || in.Buffered() > 0 {
			t.Fatalf("%q was read as %q, with %d bytes behind it", want, body, in.Buffered())
		}
	})
}
