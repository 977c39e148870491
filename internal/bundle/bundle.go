// Package bundle makes deterministic tar files out of directories and of archives that strangers made.
//
// A bundle holds directories, regular files and symbolic links that stay inside, sorted by path, every
// parent directory included. Modes are 0755 or 0644, owners and times are zero. The same tree gives the same bytes,
// however it came.
package bundle

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Default is what a platform takes unless it says otherwise.
var Default = Limits{Bytes: 250 << 20, Entries: 50_000}

// Limits bound what a bundle may hold.
type Limits struct {
	Bytes   int64 // of all files, unpacked
	Entries int   // files, directories and links
}

// Error says what is wrong with an archive or directory.
type Error struct {
	Entry    string // the name as it stands in the archive, or empty
	Problem  string
	Hint     string
	TooLarge bool // a limit is exceeded; otherwise the bundle is invalid
}

// Error gives the entry and its problem.
func (e *Error) Error() string {
	if e.Entry == "" {
		return e.Problem
	}
	return fmt.Sprintf("entry %.300q %s", e.Entry, e.Problem)
}

// Linux allows no more in one name, or in one step of a walk through links.
const (
	maxName      = 255
	maxPath      = 1024
	maxLinkParts = 255
	// maxLinkSteps bounds the work for all links of a bundle.
	maxLinkSteps = 250_000
)

type entry struct {
	path string // relative, clean, with slashes
	kind byte   // tar.TypeReg, tar.TypeDir or tar.TypeSymlink
	exec bool
	size int64
	link string                        // target of a symbolic link
	open func() (io.ReadCloser, error) // content of a file
}

// tree collects entries and refuses those that a bundle must not hold.
type tree struct {
	limits  Limits
	bytes   int64
	files   int
	entries map[string]*entry
}

func newTree(limits Limits) *tree { return &tree{limits: limits, entries: map[string]*entry{}} }

// add takes e, whose path is cleaned here, and makes its parents.
func (t *tree) add(e entry) error {
	name := e.path
	invalid := func(problem, hint string) error { return &Error{Entry: name, Problem: problem, Hint: hint} }
	clean, problem := cleanPath(name)
	if problem != "" {
		return invalid(problem, "rename it, and pack the directory itself, so that all names are relative to it")
	}
	if clean == "" && e.kind == tar.TypeDir {
		return nil // the directory that was packed
	}
	if clean == "" {
		return invalid("has no name", "")
	}
	e.path = clean
	if e.kind == tar.TypeSymlink {
		if problem := checkTarget(e.link); problem != "" {
			return invalid(problem, "use a relative link to something in the bundle")
		}
	}
	for parent := path.Dir(clean); parent != "."; parent = path.Dir(parent) {
		old := t.entries[parent]
		if old != nil && old.kind != tar.TypeDir {
			return invalid(fmt.Sprintf("lies under %q, which is not a directory", parent), "pack the directory again")
		}
		if old != nil {
			break
		}
		if err := t.insert(&entry{path: parent, kind: tar.TypeDir}); err != nil {
			return err
		}
	}
	if old := t.entries[clean]; old != nil {
		if old.kind != tar.TypeDir || e.kind != tar.TypeDir {
			return invalid("is there twice", "pack the directory again")
		}
		return nil
	}
	return t.insert(&e)
}

func (t *tree) insert(e *entry) error {
	if len(t.entries) >= t.limits.Entries {
		return t.tooMany()
	}
	if e.size > t.limits.Bytes-t.bytes {
		return &Error{
			Entry: e.path, TooLarge: true,
			Problem: fmt.Sprintf("takes the bundle over the limit of %d MiB unpacked", t.limits.Bytes>>20),
			Hint:    "leave out what the function does not need; .lambentignore lists what is not packed",
		}
	}
	t.bytes += e.size
	if e.kind != tar.TypeDir {
		t.files++
	}
	t.entries[e.path] = e
	return nil
}

func (t *tree) tooMany() error {
	return &Error{
		TooLarge: true,
		Problem:  fmt.Sprintf("the bundle has more than %d entries", t.limits.Entries),
		Hint:     "leave out what the function does not need; .lambentignore lists what is not packed",
	}
}

