package dispatch

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"lambent"
)

// errPoolGone means that the pool was empty and has been dropped from the dispatcher: look it up again.
var errPoolGone = errors.New("the pool is gone")

// pool is the instances of one revision and the callers that wait for one.
type pool struct {
	d   *Dispatcher
	rev *lambent.Revision
	key string

	mu       sync.Mutex // guards what follows
	all      map[*instance]struct{}
	free     []*instance // those with a free slot, the most recently used last
	waiting  queue
	draining int // of all, those that take no more work
	starting int
	era      int // counts refreshes: an instance whose start began in an earlier one is not used
	retired  bool
	gone     bool
	reaper   *time.Timer // ends idle instances; nil when none is idle
	retrier  *time.Timer // starts what the circuit held up; nil when it holds up nothing
	circuit  circuit
	streams  drainage
}

func (p *pool) slots() int {
	if p.rev.Settings.Reuse == lambent.ReuseNever {
		return 1
	}
	return p.rev.Settings.Concurrency
}

func (p *pool) acquire(ctx context.Context, invocation string, limit time.Time) (*lease, error) {
	p.mu.Lock()
	if p.gone {
		p.mu.Unlock()
		return nil, errPoolGone
	}
	if n := len(p.free); n > 0 && p.waiting.n == 0 {
		l := p.take(p.free[n-1], invocation, false)
		p.mu.Unlock()
		return l, nil
	}
	if invocation != "" && p.refuses() { // Ready tries at once
		err := p.refusal()
		p.mu.Unlock()
		return nil, err
	}
	if s := &p.rev.Settings; p.waiting.n >= s.Queue {
		p.mu.Unlock()
		return nil, lambent.Errorf(lambent.CodeQueueFull, "%d requests already wait for %s/%s", s.Queue, p.rev.Namespace, p.rev.Function).
			WithHint("send less, or raise queue, max_instances (%d) or concurrency (%d)", s.MaxInstances, s.Concurrency)
	}
	w := &waiter{invocation: invocation, granted: make(chan grant, 1)}
	p.waiting.push(w)
	p.startMore()
	p.mu.Unlock()

	timer := time.NewTimer(time.Until(limit))
	defer timer.Stop()
	var cause error
	select {
	case g := <-w.granted:
		return g.lease, g.err
	case <-ctx.Done():
		cause = ctx.Err()
	case <-timer.C:
		cause = lambent.Errorf(lambent.CodeQueueTimeout, "no instance of %s/%s became free in time", p.rev.Namespace, p.rev.Function).
			WithHint("its queue timeout is %s; raise it, or max_instances (%d) or concurrency (%d)",
				p.rev.Settings.Timeouts.Queue, p.rev.Settings.MaxInstances, p.rev.Settings.Concurrency)
	}
	p.mu.Lock()
	waited := p.waiting.remove(w)
	p.collect()
	p.mu.Unlock()
	if !waited { // granted at the same moment
		if g := <-w.granted; g.lease != nil {
			g.lease.release(unused)
		}
	}
	return nil, cause
}

// take leases a slot of a free instance. The lock is held.
func (p *pool) take(inst *instance, invocation string, cold bool) *lease {
	l := inst.lease(invocation)
	l.cold, l.drain = cold, p.streams.over
	inst.served = true
	if len(inst.leases) >= p.slots() {
		p.unfree(inst)
	}
	return l
}

func (p *pool) unfree(inst *instance) {
	if n := len(p.free); n > 0 && p.free[n-1] == inst {
		p.free = p.free[:n-1]
		return
	}
	if i := slices.Index(p.free, inst); i >= 0 {
		p.free = slices.Delete(p.free, i, i+1)
	}
}

// serve gives free slots to waiting callers, oldest first. The lock is held.
func (p *pool) serve() {
	for p.waiting.n > 0 && len(p.free) > 0 {
		inst := p.free[len(p.free)-1]
		cold := !inst.served
		w := p.waiting.pop()
		w.granted <- grant{lease: p.take(inst, w.invocation, cold)}
	}
}

