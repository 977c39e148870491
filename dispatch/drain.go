package dispatch

import (
	"time"

	"lambent"
)

// drainage ends the exchanges of a pool that have no end of their own. The pool's lock guards it.
type drainage struct {
	over    chan struct{} // closed when they are to be ended
	closed  bool
	retired *time.Timer // closes over after the revision was retired; nil when it was not
	node    *time.Timer // closes it after the node began to drain; nil when it did not
}

// drainTime is how long they may go on.
func (p *pool) drainTime() time.Duration {
	if t := p.rev.Settings.Timeouts.Drain; t != 0 {
		return t.D()
	}
	return lambent.DefaultDrain.D()
}

func (p *pool) endStreams() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.streams.closed {
		p.streams.closed = true
		close(p.streams.over)
	}
}

// retireStreams ends them when their time is up. The lock is held.
func (p *pool) retireStreams() {
	if p.streams.retired == nil {
		p.streams.retired = time.AfterFunc(p.drainTime(), p.endStreams)
	}
}

// reviveStreams lets them go on, and new ones begin: the revision is in use again. The lock is held.
func (p *pool) reviveStreams() {
	s := &p.streams
	if s.retired == nil {
		return
	}
	s.retired.Stop()
	s.retired = nil
	if s.closed && s.node == nil {
		s.over, s.closed = make(chan struct{}), false
	}
}

// drainStreams ends them after bound at the latest, because the node drains.
func (p *pool) drainStreams(bound time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams.node == nil && !p.gone {
		p.streams.node = time.AfterFunc(min(bound, p.drainTime()), p.endStreams)
	}
}

// BeginDrain says that the node is being stopped or upgraded: the Drain of every response, of those to come too, is
// closed when the Timeouts.Drain of its revision, or bound if that is less, is over.
func (d *Dispatcher) BeginDrain(bound time.Duration) {
	d.drainBound.CompareAndSwap(nil, &bound)
	for _, v := range d.pools.Range {
		v.(*pool).drainStreams(bound)
	}
}
