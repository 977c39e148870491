package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/internal/h1"
)

// Handle hands one request over, as executor.Instance.Handle documents it.
func (c *Client) Handle(ctx context.Context, inv *lambent.Invocation, deadline time.Time) (*lambent.Response, error) {
	if c.h2 != nil {
		return c.handle2(ctx, inv, deadline)
	}
	x := &call{client: c, ctx: ctx, inv: inv}
	extra := Fields(x.extra[:0], inv, deadline)
	x.req = h1.Request{
		Method: inv.Method, Target: inv.Target, Host: inv.Host,
		Header: inv.Header, Extra: extra, Skip: IsOurs,
		ContentLength: inv.ContentLength, Body: inv.Body, Trailer: inv.Trailer,
	}
	if !c.gulps {
		x.req.Piece = gulp
	}
	if c.raw {
		x.req.Upgrade = inv.Upgrade
	}
	c.o.Begin(inv)
	answer, err := x.roundTrip(deadline)
	if err != nil {
		return nil, x.fail(err)
	}
	x.answer = answer
	if code := answer.Header["Lambent-Error"]; code != nil && !c.server {
		return nil, x.fail(x.reported(code))
	}
	DropOurs(answer.Header)
	DropOurs(answer.Trailer)
	x.response = lambent.Response{
		Status: answer.Status, Header: answer.Header, ContentLength: answer.ContentLength,
		Trailer: answer.Trailer, Body: x,
	}
	if raw, ok := answer.Body.(h1.Tunnel); ok {
		x.response.Body = &tunnel{call: x, raw: raw}
	}
	return &x.response, nil
}

// Fields appends those that the host adds to a request.
func Fields(to []h1.Field, inv *lambent.Invocation, deadline time.Time) []h1.Field {
	to = append(to,
		h1.Field{Name: "Lambent-Invocation", Value: inv.ID},
		h1.Field{Name: "Lambent-Trigger", Value: inv.Trigger},
		h1.Field{Name: "Lambent-Deadline", Value: strconv.FormatInt(deadline.UnixMilli(), 10)})
	if inv.Route != "" {
		to = append(to,
			h1.Field{Name: "Lambent-Route", Value: url.PathEscape(inv.Route)},
			h1.Field{Name: "Lambent-Path-Parameters", Value: inv.PathParameters.Encode()})
	}
	if inv.Attempt > 1 {
		to = append(to, h1.Field{Name: "Lambent-Attempt", Value: strconv.Itoa(inv.Attempt)})
	}
	return to
}

// call is one request that is being handled; it is the body of its response too.
type call struct {
	client   *Client
	ctx      context.Context
	inv      *lambent.Invocation
	req      h1.Request
	extra    [6]h1.Field
	conn     *h1.Conn    // nil until there was one
	stop     func() bool // ends the watch on ctx
	answer   *h1.Response
	response lambent.Response

	closing  atomic.Bool
	mu       sync.Mutex
	cause    error // of a failed Read; guarded by mu
	failed   error // what Read gives because of it; guarded by mu
	closeErr error // guarded by mu
}

// roundTrip sends the request on an idle connection, on a fresh one when that took no byte of it.
func (x *call) roundTrip(deadline time.Time) (*h1.Response, error) {
	if x.ctx.Err() != nil {
		return nil, h1.ErrAborted
	}
	limits := x.client.o.Revision.Settings.Timeouts
	d := h1.Deadlines{FirstByte: time.Now().Add(limits.FirstByte.D()), Total: deadline, Idle: limits.Idle.D()}
	if conn := x.client.take(); conn != nil {
		answer, err := x.try(conn, d)
		if !errors.Is(err, h1.ErrNotSent) && !x.isAgain(err) { // it may have hung up for having nothing to do
			return answer, err
		}
		x.stop()
		conn.Close()
	}
	by := d.FirstByte
	if deadline.Before(by) {
		by = deadline
	}
	conn, err := x.client.connect(x.ctx, by)
	if err != nil {
		x.conn = nil
		return nil, err
	}
	return x.try(h1.NewConn(conn), d)
}

func (x *call) try(conn *h1.Conn, d h1.Deadlines) (*h1.Response, error) {
	x.conn = conn
	x.stop = context.AfterFunc(x.ctx, conn.Abort)
	return conn.RoundTrip(&x.req, d)
}

// isUnseen tells whether err means that the function has not seen the request although it was sent: it has read no
// more of it than a part of its head.
func isUnseen(err error) bool {
	var closed *h1.ClosedError
	return errors.As(err, &closed) && closed.Unread
}

