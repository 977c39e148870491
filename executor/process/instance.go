package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/executor/internal/guest"
	"lambent/internal/egress"
	"lambent/internal/sandbox"
)

// deathNotice is how long a broken connection waits for the news that the process has died: the kernel
// closes a dying process's sockets a moment before its parent can learn of the death. lateNotice is how long
// when the process is known to be dead.
const (
	deathNotice = 500 * time.Millisecond
	lateNotice  = 10 * time.Second
	// lastWords is how long reading what a dead process has written may take.
	lastWords = 5 * time.Second
	// obeyTime is how long lambent-init may take to end when it is ordered to.
	obeyTime = 500 * time.Millisecond
)

// instance is one live sandbox. It goes through begun, done and gone: the program runs, the program has
// ended, nothing is left.
type instance struct {
	id       string
	exec     *Executor
	revision *lambent.Revision
	user     int
	group    resources
	process  supervisor
	pid      int // of process
	control  *net.UnixConn
	log      *logger
	gate     *egress.Gate // nil without egress rules
	guest    *guest.Client
	backlog  *backlog // nil for jobs, and without a socket before an adoption
	phases   lambent.Phases
	stopping atomic.Bool
	left     atomic.Bool  // another process answers for it, or nobody
	kills    atomic.Int64 // for memory, as far as hintMemory knows

	begun chan sandbox.Report // the first report; closed when lambent-init says no more
	kept  chan error          // an adopted one has got what lambent-init kept for it, or has not; nil for all others
	done  chan struct{}
	gone  chan struct{}

	endOnce sync.Once
	failure *sandbox.Failure // the program has not begun; set before done is closed
	exit    lambent.Exit     // set before done is closed
	stopped bool             // it ended because Stop was called; set before done is closed
	silent  bool             // lambent-init has ended without a word; set before done is closed

	mu    sync.Mutex // guards usage, which is read from the cgroups until they are removed
	usage *executor.Usage
}

var _ executor.Instance = (*instance)(nil)

// watch follows the instance until it is gone.
func (in *instance) watch() {
	var readers sync.WaitGroup
	readers.Go(in.listen)
	in.log.start(&readers)
	in.exec.hold()
	go in.bury(&readers)
}

// listen takes lambent-init's reports until it ends.
func (in *instance) listen() {
	defer close(in.begun)
	control := &controlReader{conn: in.control}
	readReports(control, func(r sandbox.Report) {
		switch {
		case r.Listening:
			in.openGate(control.take())
			return
		case r.Kept:
			in.receive(control.take())
			return
		case r.Ordered != nil:
			in.ordered(*r.Ordered)
			return
		case r.Exec == nil:
			in.end(r)
		}
		select {
		case in.begun <- r:
		default: // only the first is waited for
		}
	})
	closeAll(control.take()) // came without their report
}

// bury waits for the end of lambent-init and clears the instance away.
func (in *instance) bury(readers *sync.WaitGroup) {
	state, err := in.process.Wait()
	if err != nil {
		in.exec.log.Error("cannot wait for an instance", "instance", in.id, "err", err)
	} else if w, ok := in.group.(*watched); ok {
		w.end(state)
	}
	// lambent-init has ended, so all inside has, and the pipes and the connection come to their ends. But a
	// function may have sent a pipe's end to us, where it stays open in the queue of a connection.
	in.guest.Close()
	if in.gate != nil {
		in.gate.Close()
	}
	in.log.expire(time.Now().Add(lastWords))
	readers.Wait()
	if last, ok := in.lastReport(); ok {
		in.end(last)
	}
	in.end(sandbox.Report{})
	in.release()
	in.exec.forget(in.id, in)
	if err := in.exec.letGo(); err != nil {
		in.exec.log.Error("cannot close the tier's folder", "err", err)
	}
	close(in.gone)
}

// end takes the first report of the end for it; an empty one says that lambent-init has ended silently.
func (in *instance) end(r sandbox.Report) {
	in.endOnce.Do(func() {
		switch {
		case r.Exit != nil:
			in.exit = lambent.Exit{Code: r.Exit.Code, Signal: r.Exit.Signal}
		case r.Error != nil:
			in.failure = r.Error
			in.exit = lambent.Exit{Err: r.Error.Step + ": " + r.Error.Err}
		default: // killed with all inside
			in.exit, in.silent = lambent.Exit{Signal: "SIGKILL"}, true
		}
		in.stopped = in.stopping.Load()
		if !in.stopped {
			kills, err := in.group.OOMKills()
			if err != nil && !in.left.Load() { // else another process may have removed the group already
				in.exec.log.Error("cannot tell whether an instance exceeded its memory", "instance", in.id, "err", err)
			}
			// The kernel may have killed a child of the program, which then gave up by itself.
			in.exit.OOM = kills > 0 && (in.exit.Signal != "" || in.exit.Code != 0) ||
				in.exit.Signal == "SIGABRT" && in.log.heapFull()
			if in.revision.Settings.Runtime != "" && !in.left.Load() { // a job's is what Run returns
				in.log.platform("exited: " + in.describeExit())
			}
		}
		close(in.done)
		if in.backlog != nil && in.backlog.socket != nil {
			if err := in.backlog.giveBack(); err != nil {
				in.exec.log.Error("cannot give back what waits for a dead instance", "instance", in.id, "err", err)
			}
		}
	})
}

