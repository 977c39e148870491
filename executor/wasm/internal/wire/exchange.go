package wire

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// smallBody is up to how many bytes a body of known length goes out with the head.
const smallBody = 16 << 10

// Request is what to ask a program. The first part is the caller's.
type Request struct {
	Method, Target, Host, Proto, Remote, Invocation string
	// Header is sent, but for the fields that Skip tells, if that is set. Extra is sent before it.
	Header http.Header
	Skip   func(name string) bool
	Extra  []Field
	// Length is that of the body, -1 when unknown, 0 when there is none. Body is nil or it is read: at once when it is
	// small, else when the guest asks for it, from another goroutine. It is closed only to end a Read that waits.
	Length int64
	Body   io.ReadCloser

	FirstByte time.Time     // when the head of the response must be here; zero: at any time
	Deadline  time.Time     // when the response must be complete; zero: at any time
	Idle      time.Duration // between two bytes of the response; 0: any
	// Cut ends the request as the end of the caller's context does, with its cause; nil: never. To wait for both costs less
	// than to make one context of them.
	Cut context.Context
	// Log gets the lines of the streams "stdout" and "stderr", and of "lambent", where the worker itself speaks. It must
	// not block. When the response has been read to its end, or was closed without an error, all of them have been given.
	Log func(stream, line string)

	// Usage is there when Do has failed, or the response is closed: as far as the worker has told.
	Usage Usage
	// Sent is how many bytes of the body were handed over. It is there when Usage is.
	Sent int64

	streams bool   // the body goes out on its own
	untaken []byte // the body, if it was read for nothing
}

// Untaken gives the body after Do has failed and no guest has got the request, if it has been read; nil when it can still
// be read.
func (r *Request) Untaken() []byte { return r.untaken }

// Exchange is a response. It must be closed.
type Exchange struct {
	Status int
	Header http.Header
	Length int64 // of the body; -1 when unknown

	request *Request
	ctx     context.Context
	s       *stream
	id      uint32

	closing atomic.Bool
	mu      sync.Mutex // guards what is below, and is held by a Read that waits
	read    int64
	err     error // what Read gives from now on
	closed  bool
	busy    error // what Close gives
}

// Limit says which limit in time was met.
type Limit string

// The limits in time.
const (
	LimitFirstByte Limit = "first byte"
	LimitIdle      Limit = "idle"
	LimitTotal     Limit = "total"
)

// TimeoutError tells which limit was met.
type TimeoutError struct{ Limit Limit }

// Error says so.
func (e *TimeoutError) Error() string { return "the " + string(e.Limit) + " limit is over" }

// ErrRunning means that the guest may still be working on a request that was given up.
var ErrRunning = errors.New("the guest may still be working on the request")

// ErrLate is why a small body broke off that has taken all the time that there was until a limit. No guest got the request.
var ErrLate = errors.New("it did not arrive in time")

// errClosed ends a Read that Close overtakes.
var errClosed = fmt.Errorf("read of a response that was closed: %w", io.ErrClosedPipe)

// Do asks a program and returns with the head of the response. Errors are: *lambent.Error, how the worker says that the
// guest failed; *LostError, *TimeoutError, *BodyError; *HeadError and ErrFull, where nothing was sent; ctx's cause. Where
// the guest may go on with the request, they wrap ErrRunning. Read of the response gives the same ones.
func (c *Conn) Do(ctx context.Context, program uint32, r *Request) (*Exchange, error) {
	s, err := c.acquire()
	if err != nil {
		return nil, err
	}
	x := &Exchange{request: r, ctx: ctx, s: s}
	if err = x.send(program); err == nil {
		err = x.head()
	}
	if err != nil {
		x.err = err
		if cerr := x.Close(); cerr != nil {
			err = fmt.Errorf("%w: %w", err, cerr)
		}
		return nil, err
	}
	return x, nil
}

// send sends the head, and a small body.
func (x *Exchange) send(program uint32) error {
	s, r := x.s, x.request
	r.untaken, r.Usage, r.Sent = nil, Usage{}, 0
	if r.Body == nil {
		r.Length = 0
	}
	small := r.Length >= 0 && r.Length <= smallBody
	r.streams = !small
	x.id = s.begin(r)
	b := beginSection(begin(s.buf[:0], kindIn, x.id))
	b, err := r.appendHead(b, program)
	if err == nil {
		b = endSection(b, frameHead)
		b[3] |= flagHead
		if small {
			b[3] |= flagEnd
			b, err = r.appendBody(x.ctx, b)
		}
	}
	if err == nil {
		err = x.cause()
	}
	s.buf = b
	if err != nil {
		s.mu.Lock()
		s.open = false // the worker has never heard of it
		s.mu.Unlock()
		return err
	}
	s.conn.w.await(x.ctx.Done(), r.cut())
	s.conn.w.send(end(b, 0))
	return nil
}

