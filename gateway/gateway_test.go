package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/gateway/route"
)

type invokerFunc func(ctx context.Context, inv *lambent.Invocation) (*lambent.Response, error)

func (f invokerFunc) Invoke(ctx context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
	return f(ctx, inv)
}

// authenticate knows the node's key, and one of each namespace that may invoke.
func authenticate(r *http.Request) (lambent.Principal, bool) {
	who, ok := map[string]lambent.Principal{
		"Bearer k":       {Name: "admin", Role: lambent.RoleAdmin},
		"Bearer default": {Namespace: "default", Name: "caller", Role: lambent.RoleInvoke},
		"Bearer team":    {Namespace: "team", Name: "caller", Role: lambent.RoleInvoke},
	}[r.Header.Get("Authorization")]
	return who, ok
}

// open serves what handler gives.
func open(t *testing.T, f invokerFunc, change func(*lambent.Settings)) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(handler(t, f, change))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

// handler is a gateway whose functions are "hello" in the namespaces default and team, by f.
func handler(t *testing.T, f invokerFunc, change func(*lambent.Settings)) http.Handler {
	t.Helper()
	s := lambent.Settings{Runtime: "go"}
	if change != nil {
		change(&s)
	}
	s, err := s.Complete()
	if err != nil {
		t.Fatal(err)
	}
	table := route.New()
	for _, ns := range []string{"default", "team"} {
		table.Set(&lambent.Function{Namespace: ns, Name: "hello", Latest: lambent.NewRevision(ns, "hello", s, "sha256:1", "r", time.Now())})
	}
	return New(Options{Table: table, Routes: &route.Routes{}, Invoker: f, Public: true, Authenticate: authenticate})
}

func text(status int, s string) *lambent.Response {
	return &lambent.Response{Status: status, Header: http.Header{}, ContentLength: int64(len(s)), Body: io.NopCloser(strings.NewReader(s))}
}

func get(t *testing.T, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(raw)
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestMatch(t *testing.T) {
	srv := open(t, func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		return text(200, inv.Revision.Namespace+" "+inv.Target), nil
	}, nil)
	for _, c := range []struct {
		host, path, want string
		status           int
	}{
		{"", "/fn/hello", "default /", 200},
		{"", "/fn/hello/", "default /", 200},
		{"", "/fn/hello?a=b", "default /?a=b", 200},
		{"", "/fn/hello/a%2Fb//c?x=%20", "default /a%2Fb//c?x=%20", 200},
		{"", "/fn/hello.team/x", "team /x", 200},
		{"hello.team.localhost", "/fn/hello/x", "team /fn/hello/x", 200},
		{"hello.default.localhost:8080", "/", "default /", 200},
		{"", "/fn/nobody", "function_not_found", 404},
		{"", "/fn/hello.nowhere/", "function_not_found", 404},
		{"", "/fn/", "not_found", 404},
		{"", "/", "not_found", 404},
		{"", "/fnhello", "not_found", 404},
		{"hello.localhost", "/", "not_found", 404},
		{"a.b.c.localhost", "/", "function_not_found", 404},
		{"", "/fn/%68ello", "function_not_found", 404},
	} {
		req := request(t, "GET", srv.URL+c.path, nil)
		if c.host != "" {
			req.Host = c.host
		}
		resp, body := get(t, req)
		if resp.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s%s: %d %s", c.host, c.path, resp.StatusCode, body)
		}
	}
}

func TestHeaderHygiene(t *testing.T) {
	var got *lambent.Invocation
	srv := open(t, func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		got = inv
		return text(200, ""), nil
	}, nil)
	req := request(t, "GET", srv.URL+"/fn/hello/", nil)
	req.Header = http.Header{
		"Connection": {"keep-alive, X-Secret"}, "X-Secret": {"1"}, "Te": {"trailers"}, "Proxy-Authorization": {"x"},
		"X-Forwarded-For": {"1.2.3.4"}, "X-Request-Id": {"mine"}, "Authorization": {"Bearer theirs"}, "Upgrade": {"h2c"},
		"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	}
	resp, _ := get(t, req)
	h := got.Header
	for _, name := range []string{"Connection", "X-Secret", "Te", "Proxy-Authorization", "Upgrade", "Keep-Alive"} {
		if v, ok := h[name]; ok {
			t.Errorf("%s: %q was passed on", name, v)
		}
	}
	if got.Upgrade != "" {
		t.Errorf("upgrade %q without the Connection token", got.Upgrade)
	}
	if h.Get("X-Forwarded-For") != "1.2.3.4, 127.0.0.1" || h.Get("X-Forwarded-Proto") != "http" || h.Get("X-Forwarded-Host") != req.URL.Host {
		t.Errorf("forwarded: %v", h)
	}
	if h.Get("Authorization") != "Bearer theirs" {
		t.Error("a public function lost its caller's own Authorization")
	}
	if resp.Header.Get("X-Request-Id") != "mine" || h.Get("X-Request-Id") != "mine" || resp.Header.Get("Lambent-Invocation") != got.ID {
		t.Errorf("ids: %v", resp.Header)
	}
	if tp := h.Get("Traceparent"); !strings.HasPrefix(tp, "00-0af7651916cd43dd8448eb211c80319c-") || strings.Contains(tp, "b7ad6b7169203331") {
		t.Errorf("traceparent %q", tp)
	}
	req.Header = http.Header{"X-Request-Id": {"with space"}}
	get(t, req)
	if got.Header.Get("X-Request-Id") != got.ID {
		t.Errorf("invalid request id became %q", got.Header.Get("X-Request-Id"))
	}
}

