//go:build integration

package examples

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"lambent/builder"
	"lambent/builder/buildertest"
	nodejs "lambent/builder/node"
	"lambent/builder/python"
)

// TestIntegrationExamples builds the examples that have dependencies and runs their own tests on what was built.
func TestIntegrationExamples(t *testing.T) {
	env, _ := builder.Environment(os.Environ())
	w := buildertest.New(t, builder.Options{Egress: builder.AnyHost, Env: env,
		Builders: map[string]builder.Builder{"python3.": python.Builder{}, "nodejs": nodejs.Builder{}}})
	py := w.Runtime(t, "python3.")
	for _, tt := range []struct {
		name, runtime string
		argv          []string
	}{
		{"thumbnail", py, []string{"/usr/bin/" + py, "-B", "-m", "unittest", "-v"}},
		{"markdown", w.Runtime(t, "nodejs"), []string{"node", "--test"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string]string{}
			err := fs.WalkDir(os.DirFS(tt.name), ".", func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				raw, err := os.ReadFile(filepath.Join(tt.name, path))
				files[path] = string(raw)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			built := w.Build(t, "default", tt.runtime, files, nil)
			cmd := exec.CommandContext(t.Context(), tt.argv[0], tt.argv[1:]...)
			cmd.Dir = w.Tree(t, built.Code)
			cmd.Env = append(os.Environ(), "PYTHONPATH=site-packages")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
