package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"

	"lambent"
	"lambent/internal/h1"
)

// Started is what an instance told about its start.
type Started struct {
	// FirstLine is when the first line of its shim ran, in nanoseconds of CLOCK_MONOTONIC; 0 for servers.
	FirstLine int64
}

// Ready asks the instance whether it is ready, and returns with its answer. The host's listening socket
// takes the question before the instance accepts, so nothing polls; of an instance that may listen on a port too
// the way that answers first is the way from then on. Errors are start_failed, start_timeout when ctx's deadline
// passed, and what ctx's end means otherwise. Ready must have returned before Handle is called.
func (c *Client) Ready(ctx context.Context) (Started, error) {
	var started Started
	var err error
	if c.o.DialPort == nil {
		started, err = c.ask(ctx, c.o.Dial)
	} else {
		err = c.askBoth(ctx)
	}
	if err != nil {
		return Started{}, c.notReady(ctx, err)
	}
	return started, nil
}

// askBoth asks on the socket and on the port. A server that uses the port may close the socket, which says
// nothing; any other failure is one.
func (c *Client) askBoth(ctx context.Context) error {
	var both sync.WaitGroup
	defer both.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	socket, port := make(chan error, 1), make(chan error, 1)
	both.Go(func() {
		_, err := c.ask(ctx, c.o.Dial)
		socket <- err
	})
	both.Go(func() {
		_, err := c.ask(ctx, func(ctx context.Context) (net.Conn, error) { return c.o.DialPort(ctx, true) })
		port <- err
	})
	select {
	case err := <-socket:
		if !errors.Is(err, h1.ErrNotSent) && !errors.As(err, new(*h1.ClosedError)) {
			return err
		}
	case err := <-port:
		port <- err
	}
	c.usePort()
	return <-port
}

func (c *Client) usePort() {
	c.onPort = true
	c.dialer = func(ctx context.Context) (net.Conn, error) { return c.o.DialPort(ctx, false) }
}

// ask sends the question on a connection of its own and reads the answer.
func (c *Client) ask(ctx context.Context, dial dialer) (Started, error) {
	raw, err := dial(ctx)
	if err != nil {
		return Started{}, fmt.Errorf("%w: %w", h1.ErrNotSent, err)
	}
	if c.h2 != nil {
		defer raw.Close()
		stop := context.AfterFunc(ctx, func() { raw.Close() })
		defer stop()
		return Started{}, greet(raw)
	}
	conn := h1.NewConn(raw)
	stop := context.AfterFunc(ctx, conn.Abort)
	started, err := c.options(conn)
	if stop() && conn.Reusable() && c.o.DialPort == nil {
		c.put(conn)
	} else {
		conn.Close()
	}
	return started, err
}

// options asks by OPTIONS *.
func (c *Client) options(conn *h1.Conn) (s Started, err error) {
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
	return c.redact(c.startError(ctx, err))
}

func (c *Client) startError(ctx context.Context, err error) *lambent.Error {
	var told *lambent.Error
	switch {
	case errors.As(err, &told):
		return told
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return StartTimeout(&c.o.Revision.Settings)
	case ctx.Err() != nil:
		return CallerLeft(ctx)
	}
	e := lambent.Errorf(lambent.CodeStartFailed, "the function did not answer whether it is ready: %w", err)
	switch {
	case c.h2 != nil:
		return e.WithHint("protocol is h2c: the server must speak HTTP/2 without TLS from the first byte; for HTTP/1.1 set protocol: http1")
	case c.o.DialPort != nil:
		return e.WithHint("it must answer OPTIONS * as any HTTP/1.1 server does, any status will do; for HTTP/2 without TLS set protocol: h2c")
	}
	return e.WithHint("it must answer OPTIONS * as any HTTP/1.1 server does; any status will do")
}

// StartTimeout is the error of a function of these settings that is not ready within its time to start.
func StartTimeout(s *lambent.Settings) *lambent.Error {
	e := lambent.Errorf(lambent.CodeStartTimeout, "the function was not ready within its time to start")
	if port := s.Port(); port != 0 {
		return e.WithHint("the server must listen on 127.0.0.1:%d ($PORT), or accept connections on descriptor 3 (LISTEN_FDS)", port)
	}
	return e.WithHint("a server must accept connections on descriptor 3 (LISTEN_FDS); a handler must load sooner")
}
