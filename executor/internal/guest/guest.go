// Package guest is one instance as its host sees it: an HTTP/1.1 or HTTP/2 server behind a socket, which is not
// trusted. It is what all tiers that run native code have in common.
//
// The host adds the fields Lambent-Invocation, Lambent-Trigger and Lambent-Deadline (Unix milliseconds)
// to a request, to one that came by a custom route Lambent-Route (its method and path, percent-encoded) and
// Lambent-Path-Parameters (as a query string), and to one that an instance has died with before Lambent-Attempt (2, or
// more). Fields whose names begin with Lambent belong to the host and the function's shim alone:
// those that a client sends do not reach the function, those that a function sends do not reach a client.
//
// When a caller gives a request up, the host half-closes the connection, which servers take for the
// client's leaving, and waits a moment for the function to hang up too. Whoever is not done by then may
// still be working, and the caller of this package learns that as executor.ErrBusy. In HTTP/2 the host resets
// the stream, to which there is no answer: whoever had not finished may always be working.
package guest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"lambent"
	"lambent/internal/h1"
)

const (
	// settle is how long a function may take to notice that its caller has left.
	settle = 500 * time.Millisecond
	// maxReport is the size of the error reports that a shim may send.
	maxReport = 256 << 10
	// gulp is what every server reads at once that we know of, if there is so much. Our shims read 64 KiB.
	gulp = 2 << 10
)

// Options says what the instance is and what its tier wants to know. All but DialPort are needed.
type Options struct {
	Revision *lambent.Revision
	Instance string
	// Dial connects to the instance's socket.
	Dial func(ctx context.Context) (net.Conn, error)
	// DialPort is for instances that may listen on Settings.Port instead of the socket, and nil for all others:
	// it connects there. With wait it tries until that port is listened on or ctx ends.
	DialPort func(ctx context.Context, wait bool) (net.Conn, error)
	// Begin is called before anything of inv is sent, End once the function is done with it: before Close
	// of its response, or a failing Handle, returns.
	Begin, End func(inv *lambent.Invocation)
	// Redact takes out of an error's text what its readers must not see.
	Redact func(text string) string
	// Died is called when a connection broke: it waits a moment for the news that the process has ended, and
	// gives the error that this means for a request; nil when the process is alive.
	Died func() *lambent.Error
	// Dying tells at once whether the process is likely about to end.
	Dying func() bool
}

// Client speaks to one instance. Its methods may be called from many goroutines.
type Client struct {
	o      Options
	server bool    // the code is a server of its own; otherwise our shim answers
	gulps  bool    // it reads 64 KiB at a time, if there is as much
	raw    bool    // the code takes requests as they are, and may switch protocols
	dialer dialer  // of all connections, as Ready has found out
	onPort bool    // it is DialPort
	h2     *conns2 // nil for HTTP/1.1

	mu     sync.Mutex
	idle   []*h1.Conn // the one used last is last; guarded by mu
	closed bool       // guarded by mu
}

type dialer func(ctx context.Context) (net.Conn, error)

// New makes a Client; it connects when it has to.
func New(o Options) *Client {
	rt, _ := lambent.RuntimeOf(o.Revision.Settings.Runtime)
	c := &Client{o: o, server: rt.Server, gulps: !rt.Server && !rt.Command, raw: rt.Streams(o.Revision.Settings.Handler), dialer: o.Dial}
	if o.Revision.Settings.Protocol == lambent.ProtocolH2C {
		c.h2 = newConns2(c)
	}
	return c
}

// Close closes the idle connections; those in use are closed when they are given back.
func (c *Client) Close() {
	c.mu.Lock()
	idle := c.idle
	c.idle, c.closed = nil, true
	c.mu.Unlock()
	for _, conn := range idle {
		conn.Close()
	}
	if c.h2 != nil {
		c.h2.close()
	}
}

// take gives the idle connection that was used last, or nil.
func (c *Client) take() *h1.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := len(c.idle) - 1
	if last < 0 {
		return nil
	}
	conn := c.idle[last]
	c.idle[last] = nil
	c.idle = c.idle[:last]
	return conn
}

// put keeps an idle connection for the next request.
func (c *Client) put(conn *h1.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle) >= c.o.Revision.Settings.Concurrency {
		conn.Close()
		return
	}
	c.idle = append(c.idle, conn)
}

// connect connects, as a request that must begin to be answered by a certain time does.
func (c *Client) connect(ctx context.Context, by time.Time) (net.Conn, error) {
	ctx, cancel := context.WithDeadlineCause(ctx, by, syscall.ETIMEDOUT)
	defer cancel()
	conn, err := c.dialer(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: %w", h1.ErrNotSent, err)
	}
	return conn, nil
}

// IsOurs tells the names of fields that belong to the host. Servers that follow CGI take _ for -.
func IsOurs(name string) bool {
	const prefix = len("Lambent")
	return len(name) > prefix && (name[prefix] == '-' || name[prefix] == '_') && strings.EqualFold(name[:prefix], "Lambent")
}

// DropOurs removes the fields that belong to the host.
func DropOurs(h http.Header) {
	for name := range h {
		if IsOurs(name) {
			delete(h, name)
		}
	}
}
