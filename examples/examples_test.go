// Package examples holds functions that a newcomer deploys.
package examples

import (
	"io/fs"
	"os"
	"os/exec"
	"testing"
)

// TestExamples runs each example's own tests; they are no packages of this module.
func TestExamples(t *testing.T) {
	for name, argv := range map[string][]string{
		"hello":     {"/usr/bin/python3", "-B", "-m", "unittest", "-v"},
		"wordcount": {"go", "test", "./..."},
		"site":      {"node", "--test"},

		"wasm-go":         {"go", "test", "./..."},
		"wasm-go-command": {"go", "test", "./..."},
		"wasm-rust":       {"/bin/sh", "-euc", `out=$(mktemp); trap 'rm -f "$out"' EXIT; /usr/bin/rustc --edition 2021 --test -o "$out" src/redact.rs; "$out"`},
		"wasm-module":     {"/bin/sh", "-euc", `out=$(mktemp); trap 'rm -f "$out"' EXIT; node assemble.mjs "$out"; cmp "$out" main.wasm`},
	} {
		t.Run(name, func(t *testing.T) {
			track(t, name)
			cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
			cmd.Dir = name
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// track reads the files under dir: the go command keeps a test's result for as long as the files that its
// own process read are the same, and knows nothing of what its children read.
func track(t *testing.T, dir string) {
	t.Helper()
	files := os.DirFS(dir)
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			_, err = fs.ReadFile(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
