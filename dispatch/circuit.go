package dispatch

import (
	"math/rand/v2"
	"time"

	"lambent"
)

const (
	// tolerated failures leave the circuit closed: one burst of callers starts several instances at once, and who mends
	// a function by trying shall see what is wrong with it.
	tolerated    = 4
	firstBackoff = 100 * time.Millisecond // between starts while other instances serve
	openBackoff  = time.Second            // first one of an open circuit
	maxBackoff   = time.Minute
	// infancy is how long an instance must live to have been started well, if it has answered nothing by then.
	infancy = 2 * time.Second
	// remembered is how long a failure counts. It is longer than maxBackoff, so that a revision that is called is never forgotten.
	remembered = 5 * time.Minute
)

// circuit knows the failures in a row to start an instance of a revision. From the one that is not tolerated on it is
// open: who finds no instance is refused at once, but for one in a while, who waits for a start that proves whether they still
// fail. The pool's lock guards it.
type circuit struct {
	failures int
	last     *lambent.Error
	crashed  bool // the last instance was ready, and died at once
	backoff  time.Duration
	resume   time.Time   // no start before this while the circuit is open, or other instances serve
	forget   *time.Timer // nil without failures
}

func (c *circuit) open() bool { return c.failures > tolerated }

// fault counts a failure. Of a circuit that is open only a probe says anything new: others began before.
// The lock is held.
func (p *pool) fault(e *lambent.Error, probe, crashed bool) {
	c := &p.circuit
	before := c.open()
	if before && !probe {
		return
	}
	c.failures++
	c.last, c.crashed = e, crashed
	jitter := time.Duration(0)
	switch {
	case before:
		c.backoff = min(2*c.backoff, maxBackoff)
	case c.open():
		c.backoff = openBackoff
		p.event(lambent.SystemEvent{Kind: lambent.EventCircuitOpened, Reason: lambent.Reason(e.Code), Text: "starts fail again and again: " + e.Message})
	default:
		c.backoff = min(max(firstBackoff, 2*c.backoff), openBackoff)
	}
	if c.open() { // many revisions may fail for one reason
		jitter = rand.N(c.backoff / 4)
	}
	c.resume = time.Now().Add(c.backoff + jitter)
	if c.forget == nil {
		c.forget = time.AfterFunc(remembered, p.forget)
	} else {
		c.forget.Reset(remembered)
	}
}

// mend closes the circuit, because of what why says. The lock is held.
func (p *pool) mend(why string) {
	c := &p.circuit
	if c.open() {
		p.event(lambent.SystemEvent{Kind: lambent.EventCircuitClosed, Text: why})
	}
	if c.forget != nil {
		c.forget.Stop()
	}
	*c = circuit{}
}

func (p *pool) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		p.mend("nothing has been started for a while")
		p.startMore()
		p.collect()
	}
}

// refuses tells whether a caller that finds no instance is refused. The lock is held.
func (p *pool) refuses() bool {
	return p.circuit.open() && !p.serving() && (p.starting > 0 || time.Now().Before(p.circuit.resume))
}

// refusal is the error of those that are refused. The lock is held.
func (p *pool) refusal() *lambent.Error {
	last := p.circuit.last
	e := lambent.Errorf(lambent.CodeCircuitOpen, "%s/%s does not start: %s", p.rev.Namespace, p.rev.Function, last.Message)
	e.Fault, e.Hint, e.Trace = last.Fault, last.Hint, last.Trace
	e.RetryAfter = max(time.Until(p.circuit.resume), time.Second)
	return e
}

// Circuit gives the error of callers that find no instance of rev, while starts fail again and again; nil otherwise.
func (d *Dispatcher) Circuit(rev *lambent.Revision) *lambent.Error {
	v, ok := d.pools.Load(rev.Key())
	if !ok {
		return nil
	}
	p := v.(*pool)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.circuit.open() {
		return nil
	}
	return p.refusal()
}

// held sees to the callers that wait while the circuit keeps p from starting anything: they wait for the
// instances that serve and the next attempt, if there are any. The lock is held.
func (p *pool) held() {
	switch {
	case p.starting > 0:
	case !p.serving():
		p.fail(p.refusal())
	case p.retrier == nil:
		p.retrier = time.AfterFunc(time.Until(p.circuit.resume), p.retry)
	}
}

// retry starts what the waiting callers still need.
func (p *pool) retry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retrier = nil
	if !p.gone {
		p.startMore()
	}
}

// crash is the failure of an instance that died in its infancy.
func crash(exit lambent.Exit) *lambent.Error {
	code := lambent.CodeInstanceExited
	if exit.OOM {
		code = lambent.CodeMemoryExceeded
	}
	return lambent.Errorf(code, "%s right after it was ready, before its first answer", exit)
}

// survives tells whether an instance outlives its infancy while it serves nobody. Where requests may be what
// ends instances, and not their start, it shows which.
func (p *pool) survives(inst *instance) bool {
	select {
	case <-inst.Done():
		return false
	case <-time.After(infancy):
		return true
	case <-p.d.closing.Done():
		return true
	}
}
