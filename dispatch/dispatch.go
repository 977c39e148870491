// Package dispatch decides which instance serves an invocation: queue, lease, start, stop.
//
// Each revision has a pool with one lock of its own, one admission queue and its instances; functions
// share no lock. Invariants:
//   - An invocation holds at most one lease, and a lease is released exactly once.
//   - A start belongs to the pool, not to the request that caused it: callers leave on their own context,
//     and starting + free slots never exceed what the waiting callers ask for.
//   - At concurrency 1 an instance that may still be working for a caller who is gone, or past its
//     deadline, is dead before that caller has its answer.
//   - An instance belongs to one process. One that was given away gets no new lease and is not stopped here, but for
//     the invariant above; one that was adopted has no slot that the process before still holds.
//
// Lock order: pool.mu is never held while another pool's is taken, nor across a call into an executor.
// Options.Event is called with it held.
package dispatch

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
	"lambent/executor"
)

// Options configure a Dispatcher. Executors and Tree are needed.
type Options struct {
	Executors map[string]executor.Executor // by tier
	Tree      func(ctx context.Context, digest string) (dir string, err error)
	// Secrets gives the values of Settings.Secrets, by their targets; nil where there are none.
	Secrets      func(ctx context.Context, r *lambent.Revision) (map[string]string, error)
	Log          func(lambent.LogLine)     // what instances write; must not block
	Event        func(lambent.SystemEvent) // what happens to instances; must not block
	Logger       *slog.Logger
	StartTimeout time.Duration // of one start, its wait for a turn included; default 30s
	Starts       int           // starts at a time on this node; default 2 per CPU, at least 4
	MaxInstances int           // instances at a time on this node; default 1000
	StopGrace    time.Duration // between SIGTERM and SIGKILL of an instance that is no longer needed; default 10s
	DrainGrace   time.Duration // for the neighbours of a request that timed out, before their instance is killed; default 30s
}

// Dispatcher implements [lambent.Invoker] over executors.
type Dispatcher struct {
	opt     Options
	pools   sync.Map      // revision key -> *pool
	turns   chan struct{} // held while starting
	places  chan struct{} // held by every instance
	refuse  atomic.Bool   // no new invocations
	closing context.Context
	close   context.CancelFunc // cancels starts
	hurried context.Context    // ends the graces of instances that are being stopped
	hurry   context.CancelFunc
	tasks   tasks        // starts and stops under way
	invokes atomic.Int64 // calls of Invoke under way, which between two attempts hold no lease
	shared  sync.Map     // instance id -> *instance that the process before serves some invocation with
	// drainBound is BeginDrain's, nil before.
	drainBound atomic.Pointer[time.Duration]
}

var _ lambent.Invoker = (*Dispatcher)(nil)

// New makes a Dispatcher; it starts nothing.
func New(opt Options) *Dispatcher {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Log == nil {
		opt.Log = func(lambent.LogLine) {}
	}
	if opt.Event == nil {
		opt.Event = func(lambent.SystemEvent) {}
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&opt.StartTimeout, 30*time.Second)
	def(&opt.StopGrace, 10*time.Second)
	def(&opt.DrainGrace, 30*time.Second)
	if opt.Starts == 0 {
		opt.Starts = max(4, 2*runtime.NumCPU())
	}
	if opt.MaxInstances == 0 {
		opt.MaxInstances = 1000
	}
	d := &Dispatcher{opt: opt, turns: make(chan struct{}, opt.Starts), places: make(chan struct{}, opt.MaxInstances)}
	d.closing, d.close = context.WithCancel(context.Background())
	d.hurried, d.hurry = context.WithCancel(context.Background())
	return d
}

// Invoke implements [lambent.Invoker].
func (d *Dispatcher) Invoke(ctx context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
	d.invokes.Add(1)
	defer d.invokes.Add(-1)
	deadline := inv.Accepted.Add(inv.Revision.Settings.Timeouts.Total.D())
	attempts := newAttempts(inv)
	for {
		l, err := d.lease(ctx, inv, deadline, attempts.failed() > 0)
		if err == nil {
			var resp *lambent.Response
			if resp, err = d.hand(ctx, l, inv, deadline); err == nil {
				attempts.settled(false)
				return resp, nil
			}
			if attempts.again(ctx, err, l.inst.hasEnded()) {
				continue
			}
		}
		attempts.settled(true)
		e := lambent.ErrorOf(err)
		if e.Invocation == "" {
			shared := *e // one failed start answers many callers
			e = &shared
			e.Invocation = inv.ID
		}
		inv.Outcome.Err = e
		return nil, e
	}
}

