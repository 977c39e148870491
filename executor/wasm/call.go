package wasm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/executor/internal/guest"
	"lambent/executor/wasm/internal/wire"
	"lambent/internal/h1"
)

// call is one request that is being handled; it is the body of its response too.
type call struct {
	in       *instance
	inv      *lambent.Invocation
	ctx      context.Context
	req      wire.Request
	ours     [6]h1.Field
	extra    [6]wire.Field
	x        *wire.Exchange
	response lambent.Response

	finish sync.Once
}

// Handle implements [executor.Instance].
func (in *instance) Handle(ctx context.Context, inv *lambent.Invocation, deadline time.Time) (*lambent.Response, error) {
	if !in.begin() {
		return nil, fmt.Errorf("%w: %w", in.refusal(), executor.ErrNotSent)
	}
	now := time.Now()
	in.used.Store(now.UnixNano())
	c := &call{in: in, inv: inv, ctx: ctx}
	limits := &in.revision.Settings.Timeouts
	c.req = wire.Request{
		Method: inv.Method, Target: inv.Target, Host: inv.Host, Proto: "HTTP/1.1", Invocation: inv.ID,
		Header: inv.Header, Skip: isHidden, Extra: c.extra[:0], Length: inv.ContentLength, Body: inv.Body,
		FirstByte: now.Add(limits.FirstByte.D()), Deadline: deadline, Idle: limits.Idle.D(), Cut: in.run, Log: c.log,
	}
	for _, f := range guest.Fields(c.ours[:0], inv, deadline) {
		c.req.Extra = append(c.req.Extra, wire.Field(f))
	}
	x, err := in.worker.conn.Do(ctx, in.program, &c.req)
	if err != nil {
		return nil, c.fail(err)
	}
	c.x = x
	for name := range x.Header {
		if guest.IsOurs(name) || h1.HopByHop(name) {
			delete(x.Header, name)
		}
	}
	c.response = lambent.Response{Status: x.Status, Header: x.Header, ContentLength: x.Length, Body: c}
	return &c.response, nil
}

// isHidden tells the fields of a request that the function does not get: those of the host, of a connection and of how a body
// is framed.
func isHidden(name string) bool { return guest.IsOurs(name) || h1.NotInTrailer(name) }

func (c *call) log(stream, text string) { c.in.emit(stream, c.inv.ID, text) }

// begin counts a call, unless the instance takes no more.
func (in *instance) begin() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stopping {
		return false
	}
	in.calls++
	return true
}

func (in *instance) finish() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.calls--; in.calls == 0 && in.idle != nil {
		close(in.idle)
	}
}

// end ends the call: the request is answered or given up.
func (c *call) end() {
	c.finish.Do(func() {
		out, used := &c.inv.Outcome, &c.req.Usage
		out.BytesIn, out.CPU, out.Memory = c.req.Sent, used.CPU, used.Memory
		c.in.cpu.Add(int64(used.CPU))
		for peak := c.in.peak.Load(); used.Memory > peak && !c.in.peak.CompareAndSwap(peak, used.Memory); {
			peak = c.in.peak.Load()
		}
		c.in.finish()
	})
}

// fail ends a call that has no answer, and gives the error that err means for the caller.
func (c *call) fail(err error) error {
	defer c.end()
	e := c.explain(err)
	var lost *wire.LostError
	switch {
	case errors.As(err, &lost) && c.in.worker.ended() && !lost.Started():
		if body := c.req.Untaken(); body != nil { // for the next instance
			c.inv.Body = io.NopCloser(bytes.NewReader(body))
		}
		return fmt.Errorf("%w: %w", e, executor.ErrNotSent)
	case errors.Is(err, wire.ErrRunning):
		return fmt.Errorf("%w: %w", e, executor.ErrBusy)
	}
	return e
}

// explain says what err means for the caller, without what secrets it holds.
func (c *call) explain(err error) *lambent.Error {
	e := c.meaning(err)
	hide := c.in.hide
	message, hint, trace := hide.String(e.Message), hide.String(e.Hint), hide.String(e.Trace)
	if message == e.Message && hint == e.Hint && trace == e.Trace {
		return e
	}
	redacted := *e
	redacted.Message, redacted.Hint, redacted.Trace = message, hint, trace
	return &redacted
}

