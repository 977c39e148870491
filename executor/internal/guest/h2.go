package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/internal/h1"
)

// maxConns is on how many connections one request is tried. Functions may greet and hang up for ever.
const maxConns = 2

// maxKept is how much of a request's body is kept for a function that may refuse it.
const maxKept = 16 << 10

// conns2 is the HTTP/2 side of a Client: one connection for all requests, made again when it takes no more of them.
// Requests beyond the streams that the function allows wait: with more connections, one that allows none would have
// us connect without end.
type conns2 struct {
	transport *http.Transport

	mu      sync.Mutex // guards what is below
	conn    *http.ClientConn
	dialled chan struct{} // closed when the dial that is under way is over; nil when none is
	calls   int
	closed  bool
}

func newConns2(c *Client) *conns2 {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.connect(ctx, time.Now().Add(c.o.Revision.Settings.Timeouts.FirstByte.D()))
		},
		Protocols:              new(http.Protocols),
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: 128 << 10, // of our memory, for a client that reads slowly
			WriteByteTimeout:          c.o.Revision.Settings.Timeouts.Idle.D(),
		},
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	return &conns2{transport: t}
}

// get gives a connection other than spent, which takes no more requests.
func (s *conns2) get(ctx context.Context, spent *http.ClientConn) (*http.ClientConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.conn != nil && s.conn != spent && s.conn.Err() == nil {
			return s.conn, nil
		}
		if s.dialled == nil {
			return s.dial(ctx)
		}
		other := s.dialled
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", h1.ErrNotSent, context.Cause(ctx))
		}
	}
}

// dial makes a connection. It is called with the lock, which it lets go of meanwhile.
func (s *conns2) dial(ctx context.Context) (*http.ClientConn, error) {
	done := make(chan struct{})
	s.dialled = done
	s.mu.Unlock()
	conn, err := s.transport.NewClientConn(ctx, "http", "function:80")
	s.mu.Lock()
	s.dialled = nil
	close(done)
	switch {
	case err == nil:
		s.conn = conn
	case !errors.Is(err, h1.ErrNotSent): // the function hung up before we could greet it
		err = fmt.Errorf("%w: %w: %w", h1.ErrNotSent, syscall.ECONNRESET, err)
	}
	return conn, err
}

// count counts the calls under way. When the Client is closed and there are none, it closes the connection.
func (s *conns2) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls += n; s.closed && s.calls == 0 && s.conn != nil {
		_ = s.conn.Close() // nobody uses it any more
	}
}

func (s *conns2) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.count(0)
}

// greet begins an HTTP/2 connection and waits for the SETTINGS that a server begins with (RFC 9113, section 3.4).
func greet(conn net.Conn) error {
	const settings = 4
	frame := []byte{0, 0, 0, settings, 0, 0, 0, 0, 0} // an empty one of ours
	if _, err := conn.Write(append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame...)); err != nil {
		return &h1.ClosedError{Err: err}
	}
	if n, err := io.ReadFull(conn, frame); err != nil {
		return &h1.ClosedError{Answering: n > 0, Err: err}
	}
	switch {
	case bytes.HasPrefix(frame, []byte("HTTP/1.")):
		return &h1.ProtocolError{Text: "it answers in HTTP/1.1"}
	case frame[3] != settings || frame[4] != 0 || !bytes.Equal(frame[5:], make([]byte, 4)):
		return &h1.ProtocolError{Text: "it does not begin with the settings of HTTP/2"}
	}
	return nil
}

// call2 is one request over HTTP/2; it is the body of its response too.
type call2 struct {
	client   *Client
	ctx      context.Context // the caller's
	inv      *lambent.Invocation
	stream   context.Context // its end resets the stream
	cancel   context.CancelCauseFunc
	body     *upload     // nil when there is none
	begun    atomic.Bool // the function may have got the head
	answer   *http.Response
	response lambent.Response

	born     time.Time
	first    time.Time // until when the head must be there
	total    time.Time // until when everything must be
	idle     time.Duration
	timer    *time.Timer
	answered atomic.Bool  // the head is there
	active   atomic.Int64 // when a byte last went either way, in ns after born
	waiting  atomic.Int64 // since when a Read waits, in ns after born; 0 when none does
	closing  atomic.Bool
	mu       sync.Mutex // guards what is below
	received int64
	whole    bool  // the answer was read to its end
	cause    error // of a failed Read
	failed   error // what Read gives from now on
	closeErr error
}

