package egress

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
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"lambent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a gate whose listening sockets are here, and a resolver that says what it is told.
type fixture struct {
	*Gate
	t     *testing.T
	at    []string // of the sockets
	names map[string][]string

	mu    sync.Mutex
	asked []string
	said  []string
}

// permitted is where the servers of tests are; the rest of loopback is refused.
const permitted = "127.0.0.2"

func open(t *testing.T, names map[string][]string, rules ...string) *fixture {
	t.Helper()
	return openChanged(t, func(*Gate) {}, names, rules...)
}

func openChanged(t *testing.T, change func(*Gate), names map[string][]string, rules ...string) *fixture {
	t.Helper()
	f := &fixture{t: t, names: names}
	p := New(Options{Permit: []netip.Prefix{netip.MustParsePrefix(permitted + "/32")}, Resolve: f.resolve})
	f.serve(p, "default", change, rules...)
	return f
}

// beside opens another gate of the same node.
func (f *fixture) beside(namespace string, change func(*Gate), rules ...string) *fixture {
	f.t.Helper()
	other := &fixture{t: f.t} // its names are those of f, who has the resolver
	other.serve(f.proxy, namespace, change, rules...)
	return other
}

func (f *fixture) serve(p *Proxy, namespace string, change func(*Gate), rules ...string) {
	t := f.t
	t.Helper()
	var err error
	if f.Gate, err = p.NewGate(namespace, rules, 0, f.say); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	change(f.Gate)
	var sockets []*os.File
	for range f.Listen() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		file, err := l.(*net.TCPListener).File()
		l.Close()
		if err != nil {
			t.Fatal(err)
		}
		f.at = append(f.at, l.Addr().String())
		sockets = append(sockets, file)
	}
	if err := f.Serve(sockets); err != nil {
		t.Fatal(err)
	}
}

// resolve gives one answer after the other, the last one again and again.
func (f *fixture) resolve(_ context.Context, name string) ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, name)
	answers := f.names[name]
	if len(answers) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: name, Server: "10.9.9.9:53", IsNotFound: true}
	}
	if len(answers) > 1 {
		f.names[name] = answers[1:]
	}
	var addrs []netip.Addr
	for _, text := range strings.Fields(answers[0]) {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs, nil
}

func (f *fixture) say(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, text)
}

func (f *fixture) log() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.said, "\n")
}

func (f *fixture) lookups() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// client goes through the proxy.
func (f *fixture) client() *http.Client {
	t := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: f.at[0]})}
	f.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: 20 * time.Second}
}

// raw sends bytes to the proxy and gives all that comes back until it closes.
func (f *fixture) raw(text string) string {
	f.t.Helper()
	c := f.dial(0)
	if _, err := io.WriteString(c, text); err != nil {
		f.t.Fatal(err)
	}
	got, _ := io.ReadAll(c)
	return string(got)
}

