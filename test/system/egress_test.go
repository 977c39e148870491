package system

import (
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

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
