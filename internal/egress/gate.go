package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
)

const (
	maxConns = 100              // connections of a sandbox at a time; more wait
	idleTime = 10 * time.Minute // how long a connection may stand still
	waitTime = 5 * time.Second  // for the namespace's share and the node to have room
	maxNotes = 20               // lines a minute in the function's log
)

// inside is the part of a sandbox's loopback network that belongs to us: all ports of 127.0.0.1 are the function's.
// Its first address has the HTTP proxy.
var inside = netip.MustParsePrefix("127.66.0.0/16")

const proxyPort = 3128

// Gate lets one sandbox out, by its rules.
type Gate struct {
	proxy  *Proxy
	rules  []lambent.EgressRule
	listen []netip.AddrPort
	to     []target // where what connects to listen[i+1] goes
	hosts  strings.Builder
	say    func(text string)

	ctx      context.Context
	stop     context.CancelFunc
	server   *http.Server
	forward  *httputil.ReverseProxy
	slots    chan struct{} // one for each accepted connection
	share    chan struct{} // and one of those of its namespace
	dials    chan struct{} // one for each connection that is being made
	idle     time.Duration
	patience time.Duration
	serving  sync.WaitGroup

	mu     sync.Mutex // guards what is below
	closed bool
	accept []*listener // nil before Serve
	open   map[*conn]struct{}
	notes  map[string]bool // what was said since minute
	minute time.Time
	unsaid int
}

// NewGate makes the gate of a sandbox of a namespace; Close ends it. The port taken, if not 0, is one that the function
// listens on at all addresses: a socket of ours there would be in its way, so the HTTP proxy alone serves the rules with
// that port. What fails is told to say, with its reason; it is called from many goroutines and must not block.
func (p *Proxy) NewGate(namespace string, rules []string, taken uint16, say func(text string)) (*Gate, error) {
	g := &Gate{
		proxy: p, say: say, idle: idleTime, patience: waitTime, open: map[*conn]struct{}{},
		slots: make(chan struct{}, maxConns), share: p.share(namespace), dials: make(chan struct{}, maxConns),
	}
	for _, text := range rules {
		rule, err := lambent.ParseEgress(text)
		if err != nil {
			return nil, lambent.Errorf(lambent.CodeInvalidRequest, "egress: %w", err)
		}
		g.rules = append(g.rules, rule)
	}
	g.plan(taken)
	g.ctx, g.stop = context.WithCancel(context.Background())
	g.serveHTTP()
	return g, nil
}

// plan finds a place inside for each rule with an exact host and port.
func (g *Gate) plan(taken uint16) {
	at := netip.AddrPortFrom(inside.Addr().Next(), proxyPort)
	if taken == proxyPort {
		at = netip.AddrPortFrom(at.Addr(), proxyPort+1)
	}
	g.listen = []netip.AddrPort{at}
	names := map[string]netip.Addr{}
	for _, r := range g.rules {
		if r.Port == 0 || uint16(r.Port) == taken || strings.HasPrefix(r.Host, "*") {
			continue
		}
		addr, err := netip.ParseAddr(r.Host)
		switch {
		case err == nil: // an address means itself
			if !addr.Is4() || inside.Contains(addr) || slices.ContainsFunc(unusable, func(p netip.Prefix) bool { return p.Contains(addr) }) {
				continue
			}
		case r.Host == "localhost":
			addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		case names[r.Host].IsValid():
			addr = names[r.Host]
		default:
			n := len(names) + 2
			addr = netip.AddrFrom4([4]byte{127, 66, byte(n >> 8), byte(n)})
			names[r.Host] = addr
			fmt.Fprintf(&g.hosts, "%s %s\n", addr, r.Host)
		}
		if at := netip.AddrPortFrom(addr, uint16(r.Port)); !slices.Contains(g.listen, at) {
			g.listen = append(g.listen, at)
			g.to = append(g.to, target{r.Host, r.Port})
		}
	}
}

// Listen gives the addresses inside the sandbox where listening sockets must be made for Serve. Those that are not
// of 127.0.0.0/8 must be given to its loopback interface first.
func (g *Gate) Listen() []netip.AddrPort { return g.listen }

// Hosts gives lines for the sandbox's /etc/hosts, to come before all others.
func (g *Gate) Hosts() string { return g.hosts.String() }

// Env gives the environment variables that tell programs of the HTTP proxy.
func (g *Gate) Env() map[string]string {
	url := "http://" + g.listen[0].String()
	const no = "localhost,127.0.0.1,::1"
	return map[string]string{
		"HTTP_PROXY": url, "http_proxy": url, "HTTPS_PROXY": url, "https_proxy": url, "NO_PROXY": no, "no_proxy": no,
		"NODE_USE_ENV_PROXY": "1", // Node.js looks at the others then, from 22.21 and 24.5 on
	}
}

