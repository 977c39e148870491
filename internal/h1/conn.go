// Package h1 is a lean, strict HTTP/1.1 client for one connection to a peer that is not trusted.
//
// It adds less than half of what net/http's client adds to the bare writes and reads of a small exchange
// (BenchmarkRoundTrip), because the goroutine that asks also writes and reads, deadlines of the socket
// take the place of timers, and a small request is one write.
//
// What it sends is valid or refused: nothing in a Request can add a field or a second request. What it
// takes is strict too (RFC 9112, without the leniencies that section 2.2 and others allow): lines end in
// CRLF, a response has one framing, and an end that comes early is an error. Bytes that nobody asked for
// make the connection unusable, so that an answer never reaches the wrong request. The fuzz tests prove
// that net/http's parser understands what was accepted in the same way.
package h1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxHead    = 64 << 10 // bytes of all heads of one response, and of its trailer
	maxFields  = 256
	maxInterim = 8 // 1xx responses before the final one
)

// Deadlines bound an exchange. Zero values mean no limit.
type Deadlines struct {
	FirstByte time.Time // until the head of the response is there
	Total     time.Time // for everything
	// Idle bounds how long a read of the response or a write may wait while no byte goes either way. The
	// time that the caller takes between its reads does not count.
	Idle time.Duration
}

// head is the limit of everything before the response's body.
func (d *Deadlines) head() (Limit, time.Time) {
	if d.FirstByte.IsZero() || !d.Total.IsZero() && d.Total.Before(d.FirstByte) {
		return Total, d.Total
	}
	return FirstByte, d.FirstByte
}

// Conn carries one exchange at a time: RoundTrip, then Read and Close of the response's body, are for one
// goroutine. Abort and Close may be called from any.
type Conn struct {
	conn   net.Conn
	raw    syscall.RawConn // nil when conn is no socket
	born   time.Time
	in     buffer
	used   bool // it has carried a request
	idle   bool // it can carry the next one
	begun  bool // a byte of the last request was sent
	whole  bool // the last response was read to its end and closed
	silent bool // what peek found
	timer  *time.Timer
	peek   func(fd uintptr) bool

	sent, received atomic.Int64
	active         atomic.Int64          // when a byte last went either way, in ns after born
	cause          atomic.Pointer[error] // why whatever waits must stop waiting

	mu   sync.Mutex
	body io.Closer // the request's body while it is being read; guarded by mu
}

// NewConn makes a Conn of a fresh connection.
func NewConn(conn net.Conn) *Conn {
	c := &Conn{conn: conn, born: time.Now(), idle: true}
	if s, ok := conn.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			c.raw = raw
			c.peek = c.look
		}
	}
	return c
}

// Abort makes whatever waits in this exchange stop waiting: it fails with ErrAborted. The socket stays open
// until Close, so that HangUp can let the peer finish. Abort closes the request's body if it is being read.
func (c *Conn) Abort() { c.cut(ErrAborted) }

// Close closes the socket.
func (c *Conn) Close() error { return c.conn.Close() }

// Reusable tells whether the connection is at rest and fit for another RoundTrip.
func (c *Conn) Reusable() bool { return c.idle && c.cause.Load() == nil }

// Begun tells whether the peer may have got anything of the last request.
func (c *Conn) Begun() bool { return c.begun }

// Complete tells whether the last response was read to its end before it was closed.
func (c *Conn) Complete() bool { return c.whole }

// Sent is how many bytes of the last request's body the peer's socket has taken, after a switch of
// protocols how many were written.
func (c *Conn) Sent() int64 { return c.sent.Load() }

// Received is how many bytes of the last response's body were read.
func (c *Conn) Received() int64 { return c.received.Load() }

var past = time.Unix(1, 0)

// cut ends the exchange for cause. Cause comes first, then the deadline: whoever sets a later deadline
// looks for a cause afterwards, and so cannot miss both.
func (c *Conn) cut(cause error) {
	c.cause.CompareAndSwap(nil, &cause)
	c.conn.SetDeadline(past)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.body != nil {
		c.body.Close()
		c.body = nil
	}
}

func (c *Conn) reason() error {
	if p := c.cause.Load(); p != nil {
		return *p
	}
	return nil
}