// handle2 hands one request over by HTTP/2.
func (c *Client) handle2(ctx context.Context, inv *lambent.Invocation, deadline time.Time) (*lambent.Response, error) {
	limits := c.o.Revision.Settings.Timeouts
	x := &call2{client: c, ctx: ctx, inv: inv, born: time.Now(), total: deadline, idle: limits.Idle.D()}
	x.first = x.born.Add(limits.FirstByte.D())
	x.stream, x.cancel = context.WithCancelCause(ctx)
	c.o.Begin(inv)
	c.h2.count(1)
	req, err := x.request()
	if err != nil {
		return nil, x.fail(err)
	}
	_, at := x.until()
	x.timer = time.AfterFunc(time.Until(at), x.late)
	trace := &httptrace.ClientTrace{WroteHeaders: func() { x.begun.Store(true) }}
	x.answer, err = x.roundTrip(req.WithContext(httptrace.WithClientTrace(x.stream, trace)))
	x.answered.Store(err == nil)
	if err != nil || x.stream.Err() != nil {
		return nil, x.fail(x.translate(err))
	}
	h := x.answer.Header
	for name := range h {
		if IsOurs(name) || h1.HopByHop(name) { // which has no meaning in HTTP/2, but would have one for our client
			delete(h, name)
		}
	}
	x.whole = x.answer.ContentLength == 0 || inv.Method == http.MethodHead
	x.response = lambent.Response{
		Status: x.answer.StatusCode, Header: h, ContentLength: x.answer.ContentLength,
		Trailer: http.Header{}, Body: x,
	}
	return &x.response, nil
}

// roundTrip sends the request on the connection that there is, or on a fresh one if that one took nothing of it.
func (x *call2) roundTrip(req *http.Request) (answer *http.Response, err error) {
	var spent *http.ClientConn
	for range maxConns {
		var conn *http.ClientConn // err is the outer one, which the last attempt leaves
		if conn, err = x.client.h2.get(x.stream, spent); err != nil {
			return nil, err
		}
		if x.body != nil {
			x.body = &upload{call: x, src: x.inv.Body, trailer: req.Trailer}
			req.Body = x.body
		}
		answer, err = conn.RoundTrip(req)
		if err == nil || x.begun.Load() || !x.intact() || x.stream.Err() != nil {
			return answer, err
		}
		spent = conn
	}
	return nil, err
}

// errRefused means that the function says that it did nothing for a request, which it has got: by REFUSED_STREAM, or by
// a GOAWAY that names an earlier one as the last (RFC 9113, section 8.7).
var errRefused = errors.New("it refused the stream, or left it unanswered when it went away")

// isRefused tells whether err of net/http is what errRefused means.
func isRefused(err error) bool {
	const refusedStream = 7
	var reset resetError
	return errors.As(err, &reset) && reset.Code == refusedStream ||
		err.Error() == "http2: Transport received Server's graceful shutdown GOAWAY" // of streams after the last, and not exported
}

// intact tells whether the request can be sent again: its body is untouched, or was kept whole.
func (x *call2) intact() bool {
	return x.body == nil || !x.body.touched.Load() || x.body.whole.Load()
}

