package bundle

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// IgnoreFile lists what [Pack] leaves out, one pattern a line: a pattern of [path.Match] for a name in any
// directory, or, where it holds a slash, for a path from the root; a slash at its end means directories only;
// # begins a comment.
const IgnoreFile = ".lambentignore"

// always is left out of every bundle.
var always = []string{".git", "__pycache__", "*.pyc", "/" + IgnoreFile}

// Pack writes the directory dir as a bundle to w, without what [IgnoreFile] lists, .git, __pycache__ and
// *.pyc, and what matches the further patterns skip. What cannot be in a bundle comes as an [*Error].
func Pack(w io.Writer, dir string, limits Limits, skip ...string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	patterns, err := readPatterns(root)
	if err != nil {
		return err
	}
	patterns = append(patterns, skip...)
	t := newTree(limits)
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if ignored(patterns, name, d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return t.addFile(root, name, d)
	})
	if err != nil {
		return err
	}
	entries, err := t.sorted()
	if err != nil {
		return err
	}
	return write(w, entries)
}

func (t *tree) addFile(root *os.Root, name string, d fs.DirEntry) error {
	e := entry{path: name}
	switch d.Type() {
	case fs.ModeDir:
		e.kind = tar.TypeDir
	case fs.ModeSymlink:
		target, err := root.Readlink(name)
		if err != nil {
			return err
		}
		e.kind, e.link = tar.TypeSymlink, target
	case 0:
		info, err := d.Info()
		if err != nil {
			return err
		}
		e.kind, e.size, e.exec = tar.TypeReg, info.Size(), info.Mode()&0o111 != 0
		e.open = func() (io.ReadCloser, error) { return root.Open(name) }
	default:
		return unsupported(name, "a device, pipe or socket")
	}
	return t.add(e)
}

func readPatterns(root *os.Root) ([]string, error) {
	patterns := slices.Clone(always)
	f, err := root.Open(IgnoreFile)
	if errors.Is(err, fs.ErrNotExist) {
		return patterns, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		pattern := strings.TrimSpace(lines.Text())
		if pattern == "" || strings.HasPrefix(pattern, "#") {
			continue
		}
		if _, err := path.Match(pattern, ""); err != nil || strings.HasPrefix(pattern, "!") || strings.Contains(pattern, "**") {
			return nil, &Error{
				Entry:   IgnoreFile,
				Problem: fmt.Sprintf("has a pattern on line %d that is not understood: %q", n, pattern),
				Hint:    "use names with *, ? and [a-z]; ! and ** are not known",
			}
		}
		patterns = append(patterns, pattern)
	}
	return patterns, lines.Err()
}

func ignored(patterns []string, name string, dir bool) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		pattern, dirOnly := strings.CutSuffix(pattern, "/")
		if dirOnly && !dir {
			return false
		}
		subject := path.Base(name)
		if rooted, ok := strings.CutPrefix(pattern, "/"); ok || strings.Contains(pattern, "/") {
			pattern, subject = rooted, name
		}
		matched, err := path.Match(pattern, subject)
		return err == nil && matched // readPatterns has checked them all
	})
}
