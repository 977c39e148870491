package dispatch

import (
	"sync"
	"time"

	"lambent"
	"lambent/executor"
)

// instance is a member of a pool. Its fields are guarded by the pool's lock.
type instance struct {
	executor.Instance
	pool     *pool
	phases   lambent.Phases // of its start
	leases   []*lease       // those that are not over
	served   bool           // it has been leased before
	draining bool           // it takes no more work and ends when no lease is left
	suspect  bool           // it may be stuck in a request, or must not be used again
	dead     bool           // it has ended by itself
	answered bool           // a lease of it has ended well
	born     time.Time
	placed   bool           // it holds one of the node's places
	why      lambent.Reason // of its end, when it does not end by itself
	idle     time.Time
	// ended is told of the end of each lease once the instance has been given to another process; handed is closed
	// when it has been.
	ended  func(instance, invocation string, broken bool)
	handed chan struct{}
}

func newInstance(p *pool, inst executor.Instance) *instance {
	return &instance{Instance: inst, pool: p, phases: inst.StartPhases(), born: time.Now(), handed: make(chan struct{})}
}

// hasEnded tells whether its process has.
func (in *instance) hasEnded() bool {
	select {
	case <-in.Done():
		return true
	default:
		return false
	}
}

// lease is one slot of an instance.
type lease struct {
	inst       *instance
	invocation string          // "" for none
	at         int             // in inst.leases
	drain      <-chan struct{} // closed when an exchange without an end of its own is to be ended
	cold       bool            // the caller waited for this instance's start
	foreign    bool            // it is held by the process before this one
	once       sync.Once
}

// lease takes a slot. The pool's lock is held.
func (in *instance) lease(invocation string) *lease {
	l := &lease{inst: in, invocation: invocation, at: len(in.leases)}
	in.leases = append(in.leases, l)
	return l
}

// free gives l's slot back. The pool's lock is held.
func (in *instance) free(l *lease) {
	last := len(in.leases) - 1
	in.leases[l.at] = in.leases[last]
	in.leases[l.at].at = l.at
	in.leases[last] = nil
	in.leases = in.leases[:last]
}

// verdict says what is to become of an instance when a lease of it ends. The worse is the greater.
type verdict int

const (
	unused verdict = iota // nothing came of the lease
	idle                  // it can serve again
	drain                 // it takes no more work; its other requests have a grace to finish
	kill                  // it ends before release returns
	dead                  // it has ended by itself; what is left of it goes
)

// release ends the lease; only the first call does anything. After kill the instance is gone.
func (l *lease) release(v verdict) {
	l.once.Do(func() { l.inst.pool.release(l, v) })
}