// cleanPath gives the clean form of a name, or what is wrong with it. The empty path is the root.
func cleanPath(name string) (clean, problem string) {
	if problem := checkText(name); problem != "" {
		return "", problem
	}
	if strings.HasPrefix(name, "/") {
		return "", "is an absolute path"
	}
	parts := strings.Split(name, "/")
	parts = slices.DeleteFunc(parts, func(part string) bool { return part == "" || part == "." })
	for _, part := range parts {
		switch {
		case part == "..":
			return "", `leaves the bundle by ".."`
		case len(part) > maxName:
			return "", fmt.Sprintf("has a name of more than %d bytes", maxName)
		}
	}
	clean = strings.Join(parts, "/")
	if len(clean) > maxPath {
		return "", fmt.Sprintf("has a path of more than %d bytes", maxPath)
	}
	return clean, ""
}

func checkText(s string) (problem string) {
	switch {
	case !utf8.ValidString(s):
		return "is not valid UTF-8"
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "holds a control character"
	case strings.Contains(s, `\`):
		return "holds a backslash"
	}
	return ""
}

func checkTarget(target string) (problem string) {
	switch problem := checkText(target); {
	case problem != "":
		return "is a link whose target " + problem
	case target == "":
		return "is a link to nothing"
	case strings.HasPrefix(target, "/"):
		return fmt.Sprintf("is a link to the absolute path %q", target)
	case len(target) > maxPath:
		return fmt.Sprintf("is a link whose target has more than %d bytes", maxPath)
	}
	return ""
}

// sorted gives all entries by path, once they are complete.
func (t *tree) sorted() ([]*entry, error) {
	if t.files == 0 {
		return nil, &Error{Problem: "the bundle is empty", Hint: "pack the directory that holds the function's code"}
	}
	entries := slices.SortedFunc(maps.Values(t.entries), func(a, b *entry) int { return strings.Compare(a.path, b.path) })
	steps := 0
	for _, e := range entries {
		if e.kind != tar.TypeSymlink {
			continue
		}
		if problem := t.follow(e, &steps); problem != "" {
			return nil, &Error{Entry: e.path, Problem: problem, Hint: "use a relative link to something in the bundle"}
		}
	}
	return entries, nil
}

// follow walks to the target of a link as the kernel would, through further links, and gives the problem if
// that leaves the bundle. A text comparison would not do: below a link ".." is another directory.
func (t *tree) follow(link *entry, steps *int) (problem string) {
	at := strings.Split(link.path, "/")
	at = at[:len(at)-1] // all parents are directories: see add
	todo := strings.Split(link.link, "/")
	for len(todo) > 0 {
		if *steps++; len(todo) > maxLinkParts || *steps > maxLinkSteps {
			return "is a link that leads through too many others"
		}
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return fmt.Sprintf("is a link to %q, which is outside of the bundle", link.link)
			}
			at = at[:len(at)-1]
			continue
		}
		at = append(at, part)
		if next := t.entries[strings.Join(at, "/")]; next != nil && next.kind == tar.TypeSymlink {
			at = at[:len(at)-1]
			todo = append(strings.Split(next.link, "/"), todo...)
		}
	}
	return ""
}

// write makes the tar.
func write(w io.Writer, entries []*entry) error {
	out := tar.NewWriter(w)
	for _, e := range entries {
		header := &tar.Header{Typeflag: e.kind, Name: e.path, Linkname: e.link, Size: e.size, Mode: 0o644, ModTime: time.Unix(0, 0)}
		switch {
		case e.kind == tar.TypeDir:
			header.Name += "/"
			header.Mode = 0o755
		case e.kind == tar.TypeSymlink:
			header.Mode = 0o777
		case e.exec:
			header.Mode = 0o755
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if e.kind != tar.TypeReg {
			continue
		}
		if err := copyFile(out, e); err != nil {
			return err
		}
	}
	return out.Close()
}

func copyFile(w io.Writer, e *entry) error {
	r, err := e.open()
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(w, io.LimitReader(r, e.size))
	if err != nil {
		return fmt.Errorf("%s: %w", e.path, err)
	}
	// The checksum of a zip entry is compared at the end of its content.
	var more [1]byte
	extra, err := io.ReadFull(r, more[:])
	if n != e.size || extra != 0 {
		return &Error{Entry: e.path, Problem: "has another size than announced", Hint: "pack the directory again, and change nothing in it meanwhile"}
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", e.path, err)
	}
	return nil
}
