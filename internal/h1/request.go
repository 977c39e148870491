package h1

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// smallBody is up to how many bytes a body of known length goes out in one write with the head.
const smallBody = 16 << 10

// Request is what to send. Nothing in it is changed but Body, which is read.
type Request struct {
	Method string
	Target string // origin-form: an absolute path with its query; or "*"
	Host   string
	// Header is sent but for hop-by-hop and framing fields, Host, and Expect: the body follows without waiting.
	Header http.Header
	// Extra is sent too; fields of the same name in Header are not.
	Extra []Field
	// Skip, when set, tells more fields of Header and Trailer that are not sent.
	Skip func(name string) bool

	ContentLength int64 // -1 when unknown; 0 when there is no body
	// Body is read from another goroutine when it is not small. It is closed only to end a Read that waits.
	Body io.ReadCloser
	// Trailer announces its keys; what it holds once Body gave io.EOF is sent.
	Trailer http.Header
	Upgrade string // protocol to ask for, or ""
	// Piece is up to how many bytes a head and its body are sent together, of a peer that reads so many at once; 0 is the
	// most, 32 KiB.
	Piece int

	wire  []byte // head and small body, kept until they are known to be taken
	small bool   // the body goes out with the head; set together with wire
}

// Field is one field of a head.
type Field struct{ Name, Value string }

// chunked tells how the body is framed. A trailer needs chunks.
func (r *Request) chunked() bool {
	return r.Body != nil && (r.ContentLength < 0 || r.ContentLength > 0 && len(r.Trailer) > 0)
}

// streams tells whether the body goes out on its own.
func (r *Request) streams() bool { return r.Body != nil && r.ContentLength != 0 && !r.small }

// Untaken gives a copy of the body if it was read although no peer took the request, which ErrNotSent and
// ClosedError.Unread tell; nil if it can still be read.
func (r *Request) Untaken() []byte {
	if r.wire == nil || !r.small {
		return nil
	}
	return bytes.Clone(r.wire[len(r.wire)-int(r.ContentLength):])
}

// Check gives the *RequestError that makes r's head impossible to send.
func (r *Request) Check() error {
	page := newPage()
	defer freePage(page)
	_, err := r.appendHead(page[:0])
	return err
}

// appendHead appends the head to b, or tells why it cannot be sent.
func (r *Request) appendHead(b []byte) ([]byte, error) {
	switch {
	case !isToken(r.Method) || r.Method == http.MethodConnect:
		return nil, &RequestError{strconv.Quote(r.Method) + " is not a method that can be sent"}
	case !isVisible(r.Target) || r.Target != "*" && !strings.HasPrefix(r.Target, "/"):
		return nil, &RequestError{strconv.Quote(r.Target) + " is not a path with a query"}
	case !isVisible(r.Host):
		return nil, &RequestError{strconv.Quote(r.Host) + " is not a host"}
	case r.ContentLength > 0 && r.Body == nil:
		return nil, &RequestError{"there is a content length and no body"}
	}
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, r.Target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.Host...)
	b = append(b, "\r\n"...)
	var err error
	if r.Upgrade != "" {
		b = append(b, "Connection: Upgrade\r\n"...)
		if b, err = appendField(b, "Upgrade", r.Upgrade); err != nil {
			return nil, err
		}
	}
	for _, f := range r.Extra {
		if b, err = appendField(b, f.Name, f.Value); err != nil {
			return nil, err
		}
	}
	connection := r.Header["Connection"]
	for name, values := range r.Header {
		key := textproto.CanonicalMIMEHeaderKey(name)
		if NotInTrailer(key) || r.skips(key) || connection != nil && listed(connection, key) {
			continue
		}
		for _, v := range values {
			if b, err = appendField(b, key, v); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case r.chunked():
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		b = r.announce(b)
	case r.ContentLength > 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, r.ContentLength, 10)
		b = append(b, "\r\n"...)
	case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodOptions:
		b = append(b, "Content-Length: 0\r\n"...)
	}
	return append(b, "\r\n"...), nil
}

