package engine

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent/executor/wasm/internal/abi"
	"lambent/executor/wasm/internal/module"
)

// Limits bound one call.
type Limits struct {
	Deadline time.Time     // when the guest has to be done; zero: never
	CPU      time.Duration // that it may have; 0: as much as it wants
	Begin    func()        // called when there is all that the guest needs, before it begins; nil: by nobody
}

// Usage is what a call used.
type Usage struct {
	CPU    time.Duration // of a guest that took no longer than a tick: for which it had a token, that is a core
	Memory int64         // bytes of linear memory at the end, which is when it has most
}

// run is the state of one call, and the context that its guest's host functions get: it ends at the deadline, too, but has
// nothing ready for that until somebody asks.
type run struct {
	context.Context
	waiter
	engine   *Engine
	call     *abi.Call
	in       *instance
	limits   Limits
	deadline time.Duration // on the engine's clock; 0: none
	token    int           // -1: none
	since    time.Duration // of the last charge: on the engine's clock, or its thread's when it is metered
	used     time.Duration
	metered  bool // by its thread's clock, and so bound to the thread while it has a token

	once   sync.Once
	inner  context.Context
	cancel context.CancelFunc
}

type runKey struct{}

// Value implements [context.Context].
func (r *run) Value(key any) any {
	if key == (runKey{}) {
		return r
	}
	return r.Context.Value(key)
}

// Deadline implements [context.Context].
func (r *run) Deadline() (time.Time, bool) { return r.timed().Deadline() }

// Done implements [context.Context].
func (r *run) Done() <-chan struct{} { return r.timed().Done() }

// Err implements [context.Context].
func (r *run) Err() error { return r.timed().Err() }

func (r *run) timed() context.Context {
	r.once.Do(func() {
		r.inner, r.cancel = r.Context, func() {}
		if !r.limits.Deadline.IsZero() {
			r.inner, r.cancel = context.WithDeadline(r.Context, r.limits.Deadline)
		}
	})
	return r.inner
}

// Run calls the entry of a pristine instance for call, whose fields Block and Yield it sets. It says how that went by a call
// of answer, and returns when the instance is pristine again: what the client waits for belongs into answer, which is
// called once, by the same goroutine, without a token, when the guest is no more. What call's functions wait for has to end
// when ctx does; Run then fails, too, as soon as the guest is not waiting in one of them.
//
// The error is an *[Error], or what a host function ended the guest with, for [abi.Call.Finish].
func (p *Program) Run(ctx context.Context, call *abi.Call, limits Limits, answer func(Usage, error)) {
	r := &run{Context: ctx, engine: p.engine, call: call, limits: limits, token: -1}
	if !limits.Deadline.IsZero() {
		r.deadline = max(1, limits.Deadline.Sub(p.engine.begun))
	}
	call.Block, call.Yield = r.block, r.yield
	usage, err := r.run(p, call)
	answer(usage, err)
	if r.cancel != nil {
		r.cancel()
	}
	switch {
	case r.in == nil:
	case p.resettable():
		p.give(r.in, !r.in.broken)
	default:
		p.renew(r.in)
	}
}

// run has the guest run.
func (r *run) run(p *Program, call *abi.Call) (usage Usage, err error) {
	if end := r.acquire(); end != nil {
		return usage, &Error{Reason: end.reason, Message: end.message}
	}
	defer r.release()
	in, err := p.take(r)
	if err != nil {
		return usage, err
	}
	r.in = in
	if r.limits.Begin != nil {
		r.limits.Begin()
	}
	r.engine.ticker.on(r.token, in.cell())
	for _, name := range p.meta.Init {
		if err == nil {
			err = in.initialise(r, call, name)
		}
	}
	if err == nil {
		err = in.call(abi.With(r, call), in.entry)
	}
	if r.token >= 0 {
		r.release()
	}
	return Usage{CPU: r.used, Memory: int64(in.memory.size)}, err
}

// initialise runs a function that an instance that is not made of an image needs to be run first.
func (in *instance) initialise(r *run, call *abi.Call, name string) error {
	init, err := in.function(name)
	if err != nil {
		return errorf(Stale, "%w", err)
	}
	c := &abi.Call{Kind: call.Kind, Env: call.Env, Log: call.Log, Block: r.block, Yield: r.yield}
	err = in.call(abi.With(r, c), init)
	r.release()
	if failed := c.Finish(err); failed != nil || err != nil {
		return cmp.Or(failed, err)
	}
	if end := r.acquire(); end != nil {
		return &Error{Reason: end.reason, Message: end.message}
	}
	return nil
}

