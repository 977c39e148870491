package golang

import (
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
	if got := p.Build.Args[2:]; !slices.Equal(got, []string{"bin/server", "./count.go", "./main.go"}) {
		t.Errorf("without a module %v", got)
	}
	p = plan(map[string]string{"go.mod": "module x\n", "main.go": ""})
	if got := p.Build.Args[2:]; !slices.Equal(got, []string{"bin/server", "."}) {
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
	with := func(mod, sum string) string {
		return plan(map[string]string{"go.mod": mod, "go.sum": sum, "main.go": ""}).Layer.Key
	}
	a := with("module a\n\ngo 1.24\n", "x")
	if with("module b\n\ngo 1.24\n", "x") != a || with("module a\n\ngo 1.24\n", "y") == a || with("module a\n\ngo 1.23\n", "x") == a {
		t.Error("a layer is not kept by what a module requires")
	}
}