// isAgain tells whether the request can be sent again to a function that lives, although it was sent. A shim reads a piece
// as a whole. A server that is not ours may have read the head alone and acted on it, and hung up on a body in the same piece.
func (x *call) isAgain(err error) bool {
	return isUnseen(err) && (x.client.gulps || x.req.Untaken() == nil)
}

func (x *call) explain(err error) *lambent.Error {
	return x.client.explain(x.ctx, err, x.conn != nil && x.conn.Begun())
}

// reported gives the error that the shim reports instead of an answer.
func (x *call) reported(codes []string) error {
	code := lambent.Code(codes[0])
	switch code {
	case lambent.CodeHandlerError, lambent.CodeBadResponse, lambent.CodeInvalidJSON, lambent.CodeInvalidRequest, lambent.CodeBodyTooLarge:
	default: // the function's code runs beside the shim and could blame us
		return &h1.ProtocolError{Text: "it reports an error of the unknown code " + strconv.Quote(codes[0])}
	}
	report, err := readReport(code, x.answer.Body)
	if err != nil {
		return err
	}
	return report
}

// fail ends the call and gives the error that err means for the caller.
func (x *call) fail(err error) error {
	e := x.explain(err)
	busy := x.finish(err)
	switch {
	case busy:
		return fmt.Errorf("%w: %w", e, executor.ErrBusy)
	case errors.Is(err, h1.ErrNotSent), isUnseen(err) && isDead(e):
		if body := x.req.Untaken(); body != nil { // for the next instance
			x.inv.Body = io.NopCloser(bytes.NewReader(body))
		}
		return fmt.Errorf("%w: %w", e, executor.ErrNotSent)
	}
	return e
}

// finish ends the function's part in the call, which failed with err if that is set. It tells whether the
// function may still be working on it.
func (x *call) finish(err error) (busy bool) {
	defer x.client.o.End(x.inv)
	if x.conn == nil {
		return false
	}
	if x.answer != nil {
		x.answer.Body.Close()
	}
	watched := x.stop()
	x.inv.Outcome.BytesIn, x.inv.Outcome.BytesOut = x.conn.Sent(), x.conn.Received()
	switch {
	case watched && x.conn.Reusable():
		x.client.put(x.conn)
		return false
	case x.conn.Complete(), !x.conn.Begun(), errors.As(err, new(*h1.ClosedError)):
		x.conn.Close()
		return false
	case errors.As(err, new(*h1.TimeoutError)):
		x.conn.Close()
		return true
	}
	return !x.conn.HangUp(settle)
}

// Read reads the function's answer.
func (x *call) Read(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failed != nil {
		return 0, x.failed
	}
	n, err := x.answer.Body.Read(p)
	switch {
	case err == io.EOF:
		DropOurs(x.answer.Trailer)
	case err != nil:
		if errors.As(err, new(*h1.TimeoutError)) {
			x.conn.Close() // at once: the limit is over for the function too
		}
		x.cause, x.failed = err, x.explain(err)
		err = x.failed
	}
	return n, err
}

// Close ends the call. It gives executor.ErrBusy when the function may still be working on it. A Read in
// another goroutine ends.
func (x *call) Close() error {
	again := x.closing.Swap(true)
	if !x.mu.TryLock() {
		if !again {
			x.conn.Abort()
		}
		x.mu.Lock()
	}
	defer x.mu.Unlock()
	if again {
		return x.closeErr
	}
	if x.finish(x.cause) {
		x.closeErr = executor.ErrBusy
	}
	return x.closeErr
}

// tunnel is the body after a switch of protocols.
type tunnel struct {
	call *call
	raw  h1.Tunnel
	once sync.Once
}

var _ lambent.UpgradedBody = (*tunnel)(nil)

// Read implements lambent.UpgradedBody.
func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.raw.Read(p)
	switch {
	case err == io.EOF && t.call.client.o.Dying(): // which closes its connections like one that has finished
		if died := t.call.client.o.Died(); died != nil {
			err = t.call.client.redact(died)
		}
	case err != nil && err != io.EOF:
		err = t.call.explain(err)
	}
	return n, err
}

// Write implements lambent.UpgradedBody.
func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.raw.Write(p)
	if err != nil {
		err = t.call.explain(err)
	}
	return n, err
}

// CloseWrite implements lambent.UpgradedBody.
func (t *tunnel) CloseWrite() error { return t.raw.CloseWrite() }

// Close implements lambent.UpgradedBody. It does not wait for the function.
func (t *tunnel) Close() error {
	t.once.Do(func() {
		x := t.call
		x.stop()
		t.raw.Close()
		x.inv.Outcome.BytesIn, x.inv.Outcome.BytesOut = x.conn.Sent(), x.conn.Received()
		x.client.o.End(x.inv)
	})
	return nil
}
