package compile

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"

	"lambent"
	"lambent/executor/wasm/internal/abi"
	"lambent/executor/wasm/internal/module"
)

const (
	tick    = time.Millisecond // between two looks at the time
	garbage = 64 << 20         // bytes after which it is collected
)

// starter runs the initialisation of one module.
type starter struct {
	mod      api.Module
	deadline time.Time
	live     uint64 // bytes of the heap after the last collection

	mu    sync.Mutex // guards the value of epoch
	epoch api.MutableGlobal
}

var errTime = errors.New("time is up")

// initialise runs the module's initialisation in an instance of its own and gives what is left of it.
func initialise(ctx context.Context, b *compiled, in *module.Instrumented, kind abi.Kind, init []string, o Options) (s module.Snapshot, image []byte, err error) {
	if err := abi.Instantiate(ctx, b.Runtime); err != nil {
		return s, nil, internal(err)
	}
	st := &starter{deadline: time.Now().Add(o.Start)}
	host := b.NewHostModuleBuilder(module.YieldModule)
	host.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(ctx context.Context, _ []uint64) { st.yield(ctx) }), nil, nil).Export(module.YieldName)
	if _, err := host.Instantiate(ctx); err != nil {
		return s, nil, internal(err)
	}
	memory := &memory{limit: o.Memory}
	defer memory.Free() // again, if the module has it
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions()
	if st.mod, err = b.InstantiateModule(experimental.WithMemoryAllocator(ctx, memory), b.module, config); err != nil {
		return s, nil, failed("the module's instantiation", errors.Join(err, memory.err), o)
	}
	st.epoch = st.mod.ExportedGlobal(in.Epoch).(api.MutableGlobal)
	for _, name := range init {
		if err := st.run(ctx, name, &abi.Call{Kind: kind, Log: o.Log}); err != nil {
			return s, nil, failed("the module's initialisation", err, o)
		}
	}
	if o.Warmup != "" {
		if err := st.warmUp(ctx, kind, o); err != nil {
			return s, nil, err
		}
	}
	for _, g := range in.Globals {
		s.Globals = append(s.Globals, st.mod.ExportedGlobal(g.Name).Get())
	}
	s.Pages = uint32(len(memory.now) / module.PageSize)
	return s, memory.image(), nil
}

func (st *starter) warmUp(ctx context.Context, kind abi.Kind, o Options) error {
	status := 0
	call := &abi.Call{
		Kind: kind, Method: "GET", Target: o.Warmup, Host: "localhost", Proto: "HTTP/1.1", Log: o.Log,
		Respond: func(s int, _ []abi.Field, _ int64) error { status = s; return nil },
		Write:   func(p []byte) (int, error) { return len(p), nil },
	}
	if err := st.run(ctx, kind.Entry(), call); err != nil {
		return failed("the warm-up request", err, o)
	}
	if status >= 400 {
		return lambent.Errorf(lambent.CodeStartFailed, "the warm-up request GET %s was answered with status %d", o.Warmup, status).
			WithHint("the function must answer it as it would anybody's; what the function keeps of it is kept for all requests")
	}
	return nil
}

// run calls an exported function. A collection of garbage stops all goroutines, also the one that asks the guest to yield,
// and would wait for a guest in a loop that nobody asks. So there is none but in yield.
func (st *starter) run(ctx context.Context, name string, call *abi.Call) error {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64)) // a limit has garbage collected all the same
	runtime.GC()
	st.live = heap()
	ctx, cancel := context.WithDeadlineCause(ctx, st.deadline, errTime)
	defer cancel()
	done := make(chan struct{})
	var ticking sync.WaitGroup
	ticking.Go(func() {
		ticks := time.NewTicker(tick)
		defer ticks.Stop()
		for {
			select {
			case <-ticks.C:
				st.ask(1)
			case <-done:
				return
			}
		}
	})
	call.Yield = func() { st.yield(ctx) }
	_, err := st.mod.ExportedFunction(name).Call(abi.With(ctx, call))
	close(done)
	ticking.Wait()
	st.ask(0)
	if exit := (*sys.ExitError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("it ended the program with exit code %d", exit.ExitCode())
	}
	return call.Finish(err)
}

func (st *starter) ask(yield uint64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.epoch.Set(yield)
}

// yield is called by the guest each tick.
func (st *starter) yield(ctx context.Context) {
	st.ask(0)
	if ctx.Err() != nil {
		panic(context.Cause(ctx))
	}
	if heap() > st.live+garbage {
		runtime.GC()
		st.live = heap()
	}
}

// heap gives the bytes of the objects on the heap, dead ones too.
func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// failed tells why an initialisation did not come to its end.
func failed(what string, err error, o Options) *lambent.Error {
	own := (*lambent.Error)(nil)
	switch {
	case errors.Is(err, context.Canceled):
		return lambent.ErrorOf(err)
	case errors.Is(err, errTime):
		return lambent.Errorf(lambent.CodeStartFailed, "%s took more than %v", what, o.Start).
			WithHint("do less before the first request: what runs then runs once, when the module is deployed")
	case errors.As(err, &own):
		e := lambent.Errorf(lambent.CodeStartFailed, "%s failed: %s", what, own.Message).
			WithHint("it runs once, when the module is deployed, without environment, arguments, files and network")
		e.Trace = own.Trace
		return e
	}
	return lambent.Errorf(lambent.CodeStartFailed, "%s failed: %w", what, err).
		WithHint("run the module in another engine for WASI to see whether it starts there")
}