func (c *call) meaning(err error) *lambent.Error {
	var (
		told *lambent.Error
		late *wire.TimeoutError
		lost *wire.LostError
		body *wire.BodyError
		head *wire.HeadError
	)
	s := &c.in.revision.Settings
	switch {
	case errors.As(err, &lost):
		return c.in.ended()
	case errors.Is(err, wire.ErrLate):
		return lambent.Errorf(lambent.CodeRequestTimeout, "the request's body did not arrive in time").
			WithHint("send it faster; the function has not seen the request")
	case errors.As(err, &late):
		return guest.Timeout(s, limits[late.Limit])
	case errors.As(err, &told) && told.Code == lambent.CodeTotalTimeout:
		return guest.Timeout(s, h1.Total)
	case told != nil && told.Code == lambent.CodeMemoryExceeded:
		e := lambent.Errorf(told.Code, "the request was ended for exceeding its memory limit of %d MiB", s.Memory).WithHint("%s", told.Hint)
		e.Trace = told.Trace
		return e
	case told != nil: // the body's own error too
		return told
	case c.ctx.Err() != nil:
		return guest.CallerLeft(c.ctx)
	case errors.As(err, &body):
		return lambent.Errorf(lambent.CodeClientClosed, "the request's body broke off: %w", body.Err)
	case errors.As(err, &head):
		return lambent.Errorf(lambent.CodeInvalidRequest, "the request cannot be handed to the function: %w", err)
	case errors.Is(err, wire.ErrFull):
		return lambent.Errorf(lambent.CodeQueueFull, "the worker of namespace %s serves %d requests, which is its limit", c.in.revision.Namespace, wire.MaxStreams).
			WithHint("send less, or lower concurrency (%d) and max_instances (%d)", s.Concurrency, s.MaxInstances)
	case errors.Is(err, io.ErrClosedPipe):
		return lambent.Errorf(lambent.CodeClientClosed, "the caller gave the answer up: %w", err)
	}
	return lambent.Errorf(lambent.CodeInternal, "speaking to the worker of instance %s: %w", c.in.id, err)
}

var limits = map[wire.Limit]h1.Limit{wire.LimitFirstByte: h1.FirstByte, wire.LimitIdle: h1.Idle, wire.LimitTotal: h1.Total}

// refusal is why the instance takes no more calls.
func (in *instance) refusal() *lambent.Error {
	select {
	case <-in.done:
		return in.ended()
	default:
		return errStopped()
	}
}

// ended says what the end of the instance means for a request. It waits for the news of it.
func (in *instance) ended() *lambent.Error {
	select {
	case <-in.done:
	case <-time.After(mourning):
		return lambent.Errorf(lambent.CodeInternal, "instance %s lost its worker, which has not ended", in.id)
	}
	switch {
	case in.exit == (lambent.Exit{}):
		return errStopped()
	case in.exit.OOM:
		return lambent.Errorf(lambent.CodeInstanceExited, "the worker that ran the functions of the namespace was killed for its memory of %d MiB", in.exec.memory).
			WithHint("lower the memory or concurrency of functions that use much at the same time")
	}
	return lambent.Errorf(lambent.CodeInstanceExited, "the worker that ran the function %s before its answer was complete", in.exit)
}

// Read reads the function's answer.
func (c *call) Read(p []byte) (int, error) {
	n, err := c.x.Read(p)
	c.inv.Outcome.BytesOut += int64(n)
	if err != nil && err != io.EOF {
		err = c.explain(err)
	}
	return n, err
}

// Close ends the call, and a Read that waits in another goroutine. It gives [executor.ErrBusy] when the guest may still be
// working on it.
func (c *call) Close() error {
	err := c.x.Close()
	c.end()
	if errors.Is(err, wire.ErrRunning) {
		return executor.ErrBusy
	}
	return err
}
