package abi

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"lambent/executor/wasm/internal/module"
)

// host is one wazero runtime for all tests.
var host = sync.OnceValues(func() (wazero.Runtime, error) {
	r := wazero.NewRuntime(context.Background())
	return r, Instantiate(context.Background(), r)
})

// guest is a compiled module.
type guest struct {
	compiled wazero.CompiledModule
	kind     Kind
}

func compile(t testing.TB, binary []byte) *guest {
	t.Helper()
	r, err := host()
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := r.CompileModule(t.Context(), binary)
	if err != nil {
		t.Fatal(err)
	}
	m, err := module.Parse(binary)
	if err != nil {
		t.Fatal(err)
	}
	kind, err := KindOf(m.Facts())
	if err != nil {
		t.Fatal(err)
	}
	return &guest{compiled, kind}
}

// result is what came of a call.
type result struct {
	status int
	header []Field
	length int64
	body   strings.Builder
	writes int
	log    strings.Builder
	err    error
}

func (r *result) get(name string) string {
	var values []string
	for _, f := range r.header {
		if f.Name == name {
			values = append(values, f.Value)
		}
	}
	return strings.Join(values, "|")
}

// on lets c tell r.
func (r *result) on(c *Call) {
	c.Respond = func(status int, header []Field, length int64) error {
		if r.status != 0 {
			panic("Respond was called twice")
		}
		r.status, r.header, r.length = status, header, length
		return nil
	}
	c.Write = func(p []byte) (int, error) {
		if r.status == 0 {
			panic("Write was called before Respond")
		}
		r.writes++
		return r.body.Write(p)
	}
	c.Log = func(stream string, p []byte) { fmt.Fprintf(&r.log, "%s: %s", stream, p) }
}

// run makes a fresh instance and runs c in it.
func (g *guest) run(t testing.TB, c *Call) *result {
	t.Helper()
	return g.runWith(t.Context(), t, c)
}

func (g *guest) runWith(ctx context.Context, t testing.TB, c *Call) *result {
	t.Helper()
	r := &result{}
	if c.Respond == nil {
		r.on(c)
	}
	rt, err := host()
	if err != nil {
		t.Fatal(err)
	}
	c.Kind = g.kind
	instance, err := rt.InstantiateModule(t.Context(), g.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		t.Fatal(err)
	}
	defer instance.Close(t.Context())
	if f := instance.ExportedFunction(Initialize); f != nil && g.kind == Reactor {
		start := &Call{Kind: g.kind}
		_, err := f.Call(With(t.Context(), start))
		if err := start.Finish(err); err != nil {
			t.Fatal("initialisation:", err)
		}
	}
	_, err = instance.ExportedFunction(g.kind.Entry()).Call(With(ctx, c))
	r.err = c.Finish(err)
	return r
}

// tool runs a compiler in a folder.
func tool(t testing.TB, env []string, dir string, argv ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// theirWASI gives the signatures of the functions that the engine's own WASI has.
func theirWASI(t *testing.T) map[string]string {
	r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter())
	t.Cleanup(func() { _ = r.Close(context.Background()) })
	m, err := wasi_snapshot_preview1.NewBuilder(r).Compile(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for name, f := range m.ExportedFunctions() {
		out[name] = signature(f.ParamTypes()) + ">" + signature(f.ResultTypes())
	}
	return out
}

func signature(values []api.ValueType) string {
	var s strings.Builder
	for _, v := range values {
		s.WriteByte(map[api.ValueType]byte{api.ValueTypeI32: 'i', api.ValueTypeI64: 'I'}[v])
	}
	return s.String()
}
