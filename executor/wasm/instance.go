package wasm

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/compile"
	"lambent/executor/wasm/internal/module"
	"lambent/executor/wasm/internal/wire"
	"lambent/internal/redact"
)

// instance is a program that is loaded in a worker.
type instance struct {
	id       string
	exec     *Executor
	revision *lambent.Revision
	line     lambent.LogLine // what all lines share
	log      func(lambent.LogLine)
	hide     *redact.Redactor
	seat     *seat
	worker   *worker
	program  uint32
	size     int64 // what it is estimated to hold in the worker, bytes
	phases   lambent.Phases

	cut context.CancelCauseFunc // ends what is under way
	run context.Context         // of what is under way

	cpu  atomic.Int64 // ns
	peak atomic.Int64 // bytes
	used atomic.Int64 // when it last served, Unix ns

	mu       sync.Mutex
	calls    int           // under way; guarded by mu
	stopping bool          // takes no more calls; guarded by mu
	idle     chan struct{} // closed when no calls are left; nil before Stop; guarded by mu

	once sync.Once
	done chan struct{}
	exit lambent.Exit // set before done is closed
}

var _ executor.Instance = (*instance)(nil)

// Start implements [executor.Executor]. Beside what that says, errors are bundle_invalid and module_unsupported for a
// module that cannot run, which is known before anything of it has run.
func (e *Executor) Start(ctx context.Context, spec executor.Spec) (executor.Instance, error) {
	began := time.Now()
	if e.away != nil {
		return nil, e.away
	}
	rev := spec.Revision
	digest, err := readModule(spec.CodeDir, rev.Settings.Handler)
	if err != nil {
		return nil, err
	}
	for range launches {
		var s *seat
		var number uint32
		if s, number, err = e.enter(rev.Namespace); err != nil {
			return nil, err
		}
		var in *instance
		in, err = e.load(ctx, spec, digest, s, number, began)
		if err == nil {
			time.AfterFunc(respite, e.replace)
			return in, nil
		}
		if !errors.As(err, new(*wire.LostError)) {
			break
		}
	}
	return nil, startError(ctx, &rev.Settings, err)
}

// launches is how many workers a start tries that end meanwhile.
const launches = 3

// load makes the instance. A worker is started meanwhile, where there was none.
func (e *Executor) load(ctx context.Context, spec executor.Spec, digest [sha256.Size]byte, s *seat, number uint32, began time.Time) (in *instance, err error) {
	rev := spec.Revision
	kept := false
	defer func() {
		if !kept {
			e.leave(s, 0)
		}
	}()
	m := source{
		namespace: rev.Namespace, code: rev.Code, dir: spec.CodeDir, name: rev.Settings.Handler, digest: digest, warmup: rev.Settings.Warmup,
		memory: min(int64(rev.Settings.Memory)<<20, compile.MaxMemory),
	}
	files, err := e.store.get(ctx, m)
	if err != nil {
		return nil, err
	}
	defer func() { _ = files.Close() }() // they were only read
	compiled := time.Now()
	w, err := s.wait(ctx)
	if err != nil {
		return nil, sandboxError("a worker could not be started", err)
	}
	given := time.Now()
	in = &instance{
		id: spec.ID, exec: e, revision: rev, seat: s, worker: w, program: number, log: spec.Log,
		line: lambent.LogLine{Namespace: rev.Namespace, Function: rev.Function, Revision: rev.ID, Instance: spec.ID},
		hide: redactor(spec.Secrets), done: make(chan struct{}),
	}
	in.run, in.cut = context.WithCancelCause(context.Background())
	in.used.Store(given.UnixNano())
	if in.size, err = sizeOf(files); err != nil {
		return nil, err
	}
	if err := e.register(in); err != nil {
		return nil, err
	}
	kept = true
	if err := w.conn.Load(ctx, number, wireSpec(spec, &files.Meta), []*os.File{files.Module, files.Native, files.Image}); err != nil {
		in.Stop(0)
		var refused *wire.LoadError
		if errors.As(err, &refused) && refused.Damaged { // it is no obstacle for ever
			err = errors.Join(err, e.store.discard(m))
		}
		return nil, err
	}
	in.phases[lambent.PhaseSandbox] = given.Sub(compiled)
	in.phases[lambent.PhaseLoad] = compiled.Sub(began) + time.Since(given)
	return in, nil
}

