// Package inbound gives the body of a request at a net/http server the way a [lambent.Invocation] wants
// it: no body is nil, a limit is an error with a code, and Close ends a Read that waits.
package inbound

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"lambent"
)

// Body gives r's body, nil when there is none. It holds at most limit bytes, any number when limit is
// negative: a longer one is body_too_large, at once when its length was announced and by Read otherwise.
// A body that breaks off is client_closed. Body also allows the answer to begin before the body has ended.
//
// The handler must call end, which is never nil, as the last thing it does and from its own goroutine: what
// is left of a body that was not read to its end must not be taken for the connection's next request.
func Body(w http.ResponseWriter, r *http.Request, limit int64) (_ io.ReadCloser, end func(), _ error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil, func() {}, nil
	}
	if limit >= 0 && r.ContentLength > limit {
		return nil, func() {}, tooLarge(limit)
	}
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil {
		return nil, func() {}, lambent.Errorf(lambent.CodeInternal, "full duplex: %w", err)
	}
	b := &body{rc: rc, src: r.Body, limit: limit, left: limit}
	return b, func() { b.finish(w) }, nil
}

func tooLarge(limit int64) *lambent.Error {
	return lambent.Errorf(lambent.CodeBodyTooLarge, "the request body is over the limit of %d bytes", limit).
		WithHint("send less, or raise max_body")
}

type body struct {
	rc    *http.ResponseController
	src   io.Reader
	limit int64
	left  int64 // of limit, when there is one
	err   error // what every further Read gives

	mu     sync.Mutex
	ended  bool // src has nothing more to give
	closed bool
	cut    bool // a deadline ends the reading of the connection
}

// Read gives the next bytes. To see whether there are more than the limit it asks for one beyond it.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	if b.isClosed() {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.limit >= 0 && int64(len(p))-1 > b.left {
		p = p[:b.left+1]
	}
	n, err := b.src.Read(p)
	if err != nil {
		b.err = b.end(err)
	}
	if b.limit >= 0 {
		if int64(n) > b.left {
			n, b.err = int(b.left), tooLarge(b.limit)
		}
		b.left -= int64(n)
	}
	return n, b.err
}

func (b *body) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

func (b *body) end(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	switch {
	case err == io.EOF:
		return err
	case b.closed:
		return http.ErrBodyReadAfterClose
	}
	return lambent.Errorf(lambent.CodeClientClosed, "the request body broke off: %w", err)
}

// Close ends a Read that waits, and with it the server's own wait for the rest of the body. A deadline
// does both. It must not be set once the body has ended: HTTP/1 connections are then read in the background
// for the next request, and a failure there would cancel this one.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.ended {
		b.closed = true
		return nil
	}
	b.closed, b.cut = true, true
	return b.rc.SetReadDeadline(time.Unix(1, 0))
}

// finish has the server close an HTTP/1 connection whose body was cut off. In full duplex the server itself
// does not see that there is a rest: its attempt to skip it fails by the deadline, and it would read on. The
// one thing that makes it close a connection once the head is out is a MaxBytesReader that was exceeded; it
// also gives the client time to read the answer first.
func (b *body) finish(w http.ResponseWriter) {
	err := b.Close()
	b.mu.Lock()
	cut := b.cut
	b.mu.Unlock()
	if !cut {
		return
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the connection cannot even have a deadline
	}
	for {
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = inner.Unwrap()
	}
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
}