// lease waits for a slot and fills the phases until then. The time that instances had it for that died with it does not
// count as waiting. One that is made again is not refused while those under way are waited for.
func (d *Dispatcher) lease(ctx context.Context, inv *lambent.Invocation, deadline time.Time, again bool) (*lease, error) {
	out := &inv.Outcome
	handled := out.Phases[lambent.PhaseHandler]
	limit := inv.Accepted.Add(inv.Revision.Settings.Timeouts.Queue.D() + handled)
	if deadline.Before(limit) {
		limit = deadline
	}
	l, err := d.acquire(ctx, inv, limit, again)
	wait := time.Since(inv.Accepted)
	out.Phases = lambent.Phases{}
	if err == nil {
		out.Instance = l.inst.ID()
		if l.cold {
			out.Cold = true
			out.Phases = l.inst.phases
		}
	}
	out.Phases[lambent.PhaseHandler] = handled
	// A start may have begun for another caller, before this one came.
	out.Phases[lambent.PhaseQueue] = max(0, wait-out.Phases.Total())
	return l, err
}

// acquire takes a slot in the pool of the revision, whichever pool that is by then.
func (d *Dispatcher) acquire(ctx context.Context, inv *lambent.Invocation, limit time.Time, again bool) (*lease, error) {
	for {
		if d.closing.Err() != nil || d.refuse.Load() && !again {
			return nil, errShuttingDown()
		}
		if l, err := d.pool(inv.Revision).acquire(ctx, inv.ID, limit); !errors.Is(err, errPoolGone) {
			return l, err
		}
	}
}

func errShuttingDown() error {
	return lambent.Errorf(lambent.CodeShuttingDown, "this node is stopping").WithHint("send the request again")
}

func (d *Dispatcher) pool(rev *lambent.Revision) *pool {
	key := rev.Key()
	if p, ok := d.pools.Load(key); ok {
		return p.(*pool)
	}
	v, loaded := d.pools.LoadOrStore(key, &pool{d: d, rev: rev, key: key, all: map[*instance]struct{}{}, streams: drainage{over: make(chan struct{})}})
	p := v.(*pool)
	if bound := d.drainBound.Load(); bound != nil && !loaded { // BeginDrain may have come too early for it
		p.drainStreams(*bound)
	}
	return p
}

// Ready returns when rev has an instance that is ready, which it starts if need be, and how long that
// start took (zero if none was needed). The instance stays for rev's keep-alive time.
func (d *Dispatcher) Ready(ctx context.Context, rev *lambent.Revision) (lambent.Phases, error) {
	for {
		if d.refuse.Load() {
			return lambent.Phases{}, errShuttingDown()
		}
		p := d.pool(rev)
		p.mu.Lock()
		p.retired = false
		p.reviveStreams()
		p.circuit.resume = time.Time{} // what a deploy may have mended is tried now
		alive := p.serving()
		p.mu.Unlock()
		if alive {
			return lambent.Phases{}, nil
		}
		l, err := p.acquire(ctx, "", time.Now().Add(d.opt.StartTimeout))
		switch {
		case errors.Is(err, errPoolGone):
			continue
		case err != nil:
			return lambent.Phases{}, err
		}
		phases := l.inst.phases
		l.release(unused)
		return phases, nil
	}
}

// Retire says that rev gets no new traffic: its instances end as soon as they are idle. Calls that were
// routed to it before still find it.
func (d *Dispatcher) Retire(rev *lambent.Revision) {
	if p, ok := d.pools.Load(rev.Key()); ok {
		p.(*pool).retire()
	}
}

// Refresh ends the use of the instances of the revisions that stale names, because what they were started with has
// changed. No request that comes afterwards meets one; those under way are let finish.
func (d *Dispatcher) Refresh(stale func(*lambent.Revision) bool) {
	for _, v := range d.pools.Range {
		if p := v.(*pool); stale(p.rev) {
			p.refresh()
		}
	}
}

// Close refuses new invocations, waits until those under way are done or ctx ends, and stops every
// instance. It returns when nothing of them is left.
func (d *Dispatcher) Close(ctx context.Context) {
	d.refuse.Store(true)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for d.busy() && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	d.close()
	d.tasks.closeAndWait(func() {
		for _, p := range d.pools.Range {
			p.(*pool).drop()
		}
	})
}

// Hurry kills the instances that are being stopped, and those that will be: there is no time for their grace.
func (d *Dispatcher) Hurry() { d.hurry() }

// stop stops inst, as gently as there is time for.
func (d *Dispatcher) stop(inst executor.Instance, grace time.Duration) {
	defer context.AfterFunc(d.hurried, func() { inst.Stop(0) })()
	inst.Stop(grace)
}

func (d *Dispatcher) busy() bool {
	if d.invokes.Load() > 0 {
		return true
	}
	for s := range d.Stats() {
		if s.InFlight+s.Waiting > 0 {
			return true
		}
	}
	return false
}

// Stats is the state of one revision's pool.
type Stats struct {
	Revision  *lambent.Revision
	Instances int // ready ones
	Starting  int
	InFlight  int // leased slots
	Waiting   int // callers in the queue
	// CircuitsOpen is 1 when starts failed again and again, and most callers that find no instance are refused.
	CircuitsOpen int
}

// Stats gives the state of every revision that has instances, callers or failed starts.
func (d *Dispatcher) Stats() iter.Seq[Stats] {
	return func(yield func(Stats) bool) {
		for _, v := range d.pools.Range {
			if !yield(v.(*pool).stats()) {
				return
			}
		}
	}
}
