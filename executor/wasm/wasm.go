// Package wasm is the tier "wasm": a function is a WebAssembly module, and every request runs in an instance of it that
// is as new, in a worker: a process of ours in a sandbox of the process tier. The daemon runs no guest itself.
//
// A module becomes an artefact once, in a compiler: another such process, which ends with it. A worker runs the programs
// of one namespace, for as long as there are any, and sees of them what it is handed: open files, over its socket. One
// more worker is always ready for the next namespace, or the next time that one dies.
//
// What the rest of the platform calls an instance is here a program that is loaded in a worker: it holds next to nothing
// while it is idle, and is loaded again in about a millisecond. Workers are never adopted. They end with the daemon,
// because that closes their sockets, and those that cannot are swept with what else the process tier has left.
package wasm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/executor/wasm/internal/artefact"
)

// Options say how an executor works. Dir and Sandbox are needed.
type Options struct {
	Dir     string // of the artefacts, made when missing; processes of one node may share it
	Sandbox Sandbox
	Logger  *slog.Logger // default: slog.Default
	// Has tells whether a code bundle is still there; nil for yes. The artefacts of those that are not are removed.
	Has func(code string) bool
	// Space gives an error where so many bytes are too many for the disk of Dir; nil for none.
	Space func(bytes int64) error
	// Memory is what a worker may have, MiB; default: half of the machine's, at least 512.
	Memory int
}

// Sandbox is the tier that workers and compilers run in.
type Sandbox interface {
	executor.Runner
	// Isolation is that of [executor.Executor]; Root gives tier_unavailable where nothing can be run.
	Isolation() lambent.Isolation
	Root(runtime string) (string, error)
}

// Executor implements [executor.Executor] for WebAssembly.
type Executor struct {
	sandbox   Sandbox
	log       *slog.Logger
	store     *store
	space     func(bytes int64) error
	program   *os.File        // this binary: workers are of the same one, whatever becomes of the file's name
	void      string          // an empty folder
	memory    int             // of a worker, MiB
	idleTime  time.Duration   // how long a worker stays that has no programs
	away      *lambent.Error  // why nothing can run here; nil when it can
	open      context.Context // ends with Close
	close     context.CancelFunc
	tasks     sync.WaitGroup
	closeOnce func() error

	mu        sync.Mutex // guards what is below
	closed    bool
	instances map[*instance]struct{}
	workers   map[string]*seat // by namespace
	spare     *seat
	found     []lambent.Finding // what the last worker that was asked has said
	room      int64             // how many bytes of programs a worker holds
}

var _ executor.Executor = (*Executor)(nil)

const (
	collectEvery = time.Hour
	// programs get one part in so many of a worker's memory; the rest is for guests.
	programs = 4
)

// New makes an executor. It starts a worker where there are artefacts, and so functions that may be called.
func New(o Options) (*Executor, error) {
	o.Logger = cmp.Or(o.Logger, slog.Default())
	if o.Space == nil {
		o.Space = func(int64) error { return nil }
	}
	if o.Memory == 0 {
		o.Memory = max(machineMemory()/2, 512)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	e := &Executor{
		sandbox: o.Sandbox, log: o.Logger, space: o.Space, memory: o.Memory, idleTime: idleTime, room: int64(o.Memory) << 20 / programs, void: filepath.Join(dir, ".empty"),
		instances: map[*instance]struct{}{}, workers: map[string]*seat{},
	}
	e.open, e.close = context.WithCancel(context.Background())
	e.store = &store{dir: dir, version: artefact.Version(), compile: e.compile, turns: compilers(), log: o.Logger}
	if err := e.store.open(); err != nil {
		return nil, fmt.Errorf("wasm tier: %w", err)
	}
	if err := os.MkdirAll(e.void, 0o755); err != nil {
		return nil, fmt.Errorf("wasm tier: %w", err)
	}
	if e.program, err = os.Open("/proc/self/exe"); err != nil {
		return nil, fmt.Errorf("wasm tier: %w", err)
	}
	e.closeOnce = sync.OnceValue(e.program.Close)
	if e.away = e.check(); e.away == nil && !e.store.empty() {
		e.mu.Lock()
		e.makeSpare()
		e.mu.Unlock()
	}
	if o.Has != nil {
		e.tasks.Go(func() { e.collect(o.Has) })
	}
	return e, nil
}

// check finds out why nothing can run here.
func (e *Executor) check() *lambent.Error {
	if _, err := e.sandbox.Root("go"); err != nil {
		return lambent.ErrorOf(err)
	}
	if !isMain.Load() {
		return lambent.Errorf(lambent.CodeTierUnavailable, "this program cannot be a worker: it has not begun with Main of package wasm")
	}
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return lambent.Errorf(lambent.CodeTierUnavailable, "WebAssembly is not compiled for %s", runtime.GOARCH)
	}
	info, err := e.program.Stat()
	if err != nil {
		return lambent.Errorf(lambent.CodeTierUnavailable, "%w", err)
	}
	const everybody = 0o005
	if e.sandbox.Isolation().Level == lambent.IsolationFull && info.Mode()&everybody != everybody {
		return lambent.Errorf(lambent.CodeTierUnavailable, "the users that workers run as may not read and execute %s, whose mode is %s", e.program.Name(), info.Mode()).
			WithHint("chmod o+rx the lambent binary, and start it again")
	}
	return nil
}