// readModule gives the digest of a module of a bundle.
func readModule(dir, name string) (digest [sha256.Size]byte, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return digest, lambent.Errorf(lambent.CodeCodeUnavailable, "the code is not on this node: %w", err)
	}
	defer root.Close()
	info, err := root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return digest, lambent.Errorf(lambent.CodeBundleInvalid, "the bundle has no module %q", name).
			WithHint("put the compiled .wasm file there, or name another as the handler")
	case err != nil:
		return digest, lambent.Errorf(lambent.CodeBundleInvalid, "the module %q of the bundle: %w", name, err)
	case !info.Mode().IsRegular():
		return digest, lambent.Errorf(lambent.CodeBundleInvalid, "%q in the bundle is no regular file", name)
	case info.Size() > module.MaxSize:
		return digest, lambent.Errorf(lambent.CodeModuleUnsupported, "the module %q has %d bytes, at most %d MiB can be run", name, info.Size(), module.MaxSize>>20).
			WithHint("strip its debug information, such as with wasm-strip or go build -ldflags='-s -w'")
	}
	f, err := root.Open(name)
	if err != nil {
		return digest, lambent.Errorf(lambent.CodeCodeUnavailable, "the code cannot be read: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return digest, lambent.Errorf(lambent.CodeCodeUnavailable, "the code cannot be read: %w", err)
	}
	h.Sum(digest[:0])
	return digest, nil
}

// redactor hides the values of secrets in lines that are valid UTF-8, whatever the values are.
func redactor(secrets map[string]string) *redact.Redactor {
	values := slices.Collect(maps.Values(secrets))
	for _, v := range values {
		if text := strings.ToValidUTF8(v, "\uFFFD"); text != v {
			values = append(values, text)
		}
	}
	return redact.New(values)
}

func sizeOf(files *artefact.Files) (sum int64, err error) {
	for _, f := range []*os.File{files.Module, files.Native, files.Image} {
		info, err := f.Stat()
		if err != nil {
			return 0, err
		}
		sum += allocated(info)
	}
	return sum, nil
}

func wireSpec(spec executor.Spec, meta *artefact.Meta) *wire.Spec {
	r, s := spec.Revision, &spec.Revision.Settings
	return &wire.Spec{
		Namespace: r.Namespace, Function: r.Function, Revision: r.ID, Meta: *meta, Env: environment(spec),
		Memory: int64(s.Memory) << 20, MaxOutput: s.MaxOutput, CPU: s.Timeouts.CPU.D(),
	}
}

// environment is what a guest finds in its environment: what the user says wins over our defaults, and what the platform
// says of the function over both.
func environment(spec executor.Spec) [][]byte {
	r, s := spec.Revision, &spec.Revision.Settings
	env := map[string]string{"LANG": "C.UTF-8", "TZ": "UTC"}
	maps.Copy(env, s.Env)
	maps.Copy(env, map[string]string{
		"LAMBENT_NAMESPACE": r.Namespace, "LAMBENT_FUNCTION": r.Function, "LAMBENT_REVISION": r.ID,
		"LAMBENT_INSTANCE": spec.ID, "LAMBENT_MEMORY": strconv.Itoa(s.Memory), "LAMBENT_CONCURRENCY": strconv.Itoa(s.Concurrency),
		"LAMBENT_HANDLER": s.Handler, "LAMBENT_RUNTIME": s.Runtime,
	})
	maps.Copy(env, spec.Secrets)
	list := make([][]byte, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, []byte(name+"="+env[name]))
	}
	return list
}