func (p *pool) release(l *lease, v verdict) {
	inst := l.inst
	p.mu.Lock()
	if inst.why == given {
		p.mu.Unlock()
		inst.tell(l, v) // before Close believes that nothing is under way
		p.mu.Lock()
		defer p.mu.Unlock()
		inst.free(l)
		if len(inst.leases) == 0 {
			p.remove(inst, given)
			p.collect()
		}
		return
	}
	full := len(inst.leases) == p.slots()
	inst.free(l)
	if v == idle {
		inst.answered = true
		if p.circuit.crashed {
			p.mend("an instance has answered")
		}
	}
	_, member := p.all[inst]
	switch once := p.rev.Settings.Reuse == lambent.ReuseNever; {
	case !member:
	case v == kill:
		p.remove(inst, lambent.ReasonCut)
	case v == dead: // watch takes it out
		inst.dead = true
		p.drain(inst, "")
	case v == idle && once:
		p.drain(inst, lambent.ReasonUsed)
	case v == drain && !inst.suspect:
		inst.suspect = true
		p.drain(inst, lambent.ReasonCut)
		if len(inst.leases) > 0 {
			time.AfterFunc(p.d.opt.DrainGrace, func() { p.end(inst) })
		}
	case full && !inst.draining:
		p.free = append(p.free, inst)
	}
	member = member && v < kill
	grace := p.d.opt.StopGrace
	over := member && len(inst.leases) == 0 && !inst.dead && (inst.draining || p.retired && p.waiting.n == 0)
	if over {
		p.remove(inst, lambent.ReasonRetired)
		if inst.suspect {
			grace = 0
		}
	} else if member {
		p.serve()
		if len(inst.leases) == 0 {
			p.rest(inst)
		}
	}
	p.startMore()
	p.collect()
	p.mu.Unlock()

	switch {
	case v >= kill:
		inst.Stop(0)
	case over:
		p.d.tasks.run(func() { p.d.stop(inst, grace) })
	}
}

// serving tells whether an instance takes more work, now or when it has a free slot. The lock is held.
func (p *pool) serving() bool { return len(p.all) > p.draining }

// drain gives inst no more work, for the reason why. The lock is held.
func (p *pool) drain(inst *instance, why lambent.Reason) {
	if !inst.draining {
		inst.draining, inst.why = true, why
		p.draining++
		p.unfree(inst)
	}
}

// rest notes that inst is idle from now on. The lock is held.
func (p *pool) rest(inst *instance) {
	inst.idle = time.Now()
	if p.reaper == nil {
		p.reaper = time.AfterFunc(p.rev.Settings.KeepAlive.D(), p.reap)
	}
}

// reap ends the instances that have been idle for the keep-alive time.
func (p *pool) reap() {
	p.mu.Lock()
	keep := p.rev.Settings.KeepAlive.D()
	var over []*instance
	next := time.Duration(-1)
	for _, inst := range p.free {
		if len(inst.leases) > 0 {
			continue
		}
		if left := keep - time.Since(inst.idle); left <= 0 {
			over = append(over, inst)
		} else if next < 0 || left < next {
			next = left
		}
	}
	for _, inst := range over {
		p.remove(inst, lambent.ReasonIdle)
	}
	p.reaper = nil
	if next >= 0 {
		p.reaper = time.AfterFunc(next, p.reap)
	}
	p.collect()
	p.mu.Unlock()
	p.stop(over)
}

func (p *pool) stop(over []*instance) {
	for _, inst := range over {
		p.d.tasks.run(func() { p.d.stop(inst, p.d.opt.StopGrace) })
	}
}

func (p *pool) retire() {
	p.mu.Lock()
	p.retired = true
	p.retireStreams()
	p.mend("the revision gets no new traffic")
	over := p.idlers(lambent.ReasonRetired)
	p.collect()
	p.mu.Unlock()
	p.stop(over)
}

