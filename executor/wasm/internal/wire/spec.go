package wire

import (
	"time"

	"lambent/executor/wasm/internal/artefact"
)

// Spec says what a program is, beside its files.
type Spec struct {
	Namespace, Function, Revision string
	Meta                          artefact.Meta
	Env                           [][]byte      // name=value, with the values of secrets, which need not be text
	Memory                        int64         // bytes that one guest's memory may grow to
	MaxOutput                     int64         // bytes of a response's body; -1 for no limit
	CPU                           time.Duration // processor time of one request; 0 for no limit
}

// Hello is what a worker says of itself when it is ready for programs.
type Hello struct {
	// Slow says why guests are not reset but made anew for every request; "" when they are reset.
	Slow string
}
