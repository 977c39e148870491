package daemon

import (
	"log/slog"
	"sync"

	"lambent"
	"lambent/internal/handover"
)

// protocol is the version of what two processes of an upgrade say to each other. An upgrade to one that speaks
// another is refused before anything is given up.
const protocol = 1

// message is what they say. One of the pointers is set, or Step, or Late.
type message struct {
	Step  step           `json:"step,omitempty"`
	Hello *hello         `json:"hello,omitempty"` // with saysHello
	Heir  *inheritance   `json:"heir,omitempty"`  // with saysInherit
	Error *lambent.Error `json:"error,omitempty"` // of the new process, which ends
	// Late names the listener that a late request came to; the descriptor is a connection for such requests.
	Late string `json:"late,omitempty"`

	Given  *given               `json:"given,omitempty"`
	Ended  *ended               `json:"ended,omitempty"`
	Line   *lambent.LogLine     `json:"line,omitempty"`
	Record *lambent.Record      `json:"record,omitempty"`
	Event  *lambent.SystemEvent `json:"event,omitempty"`

	sent chan<- struct{} // closed when it is sent, if not nil
}

// step is a step of an upgrade, in the order of the package's documentation.
type step string

const (
	saysHello    step = "hello"    // new: I am; with what it speaks
	saysInherit  step = "inherit"  // old: with the descriptors of lock, listeners and stderr
	saysPrepared step = "prepared" // new: what needs no store is open
	saysFree     step = "free"     // old: the store is closed
	saysReady    step = "ready"    // new: the store is open
	saysGo       step = "go"       // old: it accepts no more, logs and records are closed
	saysOpen     step = "open"     // new: they are open
	saysServe    step = "serve"    // old: from here there is no way back
	saysSettled  step = "settled"  // old: what can be given at once has been given
	saysServing  step = "serving"  // new: it accepts
)

type hello struct {
	Protocol int    `json:"protocol"`
	Version  string `json:"version"`
	PID      int    `json:"pid"`
}

// inheritance is what comes with the descriptors: those of the lock, of stderr, and
// of the listeners for functions, control and local commands.
type inheritance struct {
	PID     int    `json:"pid"` // of the old process
	Version string `json:"version"`
	Half    int    `json:"half"` // of the users of instances, for the new process
}

// given is an instance that the new process answers for from now on.
type given struct {
	Instance string            `json:"instance"`
	Revision *lambent.Revision `json:"revision"`
	InFlight []string          `json:"in_flight,omitempty"` // what the old process goes on to serve with it
}

// ended is the end of such an invocation.
type ended struct {
	Instance   string `json:"instance"`
	Invocation string `json:"invocation"`
	Broken     bool   `json:"broken,omitempty"` // see dispatch.Dispatcher.Ended
}

// outbox keeps messages until the other process takes them, so that nobody waits for it.
type outbox struct {
	more chan struct{}

	mu       sync.Mutex // guards what follows
	messages []message
	bytes    int // of what may be lost and is not sent
	lost     int // by number
	closed   bool
}

// maxOutbox bounds what lines and records that wait may take in memory, in bytes.
const maxOutbox = 64 << 20

func newOutbox() *outbox { return &outbox{more: make(chan struct{}, 1)} }

// put keeps m. Lines, records and events are lost, and counted, when there are too many.
func (o *outbox) put(m message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	size := m.size()
	if size > 0 && o.bytes+size > maxOutbox {
		o.lost++
		return
	}
	o.bytes += size
	o.messages = append(o.messages, m)
	o.wake()
}

// size is about what a message that may be lost takes in memory, in bytes; 0 for one that may not.
func (m *message) size() int {
	switch {
	case m.Line != nil:
		return 1<<10 + len(m.Line.Text)
	case m.Record != nil, m.Event != nil:
		return 1 << 10
	}
	return 0
}

// tellLost tells how much was lost.
func (o *outbox) tellLost(log *slog.Logger) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lost > 0 {
		log.Warn("lines of logs, records and events were lost: too many came at a time", "lost", o.lost)
	}
}

func (o *outbox) wake() {
	select {
	case o.more <- struct{}{}:
	default:
	}
}

// take gives what there is. It goes on to take its room until it is sent.
func (o *outbox) take() (messages []message, closed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	messages, o.messages = o.messages, nil
	return messages, o.closed
}

// free makes room for others.
func (o *outbox) free(bytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes -= bytes
}

// close ends sendTo when all has been sent.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.wake()
}

// sendTo sends what was put and is put, until the outbox is closed or the connection breaks.
func (o *outbox) sendTo(conn *handover.Conn) error {
	for range o.more {
		messages, closed := o.take()
		for _, m := range messages {
			if err := conn.Send(m); err != nil {
				return err
			}
			o.free(m.size())
			if m.sent != nil {
				close(m.sent)
			}
		}
		if closed {
			return nil
		}
	}
	return nil
}