// request makes the request for net/http.
func (x *call2) request() (*http.Request, error) {
	inv := x.inv
	path, query, asks := strings.Cut(inv.Target, "?")
	target := &url.URL{Scheme: "http", Host: "function", Path: path, RawPath: path, RawQuery: query, ForceQuery: asks}
	if inv.Upgrade != "" {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "the function speaks HTTP/2, in which a connection cannot switch to %q", inv.Upgrade).
			WithHint("WebSockets need a server that speaks HTTP/1.1, and protocol: http1")
	}
	check := h1.Request{Method: inv.Method, Target: inv.Target, Host: inv.Host, Header: inv.Header, Skip: IsOurs}
	if err := check.Check(); err != nil {
		return nil, err
	}
	var err error
	if target.Path, err = url.PathUnescape(path); err != nil {
		return nil, &h1.RequestError{Text: err.Error()}
	}
	h := make(http.Header, len(inv.Header)+6)
	for name, values := range inv.Header {
		if key := http.CanonicalHeaderKey(name); !IsOurs(key) && !h1.NotInTrailer(key) {
			h[key] = values
		}
	}
	for _, f := range Fields(nil, inv, x.total) {
		h[f.Name] = []string{f.Value}
	}
	h["Te"] = []string{"trailers"} // which gRPC asks for, and which is true of us
	if h["User-Agent"] == nil {
		h["User-Agent"] = nil // else net/http adds its own
	}
	req := &http.Request{Method: inv.Method, URL: target, Host: inv.Host, Header: h}
	if inv.Body != nil && inv.ContentLength != 0 {
		x.body = &upload{call: x, src: inv.Body}
		req.Body, req.ContentLength = x.body, inv.ContentLength
		for name := range inv.Trailer {
			if !IsOurs(name) && !h1.NotInTrailer(name) {
				if req.Trailer == nil {
					req.Trailer = http.Header{}
				}
				req.Trailer[name] = nil
			}
		}
	}
	return req, nil
}

// late ends a call whose time is over, and looks again later when it is not.
func (x *call2) late() {
	which, at := x.until()
	left := time.Until(at)
	if left <= 0 {
		x.cancel(&h1.TimeoutError{Which: which})
		return
	}
	x.timer.Reset(left)
	if x.stream.Err() != nil { // the call has ended, and may have stopped the timer before
		x.timer.Stop()
	}
}

// until is when the time is over, as far as is known, and by which limit. The time that the caller takes
// between its reads does not count as idle.
func (x *call2) until() (which h1.Limit, at time.Time) {
	which, at = h1.Total, x.total
	limit := func(l h1.Limit, t time.Time) {
		if t.Before(at) {
			which, at = l, t
		}
	}
	if !x.answered.Load() {
		limit(h1.FirstByte, x.first)
	} else if since := x.waiting.Load(); since != 0 {
		limit(h1.Idle, x.born.Add(time.Duration(max(since, x.active.Load()))+x.idle))
	}
	return which, at
}

// flows notes that bytes go.
func (x *call2) flows() { x.active.Store(int64(time.Since(x.born))) }

// Read reads the function's answer.
func (x *call2) Read(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failed != nil {
		return 0, x.failed
	}
	x.waiting.Store(int64(time.Since(x.born)))
	_, at := x.until()
	x.timer.Reset(time.Until(at))
	n, err := x.answer.Body.Read(p)
	x.waiting.Store(0)
	if n > 0 {
		x.flows()
		x.received += int64(n)
	}
	switch {
	case err == io.EOF:
		x.whole, x.failed = true, io.EOF
		for name, values := range x.answer.Trailer {
			if !IsOurs(name) && !h1.NotInTrailer(name) {
				x.response.Trailer[name] = values
			}
		}
	case err != nil:
		x.cause = x.translate(err)
		x.failed = x.client.explain(x.ctx, x.cause, true)
		err = x.failed
	}
	return n, err
}