func (r *Request) skips(key string) bool {
	for _, f := range r.Extra {
		if strings.EqualFold(f.Name, key) {
			return true
		}
	}
	return r.Skip != nil && r.Skip(key)
}

// announce appends the Trailer field.
func (r *Request) announce(b []byte) []byte {
	separator := "Trailer: "
	for name := range r.Trailer {
		key := textproto.CanonicalMIMEHeaderKey(name)
		if !isToken(key) || NotInTrailer(key) || r.skips(key) {
			continue
		}
		b = append(b, separator...)
		b = append(b, key...)
		separator = ", "
	}
	if separator == ", " {
		b = append(b, "\r\n"...)
	}
	return b
}

// appendLast appends the last chunk and the trailer.
func (r *Request) appendLast(b []byte) ([]byte, error) {
	b = append(b, "0\r\n"...)
	for name, values := range r.Trailer {
		key := textproto.CanonicalMIMEHeaderKey(name)
		if NotInTrailer(key) || r.skips(key) {
			continue
		}
		for _, v := range values {
			var err error
			if b, err = appendField(b, key, v); err != nil {
				return nil, err
			}
		}
	}
	return append(b, "\r\n"...), nil
}

func appendField(b []byte, name, value string) ([]byte, error) {
	if !isToken(name) {
		return nil, &RequestError{strconv.Quote(name) + " is not the name of a field"}
	}
	if !isText(value) {
		return nil, &RequestError{"the value of " + name + " holds a control character"}
	}
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...), nil
}

// prepare fills req.wire.
func (c *Conn) prepare(req *Request, d Deadlines) error {
	page := newPage()
	b, err := req.appendHead(page[:0])
	req.small = req.ContentLength > 0 && req.ContentLength <= smallBody && len(req.Trailer) == 0 &&
		len(b)+int(req.ContentLength) <= min(cmp.Or(req.Piece, pageSize), pageSize)
	if err == nil && req.small {
		b, err = c.readSmall(b, req, d)
	}
	if err != nil || cap(b) != pageSize {
		freePage(page)
	}
	req.wire = b
	return err
}

// readSmall appends req's body to b. The socket's deadlines cannot end a Read of the body: a timer does.
func (c *Conn) readSmall(b []byte, req *Request, d Deadlines) ([]byte, error) {
	which, at := d.head()
	if !c.lend(req.Body) {
		return nil, c.reason()
	}
	defer c.reclaim()
	if !at.IsZero() {
		if c.timer == nil {
			c.timer = time.AfterFunc(time.Until(at), func() { c.cut(errLate) })
		} else {
			c.timer.Reset(time.Until(at))
		}
		defer c.timer.Stop()
	}
	head := len(b)
	b = b[:head+int(req.ContentLength)]
	_, err := io.ReadFull(req.Body, b[head:])
	switch cause := c.reason(); {
	case cause == errLate:
		return nil, &TimeoutError{which}
	case cause != nil:
		return nil, cause
	case err == io.EOF:
		return nil, &BodyError{io.ErrUnexpectedEOF}
	case err != nil:
		return nil, &BodyError{err}
	}
	return b, nil
}

// errLate is the cause of a cut by readSmall's timer.
var errLate = errors.New("late")

// sender sends the body of one request from its own goroutine.
type sender struct {
	done    chan struct{} // closed when it has finished with the body
	err     error         // why not all was sent; read it after done
	begun   atomic.Bool   // the peer has read the head
	allRead chan struct{} // closed when the body is at its end and the last write begins
}

