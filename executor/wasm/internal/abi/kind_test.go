package abi

import (
	"slices"
	"strings"
	"testing"

	"lambent"
	"lambent/executor/wasm/internal/module"
)

func TestKindOf(t *testing.T) {
	write := module.Import{Module: wasiModule, Name: "fd_write", Type: module.FuncType{Params: types("iiii"), Results: types("i")}}
	time := module.Import{Module: Module, Name: "time", Type: module.FuncType{Results: types("I")}}
	other := func(from, name string) []module.Import {
		return []module.Import{write, {Module: from, Name: name}}
	}
	export := func(names ...string) (out []module.Export) {
		for _, n := range names {
			out = append(out, module.Export{Name: n, Kind: module.KindFunc})
		}
		return out
	}
	for _, c := range []struct {
		imports []module.Import
		exports []module.Export
		want    Kind
		reason  string
		hint    string
	}{
		{[]module.Import{write}, export("_start"), Command, "", ""},
		{nil, export("_start", "handle"), Command, "", ""},
		{[]module.Import{time, write}, export("handle", "_initialize"), Reactor, "", ""},
		{[]module.Import{time}, export("handle", "_start"), Reactor, "", ""},
		{[]module.Import{time}, export("_start"), "", "exports no function handle", "SDKs"},
		{[]module.Import{write}, export("handle"), "", "cannot answer", "SDK"},
		{[]module.Import{write}, nil, "", "neither _start nor handle", "wasm32-wasip1"},
		{[]module.Import{time}, []module.Export{{Name: "handle", Kind: module.KindGlobal}}, "", "exports no function handle", ""},
		{[]module.Import{time}, []module.Export{{Name: "handle", Kind: module.KindFunc, Type: module.FuncType{Params: types("i")}}}, "", "takes parameters", ""},
		{[]module.Import{time}, append(export("handle"), module.Export{Name: "_initialize", Kind: module.KindFunc, Type: module.FuncType{Results: types("i")}}), "", "_initialize", ""},
		{[]module.Import{{Module: Module, Name: "time", Type: module.FuncType{Results: types("i")}}}, export("handle"), "", "other parameters", ""},
		{other(Module, "fetch"), export("handle"), "", `"fetch" from "lambent_v1": this version`, "SDK"},
		{other(wasiModule, "sock_open"), export("_start"), "", "sockets", "process tier"},
		{other(wasiModule, "fd_dup"), export("_start"), "", "no such function", "wasm32-wasip1"},
		{other("wasi_unstable", "fd_write"), export("_start"), "", "preview 0", "newer toolchain"},
		{other("wasi", "thread-spawn"), export("_start"), "", "one thread", "not wasm32-wasip1-threads"},
		{other("wasi:http/types@0.2.0", "[method]x"), export("_start"), "", "component model", "jco transpile"},
		{other("wasi:cli/environment@0.2.0", "get-environment"), export("_start"), "", "preview 2", "not wasm32-wasip2"},
		{other("gojs", "runtime.wasmExit"), export("run"), "", "JavaScript host", "GOOS=wasip1"},
		{other("wbg", "__wbindgen_throw"), nil, "", "JavaScript host", "lambent.rs"},
		{other("./a_bg.js", "x"), nil, "", "JavaScript host", "lambent.rs"},
		{other("env", "abort"), export("handle"), "", "AssemblyScript", "--use abort=lambent_abort"},
		{other("env", "emscripten_resize_heap"), export("_start"), "", "Emscripten", "STANDALONE_WASM"},
		{other("env", "my_function"), export("_start"), "", "declared and not linked", "link"},
		{other("extism:host/env", "input_length"), export("handle"), "", "another platform", "WASI"},
		{other("fastly_http_req", "x"), nil, "", "another platform", "WASI"},
		{other("custom", strings.Repeat("x", 5000)), nil, "", "gives modules " + wasiModule, "WASI"},
	} {
		got, err := KindOf(module.Facts{Imports: c.imports, Exports: c.exports, Memory: &module.Memory{}})
		if c.reason == "" {
			if err != nil || got != c.want {
				t.Errorf("%v: %s, %v", c.exports, got, err)
			}
			continue
		}
		if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeModuleUnsupported || !strings.Contains(e.Message, c.reason) || !strings.Contains(e.Hint, c.hint) || len(e.Message) > 600 {
			t.Errorf("%v %v: %v, want %s", c.imports, c.exports, err, c.reason)
		}
	}
	if _, err := KindOf(module.Facts{Exports: export("_start")}); !lambent.HasCode(err, lambent.CodeModuleUnsupported) {
		t.Errorf("no memory: %v", err)
	}
}

// TestWASIIsWhole compares our table with the names of the engine's own, which is complete.
func TestWASIIsWhole(t *testing.T) {
	names := make([]string, 0, len(wasi))
	for _, f := range wasi {
		names = append(names, f.name)
	}
	slices.Sort(names)
	if got := len(slices.Compact(names)); got != 46 {
		t.Errorf("%d functions, the specification has 46 with sock_accept", got)
	}
	theirs := theirWASI(t)
	for _, f := range wasi {
		if want, ok := theirs[f.name]; !ok || want != f.params+">"+f.results {
			t.Errorf("%s is %s>%s, the engine has %s", f.name, f.params, f.results, want)
		}
	}
}