// acquire waits for a token.
func (r *run) acquire() *ended {
	token, ok := r.engine.tokens.get(&r.waiter, r.used >= tick)
	if !ok {
		return r.wait()
	}
	r.start(token)
	return nil
}

// wait waits in the line that the call is in.
func (r *run) wait() *ended {
	select {
	case token := <-r.ready:
		r.start(token)
		return nil
	case <-r.Done():
		if token, got := r.engine.tokens.leave(&r.waiter); got {
			r.engine.tokens.put(token)
		}
		if end := r.over(r.engine.now()); end != nil {
			return end
		}
		return &ended{Deadline, deadlinePassed} // by the timer's clock
	}
}

func (r *run) start(token int) {
	r.token = token
	if r.metered {
		runtime.LockOSThread()
		r.since = threadTime()
	} else {
		r.since = r.engine.now()
	}
	if r.in != nil {
		r.engine.ticker.on(token, r.in.cell())
	}
}

// charge adds the time since the last charge.
func (r *run) charge() (now time.Duration) {
	now = r.engine.now()
	at := now
	if r.metered {
		at = threadTime()
	}
	r.used += at - r.since
	r.since = at
	return now
}

// meter has a call that takes longer than a tick charged for what its thread has run: on a busy machine that is less than
// the time that it had its token. The thread's clock costs too much for all others.
func (r *run) meter() {
	if r.metered {
		return
	}
	r.charge()
	r.metered = true
	r.start(r.token)
}

// threadTime is the processor time of this thread.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err) // the clock exists and the address is ours
	}
	return time.Duration(ts.Nano())
}

// leave says that the token is no longer the call's.
func (r *run) leave() {
	r.token = -1
	if r.metered {
		runtime.UnlockOSThread()
	}
}

// release gives the token back.
func (r *run) release() {
	if r.token < 0 {
		return
	}
	r.charge()
	r.engine.ticker.off(r.token)
	r.engine.tokens.put(r.token)
	r.leave()
}

const deadlinePassed = "the deadline has passed"

// over says why the call has to end, if it has.
func (r *run) over(now time.Duration) *ended {
	switch err := r.Context.Err(); {
	case r.deadline > 0 && now >= r.deadline, errors.Is(err, context.DeadlineExceeded):
		return &ended{Deadline, deadlinePassed}
	case err != nil:
		return &ended{Cancelled, "the call was cancelled"}
	case r.limits.CPU > 0 && r.used >= r.limits.CPU:
		return &ended{CPU, "its processor time of " + r.limits.CPU.String() + " is used up"}
	}
	return nil
}

// interrupt is called by a guest that has run for a tick. What it has said is heard while it goes on.
func (r *run) interrupt() {
	r.meter()
	r.yield()
	r.call.Tick()
}

// yield is called by a guest that has run for a tick. It ends the guest when it has to go, by a panic that wazero catches, and
// otherwise lets another have the token first, if one waits.
func (r *run) yield() {
	now := r.charge()
	*r.in.cell() = 0
	if end := r.over(now); end != nil {
		panic(end)
	}
	r.checkRefs()
	token := r.token
	r.engine.ticker.off(token) // it may be another's at once
	if !r.engine.tokens.turn(&r.waiter, token) {
		r.engine.ticker.on(token, r.in.cell())
		return
	}
	r.leave()
	if end := r.wait(); end != nil {
		panic(end)
	}
}

// checkRefs ends a guest that has made more references to functions than it is charged for: wazero keeps each for as long as
// the instance.
func (r *run) checkRefs() {
	if r.in.made() > module.MaxRefs {
		panic(&ended{Memory, "the guest makes references to functions without end"})
	}
}

// block runs what may wait, without the token.
func (r *run) block(wait func()) {
	if r.token < 0 { // the guest is no more
		wait()
		return
	}
	r.checkRefs()
	r.release()
	wait()
	end := r.acquire()
	if end == nil {
		end = r.over(r.engine.now())
	}
	if end != nil {
		panic(end)
	}
}
