package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"lambent/executor/wasm/internal/abi"
	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/module"
)

// packed is where the artefacts of this run are, by the digest of their modules.
var packed string

// pack makes an artefact of a module, as the compiler process does, and gives its open files.
func pack(t testing.TB, wasm []byte) *artefact.Files {
	t.Helper()
	dir := filepath.Join(packed, fmt.Sprintf("%x", sha256.Sum256(wasm)))
	if _, err := os.Stat(dir); err != nil {
		compile(t, wasm, dir)
	}
	files, err := artefact.Open(dir)
	check(t, err)
	t.Cleanup(func() { files.Close() })
	return files
}

func compile(t testing.TB, wasm []byte, dir string) {
	t.Helper()
	ctx := context.Background()
	m, err := module.Parse(wasm)
	check(t, err)
	facts := m.Facts()
	kind, err := abi.KindOf(facts)
	check(t, err)
	in := m.Instrument()
	meta := artefact.Meta{Kind: string(kind), Epoch: in.Epoch, Fresh: facts.Stateful, Pages: facts.Memory.Min, Max: facts.Memory.Max,
		Overhead: facts.Overhead}
	baked, image := in.Wasm, []byte(nil)
	if len(facts.Stateful) == 0 {
		var snapshot module.Snapshot
		image, snapshot = snap(t, in, kind)
		meta.Image, meta.Pages = true, snapshot.Pages
		baked = in.Bake(snapshot)
	} else {
		if in.Start != "" {
			meta.Init = append(meta.Init, in.Start)
		}
	}
	cacheDir := filepath.Join(dir, "cache")
	cache, err := wazero.NewCompilationCacheWithDir(cacheDir)
	check(t, err)
	r := wazero.NewRuntimeWithConfig(ctx, artefact.Config(cache))
	_, err = r.CompileModule(ctx, baked)
	check(t, errors.Join(err, r.Close(ctx), cache.Close(ctx)))
	native, err := filepath.Glob(filepath.Join(cacheDir, "*", "*"))
	check(t, err)
	if len(native) != 1 {
		t.Fatalf("the cache has %q", native)
	}
	meta.Native, err = filepath.Rel(cacheDir, native[0])
	check(t, err)
	text, err := json.Marshal(meta)
	check(t, err)
	check(t, errors.Join(
		os.Rename(native[0], filepath.Join(dir, artefact.NativeFile)),
		os.WriteFile(filepath.Join(dir, artefact.ModuleFile), baked, 0o444),
		os.WriteFile(filepath.Join(dir, artefact.ImageFile), image, 0o444),
		os.WriteFile(filepath.Join(dir, artefact.MetaFile), text, 0o444)))
}

// snap gives the state of a module that has been initialised.
func snap(t testing.TB, in *module.Instrumented, kind abi.Kind) (image []byte, s module.Snapshot) {
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(artefact.Features))
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
	image, _ = guest.Memory().Read(0, guest.Memory().Size())
	s.Pages = guest.Memory().Size() / wasmPage
	for _, g := range in.Globals {
		s.Globals = append(s.Globals, guest.ExportedGlobal(g.Name).(api.MutableGlobal).Get())
	}
	return bytes.Clone(image), s
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
