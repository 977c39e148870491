package cli

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lambent"
	"lambent/shim/golang"
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
	cmd.Flags().StringVar(&runtime, "runtime", "python", "python, python3.N, nodejs, nodejsNN, go, http, exec or static")
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
	entries, err := templates.ReadDir(path.Join("template", kind))
	if err != nil {
		return nil, usagef("there is no runtime %q to begin with; use python, nodejs, go, http, exec or static, or a version such as python3.11", runtime)
	}
	files := map[string]string{}
	for _, entry := range entries {
		raw, err := templates.ReadFile(path.Join("template", kind, entry.Name()))
		if err != nil {
			return nil, err
		}
		text := strings.NewReplacer("NAME", name, "RUNTIME", runtime).Replace(string(raw))
		files[strings.TrimSuffix(entry.Name(), ".tmpl")] = text
	}
	if kind == "go" {
		files["listen.go"] = golang.Source("main")
	}
	for file := range files {
		paths = append(paths, filepath.Join(dir, file))
	}
	slices.Sort(paths)
	for _, p := range paths {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			return nil, lambent.Errorf(lambent.CodeConflict, "%s is there already", p).WithHint("choose another directory; nothing was written")
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "%w", err)
	}
	for _, p := range paths {
		text, mode := files[filepath.Base(p)], os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			return nil, err
		}
	}
	return paths, nil
}
