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
	Reason    Reason    `json:"reason,omitempty"`   // of instance.stopped, node.started, and the error code of start.failed
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

// EventKinds are all kinds.
var EventKinds = []EventKind{
	EventInstanceStarted, EventInstanceAdopted, EventInstanceStopped, EventInstanceExited, EventStartFailed,
	EventCircuitOpened, EventCircuitClosed, EventNodeStarted, EventNodeStopping,
	EventUpgradeBegun, EventUpgradeDone, EventUpgradeFailed, EventStorageFull, EventStorageFree,
}

// Reason says why something happened, in a word that metrics can count by.
type Reason string

// Why an instance was stopped.
const (
	ReasonIdle     Reason = "idle"     // for its keep-alive time
	ReasonRetired  Reason = "retired"  // its revision gets no new traffic
	ReasonStale    Reason = "stale"    // a secret that it was started with has changed
	ReasonEvicted  Reason = "evicted"  // its place was needed for another
	ReasonCut      Reason = "cut"      // a request of it was past its time, or its client gone
	ReasonUsed     Reason = "used"     // its function asks for a new one for each request
	ReasonUnwanted Reason = "unwanted" // it was left by the process before, and nothing refers to it
	ReasonShutdown Reason = "shutdown" // its node stops
)

// What a start of a node came after.
const (
	ReasonFirst   Reason = "first" // nothing: the data folder is new
	ReasonClean   Reason = "clean" // a stop
	ReasonCrash   Reason = "crash" // a process that said no good-bye
	ReasonUpgrade Reason = "upgrade"
)
