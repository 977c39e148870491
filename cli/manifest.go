package cli

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"lambent"
)

const manifestName = "lambent.yaml"

// manifest is what lambent.yaml may say: a name, and the settings under their names in JSON.
type manifest struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	lambent.Settings
}

// readManifest reads lambent.yaml in dir; without one the manifest is empty. Errors tell line and column.
func readManifest(dir string) (*manifest, error) {
	m := &manifest{}
	path := filepath.Join(dir, manifestName)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "%w", err)
	}
	docs, err := parseYAML(path, raw)
	switch {
	case err != nil:
		return nil, err
	case len(docs) > 1:
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "%s: there is more than one document in it", path)
	case len(docs) == 0:
		return m, nil
	}
	return m, docs[0].read(m)
}

// set gives the field, such as timeouts.total, the value that text stands for; a list gets it as one more item.
func (m *manifest) set(field []string, text string) error {
	v, err := find(reflect.ValueOf(m).Elem(), field)
	if err != nil {
		return err
	}
	where := strings.Join(field, ".")
	switch {
	case v.Kind() == reflect.Map && len(field) == 2:
		setEntry(v, field[1], text)
		return nil
	case v.Kind() == reflect.Slice:
		v.Set(reflect.Append(v, reflect.ValueOf(text)))
		return nil
	}
	return setPlain(v, where, text)
}

// find gives the field of v, or the map that it would stand in.
func find(v reflect.Value, field []string) (reflect.Value, error) {
	for i, name := range field {
		if v.Kind() == reflect.Map && i == len(field)-1 {
			return v, nil
		}
		inner, ok := member(v, name)
		if !ok {
			return v, noField(v, strings.Join(field[:i], "."), name)
		}
		v = inner
	}
	return v, nil
}

// detectRuntime tells the runtime of the code in a directory by its files. Of an archive, whose files it does not
// know, it says nothing.
func detectRuntime(source string, isDir bool) (string, error) {
	switch {
	case isDir:
		return runtimeOfDir(source)
	case strings.HasSuffix(source, moduleExt):
		return "wasm", nil
	}
	return "", nil
}

func runtimeOfDir(dir string) (string, error) {
	has := func(pattern string) string {
		files, _ := filepath.Glob(filepath.Join(escapeGlob(dir), pattern)) // the patterns are valid
		if len(files) == 0 {
			return ""
		}
		return filepath.Base(files[0])
	}
	if has("asconfig.json") != "" { // it has a package.json beside it
		return "wasm", nil
	}
	found := map[string]string{}
	for _, kind := range []struct{ pattern, runtime string }{
		{"*.py", "python"}, {"go.mod", "go"}, {"main.go", "go"},
		{"index.mjs", "nodejs"}, {"index.js", "nodejs"}, {"index.cjs", "nodejs"}, {"index.ts", "nodejs"}, {"package.json", "nodejs"},
	} {
		if file := has(kind.pattern); file != "" {
			found[kind.runtime] = file
		}
	}
	runtimes := slices.Sorted(maps.Keys(found))
	switch len(runtimes) {
	case 0:
		for _, kind := range []struct{ pattern, runtime string }{
			{"index.html", "static"}, {"main.wasm", "wasm"}, {"*.c", "wasm"}, {"Cargo.toml", "wasm"}, {"main.rs", "wasm"}, {"lib.rs", "wasm"},
		} {
			if has(kind.pattern) != "" {
				return kind.runtime, nil
			}
		}
		return "", lambent.Errorf(lambent.CodeInvalidRequest, "%s has neither source in Python, Node.js, Go, C or Rust, nor a main.wasm or index.html", dir).
			WithHint("say what runs it with --runtime, or begin with: lambent init DIR")
	case 1:
		return runtimes[0], nil
	}
	return "", lambent.Errorf(lambent.CodeInvalidRequest, "%s has both %s and %s", dir, found[runtimes[0]], found[runtimes[1]]).
		WithHint("say which runtime it is: --runtime %s, or runtime in %s", strings.Join(runtimes, ", --runtime "), manifestName)
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