// lend lets a cut close body; it fails when there was one already.
func (c *Conn) lend(body io.Closer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause.Load() != nil {
		return false
	}
	c.body = body
	return true
}

// reclaim ends lend: the body is not closed from here any more.
func (c *Conn) reclaim() {
	c.mu.Lock()
	c.body = nil
	c.mu.Unlock()
}

// RoundTrip sends req and gives the head of the response, whose body must be closed before the next one.
// It returns after req.Body has been read, or when reading goes on in another goroutine, which ends
// before the response's Close or a failing RoundTrip does. Errors are or wrap ErrNotSent, ErrAborted,
// *RequestError, *BodyError, *ProtocolError, *ClosedError and *TimeoutError; after one, and unless
// Reusable, the caller should HangUp or Close.
func (c *Conn) RoundTrip(req *Request, d Deadlines) (*Response, error) {
	c.sent.Store(0)
	c.received.Store(0)
	c.begun, c.whole = false, false
	if req.wire == nil {
		if err := c.prepare(req, d); err != nil {
			return nil, err
		}
	}
	x := &exchange{c: c, d: d, budget: maxHead}
	if err := x.begin(req); err != nil {
		c.idle = false
		if !errors.Is(err, ErrNotSent) {
			req.free()
		}
		return nil, err
	}
	if !req.small {
		req.free()
	}
	if err := x.readHead(req); err != nil {
		err = x.explain(err)
		x.stop(false)
		c.in.free()
		switch closed := (*ClosedError)(nil); {
		case errors.Is(err, ErrUnaccepted):
			c.begun = false
			c.sent.Store(0)
		case !errors.As(err, &closed) || !closed.Unread:
			req.free()
		}
		return nil, err
	}
	req.free()
	return &x.Response, nil
}

func (r *Request) free() {
	freePage(r.wire)
	r.wire = nil
}

// begin writes the head, and the body where it is small.
func (x *exchange) begin(req *Request) error {
	c := x.c
	_, at := x.d.head()
	c.conn.SetDeadline(at)
	if cause := c.reason(); cause != nil {
		return x.explain(cause)
	}
	if c.used && !c.quiet() {
		return fmt.Errorf("%w: it spoke or hung up while the connection was idle", ErrNotSent)
	}
	c.used, c.idle = true, false
	c.active.Store(int64(time.Since(c.born)))
	n, err := x.write(req.wire)
	c.begun = n > 0
	switch {
	case err == nil && req.small:
		c.sent.Store(req.ContentLength)
	case err == nil:
	case c.reason() != nil:
		return x.explain(c.reason())
	case errors.As(err, new(*TimeoutError)):
		return err
	case n == 0:
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	default:
		x.unsent = true // the peer hung up, but it may have answered before
	}
	if !req.streams() || x.unsent {
		return nil
	}
	x.sender = &sender{done: make(chan struct{}), allRead: make(chan struct{})}
	go x.send(req)
	return nil
}

func (c *Conn) isUnix() bool { return c.raw != nil && c.conn.LocalAddr().Network() == "unix" }

// quiet tells whether the peer has neither said anything nor hung up since the last response: such bytes
// would be taken for the answer to the next request.
func (c *Conn) quiet() bool {
	if c.raw == nil {
		return true
	}
	c.silent = false
	return c.raw.Read(c.peek) == nil && c.silent
}

func (c *Conn) look(fd uintptr) bool {
	var b [1]byte
	_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	c.silent = err == syscall.EAGAIN
	return true
}

// HangUp ends an exchange that the caller gives up: it tells the peer that nothing more comes, and reads
// and discards what the peer still sends until it hangs up too, for at most grace. It reports whether the
// peer did. The socket is closed afterwards. A response must have been closed before.
func (c *Conn) HangUp(grace time.Duration) bool {
	defer c.conn.Close()
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // where it fails the peer has gone, and the read below says so
	}
	until := time.Now().Add(grace)
	page := newPage()
	defer freePage(page)
	for {
		c.conn.SetReadDeadline(until)
		for {
			_, err := c.conn.Read(page)
			if err == nil {
				continue
			}
			if !isTimeout(err) {
				return true
			}
			if !time.Now().Before(until) {
				return false
			}
			break // a late Abort's deadline, not ours
		}
	}
}

