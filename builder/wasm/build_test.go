package wasm_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"lambent"
	"lambent/builder"
	"lambent/builder/buildertest"
	"lambent/builder/wasm"
)

func newWorld(t *testing.T) *buildertest.World {
	return buildertest.New(t, builder.Options{Builders: map[string]builder.Builder{"wasm": wasm.Builder{}}})
}

// run runs a command on what is on its stdin, without the platform, and gives what it prints.
func run(t *testing.T, module, in string) string {
	t.Helper()
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	var out bytes.Buffer
	_, err := r.InstantiateWithConfig(ctx, []byte(module), wazero.NewModuleConfig().WithStdin(strings.NewReader(in)).WithStdout(&out))
	if err != nil && !strings.Contains(err.Error(), "exit_code(0)") {
		t.Fatal(err)
	}
	return out.String()
}

var commands = map[string]map[string]string{
	"C": {
		"main.c":      "#include <stdio.h>\n#include <signal.h>\n#include \"src/shout.h\"\n\nint main(void) {\n\tint c;\n\tsignal(SIGINT, SIG_DFL);\n\twhile ((c = getchar()) != EOF) putchar(shout(c));\n\tprintf(\" %.2f\", 0.5);\n}\n",
		"src/shout.c": "#include <ctype.h>\n#include \"shout.h\"\n\nint shout(int c) { return toupper(c); }\n",
		"src/shout.h": "int shout(int c);\n",
	},
	"Go": {
		"go.mod":         "module shout\n\ngo 1.24\n",
		"main.go":        "package main\n\nimport (\n\t\"fmt\"\n\t\"io\"\n\t\"os\"\n\n\t\"shout/upper\"\n)\n\nfunc main() {\n\tin, _ := io.ReadAll(os.Stdin)\n\tfmt.Printf(\"%s %.2f\", upper.Of(in), 0.5)\n}\n",
		"upper/upper.go": "package upper\n\nimport \"bytes\"\n\nfunc Of(p []byte) []byte { return bytes.ToUpper(p) }\n",
	},
	"Rust": {
		"Cargo.toml":   "[package]\nname = \"shout\"\nversion = \"1.0.0\"\nedition = \"2021\"\n\n[dev-dependencies]\nx = \"1\"\n",
		"src/main.rs":  "mod upper;\n\nuse std::io::Read;\n\nfn main() {\n    let mut text = String::new();\n    std::io::stdin().read_to_string(&mut text).unwrap();\n    print!(\"{} {:.2}\", upper::of(&text), 0.5);\n}\n",
		"src/upper.rs": "pub fn of(text: &str) -> String {\n    text.to_uppercase()\n}\n",
	},
}

func TestCommand(t *testing.T) {
	for language, files := range commands {
		t.Run(language, func(t *testing.T) {
			w := newWorld(t)
			first := w.Build(t, "default", "wasm", files, nil)
			if again := w.Build(t, "default", "wasm", files, nil); !again.Cached || again.Code != first.Code {
				t.Errorf("again: %+v, the first time: %+v", again, first)
			}
			if elsewhere := newWorld(t).Build(t, "default", "wasm", files, nil); elsewhere.Code != first.Code {
				t.Errorf("two builds differ: %s and %s", first.Code, elsewhere.Code)
			}
			built := w.Files(t, first.Code)
			if len(built) != 1 {
				t.Errorf("the code has %d files", len(built))
			}
			if got := run(t, built["main.wasm"], "aßc"); !strings.HasSuffix(got, " 0.50") || got[0] != 'A' {
				t.Errorf("it printed %q", got)
			}
			t.Logf("%d bytes", len(built["main.wasm"]))
		})
	}
}

