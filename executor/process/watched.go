package process

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"lambent/executor"
	"lambent/internal/cgroup"
	"lambent/internal/sandbox"
)

// resources limits and measures what runs in an instance.
type resources interface {
	Start(path string, argv []string, attr *os.ProcAttr) (*os.Process, error)
	JoinFiles() []string
	OOMKills() (int64, error)
	Empty() (bool, error)
	Usage() (cpu time.Duration, peak int64, err error)
	Remove() error
}

var (
	_ resources = (*cgroup.Group)(nil)
	_ resources = (*watched)(nil)
)

// How often a watched instance is looked at: often while it uses processor time, seldom while it sleeps.
const (
	lookOften  = 50 * time.Millisecond
	lookSeldom = time.Second
)

// watched stands in for a cgroup where there is none: it looks how much memory the instance has, and kills it
// when that is over the limit. What comes and goes between two looks stays unseen.
type watched struct {
	limit   int64
	private bool // it has a /tmp and a /dev/shm of its own
	process supervisor
	pid     int // of process
	stop    chan struct{}
	stopped sync.Once

	mu       sync.Mutex // guards what is below
	usage    executor.Usage
	exceeded bool
	ended    bool
	warn     func() // called before the instance is killed, if not nil
}

func newWatched(limit int64, private bool) *watched {
	return &watched{limit: limit, private: private, stop: make(chan struct{})}
}

// Start starts lambent-init and watches what it starts.
func (w *watched) Start(path string, argv []string, attr *os.ProcAttr) (*os.Process, error) {
	p, err := os.StartProcess(path, argv, attr)
	if err != nil {
		return nil, err
	}
	w.begin(p, p.Pid)
	return p, nil
}

// begin watches what a lambent-init starts.
func (w *watched) begin(p supervisor, pid int) {
	w.process, w.pid = p, pid
	go w.watch()
}

func (w *watched) watch() {
	wait := lookOften
	var cpu time.Duration
	for {
		select {
		case <-time.After(wait):
		case <-w.stop:
			return
		}
		used, memory := w.look()
		if memory > w.limit {
			w.kill()
			return
		}
		wait = min(2*wait, lookSeldom)
		if used > cpu {
			cpu, wait = used, lookOften
		}
	}
}

// kill ends lambent-init, and says before that why.
func (w *watched) kill() {
	if warn := w.exceed(); warn != nil {
		warn()
	}
	if !w.private {
		killBelow(w.process, w.pid)
	}
	_ = w.process.Kill() // an error means that it has ended
}

// exceed notes that the memory is over the limit, and gives whom to tell.
func (w *watched) exceed() (warn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.exceeded = true
	return w.warn
}

// onKill has f called before the instance is killed.
func (w *watched) onKill(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.warn = f
}

// killBelow kills what runs below a lambent-init, unless that has been waited for: then its pid may be another's.
func killBelow(p supervisor, pid int) {
	if p.Signal(syscall.Signal(0)) == nil {
		sandbox.KillBelow(pid)
	}
}

// look measures the processor time so far and the memory now.
func (w *watched) look() (cpu time.Duration, total int64) {
	var anonymous, shared int64
	// What lambent-init has waited for counts as its children's.
	below := sandbox.Below(w.pid)
	for i, pid := range append([]int{w.pid}, below...) {
		cpu += ticks(pid, i > 0)
		if i > 0 {
			a, s := memory(pid)
			anonymous, shared = anonymous+a, shared+s
		}
	}
	if w.private && len(below) > 0 { // before it has a child its root is still the host's
		var files int64
		for _, dir := range []string{"/tmp", "/dev/shm", sandbox.WorkDir} {
			var fs syscall.Statfs_t
			if syscall.Statfs(fmt.Sprintf("/proc/%d/root%s", w.pid, dir), &fs) == nil {
				files += int64(fs.Blocks-fs.Bfree) * fs.Bsize
			}
		}
		shared = max(shared, files) // files that are mapped are in both
	}
	total = anonymous + shared
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended { // the pid may be another's
		return 0, 0
	}
	w.usage.CPU = max(w.usage.CPU, cpu)
	w.usage.MemoryPeak = max(w.usage.MemoryPeak, total)
	return cpu, total
}

// tick is the unit of times in /proc, the same on all architectures of Linux that Go knows.
const tick = 10 * time.Millisecond

// ticks is the processor time of a process's children that it has waited for, and its own if asked for.
func ticks(pid int, own bool) (sum time.Duration) {
	stat, err := sandbox.Stat(pid)
	if err != nil {
		return 0 // it has ended
	}
	fields := stat[13:15] // cutime and cstime
	if own {
		fields = stat[11:15]
	}
	for _, field := range fields {
		n, err := strconv.ParseInt(field, 10, 64)
		if err == nil {
			sum += time.Duration(n) * tick
		}
	}
	return sum
}

// memory is the process's share of the memory that is no file's, swapped out or not, in bytes: private, and in
// shared mappings. Pages that several processes have are divided among them.
func memory(pid int) (anonymous, shared int64) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0 // it has ended
	}
	for line := range bytes.Lines(raw) {
		fields := bytes.Fields(line)
		if len(fields) != 3 {
			continue
		}
		kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
		if err != nil {
			continue
		}
		switch string(fields[0]) {
		case "Pss_Anon:", "SwapPss:":
			anonymous += kib << 10
		case "Pss_Shmem:":
			shared += kib << 10
		}
	}
	return anonymous, shared
}

// JoinFiles gives none: there is nothing to join.
func (w *watched) JoinFiles() []string { return nil }

// OOMKills tells whether the watch has killed the instance.
func (w *watched) OOMKills() (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.exceeded {
		return 1, nil
	}
	return 0, nil
}

// Empty tells whether nothing runs below lambent-init.
func (w *watched) Empty() (bool, error) { return len(sandbox.Below(w.pid)) == 0, nil }

// Usage is what is seen now, and all of it at the end.
func (w *watched) Usage() (time.Duration, int64, error) {
	if w.process != nil { // it has been started
		w.look()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.usage.CPU, w.usage.MemoryPeak, nil
}

// end takes in what the kernel tells of lambent-init and all that it has waited for; nil if it tells us nothing.
func (w *watched) end(state *os.ProcessState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if state == nil {
		return
	}
	w.usage.CPU = max(w.usage.CPU, state.UserTime()+state.SystemTime())
	if rusage, ok := state.SysUsage().(*syscall.Rusage); ok && w.usage.MemoryPeak == 0 {
		w.usage.MemoryPeak = rusage.Maxrss << 10 // of the largest process
	}
}

// Remove ends the watch.
func (w *watched) Remove() error {
	w.stopped.Do(func() { close(w.stop) })
	return nil
}
