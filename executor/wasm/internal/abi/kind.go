package abi

import (
	"fmt"
	"slices"
	"strings"

	"lambent"
	"lambent/executor/wasm/internal/module"
)

// KindOf tells the kind of a module by what it imports and exports: who imports from [Module] is a reactor. The error
// is module_unsupported and says why it cannot run here, and what to do.
func KindOf(facts module.Facts) (Kind, error) {
	kind := Command
	for _, i := range facts.Imports {
		if err := checkImport(i); err != nil {
			return "", err
		}
		if i.Module == Module {
			kind = Reactor
		}
	}
	if facts.Memory == nil {
		return "", unsupported("the module has no memory", "a module without one cannot read a request")
	}
	entry, ok := facts.Export(kind.Entry(), module.KindFunc)
	_, handles := facts.Export(Reactor.Entry(), module.KindFunc)
	switch {
	case ok:
	case kind == Reactor:
		return "", unsupported("the module imports "+Module+" but exports no function handle", "export it; the SDKs do, see docs/wasm-abi.md")
	case handles:
		return "", unsupported("the module exports handle but imports nothing of "+Module+", so it cannot answer", "use an SDK of Lambent, see docs/wasm-abi.md")
	default:
		return "", unsupported("the module exports neither _start nor handle", "build it as a WASI command (wasm32-wasip1, with a main function), or with an SDK of Lambent")
	}
	if len(entry.Type.Params)+len(entry.Type.Results) > 0 {
		return "", unsupported("the function "+entry.Name+" that the module exports takes parameters or gives results", "it must do neither")
	}
	if init, ok := facts.Export(Initialize, module.KindFunc); ok && len(init.Type.Params)+len(init.Type.Results) > 0 {
		return "", unsupported("the function "+Initialize+" that the module exports takes parameters or gives results", "it must do neither")
	}
	return kind, nil
}

func unsupported(what, hint string) *lambent.Error {
	return lambent.Errorf(lambent.CodeModuleUnsupported, "%s", what).WithHint("%s", hint)
}

func checkImport(i module.Import) error {
	known := modules[i.Module]
	at := slices.IndexFunc(known, func(f function) bool { return f.name == i.Name })
	if at < 0 {
		reason, hint := whyNot(i)
		return unsupported(fmt.Sprintf("the module imports %.100q from %.100q: %s", i.Name, i.Module, reason), hint)
	}
	f := known[at]
	if !slices.Equal(i.Type.Params, types(f.params)) || !slices.Equal(i.Type.Results, types(f.results)) {
		return unsupported(fmt.Sprintf("the module imports %s from %s with other parameters or results than it has", i.Name, i.Module),
			"build it with a toolchain for wasm32-wasip1, or an SDK of Lambent")
	}
	return nil
}

func types(signature string) []module.ValueType {
	out := make([]module.ValueType, len(signature))
	for i, c := range signature {
		out[i] = module.I32
		if c == 'I' {
			out[i] = module.I64
		}
	}
	return out
}

const buildForWASI = "build it for WASI preview 1 (wasm32-wasip1, GOOS=wasip1), or with an SDK of Lambent"

// whyNot explains what a module imports that is not ours, by who makes such modules.
func whyNot(i module.Import) (reason, hint string) {
	has := func(prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(i.Module, p) })
	}
	switch {
	case i.Module == wasiModule && strings.HasPrefix(i.Name, "sock_"):
		return "that is an extension for sockets, which functions do not have", "build it without sockets; a function with a network runs in the process tier"
	case i.Module == wasiModule:
		return "WASI preview 1 has no such function", buildForWASI
	case i.Module == Module:
		return "this version of Lambent has no such function", "use the SDK of this version"
	case i.Module == "wasi_unstable":
		return "that is WASI preview 0", "build it with a newer toolchain, for wasm32-wasip1"
	case i.Module == "wasi" && i.Name == "thread-spawn":
		return "that is a thread of wasi-threads, and functions have one thread", "build it for wasm32-wasip1, not wasm32-wasip1-threads"
	case has("wasi:http"):
		return "that is an interface of the component model (WASI preview 2)", "build it as a module for wasm32-wasip1 that speaks CGI or uses an SDK of Lambent; a component can run as a Node.js function after: jco transpile"
	case has("wasi:"):
		return "that is an interface of WASI preview 2", "build it for wasm32-wasip1, not wasm32-wasip2"
	case has("wasi_ephemeral", "wasi_nn", "wasi-", "wasmedge"):
		return "that is an extension of WASI, which Lambent does not have", buildForWASI
	case i.Module == "gojs" || i.Module == "go":
		return "it is built for Go's JavaScript host", "build it with GOOS=wasip1 GOARCH=wasm"
	case has("wbg", "__wbindgen", "./"):
		return "it is built for a JavaScript host", "build it without wasm-bindgen, with lambent.rs"
	case has("extism:", "spin", "fastly_", "http_handler", "fermyon", "wasmbus", "proxy_"):
		return "that is the interface of another platform", buildForWASI
	case i.Module == "env" && slices.Contains([]string{"abort", "seed", "trace"}, i.Name):
		return "that is AssemblyScript's way to reach its host", "use lambent.ts, and compile with --use abort=lambent_abort --use seed=lambent_seed --use trace=lambent_trace"
	case i.Module == "env" && (strings.Contains(i.Name, "emscripten") || strings.HasPrefix(i.Name, "invoke_") || strings.HasPrefix(i.Name, "__syscall") || strings.HasPrefix(i.Name, "_embind")):
		return "that is a function of Emscripten's JavaScript host", "build it with -sSTANDALONE_WASM, or with wasi-libc"
	case i.Module == "env":
		return "no such function is there, as when it is declared and not linked", "link what defines it"
	}
	return "Lambent gives modules " + wasiModule + " and " + Module + " only", buildForWASI
}