func (in *instance) describeExit() string {
	if in.exit.OOM {
		return fmt.Sprintf("%s of %d MiB", in.exit, in.revision.Settings.Memory)
	}
	return in.exit.String()
}

// release gives back all that launch took, but for what another process clears away that answers for the instance.
func (in *instance) release() {
	if in.process != nil && in.control == nil { // half launched: nobody watches it
		_ = in.process.Kill() // an error means that it has ended already
		_, _ = in.process.Wait()
	}
	if in.control != nil {
		in.control.Close()
	}
	if in.gate != nil {
		in.gate.Close()
	}
	in.log.close()
	in.backlog.close()
	if in.left.Load() {
		return
	}
	in.exec.unreserve(in.id)
	if in.group != nil {
		cpu, peak, err := in.group.Usage()
		in.mu.Lock()
		in.usage = &executor.Usage{CPU: cpu, MemoryPeak: peak}
		in.mu.Unlock()
		if err := errors.Join(err, in.group.Remove()); err != nil {
			in.exec.log.Error("cannot clear away an instance's cgroups", "instance", in.id, "err", err)
		}
	}
	if err := os.RemoveAll(in.exec.path(in.id, "")); err != nil {
		in.exec.log.Error("cannot clear away an instance's folder", "instance", in.id, "err", err)
	}
	if in.user != 0 {
		in.exec.users.free(in.user)
	}
}

// becomeReady waits until the instance has answered that it is ready.
func (in *instance) becomeReady(ctx context.Context, start int64) error {
	var begun sandbox.Report
	select {
	case begun = <-in.begun:
	case <-ctx.Done():
		return in.startError(ctx, nil)
	}
	if begun.Exec == nil {
		<-in.gone // with its last words
		// A lambent-init may end with its program before it has taken up our connection; the exit file tells of it.
		if in.silent && !in.exit.OOM {
			return sandboxFailed(errors.New("lambent-init ended without a word"))
		}
		return in.startError(ctx, nil)
	}
	ready, cancel := in.whileAlive(ctx)
	defer cancel()
	started, err := in.guest.Ready(ready)
	if err != nil {
		return in.startError(ctx, err)
	}
	now := monotonic()
	in.phases[lambent.PhaseSandbox] = time.Duration(begun.Exec.At - start)
	loading := now
	if first := started.FirstLine; first > begun.Exec.At && first < now {
		loading = first
	}
	in.phases[lambent.PhaseBoot] = time.Duration(loading - begun.Exec.At)
	in.phases[lambent.PhaseLoad] = time.Duration(now - loading)
	return nil
}

// whileAlive gives a context that also ends with the instance's program.
func (in *instance) whileAlive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-in.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// startError says why a start failed: the process has ended, time is up, or cause, what it answered.
func (in *instance) startError(ctx context.Context, cause error) error {
	wait := deathNotice
	if ctx.Err() != nil {
		wait = 0
	}
	switch told := lambent.ErrorOf(cause); {
	case told != nil && told.Code == lambent.CodeStartFailed && told.Cause == nil:
		return told // the shim's own words, before it ends
	case in.ended(wait):
		<-in.gone // with its last words
		switch {
		case in.failure != nil && in.failure.Step == sandbox.StepExec:
			return lambent.Errorf(lambent.CodeStartFailed, "%s cannot be executed: %s", in.describeProgram(), in.failure.Err)
		case in.failure != nil:
			return sandboxFailed(fmt.Errorf("%s: %s", in.failure.Step, in.failure.Err))
		case in.exit.OOM:
			return in.memoryExceeded()
		}
		return lambent.Errorf(lambent.CodeStartFailed, "the function's process %s before it was ready", in.exit).
			WithHint("the last lines of its log are in the trace")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return guest.StartTimeout(&in.revision.Settings)
	case ctx.Err() != nil:
		return lambent.ErrorOf(ctx.Err())
	}
	return cause
}

func (in *instance) describeProgram() string {
	if s := in.revision.Settings; len(s.Command) > 0 {
		return fmt.Sprintf("the program of command %q", s.Command)
	}
	return fmt.Sprintf("the program of handler %q", in.revision.Settings.Handler)
}

// withTrace adds the last log lines to the error of a failed start that is over, and the hint that a server
// without a sandbox needs.
func (in *instance) withTrace(err error) error {
	e := lambent.ErrorOf(err)
	if in.exec.level == lambent.IsolationNone && in.revision.Settings.Runtime == "http" && in.failure == nil &&
		(e.Code == lambent.CodeStartTimeout || e.Code == lambent.CodeStartFailed) {
		e.Hint = "functions share the ports of a node that runs them without a sandbox, so a server must accept connections on descriptor 3 (LISTEN_FDS) there"
	}
	if e.Trace == "" {
		e.Trace = in.log.lastLines()
	}
	return e
}

