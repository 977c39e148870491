package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"lambent"
	"lambent/internal/bundle"
)

// buildGo builds the program in src into the empty directory dst, at the path handler, and copies beside it
// the files that it may want to read. The same source gives the same bytes.
func buildGo(ctx context.Context, src, dst, handler, arch string, stderr io.Writer) error {
	if handler == "" {
		handler = "main"
	}
	if !filepath.IsLocal(handler) {
		return lambent.Errorf(lambent.CodeInvalidRequest, "handler: %q leaves the bundle", handler)
	}
	if _, err := exec.LookPath("go"); err != nil {
		return lambent.Errorf(lambent.CodeInvalidRequest, "Go is needed to build %s: %w", src, err).
			WithHint("install Go, or deploy a directory with the built program and --runtime go")
	}
	if err := copyStatic(src, dst, handler); err != nil {
		return err
	}
	out, err := filepath.Abs(filepath.Join(dst, handler))
	if err != nil {
		return err
	}
	files, err := goFiles(src)
	if err != nil {
		return err
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out}
	cmd := exec.CommandContext(ctx, "go", append(args, files...)...)
	cmd.Dir = src
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if err := cmd.Run(); err != nil {
		return lambent.Errorf(lambent.CodeBundleInvalid, "go build in %s: %w", src, err).WithHint("see the compiler's messages above")
	}
	return nil
}

// goFiles is what to build in dir: its package, or outside of any module its files.
func goFiles(dir string) ([]string, error) {
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); !errors.Is(err, fs.ErrNotExist) {
		return []string{"."}, err
	}
	files, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*.go"))
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") }), err
}

var buildFiles = []string{"go.mod", "go.sum", "go.work", "go.work.sum"}

// copyStatic copies what is not Go's from src to dst, but not an earlier build at handler. Links stay links:
// packing them tells where they lead.
func copyStatic(src, dst, handler string) error {
	return filepath.WalkDir(src, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil || rel == "." {
			return err
		}
		name, to := entry.Name(), filepath.Join(dst, rel)
		switch {
		case entry.IsDir() && (name == "vendor" || name == "testdata" || name[0] == '.'):
			return filepath.SkipDir
		case entry.IsDir():
			return os.MkdirAll(to, 0o755)
		case rel != bundle.IgnoreFile && (name[0] == '.' || strings.HasSuffix(name, ".go") || slices.Contains(buildFiles, name)),
			rel == manifestName, rel == filepath.Clean(handler):
			return nil
		case entry.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		case entry.Type().IsRegular():
			return copyFile(path, to)
		}
		return lambent.Errorf(lambent.CodeBundleInvalid, "%s is neither a file, a directory nor a link", path)
	})
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
