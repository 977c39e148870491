// Package compile makes artefacts of modules: it checks a module, makes it interruptible, runs its initialisation, freezes
// the result, and compiles that to native code. It runs hostile code and an optimising compiler on hostile input, so the
// host runs it in a sandboxed process of its own (Main), with limits of memory and time.
package compile

import (
	"context"
	"errors"
	"time"

	"lambent"
	"lambent/executor/wasm/internal/abi"
	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/module"
)

// Options say how to compile.
type Options struct {
	Warmup string                           // target of a request to run before the snapshot, as "/warm"; "" for none
	Memory int64                            // bytes of linear memory that the initialisation may use; 0: MaxMemory
	Start  time.Duration                    // how long the initialisation may take; 0: 10 s
	Dir    string                           // folder for temporary files; "": the system's
	Log    func(stream string, line []byte) `json:"-"` // what the initialisation writes; nil: nobody reads it
}

// MaxMemory is the most for [Options.Memory] that a compiler process has room for.
const MaxMemory = 1 << 30

const defaultStart = 10 * time.Second

// Compile makes the artefact of a module. How long the engine's compiler takes nobody but Main bounds. Its error is a *lambent.Error: bundle_invalid for what is no valid module,
// module_unsupported for one that cannot run here, start_failed when its initialisation fails, and internal. Main adds
// start_timeout and start_failed for what takes more than its limits.
//
// While a module's initialisation runs, garbage is collected for the whole process only when that code yields.
func Compile(ctx context.Context, wasm []byte, o Options) (*artefact.Artefact, error) {
	a, err := compile(ctx, wasm, o)
	if err != nil {
		return nil, lambent.ErrorOf(err)
	}
	return a, nil
}

func compile(ctx context.Context, wasm []byte, o Options) (a *artefact.Artefact, err error) {
	if o.Memory == 0 {
		o.Memory = MaxMemory
	}
	if o.Start == 0 {
		o.Start = defaultStart
	}
	if o.Log == nil {
		o.Log = func(string, []byte) {}
	}
	m, err := module.Parse(wasm)
	if err != nil {
		return nil, refused(err.(*module.Error))
	}
	facts := m.Facts()
	kind, err := abi.KindOf(facts)
	if err != nil {
		return nil, err
	}
	if err := check(facts, kind, o); err != nil {
		return nil, err
	}
	in := m.Instrument()
	init := initialisation(facts, in, kind)
	shop, err := openShop(o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, shop.Close()) }()
	compiled, err := shop.compile(ctx, in.Wasm)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, compiled.Close(ctx)) }()
	a = &artefact.Artefact{Meta: artefact.Meta{
		Kind: string(kind), Epoch: in.Epoch, Pages: facts.Memory.Min, Max: facts.Memory.Max, Fresh: facts.Stateful,
		Overhead: facts.Overhead,
	}}
	snapshot, image, err := initialise(ctx, compiled, in, kind, init, o)
	if err != nil {
		return nil, err
	}
	result := func(in *module.Instrumented) []byte { return in.Bake(snapshot) }
	if len(facts.Stateful) > 0 { // it has been tried, and each instance does it again
		result = func(in *module.Instrumented) []byte { return in.Wasm }
		a.Meta.Init = init
	} else {
		a.Image, a.Meta.Pages, a.Meta.Image = image, snapshot.Pages, true
	}
	if n := a.Kept(); n > artefact.MaxImage {
		return nil, lambent.Errorf(lambent.CodeStartFailed, "the module's initialisation leaves %d MiB of memory that is not zero, %d can be kept", n>>20, artefact.MaxImage>>20).
			WithHint("compute large tables when they are needed")
	}
	a.Module = result(in.Hollow())
	found, err := shop.rename(ctx, in.Wasm, a.Module)
	if err == nil && !found {
		a.Module = result(in)
		err = shop.only(ctx, a.Module)
	}
	if err != nil {
		return nil, err
	}
	if len(a.Module) > module.MaxSize {
		return nil, unsupported("the module is larger than %d bytes once it can be interrupted", module.MaxSize).WithHint("make it smaller: keep large data apart from code")
	}
	a.Meta.Native, a.Native, err = shop.read()
	return a, err
}

// check refuses what the options cannot be met for.
func check(facts module.Facts, kind abi.Kind, o Options) error {
	if size := int64(facts.Memory.Min) * module.PageSize; size > o.Memory {
		return unsupported("the module wants %d MiB of memory at its start, and it may have %d there", size>>20, o.Memory>>20).
			WithHint("build it with a smaller initial memory, as it can grow later; or raise memory in its settings")
	}
	if o.Warmup == "" {
		return nil
	}
	if kind == abi.Command {
		return unsupported("a command starts anew for each request, so it cannot be warmed up").WithHint("remove warmup, or make it a reactor")
	}
	if len(facts.Stateful) > 0 {
		return unsupported("the module cannot be warmed up, because of what no snapshot has: %s", facts.Stateful[0]).WithHint("remove warmup")
	}
	return nil
}

// initialisation lists the exports to call before the entry.
func initialisation(facts module.Facts, in *module.Instrumented, kind abi.Kind) (init []string) {
	if in.Start != "" {
		init = append(init, in.Start)
	}
	if _, ok := facts.Export(abi.Initialize, module.KindFunc); ok && kind == abi.Reactor {
		init = append(init, abi.Initialize)
	}
	return init
}

func refused(e *module.Error) *lambent.Error {
	if e.Hint == "" {
		return lambent.Errorf(lambent.CodeBundleInvalid, "the module is not valid WebAssembly: %w", e).
			WithHint("check that the file is the output of a WebAssembly toolchain, and whole")
	}
	return lambent.Errorf(lambent.CodeModuleUnsupported, "%w", e).WithHint("%s", e.Hint)
}

func unsupported(format string, args ...any) *lambent.Error {
	return lambent.Errorf(lambent.CodeModuleUnsupported, format, args...)
}

func internal(err error) *lambent.Error {
	return lambent.Errorf(lambent.CodeInternal, "the module could not be compiled: %w", err)
}
