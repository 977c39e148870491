package daemon

import (
	"fmt"
	"os"

	"lambent"
	"lambent/observe/system"
)

// event notes what happened. It never blocks.
func (n *node) event(e lambent.SystemEvent) {
	n.past.event(e)
	n.metrics.Event(e)
}

// openPast opens logs, records and events, and lets the metrics of the node's life go on from before its start.
func (n *node) openPast() error {
	if err := n.past.open(&n.cfg); err != nil {
		return err
	}
	for _, kind := range []lambent.EventKind{"node", "upgrade"} {
		for _, e := range n.past.events.Latest(system.Query{Kind: kind, Limit: 1000}) {
			n.metrics.Event(e)
		}
	}
	return nil
}

// started notes the start of the node, what it came after, and what of that it adopted.
func (n *node) started(adopted string) {
	after, text := lambent.ReasonFirst, "for the first time"
	for range n.past.events.Latest(system.Query{Kind: "node", Limit: 1}) {
		after, text = lambent.ReasonCrash, "after a crash: the process before said no good-bye"
		if n.clean {
			after, text = lambent.ReasonClean, "after a clean stop"
		}
	}
	n.clean = false
	if n.before != nil {
		after, text = lambent.ReasonUpgrade, fmt.Sprintf("in the place of %s, process %d", n.before.Version, n.before.PID)
		n.event(lambent.SystemEvent{Kind: lambent.EventUpgradeDone, Text: fmt.Sprintf("from %s to %s, process %d", n.before.Version, n.cfg.Version, os.Getpid())})
	}
	n.event(lambent.SystemEvent{Kind: lambent.EventNodeStarted, Reason: after, Text: "Lambent " + n.cfg.Version + " serves " + text + adopted})
}

// ending notes that the node begins to stop, for err or because it was told to.
func (n *node) ending(err error) {
	text := "it was told to stop"
	if err != nil {
		text = err.Error()
	}
	n.event(lambent.SystemEvent{Kind: lambent.EventNodeStopping, Text: text})
}