// cause is why the request is ended by the caller, nil when it is not.
func (x *Exchange) cause() error {
	if err := context.Cause(x.ctx); err != nil || x.request.Cut == nil {
		return err
	}
	return context.Cause(x.request.Cut)
}

func (r *Request) cut() <-chan struct{} {
	if r.Cut == nil {
		return nil
	}
	return r.Cut.Done()
}

// appendBody appends the body. A Read that waits is ended by closing the body.
func (r *Request) appendBody(ctx context.Context, b []byte) ([]byte, error) {
	if r.Length == 0 {
		return b, nil
	}
	b = slices.Grow(b, int(r.Length))
	body := b[len(b) : len(b)+int(r.Length)]
	cancel := func() {}
	if _, until := r.limit(); !until.IsZero() {
		ctx, cancel = context.WithDeadlineCause(ctx, until, &BodyError{ErrLate})
	}
	defer cancel()
	stop := context.AfterFunc(ctx, func() { r.Body.Close() })
	uncut := func() bool { return true }
	if r.Cut != nil {
		uncut = context.AfterFunc(r.Cut, func() { r.Body.Close() })
	}
	_, err := io.ReadFull(r.Body, body)
	going, whole := stop(), uncut()
	switch {
	case !going && err != nil:
		return b, context.Cause(ctx)
	case !whole && err != nil:
		return b, context.Cause(r.Cut)
	case err == io.EOF:
		return b, &BodyError{io.ErrUnexpectedEOF}
	case err != nil:
		return b, &BodyError{err}
	}
	r.Sent = r.Length
	return b[:len(b)+len(body)], nil
}

// limit is the limit in time that comes first for a response without a head, and when.
func (r *Request) limit() (Limit, time.Time) {
	if r.FirstByte.IsZero() || !r.Deadline.IsZero() && r.Deadline.Before(r.FirstByte) {
		return LimitTotal, r.Deadline
	}
	return LimitFirstByte, r.FirstByte
}

// head waits for the head of the response.
func (x *Exchange) head() error {
	limit, until := x.request.limit()
	if limit == LimitTotal && !until.IsZero() {
		until = until.Add(x.s.conn.late)
	}
	for {
		dead := x.s.conn.dead.Load()
		x.s.mu.Lock()
		headed, open, err := x.s.headed, x.s.open, x.broken()
		if headed {
			err = x.decode(x.s.head)
		}
		x.s.mu.Unlock()
		switch {
		case headed && err != nil:
			return x.violated(err)
		case headed:
			return nil
		case !open:
			return x.ended()
		case err != nil:
			return err
		case dead:
			return x.lost()
		}
		if err := x.wait(limit, until); err != nil {
			return err
		}
	}
}

// broken is why the request's body broke off. The caller holds the stream's mutex.
func (x *Exchange) broken() error {
	if sender := x.s.sender; sender != nil && sender.err != nil {
		return &BodyError{sender.err}
	}
	return nil
}

// wait waits for news of the stream.
func (x *Exchange) wait(limit Limit, until time.Time) error {
	var over <-chan time.Time
	if !until.IsZero() {
		x.s.timer.Reset(time.Until(until))
		defer x.s.timer.Stop()
		over = x.s.timer.C
	}
	select {
	case <-x.s.wake:
		return nil
	case <-x.ctx.Done():
		return x.cause()
	case <-x.request.cut():
		return x.cause()
	case <-over:
		return &TimeoutError{limit}
	}
}

// ended gives what the result of the request says: io.EOF when it went well.
func (x *Exchange) ended() error {
	usage, failed, err := decodeResult(x.s.result)
	switch {
	case err != nil:
		return x.violated(err)
	case failed == nil && x.Status == 0:
		return x.violated(violation("a request ended without an answer or an error"))
	case failed == nil && x.Length >= 0 && x.read != x.Length && !isBodyless(x.request.Method, x.Status):
		return x.violated(violation("%d bytes of a body that was to have %d", x.read, x.Length))
	}
	x.request.Usage = usage
	if failed != nil {
		return failed
	}
	return io.EOF
}

