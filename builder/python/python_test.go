package python

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"lambent"
	"lambent/builder"
)

func source(files map[string]string) builder.Source {
	fs := fstest.MapFS{}
	for name, text := range files {
		fs[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return builder.Source{FS: fs, Digest: "sha256:0", Runtime: "python3.11", Handler: "main.handler"}
}

const project = "[project]\nname = \"app\"\ndependencies = [\"six\"]\n"

func TestPlan(t *testing.T) {
	uv := `source = { registry = "https://index.invalid/simple" }` + "\n" + `source = { virtual = "." }` + "\n"
	for _, tt := range []struct {
		name   string
		files  map[string]string
		script string // "" for no build
		sees   []string
		warns  string
	}{
		{"nothing", map[string]string{"main.py": ""}, "", nil, ""},
		{"only comments", map[string]string{"requirements.txt": "# none\n\n   # at all\n"}, "", nil, ""},
		{"settings of tools", map[string]string{"pyproject.toml": "[project]\nname = \"x\"\ndependencies = []\n[tool.ruff]\nline-length = 100\n"}, "", nil, ""},
		{"pinned", map[string]string{"requirements.txt": "six==1.17.0 # good\n"}, fromRequirements, []string{"requirements.txt"}, ""},
		{"hashes", map[string]string{"requirements.txt": "six==1.17.0 \\\n    --hash=sha256:00\n"}, fromHashes, []string{"requirements.txt"}, ""},
		{"loose", map[string]string{"requirements.txt": "six\nidna>=3\nattrs==25.1.0\n"}, fromRequirements, []string{"requirements.txt"}, "six, idna"},
		{"path", map[string]string{"requirements.txt": "./libs/own\n"}, fromRequirements, nil, ""},
		{"path by name", map[string]string{"requirements.txt": "own @ file:libs/own\n"}, fromRequirements, nil, ""},
		{"wheel", map[string]string{"requirements.txt": "own-1-py3-none-any.whl\n"}, fromRequirements, nil, ""},
		{"editable", map[string]string{"requirements.txt": "-e .\n"}, fromRequirements, nil, ""},
		{"more files", map[string]string{"requirements.txt": "-r base.txt\n"}, fromRequirements, nil, ""},
		{"uv", map[string]string{"pyproject.toml": project, "uv.lock": uv, "requirements.txt": "six"}, fromUV, []string{"pyproject.toml", "uv.lock"}, ""},
		{"uv with a local package", map[string]string{"pyproject.toml": project, "uv.lock": uv + `source = { editable = "libs/own" }` + "\n"}, fromUVLocal, nil, ""},
		{"uv with one beside", map[string]string{"pyproject.toml": project, "uv.lock": uv + `source = { directory = "../own" }` + "\n"}, fromUVLocal, nil, ""},
		{"poetry", map[string]string{"pyproject.toml": project, "poetry.lock": "[metadata]\nlock-version = \"2.1\"\n"}, fromPoetry, []string{"poetry.lock"}, ""},
	} {
		p, err := planOf(source(tt.files))
		switch {
		case err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case p == nil && tt.script != "" || p != nil && p.Layer.Script != tt.script:
			t.Errorf("%s: %+v", tt.name, p)
		case p != nil && !slices.Equal(p.Layer.Files, tt.sees):
			t.Errorf("%s: the step sees %v", tt.name, p.Layer.Files)
		case p != nil && !strings.Contains(strings.Join(p.Warnings, "\n"), tt.warns):
			t.Errorf("%s: warnings %q", tt.name, p.Warnings)
		case p != nil && (!p.Drop("site-packages/six.py") || p.Drop("site-packages2") || p.Drop("main.py")):
			t.Errorf("%s: wrong files are dropped", tt.name)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		hint  string
	}{
		"no lock":           {map[string]string{"pyproject.toml": project}, "uv lock"},
		"no lock of poetry": {map[string]string{"pyproject.toml": "[tool.poetry.dependencies]\npython = \"^3.9\"\nsix = \"*\"\n"}, "uv lock"},
		"old poetry":        {map[string]string{"poetry.lock": "[metadata]\nlock-version = \"2.0\"\n"}, "poetry lock"},
		"older poetry":      {map[string]string{"poetry.lock": "[metadata]\nlock-version = \"1.1\"\n"}, "poetry lock"},
		"half a project":    {map[string]string{"uv.lock": "version = 1\n"}, "whole project"},
	} {
		_, err := planOf(source(tt.files))
		if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeBuildFailed || !strings.Contains(e.Hint, tt.hint) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is installed depends on the lock and the interpreter, not on the rest of the source.
func TestKey(t *testing.T) {
	key := func(change func(*builder.Source, map[string]string)) string {
		files := map[string]string{"requirements.txt": "six==1.17.0\n", "main.py": "1"}
		src := source(nil)
		change(&src, files)
		src.FS = source(files).FS
		p, err := planOf(src)
		if err != nil {
			t.Fatal(err)
		}
		return builder.Key(append([]string{p.Layer.Key, p.Layer.Script}, p.Layer.Args...)...)
	}
	same := key(func(*builder.Source, map[string]string) {})
	if key(func(s *builder.Source, f map[string]string) { f["main.py"], s.Digest = "2", "sha256:1" }) != same {
		t.Error("a change of the code is another layer")
	}
	for name, change := range map[string]func(*builder.Source, map[string]string){
		"lock":    func(_ *builder.Source, f map[string]string) { f["requirements.txt"] = "six==1.16.0\n" },
		"runtime": func(s *builder.Source, _ map[string]string) { s.Runtime = "python3.12" },
		"local":   func(s *builder.Source, f map[string]string) { f["requirements.txt"] = "./six\n" },
	} {
		if key(change) == same {
			t.Errorf("another %s is the same layer", name)
		}
	}
}
