// Package guest is one instance as its host sees it: an HTTP/1.1 server behind a socket, which is not
// trusted. It is what all tiers that run native code have in common.
//
// The host adds the fields Lambent-Invocation, Lambent-Trigger and Lambent-Deadline (Unix milliseconds)
// to a request. Fields whose names begin with Lambent belong to the host and the function's shim alone:
// those that a client sends do not reach the function, those that a function sends do not reach a client.
//
// When a caller gives a request up, the host half-closes the connection, which servers take for the
// client's leaving, and waits a moment for the function to hang up too. Whoever is not done by then may
// still be working, and the caller of this package learns that as executor.ErrBusy.
package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/internal/h1"
)

const (
	// settle is how long a function may take to notice that its caller has left.
	settle = 500 * time.Millisecond
	// maxReport is the size of the error reports that a shim may send.
	maxReport = 256 << 10
)

// Options says what the instance is and what its tier wants to know. All are needed.
type Options struct {
	Revision *lambent.Revision
	Instance string
	// Dial connects to the instance's socket.
	Dial func(ctx context.Context) (net.Conn, error)
	// Begin is called before anything of inv is sent, End once the function is done with it: before Close
	// of its response, or a failing Handle, returns.
	Begin, End func(inv *lambent.Invocation)
	// Died is called when a connection broke: it waits a moment for the news that the process has ended, and
	// gives the error that this means for a request; nil when the process is alive.
	Died func() *lambent.Error
}

// Client speaks to one instance. Its methods may be called from many goroutines.
type Client struct {
	o      Options
	server bool // the code is a server of its own; otherwise our shim answers

	mu     sync.Mutex
	idle   []*h1.Conn // the one used last is last; guarded by mu
	closed bool       // guarded by mu
}

// New makes a Client; it connects when it has to.
func New(o Options) *Client {
	rt, _ := lambent.RuntimeOf(o.Revision.Settings.Runtime)
	return &Client{o: o, server: rt.Server}
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

func (c *Client) dial(ctx context.Context) (*h1.Conn, error) {
	conn, err := c.o.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", h1.ErrNotSent, err)
	}
	return h1.NewConn(conn), nil
}

// Started is what an instance told about its start.
type Started struct {
	// FirstLine is when the first line of its shim ran, in nanoseconds of CLOCK_MONOTONIC; 0 for servers.
	FirstLine int64
}

// Ready asks the instance whether it is ready, and returns with its answer. The host's listening socket
// takes the question before the instance accepts, so nothing polls. Errors are start_failed, start_timeout
// when ctx's deadline passed, and what ctx's end means otherwise.
func (c *Client) Ready(ctx context.Context) (Started, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return Started{}, c.notReady(ctx, err)
	}
	stop := context.AfterFunc(ctx, conn.Abort)
	started, err := c.ask(conn)
	if stop() && conn.Reusable() {
		c.put(conn)
	} else {
		conn.Close()
	}
	if err != nil {
		return Started{}, c.notReady(ctx, err)
	}
	return started, nil
}

// ask sends the question and reads the answer.
func (c *Client) ask(conn *h1.Conn) (s Started, err error) {
	resp, err := conn.RoundTrip(&h1.Request{Method: http.MethodOptions, Target: "*", Host: "localhost"}, h1.Deadlines{})
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	if c.server { // any answer will do, and it need not end
		if resp.ContentLength >= 0 && resp.ContentLength <= maxReport {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		return s, err
	}
	if resp.Header["Lambent-Error"] != nil {
		report, err := readReport(lambent.CodeStartFailed, resp.Body)
		if err != nil {
			return s, err
		}
		return s, report
	}
	if resp.Status < 200 || resp.Status > 299 {
		return s, lambent.Errorf(lambent.CodeStartFailed, "the function's shim answered %d instead of being ready", resp.Status)
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxReport)); err != nil {
		return s, err
	}
	s.FirstLine, err = strconv.ParseInt(resp.Header.Get("Lambent-Start"), 10, 64)
	if err != nil {
		return s, lambent.Errorf(lambent.CodeStartFailed, "the function's shim did not say when it started: %w", err)
	}
	return s, nil
}

func (c *Client) notReady(ctx context.Context, err error) error {
	var told *lambent.Error
	switch {
	case errors.As(err, &told):
		return told
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return lambent.Errorf(lambent.CodeStartTimeout, "the function was not ready within its time to start").
			WithHint("a server must accept connections on descriptor 3 (LISTEN_FDS); a handler must load sooner")
	case ctx.Err() != nil:
		return callerLeft(ctx)
	}
	return lambent.Errorf(lambent.CodeStartFailed, "the function did not answer whether it is ready: %w", err).
		WithHint("it must answer OPTIONS * as any HTTP/1.1 server does; any status will do")
}

// isOurs tells the names that belong to the host. Servers that follow CGI take _ for -.
func isOurs(name string) bool {
	const prefix = len("Lambent")
	return len(name) > prefix && (name[prefix] == '-' || name[prefix] == '_') && strings.EqualFold(name[:prefix], "Lambent")
}

func dropOurs(h http.Header) {
	for name := range h {
		if isOurs(name) {
			delete(h, name)
		}
	}
}
