//go:build integration

package golang

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lambent"
	"lambent/builder"
	"lambent/builder/buildertest"
)

func newWorld(t *testing.T) *buildertest.World {
	env, _ := builder.Environment(os.Environ())
	return buildertest.New(t, builder.Options{Builders: map[string]builder.Builder{"go": Builder{}}, Egress: builder.AnyHost, Env: env})
}

var module = map[string]string{
	"go.mod":      "module example\n\ngo 1.24\n\nrequire github.com/google/uuid v1.6.0\n",
	"go.sum":      "github.com/google/uuid v1.6.0 h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0=\ngithub.com/google/uuid v1.6.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=\n",
	"main.go":     "package main\n\nimport (\n\t\"fmt\"\n\n\t\"github.com/google/uuid\"\n)\n\nfunc main() { fmt.Println(uuid.Nil) }\n",
	"static/page": "<p>",
}

func TestIntegrationModule(t *testing.T) {
	built := buildertest.Twice(t, newWorld, "go", module)
	if built["static/page"] == "" || built["go.mod"] != "" || built["main.go"] != "" {
		t.Errorf("the code has %d files", len(built))
	}
	w := newWorld(t)
	first := w.Build(t, "default", "go", module, nil)
	out, err := exec.Command(filepath.Join(w.Tree(t, first.Code), "main")).Output()
	if err != nil || strings.TrimSpace(string(out)) != "00000000-0000-0000-0000-000000000000" {
		t.Errorf("%q, %v", out, err)
	}
	changed := maps.Clone(module)
	changed["main.go"] = strings.Replace(changed["main.go"], "uuid.Nil", "uuid.Max", 1)
	second := w.Build(t, "default", "go", changed, nil)
	t.Logf("first %.0f ms, with the layer %.0f ms", first.Duration, second.Duration)
	if second.Layer != first.Layer || second.Layer == "" {
		t.Error("the layer was made again")
	}
	changed["main.go"] = "package main\n\nfunc main() {\n\tundefinedThing()\n}\n"
	_, err = w.Service.Build(t.Context(), "default", lambent.Build{Runtime: "go", Handler: "main", Source: w.Put(t, changed)}, func(string) {})
	if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeBuildFailed || !strings.Contains(e.Trace, "./main.go:4:2: undefined: undefinedThing") {
		t.Errorf("%v\n%s", err, e.Trace)
	}
	changed = maps.Clone(module)
	changed["go.sum"] = strings.Replace(changed["go.sum"], "NIva", "AAAA", 1)
	_, err = w.Service.Build(t.Context(), "default", lambent.Build{Runtime: "go", Handler: "main", Source: w.Put(t, changed)}, func(string) {})
	if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeBuildFailed || !strings.Contains(e.Trace, "checksum mismatch") {
		t.Errorf("%v\n%s", err, e.Trace)
	}
}

// TestIntegrationStandardLibrary builds what needs no module, with and without the compiled standard library.
func TestIntegrationStandardLibrary(t *testing.T) {
	source := map[string]string{"main.go": "package main\n\nimport \"net/http\"\n\nfunc main() { _ = http.ListenAndServe(\"\", nil) }\n"}
	w := newWorld(t)
	built := w.Build(t, "default", "go", source, nil)
	t.Logf("with the compiled standard library %.0f ms", built.Duration)
	if built.Layer != "" {
		t.Error("there is a layer")
	}
	defer func(was string) { Compiled = was }(Compiled)
	Compiled = t.TempDir()
	without := w.Build(t, "default", "go", source, nil)
	source["main.go"] += "// changed\n"
	again := w.Build(t, "default", "go", source, nil)
	t.Logf("without %.0f ms, with a layer %.0f ms", without.Duration, again.Duration)
	if without.Code != built.Code || again.Code != built.Code || again.Layer != without.Layer {
		t.Errorf("%+v, %+v, %+v", built, without, again)
	}
}