func TestForwardedPrefix(t *testing.T) {
	var got *lambent.Invocation
	srv := open(t, func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		got = inv
		return text(200, ""), nil
	}, nil)
	for _, c := range []struct{ host, target, want string }{
		{"", "/fn/hello", "/fn/hello"}, {"", "/fn/hello/", "/fn/hello"}, {"", "/fn/hello?x=/fn", "/fn/hello"},
		{"", "/fn/hello/a%2Fb/c?x=1", "/fn/hello"}, {"hello.default.localhost", "/fn/hello/a", ""},
	} {
		req := request(t, "GET", srv.URL+c.target, nil)
		req.Host = c.host
		req.Header.Set("X-Forwarded-Prefix", "/evil")
		get(t, req)
		if prefix := got.Header.Get("X-Forwarded-Prefix"); prefix != c.want {
			t.Errorf("%s %s: prefix %q, want %q", c.host, c.target, prefix, c.want)
		}
	}
}

func TestKeyedFunction(t *testing.T) {
	srv := open(t, func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		return text(200, "auth="+inv.Header.Get("Authorization")), nil
	}, func(s *lambent.Settings) { s.Auth = lambent.AuthKey })
	req := request(t, "GET", srv.URL+"/fn/hello/", nil)
	if resp, body := get(t, req); resp.StatusCode != 401 || !strings.Contains(body, "unauthorized") {
		t.Errorf("without a key: %d %s", resp.StatusCode, body)
	}
	req.Header.Set("Authorization", "Bearer k")
	if resp, body := get(t, req); resp.StatusCode != 200 || body != "auth=" {
		t.Errorf("with the key: %d %s", resp.StatusCode, body)
	}
	req.Header.Set("Authorization", "Bearer default")
	if resp, body := get(t, req); resp.StatusCode != 200 || body != "auth=" {
		t.Errorf("with a key of the namespace: %d %s", resp.StatusCode, body)
	}
	req.Header.Set("Authorization", "Bearer team")
	if resp, body := get(t, req); resp.StatusCode != 403 || !strings.Contains(body, "key caller (invoke in team) may do nothing in namespace default") {
		t.Errorf("with a key of another namespace: %d %s", resp.StatusCode, body)
	}
}

// Nobody's function gets to see the platform's key, not even a public one that it was sent to by mistake.
func TestPlatformKeyStays(t *testing.T) {
	srv := open(t, func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		return text(200, "auth="+inv.Header.Get("Authorization")), nil
	}, nil)
	req := request(t, "GET", srv.URL+"/fn/hello/", nil)
	for _, key := range []string{"k", "default", "team"} {
		req.Header.Set("Authorization", "Bearer "+key)
		if resp, body := get(t, req); resp.StatusCode != 200 || body != "auth=" {
			t.Errorf("%s: %d %s", key, resp.StatusCode, body)
		}
	}
}

func TestErrorsHideTraces(t *testing.T) {
	srv := open(t, func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		e := lambent.Errorf(lambent.CodeHandlerError, "KeyError: 'x'").WithHint("see lambent logs")
		e.Trace, e.Invocation = "secret frames", inv.ID
		return nil, e
	}, nil)
	resp, body := get(t, request(t, "GET", srv.URL+"/fn/hello", nil))
	var answer struct{ Error lambent.Error }
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	e := answer.Error
	if resp.StatusCode != 502 || e.Code != lambent.CodeHandlerError || e.Fault != lambent.FaultFunction || e.Hint == "" ||
		e.Invocation != resp.Header.Get("Lambent-Invocation") || strings.Contains(body, "secret") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestBodyLimit(t *testing.T) {
	srv := open(t, func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		if _, err := io.Copy(io.Discard, inv.Body); err != nil {
			return nil, err
		}
		return text(200, "ok"), nil
	}, func(s *lambent.Settings) { s.MaxBody = 10 })
	for _, c := range []struct {
		body   io.Reader
		status int
	}{
		{strings.NewReader("0123456789"), 200},
		{strings.NewReader("0123456789x"), 413},
		{io.MultiReader(strings.NewReader("0123456789x")), 413},
	} {
		if resp, body := get(t, request(t, "POST", srv.URL+"/fn/hello", c.body)); resp.StatusCode != c.status {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	}
}

