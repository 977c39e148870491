package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"lambent"
	"lambent/internal/h1"
)

// explain says what err means for a caller with ctx. The function has seen nothing of the request unless begun.
func (c *Client) explain(ctx context.Context, err error, begun bool) *lambent.Error {
	return c.redact(c.meaning(ctx, err, begun))
}

// redact gives e with what its readers must not see taken out.
func (c *Client) redact(e *lambent.Error) *lambent.Error {
	message, hint, trace := c.o.Redact(e.Message), c.o.Redact(e.Hint), c.o.Redact(e.Trace)
	if message == e.Message && hint == e.Hint && trace == e.Trace {
		return e
	}
	redacted := *e
	redacted.Message, redacted.Hint, redacted.Trace = message, hint, trace
	return &redacted
}

func (c *Client) meaning(ctx context.Context, err error, begun bool) *lambent.Error {
	var (
		told     *lambent.Error
		body     *h1.BodyError
		late     *h1.TimeoutError
		closed   *h1.ClosedError
		garbage  *h1.ProtocolError
		unusable *h1.RequestError
		reset    resetError
	)
	switch {
	case errors.As(err, &told): // the body's own error too
		return told
	case ctx.Err() != nil && !errors.As(err, &late):
		return CallerLeft(ctx)
	case errors.As(err, &body):
		return lambent.Errorf(lambent.CodeClientClosed, "the request's body broke off: %w", body.Err)
	case errors.Is(err, h1.ErrAborted), errors.Is(err, net.ErrClosed):
		return lambent.Errorf(lambent.CodeClientClosed, "the caller gave the answer up: %w", err)
	case errors.As(err, &unusable):
		return lambent.Errorf(lambent.CodeInvalidRequest, "the request cannot be handed to the function: %w", err)
	case errors.As(err, &late) && !begun: // it waited for the client
		return lambent.Errorf(lambent.CodeRequestTimeout, "the request's body did not arrive in time").
			WithHint("send it faster; the function has not seen the request")
	case errors.As(err, &late):
		return Timeout(&c.o.Revision.Settings, late.Which)
	case errors.As(err, &garbage):
		protocol := "HTTP/1.1"
		if c.h2 != nil {
			protocol = "HTTP/2"
		}
		return lambent.Errorf(lambent.CodeBadResponse, "the function's answer is not valid %s: %w", protocol, err)
	case errors.Is(err, errRefused), errors.As(err, &reset):
		return lambent.Errorf(lambent.CodeBadResponse, "the function gave the request up: %w", err)
	case errors.Is(err, h1.ErrNotSent), errors.As(err, &closed):
		return c.broken(err, closed)
	}
	return lambent.Errorf(lambent.CodeInternal, "speaking to instance %s: %w", c.o.Instance, err)
}

// broken says what a connection that broke, or could not be made, means.
func (c *Client) broken(err error, closed *h1.ClosedError) *lambent.Error {
	if closed == nil && !isGone(err) {
		return lambent.Errorf(lambent.CodeInternal, "connecting to instance %s: %w", c.o.Instance, err)
	}
	if died := c.o.Died(); died != nil {
		return died
	}
	switch {
	case closed == nil:
		return lambent.Errorf(lambent.CodeBadResponse, "the function does not accept connections: %w", err)
	case closed.Answering:
		return lambent.Errorf(lambent.CodeBadResponse, "the function closed the connection in the middle of its answer")
	}
	return lambent.Errorf(lambent.CodeBadResponse, "the function closed the connection without an answer")
}

// isDead tells whether e says that the instance has ended.
func isDead(e *lambent.Error) bool {
	return e.Code == lambent.CodeInstanceExited || e.Code == lambent.CodeMemoryExceeded || e.Code == lambent.CodeInstanceStopped
}

// isGone tells whether nobody listens or answers on the other side any more.
func isGone(err error) bool {
	for _, gone := range []error{syscall.ECONNREFUSED, syscall.ENOENT, syscall.EPIPE, syscall.ECONNRESET, syscall.ETIMEDOUT, io.ErrClosedPipe} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// Timeout is the error of a request whose function has met a limit of s.
func Timeout(s *lambent.Settings, which h1.Limit) *lambent.Error {
	limits := s.Timeouts
	var code lambent.Code
	var limit time.Duration
	var setting, what string
	switch which {
	case h1.FirstByte:
		code, limit, setting, what = lambent.CodeFirstByteTimeout, limits.FirstByte.D(), "first_byte", "did not begin to answer within its first byte timeout of"
	case h1.Idle:
		code, limit, setting, what = lambent.CodeIdleTimeout, limits.Idle.D(), "idle", "stood still for its idle timeout of"
	case h1.Total:
		code, limit, setting, what = lambent.CodeTotalTimeout, limits.Total.D(), "total", "did not finish within its total timeout of"
	}
	return lambent.Errorf(code, "the function %s %s", what, limit).WithHint("raise timeouts.%s in its settings, or make it faster", setting)
}

// CallerLeft is what the end of ctx means: the error that it was ended with, or that the client left.
func CallerLeft(ctx context.Context) *lambent.Error {
	var told *lambent.Error
	if cause := context.Cause(ctx); errors.As(cause, &told) {
		return told
	}
	return lambent.Errorf(lambent.CodeClientClosed, "the client left before the answer was complete: %w", context.Cause(ctx))
}

// readReport reads the error report of a shim, which is to be an error of code.
func readReport(code lambent.Code, body io.Reader) (*lambent.Error, error) {
	raw, err := io.ReadAll(io.LimitReader(body, maxReport+1))
	if err != nil {
		return nil, err
	}
	var report struct {
		Type    string   `json:"type"`
		Message string   `json:"message"`
		Trace   []string `json:"trace"`
	}
	if len(raw) > maxReport {
		return nil, &h1.ProtocolError{Text: fmt.Sprintf("its error report is longer than %d bytes", maxReport)}
	}
	if err := json.Unmarshal(raw, &report); err != nil {
		return nil, &h1.ProtocolError{Text: "its error report is malformed: " + err.Error()}
	}
	e := lambent.Errorf(code, "%s: %s", report.Type, report.Message)
	e.Trace = strings.Join(report.Trace, "\n")
	return e, nil
}
