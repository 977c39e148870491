package lambent

import (
	"fmt"
	"time"
)

// Record is what is kept of one invocation.
type Record struct {
	ID        string    `json:"id"`
	Namespace string    `json:"namespace"`
	Function  string    `json:"function"`
	Alias     string    `json:"alias,omitempty"` // by which the revision was chosen
	Revision  string    `json:"revision"`
	Trigger   string    `json:"trigger"`
	Accepted  time.Time `json:"accepted"`
	Method    string    `json:"method"`
	Path      string    `json:"path"` // without the query, which may hold secrets
	Status    int       `json:"status,omitempty"`
	Error     *Error    `json:"error,omitempty"`
	Instance  string    `json:"instance,omitempty"`
	Attempt   int       `json:"attempt,omitempty"` // from 2 on, where an instance has died with it before
	Cold      bool      `json:"cold,omitempty"`
	BytesIn   int64     `json:"bytes_in"`
	BytesOut  int64     `json:"bytes_out"`
	CPU       float64   `json:"cpu_ms,omitempty"` // see Outcome.CPU
	Memory    int64     `json:"memory,omitempty"` // bytes
	Phases    Phases    `json:"phases_ms"`
}

// LogLine is one line that an instance wrote.
type LogLine struct {
	Time      time.Time `json:"time"`
	Namespace string    `json:"namespace"`
	Function  string    `json:"function"`
	Revision  string    `json:"revision"`
	Instance  string    `json:"instance"`
	Stream    string    `json:"stream"` // "stdout", "stderr", or "lambent" for what the platform says of the instance
	// Invocation is set when the instance served just this one when it wrote the line; otherwise InFlight
	// lists those it may belong to.
	Invocation string   `json:"invocation,omitempty"`
	InFlight   []string `json:"in_flight,omitempty"`
	Text       string   `json:"text"` // without the line end, valid UTF-8
}

// Exit says how an instance's process ended.
type Exit struct {
	Code   int    `json:"code"`             // exit code, when Signal is ""
	Signal string `json:"signal,omitempty"` // "SIGKILL", ...
	OOM    bool   `json:"oom,omitempty"`    // the kernel killed it for its memory limit
	Err    string `json:"error,omitempty"`  // the sandbox failed before the process began, or what Evicted is for
	// Evicted says that the platform ended it to have its room, and nothing is wrong with it.
	Evicted bool `json:"-"`
}

// String is a short sentence for messages.
func (e Exit) String() string {
	switch {
	case e.Err != "":
		return e.Err
	case e.OOM:
		return "killed for exceeding its memory limit"
	case e.Signal != "":
		return "killed by " + e.Signal
	}
	return fmt.Sprintf("exited with code %d", e.Code)
}