// send writes the body as it comes. Every Read of the body is one write, so that streams flow.
func (x *exchange) send(req *Request) {
	s := x.sender
	defer close(s.done)
	if s.err = x.awaitTaken(); s.err != nil {
		return
	}
	s.begun.Store(true)
	if !x.c.lend(req.Body) {
		s.err = x.c.reason()
		return
	}
	page := newPage()
	defer freePage(page)
	s.err = x.sendBody(req, page)
	x.c.reclaim()
	var body *BodyError
	var request *RequestError
	if errors.As(s.err, &body) || errors.As(s.err, &request) {
		x.c.cut(s.err) // the peer must not take what it has for the whole
	}
}

// awaitTaken waits until the peer has read the head, where the kernel tells that, so that nothing of a body is read for
// a peer that never gets to it. It costs a change between the processes, that a small body is spared.
func (x *exchange) awaitTaken() error {
	c := x.c
	if !c.isUnix() {
		return nil
	}
	// The queue of a unix socket is counted with its overhead, which is more than this for anything in it; while the
	// last of it is freed, and the wait is over, it may be 1.
	const least = 256
	began := time.Now()
	for {
		if cause := c.reason(); cause != nil {
			return cause
		}
		var err error
		werr := c.raw.Write(func(fd uintptr) bool {
			var queued int
			if queued, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err != nil {
				return true
			}
			peer := []unix.PollFd{{Fd: int32(fd)}}
			if _, err = unix.Poll(peer, 0); err == nil && peer[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
				err = syscall.EPIPE // with what it had not read
			}
			return err != nil || queued < least
		})
		if werr == nil {
			return err
		}
		if !isTimeout(werr) {
			return werr
		}
		which, at := x.until(began)
		if !at.IsZero() && !at.After(time.Now()) && c.reason() == nil {
			return &TimeoutError{which}
		}
		c.conn.SetWriteDeadline(at)
	}
}

// sendBody does send's work. An error of the socket is for the reader of the response to explain: the
// peer may have answered before it hung up.
func (x *exchange) sendBody(req *Request, page []byte) error {
	const prefix = 8 // a chunk's size in hex and CRLF: at most 4 + 2 bytes for less than a page
	chunked, left := req.chunked(), req.ContentLength
	for empty := 0; ; {
		space := page[prefix : len(page)-2]
		if !chunked && left < int64(len(space)) {
			space = space[:left]
		}
		n, err := req.Body.Read(space)
		if n == 0 && err == nil {
			if empty++; empty == 100 {
				return &BodyError{io.ErrNoProgress}
			}
			continue
		}
		empty = 0
		last := chunked && err == io.EOF
		out := page[prefix : prefix+n]
		if !chunked {
			left -= int64(n)
			last = left == 0
		} else if n > 0 {
			size := strconv.AppendInt(page[:0:prefix], int64(n), 16)
			from := prefix - len(size) - 2
			copy(page[from:], size)
			copy(page[prefix-2:], "\r\n")
			out = append(page[from:prefix+n], "\r\n"...)
		}
		if last {
			close(x.sender.allRead)
			if chunked {
				var terr error
				if out, terr = req.appendLast(out); terr != nil {
					return terr
				}
			}
		}
		if len(out) > 0 {
			if _, werr := x.write(out); werr != nil {
				return werr
			}
		}
		x.c.sent.Add(int64(n))
		switch {
		case last:
			return nil
		case err == io.EOF:
			return &BodyError{io.ErrUnexpectedEOF}
		case err != nil:
			return &BodyError{err}
		}
	}
}

// stop ends the sending when it still goes on, and tells whether the whole request was sent. When the
// response is complete, a sender at the end of its body gets a moment to say so: its last write may have
// been answered before it came to notice.
func (x *exchange) stop(complete bool) bool {
	s := x.sender
	if s == nil {
		return !x.unsent
	}
	if complete {
		select {
		case <-s.allRead:
			timer := time.NewTimer(50 * time.Millisecond)
			defer timer.Stop()
			select {
			case <-s.done:
			case <-timer.C:
			}
		default:
		}
	}
	select {
	case <-s.done:
	default:
		x.c.cut(ErrAborted)
		<-s.done
	}
	return s.err == nil
}
