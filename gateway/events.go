package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync"

	"lambent"
)

// events is the body of an event stream (the HTML standard, section 9.2). When it is to be ended for the platform's
// sake it ends behind an event, which is what its client reconnects after.
type events struct {
	io.ReadCloser
	inv *lambent.Invocation

	mu     sync.Mutex // guards what follows
	border border
	drains bool // it ends at the next border
	ended  bool
	closed bool // Close was called: the outcome is not ours any more
}

// isEventStream tells whether resp is an event stream that has no end of its own, and whose events can be seen.
func isEventStream(resp *lambent.Response) bool {
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return resp.ContentLength < 0 && resp.Status == http.StatusOK && resp.Header["Content-Encoding"] == nil &&
		strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// follow makes resp end behind an event when its Drain is closed; the caller says when it is over.
func (t *Tally) follow(resp *lambent.Response, inv *lambent.Invocation) (over func()) {
	e := &events{ReadCloser: resp.Body, inv: inv, border: border{empty: true, at: true}}
	resp.Body = e
	counted := t.add(inv, func(o *Open) *int { return &o.EventStreams })
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-resp.Drain:
			e.end()
		case <-done:
		}
	})
	return func() {
		close(done)
		watching.Wait()
		counted()
	}
}

// Read gives the events.
func (e *events) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return 0, io.EOF
	}
	for i, c := range p[:n] {
		e.border.next(c)
		if half := c == '\r' && i+1 < n && p[i+1] == '\n'; e.drains && e.border.at && !half {
			e.finish()
			return i + 1, io.EOF
		}
	}
	return n, err
}

// end ends the stream as soon as it is between two events.
func (e *events) end() {
	e.mu.Lock()
	e.drains = true
	if e.border.at && !e.closed {
		e.finish()
	}
	ended := e.ended
	e.mu.Unlock()
	if ended {
		e.ReadCloser.Close() // ends a Read that waits; what the function still does is not the client's concern
	}
}

// finish makes what was given the whole stream. The lock is held.
func (e *events) finish() {
	e.ended, e.inv.Outcome.Ended = true, true
}

// Close gives an error unless the stream came to an end, or was brought to one.
func (e *events) Close() error {
	e.mu.Lock()
	e.closed = true
	ended := e.ended
	e.mu.Unlock()
	if err := e.ReadCloser.Close(); !ended {
		return err
	}
	return nil
}

// border follows the lines of an event stream, which end with CR, LF or both.
type border struct {
	empty bool // nothing of the present line has come
	cr    bool // the last byte was CR
	at    bool // an event, or nothing, has ended here
}

func (b *border) next(c byte) {
	switch {
	case c == '\n' && b.cr: // of the same line's end
	case c == '\n', c == '\r':
		b.at, b.empty = b.empty, true
	default:
		b.at, b.empty = false, false
	}
	b.cr = c == '\r'
}
