package daemon

import (
	"context"
	"sync"

	"lambent"
	"lambent/control"
)

// garbage is a collector at work on the stores that are open now.
type garbage struct {
	*control.Collector
	stop context.CancelFunc
	done sync.WaitGroup
}

// collect lets a new collector work in place of the one before, from when the process before has ended: it may use what
// nothing refers to.
func (n *node) collect() {
	n.stopCollecting()
	ctx, stop := context.WithCancel(context.Background())
	n.garbage = &garbage{stop: stop, Collector: control.NewCollector(control.CollectorOptions{
		Store: n.store, Functions: n.table, Code: n.code, Logs: n.past.logs, Live: n.live, Logger: n.log,
	})}
	n.garbage.done.Go(func() {
		if n.before != nil {
			select {
			case <-n.before.gone:
				if err := n.code.Alone(); err != nil {
					n.log.Warn("what the process before has left half received or unpacked stays for now", "err", err)
				}
			case <-ctx.Done():
				return
			}
		}
		n.garbage.Run(ctx)
	})
}

// stopCollecting returns when nothing is collected any more.
func (n *node) stopCollecting() {
	if n.garbage != nil {
		n.garbage.stop()
		n.garbage.done.Wait()
	}
}

// live gives the revisions that have instances or callers.
func (n *node) live(yield func(*lambent.Revision) bool) {
	for s := range n.dispatch.Stats() {
		if s.Instances+s.Starting+s.Waiting > 0 && !yield(s.Revision) {
			return
		}
	}
}
