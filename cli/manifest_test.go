package cli

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDetectRuntime(t *testing.T) {
	for _, tt := range []struct {
		want  string
		files []string
	}{
		{"python", []string{"main.py", "package.json.md"}},
		{"nodejs", []string{"package.json", "helper.c"}},
		{"go", []string{"go.mod", "main.wasm"}},
		{"static", []string{"index.html", "main.wasm"}},
		{"wasm", []string{"main.wasm"}},
		{"wasm", []string{"slug.c", "lambent.h"}},
		{"wasm", []string{"Cargo.toml"}},
		{"wasm", []string{"lib.rs"}},
		{"wasm", []string{"asconfig.json", "package.json"}},
		{"", []string{"other.wasm"}},
		{"", []string{"main.py", "go.mod"}},
	} {
		dir := t.TempDir()
		for _, name := range tt.files {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := detectRuntime(dir, true); got != tt.want || (err == nil) != (got != "") {
			t.Errorf("%v: %q, %v", tt.files, got, err)
		}
	}
}