// Close ends the call. It gives executor.ErrBusy when the function may still be working on it. A Read in
// another goroutine ends.
func (x *call2) Close() error {
	again := x.closing.Swap(true)
	if !x.mu.TryLock() {
		if !again {
			x.cancel(h1.ErrAborted)
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

// fail ends the call and gives the error that err means for the caller.
func (x *call2) fail(err error) error {
	e := x.client.explain(x.ctx, err, true)
	switch busy := x.finish(err); {
	case busy:
		return fmt.Errorf("%w: %w", e, executor.ErrBusy)
	case errors.Is(err, h1.ErrNotSent):
		if x.body != nil && x.body.touched.Load() {
			x.inv.Body = io.NopCloser(bytes.NewReader(x.body.kept))
		}
		return fmt.Errorf("%w: %w", e, executor.ErrNotSent)
	}
	return e
}

// finish ends the function's part in the call, which failed with err if that is set. It tells whether the
// function may still be working on it.
func (x *call2) finish(err error) (busy bool) {
	defer x.client.o.End(x.inv)
	defer x.client.h2.count(-1)
	x.cancel(h1.ErrAborted)
	if x.timer != nil {
		x.timer.Stop()
	}
	if x.answer != nil {
		x.answer.Body.Close()
	}
	if x.body != nil {
		x.body.detach()
		x.inv.Outcome.BytesIn = x.body.sent.Load()
	}
	x.inv.Outcome.BytesOut = x.received
	return x.begun.Load() && !x.whole && !errors.Is(err, h1.ErrNotSent) && !errors.Is(err, errRefused) &&
		!errors.As(err, new(*h1.ClosedError)) && !errors.As(err, new(resetError))
}

// resetError means that the stream was reset, by the function or for what it sent. It has the fields of net/http's
// error, which that one's As demands because it is not exported.
type resetError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

// Error names the code (RFC 9113, section 7), and the cause where there is one.
func (e resetError) Error() string {
	text := fmt.Sprintf("it reset the stream with code %d of HTTP/2", e.Code)
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// translate gives the error of internal/h1 that says the same as one of net/http.
func (x *call2) translate(err error) error {
	var reset resetError
	switch {
	case x.stream.Err() != nil:
		return context.Cause(x.stream)
	case errors.Is(err, h1.ErrNotSent):
		if x.intact() {
			return err
		}
	case isRefused(err) && x.intact():
		return fmt.Errorf("%w: %w", h1.ErrNotSent, errRefused)
	case isRefused(err):
		return errRefused
	case errors.As(err, &reset):
		return reset
	case !x.begun.Load() && x.intact():
		return fmt.Errorf("%w: %w: %w", h1.ErrNotSent, syscall.ECONNRESET, err) // the connection broke: what it is made by says ErrNotSent itself
	case strings.HasPrefix(err.Error(), "connection error:"): // a type that net/http keeps to itself
		return &h1.ProtocolError{Text: err.Error()}
	}
	return &h1.ClosedError{Answering: x.answered.Load(), Err: err}
}

// upload is the request's body as net/http reads it.
type upload struct {
	call    *call2
	src     io.ReadCloser
	trailer http.Header // announced, filled in at the end
	sent    atomic.Int64
	asked   atomic.Bool // a Read was begun
	touched atomic.Bool // something of src was read, or tried to
	whole   atomic.Bool // kept is all of src
	closed  atomic.Bool
	mu      sync.Mutex // held while src is being read
	kept    []byte     // what was read, as long as it is not too much; guarded by mu
}

// Read reads the caller's body. A failure ends the call: the function must not take what it has for the whole.
func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked.Store(true) // before the look at closed, as Close does it the other way round
	if u.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	u.touched.Store(true)
	u.call.flows()
	n, err := u.src.Read(p)
	sent := u.sent.Add(int64(n))
	if sent <= maxKept {
		u.kept = append(u.kept, p[:n]...)
	} else {
		u.kept = nil
	}
	length := u.call.inv.ContentLength
	u.whole.Store(sent <= maxKept && (sent == length || length < 0 && err == io.EOF))
	switch {
	case err == io.EOF && sent < length:
		err = io.ErrUnexpectedEOF
	case err == io.EOF:
		for name := range u.trailer {
			u.trailer[name] = u.call.inv.Trailer[name]
		}
	}
	if err != nil && err != io.EOF && !u.closed.Load() {
		u.call.cancel(&h1.BodyError{Err: err})
	}
	return n, err
}

// Close ends a Read that waits. A body that was not asked for stays as it is.
func (u *upload) Close() error {
	if u.closed.Swap(true) || !u.asked.Load() {
		return nil
	}
	return u.src.Close()
}

// detach returns when nobody reads the caller's body any more.
func (u *upload) detach() {
	_ = u.Close() // there is nobody to tell
	u.mu.Lock()
	defer u.mu.Unlock()
}
