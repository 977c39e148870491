package abi

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"lambent"
	"lambent/internal/cgi"
)

// Small pieces of an answer are held back to be sent at once with what follows: programs write by the line, and an
// answer that is sent in one piece costs least, has a length and can still become an error. What is held back is at most
// gather bytes, and none while the guest reads what has yet to come. It goes out before a sleep of the guest would make it
// older than patience, and when it is while the guest computes, see [Call.Tick].
const (
	gather   = 16 << 10
	patience = 50 * time.Millisecond // a panic in Go sleeps a tenth of it and more before it ends the program
)

// answer is what a guest has said so far.
type answer struct {
	parser cgi.Head // of a command, until the head is known
	known  bool     // the head is
	begun  bool     // it has been given to Respond
	status int
	header []Field
	length int64 // what its Content-Length says, -1 when there is none
	mute   bool  // no body goes with it, whatever is written

	written int64
	held    []byte    // of the body, after what was given to Write
	since   time.Time // what is held back is; the head, too
}

func bad(format string, args ...any) *lambent.Error {
	return lambent.Errorf(lambent.CodeBadResponse, "the function gave a bad answer: "+format, args...)
}

// stdout is what a command says. The parser keeps what it gets, so it gets no more than a piece at a time.
func (c *Call) stdout(p []byte) {
	for a := &c.answer; !a.known && len(p) > 0; {
		n := min(len(p), piece)
		body, ok, err := a.parser.Write(p[:n])
		if err != nil {
			c.end(bad("%w", err))
		}
		if p = p[n:]; ok {
			c.parsed()
			c.write(body)
		}
	}
	c.write(p)
}

// parsed takes the head that a command has written.
func (c *Call) parsed() {
	if err := c.respond(c.answer.parser.Status, c.answer.parser.Header); err != nil {
		c.end(bad("%w", err))
	}
}

// respond takes the head of the answer.
func (c *Call) respond(status int, header []Field) error {
	a := &c.answer
	a.known, a.status, a.length, a.since = true, status, -1, time.Now()
	a.mute = c.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
	a.header = header[:0]
	for _, f := range header {
		if f.Name != "Content-Length" {
			a.header = append(a.header, f)
			continue
		}
		length, err := strconv.ParseUint(f.Value, 10, 63)
		if err != nil || a.length >= 0 && a.length != int64(length) {
			return fmt.Errorf("its Content-Length %.40q is not one number", f.Value)
		}
		a.length = int64(length)
	}
	if status == http.StatusNoContent {
		a.length = 0
	}
	return nil
}

// checked tells whether f is one that a guest may answer with.
func checked(name, value string) (Field, error) {
	f := Field{Name: textproto.CanonicalMIMEHeaderKey(name), Value: value}
	if err := f.Check(); err != nil {
		return f, err
	}
	if cgi.OfConnection(f.Name) {
		return f, fmt.Errorf("%s is of the connection, which is not the function's", f.Name)
	}
	if strings.HasPrefix(f.Name, "Lambent-") {
		return f, fmt.Errorf("%s is not the function's to say", f.Name)
	}
	return f, nil
}

// write takes a part of the body, after the head.
func (c *Call) write(p []byte) {
	a := &c.answer
	a.written += int64(len(p))
	if a.mute || len(p) == 0 {
		return
	}
	if a.length >= 0 && a.written > a.length {
		c.end(bad("its body is longer than its Content-Length of %d", a.length))
	}
	if len(a.held)+len(p) > gather {
		c.flush()
	}
	if len(p) < gather {
		if a.begun && len(a.held) == 0 {
			a.since = time.Now()
		}
		a.held = append(a.held, p...)
		return
	}
	for len(p) > 0 {
		n := min(len(p), piece)
		c.transmit(p[:n])
		p = p[n:]
	}
}

// Tick is to be called, from within the guest's call, now and then while the guest computes. It sends what has been held
// back for long enough.
func (c *Call) Tick() { c.flushBefore(0) }

// flushBefore flushes what would be older than patience after d.
func (c *Call) flushBefore(d time.Duration) {
	if a := &c.answer; a.known && time.Since(a.since) >= patience-d {
		c.flush()
	}
}

// flush sends what is held back of the answer.
func (c *Call) flush() {
	a := &c.answer
	if !a.known || a.begun && len(a.held) == 0 {
		return
	}
	c.transmit(a.held)
	a.held = a.held[:0]
}

func (c *Call) transmit(p []byte) {
	var err error
	c.block(func() { err = c.send(p, c.answer.length) })
	if err != nil {
		c.end(err)
	}
}

// send gives the head, if it is still due, and p.
func (c *Call) send(p []byte, length int64) error {
	a := &c.answer
	if !a.begun {
		a.begun = true
		if err := c.Respond(a.status, a.header, length); err != nil {
			return err
		}
	}
	if len(p) == 0 {
		return nil
	}
	_, err := c.Write(p)
	return err
}

// complete brings the answer to its end, when the guest has ended well.
func (c *Call) complete() error {
	a := &c.answer
	if c.initialising() {
		return nil
	}
	if !a.known {
		if c.Kind == Reactor {
			return bad("it ended without one").WithHint("handle must call respond, or write, before it returns")
		}
		body, err := a.parser.End()
		if err == nil {
			err = c.respond(a.parser.Status, a.parser.Header)
		}
		if err != nil {
			return bad("%w", err)
		}
		a.written = int64(len(body))
		if !a.mute {
			a.held = body
		}
	}
	switch {
	case a.length < 0 && a.status != http.StatusNotModified:
		a.length = a.written
	case a.written < a.length && !a.mute:
		return bad("its body ended after %d of the %d bytes of its Content-Length", a.written, a.length)
	}
	if a.begun && len(a.held) == 0 {
		return nil
	}
	return c.send(a.held, a.length)
}
