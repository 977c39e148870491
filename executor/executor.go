// Package executor is the contract of a tier: one way to run an instance of a revision.
//
// Invariants, proved for every tier by executortest.Run:
//   - An instance that Start returned is ready: it has said so itself (its answer to OPTIONS *), nobody polled.
//   - Handle delivers a request at most once. An error that wraps [ErrNotSent] means that the function has not
//     got it, so it may be handed to another instance: inv.Body then gives the whole body.
//   - After Stop returns nothing of the instance is left: no process, mount, cgroup, descriptor or file.
//   - What an instance wrote before it finished answering has been given to its log sink before the
//     response's Close returns, when the instance serves one request at a time.
package executor

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"lambent"
)

// Executor runs instances of one tier.
type Executor interface {
	// Start makes an instance and returns when it is ready. It takes what it needs from spec and ctx bounds
	// it; on error nothing is left behind. Errors are *lambent.Error: start_failed and start_timeout are the
	// function's (Trace holds its last log lines), memory_exceeded is its limit, sandbox_failed and
	// tier_unavailable are ours.
	Start(ctx context.Context, spec Spec) (Instance, error)
	// Root is the identity of the root file system that a runtime runs on; it is part of a revision's
	// digest. It gives tier_unavailable where this node cannot run the runtime.
	Root(runtime string) (string, error)
	// Runtimes lists the runtimes that this node can run.
	Runtimes() []string
	// Isolation says how strongly it isolates on this node.
	Isolation() lambent.Isolation
	// Findings says what the tier found of what it needs, for `lambent doctor`.
	Findings() []lambent.Finding
	// Close stops every instance and releases what the tier holds.
	Close() error
}

// Spec says what to start.
type Spec struct {
	ID       string // names the instance; unique on this node for ever
	Revision *lambent.Revision
	CodeDir  string                // the unpacked bundle; mounted read-only
	Secrets  map[string]string     // the values of Settings.Secrets, by their targets
	Log      func(lambent.LogLine) // called from many goroutines; must not block
}

// Instance is one live sandbox.
type Instance interface {
	ID() string
	// StartPhases is how long its start took: sandbox, boot and load.
	StartPhases() lambent.Phases
	// Handle hands one request over and returns with the head of the response. The first byte and idle
	// timeouts are the revision's; deadline is when the invocation's total time is up. It fills
	// BytesIn and BytesOut of inv.Outcome as the bodies flow.
	//
	// Errors are *lambent.Error, from Handle and from the body's Read alike: handler_error, bad_response,
	// instance_exited, memory_exceeded, the timeouts, client_closed when ctx ended. The body's Close gives
	// [ErrBusy], and a failing Handle wraps it, when the function may still be working on the request.
	Handle(ctx context.Context, inv *lambent.Invocation, deadline time.Time) (*lambent.Response, error)
	// Stop ends the instance: SIGTERM, SIGKILL when grace is over, at once when grace is 0. It returns when
	// nothing is left of it. It may be called more than once and from several goroutines.
	Stop(grace time.Duration)
	// Done is closed when the instance's main process has ended, for whatever reason.
	Done() <-chan struct{}
	// Exit tells how it ended; call it after Done.
	Exit() lambent.Exit
	// Usage reads what the instance has used so far.
	Usage() (Usage, error)
}

// Usage is what an instance has used since its start.
type Usage struct {
	CPU        time.Duration
	MemoryPeak int64 // bytes
}

// ErrBusy means that the function may still be working on a request that its caller has given up.
var ErrBusy = errors.New("the function may still be working on the request")

// ErrNotSent means that the function has not got the request: it has accepted no connection for it, or not read its
// head to the end, or says that it has not begun.
var ErrNotSent = errors.New("the request was not handed over")

// Adopter is an executor whose instances outlive the process that started them, however that ended, and can be
// answered for by another. One process at a time answers for an instance: it reads its logs and clears it away.
type Adopter interface {
	// Left gives the instances in the executor's folder that this process does not answer for.
	Left() ([]Left, error)
	// Adopt answers for the instance that spec.ID names from now on. What spec says besides is as it was at its
	// start, CodeDir excepted, which is not needed. inFlight are the invocations that the process before goes on to serve
	// with it, none after a crash. It returns when the instance has said that it is ready, unless it
	// serves some; an instance that is busy with a request of the dead, and would serve it alone, is none that can
	// be adopted. On error the instance is as it was.
	Adopt(ctx context.Context, spec Spec, inFlight []string) (Adopted, error)
	// Sweep ends the instances that are left, and clears away what is left of those that have ended.
	Sweep() error
}

// Left is an instance that a process answered for which has ended, or gives it up.
type Left struct {
	ID       string
	Revision *lambent.Revision
	// Same tells whether these are the values of secrets that it was started with.
	Same func(secrets map[string]string) bool
}

// Adopted is an instance that was adopted.
type Adopted interface {
	Instance
	// Ended says that the process before has come to the end of an invocation.
	Ended(invocation string)
}

// Leaver is an instance that another process can answer for.
type Leaver interface {
	// Leave ends answering for it: its logs are read to here, and closing the executor leaves it alone. The requests
	// under way go on; Stop ends nothing any more.
	Leave()
	// Kill ends the instance at once, after Leave too, and returns when its processes are dead. What is left of it is
	// cleared away by whoever answers for it.
	Kill()
}

// Runner is an executor that can also run a program to its end, in the same sandbox as functions get. A job
// has a scratch folder of its own and writes what comes of it to a pipe or socket, so that nothing of the host is
// ever writable.
type Runner interface {
	// Run runs the job and returns when nothing is left of it. How the program ended is no error of Run's: those
	// are ctx's, the Output's, and *lambent.Error where there was no sandbox for it.
	Run(ctx context.Context, job Job) (lambent.Exit, error)
}

// Job is a program that is run to its end.
type Job struct {
	ID        string // names it; unique on this node for ever, among instances too
	Namespace string
	Argv      []string // Argv[0] is a path inside, or with Program just a name
	// Program is what to execute, if it is set, whether or not a sandbox shows it: a file that everybody may read and
	// execute. The job runs where no sandbox can be made, too, if functions do.
	Program *os.File
	Env     map[string]string
	Dir     string            // folder that is shown read-only at /var/task
	Folders map[string]string // further ones: where they are shown, children of /var, to folders of the host
	Memory  int               // MiB, what is in Work and /tmp included
	Work    int               // MiB of room in /work, where it begins
	CPU     int               // thousandths of a core
	Pids    int
	Egress  []string              // see lambent.EgressRule
	Log     func(lambent.LogLine) // as in Spec, but not told how the job ended
	Output  io.Writer             // gets what it writes to [JobOutput]; an error ends it
	Socket  *os.File              // is [JobOutput], if it is set, in the place of a pipe to Output; Run closes it
}

// JobOutput is the descriptor of a job's output, or of its socket.
const JobOutput = 3