func (f *fixture) dial(i int) *net.TCPConn {
	f.t.Helper()
	c, err := net.DialTimeout("tcp", f.at[i], 10*time.Second)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// server is an HTTP server at the permitted address; it gives its port.
func server(t *testing.T, h http.HandlerFunc) (port string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	l, err := net.Listen("tcp", permitted+":0")
	if err != nil {
		t.Fatal(err)
	}
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func hello(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "hello %s %s", r.Host, r.URL)
}

var allowed = map[string][]string{"allowed.test": {permitted}}

func TestPlan(t *testing.T) {
	p := New(Options{})
	g, err := p.NewGate("default", []string{
		"db.test:5432", "*.test:443", "*:80", "any.test:*", "db.test:5433", "API.test.:443", "192.0.2.7:443", "localhost:6379",
		"[2001:db8::1]:80", "0.0.0.0:80", "127.66.0.2:5432", "127.0.0.1:6379", "db.test:5432", "taken.test:8080",
	}, 8080, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	want := []string{"127.66.0.1:3128", "127.66.0.2:5432", "127.66.0.2:5433", "127.66.0.3:443", "192.0.2.7:443", "127.0.0.1:6379"}
	var got []string
	for _, at := range g.Listen() {
		got = append(got, at.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("it listens on %v, want %v", got, want)
	}
	var to []string
	for _, target := range g.to {
		to = append(to, target.String())
	}
	if want := []string{"db.test:5432", "db.test:5433", "api.test:443", "192.0.2.7:443", "localhost:6379"}; !slices.Equal(to, want) {
		t.Errorf("they lead to %v, want %v", to, want)
	}
	if want := "127.66.0.2 db.test\n127.66.0.3 api.test\n"; g.Hosts() != want {
		t.Errorf("/etc/hosts has %q, want %q", g.Hosts(), want)
	}
	if env := g.Env(); env["HTTPS_PROXY"] != "http://127.66.0.1:3128" || env["https_proxy"] != env["HTTP_PROXY"] {
		t.Errorf("the environment is %v", env)
	}
	moved, err := p.NewGate("default", []string{"a.test:443"}, 3128, nil)
	if err != nil || moved.Env()["HTTP_PROXY"] != "http://127.66.0.1:3129" {
		t.Errorf("where its port is taken, the proxy is at %s, %v", moved.Env()["HTTP_PROXY"], err)
	}
	moved.Close()
	if _, err := p.NewGate("default", []string{"nonsense"}, 0, nil); !lambent.HasCode(err, lambent.CodeInvalidRequest) {
		t.Errorf("a rule that is none gives %v", err)
	}
}

func TestBothWays(t *testing.T) {
	port := server(t, hello)
	f := open(t, allowed, "allowed.test:"+port)
	for _, c := range []struct{ name, host string }{{"absolute", f.at[0]}, {"transparent", f.at[1]}} {
		t.Run(c.name, func(t *testing.T) {
			target := "http://allowed.test:" + port + "/a%2Fb?q=1;2"
			client := f.client()
			if c.name == "transparent" {
				client.Transport.(*http.Transport).Proxy = nil
				client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, c.host)
				}
			}
			for range 3 {
				resp, err := client.Get(target)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := "hello allowed.test:" + port + " /a%2Fb?q=1;2"; string(body) != want || resp.StatusCode != 200 {
					t.Errorf("got %d %q, want %q", resp.StatusCode, body, want)
				}
			}
		})
	}
	if f.log() != "" {
		t.Errorf("the function's log has %q", f.log())
	}
}

// The server may be the function's accomplice: its header is held in the node's memory.
func TestResponseHeaderLimit(t *testing.T) {
	port := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Large", strings.Repeat("a", int(r.ContentLength)<<10))
	})
	f := open(t, allowed, "allowed.test:"+port)
	for kilobytes, want := range map[int]int{60: 200, 70: 502, 1000: 502} {
		resp, err := f.client().Post("http://allowed.test:"+port, "", strings.NewReader(strings.Repeat("x", kilobytes)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%d KiB: status %d, want %d", kilobytes, resp.StatusCode, want)
		}
	}
}

