package system

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"lambent"
	"lambent/daemon"
)

// names is a DNS server that this process asks instead of the machine's. Of several answers each is given once, the last
// again and again.
type names struct {
	mu      sync.Mutex
	answers map[string][]string
	asked   []string
}

func serveNames(t *testing.T, answers map[string][]string) *names {
	t.Helper()
	d := &names{answers: answers}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	var serving sync.WaitGroup
	serving.Go(func() {
		query := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(query)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(query[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			d.answer(&m)
			if raw, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(raw, from)
			}
		}
	})
	t.Cleanup(func() {
		net.DefaultResolver = before
		conn.Close()
		serving.Wait()
	})
	return d
}

func (d *names) answer(m *dnsmessage.Message) {
	q := m.Questions[0]
	name := strings.TrimSuffix(q.Name.String(), ".")
	m.Response, m.RecursionAvailable = true, true
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, name)
	answers, ok := d.answers[name]
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
		return
	}
	if q.Type != dnsmessage.TypeA {
		return
	}
	if len(answers) > 1 {
		d.answers[name] = answers[1:]
	}
	m.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
		Body:   &dnsmessage.AResource{A: netip.MustParseAddr(answers[0]).As4()},
	}}
}

// permitted is where what functions may reach is; nothing else of the loopback network is permitted.
const permitted = "127.0.0.2"

func listenAt(t *testing.T, address string) (l net.Listener, port string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return l, port
}

// serverAt is an HTTP server on an address.
func serverAt(t *testing.T, address string, secure bool, h http.HandlerFunc) (s *httptest.Server, port string) {
	t.Helper()
	l, port := listenAt(t, address)
	s = httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s, port
}

func python(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("testdata/egress/main.py")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Functions of each language reach what they are allowed, with and without knowing of a proxy.
func TestEgress(t *testing.T) {
	serveNames(t, map[string][]string{"example.com": {permitted}})
	hello := func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s", r.Host) }
	_, plain := serverAt(t, permitted+":0", false, hello)
	tls, secure := serverAt(t, permitted+":0", true, hello)
	n, err := tryStart(t, daemon.Config{Data: t.TempDir(), EgressPermit: []netip.Prefix{netip.MustParsePrefix(permitted + "/32")}})
	if err != nil {
		t.Fatal(err)
	}
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}))
	settings := func(runtime string) lambent.Settings {
		return lambent.Settings{Runtime: runtime, Egress: []string{"example.com:" + plain, "example.com:" + secure},
			Env: map[string]string{"SSL_CERT_FILE": "/var/task/ca.pem", "NODE_EXTRA_CA_CERTS": "/var/task/ca.pem"}}
	}
	n.deploy("python", files{"main.py": python(t), "ca.pem": ca}, settings("python"))
	n.deploy("go", files{"main": build(t, "testdata/reach"), "ca.pem": ca}, settings("go"))
	n.deploy("nodejs", files{"ca.pem": ca, "index.mjs": `
import http from 'node:http';
import https from 'node:https';
import { text } from 'node:stream/consumers';
import { once } from 'node:events';

// Node.js has proxies built in from version 22 on; before, this is what packages do.
async function proxied(target) {
  const proxy = new URL(process.env.HTTPS_PROXY), { host, protocol } = new URL(target);
  const at = { host: proxy.hostname, port: proxy.port };
  if (protocol === 'http:') return text((await once(http.get({ ...at, path: target, headers: { host } }), 'response'))[0]);
  const [, socket] = await once(http.request({ ...at, method: 'CONNECT', path: host }).end(), 'connect');
  return text((await once(https.get(target, { socket, agent: false }), 'response'))[0]);
}

export async function handler({ queryStringParameters: { url, how } }) {
  return { statusCode: 200, body: how === 'proxy' ? await proxied(url) : await (await fetch(url)).text() };
}`}, settings("nodejs"))
	for _, name := range []string{"python", "go", "nodejs"} {
		for _, how := range []string{"proxy", "direct"} {
			for scheme, port := range map[string]string{"http": plain, "https": secure} {
				t.Run(name+" "+how+" "+scheme, func(t *testing.T) {
					q := url.Values{"url": {scheme + "://example.com:" + port + "/"}, "how": {how}}
					n.call("GET", "/fn/"+name+"?"+q.Encode(), nil).want(t, 200, "hello example.com:"+port)
				})
			}
		}
	}
}

// attempt is something that a function without scruples does. It succeeds when it hears the canary.
type attempt struct {
	name     string
	function string
	event    map[string]any
	part     string // of what the function hears instead
}