func (in *instance) memoryExceeded() *lambent.Error {
	return lambent.Errorf(lambent.CodeMemoryExceeded, "the function was killed for exceeding its memory limit of %d MiB", in.revision.Settings.Memory).
		WithHint("raise memory in its settings, or use less; files in /tmp count too")
}

// ended tells whether the program has ended, or does within wait. When nothing runs inside any more, the
// news of it is certain to come and may take longer on a busy machine.
func (in *instance) ended(wait time.Duration) bool {
	if isClosed(in.done, wait) {
		return true
	}
	if wait == 0 {
		return false
	}
	empty, err := in.group.Empty() // fails when the group has been removed, and then done is closed
	return (empty || err != nil) && isClosed(in.done, lateNotice)
}

// isClosed tells whether c is closed, or gets closed within wait.
func isClosed(c <-chan struct{}, wait time.Duration) bool {
	select {
	case <-c:
		return true
	default:
	}
	if wait <= 0 {
		return false
	}
	select {
	case <-c:
		return true
	case <-time.After(wait):
		return false
	}
}

// died says what a request's broken connection means; nil if the instance lives.
func (in *instance) died() *lambent.Error {
	if !in.ended(deathNotice) {
		return nil
	}
	switch {
	case in.exit.OOM:
		return in.memoryExceeded()
	case in.stopped:
		return lambent.Errorf(lambent.CodeInstanceStopped, "instance %s was ended while it served the request", in.id).
			WithHint("send the request again; it was given up, or its time to drain was over")
	}
	return lambent.Errorf(lambent.CodeInstanceExited, "the function's process %s before its answer was complete", in.exit)
}

// dying tells whether the program is ending, or one of several of it, which have closed their connections then.
func (in *instance) dying() bool {
	below := sandbox.Below(in.pid)
	return len(below) == 0 || slices.ContainsFunc(below, sandbox.Exiting)
}

// hintMemory adds to e what to do about it when the kernel has killed a program of the instance for its memory. It
// does not end the instance, in which others may run.
func (in *instance) hintMemory(e *lambent.Error) {
	kills, err := in.group.OOMKills()
	if err == nil && kills > in.kills.Swap(kills) {
		e.Hint = in.memoryExceeded().Hint
	}
}

// ID implements executor.Instance.
func (in *instance) ID() string { return in.id }

// StartPhases implements executor.Instance.
func (in *instance) StartPhases() lambent.Phases { return in.phases }

// Handle implements executor.Instance.
func (in *instance) Handle(ctx context.Context, inv *lambent.Invocation, deadline time.Time) (*lambent.Response, error) {
	resp, err := in.guest.Handle(ctx, inv, deadline)
	if e := lambent.ErrorOf(err); e != nil && e.Code == lambent.CodeHandlerError && in.revision.Settings.Runtime == "exec" {
		in.hintMemory(e)
	}
	return resp, err
}

// Stop implements executor.Instance.
func (in *instance) Stop(grace time.Duration) {
	if in.left.Load() {
		return
	}
	in.stopping.Store(true)
	if grace > 0 {
		_ = os.Remove(in.exec.path(in.id, fileState)) // so that nobody adopts it; an error means that there is none
		order := sandbox.Order{Stop: true, Grace: grace}
		if json.NewEncoder(in.control).Encode(order) == nil && isClosed(in.gone, grace+time.Second) {
			return
		}
	}
	in.Kill()
}

// Kill implements executor.Leaver.
func (in *instance) Kill() {
	in.stopping.Store(true)
	if in.kept != nil || in.left.Load() {
		in.orderEnd(sandbox.Order{Stop: true})
	}
	if in.exec.level == lambent.IsolationNone {
		killBelow(in.process, in.pid)
	}
	// Else it is PID 1: the kernel kills all inside with it. An error means that it has ended already.
	_ = in.process.Kill()
	<-in.gone
}

// orderEnd has lambent-init end everything at once, so that it tells another process before which serves requests with it.
// Whoever calls it kills afterwards: lambent-init may be in no state to obey.
func (in *instance) orderEnd(order sandbox.Order) {
	if json.NewEncoder(in.control).Encode(order) == nil {
		isClosed(in.gone, obeyTime)
	}
}

// ordered notes why the program will end, which another process may have ordered.
func (in *instance) ordered(order sandbox.Order) {
	if w, ok := in.group.(*watched); ok && order.OutOfMemory {
		w.exceed()
		return
	}
	in.stopping.Store(true)
}

// Done implements executor.Instance.
func (in *instance) Done() <-chan struct{} { return in.done }

// Exit implements executor.Instance.
func (in *instance) Exit() lambent.Exit {
	<-in.done
	return in.exit
}

// Usage implements executor.Instance.
func (in *instance) Usage() (executor.Usage, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.usage != nil {
		return *in.usage, nil
	}
	cpu, peak, err := in.group.Usage()
	return executor.Usage{CPU: cpu, MemoryPeak: peak}, err
}