func (p *pool) refresh() {
	p.mu.Lock()
	p.era++
	p.mend("a secret has changed")
	over := p.idlers(lambent.ReasonStale)
	for inst := range p.all {
		p.drain(inst, lambent.ReasonStale)
	}
	p.startMore()
	p.collect()
	p.mu.Unlock()
	p.stop(over)
}

// idlers removes the idle instances for the reason why, and gives them. The lock is held.
func (p *pool) idlers(why lambent.Reason) []*instance {
	var over []*instance
	for _, inst := range slices.Clone(p.free) {
		if len(inst.leases) == 0 {
			p.remove(inst, why)
			over = append(over, inst)
		}
	}
	return over
}

// watch returns when inst has ended and nothing of it is left, whoever ended it, or another process answers for it.
func (p *pool) watch(inst *instance) {
	select {
	case <-inst.Done():
		p.died(inst)
	case <-inst.handed:
	}
	if inst.placed {
		<-p.d.places
	}
}

// died takes inst, which has ended, out of the pool, clears away what is left of it and tells of its end.
func (p *pool) died(inst *instance) {
	exit := inst.Exit()
	p.mu.Lock()
	if _, member := p.all[inst]; member {
		p.remove(inst, "")
		if inst.why != given {
			inst.why = "" // it may have been draining, but nobody has ended it
			if !exit.Evicted && !inst.answered && time.Since(inst.born) < infancy {
				p.fault(crash(exit), false, true)
			}
		}
		p.startMore()
		p.collect()
	}
	why := inst.why
	p.mu.Unlock()
	inst.Stop(0)
	p.parted(inst, why, exit)
}

// end takes inst out of the pool and stops it, if it is still in it.
func (p *pool) end(inst *instance) {
	p.mu.Lock()
	_, member := p.all[inst]
	if member {
		p.remove(inst, "")
		p.startMore()
		p.collect()
	}
	p.mu.Unlock()
	if member {
		p.d.tasks.run(func() { inst.Stop(0) })
	}
}

// drop ends every instance at once; the node is stopping.
func (p *pool) drop() {
	p.mu.Lock()
	var over []*instance
	for inst := range p.all {
		p.remove(inst, lambent.ReasonShutdown)
		if inst.why != given {
			over = append(over, inst)
		}
	}
	p.gone = true
	p.halt()
	p.fail(errShuttingDown())
	p.mu.Unlock()
	p.stop(over)
}

// remove takes inst out of the pool; why it ends is said here, unless a reason to drain it was given before. The
// lock is held.
func (p *pool) remove(inst *instance, why lambent.Reason) {
	if _, member := p.all[inst]; !member {
		return
	}
	if inst.draining {
		p.draining--
	}
	inst.why = cmp.Or(inst.why, why)
	delete(p.all, inst)
	p.unfree(inst)
}

// collect drops the pool from the dispatcher when nothing is in it, and nothing to be remembered. The lock is held.
func (p *pool) collect() {
	if len(p.all) == 0 && p.waiting.n == 0 && p.starting == 0 && p.circuit.failures == 0 && !p.gone {
		p.gone = true
		p.halt()
		p.d.pools.Delete(p.key)
	}
}

// halt stops the timers of a pool that is gone. The lock is held.
func (p *pool) halt() {
	for _, t := range []*time.Timer{p.reaper, p.retrier, p.circuit.forget, p.streams.retired, p.streams.node} {
		if t != nil {
			t.Stop()
		}
	}
}

// fail answers every waiting caller with err. The lock is held.
func (p *pool) fail(err error) {
	for p.waiting.n > 0 {
		p.waiting.pop().granted <- grant{err: err}
	}
}

func (p *pool) stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{Revision: p.rev, Instances: len(p.all), Starting: p.starting, Waiting: p.waiting.n}
	if p.circuit.open() {
		s.CircuitsOpen = 1
	}
	for inst := range p.all {
		s.InFlight += len(inst.leases)
	}
	return s
}