// isBodyless tells whether an answer has no body, whatever its head says of its length.
func isBodyless(method string, status int) bool {
	return method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
}

func (x *Exchange) violated(err error) error {
	x.s.conn.fail(err)
	return &LostError{Err: err, knew: true}
}

// lost says what the end of the connection means for the request.
func (x *Exchange) lost() error {
	s, r := x.s, x.request
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := &LostError{Err: s.conn.Err(), page: s.conn.page, id: x.id, knew: s.headed || s.sender != nil}
	if !lost.Started() && !r.streams && r.Length > 0 {
		r.untaken = bytes.Clone(s.buf[len(s.buf)-int(r.Length):])
	}
	return lost
}

// Read reads the body of the response.
func (x *Exchange) Read(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err != nil || len(p) == 0 {
		return 0, x.err
	}
	n, err := x.next(p)
	x.err = err
	return n, err
}

func (x *Exchange) next(p []byte) (int, error) {
	s := x.s
	var limit Limit
	var until time.Time
	for {
		dead := s.conn.dead.Load()
		s.mu.Lock()
		n, open, err := s.body.read(p), s.open, x.broken()
		credit := s.consumed(n)
		s.mu.Unlock()
		x.read += int64(n)
		switch {
		case x.closing.Load():
			return 0, errClosed
		case x.Length >= 0 && x.read > x.Length:
			return 0, x.violated(violation("more than the %d bytes that a body was to have", x.Length))
		case n > 0:
			if credit > 0 {
				var b [16]byte
				s.conn.w.send(appendNumber(b[:0], kindCredit, x.id, uint32(credit)))
			}
			return n, nil
		case !open:
			return 0, x.ended()
		case err != nil:
			return 0, err
		case dead:
			return 0, x.lost()
		}
		if limit == "" {
			limit, until = x.pause()
		}
		if err := x.wait(limit, until); err != nil {
			return 0, err
		}
	}
}

// pause is the limit in time that comes first for the next bytes of a response, and when.
func (x *Exchange) pause() (Limit, time.Time) {
	total := x.request.Deadline
	if !total.IsZero() {
		total = total.Add(x.s.conn.late)
	}
	if x.request.Idle == 0 {
		return LimitTotal, total
	}
	idle := time.Now().Add(x.request.Idle)
	if !total.IsZero() && total.Before(idle) {
		return LimitTotal, total
	}
	return LimitIdle, idle
}

// Close ends the exchange, and a Read that waits in another goroutine. It waits a moment for the guest to end; when it
// gives ErrRunning that may still be working on the request.
func (x *Exchange) Close() error {
	if !x.closing.Swap(true) {
		x.s.notify()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.closed {
		x.closed, x.busy = true, x.close()
		x.err = cmp.Or(x.err, errClosed)
	}
	return x.busy
}

func (x *Exchange) close() error {
	s := x.s
	s.mu.Lock()
	open, sender := s.open, s.sender
	s.closing = true
	s.stopBody()
	s.mu.Unlock()
	if open {
		var b [16]byte
		s.conn.w.send(end(begin(b[:0], kindCancel, x.id), 0))
	}
	if sender != nil {
		select {
		case <-sender.done:
		default:
			x.request.Body.Close()
			<-sender.done
		}
		x.request.Sent = sender.sent
	}
	if open {
		x.settle()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open && !s.conn.dead.Load() {
		s.left = true // whoever reads its end gives it back
		time.AfterFunc(s.conn.w.patience, func() { s.overdue(x.id) })
		return ErrRunning
	}
	if len(s.result) > 0 && !s.open {
		x.request.Usage, _, _ = decodeResult(s.result) // a malformed one is nobody's loss any more
	}
	s.end()
	return nil
}

// settle waits a moment for the end of a request that was cancelled.
func (x *Exchange) settle() {
	x.s.timer.Reset(x.s.conn.settle)
	defer x.s.timer.Stop()
	for !x.s.conn.dead.Load() {
		x.s.mu.Lock()
		open := x.s.open
		x.s.mu.Unlock()
		if !open {
			return
		}
		select {
		case <-x.s.wake:
		case <-x.s.timer.C:
			return
		}
	}
}