// startError is err of a start as it leaves the room.
func startError(ctx context.Context, s *lambent.Settings, err error) error {
	var told *lambent.Error
	var refused *wire.LoadError
	switch {
	case errors.As(err, &told):
		return told
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return lambent.Errorf(lambent.CodeStartTimeout, "the module was not ready in time").
			WithHint("a large module takes a while to compile, once; deploy again to go on")
	case ctx.Err() != nil:
		return lambent.ErrorOf(ctx.Err())
	case errors.As(err, &refused):
		return lambent.Errorf(lambent.CodeSandboxFailed, "the worker could not load module %q: %w", s.Handler, err)
	}
	return sandboxError(fmt.Sprintf("module %q could not be loaded", s.Handler), err)
}

// ID implements [executor.Instance].
func (in *instance) ID() string { return in.id }

// StartPhases implements [executor.Instance]: the time to make or find the artefact is of load.
func (in *instance) StartPhases() lambent.Phases { return in.phases }

// Done implements [executor.Instance].
func (in *instance) Done() <-chan struct{} { return in.done }

// Exit implements [executor.Instance]: that of its worker.
func (in *instance) Exit() lambent.Exit {
	<-in.done
	return in.exit
}

// Usage implements [executor.Instance]: of the requests that have ended.
func (in *instance) Usage() (executor.Usage, error) {
	return executor.Usage{CPU: time.Duration(in.cpu.Load()), MemoryPeak: in.peak.Load()}, nil
}

// Stop implements [executor.Instance]. There is no process to tell: what is under way when the grace is over is cut.
func (in *instance) Stop(grace time.Duration) {
	in.mu.Lock()
	in.stopping = true
	if in.idle == nil {
		in.idle = make(chan struct{})
		if in.calls == 0 {
			close(in.idle)
		}
	}
	in.mu.Unlock()
	if grace > 0 {
		select {
		case <-in.idle:
		case <-in.done:
		case <-time.After(grace):
		}
	}
	in.end(lambent.Exit{})
}

// end makes an end of the instance, because of its worker's exit if that is one.
func (in *instance) end(exit lambent.Exit) {
	in.once.Do(func() {
		in.exit = exit
		in.mu.Lock()
		stopped := in.stopping
		in.stopping = true
		in.mu.Unlock()
		if !stopped {
			in.emit("lambent", "", "exited: "+exit.String())
		}
		in.worker.conn.Unload(in.program)
		in.exec.forget(in)
		in.exec.leave(in.seat, in.size)
		close(in.done)
		if exit == (lambent.Exit{}) { // else what was under way has lost its worker, and says so
			in.cut(errStopped())
		}
	})
	<-in.done
}

// register answers for the instance until its end. To make room for it in its worker, those end that have been idle longest.
func (e *Executor) register(in *instance) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errStopping()
	}
	e.instances[in] = struct{}{}
	in.seat.bytes += in.size
	var idle []*instance
	if in.seat.bytes > e.room {
		for other := range e.instances {
			if other != in && other.seat == in.seat {
				idle = append(idle, other)
			}
		}
	}
	slices.SortFunc(idle, func(a, b *instance) int { return cmp.Compare(a.used.Load(), b.used.Load()) })
	left := in.seat.bytes
	for _, other := range idle {
		if left <= e.room {
			break
		}
		if other.retire() {
			left -= other.size
			go other.end(lambent.Exit{Evicted: true, Err: "unloaded, because other functions of the namespace needed the room"})
		}
	}
	return nil
}

func (e *Executor) forget(in *instance) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.instances, in)
}

// retire has an instance take no more calls, if it has none.
func (in *instance) retire() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.calls > 0 || in.stopping {
		return false
	}
	in.stopping = true
	return true
}

// emit says a line, of an invocation or of the instance.
func (in *instance) emit(stream, invocation, text string) {
	line := in.line
	line.Time, line.Stream, line.Invocation, line.Text = time.Now().UTC(), stream, invocation, in.hide.String(text)
	in.log(line)
}

func errStopped() *lambent.Error {
	return lambent.Errorf(lambent.CodeInstanceStopped, "the instance was ended while it served the request").
		WithHint("send the request again; it was given up, or its time to drain was over")
}
