package golang

import (
	"maps"
	"slices"
	"testing"
	"testing/fstest"

	"lambent/builder"
)

func TestPlan(t *testing.T) {
	plan := func(files map[string]string) *builder.Plan {
		fs := fstest.MapFS{}
		for name, text := range files {
			fs[name] = &fstest.MapFile{Data: []byte(text)}
		}
		p, err := Builder{}.Plan(builder.Source{FS: fs, Digest: "sha256:0", Runtime: "go", Handler: "bin/server"})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := plan(map[string]string{"bin/server": "ELF", "static/x": ""}); p != nil {
		t.Errorf("a program that is built: %+v", p)
	}
	p := plan(map[string]string{"main.go": "", "count.go": "", "count_test.go": ""})
	if got := p.Build.Args[4:]; !slices.Equal(got, []string{"bin/server", "default", "", "", "./count.go", "./main.go"}) {
		t.Errorf("without a module %v", got)
	}
	p = plan(map[string]string{"go.mod": "module x\n", "main.go": ""})
	if got := p.Build.Args[4:]; !slices.Equal(got, []string{"bin/server", "default", "", "", "."}) {
		t.Errorf("a module %v", got)
	}
	for name, dropped := range map[string]bool{
		"main.go": true, "lib/x.go": true, "go.mod": true, "lib/go.sum": true, "vendor": true, "vendor/x/data": true, "lib/testdata/x": true, ".env": true,
		"bin/server": true, "lambent.yaml": true, "static/lambent.yaml": false, "static": false, "static/page.html": false, "bin": false, "go": false,
	} {
		if p.Drop(name) != dropped {
			t.Errorf("%s: dropped is %v", name, !dropped)
		}
	}
	// The layer's step sees no more than its key covers: what the program requires, and what it imports of that.
	source := map[string]string{
		"go.mod": "module a.test/x\n\nrequire b.test/y v1.0.0\n", "go.sum": "b.test/y v1.0.0 h1:x\n",
		"main.go":           "package main\n\nimport (\n\t\"fmt\"\n\t\"a.test/x/lib\"\n\t\"b.test/y\"\n\t\"a.test/x/elsewhere\"\n\t_ \"-o.test/x\"\n)\n",
		"lib/lib.go":        "package lib\n\nimport _ \"b.test/y/z\"\n",
		"lib/other.go":      "package lib\n\nimport a, nonsense\n",
		"lib/windows.go":    "//go:build windows\n\npackage lib\n\nimport _ \"b.test/y/windows\"\n",
		"lib/lib_test.go":   "package lib\n\nimport _ \"b.test/y/test\"\n",
		"unused/unused.go":  "package unused\n\nimport _ \"b.test/y/unused\"\n",
		"lib/sub/sub.go":    "package sub\n",
		"secret/secret.txt": "x",
	}
	layer := plan(source).Layer
	if got := layer.Args[4:]; !slices.Equal(got, []string{"-o.test/x", "a.test/x/elsewhere", "b.test/y", "b.test/y/z"}) {
		t.Errorf("imports %q", got)
	}
	if !slices.Equal(layer.Files, []string{"go.mod", "go.sum"}) {
		t.Errorf("the layer sees %q", layer.Files)
	}
	for name, text := range map[string]string{"vendor/modules.txt": "", "go.mod": source["go.mod"] + "replace b.test/y => ./lib\n"} {
		local := maps.Clone(source)
		local[name] = text
		if p := plan(local); p.Layer != nil && (p.Layer.Files == nil || len(p.Layer.Files)+len(p.Layer.Args) > 4) {
			t.Errorf("with %s the layer sees %q and gets %q", name, p.Layer.Files, p.Layer.Args)
		}
	}

	with := func(mod, sum string) string {
		return plan(map[string]string{"go.mod": mod, "go.sum": sum, "main.go": ""}).Layer.Key
	}
	a := with("module a\n\ngo 1.24\n", "x")
	if with("module b\n\ngo 1.24\n", "x") != a || with("module a\n\ngo 1.24\n", "y") == a || with("module a\n\ngo 1.23\n", "x") == a {
		t.Error("a layer is not kept by what a module requires")
	}
}
