package wasm

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"lambent"
	"lambent/builder"
	sdk "lambent/shim/wasm"
)

func planOf(files map[string]string) (*builder.Plan, error) {
	fs := fstest.MapFS{}
	for name, text := range files {
		fs[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return Builder{}.Plan(builder.Source{FS: fs, Digest: "sha256:0", Runtime: "wasm", Handler: "bin/main.wasm"})
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		args  []string // the end of those of the build step; nil where there is nothing to build
	}{
		{"a module", map[string]string{"bin/main.wasm": "\x00asm", "README.md": "", "test/x.c": ""}, nil},
		{"an older build beside the source", map[string]string{"bin/main.wasm": "\x00asm", "main.c": ""}, []string{"command", "main.c"}},
		{"a program in C", map[string]string{"main.c": "// #include \"lambent.h\"\n", "src/x.c": "", "src/x.h": ""}, []string{"bin/main.wasm", "command", "main.c", "src/x.c"}},
		{"a library in C", map[string]string{"main.c": "#include <stdio.h>\n # include \"lambent.h\"\n"}, []string{"reactor", "main.c"}},
		{"a program in Go", map[string]string{"go.mod": "module x\n", "main.go": "package main\n\nfunc main() { /* //go:wasmexport handle */ }\n"}, []string{"bin/main.wasm", "default", "", "", "."}},
		{"a library in Go", map[string]string{"main.go": "package main\n\n//go:wasmexport handle\nfunc handle() {}\n", "main_test.go": ""}, []string{"bin/main.wasm", "c-shared", "lambent/lambent.go", sdk.Source("lambent.go"), "./main.go"}},
		{"a library in Go with our package", map[string]string{"go.mod": "module a.test/x\n", "main.go": "package main\n\nimport \"a.test/x/lambent\"\n"}, []string{"c-shared", "lambent/lambent.go", sdk.Source("lambent.go"), "."}},
		{"a test is no source", map[string]string{"bin/main.wasm": "\x00asm", "main_test.go": ""}, nil},
		{"a program in Rust", map[string]string{"main.rs": ""}, []string{"2021", "main.rs"}},
		{"a crate with a library", map[string]string{"Cargo.toml": "[package]\nedition = \"2018\" # old\n[dev-dependencies]\nx = \"1\"\n[target.'cfg(unix)'.dependencies]\n", "src/lib.rs": ""}, []string{"2018", "src/lib.rs"}},
		{"AssemblyScript", map[string]string{"assembly/index.ts": "", "package.json": `{"devDependencies": {"assemblyscript": "0.28.20"}}`}, []string{"--optimize", "assembly/index.ts"}},
		{"AssemblyScript with settings", map[string]string{"src/index.ts": "", "asconfig.json": "{}"}, []string{"src/index.ts"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := planOf(tt.files)
			if err != nil {
				t.Fatal(err)
			}
			if tt.args == nil {
				if p != nil {
					t.Errorf("%+v", p)
				}
				return
			}
			if args := p.Build.Args; !slices.Equal(args[len(args)-len(tt.args):], tt.args) {
				t.Errorf("it is built with %q", args)
			}
			if !p.Drop("main.c") || p.Ship {
				t.Error("the code is more than the module")
			}
		})
	}
}

func TestPlanRefused(t *testing.T) {
	for _, tt := range []struct {
		files map[string]string
		want  string
	}{
		{map[string]string{"README.md": ""}, "there is neither bin/main.wasm nor source in Go, C, Rust or AssemblyScript to make it of"},
		{map[string]string{"main.c": "", "main.go": ""}, "there are both main.go (Go) and main.c (C), and a module is made of one language"},
		{map[string]string{"Cargo.toml": ""}, "Cargo.toml has neither src/main.rs nor src/lib.rs beside it"},
		{map[string]string{"src/main.rs": "", "src/lib.rs": ""}, "there are both src/main.rs and src/lib.rs"},
		{map[string]string{"Cargo.toml": "[package]\nname = \"x\"\n\n[dependencies]\n# json\nserde = \"1\"\n", "src/main.rs": ""}, "Cargo.toml names dependencies (serde = \"1\"), which are not built here"},
		{map[string]string{"Cargo.toml": "[dependencies.serde]\nversion = \"1\"\n", "src/main.rs": ""}, "Cargo.toml names dependencies ([dependencies.serde]), which are not built here"},
		{map[string]string{"asconfig.json": "{"}, "asconfig.json: unexpected end of JSON input"},
		{map[string]string{"asconfig.json": "{}"}, "asconfig.json names no entries, and there is none of main.ts"},
		{map[string]string{"asconfig.json": "{}", "index.ts": "", "package.json": `{"dependencies": {"x": "1"}}`}, "package.json names dependencies, but no package-lock.json says which versions of them"},
	} {
		p, err := planOf(tt.files)
		if e := lambent.ErrorOf(err); err == nil || e.Code != lambent.CodeBuildFailed || !strings.Contains(e.Message, tt.want) || e.Hint == "" && !strings.Contains(tt.want, "JSON") {
			t.Errorf("%v: %+v, %v", tt.files, p, err)
		}
	}
}

func TestFindings(t *testing.T) {
	names := []string{}
	for _, f := range (Builder{}).Findings() {
		if !f.OK {
			t.Errorf("%+v", f)
		}
		names = append(names, f.Name)
	}
	if want := []string{"builder wasm Go", "builder wasm C", "builder wasm Rust", "builder wasm AssemblyScript"}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
}