var reactors = map[string]map[string]string{
	"C":                         {"main.c": "#include \"lambent.h\"\n\nvoid handle(void) { lambent_print(\"hi\"); }\n"},
	"Go with our package":       {"go.mod": "module a.test/hi\n\ngo 1.24\n", "main.go": "package main\n\nimport \"a.test/hi/lambent\"\n\nfunc init() {\n\tlambent.Handle(func(w *lambent.ResponseWriter, r *lambent.Request) { w.WriteString(\"hi\") })\n}\n\nfunc main() {}\n"},
	"Go":                        {"main.go": "package main\n\n//go:wasmimport lambent_v1 write\nfunc write(p *byte, n uint32)\n\nvar hi = []byte(\"hi\")\n\n//go:wasmexport handle\nfunc handle() { write(&hi[0], 2) }\n\nfunc main() {}\n"},
	"Rust":                      {"src/lib.rs": "mod lambent;\n\nfn answer(_: lambent::Request) -> std::io::Result<()> {\n    lambent::Response::new(200).with(\"hi\")\n}\n\nlambent::handle!(answer);\n", "Cargo.toml": "[package]\nname = \"hi\"\nedition = \"2021\"\n"},
	"AssemblyScript":            {"main.ts": "import { Response } from \"./lambent\";\n\nexport function handle(): void {\n  new Response().send(\"hi\");\n}\n"},
	"AssemblyScript, library":   {"assembly/index.ts": "import { Response } from \"lambent\";\n\nexport function handle(): void {\n  new Response().send(\"hi\");\n  if (Math.random() > 2) throw new Error(\"no\");\n}\n", "asconfig.json": `{"entries": ["assembly/index.ts"], "targets": {"release": {"outFile": "build/x.wasm", "sourceMap": true, "optimizeLevel": 3}}}`},
	"AssemblyScript by its own": {"index.ts": "@external(\"lambent_v1\", \"write\")\ndeclare function write(at: usize, size: u32): void;\n\nexport function handle(): void {\n  const hi = String.UTF8.encode(\"hi\");\n  write(changetype<usize>(hi), 2);\n}\n"},
}

// TestReactor builds modules that import nothing but what there is, and calls them once.
func TestReactor(t *testing.T) {
	w := newWorld(t)
	for name, files := range reactors {
		t.Run(name, func(t *testing.T) {
			built := w.Files(t, w.Build(t, "default", "wasm", files, nil).Code)
			if len(built) != 1 {
				t.Errorf("the code has %d files", len(built))
			}
			if got := call(t, built["main.wasm"]); got != "hi" {
				t.Errorf("it answered %q", got)
			}
			t.Logf("%d bytes", len(built["main.wasm"]))
		})
	}
}

// call calls a reactor and gives what it writes.
func call(t *testing.T, module string) (out string) {
	t.Helper()
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	text := func(m api.Module, at, size uint32) string {
		p, _ := m.Memory().Read(at, size)
		return string(p)
	}
	_, err := r.NewHostModuleBuilder("lambent_v1").
		NewFunctionBuilder().WithFunc(func(_ context.Context, m api.Module, at, size uint32) { out += text(m, at, size) }).Export("write").
		NewFunctionBuilder().WithFunc(func(_ context.Context, _ api.Module, _, _ uint32) {}).Export("random").
		NewFunctionBuilder().WithFunc(func(_ context.Context, m api.Module, at, size uint32) { t.Log(text(m, at, size)) }).Export("log").
		NewFunctionBuilder().WithFunc(func(_ context.Context, _ api.Module, _, _, _ uint32) {}).Export("respond").
		NewFunctionBuilder().WithFunc(func(_ context.Context, _ api.Module, _, _ uint32) uint32 { return 0 }).Export("read").
		NewFunctionBuilder().WithFunc(func(_ context.Context, _ api.Module, _, _, _, _ uint32) int32 { return -1 }).Export("env").
		NewFunctionBuilder().WithFunc(func() int64 { return 0 }).Export("time").
		NewFunctionBuilder().WithFunc(func(_ context.Context, m api.Module, at, size uint32) uint32 {
		head := "GET\x00/\x00host\x00HTTP/1.1\x00\x00"
		if !m.Memory().WriteString(at, head) || int(size) < len(head) {
			t.Errorf("%d bytes for the head", size)
		}
		return uint32(len(head))
	}).Export("request").Instantiate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.InstantiateWithConfig(ctx, []byte(module), wazero.NewModuleConfig().WithStartFunctions("_initialize"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.ExportedFunction("handle").Call(ctx); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestMistake checks that what a compiler says of a mistake comes with its file and line.
func TestMistake(t *testing.T) {
	w := newWorld(t)
	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"Go":             {map[string]string{"main.go": "package main\n\nfunc main() {\n\tundefinedThing()\n}\n"}, "./main.go:4:2: undefined: undefinedThing"},
		"C":              {map[string]string{"src/main.c": "int main(void) {\n\treturn undefinedThing;\n}\n"}, "src/main.c:2:9: error: use of undeclared identifier 'undefinedThing'"},
		"Rust":           {map[string]string{"main.rs": "fn main() {\n    undefined_thing();\n}\n"}, "main.rs:2:5"},
		"AssemblyScript": {map[string]string{"assembly/index.ts": "export function handle(): void {\n  undefinedThing();\n}\n"}, "assembly/index.ts(2,3)"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.Service.Build(t.Context(), "default", lambent.Build{Runtime: "wasm", Handler: "main.wasm", Source: w.Put(t, tt.files)}, func(string) {})
			if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeBuildFailed || !strings.Contains(e.Trace, tt.want) {
				t.Errorf("%v\n%s", err, e.Trace)
			}
		})
	}
}
