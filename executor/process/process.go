// Package process is the tier "process": an instance is the function's own process under a lambent-init,
// in namespaces of its own, on a read-only root, as a user of its own without any privilege, behind a
// seccomp filter and within cgroup limits. That takes root. Another user gets the same within user namespaces,
// less a user for each instance and, where no cgroup is delegated to him, less limits. Where not even those can
// be had nothing runs, unless the operator says that it shall run unsandboxed. New finds out which it is.
//
// One folder holds all that an executor keeps on disk: Dir/instances/<id> has an instance's sockets, its
// exit file and the empty folder that its root is mounted on; Dir/runtime/<name> has the shims. The folder's
// name gives the executor its own cgroups and users, so New finds what a crash left behind and nothing else.
package process

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/executor"
	"lambent/internal/cgroup"
	"lambent/internal/egress"
	"lambent/internal/seccomp"
)

// Options say how an executor works.
type Options struct {
	Dir    string        // its folder, of no other process at the same time; made when missing
	Logger *slog.Logger  // default: slog.Default
	Init   string        // the lambent-init to use; default: the one that belongs to this program
	Orphan time.Duration // how long an instance outlives a daemon that crashed; default: one minute
	Egress *egress.Proxy // what takes instances to what their rules allow; default: one that permits nothing special
	// Unsandboxed lets functions run without a sandbox where none can be made; elsewhere it changes nothing.
	Unsandboxed bool
}

// Executor runs instances of the process tier.
type Executor struct {
	log    *slog.Logger
	orphan time.Duration
	egress *egress.Proxy
	name   string         // of the cgroup tree
	away   *lambent.Error // why nothing can run here; nil when it can
	level  string         // of isolation
	bare   *lambent.Error // why there is no sandbox at the level none
	capped error          // why there are no cgroups; nil when there are
	dir    *os.File       // Options.Dir
	init   *os.File       // the lambent-init, in memory
	tree   *cgroup.Tree   // nil without cgroups
	filter []byte
	users  users
	shims  shims

	starts sync.WaitGroup

	mu        sync.Mutex // guards what is below
	closed    bool
	instances map[string]*instance
}

var _ executor.Executor = (*Executor)(nil)

const (
	instancesDir = "instances"
	runtimeDir   = "runtime"
)

// New makes an executor and clears away what an earlier one left in its folder. On a machine that cannot
// run the tier it succeeds too: the executor then says why.
func New(o Options) (*Executor, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Orphan == 0 {
		o.Orphan = time.Minute
	}
	if o.Egress == nil {
		o.Egress = egress.New(egress.Options{})
	}
	path, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("process tier: %w", err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, fmt.Errorf("process tier: %w", err)
	}
	name, hash := identify(path)
	e := &Executor{
		log: o.Logger, orphan: o.Orphan, egress: o.Egress, name: name, users: newUsers(hash), instances: map[string]*instance{},
	}
	if e.away = e.prepare(); e.away == nil {
		err = e.open(path, o.Init)
	}
	if err == nil && e.away == nil && e.level == lambent.IsolationUserns {
		e.settle(o.Unsandboxed)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("process tier: %w", err), e.Close())
	}
	return e, nil
}

// identify gives the name of the cgroup tree and the choice of users for a folder.
func identify(path string) (name string, hash uint32) {
	sum := sha256.Sum256([]byte(path))
	return hex.EncodeToString(sum[:4]), binary.BigEndian.Uint32(sum[:])
}

// prepare gets what depends on the machine.
func (e *Executor) prepare() *lambent.Error {
	e.level = lambent.IsolationUserns
	if privileged() {
		e.level = lambent.IsolationFull
	}
	filter, err := seccomp.Filter(runtime.GOARCH)
	if err != nil {
		return lambent.Errorf(lambent.CodeTierUnavailable, "%w", err)
	}
	for _, f := range filter { // struct sock_filter, see linux/filter.h
		e.filter = binary.NativeEndian.AppendUint16(e.filter, f.Op)
		e.filter = append(e.filter, f.Jt, f.Jf)
		e.filter = binary.NativeEndian.AppendUint32(e.filter, f.K)
	}
	if e.tree, e.capped = cgroup.Open(e.name); e.capped != nil && e.level == lambent.IsolationFull {
		return lambent.Errorf(lambent.CodeTierUnavailable, "no cgroups to limit functions with: %w", e.capped).
			WithHint("mount the memory, cpu and pids controllers, or let this service manage its own cgroups (Delegate=yes); or start lambent as another user than root")
	}
	return nil
}

