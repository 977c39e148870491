package lambent

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Invoker is the one door: every call, whatever caused it, goes through it, so that metering, tracing,
// limits and logs are written once, as wrappers of it.
//
// Invoke hands inv to its function. On success the response must be closed; on error there is none, and
// the error is or wraps an *Error. inv.Outcome is complete when Invoke has returned an error or when the
// response's body has been closed, and inv must not be changed in between, Outcome.Ended excepted. When ctx
// ends, the work is cancelled. Invoke never returns while inv.Body is still being read, and neither does
// Body.Close.
type Invoker interface {
	Invoke(ctx context.Context, inv *Invocation) (*Response, error)
}

// The values of Invocation.Trigger.
const (
	TriggerHTTP   = "http"   // an HTTP request at the gateway
	TriggerInvoke = "invoke" // a payload sent to the control API
)

// Invocation is one call: an HTTP request, what it is for, and how it went.
type Invocation struct {
	ID       string // UUIDv7
	Alias    string // by which Revision was chosen
	Revision *Revision
	Trigger  string
	Accepted time.Time // when the door had the request's head
	Attempt  int       // how often it has been handed to an instance that died with it, and this time; 0 counts as 1

	Method        string
	Target        string        // origin-form: path and query, as the function shall see them
	Host          string        // the Host that the client sent
	Header        http.Header   // without hop-by-hop fields
	ContentLength int64         // -1 when unknown
	Body          io.ReadCloser // nil when there is none; Close ends a Read that waits
	Trailer       http.Header   // of the request; complete once Body gave io.EOF
	Upgrade       string        // protocol that the client asks to switch to, or ""

	// Route is the custom route that chose the function, by method and path, such as "GET /users/{id}" or
	// "ANY /{rest...}"; "" when none did. PathParameters are what its parameters stood for.
	Route          string
	PathParameters url.Values

	Outcome Outcome
}

// Response is a function's answer. Body is never nil and must be closed, which ends a Read that waits in another
// goroutine. After Status 101 Body is an [UpgradedBody].
type Response struct {
	Status        int
	Header        http.Header // without hop-by-hop fields
	ContentLength int64       // -1 when unknown
	Body          io.ReadCloser
	Trailer       http.Header // complete once Body gave io.EOF
	// Drain is closed when an exchange without an end of its own is to be ended, in the way that its protocol has for
	// that: its revision was replaced, or its node is being stopped or upgraded, Timeouts.Drain ago. Others go on. It
	// is nil where that never happens.
	Drain <-chan struct{}
}

// UpgradedBody is the function's side of a switched connection, both ways. Read and Write may run at the
// same time; Close ends both.
type UpgradedBody interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Outcome tells how an invocation went.
type Outcome struct {
	Status   int    // the function's status; 0 when it gave none
	Err      *Error // nil when the whole answer was delivered
	Instance string // "" when none was reached
	Cold     bool   // it waited for an instance to start
	BytesIn  int64  // of the request's body, as far as it was handed over
	BytesOut int64  // of the response's body, as far as it was read
	// CPU and Memory are what it used by itself, where its tier can tell one invocation's part: processor time, and
	// the most memory that it had, in bytes.
	CPU    time.Duration
	Memory int64
	Phases Phases
	// Ended is set by a door, before it closes the response's body, when it has ended the answer itself where its
	// protocol allows that: what was delivered is the whole of it.
	Ended bool
}

// Phase is a part of an invocation's time.
type Phase uint8

// The phases, in the order in which they happen. A warm invocation has queue, handler and respond only.
const (
	PhaseQueue   Phase = iota // waiting for a slot, beyond the phases of a start that it waited for
	PhasePlace                // deciding to start an instance and waiting for a turn to
	PhaseFetch                // getting the code ready on this node
	PhaseSandbox              // making the sandbox, to the exec of the runtime
	PhaseBoot                 // the runtime, to the first line of ours or to readiness
	PhaseLoad                 // loading the handler
	PhaseHandler              // from hand-over to the head of the response
	PhaseRespond              // from the head of the response to its last byte
	phaseCount
)

var phaseNames = [phaseCount]string{"queue", "place", "fetch", "sandbox", "boot", "load", "handler", "respond"}

// String is the phase's name.
func (p Phase) String() string { return phaseNames[p] }

// Phases is the time spent in each phase. It reads and writes as a JSON object of milliseconds by name.
type Phases [phaseCount]time.Duration

// Total is the sum of the phases.
func (p Phases) Total() time.Duration {
	var sum time.Duration
	for _, d := range p {
		sum += d
	}
	return sum
}

// MarshalJSON writes the phases that took time, in their order.
func (p Phases) MarshalJSON() ([]byte, error) {
	return p.appendJSON(make([]byte, 0, 128)), nil
}

func (p Phases) appendJSON(b []byte) []byte {
	b = append(b, '{')
	first := true
	for i, d := range p {
		if d == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(append(append(b, '"'), phaseNames[i]...), `":`...)
		b = strconv.AppendFloat(b, float64(d)/float64(time.Millisecond), 'f', 3, 64)
	}
	return append(b, '}')
}

// UnmarshalJSON reads what MarshalJSON writes.
func (p *Phases) UnmarshalJSON(raw []byte) error {
	var ms map[string]float64
	if err := json.Unmarshal(raw, &ms); err != nil {
		return err
	}
	*p = Phases{}
	for i, name := range phaseNames {
		p[i] = time.Duration(ms[name] * float64(time.Millisecond))
	}
	return nil
}
