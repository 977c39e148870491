package h1

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotSent means that the peer took no byte of the request: the same Request may go to another Conn.
	ErrNotSent = errors.New("the peer took no byte of the request")
	// ErrAborted means that Abort was called.
	ErrAborted = errors.New("the exchange was aborted")
)

// RequestError means that a request cannot be written as HTTP/1.1 and mean the same. When RoundTrip
// gives it, nothing was sent.
type RequestError struct{ Text string }

// Error says what cannot be sent.
func (e *RequestError) Error() string { return e.Text }

// BodyError is an error of the request's own body; the request was not sent to its end.
type BodyError struct{ Err error }

// Error says that the request's body failed, and how.
func (e *BodyError) Error() string { return "reading the request's body: " + e.Err.Error() }

// Unwrap gives the body's error.
func (e *BodyError) Unwrap() error { return e.Err }

// ProtocolError means that the peer sent something that is not a valid HTTP/1.1 response.
type ProtocolError struct{ Text string }

// Error says what was wrong.
func (e *ProtocolError) Error() string { return e.Text }

// ErrUnaccepted is what the net.Conn of a Conn may give instead of the first byte of an answer: the peer never had the
// connection. It is an ErrNotSent.
var ErrUnaccepted = fmt.Errorf("nobody has accepted the connection: %w: %w", ErrNotSent, syscall.ECONNRESET)

// ClosedError means that the peer went away before its response was complete.
type ClosedError struct {
	Answering bool // some of the response had come
	// Unread means that the peer had not read the last byte of what goes out in one piece: the head, with a small body.
	// Unix sockets alone tell.
	Unread bool
	Err    error // io.ErrUnexpectedEOF, or what the socket gave
}

// Error says how far the peer had got.
func (e *ClosedError) Error() string {
	if e.Answering {
		return "the connection was closed in the middle of the answer: " + e.Err.Error()
	}
	return "the connection was closed without an answer: " + e.Err.Error()
}

// Unwrap gives the socket's error.
func (e *ClosedError) Unwrap() error { return e.Err }

// Limit names one of the Deadlines.
type Limit uint8

// The limits of Deadlines.
const (
	FirstByte Limit = iota
	Idle
	Total
)

// String is the limit's name.
func (l Limit) String() string { return [...]string{"first byte", "idle", "total"}[l] }

// TimeoutError means that a limit of the exchange's Deadlines was met.
type TimeoutError struct{ Which Limit }

// Error names the limit.
func (e *TimeoutError) Error() string { return "the " + e.Which.String() + " time is over" }

// Timeout is true, as in net.Error.
func (e *TimeoutError) Timeout() bool { return true }

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
