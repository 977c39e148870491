// Package sandbox holds the words that a host and its lambent-init exchange: the Spec that one is started
// with, the JSON lines that both write on the control socket, and the packets on the socket for Dial.
//
// lambent-init accepts any number of hosts, one after the other or at once; each is told again what has
// happened so far, and one that takes the place of another asks for its ends of the function's pipes. It imports the standard library only, because lambent-init must stay small.
package sandbox

import "time"

// The descriptors that lambent-init is started with, beside 0, 1 and 2, which the function inherits.
const (
	FDListen  = 3 + iota // listening socket of the function, or pipe or socket of a job, which inherits it under this number
	FDControl            // listening socket of lambent-init
	FDSpec               // the Spec as JSON, to be read to its end
	FDExit               // file for the last Report
	FDDial               // listening socket of lambent-init for Dial, one packet each way
	FDProgram            // lambent-init itself
	FDStdout             // read end of the function's output, with Spec.Keep
	FDStderr             // and of its errors
	FDExec               // the program, with Spec.Exec
	FDCount
)

// The values of Spec.Level; lambent's levels of isolation have the same names.
const (
	Full   = "full"   // started by root in new namespaces
	Userns = "userns" // started in a new user namespace too, whose one user is 0 inside
	None   = "none"   // started without namespaces, by anybody but root: the function sees the host, and paths are the host's
)

// Folders of the function inside.
const (
	CodeDir    = "/var/task"
	RuntimeDir = "/var/runtime"
	WorkDir    = "/work"
	SecretsDir = "/run/secrets"
)

// Folder is a folder of the host that is shown read-only.
type Folder struct {
	Host   string
	Inside string // a child of /var
}

// Spec says what to make and run.
type Spec struct {
	Level    string        // Full, Userns or None
	Root     string        // empty folder of the host where the new root is put together
	Code     string        // folder of the host for CodeDir
	Runtime  string        // folder of the host for RuntimeDir; "" for none
	Folders  []Folder      // further ones
	Work     int64         // room in WorkDir, where the program begins then; 0 for no such folder
	Hostname string        // at most 64 bytes
	Hosts    string        // lines that /etc/hosts begins with
	Listen   []Address     // where it listens inside for the host, which gets the sockets; see Report.Listening
	ID       int           // user and group of the function; not with None
	TmpBytes int64         // room in /tmp, and in /dev/shm
	Argv     []string      // Argv[0] is a path inside, or with Exec just a name
	Exec     bool          // the program is FDExec
	Env      []string      // without LISTEN_PID, which lambent-init adds
	Pids     int           // limit of processes and threads where Join has none; with Userns only
	Filter   []byte        // seccomp filter: the instructions as the kernel has them in memory
	Join     []string      // files of the host by which a process joins the function's cgroups, see cgroup.Group
	Orphan   time.Duration // how long it lives without a host
	Keep     bool          // it keeps what another host needs to take it over, see Order.Adopt
	Secrets  Secrets
}

// Address is where a TCP socket listens.
type Address struct {
	IP   [4]byte
	Port uint16
}

// Dial asks lambent-init for a connection to a port of the sandbox's own loopback, which no host can reach.
// A host sends it as one packet on a connection to FDDial of its own, and gives up by closing that.
type Dial struct {
	Port uint16        `json:"port"`
	Wait time.Duration `json:"wait,omitempty"` // how long to try while nobody listens; at most MaxDialWait
}

// MaxDialWait bounds Dial.Wait.
const MaxDialWait = 10 * time.Minute

// Dialled is the answer to Dial. When Errno is 0 the connected socket comes with it (SCM_RIGHTS).
type Dialled struct {
	Errno int `json:"errno"`
}

// Secrets are what the function gets beside Env and nobody else may see: lambent-init clears its memory of them.
type Secrets struct {
	Env   map[string][]byte // by the name of the variable
	Files map[string][]byte // by the name of the file in SecretsDir
}

// Report is a line from lambent-init. One field is set.
type Report struct {
	// Kept answers Order.Adopt. With this line come FDListen, FDStdout and FDStderr (SCM_RIGHTS), in this order, if Spec.Keep is set.
	Kept      bool `json:"kept,omitempty"`
	Listening bool `json:"listening,omitempty"` // the sockets of Spec.Listen come with this line (SCM_RIGHTS), in their order
	// Ordered is what a host has ordered that ends the program. All hosts are told of it before it is done.
	Ordered *Order   `json:"ordered,omitempty"`
	Exec    *Exec    `json:"exec,omitempty"`
	Error   *Failure `json:"error,omitempty"`
	Exit    *Exit    `json:"exit,omitempty"`
}

// Exec says that the function's program has begun.
type Exec struct {
	PID int   `json:"pid"` // inside
	At  int64 `json:"at"`  // CLOCK_MONOTONIC in ns, just before its exec
}

// Failure says that the function's program has not begun; lambent-init ends.
type Failure struct {
	Step string `json:"step"` // "mount /usr", or StepExec
	Err  string `json:"error"`
}

// StepExec is the step in which the kernel refused the program itself.
const StepExec = "exec"

// Exit says how the function's program ended; lambent-init ends, and all that runs inside with it.
type Exit struct {
	Code   int    `json:"code"`
	Signal string `json:"signal,omitempty"` // "SIGKILL", ...; then Code is 0
	At     int64  `json:"at"`               // CLOCK_MONOTONIC in ns
}

// Order is a line to lambent-init.
type Order struct {
	// Stop asks the program to end: SIGTERM now, SIGKILL after Grace. Without Grace all ends at once.
	Stop  bool          `json:"stop,omitempty"`
	Grace time.Duration `json:"grace,omitempty"`
	// OutOfMemory says why, together with Stop: the program has more memory than it may.
	OutOfMemory bool `json:"out_of_memory,omitempty"`
	// Adopt takes over: it asks for what that needs. The first host need not say it.
	Adopt bool `json:"adopt,omitempty"`
	// Leave says that the host goes on to listen to reports, but that what comes of the program is for another host.
	Leave bool `json:"leave,omitempty"`
}
