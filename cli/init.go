package cli

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lambent"
	"lambent/shim/golang"
	"lambent/shim/wasm"
)

// The names end in .tmpl, because the go command would take them for a module of its own.
//
//go:embed template
var templates embed.FS

func (a *app) initialise() *cobra.Command {
	var runtime string
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a directory with a small function to begin with",
		Args:  arg("directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := scaffold(args[0], runtime)
			if err != nil {
				return err
			}
			if a.json {
				printJSON(cmd.OutOrStdout(), map[string]any{"files": files})
				return nil
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "made %s\nnext: lambent deploy %s\n", strings.Join(files, ", "), args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&runtime, "runtime", "python", "python, python3.N, nodejs, nodejsNN, go, wasm (in Go), wasm-c, wasm-rust, wasm-assemblyscript, http, exec or static")
	return cmd
}

// scaffold writes the template of the runtime into dir and gives the paths. It overwrites nothing.
func scaffold(dir, runtime string) (paths []string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(abs)
	if err := lambent.CheckName("function", name); err != nil {
		return nil, err
	}
	kind := runtime
	if _, ok := lambent.RuntimeOf(runtime); ok {
		kind = strings.TrimRight(runtime, "0123456789.")
	}
	kinds, err := templates.ReadDir("template")
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(kinds, func(e fs.DirEntry) bool { return e.Name() == kind }) {
		return nil, usagef("there is no runtime %q to begin with; use python, nodejs, go, wasm, http, exec or static, or a version such as python3.11", runtime)
	}
	template, err := fs.Sub(templates, path.Join("template", kind))
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	err = fs.WalkDir(template, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(template, file)
		files[filepath.Join(dir, strings.TrimSuffix(file, ".tmpl"))] = strings.NewReplacer("NAME", name, "RUNTIME", runtime).Replace(string(raw))
		return err
	})
	if err != nil {
		return nil, err
	}
	switch kind {
	case "go":
		files[filepath.Join(dir, "listen.go")] = golang.Source("main")
	case "wasm":
		files[filepath.Join(dir, "lambent/lambent.go")] = wasm.Source("lambent.go")
	case "wasm-c":
		files[filepath.Join(dir, "lambent.h")] = wasm.Source("lambent.h")
	case "wasm-rust":
		files[filepath.Join(dir, "src/lambent.rs")] = wasm.Source("lambent.rs")
	case "wasm-assemblyscript":
		files[filepath.Join(dir, "lambent.ts")] = wasm.Source("lambent.ts")
	}
	paths = slices.Sorted(maps.Keys(files))
	for _, p := range paths {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			return nil, lambent.Errorf(lambent.CodeConflict, "%s is there already", p).WithHint("choose another directory; nothing was written")
		}
	}
	for _, p := range paths {
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return nil, lambent.Errorf(lambent.CodeInvalidRequest, "%w", err)
		}
		text, mode := files[p], os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			return nil, err
		}
	}
	return paths, nil
}