// A tunnel passes bytes as they come, those that come early too, and each direction ends by itself.
func TestTunnels(t *testing.T) {
	l, err := net.Listen("tcp", permitted+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				heard, _ := io.ReadAll(c) // to the end of their half
				fmt.Fprintf(c, "heard %s", heard)
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	f := open(t, allowed, "allowed.test:"+port)
	c := f.dial(0)
	fmt.Fprintf(c, "CONNECT Allowed.test.:%s HTTP/1.1\r\nHost: evil.test\r\n\r\nearly", port)
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "HTTP/1.1 200 Connection established\r\n\r\nheard early" {
		t.Errorf("CONNECT gives %q, %v", got, err)
	}
	c = f.dial(1)
	for _, text := range []string{"one ", "two ", strings.Repeat("x", 1<<20)} {
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || len(got) != len("heard one two ")+1<<20 {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
}

func TestDenials(t *testing.T) {
	port := server(t, hello)
	names := map[string][]string{
		"allowed.test": {permitted}, "loop.test": {"127.0.0.1"}, "mapped.test": {"::ffff:127.0.0.1"}, "gone.test": nil,
		"closed.test": {permitted}, "evil.test": {permitted},
	}
	f := open(t, names, "allowed.test:"+port, "loop.test:*", "mapped.test:*", "gone.test:*", "closed.test:1", "*.wild.test:*", "127.0.0.1:*", "169.254.169.254:80")
	connect := func(authority string) string {
		return "CONNECT " + authority + " HTTP/1.1\r\nHost: allowed.test\r\n\r\n"
	}
	get := func(url, more string) string {
		return "GET " + url + " HTTP/1.1\r\nHost: allowed.test:" + port + "\r\n" + more + "\r\n"
	}
	for _, c := range []struct {
		name, send, status string
		code               lambent.Code
		part               string
	}{
		{"another name", connect("evil.test:" + port), "403", lambent.CodeEgressDenied, `add \"evil.test:` + port},
		{"another port", connect("allowed.test:22"), "403", lambent.CodeEgressDenied, "allowed.test:22"},
		{"a name with the allowed one in it", connect("xallowed.test:" + port), "403", lambent.CodeEgressDenied, ""},
		{"a name below", connect("x.allowed.test:" + port), "403", lambent.CodeEgressDenied, ""},
		{"a name that goes on", connect("allowed.test.evil.test:" + port), "403", lambent.CodeEgressDenied, ""},
		{"the name above a wildcard", connect("wild.test:" + port), "403", lambent.CodeEgressDenied, ""},
		{"a name that leads to loopback", connect("loop.test:" + port), "403", lambent.CodeEgressDenied, "127.0.0.1 is a loopback address"},
		{"a name that leads to mapped loopback", connect("mapped.test:" + port), "403", lambent.CodeEgressDenied, "loopback"},
		{"loopback", connect("127.0.0.1:" + port), "403", lambent.CodeEgressDenied, "--egress-permit"},
		{"metadata", get("http://169.254.169.254/latest/", ""), "403", lambent.CodeEgressDenied, "link-local"},
		{"an address of no rule", connect(permitted + ":" + port), "403", lambent.CodeEgressDenied, "no egress rule"},
		{"user and password", connect("allowed.test@evil.test:" + port), "400", lambent.CodeInvalidRequest, ""},
		{"user in a URL", get("http://allowed.test@evil.test:"+port+"/", ""), "400", lambent.CodeInvalidRequest, "without a user"},
		{"an encoded host", get("http://%65vil.test:"+port+"/", ""), "400", "", ""},
		{"a decimal address", connect("2130706433:" + port), "400", lambent.CodeInvalidRequest, ""},
		{"https without CONNECT", get("https://allowed.test:"+port+"/", ""), "400", lambent.CodeInvalidRequest, "CONNECT"},
		{"another scheme", get("ftp://allowed.test:"+port+"/", ""), "400", lambent.CodeInvalidRequest, ""},
		{"no URL", get("/", ""), "400", lambent.CodeInvalidRequest, "egress proxy"},
		{"an asterisk", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "400", lambent.CodeInvalidRequest, ""},
		{"two hosts", get("http://allowed.test:"+port+"/", "Host: evil.test\r\n"), "400", "", ""},
		{"a name that is not there", connect("gone.test:80"), "502", lambent.CodeEgressFailed, "no such host"},
		{"a port where nobody is", connect("closed.test:1"), "502", lambent.CodeEgressFailed, "connection refused"},
		{"nobody, without CONNECT", get("http://closed.test:1/", ""), "502", lambent.CodeEgressFailed, "connection refused"},
		{"CONNECT with a body", "CONNECT allowed.test:" + port + " HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "400", lambent.CodeInvalidRequest, "no body"},
		{"a header without end", get("http://allowed.test:"+port+"/", "X: "+strings.Repeat("x", 80<<10)+"\r\n"), "431", "", ""},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := f.raw(c.send)
			if !strings.HasPrefix(got, "HTTP/1.1 "+c.status+" ") {
				t.Errorf("got %q, want status %s", got, c.status)
			}
			if strings.Contains(got, "10.9.9.9") {
				t.Errorf("it tells of the resolver: %q", got)
			}
			if c.code == "" {
				return
			}
			var body struct{ Error lambent.Error }
			_, raw, _ := strings.Cut(got, "\r\n\r\n")
			if err := json.Unmarshal([]byte(raw), &body); err != nil || body.Error.Code != c.code || !strings.Contains(raw, c.part) {
				t.Errorf("got %q, want %s and %q, %v", raw, c.code, c.part, err)
			}
			if !strings.Contains(f.log(), body.Error.Message) {
				t.Errorf("the function's log does not say %q", body.Error.Message)
			}
		})
	}
	for _, name := range f.lookups() {
		if !slices.Contains([]string{"loop.test", "mapped.test", "gone.test", "closed.test"}, name) {
			t.Errorf("%s was looked up", name)
		}
	}
	// Where nobody can be answered, the connection is reset, maybe before the dial has returned.
	c, err := net.Dial("tcp", f.at[2])
	if err == nil {
		_, err = io.ReadAll(c)
		c.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("a tunnel to a port where nobody is ends with %v", err)
	}
}

// A name's answer counts when it is used, and only what was checked is dialled.
func TestRebinding(t *testing.T) {
	port := server(t, hello)
	f := open(t, map[string][]string{
		"rebind.test": {permitted, "127.0.0.1"},
		"mixed.test":  {"127.0.0.1 ::1 10.0.0.1 " + permitted + " 169.254.169.254"},
	}, "rebind.test:"+port, "mixed.test:"+port)
	get := func(name string) string {
		return f.raw("GET http://" + name + ":" + port + "/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	}
	connect := func() string {
		return f.raw("CONNECT rebind.test:" + port + " HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n")
	}
	if got := connect(); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("the first time: %q", got)
	}
	if got := connect(); !strings.Contains(got, "127.0.0.1 is a loopback address") {
		t.Errorf("the second time: %q", got)
	}
	if n := len(f.lookups()); n != 2 {
		t.Errorf("%d look-ups for two connections", n)
	}
	if got := get("mixed.test"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("one good address among many: %q", got)
	}
	if _, err := f.proxy.dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:"+port)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("the last check before the connection gives %v", err)
	}
}

// What goes on to the server is the function's request, and nothing of ours.
func TestForwardedRequest(t *testing.T) {
	requests := make(chan *http.Request, 2)
	port := server(t, func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("X-Far", "1")
	})
	f := open(t, allowed, "allowed.test:"+port)
	got := f.raw("GET http://ALLOWED.test.:" + port + "/?a=1;b=%zz HTTP/1.1\r\nHost: evil.test\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\n" +
		"Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\nX-Forwarded-For: 1.2.3.4\r\nX-Kept: 1\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(got, "X-Far") || strings.Contains(got, "X-Hop") || strings.Contains(got, "Via") {
		t.Errorf("the answer is %q", got)
	}
	seen := <-requests
	if seen.Host != "allowed.test:"+port || seen.URL.RawQuery != "a=1;b=%zz" {
		t.Fatalf("the server sees %+v", seen)
	}
	want := http.Header{"X-Forwarded-For": {"1.2.3.4"}, "X-Kept": {"1"}}
	if fmt.Sprint(seen.Header) != fmt.Sprint(want) {
		t.Errorf("the server sees the header %v, want %v", seen.Header, want)
	}
}

// What follows a request on its connection is a request to the proxy, and never one to the server.
func TestSmuggling(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	port := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Host+r.URL.Path+" "+string(body))
	})
	f := open(t, allowed, "allowed.test:"+port)
	inner := "GET http://evil.test/inner HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n"
	head := "POST http://allowed.test:" + port + "/outer HTTP/1.1\r\nHost: allowed.test:" + port + "\r\n"
	for name, text := range map[string]string{
		"length and chunks":   head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
		"chunks behind space": head + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + inner,
		"odd chunks":          head + "Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + inner,
		"two lengths":         head + "Content-Length: 0\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + inner,
		"a signed length":     head + "Content-Length: +5\r\n\r\n0\r\n\r\n" + inner,
		"folded":              head + "X: a\r\n Transfer-Encoding: chunked\r\n\r\n" + inner,
		"pipelined":           head + "Content-Length: 0\r\n\r\n" + inner,
	} {
		if got := f.raw(text); strings.Count(got, "HTTP/1.1 200") > 1 {
			t.Errorf("%s: %q", name, got)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, s := range seen {
		if !strings.HasPrefix(s, "allowed.test:"+port+"/outer ") || strings.Contains(s, "inner") {
			t.Errorf("the server sees %q", s)
		}
	}
}

// Bodies stream, both ways at once where both sides want, and a switched protocol is passed on.
func TestStreams(t *testing.T) {
	port := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, "first\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		w.Header().Set("Upgrade", "echo")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, rw)
	})
	f := open(t, allowed, "allowed.test:"+port)
	c := f.dial(0)
	fmt.Fprintf(c, "GET http://allowed.test:%s/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", port)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%+v, %v", resp, err)
	}
	fmt.Fprintf(c, "there and back\n")
	if line, err := r.ReadString('\n'); line != "there and back\n" {
		t.Errorf("%q, %v", line, err)
	}
	resp, err = f.client().Get("http://allowed.test:" + port)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); line != "first\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// silent is a server that accepts and says nothing.