// Serve accepts on the listening sockets that were made by Listen, in its order, and returns at once. It takes them
// over, also when it fails.
func (g *Gate) Serve(sockets []*os.File) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || len(sockets) != len(g.listen) {
		for _, f := range sockets {
			f.Close()
		}
		if g.closed {
			return nil
		}
		return fmt.Errorf("egress: got %d sockets for %d addresses", len(sockets), len(g.listen))
	}
	var listeners []*listener
	var failed error
	for _, f := range sockets {
		l, err := net.FileListener(f) // a copy
		f.Close()
		if tcp, ok := l.(*net.TCPListener); ok {
			listeners = append(listeners, &listener{tcp, g})
		}
		failed = errors.Join(failed, err)
	}
	if failed != nil || len(listeners) != len(sockets) {
		for _, l := range listeners {
			l.Close()
		}
		return errors.Join(errors.New("egress: not all are listening TCP sockets"), failed)
	}
	g.accept = listeners
	g.serving.Go(func() { _ = g.server.Serve(listeners[0]) }) // it ends when the listener is closed
	for i, l := range listeners[1:] {
		g.serving.Go(func() { g.serveTunnel(l, g.to[i]) })
	}
	return nil
}

// Leave ends accepting, for another gate of the same sandbox. The connections that there are stay until Close.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.accept {
		l.Close()
	}
}

// Close ends all connections and returns when nothing is accepted any more. It may be called more than once.
func (g *Gate) Close() {
	g.mu.Lock()
	g.closed = true
	open := g.open
	g.open = nil
	g.mu.Unlock()
	g.Leave()
	g.stop()
	for c := range open {
		c.Close()
	}
	g.server.Close() // its listener and connections are ours
	g.serving.Wait()
}

// listener accepts no more connections than its sandbox may have: further ones wait, unread. For those that its
// namespace or all of the node may have, it waits a while only, because what has to end first is not the sandbox's own.
type listener struct {
	*net.TCPListener
	gate *Gate
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		tcp, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		release, err := l.gate.admit()
		if err == nil {
			return l.gate.keep(tcp, release)
		}
		l.gate.note(lambent.ErrorOf(err)) // when the gate is closed, this says nothing, and the next accept fails
		_ = tcp.SetLinger(0)              // a reset
		tcp.Close()
	}
}

// admit takes the slots of a connection.
func (g *Gate) admit() (release func(), err error) {
	if !wait(g.ctx, g.slots) {
		return nil, net.ErrClosed
	}
	ctx, cancel := context.WithTimeout(g.ctx, g.patience)
	defer cancel()
	if !wait(ctx, g.share) {
		<-g.slots
		return nil, lambent.Errorf(lambent.CodeEgressFailed, "the namespace's functions have all the %d connections that it may have on this node", cap(g.share)).
			WithHint("close those that are not needed")
	}
	if !wait(ctx, g.proxy.slots) {
		<-g.share
		<-g.slots
		return nil, lambent.Errorf(lambent.CodeEgressFailed, "all of this node's connections are taken").
			WithHint("the node's operator can raise its limit of open files")
	}
	return func() {
		<-g.slots
		<-g.share
		<-g.proxy.slots
	}, nil
}

// wait takes one of the slots, unless ctx ends before one is free.
func wait(ctx context.Context, slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// conn is a connection that its gate knows and closes.
type conn struct {
	*net.TCPConn
	gate    *Gate
	release func()
	once    sync.Once
	timer   *time.Timer
}

// keep makes the gate close c in the end. It calls release once when c is closed, at once if the gate is.
func (g *Gate) keep(tcp *net.TCPConn, release func()) (*conn, error) {
	c := &conn{TCPConn: tcp, gate: g, release: release}
	g.mu.Lock()
	closed := g.closed
	if !closed {
		g.open[c] = struct{}{}
		c.timer = time.AfterFunc(g.idle, c.checkIdle)
	}
	g.mu.Unlock()
	if closed {
		c.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.gate.mu.Lock()
		if c.timer != nil {
			c.timer.Stop()
		}
		delete(c.gate.open, c)
		c.gate.mu.Unlock()
		c.release()
	})
	return c.TCPConn.Close()
}

// abort closes with a reset, which tells the other side that something is missing.
func (c *conn) abort() {
	_ = c.SetLinger(0) // fails only when it is closed
	c.Close()
}

// checkIdle ends a connection that stands still. The kernel knows: what is spliced is not seen here.
func (c *conn) checkIdle() {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	var info *unix.TCPInfo
	var infoErr error
	if err := raw.Control(func(fd uintptr) { info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil || infoErr != nil {
		return // it is closed
	}
	quiet := time.Duration(min(info.Last_data_recv, info.Last_data_sent)) * time.Millisecond
	if quiet >= c.gate.idle {
		c.abort()
		return
	}
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	if _, ok := c.gate.open[c]; ok {
		c.timer.Reset(c.gate.idle - quiet)
	}
}

// note tells the function's log why something failed: each reason once a minute, and not too many.
func (g *Gate) note(e *lambent.Error) {
	text := e.Message
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	g.mu.Lock()
	if time.Since(g.minute) >= time.Minute {
		if g.unsaid > 0 {
			text += fmt.Sprintf("; %d more that failed in the minute before were left out", g.unsaid)
		}
		g.notes, g.minute, g.unsaid = map[string]bool{}, time.Now(), 0
	}
	known := g.notes[text]
	say := !known && len(g.notes) < maxNotes && !g.closed
	if say {
		g.notes[text] = true
	} else if !known {
		g.unsaid++
	}
	g.mu.Unlock()
	if say {
		g.say(text)
	}
}
