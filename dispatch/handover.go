package dispatch

import (
	"context"
	"slices"
	"time"

	"lambent"
	"lambent/executor"
)

// Adopt puts an instance into the pool of rev. inFlight are invocations that the process before this one goes on to
// serve with it: each holds a slot until [Dispatcher.Ended]. It takes one of the node's places if there is one, and is
// not refused for want of it. Whoever calls it keeps Refresh from running between a look at the instance's secrets and the
// return of Adopt. The error is shutting_down; the instance is the caller's then.
func (d *Dispatcher) Adopt(rev *lambent.Revision, inst executor.Adopted, inFlight []string) error {
	for !d.refuse.Load() {
		p := d.pool(rev)
		in := newInstance(p, inst)
		p.mu.Lock()
		if p.gone {
			p.mu.Unlock()
			continue
		}
		// A pool that was made before closing is one that Close finds.
		if d.closing.Err() != nil || !d.tasks.run(func() { p.watch(in) }) {
			p.collect()
			p.mu.Unlock()
			break
		}
		select {
		case d.places <- struct{}{}:
			in.placed = true
		default:
		}
		for _, id := range inFlight {
			in.lease(id).foreign = true
		}
		in.served, in.answered = true, true
		if len(inFlight) > 0 {
			d.shared.Store(in.ID(), in)
		}
		p.all[in] = struct{}{}
		if len(in.leases) < p.slots() {
			p.free = append(p.free, in)
			p.serve()
		}
		if len(in.leases) == 0 {
			p.rest(in)
		}
		p.mu.Unlock()
		p.event(lambent.SystemEvent{Kind: lambent.EventInstanceAdopted, Instance: in.ID()})
		return nil
	}
	return errShuttingDown()
}

// Ended says that the process before this one has come to the end of an invocation that it served with an adopted
// instance: it frees the slot and tells the instance. Broken says that the instance must not be used again, as it may
// still be working on it; at concurrency 1 it is gone when Ended returns. Nothing happens for what Adopt was not told of.
func (d *Dispatcher) Ended(id, invocation string, broken bool) {
	shared, ok := d.shared.Load(id)
	if !ok {
		return
	}
	in := shared.(*instance)
	in.pool.mu.Lock()
	i := slices.IndexFunc(in.leases, func(l *lease) bool { return l.foreign && l.invocation == invocation })
	if i < 0 {
		in.pool.mu.Unlock()
		return
	}
	l := in.leases[i]
	in.pool.mu.Unlock()
	v := idle
	switch {
	case broken && in.pool.slots() == 1:
		v = kill
	case broken:
		v = drain
	}
	d.ended(l, v)
}

// EndedAll says that the process before this one is gone with all that it still served. An instance that served it
// alone may still be working on it and ends.
func (d *Dispatcher) EndedAll() {
	for _, v := range d.shared.Range {
		in := v.(*instance)
		in.pool.mu.Lock()
		left := slices.DeleteFunc(slices.Clone(in.leases), func(l *lease) bool { return !l.foreign })
		in.pool.mu.Unlock()
		for _, l := range left {
			v := idle
			if in.pool.slots() == 1 {
				v = kill
			}
			d.ended(l, v)
		}
	}
}

// ended ends a lease of the process before.
func (d *Dispatcher) ended(l *lease, v verdict) {
	in := l.inst
	in.Instance.(executor.Adopted).Ended(l.invocation)
	l.release(v)
	in.pool.mu.Lock()
	defer in.pool.mu.Unlock()
	if !slices.ContainsFunc(in.leases, func(l *lease) bool { return l.foreign }) {
		d.shared.Delete(in.ID())
	}
}

// Handover gives every instance to another process, each as soon as its pool has no waiting callers and no start under
// way. It calls give once for each, with the invocations in flight, one call after the other; the instance takes no more
// work here then and is not stopped, and ended is called for each of the invocations when it is over, from many goroutines.
// Broken is what [Dispatcher.Ended] wants to know. What could not serve another request, or whose executor
// gives nothing away, ends here as ever. It returns when all are given, or ctx ends.
func (d *Dispatcher) Handover(ctx context.Context, give func(inst executor.Instance, rev *lambent.Revision, inFlight []string), ended func(instance, invocation string, broken bool)) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		done := true
		for _, v := range d.pools.Range {
			done = v.(*pool).handover(give, ended) && done
		}
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// handover gives p's instances away one after the other. It reports false when p still needs them.
func (p *pool) handover(give func(executor.Instance, *lambent.Revision, []string), ended func(instance, invocation string, broken bool)) bool {
	for {
		p.mu.Lock()
		if p.waiting.n > 0 || p.starting > 0 {
			p.mu.Unlock()
			return false
		}
		inst := p.givable()
		if inst == nil {
			p.mu.Unlock()
			return true
		}
		inst.ended = ended
		p.drain(inst, given)
		var inFlight []string
		for _, l := range inst.leases {
			if l.invocation != "" {
				inFlight = append(inFlight, l.invocation)
			}
		}
		if len(inst.leases) == 0 {
			p.remove(inst, given)
			p.collect()
		}
		p.mu.Unlock()
		give(inst.Instance, p.rev, inFlight)
		close(inst.handed)
	}
}

// givable finds an instance that can serve another request, for another process. The lock is held.
func (p *pool) givable() *instance {
	if p.retired || p.rev.Settings.Reuse == lambent.ReuseNever { // nobody adopts what may have been used, and is for one use
		return nil
	}
	for inst := range p.all {
		if _, ok := inst.Instance.(executor.Leaver); ok && !inst.draining {
			return inst
		}
	}
	return nil
}

// tell says that l of an instance that was given away is over, and ends the instance if v wants it dead.
func (in *instance) tell(l *lease, v verdict) {
	<-in.handed // nobody is told of the end of what he has not been told of
	in.ended(in.ID(), l.invocation, v == drain || v == kill)
	if v == kill {
		in.Instance.(executor.Leaver).Kill()
	}
}
