package builtin

import (
	"net/http"

	"lambent"
	"lambent/executor"
)

// noop answers, always alike. It waits for no body, which may be as slow as its sender likes. What a call of it takes is what the platform itself takes: the figure
// that other functions are measured against.
type noop struct{}

func newNoop(executor.Spec) (handler, error) { return noop{}, nil }

func (noop) serve(*lambent.Invocation) (*lambent.Response, error) {
	return plain(http.StatusOK, "ok"), nil
}

func (noop) close() error { return nil }
