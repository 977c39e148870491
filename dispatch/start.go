package dispatch

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"sync"
	"time"

	"lambent"
	"lambent/executor"
)

// startMore starts as many instances as the waiting callers need beyond those that are starting. The
// lock is held.
func (p *pool) startMore() {
	s := &p.rev.Settings
	for p.starting*p.slots() < p.waiting.n && len(p.all)-p.draining+p.starting < s.MaxInstances {
		c := &p.circuit
		probe := c.open()
		if (probe || c.failures > 0 && p.serving()) && (p.starting > 0 || time.Now().Before(c.resume)) {
			p.held()
			return
		}
		p.starting++
		if !p.d.tasks.run(func() { p.start(probe) }) {
			p.starting--
			p.fail(errShuttingDown())
			return
		}
	}
}

// start makes one instance for the pool. It runs on its own time, not on that of the caller who caused it. A probe is
// the start that proves whether the circuit can be closed.
func (p *pool) start(probe bool) {
	ctx, cancel := context.WithTimeout(p.d.closing, p.d.opt.StartTimeout)
	defer cancel()
	p.mu.Lock()
	era := p.era
	doubtful := probe && p.circuit.crashed
	p.mu.Unlock()
	inst, err := p.boot(ctx)
	crashed := err == nil && doubtful && !p.survives(inst)
	if crashed {
		err = crash(inst.Exit())
		inst.Stop(0)
		<-p.d.places
	}

	p.mu.Lock()
	p.starting--
	if era != p.era && !p.gone { // however it went, the callers that wait are for what has come since
		p.startMore()
		p.collect()
		p.mu.Unlock()
		if err == nil {
			inst.Stop(0)
			<-p.d.places
		}
		return
	}
	if err != nil {
		e := lambent.ErrorOf(err)
		// A timeout and a stop say nothing of the revision. What the client has to mend, as a module that cannot run, is for
		// certain: there is nothing to try again.
		if e.Code != lambent.CodeQueueTimeout && e.Code != lambent.CodeShuttingDown && e.Fault != lambent.FaultClient {
			p.fault(e, probe, crashed)
		}
		switch {
		case p.serving():
			p.startMore()
		case p.starting == 0:
			p.fail(err)
		}
		p.collect()
		p.mu.Unlock()
		p.failed(e)
		return
	}
	if p.gone { // the node is stopping
		p.mu.Unlock()
		inst.Stop(0)
		<-p.d.places
		return
	}
	if doubtful || !p.circuit.crashed {
		p.mend("an instance has started")
	}
	p.all[inst] = struct{}{}
	p.free = append(p.free, inst)
	p.serve()
	if len(inst.leases) == 0 {
		p.rest(inst)
	}
	p.startMore()
	p.mu.Unlock()
	p.event(lambent.SystemEvent{Kind: lambent.EventInstanceStarted, Instance: inst.ID(), Phases: inst.phases})
	p.d.tasks.wg.Go(func() { p.watch(inst) }) // a task already: start is one
}

// boot waits for a place and a turn, gets the code and starts an instance. On success the caller owes the
// place.
func (p *pool) boot(ctx context.Context) (*instance, error) {
	began := time.Now()
	ex, ok := p.d.opt.Executors[p.rev.Settings.Tier]
	if !ok {
		return nil, lambent.Errorf(lambent.CodeTierUnavailable, "this node has no tier %q", p.rev.Settings.Tier)
	}
	if err := ex.Isolation().Check(p.rev.Settings.Floor); err != nil { // it may have been stronger at the deploy
		return nil, err
	}
	if err := p.d.place(ctx); err != nil {
		return nil, err
	}
	booted := false
	defer func() {
		if !booted {
			<-p.d.places
		}
	}()
	select {
	case p.d.turns <- struct{}{}:
		defer func() { <-p.d.turns }()
	case <-ctx.Done():
		return nil, p.d.late(ctx, "no turn to start came")
	}
	placed := time.Now()
	dir, err := p.d.opt.Tree(ctx, p.rev.Code)
	if err != nil {
		return nil, err
	}
	fetched := time.Now()
	spec := executor.Spec{ID: newInstanceID(), Revision: p.rev, CodeDir: dir, Log: p.d.opt.Log}
	if len(p.rev.Settings.Secrets) > 0 {
		if spec.Secrets, err = p.d.opt.Secrets(ctx, p.rev); err != nil {
			return nil, err
		}
	}
	started, err := ex.Start(ctx, spec)
	if e := lambent.ErrorOf(err); e != nil && e.Fault == lambent.FaultPlatform && e.Code != lambent.CodeTierUnavailable && ctx.Err() == nil {
		p.d.opt.Logger.Warn("start failed, once more", "revision", p.key, "err", err)
		spec.ID = newInstanceID()
		started, err = ex.Start(ctx, spec)
	}
	if err != nil {
		return nil, err
	}
	booted = true
	inst := newInstance(p, started)
	inst.placed = true
	inst.phases[lambent.PhasePlace] = placed.Sub(began)
	inst.phases[lambent.PhaseFetch] = fetched.Sub(placed)
	return inst, nil
}

// place takes one of the node's places; when none is left it ends the instance that has been idle longest.
func (d *Dispatcher) place(ctx context.Context) error {
	select {
	case d.places <- struct{}{}:
		return nil
	default:
	}
	look := time.NewTicker(100 * time.Millisecond) // an instance that becomes idle now is not announced to others
	defer look.Stop()
	for {
		d.reclaim()
		select {
		case d.places <- struct{}{}:
			return nil
		case <-look.C:
		case <-ctx.Done():
			return d.late(ctx, "all of the node's places are taken")
		}
	}
}

func (d *Dispatcher) late(ctx context.Context, what string) error {
	if d.closing.Err() != nil {
		return errShuttingDown()
	}
	return lambent.Errorf(lambent.CodeQueueTimeout, "%s within %s: %w", what, d.opt.StartTimeout, ctx.Err()).
		WithHint("the node runs at most %d instances, %d starts at a time", d.opt.MaxInstances, d.opt.Starts)
}

func (d *Dispatcher) reclaim() {
	var oldest *instance
	var since time.Time
	for _, v := range d.pools.Range {
		p := v.(*pool)
		p.mu.Lock()
		for _, inst := range p.free {
			if len(inst.leases) == 0 && (oldest == nil || inst.idle.Before(since)) {
				oldest, since = inst, inst.idle
			}
		}
		p.mu.Unlock()
	}
	if oldest == nil {
		return
	}
	p := oldest.pool
	p.mu.Lock()
	_, member := p.all[oldest]
	member = member && len(oldest.leases) == 0
	if member {
		p.remove(oldest, lambent.ReasonEvicted)
		p.collect()
	}
	p.mu.Unlock()
	if member {
		d.tasks.run(func() { d.stop(oldest, d.opt.StopGrace) })
	}
}

var idEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// newInstanceID gives 16 characters that sort by time: 48 bits of Unix milliseconds and 32 random bits.
func newInstanceID() string {
	var b [14]byte
	binary.BigEndian.PutUint64(b[:8], uint64(time.Now().UnixMilli()))
	rand.Read(b[8:12])
	return idEncoding.EncodeToString(b[2:12])
}

// tasks runs what must be over before Close returns.
type tasks struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// run runs f in a goroutine; after closeAndWait it refuses.
func (t *tasks) run(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(f)
	return true
}

// closeAndWait runs last, which may still run tasks, and waits until all are over.
func (t *tasks) closeAndWait(last func()) {
	last()
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wg.Wait()
}