const canary = "the canary sings"

// What is denied cannot be reached, from inside real sandboxes: by a function without rules ("none"), one that may reach
// one port of one name ("some"), one that may reach any name ("all"), and on a node that permits all of loopback.
func TestEgressAttempts(t *testing.T) {
	dns := serveNames(t, map[string][]string{
		"allowed.test": {permitted}, "other.test": {permitted}, "loop.test": {"127.0.0.1"}, "private.test": {"10.0.0.1"},
		"meta.test": {"169.254.169.254"}, "rebind.test": {permitted, "127.0.0.1"},
	})
	sing := func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, canary) }
	_, secret := serverAt(t, "127.0.0.1:0", false, sing)
	_, secret6 := serverAt(t, "[::1]:0", false, sing)
	_, other := serverAt(t, permitted+":0", false, sing) // a port of the permitted address that "some" may not reach
	_, allowed := serverAt(t, permitted+":0", false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/redirect" {
			http.Redirect(w, r, "http://loop.test:"+secret+"/", http.StatusFound)
			return
		}
		fmt.Fprintf(w, "allowed, as %s", r.Host)
	})
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	abstract := fmt.Sprintf("lambent-egress-%d", os.Getpid())
	unix, err := net.Listen("unix", "@"+abstract)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	go func() {
		for {
			c, err := unix.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, canary)
			c.Close()
		}
	}()

	up := func(permit ...string) *node {
		cfg := daemon.Config{Data: t.TempDir()}
		for _, text := range permit {
			cfg.EgressPermit = append(cfg.EgressPermit, netip.MustParsePrefix(text))
		}
		n, err := tryStart(t, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n, lax := up(permitted+"/32"), up("0.0.0.0/0", "::/0")
	deploy := func(n *node, name string, egress ...string) {
		n.deploy(name, files{"main.py": python(t)}, lambent.Settings{Runtime: "python", Egress: egress,
			Timeouts: lambent.Timeouts{Total: lambent.Duration(time.Minute)}})
	}
	deploy(n, "none")
	deploy(n, "some", "allowed.test:"+allowed, "192.0.2.77:443")
	deploy(n, "all", "*:*")
	deploy(lax, "lax", "*:*")

	port := func(text string) int {
		p, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	portOf := func(endpoint string) string {
		u, err := url.Parse(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		return u.Port()
	}
	control, functions := portOf(n.at.Control), portOf(n.at.Functions)
	tcp := func(host string, port int) map[string]any {
		return map[string]any{"do": "tcp", "host": host, "port": port}
	}
	connect := func(to string) map[string]any { return map[string]any{"do": "connect", "to": to} }
	get := func(url, more string) map[string]any { return map[string]any{"do": "get", "url": url, "more": more} }
	proxy := func(send string) map[string]any { return map[string]any{"do": "proxy", "send": send} }
	do := func(what string, args ...any) map[string]any {
		event := map[string]any{"do": what}
		for i := 0; i < len(args); i += 2 {
			event[args[i].(string)] = args[i+1]
		}
		return event
	}
	const refusedByKernel, noRoute = "refused", "unreachable"
	attempts := []attempt{
		// Without a way out there is no network at all.
		{"the host's loopback", "none", tcp("127.0.0.1", port(secret)), refusedByKernel},
		{"the host's loopback over IPv6", "none", do("tcp", "host", "::1", "port", port(secret6), "family", "AF_INET6"), "Error"},
		{"the control API", "none", tcp("127.0.0.1", port(control)), refusedByKernel},
		{"the functions listener", "none", tcp("127.0.0.1", port(functions)), refusedByKernel},
		{"any address of the host", "none", tcp("0.0.0.0", port(secret)), refusedByKernel},
		{"the metadata service", "none", tcp("169.254.169.254", 80), noRoute},
		{"a private network", "none", tcp("10.0.0.1", 80), noRoute},
		{"another private network", "none", tcp("192.168.1.1", 80), noRoute},
		{"the internet", "none", tcp("192.0.2.1", 443), noRoute},
		{"the proxy, without rules", "none", tcp("127.66.0.1", 3128), refusedByKernel},
		{"another function's listener", "none", tcp("127.66.0.2", port(allowed)), refusedByKernel},
		{"UDP to the host", "none", do("udp", "host", "127.0.0.1", "port", port(portOf("udp://"+udp.LocalAddr().String()))), refusedByKernel},
		{"UDP to the internet", "none", do("udp", "host", "192.0.2.1", "port", 53), noRoute},
		{"a name", "none", do("resolve", "name", "allowed.test"), "gaierror"},
		{"ping", "none", do("ping", "host", "127.0.0.1"), "Permission"},
		{"a raw socket", "none", do("socket", "family", 2, "kind", 3, "protocol", 1), "PermissionError"},
		{"a raw IPv6 socket", "none", do("socket", "family", 10, "kind", 3, "protocol", 58), "PermissionError"},
		{"a packet socket", "none", do("socket", "family", 17, "kind", 3), "PermissionError"},
		{"a vsock", "none", do("socket", "family", 40, "kind", 1), "PermissionError"},
		{"a Bluetooth socket", "none", do("socket", "family", 31, "kind", 3), "PermissionError"},
		{"an abstract socket of the host", "none", do("abstract", "name", abstract), refusedByKernel},
		{"the host's interface", "none", do("device", "name", "eth0"), "Error"},
		{"a new address", "none", do("netlink", "what", "address"), "not permitted"},
		{"a new route", "none", do("netlink", "what", "route"), "not permitted"},
		{"a new interface", "none", do("netlink", "what", "veth"), "not permitted"},
		{"the supervisor's network namespace", "none", do("setns", "path", "/proc/1/ns/net"), "Error"},
		{"a line in /etc/hosts", "some", do("hosts"), "Permission"},
		{"the proxy's own socket", "some", do("steal", "host", "127.66.0.1", "port", 3128), "in use"},

		// With any name allowed, the address decides.
		{"loopback by address", "all", connect("127.0.0.1:" + secret), "403"},
		{"loopback by another address", "all", connect("127.9.9.9:" + secret), "403"},
		{"the control API through the proxy", "all", connect("127.0.0.1:" + control), "403"},
		{"the functions listener through the proxy", "all", connect("127.0.0.1:" + functions), "403"},
		{"localhost", "all", connect("localhost:" + secret), "403"},
		{"a decimal address", "all", connect("2130706433:" + secret), "400"},
		{"an octal address", "all", connect("0177.0.0.1:" + secret), "400"},
		{"a hexadecimal address", "all", connect("0x7f.0.0.1:" + secret), "400"},
		{"a hexadecimal number", "all", connect("0x7f000001:" + secret), "400"},
		{"a short address", "all", connect("127.1:" + secret), "400"},
		{"IPv6 loopback", "all", connect("[::1]:" + secret6), "403"},
		{"IPv6 loopback with a zone", "all", connect("[::1%25lo]:" + secret6), "400"},
		{"mapped IPv4", "all", connect("[::ffff:127.0.0.1]:" + secret), "403"},
		{"mapped IPv4 in hexadecimal", "all", connect("[::ffff:7f00:1]:" + secret), "403"},
		{"compatible IPv4", "all", connect("[::127.0.0.1]:" + secret), "403"},
		{"6to4 of loopback", "all", connect("[2002:7f00:1::]:" + secret), "403"},
		{"NAT64 of loopback", "all", connect("[64:ff9b::127.0.0.1]:" + secret), "403"},
		{"the unspecified address", "all", connect("0.0.0.0:" + secret), "403"},
		{"the unspecified IPv6 address", "all", connect("[::]:" + secret6), "403"},
		{"the metadata service through the proxy", "all", get("http://169.254.169.254/latest/meta-data/", "Metadata-Flavor: Google\r\n"), "403"},
		{"a private network through the proxy", "all", connect("10.0.0.1:80"), "403"},
		{"a name that leads to loopback", "all", connect("loop.test:" + secret), "403"},
		{"a name that leads to a private network", "all", get("http://private.test/", ""), "403"},
		{"a name that leads to metadata", "all", get("http://meta.test/", ""), "403"},
		{"a redirect to loopback", "all", do("fetch", "url", "http://allowed.test:"+allowed+"/redirect"), "403"},
		{"a URL of another scheme", "all", get("file:///etc/passwd", ""), "400"},
		{"the broadcast address", "all", connect("255.255.255.255:" + secret), "403"},

		// With one name and port allowed, everything else is not.
		{"another port", "some", connect("allowed.test:" + other), "403"},
		{"another port without the proxy", "some", tcp("allowed.test", port(other)), refusedByKernel},
		{"another name", "some", connect("other.test:" + allowed), "403"},
		{"a name that begins with the allowed one", "some", connect("allowed.test.other.test:" + allowed), "403"},
		{"a name that ends with the allowed one", "some", connect("notallowed.test:" + allowed), "403"},
		{"the allowed name's address", "some", connect(permitted + ":" + allowed), "403"},
		{"the allowed name as a user", "some", get("http://allowed.test:"+allowed+"@127.0.0.1:"+secret+"/", ""), "400"},
		{"the allowed name as a user of CONNECT", "some", connect("allowed.test@127.0.0.1:" + secret), "400"},
		{"a fragment", "some", get("http://127.0.0.1:"+secret+"#@allowed.test:"+allowed+"/", ""), "40"},
		{"a backslash", "some", get("http://127.0.0.1:"+secret+"\\@allowed.test:"+allowed+"/", ""), "400"},
		{"the allowed name in Host only", "some", get("http://127.0.0.1:"+secret+"/", "Host: allowed.test\r\n"), "40"},
		{"another Host", "some", proxy("GET http://allowed.test:" + allowed + "/ HTTP/1.1\r\nHost: loop.test:" + secret + "\r\nConnection: close\r\n\r\n"), "allowed, as allowed.test:" + allowed},
		{"two Hosts", "some", proxy("GET http://allowed.test:" + allowed + "/ HTTP/1.1\r\nHost: allowed.test\r\nHost: loop.test\r\nConnection: close\r\n\r\n"), "400"},
		{"a pipelined second request", "some", proxy("GET http://allowed.test:" + allowed + "/ HTTP/1.1\r\nHost: x\r\n\r\nGET http://127.0.0.1:" + secret + "/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "403"},
		{"a smuggled request", "some", proxy("POST http://allowed.test:" + allowed + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET http://127.0.0.1:" + secret + "/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "40"},
		{"the allowed name in Host of CONNECT", "some", proxy("CONNECT 127.0.0.1:" + secret + " HTTP/1.1\r\nHost: allowed.test:" + allowed + "\r\n\r\n"), "403"},
		{"a NUL in the name", "some", connect("127.0.0.1\x00.allowed.test:" + secret), "400"},
		{"an encoded name", "some", get("http://%6coop.test:"+secret+"/", ""), "400"},
		{"upper case and a dot at the end", "some", connect("LOOP.TEST.:" + secret), "403"},
		{"a redirect to what is not allowed", "some", do("fetch", "url", "http://allowed.test:"+allowed+"/redirect"), "403"},
		{"an allowed address that is not there, on its other port", "some", tcp("192.0.2.77", 80), refusedByKernel},

		// Even where the operator permits everything.
		{"the control API, all permitted", "lax", connect("127.0.0.1:" + portOf(lax.at.Control)), "listener of the node itself"},
		{"the functions listener, all permitted", "lax", connect("localhost:" + portOf(lax.at.Functions)), "listener of the node itself"},
		{"the control API by the unspecified address", "lax", connect("0.0.0.0:" + portOf(lax.at.Control)), "no address of a machine"},
		{"the control API by mapped IPv4", "lax", connect("[::ffff:127.0.0.1]:" + portOf(lax.at.Control)), "listener of the node itself"},
	}
	run := func(n *node, function string, event map[string]any) string {
		payload, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := n.client.Invoke(t.Context(), "default", function, "application/json", bytes.NewReader(payload))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for _, a := range attempts {
		t.Run(a.function+" "+a.name, func(t *testing.T) {
			at := n
			if a.function == "lax" {
				at = lax
			}
			got := run(at, a.function, a.event)
			if strings.Contains(got, canary) || strings.Contains(got, "HTTP/1.1 200 Connection") {
				t.Fatalf("it got there: %s", got)
			}
			if !strings.Contains(got, a.part) {
				t.Errorf("it failed with %s, want %q", got, a.part)
			}
		})
	}

	t.Run("all a name that changes", func(t *testing.T) {
		if got := run(n, "all", connect("rebind.test:"+allowed)); !strings.Contains(got, "allowed, as") {
			t.Errorf("at first: %s", got)
		}
		if got := run(n, "all", connect("rebind.test:"+secret)); !strings.Contains(got, "403") {
			t.Errorf("then: %s", got)
		}
	})
	t.Run("some looks up nothing else", func(t *testing.T) {
		dns.mu.Lock()
		defer dns.mu.Unlock()
		for _, name := range dns.asked {
			if strings.HasSuffix(name, "other.test") || strings.Contains(name, "notallowed") {
				t.Errorf("%s was looked up", name)
			}
		}
	})
	t.Run("the log says why", func(t *testing.T) {
		lines := n.lines("some", "may not connect to other.test:"+allowed)
		if len(lines) != 1 || lines[0].Stream != "lambent" || !strings.Contains(lines[0].Text, `add "other.test:`+allowed+`" to egress`) {
			t.Errorf("the log has %+v", lines)
		}
	})
	t.Logf("%d attempts", len(attempts)+1)
}
