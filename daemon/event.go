package daemon

import (
	"context"

	"lambent"
	"lambent/observe/system"
)

// event notes what happened. It never blocks.
func (n *node) event(e lambent.SystemEvent) {
	n.events.Add(e)
	n.metrics.Event(e)
}

// recount lets the metrics of the node's life go on from before its start.
func (n *node) recount() {
	for _, kind := range []lambent.EventKind{"node", "upgrade"} {
		for e := range n.events.Read(context.Background(), system.Query{Kind: kind, Limit: 1000}) {
			n.metrics.Event(e)
		}
	}
}

// started notes the start of the node, and what it came after.
func (n *node) started() {
	after, text := lambent.ReasonFirst, "for the first time"
	for e := range n.events.Read(context.Background(), system.Query{Kind: "node", Limit: 1}) {
		after, text = lambent.ReasonCrash, "after a crash: the process before said no good-bye"
		if e.Kind == lambent.EventNodeStopping {
			after, text = lambent.ReasonClean, "after a clean stop"
		}
	}
	n.event(lambent.SystemEvent{Kind: lambent.EventNodeStarted, Reason: after, Text: "Lambent " + n.cfg.Version + " serves " + text})
}

// stopping notes that the node begins to stop, for err or because it was told to.
func (n *node) stopping(err error) {
	text := "it was told to stop"
	if err != nil {
		text = err.Error()
	}
	n.event(lambent.SystemEvent{Kind: lambent.EventNodeStopping, Text: text})
}
