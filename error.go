package lambent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Fault says whose fault a failed call is. The empty Fault means that nothing failed.
type Fault string

// The four faults, the same in errors, metrics, records and the API.
const (
	FaultClient   Fault = "client"   // bad request, unauthorised, gone away
	FaultFunction Fault = "function" // the function raised, exited or answered garbage
	FaultLimit    Fault = "limit"    // a timeout, memory, size or concurrency limit was met
	FaultPlatform Fault = "platform" // Lambent failed
)

// Code is a stable name of one kind of failure, listed in errors.json and docs/errors.md.
type Code string

type codeInfo struct {
	fault  Fault
	status int
}

// Error is the one error type that leaves a room. Its message says what went wrong and where, its hint
// how to mend it; both are safe to show to callers. The doors map Code to an HTTP status; rooms do not.
type Error struct {
	Code       Code   `json:"code"`
	Fault      Fault  `json:"fault"`
	Message    string `json:"message"`
	Hint       string `json:"hint,omitempty"`
	Invocation string `json:"invocation,omitempty"`
	// Trace is the function's own stack trace or last log lines. Only callers that may administer the
	// function see it: the gateway leaves it out.
	Trace string `json:"trace,omitempty"`
	// RetryAfter is when it may be worth a retry, from now on; 0: nobody knows.
	RetryAfter time.Duration `json:"-"`
	// Cause is the underlying error, for logs and errors.Is; it never reaches a caller.
	Cause error `json:"-"`
}

// Errorf makes an Error of code with the fault that the code stands for. A %w verb sets Cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Fault: codes[code].fault, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// WithHint sets the hint and returns e.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Error gives the message with its code and, where there is one, the hint.
func (e *Error) Error() string {
	s := string(e.Code) + ": " + e.Message
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Status is the HTTP status that a door answers with: the code's, or 500 for an unknown code.
func (e *Error) Status() int {
	if info, ok := codes[e.Code]; ok {
		return info.status
	}
	return http.StatusInternalServerError
}

// ErrorOf turns any error into an *Error: itself if it is or wraps one, client_closed for a cancelled
// context, and internal for the rest. It returns nil for nil.
func ErrorOf(err error) *Error {
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.Canceled):
		return &Error{Code: CodeClientClosed, Fault: FaultClient, Message: "the client left", Cause: err}
	}
	return &Error{Code: CodeInternal, Fault: FaultPlatform, Message: err.Error(), Cause: err}
}

// HasCode reports whether err is or wraps an *Error with that code.
func HasCode(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// WriteError answers with e in the platform's one error format, {"error": {...}}. It must be called
// before anything else was written to w.
func WriteError(w http.ResponseWriter, e *Error) {
	body, err := json.Marshal(struct {
		Error *Error `json:"error"`
	}{e})
	if err != nil {
		panic(err) // an Error holds strings only
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	switch {
	case e.RetryAfter > 0:
		h.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(e.RetryAfter.Seconds())), 10))
	case e.Code == CodeQueueFull || e.Code == CodeQueueTimeout:
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(e.Status())
	_, _ = w.Write(append(body, '\n')) // a client that left has nobody to tell
}
