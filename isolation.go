package lambent

import "slices"

// The levels of isolation that native code can have, the strongest first.
const (
	IsolationFull   = "full"   // namespaces, a user of its own, no privilege, a seccomp filter, limits of memory, CPU and processes
	IsolationUserns = "userns" // the same within a user namespace of a lambent without root; what it cannot have is listed
	IsolationNone   = "none"   // a process beside ours
)

var isolationLevels = []string{IsolationFull, IsolationUserns, IsolationNone}

// Isolation says how strongly a node isolates functions.
type Isolation struct {
	Level string   `json:"level"`
	Lacks []string `json:"lacks,omitempty"` // what of IsolationFull is not there, for people
}

// Meets tells whether i is at least as strong as floor.
func (i Isolation) Meets(floor string) bool {
	return slices.Index(isolationLevels, i.Level) <= slices.Index(isolationLevels, floor)
}
