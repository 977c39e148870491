package lambent

import "time"

// SystemEvent is something that happened to a node or to an instance on it, other than an invocation.
type SystemEvent struct {
	ID        string    `json:"id"` // UUIDv7
	Time      time.Time `json:"time"`
	Kind      EventKind `json:"kind"`
	Namespace string    `json:"namespace,omitempty"` // "" for what concerns the node
	Function  string    `json:"function,omitempty"`
	Revision  string    `json:"revision,omitempty"`
	Instance  string    `json:"instance,omitempty"`
	Text      string    `json:"text,omitempty"`     // what happened and why, for people
	Exit      *Exit     `json:"exit,omitempty"`     // of instance.exited
	Phases    Phases    `json:"phases_ms,omitzero"` // of instance.started
}

// EventKind says what happened.
type EventKind string

// The kinds of system events.
const (
	EventInstanceStarted EventKind = "instance.started"
	EventInstanceAdopted EventKind = "instance.adopted" // by a new process of the node
	EventInstanceStopped EventKind = "instance.stopped" // by the platform; Text says why
	EventInstanceExited  EventKind = "instance.exited"  // by itself; Exit says how
	EventStartFailed     EventKind = "start.failed"
	EventCircuitOpened   EventKind = "circuit.opened" // starts of the revision failed too often
	EventCircuitClosed   EventKind = "circuit.closed"
	EventNodeStarted     EventKind = "node.started" // Text tells after what
	EventNodeStopping    EventKind = "node.stopping"
	EventUpgradeBegun    EventKind = "upgrade.begun"
	EventUpgradeDone     EventKind = "upgrade.done"
	EventUpgradeFailed   EventKind = "upgrade.failed" // the process before goes on to serve
	EventStorageFull     EventKind = "storage.full"
	EventStorageFree     EventKind = "storage.free"
)
