//go:build integration

package python

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lambent"
	"lambent/builder"
	"lambent/builder/buildertest"
)

const runtime = "python3.11"

func newWorld(t *testing.T) *buildertest.World {
	return buildertest.New(t, builder.Options{Builders: map[string]builder.Builder{"python3.": Builder{}}, Egress: builder.AnyHost, Env: environment(t)})
}

func environment(t *testing.T) map[string]string {
	env, refused := builder.Environment(os.Environ())
	if len(refused) > 0 {
		t.Logf("left out: %v", refused)
	}
	return env
}

func TestIntegrationRequirements(t *testing.T) {
	source := map[string]string{"main.py": "import PIL.Image", "requirements.txt": "pillow==12.0.0\n"}
	built := buildertest.Twice(t, newWorld, runtime, source)
	for _, want := range []string{"main.py", "site-packages/PIL/Image.py", "site-packages/PIL/__pycache__/Image.cpython-311.pyc"} {
		if _, ok := built[want]; !ok {
			t.Errorf("%s is missing", want)
		}
	}
}

// TestIntegrationUVLock writes the lock first: one names the index that it was made with.
func TestIntegrationUVLock(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"pyproject.toml":          "[project]\nname = \"app\"\nversion = \"1\"\nrequires-python = \">=3.11\"\ndependencies = [\"jinja2==3.1.5\"]\n[dependency-groups]\ndev = [\"packaging\"]\n",
		"main.py":                 "import jinja2",
		"libs/own/pyproject.toml": "[project]\nname = \"own\"\nversion = \"1\"\ndescription = \"x\"\n[build-system]\nrequires = [\"flit-core\"]\nbuild-backend = \"flit_core.buildapi\"\n",
		"libs/own/own.py":         "ours = True\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	uv := func(args ...string) {
		cmd := exec.Command(UV, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("uv %v: %v\n%s", args, err, out)
		}
	}
	uv("lock", "--python", "/usr/bin/"+runtime)
	built := buildertest.Twice(t, newWorld, runtime, folder(t, dir))
	if built["site-packages/jinja2/environment.py"] == "" || built["site-packages/packaging/version.py"] != "" {
		t.Error("the packages are not those of the main group")
	}

	uv("add", "--python", "/usr/bin/"+runtime, "--no-sync", "./libs/own")
	built = buildertest.Twice(t, newWorld, runtime, folder(t, dir))
	if built["site-packages/own.py"] == "" {
		t.Error("a package that lies in the source is missing")
	}
}

func TestIntegrationPoetryLock(t *testing.T) {
	built := buildertest.Twice(t, newWorld, runtime, folder(t, "testdata/poetry"))
	if built["site-packages/jinja2/environment.py"] == "" || built["site-packages/packaging/version.py"] != "" {
		t.Error("the packages are not those of the main group")
	}
}

func TestIntegrationFailures(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct{ name, requirements, trace string }{
		{"no such package", "lambent-no-such-package-x==1\n", "lambent-no-such-package-x"},
		{"wrong hash", "six==1.17.0 --hash=sha256:" + strings.Repeat("0", 64) + "\n", "Hash mismatch"},
		{"hashes for some only", "six==1.17.0 --hash=sha256:" + strings.Repeat("0", 64) + "\nidna==3.10\n", "--require-hashes"},
	} {
		source := w.Put(t, map[string]string{"main.py": "", "requirements.txt": tt.requirements})
		_, err := w.Service.Build(t.Context(), "default", lambent.Build{Runtime: runtime, Source: source}, func(string) {})
		if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeBuildFailed || !strings.Contains(e.Trace, tt.trace) {
			t.Errorf("%s: %+v", tt.name, e)
		}
	}
}

func TestIntegrationOffline(t *testing.T) {
	w := buildertest.New(t, builder.Options{Builders: map[string]builder.Builder{"python3.": Builder{}}, Egress: []string{"nowhere.invalid:443"}})
	source := w.Put(t, map[string]string{"main.py": "", "requirements.txt": "six==1.17.0\n"})
	_, err := w.Service.Build(t.Context(), "default", lambent.Build{Runtime: runtime, Source: source}, func(string) {})
	if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeBuildFailed || !strings.Contains(e.Trace, "six") {
		t.Errorf("%+v", e)
	}
}

// TestIntegrationSourceDistribution compiles a package of C.
func TestIntegrationSourceDistribution(t *testing.T) {
	built := buildertest.Twice(t, newWorld, runtime, map[string]string{"main.py": "", "requirements.txt": "--no-binary markupsafe\nmarkupsafe==3.0.2\n"})
	for name := range built {
		if strings.HasSuffix(name, ".so") {
			return
		}
	}
	t.Error("nothing was compiled")
}

// folder reads the files below a folder.
func folder(t *testing.T, dir string) map[string]string {
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(dir, name))
		files[name] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