func TestStreamsBothWaysAndTrailers(t *testing.T) {
	srv := open(t, func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		resp := &lambent.Response{Status: 200, Header: http.Header{"Content-Type": {"text/plain"}}, ContentLength: -1, Trailer: http.Header{}}
		resp.Body = readCloser{func(p []byte) (int, error) {
			n, err := inv.Body.Read(p)
			if err == io.EOF {
				resp.Trailer.Set("X-Sum", inv.Trailer.Get("X-In"))
			}
			return n, err
		}, inv.Body.Close}
		return resp, nil
	}, nil)
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		tr := &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(proto == "HTTP/1.1")
		tr.Protocols.SetUnencryptedHTTP2(proto == "HTTP/2.0")
		t.Cleanup(tr.CloseIdleConnections)
		pr, pw := io.Pipe()
		req := request(t, "POST", srv.URL+"/fn/hello", pr)
		req.Trailer = http.Header{"X-In": nil}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(resp.Body)
		for i := range 3 {
			fmt.Fprintf(pw, "line %d\n", i)
			if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("line %d\n", i) {
				t.Fatalf("%s: %q %v", proto, line, err)
			}
		}
		req.Trailer.Set("X-In", "three")
		pw.Close()
		if _, err := br.ReadByte(); err != io.EOF {
			t.Errorf("%s: %v at the end", proto, err)
		}
		if resp.Proto != proto || resp.Trailer.Get("X-Sum") != "three" {
			t.Errorf("%s: proto %s, trailer %v", proto, resp.Proto, resp.Trailer)
		}
		resp.Body.Close()
	}
}

// A client that does not read is cut off, and the function's slot is given back.
func TestClientThatDoesNotRead(t *testing.T) {
	closed := make(chan struct{})
	srv := open(t, func(context.Context, *lambent.Invocation) (*lambent.Response, error) {
		return &lambent.Response{Status: 200, Header: http.Header{}, ContentLength: 1 << 30,
			Body: readCloser{func(p []byte) (int, error) { return len(p), nil }, func() error { close(closed); return nil }}}, nil
	}, func(s *lambent.Settings) { s.Timeouts.Idle = lambent.Duration(200 * time.Millisecond) })
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /fn/hello HTTP/1.1\r\nHost: x\r\n\r\n")
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the answer still waits for its client")
	}
}

type readCloser struct {
	read  func([]byte) (int, error)
	close func() error
}

func (r readCloser) Read(p []byte) (int, error) { return r.read(p) }
func (r readCloser) Close() error               { return r.close() }

func TestBrokenAnswerIsCutOff(t *testing.T) {
	srv := open(t, func(context.Context, *lambent.Invocation) (*lambent.Response, error) {
		n := 0
		return &lambent.Response{Status: 200, Header: http.Header{}, ContentLength: -1, Body: readCloser{func(p []byte) (int, error) {
			if n++; n > 1 {
				return 0, lambent.Errorf(lambent.CodeInstanceExited, "died")
			}
			return copy(p, "half"), nil
		}, func() error { return nil }}}, nil
	}, nil)
	resp, err := http.DefaultTransport.RoundTrip(request(t, "GET", srv.URL+"/fn/hello", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if raw, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) || string(raw) != "half" {
		t.Errorf("the client took %q as whole: %v", raw, err)
	}
}

// pipe is a function's side of a switched connection that echoes what it gets, and says bye at its end.
type pipe struct{ net.Conn }

func (p pipe) CloseWrite() error { return p.Conn.(*net.TCPConn).CloseWrite() }

func TestSwitchProtocols(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		c, err := echo.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
		_, _ = io.WriteString(c, "bye")
	}()
	srv := open(t, func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		if inv.Upgrade != "echo" {
			return text(400, inv.Upgrade), nil
		}
		c, err := net.Dial("tcp", echo.Addr().String())
		if err != nil {
			return nil, err
		}
		return &lambent.Response{Status: 101, Header: http.Header{"X-A": {"b"}}, Body: pipe{c}}, nil
	}, nil)
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The bytes behind the request's head must not be lost.
	fmt.Fprint(c, "GET /fn/hello HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly ")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "echo" || resp.Header.Get("X-A") != "b" {
		t.Fatalf("%v", resp)
	}
	fmt.Fprint(c, "late")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if raw, err := io.ReadAll(br); err != nil || string(raw) != "early latebye" {
		t.Errorf("%q, %v", raw, err)
	}
}