func silent(t *testing.T) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", permitted+":0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				_, _ = io.Copy(io.Discard, c)
				c.Close()
			})
		}
	})
	t.Cleanup(func() { l.Close(); open.Wait() })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// A connection over the limit waits for another to end.
func TestConnectionLimit(t *testing.T) {
	port := server(t, hello)
	quiet := silent(t)
	f := open(t, allowed, "allowed.test:"+port, "allowed.test:"+quiet)
	var held []net.Conn
	for range maxConns {
		held = append(held, f.dial(2))
	}
	for range 500 { // until all are accepted
		if len(f.slots) == maxConns {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	answered := make(chan string)
	go func() {
		answered <- f.raw("GET http://allowed.test:" + port + "/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	}()
	select {
	case got := <-answered:
		t.Errorf("one too many was served: %q", got)
	case <-time.After(200 * time.Millisecond):
	}
	held[0].Close()
	if got := <-answered; !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("the one that waited: %q", got)
	}
}

// Who asks for connections that take long, and leaves, cannot make more and more of them.
func TestDialLimit(t *testing.T) {
	release := make(chan struct{})
	var waiting atomic.Int64
	f := openChanged(t, func(g *Gate) {
		g.proxy.resolve = func(context.Context, string) ([]netip.Addr, error) {
			waiting.Add(1)
			<-release
			return nil, nil
		}
	}, nil, "*:*")
	refused := 0
	for i := range 10_000 {
		c := f.dial(0)
		fmt.Fprintf(c, "GET http://host%d.test/ HTTP/1.1\r\nHost: x\r\n\r\n", i)
		if waiting.Load() == maxConns {
			if head, _ := bufio.NewReader(c).ReadString('\n'); strings.Contains(head, "502") {
				refused++
			}
		}
		c.Close()
		if refused == 10 {
			break
		}
	}
	if n := waiting.Load(); n != maxConns || refused != 10 {
		t.Errorf("%d connections are being made, %d were refused", n, refused)
	}
	close(release)
}

func TestNodeLimit(t *testing.T) {
	port := server(t, hello)
	f := openChanged(t, func(g *Gate) { g.proxy.slots, g.patience = make(chan struct{}, 1), 2*time.Second }, allowed, "allowed.test:"+port)
	held := f.dial(0)
	if _, err := io.WriteString(held, "GET http://allowed.test:"+port+"/ HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(held).ReadString('\n'); !strings.Contains(line, "200") {
		t.Fatalf("%q, %v", line, err)
	}
	answered := make(chan string)
	go func() {
		answered <- f.raw("GET http://allowed.test:" + port + "/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	}()
	select {
	case got := <-answered:
		t.Errorf("one too many was served: %q", got)
	case <-time.After(200 * time.Millisecond):
	}
	held.Close()
	if got := <-answered; !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("the one that waited: %q", got)
	}
	f.proxy.slots <- struct{}{}
	if got := f.raw("GET"); got != "" || !strings.Contains(f.log(), "all of this node's connections") {
		t.Errorf("the one that waited for nothing: %q, and the log has %q", got, f.log())
	}
}

// A namespace that takes all it can get is told so, and the others have room.
func TestNamespaceLimit(t *testing.T) {
	port := server(t, hello)
	soon := func(g *Gate) { g.patience = 100 * time.Millisecond }
	request := "GET http://allowed.test:" + port + "/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	first := openChanged(t, func(g *Gate) { soon(g); g.share = make(chan struct{}, 2) }, allowed, "allowed.test:"+port)
	second := first.beside("default", func(g *Gate) { soon(g); g.share = first.share }, "allowed.test:"+port)
	var held []*net.TCPConn
	for range cap(first.share) {
		c := first.dial(0)
		fmt.Fprintf(c, "CONNECT allowed.test:%s HTTP/1.1\r\n\r\n", port)
		if line, err := bufio.NewReader(c).ReadString('\n'); !strings.Contains(line, "200") {
			t.Fatalf("%q, %v", line, err)
		}
		held = append(held, c)
	}
	for range 2 {
		if got := second.raw(request); got != "" {
			t.Errorf("one too many is answered: %q", got)
		}
	}
	if log := second.log(); strings.Count(log, "all the 2 connections") != 1 || first.log() != "" {
		t.Errorf("the functions' logs have %q and %q", first.log(), log)
	}
	other := first.beside("other", soon, "allowed.test:"+port)
	if n := cap(other.share); n != cap(first.proxy.slots)/4 || n == 0 || other.share == first.proxy.share("default") {
		t.Errorf("the other namespace has %d connections of %d", n, cap(first.proxy.slots))
	}
	if got := other.raw(request); !strings.HasPrefix(got, "HTTP/1.1 ") {
		t.Errorf("the other namespace gets %q", got)
	}
	patient := first.beside("default", func(g *Gate) { g.share = first.share }, "allowed.test:"+port)
	held[0].Close()
	if got := patient.raw(request); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("when one was closed: %q", got)
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	const idle = time.Second
	quiet := silent(t)
	f := openChanged(t, func(g *Gate) { g.idle = idle }, allowed, "allowed.test:"+quiet)
	opened := time.Now()
	c := f.dial(1)
	var last time.Time
	for time.Since(opened) < idle+idle/4 { // not idle
		time.Sleep(10 * time.Millisecond)
		last = time.Now()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	_, err := io.ReadAll(c)
	if took := time.Since(last); err == nil || took < idle-10*time.Millisecond { // the kernel counts in ticks
		t.Errorf("it ended after %v with %v", took, err)
	}
}

// Close ends all that is open, and leaves no descriptor.
func TestClose(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	quiet := silent(t)
	before := count()
	for range 10 {
		f := open(t, allowed, "allowed.test:"+quiet)
		tunnel, proxied, waiting := f.dial(1), f.dial(0), f.dial(0)
		fmt.Fprintf(proxied, "CONNECT allowed.test:%s HTTP/1.1\r\n\r\n", quiet)
		fmt.Fprintf(waiting, "GET http://allowed.test:%s/ HTTP/1.1\r\nHost: x\r\n\r\n", quiet)
		if line, err := bufio.NewReader(proxied).ReadString('\n'); !strings.Contains(line, "200") {
			t.Fatalf("%q, %v", line, err)
		}
		f.Close()
		f.Close()
		for _, c := range []net.Conn{tunnel, proxied, waiting} {
			_, _ = io.ReadAll(c)
			c.Close()
		}
		if _, err := net.Dial("tcp", f.at[1]); err == nil {
			t.Error("it still accepts")
		}
		if err := f.Serve(nil); err != nil {
			t.Errorf("a gate that is closed gives %v", err)
		}
	}
	for range 500 { // the server's ends close when they notice
		runtime.GC() // lets go of the pipes that the runtime keeps for the next splice
		if count() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d descriptors, %d before", count(), before)
}

func TestServeTakesWhatItNeeds(t *testing.T) {
	g, err := New(Options{}).NewGate("default", []string{"a.test:1"}, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := g.Serve(nil); err == nil {
		t.Error("too few sockets will do")
	}
	var files []*os.File
	for range 2 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if err := g.Serve(files); err == nil {
		t.Error("files that are no sockets will do")
	}
	if err := files[0].Close(); !errors.Is(err, os.ErrClosed) {
		t.Error("it left a file open")
	}
}

func TestTimeLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Resolve: func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		began := time.Now()
		_, err := p.connect(t.Context(), []lambent.EgressRule{{Host: "*"}}, target{"slow.test", 443})
		if !lambent.HasCode(err, lambent.CodeEgressFailed) || time.Since(began) != resolveTime {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []string
		g := &Gate{say: func(text string) { said = append(said, text) }}
		time.Sleep(time.Hour)
		for i := range 100 {
			for range 3 {
				g.note(denied(target{fmt.Sprintf("%d.test", i), 1}, "no"))
			}
		}
		if len(said) != maxNotes {
			t.Errorf("it said %d lines", len(said))
		}
		time.Sleep(time.Minute)
		g.note(denied(target{"0.test", 1}, "no"))
		if last := said[len(said)-1]; len(said) != maxNotes+1 || !strings.Contains(last, "0.test:1: no; 240 more") {
			t.Errorf("after a minute it said %q", last)
		}
	})
}
