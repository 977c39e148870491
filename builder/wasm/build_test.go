package wasm_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
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
			built := buildertest.Twice(t, newWorld, "wasm", files)
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