// open sweeps the folder and gets it ready.
func (e *Executor) open(path, init string) error {
	if e.tree != nil {
		if err := e.tree.Sweep(); err != nil {
			return err
		}
	}
	// Root finds all in its cgroups, and shall not be told by a command line whom to kill.
	if e.level != lambent.IsolationFull {
		if err := sweep(e.name); err != nil {
			return err
		}
	}
	for _, sub := range []string{instancesDir, runtimeDir} {
		sub = filepath.Join(path, sub)
		if err := os.RemoveAll(sub); err != nil {
			return err
		}
		if err := os.Mkdir(sub, 0o755); err != nil {
			return err
		}
	}
	var err error
	if e.dir, err = os.Open(path); err != nil {
		return err
	}
	e.shims.dir = filepath.Join(path, runtimeDir)
	e.init, err = loadInit(init)
	return err
}

// path names a file of an instance through the descriptor of the folder, because the path of a unix
// socket is at most 107 bytes long.
func (e *Executor) path(id, file string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s/%s/%s", e.dir.Fd(), instancesDir, id, file)
}

// Start implements executor.Executor.
func (e *Executor) Start(ctx context.Context, spec executor.Spec) (executor.Instance, error) {
	began := monotonic()
	if e.away != nil {
		return nil, e.away
	}
	if !e.admit() {
		return nil, lambent.Errorf(lambent.CodeShuttingDown, "this node is stopping")
	}
	defer e.starts.Done()
	p, err := e.programOf(spec)
	if err != nil {
		return nil, err
	}
	in, err := e.launch(ctx, spec, p)
	if err != nil {
		return nil, err
	}
	if err := in.becomeReady(ctx, began); err != nil {
		in.Stop(0)
		return nil, in.withTrace(err)
	}
	return in, nil
}

func (e *Executor) admit() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.starts.Add(1)
	return true
}

func (e *Executor) add(in *instance) (ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.instances[in.id] = in
	}
	return !e.closed
}

func (e *Executor) forget(in *instance) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.instances, in.id)
}

// Close implements executor.Executor.
func (e *Executor) Close() error {
	e.mu.Lock()
	e.closed = true
	var stops sync.WaitGroup
	for _, in := range e.instances {
		stops.Go(func() { in.Stop(0) })
	}
	e.mu.Unlock()
	stops.Wait()
	e.starts.Wait()

	var errs []error
	if e.dir != nil {
		path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", e.dir.Fd()))
		errs = append(errs, err)
		if err == nil {
			errs = append(errs, os.RemoveAll(filepath.Join(path, instancesDir)), os.RemoveAll(filepath.Join(path, runtimeDir)))
		}
		errs = append(errs, e.dir.Close())
		e.dir = nil
	}
	if e.tree != nil {
		errs = append(errs, e.tree.Close())
		e.tree = nil
	}
	if e.init != nil {
		errs = append(errs, e.init.Close())
		e.init = nil
	}
	return errors.Join(errs...)
}

// users hands out user ids, one to each live instance.
type users struct {
	mu   sync.Mutex
	base uint32
	next uint32
	used map[uint32]bool
}

const usersPerNode = 1 << 16

// newUsers spreads nodes over 1,024 ranges, far from the ids that a system gives to people and services.
func newUsers(hash uint32) users {
	return users{base: 1<<30 + hash%1024*usersPerNode, used: map[uint32]bool{}}
}

// take gives an id that has not been in use for as long as possible.
func (u *users) take() (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for range usersPerNode {
		id := u.base + u.next
		u.next = (u.next + 1) % usersPerNode
		if !u.used[id] {
			u.used[id] = true
			return int(id), nil
		}
	}
	return 0, errors.New("no free user id")
}

func (u *users) free(id int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.used, uint32(id))
}

// monotonic reads the clock that instances read too; it has no zone or leap and one origin for all processes.
func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // the clock exists and the address is ours
	}
	return ts.Nano()
}