// collect removes garbage from time to time.
func (e *Executor) collect(has func(code string) bool) {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-e.open.Done():
			return
		}
		if err := e.store.collect(has); err != nil {
			e.log.Warn("artefacts that nothing refers to stay for now", "err", err)
		}
	}
}

// Root implements [executor.Executor]: a module sees nothing of the node.
func (e *Executor) Root(string) (string, error) {
	if e.away != nil {
		return "", e.away
	}
	return lambent.TierWasm, nil
}

// Runtimes implements [executor.Executor].
func (e *Executor) Runtimes() []string {
	if e.away != nil {
		return nil
	}
	return []string{"wasm"}
}

// Isolation implements [executor.Executor]: guests are isolated from each other by the engine, and by what isolates their
// worker from all else.
func (e *Executor) Isolation() lambent.Isolation { return e.sandbox.Isolation() }

// Findings implements [executor.Executor]. It asks a worker, which is started where none is ready, once, and
// kept where there are modules.
func (e *Executor) Findings() []lambent.Finding {
	found := lambent.Finding{Name: "wasm", OK: true, Detail: artefact.Version()}
	fail := func(err error) []lambent.Finding {
		told := lambent.ErrorOf(err)
		return []lambent.Finding{{Name: found.Name, Detail: told.Message, Hint: told.Hint}}
	}
	if e.away != nil {
		return fail(e.away)
	}
	ctx, cancel := context.WithTimeout(e.open, launchTime)
	defer cancel()
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return fail(errStopping())
	}
	known, keep := e.found, e.spare != nil || !e.store.empty()
	if known != nil && !keep {
		e.mu.Unlock()
		return known
	}
	s := e.makeSpare()
	e.mu.Unlock()
	w, err := s.wait(ctx)
	if err != nil {
		return fail(err)
	}
	if w.slow != "" {
		found.OK, found.Detail = false, "a sandbox takes longer, as none is used again: "+w.slow
		found.Hint = "functions run as safely as elsewhere; tell the makers of Lambent about this machine"
	}
	all := []lambent.Finding{found}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.found = all; !keep && e.spare == s {
		e.spare = nil
		s.cancel(nil)
	}
	return all
}

// Close implements [executor.Executor].
func (e *Executor) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.close()
	e.store.close()
	e.tasks.Wait()
	return e.closeOnce()
}

func errStopping() *lambent.Error {
	return lambent.Errorf(lambent.CodeShuttingDown, "this node is stopping")
}

// sandboxError is err of a sandbox of ours, as it leaves the room.
func sandboxError(what string, err error) error {
	if told := (*lambent.Error)(nil); errors.As(err, &told) {
		return told
	}
	return lambent.Errorf(lambent.CodeSandboxFailed, "%s: %w", what, err).WithHint("lambent doctor tells what this node lacks")
}
