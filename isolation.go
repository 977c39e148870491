package lambent

import (
	"slices"
	"strings"
)

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
	level := slices.Index(isolationLevels, i.Level)
	return level >= 0 && level <= slices.Index(isolationLevels, floor)
}

// Check gives tier_unavailable unless i is at least as strong as floor. Without a floor whatever a node runs
// functions in will do: it is full or userns, unless its operator asked for none.
func (i Isolation) Check(floor string) error {
	if floor == "" || i.Meets(floor) {
		return nil
	}
	return Errorf(CodeTierUnavailable, "this node isolates functions below the floor %s: its level is %s", floor, i).
		WithHint("run it on a node that lacks nothing of it (lambent doctor), or lower floor in its settings")
}

// String says what lacks: "userns, which lacks ...".
func (i Isolation) String() string {
	if len(i.Lacks) == 0 {
		return i.Level
	}
	return i.Level + ", which lacks " + strings.Join(i.Lacks, "; ")
}
