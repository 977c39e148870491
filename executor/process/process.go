// Package process is the tier "process": an instance is the function's own process under a lambent-init,
// in namespaces of its own, on a read-only root, as a user of its own without any privilege, behind a
// seccomp filter and within cgroup limits. That takes root. Another user gets the same within user namespaces,
// less a user for each instance and, where no cgroup is delegated to him, less limits. Where not even those can
// be had nothing runs, unless the operator says that it shall run unsandboxed. New finds out which it is.
//
// One folder holds all that an executor keeps on disk: Dir/instances/<id> has an instance's sockets, its state and
// exit files and the empty folder that its root is mounted on, which has the number of its user in its name;
// Dir/runtime/*/<name> has the shims, those of each process in a folder of its own. The folder's name gives
// the executor its own cgroups and users, so it finds what an earlier process left behind and nothing else.
//
// Instances outlive the process that started them: the next on the same folder may adopt them, see [Executor.Adopt].
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
	"sync/atomic"
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
	Dir    string        // its folder, made when missing; another process with the other Half may be about to leave it
	Half   int           // 0 or 1: which half of the folder's user ids new instances have
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

	starts    sync.WaitGroup
	unsaved   atomic.Bool // the state of the instance that started last could not be written
	closeOnce func() error

	mu        sync.Mutex // guards what is below
	closed    bool
	instances map[string]*instance // those that this process answers for; nil for one that it is about to make or adopt
	reserved  map[string]int       // the users of those that were left, by the instance's id
	holders   int                  // of dir: the executor before Close, and each instance until it is gone, given up or not
}

var (
	_ executor.Executor = (*Executor)(nil)
	_ executor.Adopter  = (*Executor)(nil)
)

const (
	instancesDir = "instances"
	runtimeDir   = "runtime"
)

// New makes an executor. What another process left in its folder stays until it is adopted or swept. On a machine that
// cannot run the tier it succeeds too: the executor then says why.
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
		log: o.Logger, orphan: o.Orphan, egress: o.Egress, name: name, users: newUsers(hash, o.Half), instances: map[string]*instance{},
	}
	e.closeOnce = sync.OnceValue(e.closeAll)
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

// open gets the folder ready. Who has it open holds a shared lock of it, so that the last to close it knows.
func (e *Executor) open(path, init string) (err error) {
	if e.dir, err = os.Open(path); err != nil {
		return err
	}
	e.hold()
	if err := unix.Flock(int(e.dir.Fd()), unix.LOCK_SH); err != nil {
		return os.NewSyscallError("flock", err)
	}
	for _, sub := range []string{instancesDir, runtimeDir} {
		if err := os.MkdirAll(filepath.Join(path, sub), 0o755); err != nil {
			return err
		}
	}
	if e.shims.dir, err = os.MkdirTemp(filepath.Join(path, runtimeDir), ""); err != nil {
		return err
	}
	if err := e.reserve(); err != nil {
		return err
	}
	e.init, err = loadInit(init)
	return err
}

// hold and letGo count who needs the folder's descriptor. It is closed when nobody does any more.
func (e *Executor) hold() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.holders++
}

func (e *Executor) letGo() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.holders--; e.holders > 0 {
		return nil
	}
	return e.dir.Close()
}

// reserve keeps the users of the instances that were left for them.
func (e *Executor) reserve() error {
	left, err := os.ReadDir(e.path("", ""))
	if err != nil {
		return err
	}
	e.reserved = map[string]int{}
	for _, entry := range left {
		if user := e.userOf(entry.Name()); user != 0 {
			e.reserved[entry.Name()] = user
			e.users.keep(user)
		}
	}
	return nil
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
	return e.record(in, spec.Secrets), nil
}

// record writes the state of in. When that fails, as on a full disk, in serves all the same.
func (e *Executor) record(in *instance, secrets map[string]string) executor.Instance {
	err := in.save(secrets)
	if lost := err != nil; e.unsaved.Swap(lost) != lost && lost {
		e.log.Warn("no other process of this node will adopt what starts now: its state cannot be written", "err", err)
	}
	if err != nil {
		return rooted{in}
	}
	return in
}

// rooted is an instance that no other process can answer for, as its state is not written: it is no executor.Leaver.
type rooted struct{ executor.Instance }

func (e *Executor) admit() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.starts.Add(1)
	return true
}

// claim says that this process answers for an instance that it makes or adopts, unless it does already.
func (e *Executor) claim(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ours := e.instances[id]; ours {
		return false
	}
	e.instances[id] = nil
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

// unreserve lets go of the user of an instance that had been left, because whoever clears it away frees it.
func (e *Executor) unreserve(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.reserved, id)
}

// forget ends what claim began; in is nil when the instance was never added.
func (e *Executor) forget(id string, in *instance) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.instances[id] == in {
		delete(e.instances, id)
	}
}

// Close implements executor.Executor.
func (e *Executor) Close() error {
	e.mu.Lock()
	e.closed = true
	var stops sync.WaitGroup
	for _, in := range e.instances {
		if in != nil { // else its start or adoption ends by itself now
			stops.Go(func() { in.Stop(0) })
		}
	}
	e.mu.Unlock()
	stops.Wait()
	e.starts.Wait()
	return e.closeOnce()
}

// closeAll releases what no instance needs any more, and what all executors of the folder share if this is the last of
// them and nothing is left in it.
func (e *Executor) closeAll() error {
	var errs []error
	if e.dir != nil {
		if unix.Flock(int(e.dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil { // else another has it open
			errs = append(errs, e.clear())
		}
		errs = append(errs, os.NewSyscallError("flock", unix.Flock(int(e.dir.Fd()), unix.LOCK_UN)), e.letGo())
	}
	if e.init != nil {
		errs = append(errs, e.init.Close())
	}
	return errors.Join(errs...)
}

// clear removes the folder's contents and the tree of cgroups, if nothing is left there.
func (e *Executor) clear() error {
	left, err := e.leftovers()
	if err != nil || len(left) > 0 {
		return err
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", e.dir.Fd()))
	if err != nil {
		return err
	}
	err = errors.Join(os.RemoveAll(filepath.Join(path, instancesDir)), os.RemoveAll(filepath.Join(path, runtimeDir)))
	if e.tree != nil {
		err = errors.Join(err, e.tree.Close())
	}
	return err
}

// users hands out user ids, one to each live instance. Those that instances of others have are taken too.
type users struct {
	mu   sync.Mutex
	base uint32
	next uint32
	used map[uint32]bool
}

const (
	usersPerNode = 1 << 16
	usersPerHalf = usersPerNode / 2
)

// newUsers spreads nodes over 1,024 ranges, far from the ids that a system gives to people and services. Each
// range has two halves, for two processes at the same time.
func newUsers(hash uint32, half int) users {
	return users{base: 1<<30 + hash%1024*usersPerNode + uint32(half)*usersPerHalf, used: map[uint32]bool{}}
}

// take gives an id that has not been in use for as long as possible.
func (u *users) take() (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for range usersPerHalf {
		id := u.base + u.next
		u.next = (u.next + 1) % usersPerHalf
		if !u.used[id] {
			u.used[id] = true
			return int(id), nil
		}
	}
	return 0, errors.New("no free user id")
}

// keep takes a certain id.
func (u *users) keep(id int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.used[uint32(id)] = true
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
