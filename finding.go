package lambent

// Finding is one thing that `lambent doctor` looked at.
type Finding struct {
	Name   string `json:"name"` // what was looked at: "seccomp", "cgroup memory", "python3.11"
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`         // what was found
	Hint   string `json:"hint,omitempty"` // how to mend it, when not OK
}
