package dispatch

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
	"lambent/executor"
)

// world is an executor made of funcs: dispatch is tested on the contract, in fake time.
type world struct {
	isolation lambent.Isolation
	boot      time.Duration
	dying     time.Duration       // how long a Stop takes
	start     func(n int64) error // nil: every start succeeds
	handle    func(ctx context.Context, inst *fake, inv *lambent.Invocation, deadline time.Time) (*lambent.Response, error)

	started, alive, peak atomic.Int64
}

type fake struct {
	w     *world
	id    string
	once  sync.Once
	done  chan struct{}
	exit  lambent.Exit
	stops []time.Duration
	mu    sync.Mutex
}

func (w *world) Start(ctx context.Context, spec executor.Spec) (executor.Instance, error) {
	n := w.started.Add(1)
	select {
	case <-time.After(w.boot):
	case <-ctx.Done():
		return nil, lambent.Errorf(lambent.CodeStartTimeout, "not ready in time")
	}
	if w.start != nil {
		if err := w.start(n); err != nil {
			return nil, err
		}
	}
	a := w.alive.Add(1)
	for p := w.peak.Load(); a > p && !w.peak.CompareAndSwap(p, a); p = w.peak.Load() {
	}
	return &fake{w: w, id: spec.ID, done: make(chan struct{})}, nil
}

func (*world) Root(string) (string, error)     { return "test", nil }
func (*world) Runtimes() []string              { return []string{"go"} }
func (w *world) Isolation() lambent.Isolation  { return w.isolation }
func (*world) Findings() []lambent.Finding     { return nil }
func (*world) Close() error                    { return nil }
func (f *fake) ID() string                     { return f.id }
func (f *fake) Done() <-chan struct{}          { return f.done }
func (f *fake) Exit() lambent.Exit             { return f.exit }
func (f *fake) Usage() (executor.Usage, error) { return executor.Usage{}, nil }
func (f *fake) StartPhases() lambent.Phases {
	var p lambent.Phases
	p[lambent.PhaseBoot] = f.w.boot
	return p
}

func (f *fake) Stop(grace time.Duration) {
	f.mu.Lock()
	f.stops = append(f.stops, grace)
	f.mu.Unlock()
	time.Sleep(f.w.dying)
	f.die()
}

func (f *fake) die() {
	f.once.Do(func() {
		f.w.alive.Add(-1)
		close(f.done)
	})
}

func (f *fake) Handle(ctx context.Context, inv *lambent.Invocation, deadline time.Time) (*lambent.Response, error) {
	if f.w.handle != nil {
		return f.w.handle(ctx, f, inv, deadline)
	}
	return answer(), nil
}

func answer() *lambent.Response {
	return &lambent.Response{Status: 200, ContentLength: 2, Body: io.NopCloser(strings.NewReader("ok"))}
}

// work answers after d, or fails as the guest does when ctx or the deadline ends first.
func work(d time.Duration) func(context.Context, *fake, *lambent.Invocation, time.Time) (*lambent.Response, error) {
	return func(ctx context.Context, f *fake, inv *lambent.Invocation, deadline time.Time) (*lambent.Response, error) {
		select {
		case <-time.After(d):
			return answer(), nil
		case <-time.After(time.Until(deadline)):
			return nil, lambent.Errorf(lambent.CodeTotalTimeout, "late: %w", executor.ErrBusy)
		case <-ctx.Done():
			return nil, lambent.Errorf(lambent.CodeClientClosed, "gone: %w", executor.ErrBusy)
		case <-f.done:
			return nil, lambent.Errorf(lambent.CodeInstanceExited, "died")
		}
	}
}

func revision(t *testing.T, change func(*lambent.Settings)) *lambent.Revision {
	t.Helper()
	s := lambent.Settings{Runtime: "go", Concurrency: 1}
	if change != nil {
		change(&s)
	}
	s, err := s.Complete()
	if err != nil {
		t.Fatal(err)
	}
	return lambent.NewRevision("default", "f", s, "sha256:x", "test", time.Now())
}

func open(t *testing.T, w *world, change func(*Options)) *Dispatcher {
	opt := Options{
		Executors: map[string]executor.Executor{lambent.TierProcess: w},
		Tree:      func(context.Context, string) (string, error) { return "/code", nil },
		Starts:    1000,
	}
	if change != nil {
		change(&opt)
	}
	d := New(opt)
	t.Cleanup(func() {
		d.Close(t.Context())
		if n := w.alive.Load(); n != 0 {
			t.Errorf("%d instances are left after Close", n)
		}
	})
	return d
}

func invoke(ctx context.Context, d *Dispatcher, rev *lambent.Revision) (*lambent.Invocation, error) {
	inv := &lambent.Invocation{ID: lambent.NewID(), Revision: rev, Accepted: time.Now(), Method: "GET", Target: "/"}
	resp, err := d.Invoke(ctx, inv)
	if err != nil {
		return inv, err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		resp.Body.Close()
		return inv, err
	}
	return inv, resp.Body.Close()
}

// members gives the instances of all pools.
func members(d *Dispatcher) (all []executor.Instance) {
	for _, v := range d.pools.Range {
		p := v.(*pool)
		p.mu.Lock()
		for inst := range p.all {
			all = append(all, inst.Instance)
		}
		p.mu.Unlock()
	}
	return all
}

func inBubble(t *testing.T, f func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) { f(t) })
}

func wantCode(t *testing.T, err error, code lambent.Code) {
	t.Helper()
	if !lambent.HasCode(err, code) {
		t.Errorf("got error %v, want code %s", err, code)
	}
}
