package abi

import (
	"errors"
	"runtime"
	"strings"

	"github.com/tetratelabs/wazero/sys"

	"lambent"
)

// Finish is to be called once, when the guest's call has ended with err, outside of it: it uses neither Block nor Yield.
// It sends the rest of the answer and of the logs, and says how the call went: nil, a handler_error when the guest failed
// (Trace has its last lines of stderr), a bad_response when its answer is none, what Body, Respond or Write said. An err
// that is neither the guest's doing nor of this package is given back.
func (c *Call) Finish(err error) error {
	for fd := range c.logs {
		c.logs[fd].end(c, fd)
	}
	var (
		exit    *sys.ExitError
		ended   *ending
		mistake runtime.Error
	)
	switch {
	case err == nil:
	case errors.As(err, &exit):
		if err = nil; exit.ExitCode() != 0 {
			err = c.failed("", "the module ended with exit code %d", exit.ExitCode())
		}
	case errors.As(err, &ended):
		err = ended.err
	case errors.As(err, &mistake):
		return lambent.Errorf(lambent.CodeInternal, "a host function failed: %w", err)
	default:
		what, stack, ok := trap(err)
		if !ok {
			return err
		}
		err = c.failed(stack, "the module trapped: %s", what)
	}
	if err == nil {
		err = c.complete()
	}
	var own *lambent.Error
	if errors.As(err, &own) && own.Fault == lambent.FaultFunction && own.Trace == "" {
		own.Trace = c.lastLines()
	}
	return err
}

func (c *Call) failed(stack, format string, args ...any) *lambent.Error {
	e := lambent.Errorf(lambent.CodeHandlerError, format, args...)
	e.Trace = strings.Trim(c.lastLines()+"\n"+stack, "\n")
	return e
}

// trap tells whether err is the guest's own, by what wazero makes of it: its type is internal there.
func trap(err error) (what, stack string, ok bool) {
	text, stack, _ := strings.Cut(err.Error(), "\nwasm stack trace:\n")
	what, ok = strings.CutPrefix(text, "wasm error: ")
	return what, stack, ok || text == "stack overflow"
}
