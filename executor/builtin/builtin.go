// Package builtin is the tier of runtimes whose code is the platform's own: nothing of the user's runs, so
// there is no sandbox, an instance starts at once and answers in this process.
package builtin

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"lambent"
	"lambent/executor"
)

// handler answers requests in the place of a function's code.
type handler interface {
	// serve gives the answer; its Body need not count, nor look at limits.
	serve(inv *lambent.Invocation) (*lambent.Response, error)
	close() error
}

// handlers make the handler of an instance, by runtime.
var handlers = map[string]func(executor.Spec) (handler, error){
	"static": newSite,
	"noop":   newNoop,
}

// Executor implements [executor.Executor] for the built-in runtimes.
type Executor struct {
	mu     sync.Mutex
	all    map[*instance]struct{} // guarded by mu
	closed bool                   // guarded by mu
}

var _ executor.Executor = (*Executor)(nil)

// New makes an Executor.
func New() *Executor { return &Executor{all: map[*instance]struct{}{}} }

// Start implements [executor.Executor].
func (e *Executor) Start(_ context.Context, spec executor.Spec) (executor.Instance, error) {
	began := time.Now()
	runtime := spec.Revision.Settings.Runtime
	open, ok := handlers[runtime]
	if !ok {
		return nil, unavailable(runtime)
	}
	h, err := open(spec)
	if err != nil {
		return nil, err
	}
	i := &instance{id: spec.ID, handler: h, executor: e, done: make(chan struct{})}
	i.phases[lambent.PhaseLoad] = time.Since(began)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		if err := h.close(); err != nil {
			return nil, lambent.Errorf(lambent.CodeInternal, "close %s: %w", runtime, err)
		}
		return nil, lambent.Errorf(lambent.CodeShuttingDown, "this node is stopping")
	}
	e.all[i] = struct{}{}
	return i, nil
}

func unavailable(runtime string) error {
	return lambent.Errorf(lambent.CodeTierUnavailable, "runtime %s is not built in", runtime)
}

// Root implements [executor.Executor]: what they run on is this program.
func (*Executor) Root(runtime string) (string, error) {
	if handlers[runtime] == nil {
		return "", unavailable(runtime)
	}
	return lambent.TierBuiltin, nil
}

// Runtimes implements [executor.Executor].
func (*Executor) Runtimes() []string { return slices.Sorted(maps.Keys(handlers)) }

// Isolation implements [executor.Executor]: there is nothing to isolate.
func (*Executor) Isolation() lambent.Isolation {
	return lambent.Isolation{Level: lambent.IsolationFull}
}

// Findings implements [executor.Executor]: it needs nothing.
func (*Executor) Findings() []lambent.Finding { return nil }

// Close implements [executor.Executor].
func (e *Executor) Close() error {
	e.mu.Lock()
	e.closed = true
	all := slices.Collect(maps.Keys(e.all))
	e.mu.Unlock()
	for _, i := range all {
		i.Stop(0)
	}
	return nil
}

type instance struct {
	id       string
	phases   lambent.Phases
	handler  handler
	executor *Executor
	stop     sync.Once
	done     chan struct{}

	mu      sync.Mutex
	calls   int           // under way; guarded by mu
	idle    chan struct{} // closed when calls becomes 0, if somebody waits for it; guarded by mu
	stopped bool          // takes no more calls; guarded by mu
}

func (i *instance) ID() string                     { return i.id }
func (i *instance) StartPhases() lambent.Phases    { return i.phases }
func (i *instance) Done() <-chan struct{}          { return i.done }
func (i *instance) Exit() lambent.Exit             { return lambent.Exit{} }
func (i *instance) Usage() (executor.Usage, error) { return executor.Usage{}, nil }

// Handle implements [executor.Instance].
func (i *instance) Handle(ctx context.Context, inv *lambent.Invocation, deadline time.Time) (*lambent.Response, error) {
	i.mu.Lock()
	if i.stopped {
		i.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", errStopped(), executor.ErrNotSent)
	}
	i.calls++
	i.mu.Unlock()
	resp, err := i.handler.serve(inv)
	if err != nil {
		i.end()
		return nil, err
	}
	resp.Body = &body{inner: resp.Body, ctx: ctx, inv: inv, deadline: deadline, instance: i}
	return resp, nil
}

func errStopped() *lambent.Error {
	return lambent.Errorf(lambent.CodeInstanceStopped, "the instance was stopped before the answer was complete").WithHint("send the request again")
}

// end is the end of a call.
func (i *instance) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls--
	if i.calls == 0 && i.idle != nil {
		close(i.idle)
		i.idle = nil
	}
}

// Stop implements [executor.Instance]. What is still being answered when the grace is over is cut.
func (i *instance) Stop(grace time.Duration) {
	i.stop.Do(func() {
		i.mu.Lock()
		i.stopped = true
		var idle chan struct{}
		if i.calls > 0 {
			idle = make(chan struct{})
			i.idle = idle
		}
		i.mu.Unlock()
		if idle != nil {
			select {
			case <-idle:
			case <-time.After(grace):
			}
		}
		close(i.done)
		_ = i.handler.close() // it only reads
		i.executor.mu.Lock()
		delete(i.executor.all, i)
		i.executor.mu.Unlock()
	})
	<-i.done
}

// body is the body of an answer, within the limits of its invocation.
type body struct {
	inner    io.ReadCloser
	ctx      context.Context
	inv      *lambent.Invocation
	deadline time.Time
	instance *instance
	once     sync.Once
	err      error
}

func (b *body) Read(p []byte) (int, error) {
	select {
	case <-b.instance.done:
		return 0, errStopped()
	case <-b.ctx.Done():
		return 0, lambent.ErrorOf(b.ctx.Err())
	default:
	}
	if time.Now().After(b.deadline) {
		return 0, lambent.Errorf(lambent.CodeTotalTimeout, "the answer was not taken within its total timeout of %s", b.inv.Revision.Settings.Timeouts.Total).
			WithHint("raise timeouts.total in its settings")
	}
	n, err := b.inner.Read(p)
	b.inv.Outcome.BytesOut += int64(n)
	if err != nil && err != io.EOF {
		err = lambent.Errorf(lambent.CodeCodeUnavailable, "reading the file: %w", err)
	}
	return n, err
}

func (b *body) Close() error {
	b.once.Do(func() {
		b.err = b.inner.Close()
		b.instance.end()
	})
	return b.err
}