// exchange is one request and its response.
type exchange struct {
	Response
	c      *Conn
	d      Deadlines
	sender *sender // nil unless the body is sent on its own
	unsent bool    // the socket failed within the head

	answered  atomic.Bool // the final head is there: Idle counts, FirstByte does not
	armed     bool        // the socket's deadlines are those of the body
	heard     bool        // a byte of the response came
	keepAlive bool
	framing   framing
	left      int64 // of the body, or of the present chunk
	inChunk   bool  // a chunk's data was begun and its CRLF not yet taken
	lastChunk bool  // only the trailer is left
	budget    int   // bytes that heads or trailer may still have
	extension int   // bytes of chunk extensions so far
	err       error // what Read gives from now on
}

// until is when a wait that began at began has taken too long, and by which limit; zero is never.
func (x *exchange) until(began time.Time) (Limit, time.Time) {
	if !x.answered.Load() {
		return x.d.head()
	}
	if x.d.Idle <= 0 {
		return Total, x.d.Total
	}
	at := x.c.born.Add(time.Duration(x.c.active.Load()))
	if began.After(at) {
		at = began
	}
	if at = at.Add(x.d.Idle); x.d.Total.IsZero() || at.Before(x.d.Total) {
		return Idle, at
	}
	return Total, x.d.Total
}

// arm sets both deadlines of the socket to those of the body. They are set again only when they have
// passed: a wait that is cut short asks until whether its time is really over.
func (x *exchange) arm() {
	x.armed = true
	_, at := x.until(time.Now())
	x.c.conn.SetDeadline(at)
}

// read reads from the socket. Like write, it goes on after a deadline that is not the wait's own.
func (x *exchange) read(p []byte) (int, error) {
	c := x.c
	began := time.Now()
	if x.answered.Load() && !x.armed {
		x.arm()
	}
	for {
		if cause := c.reason(); cause != nil {
			return 0, cause
		}
		n, err := c.conn.Read(p)
		if n > 0 {
			c.active.Store(int64(time.Since(c.born)))
			return n, nil
		}
		if err == nil {
			continue
		}
		if !isTimeout(err) {
			return 0, err
		}
		which, at := x.until(began)
		if !at.IsZero() && !at.After(time.Now()) && c.reason() == nil {
			return 0, &TimeoutError{which}
		}
		c.conn.SetReadDeadline(at)
	}
}

func (x *exchange) write(p []byte) (int, error) {
	c := x.c
	began := time.Now()
	for done := 0; ; {
		if cause := c.reason(); cause != nil {
			return done, cause
		}
		n, err := c.conn.Write(p[done:])
		done += n
		if n > 0 {
			c.active.Store(int64(time.Since(c.born)))
		}
		if err == nil || !isTimeout(err) {
			return done, err
		}
		which, at := x.until(began)
		if !at.IsZero() && !at.After(time.Now()) && c.reason() == nil {
			return done, &TimeoutError{which}
		}
		c.conn.SetWriteDeadline(at)
	}
}

// explain names what ended the exchange: the cause of a cut before what the cut led to.
func (x *exchange) explain(err error) error {
	if cause := x.c.reason(); cause != nil {
		err = cause
	}
	if err == errLate {
		which, _ := x.d.head()
		return &TimeoutError{which}
	}
	for _, ours := range []error{ErrAborted, ErrNotSent} {
		if errors.Is(err, ours) {
			return err
		}
	}
	switch err.(type) {
	case *TimeoutError, *ProtocolError, *BodyError, *RequestError, *ClosedError:
		return err
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &ClosedError{Answering: x.heard, Unread: x.unread(err), Err: err}
}

// unread gives ClosedError.Unread for err of a read. A unix socket that is closed resets the other side if there is
// something in it that was not read, and never else.
func (x *exchange) unread(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) && !x.heard && !x.unsent && x.c.isUnix() &&
		(x.sender == nil || !x.sender.begun.Load())
}

var _ io.ReadCloser = (*exchange)(nil)
