// Package fault breaks the file system, or the end, of a real process on purpose. It is for tests, and needs nothing
// of the program that it breaks.
//
// The process runs under a seccomp filter that stops the calls which change files and asks a supervisor in the test
// (SECCOMP_RET_USER_NOTIF, see seccomp_unotify(2)). A [Rule] decides on each: let it go on, later, fail it, do half of
// it, or kill the process right before it. Its children are under the same filter, and their calls go on unseen.
package fault

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Call is a system call that the process is about to make on a file below the folder.
type Call struct {
	Name string // such as "fsync" or "renameat"
	Path string // the file, absolute
	To   string // the new name, of a renameat or linkat
	Nth  int    // counts the calls from 1

}

// Below tells whether the call is on a file in the folder dir, however deep.
func (c *Call) Below(dir string) bool { return strings.HasPrefix(c.Path, dir+"/") || c.Path == dir }

// Rule decides on a call. Several goroutines may ask at a time.
type Rule func(c *Call) Verdict

// Verdict is what becomes of a call; the zero Verdict lets it go on.
type Verdict struct {
	Delay time.Duration // before the rest
	Errno unix.Errno    // fail it with this, and do nothing
	Lose  bool          // with an Errno, of a sync: what was written to the file since its last sync becomes zeros
	Tear  bool          // of a pwrite64: write the first half only, then kill
	Kill  bool          // kill the process, as by kill -9, before the call
}

// Process is a process under a rule.
type Process struct {
	dir    string
	pid    int
	notify *os.File
	stop   *os.File // closed: the supervisor ends

	mu     sync.Mutex // guards what is below
	rule   Rule
	trace  []*Call
	asked  int
	dirty  map[string][]span // by path: what was written since the last sync
	killed bool

	working sync.WaitGroup
}

// Start starts cmd, and asks rule for each call that its process makes on files below dir. The test's TestMain must have
// called [Launch]. The supervisor ends with ctx, or when the process and all its children have ended; children that
// are left then get ENOSYS for what the filter stops. The caller waits for cmd.
func Start(ctx context.Context, cmd *exec.Cmd, dir string, rule Rule) (*Process, error) {
	notify, err := launch(cmd)
	if err != nil {
		return nil, err
	}
	ended, stop, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, notify.Close(), cmd.Process.Kill())
	}
	p := &Process{dir: dir, pid: cmd.Process.Pid, notify: notify, stop: stop, rule: rule, dirty: map[string][]span{}}
	forget := context.AfterFunc(ctx, func() { stop.Close() })
	p.working.Go(func() {
		p.supervise(ended)
		forget()
	})
	return p, nil
}

// SetRule replaces the rule.
func (p *Process) SetRule(rule Rule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = rule
}

// Trace gives the calls so far that went on, in the order in which they were answered; those that failed or that
// killed the process are not among them.
func (p *Process) Trace() []*Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trace[:len(p.trace):len(p.trace)]
}

// Killed tells whether a verdict has killed the process.
func (p *Process) Killed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.killed
}

// Wait returns when the supervisor has ended.
func (p *Process) Wait() { p.working.Wait() }
