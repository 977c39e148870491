package engine

import (
	"errors"
	"fmt"
	"strings"
)

// Reason says why a call failed, or an artefact could not be loaded.
type Reason string

// The reasons.
const (
	Deadline  Reason = "deadline"  // Limits.Deadline has passed
	CPU       Reason = "cpu"       // Limits.CPU is used up
	Cancelled Reason = "cancelled" // the context has ended
	Memory    Reason = "memory"    // the guest wanted more memory than the program may have, and failed for it
	Capacity  Reason = "capacity"  // the worker has no memory, or no mappings, to spare
	Stale     Reason = "stale"     // the artefact is another engine's or another processor's, or broken
	Internal  Reason = "internal"  // a mistake of ours
)

// Error is what Run and Load fail with when it is not the guest that failed by itself.
type Error struct {
	Reason  Reason
	Message string
	Trace   string // the guest's stack, the innermost function first, a line each; "" when it did not run
	Cause   error
}

// Error gives reason and message.
func (e *Error) Error() string { return string(e.Reason) + ": " + e.Message }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

func errorf(reason Reason, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Reason: reason, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// ended is what ends a guest from inside of a host function, by a panic. It is no *Error, as the guest's stack is not known
// where it is made.
type ended struct {
	reason  Reason
	message string
}

func (e *ended) Error() string { return e.message }

// The words that wazero puts around an error, see wasmdebug.stackTrace.FromRecovered.
const (
	traceHead     = "\nwasm stack trace:\n\t"
	goTrace       = "\n\nGo runtime stack trace:"
	wasmError     = "wasm error: "
	stackOverflow = "stack overflow" // has no more words around it
)

// failure makes of what a call of wazero returned what Run returns, and says whether the guest is out of order: it failed,
// or was ended by us. One that a host function ended is as good as one that returned. starved says why the guest had asked
// for memory in vain, if it had.
func failure(err error, starved Reason) (_ error, broken bool) {
	message, trace, _ := strings.Cut(err.Error(), traceHead)
	trace, _, mistake := strings.Cut(trace, goTrace)
	trap, trapped := strings.CutPrefix(message, wasmError)
	var end *ended
	switch {
	case errors.As(err, &end):
		return &Error{Reason: end.reason, Message: end.message, Trace: strings.ReplaceAll(trace, "\n\t", "\n")}, true
	case mistake:
		return err, true
	case !trapped && message != stackOverflow:
		return err, false
	case starved != "":
		whose := "it may have"
		if starved == Capacity {
			whose = "the worker has to spare"
		}
		return &Error{Reason: starved, Trace: strings.ReplaceAll(trace, "\n\t", "\n"),
			Message: "the guest failed (" + trap + ") after it had asked for more memory than " + whose}, true
	}
	return err, true
}
