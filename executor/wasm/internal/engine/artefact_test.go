package engine

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"lambent/executor/wasm/internal/abi"
	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/module"
)

// pack makes an artefact of a module, as the compiler process does, and gives its open files.
func pack(t testing.TB, wasm []byte) *artefact.Files {
	t.Helper()
	ctx := context.Background()
	m, err := module.Parse(wasm)
	check(t, err)
	facts := m.Facts()
	kind, err := abi.KindOf(facts)
	check(t, err)
	in := m.Instrument()
	meta := artefact.Meta{Kind: string(kind), Epoch: in.Epoch, Fresh: facts.Stateful}
	if facts.Memory != nil {
		meta.Max = facts.Memory.Max
		meta.Pages = facts.Memory.Min
	}
	baked, image := in.Wasm, []byte(nil)
	if len(facts.Stateful) == 0 {
		r := wazero.NewRuntimeWithConfig(ctx, artefact.Config(nil))
		defer r.Close(ctx)
		check(t, abi.Instantiate(ctx, r))
		_, err := r.NewHostModuleBuilder(module.YieldModule).NewFunctionBuilder().WithFunc(func() {}).
			Export(module.YieldName).Instantiate(ctx)
		check(t, err)
		compiled, err := r.CompileModule(ctx, in.Wasm)
		check(t, err)
		guest, err := r.InstantiateModule(ctx, compiled, config)
		check(t, err)
		for _, name := range []string{in.Start, abi.Initialize} {
			if f := guest.ExportedFunction(name); f != nil {
				_, err := f.Call(abi.With(ctx, &abi.Call{Kind: kind}))
				check(t, err)
			}
		}
		snapshot := module.Snapshot{}
		if memory := guest.Memory(); facts.Memory != nil {
			image, _ = memory.Read(0, memory.Size())
			snapshot.Pages = memory.Size() / wasmPage
		}
		for _, g := range in.Globals {
			value := guest.ExportedGlobal(g.Name).(api.MutableGlobal).Get()
			snapshot.Globals = append(snapshot.Globals, value)
			meta.Globals = append(meta.Globals, artefact.Global{Global: g, Value: value})
		}
		meta.Image, meta.Pages = true, snapshot.Pages
		baked = in.Bake(snapshot)
	} else {
		meta.Init = in.Start
	}
	dir := t.TempDir()
	cacheDir := filepath.Join(dir, "cache")
	cache, err := wazero.NewCompilationCacheWithDir(cacheDir)
	check(t, err)
	defer cache.Close(ctx)
	r := wazero.NewRuntimeWithConfig(ctx, artefact.Config(cache))
	defer r.Close(ctx)
	_, err = r.CompileModule(ctx, baked)
	check(t, err)
	native, err := filepath.Glob(filepath.Join(cacheDir, "*", "*"))
	check(t, err)
	if len(native) != 1 {
		t.Fatalf("the cache has %q", native)
	}
	meta.Native, err = filepath.Rel(cacheDir, native[0])
	check(t, err)
	files := &artefact.Files{Meta: meta}
	for _, f := range []struct {
		to      **os.File
		name    string
		content []byte
	}{{&files.Module, artefact.ModuleFile, baked}, {&files.Image, artefact.ImageFile, image}} {
		path := filepath.Join(dir, f.name)
		check(t, os.WriteFile(path, f.content, 0o444))
		*f.to, err = os.Open(path)
		check(t, err)
	}
	files.Native, err = os.Open(native[0])
	check(t, err)
	t.Cleanup(func() { files.Close() })
	return files
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open makes an engine that ends with the test.
func open(t testing.TB, o Options) *Engine {
	t.Helper()
	if o.Memory == 0 {
		o.Memory = 4 << 30
	}
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	e, err := New(context.Background(), o)
	check(t, err)
	t.Cleanup(func() { check(t, e.Close()) })
	return e
}

// load makes a program of a module.
func load(t testing.TB, e *Engine, wasm []byte, memory int64) *Program {
	t.Helper()
	p, err := e.Load(context.Background(), pack(t, wasm), memory)
	check(t, err)
	t.Cleanup(func() { check(t, p.Close()) })
	return p
}

// call runs p once and gives what it answered.
func call(t testing.TB, p *Program, c *abi.Call, limits Limits) (body string, usage Usage, err error) {
	t.Helper()
	return callWith(context.Background(), p, c, limits)
}

func callWith(ctx context.Context, p *Program, c *abi.Call, limits Limits) (body string, usage Usage, err error) {
	var out []byte
	c.Kind = p.kind
	if c.Method == "" {
		c.Method, c.Target, c.Host, c.Proto = "GET", "/", "test", "HTTP/1.1"
	}
	c.Respond = func(int, []abi.Field, int64) error { return nil }
	c.Write = func(b []byte) (int, error) { out = append(out, b...); return len(b), nil }
	if c.Log == nil {
		c.Log = func(string, []byte) {}
	}
	p.Run(ctx, c, limits, func(u Usage, failed error) { usage, err = u, c.Finish(failed) })
	return string(out), usage, err
}
