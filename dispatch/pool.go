package dispatch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"lambent"
	"lambent/executor"
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
	era      int       // counts refreshes: an instance whose start began in an earlier one is not used
	resume   time.Time // after a failed start, while other instances serve: no start before this
	backoff  time.Duration
	retired  bool
	gone     bool
	reaper   *time.Timer // ends idle instances; nil when none is idle
}

// instance is a member of a pool. Its fields are guarded by the pool's lock.
type instance struct {
	executor.Instance
	pool     *pool
	phases   lambent.Phases // of its start
	used     int
	served   bool // it has been leased before
	draining bool // it takes no more work and ends when used is 0
	suspect  bool // it may be stuck in a request, or must not be used again
	idle     time.Time
}

// lease is one slot of an instance.
type lease struct {
	inst *instance
	cold bool // the caller waited for this instance's start
	once sync.Once
}

// verdict says what is to become of an instance when a lease of it ends.
type verdict int

const (
	idle  verdict = iota // it can serve again
	drain                // it takes no more work; its other requests have a grace to finish
	kill                 // it ends before release returns
)

func (p *pool) slots() int {
	if p.rev.Settings.Reuse == lambent.ReuseNever {
		return 1
	}
	return p.rev.Settings.Concurrency
}

func (p *pool) acquire(ctx context.Context, limit time.Time) (*lease, error) {
	p.mu.Lock()
	if p.gone {
		p.mu.Unlock()
		return nil, errPoolGone
	}
	if n := len(p.free); n > 0 && p.waiting.n == 0 {
		l := p.take(p.free[n-1], false)
		p.mu.Unlock()
		return l, nil
	}
	if s := &p.rev.Settings; p.waiting.n >= s.Queue {
		p.mu.Unlock()
		return nil, lambent.Errorf(lambent.CodeQueueFull, "%d requests already wait for %s/%s", s.Queue, p.rev.Namespace, p.rev.Function).
			WithHint("send less, or raise queue, max_instances (%d) or concurrency (%d)", s.MaxInstances, s.Concurrency)
	}
	w := &waiter{granted: make(chan grant, 1)}
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
			g.lease.release(idle)
		}
	}
	return nil, cause
}

// take leases a slot of a free instance. The lock is held.
func (p *pool) take(inst *instance, cold bool) *lease {
	inst.used++
	inst.served = true
	if inst.used >= p.slots() {
		p.unfree(inst)
	}
	return &lease{inst: inst, cold: cold}
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
		p.waiting.pop().granted <- grant{lease: p.take(inst, cold)}
	}
}

// release ends the lease; only the first call does anything. After kill the instance is gone.
func (l *lease) release(v verdict) {
	l.once.Do(func() { l.inst.pool.release(l.inst, v) })
}

func (p *pool) release(inst *instance, v verdict) {
	if p.rev.Settings.Reuse == lambent.ReuseNever && v == idle {
		v = drain
	}
	p.mu.Lock()
	full := inst.used >= p.slots()
	inst.used--
	_, member := p.all[inst]
	switch {
	case !member:
	case v == kill:
		p.remove(inst)
	case v == drain && !inst.suspect:
		inst.suspect = true
		p.drain(inst)
		if inst.used > 0 {
			time.AfterFunc(p.d.opt.DrainGrace, func() { p.end(inst, 0) })
		}
	case full && !inst.draining:
		p.free = append(p.free, inst)
	}
	member = member && v != kill
	grace := p.d.opt.StopGrace
	over := member && inst.used == 0 && (inst.draining || p.retired && p.waiting.n == 0)
	if over {
		p.remove(inst)
		if inst.suspect {
			grace = 0
		}
	} else if member {
		p.serve()
		if inst.used == 0 {
			p.rest(inst)
		}
	}
	p.startMore()
	p.collect()
	p.mu.Unlock()

	switch {
	case v == kill:
		inst.Stop(0)
	case over:
		p.d.tasks.run(func() { inst.Stop(grace) })
	}
}

// serving tells whether an instance takes more work, now or when it has a free slot. The lock is held.
func (p *pool) serving() bool { return len(p.all) > p.draining }

// drain gives inst no more work. The lock is held.
func (p *pool) drain(inst *instance) {
	if !inst.draining {
		inst.draining = true
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
		if inst.used > 0 {
			continue
		}
		if left := keep - time.Since(inst.idle); left <= 0 {
			over = append(over, inst)
		} else if next < 0 || left < next {
			next = left
		}
	}
	for _, inst := range over {
		p.remove(inst)
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
		p.d.tasks.run(func() { inst.Stop(p.d.opt.StopGrace) })
	}
}

func (p *pool) retire() {
	p.mu.Lock()
	p.retired = true
	over := p.idlers()
	p.collect()
	p.mu.Unlock()
	p.stop(over)
}

func (p *pool) refresh() {
	p.mu.Lock()
	p.era++
	over := p.idlers()
	for inst := range p.all {
		p.drain(inst)
	}
	p.startMore()
	p.collect()
	p.mu.Unlock()
	p.stop(over)
}

// idlers removes the idle instances and gives them. The lock is held.
func (p *pool) idlers() []*instance {
	var over []*instance
	for _, inst := range slices.Clone(p.free) {
		if inst.used == 0 {
			p.remove(inst)
			over = append(over, inst)
		}
	}
	return over
}

// end takes inst out of the pool and stops it, if it is still in it.
func (p *pool) end(inst *instance, grace time.Duration) {
	p.mu.Lock()
	_, member := p.all[inst]
	if member {
		p.remove(inst)
		p.startMore()
		p.collect()
	}
	p.mu.Unlock()
	if member {
		p.d.tasks.run(func() { inst.Stop(grace) })
	}
}

// drop ends every instance at once; the node is stopping.
func (p *pool) drop() {
	p.mu.Lock()
	members := p.all
	p.all, p.free, p.gone = map[*instance]struct{}{}, nil, true
	if p.reaper != nil {
		p.reaper.Stop()
	}
	p.fail(errShuttingDown())
	p.mu.Unlock()
	for inst := range members {
		p.d.tasks.run(func() { inst.Stop(p.d.opt.StopGrace) })
	}
}

func (p *pool) remove(inst *instance) {
	if _, member := p.all[inst]; member && inst.draining {
		p.draining--
	}
	delete(p.all, inst)
	p.unfree(inst)
}

// collect drops the pool from the dispatcher when nothing is in it. The lock is held.
func (p *pool) collect() {
	if len(p.all) == 0 && p.waiting.n == 0 && p.starting == 0 && !p.gone {
		p.gone = true
		if p.reaper != nil {
			p.reaper.Stop()
		}
		p.d.pools.Delete(p.key)
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
	for inst := range p.all {
		s.InFlight += inst.used
	}
	return s
}
