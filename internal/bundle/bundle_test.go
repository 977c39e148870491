package bundle

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var wide = Limits{Bytes: 10 << 20, Entries: 1000}

func normal(t testing.TB, archive []byte, limits Limits) ([]byte, error) {
	t.Helper()
	var out bytes.Buffer
	err := Normalise(&out, bytes.NewReader(archive), &memory{}, limits)
	return out.Bytes(), err
}

// memory is a Spool.
type memory struct{ bytes.Buffer }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.Bytes()).ReadAt(p, off)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// item is an entry of an archive that a test makes.
type item struct {
	name string
	body string
	kind byte // tar's; 0 is a regular file
	mode int64
}

func tarOf(t testing.TB, items ...item) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, it := range items {
		h := &tar.Header{Name: it.name, Typeflag: it.kind, Mode: it.mode, ModTime: time.Now(), Uid: 1000, Uname: "somebody"}
		switch it.kind {
		case 0, tar.TypeReg:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(it.body))
		default:
			h.Linkname = it.body
		}
		check(t, w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, it.body)
			check(t, err)
		}
	}
	check(t, w.Close())
	return out.Bytes()
}

func zipOf(t testing.TB, items ...item) []byte {
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, it := range items {
		h := &zip.FileHeader{Name: it.name, Method: zip.Deflate, Modified: time.Now()}
		mode := fs.FileMode(it.mode)
		switch it.kind {
		case tar.TypeSymlink:
			mode |= fs.ModeSymlink
		case tar.TypeDir:
			mode |= fs.ModeDir
		case tar.TypeFifo:
			mode |= fs.ModeNamedPipe
		}
		h.SetMode(mode)
		f, err := w.CreateHeader(h)
		check(t, err)
		if it.kind != tar.TypeDir {
			_, err = io.WriteString(f, it.body)
			check(t, err)
		}
	}
	check(t, w.Close())
	return out.Bytes()
}

func gzipOf(t testing.TB, raw []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(raw)
	check(t, err)
	check(t, w.Close())
	return out.Bytes()
}

// names lists a bundle: path, mode, content or target.
func names(t testing.TB, bundle []byte) []string {
	var out []string
	for r := tar.NewReader(bytes.NewReader(bundle)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		check(t, err)
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("%s is not normal: %+v", h.Name, h)
		}
		body, err := io.ReadAll(r)
		check(t, err)
		out = append(out, fmt.Sprintf("%s %o %s%s", h.Name, h.Mode, body, h.Linkname))
	}
}

func TestSameTreeSameBytes(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("long/", 30) + "näme"
	for name, body := range map[string]string{"main.py": "code", "a/b/c": "c", "a-b": "sorts before a/b", "A": "not a", "empty": "", long: "x"} {
		check(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700))
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600))
	}
	check(t, os.Chmod(filepath.Join(dir, "A"), 0o711))
	check(t, os.Mkdir(filepath.Join(dir, "nothing"), 0o700))
	check(t, os.Symlink("../a-b", filepath.Join(dir, "a/link")))
	for _, ignored := range []string{".git/config", "a/__pycache__/x.pyc", "x.pyc", "secret.env", "deep/logs/1", "tmp/x"} {
		check(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(ignored)), 0o700))
		check(t, os.WriteFile(filepath.Join(dir, ignored), nil, 0o600))
	}
	check(t, os.WriteFile(filepath.Join(dir, IgnoreFile), []byte("# mine\n\n*.env\nlogs/\n/deep\ntmp\n"), 0o600))

	var first, second bytes.Buffer
	check(t, Pack(&first, dir, wide))
	check(t, os.Chtimes(filepath.Join(dir, "A"), time.Now(), time.Now().Add(time.Hour)))
	check(t, Pack(&second, dir, wide))
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("packed twice, it differs")
	}
	items := []item{
		{name: "./", kind: tar.TypeDir},
		{name: "nothing/", kind: tar.TypeDir, mode: 0o700},
		{name: "./main.py", body: "code", mode: 0o600},
		{name: "a//b/./c", body: "c", mode: 0o666},
		{name: "a/link", body: "../a-b", kind: tar.TypeSymlink, mode: 0o777},
		{name: long, body: "x", mode: 0o640},
		{name: "a-b", body: "sorts before a/b"},
		{name: "A", body: "not a", mode: 0o4711},
		{name: "empty"},
	}
	archive := tarOf(t, items...)
	for name, archive := range map[string][]byte{
		"itself": first.Bytes(), "tar": archive, "tar.gz": gzipOf(t, archive), "zip": zipOf(t, items...),
		"gzip of itself": gzipOf(t, first.Bytes()),
	} {
		got, err := normal(t, archive, wide)
		if err != nil || !bytes.Equal(got, first.Bytes()) {
			t.Errorf("%s: %v\n got %v\nwant %v", name, err, names(t, got), names(t, first.Bytes()))
		}
	}
	listed := strings.Join(names(t, first.Bytes()), "\n")
	for _, want := range []string{"A 755 not a\na/ 755 \n", "a-b 644 sorts before a/b\n", "a/b/ 755 \na/b/c 644 c\n", "nothing/ 755 "} {
		if !strings.Contains(listed, want) {
			t.Errorf("%q is not in:\n%s", want, listed)
		}
	}
}

func TestHostile(t *testing.T) {
	file := item{name: "main.py", body: "x"}
	link := func(name, target string) item { return item{name: name, body: target, kind: tar.TypeSymlink} }
	dir := func(name string) item { return item{name: name, kind: tar.TypeDir} }
	many := make([]item, wide.Entries+1)
	for i := range many {
		many[i] = item{name: fmt.Sprint(i)}
	}
	deep := make([]item, 3)
	for i := range deep {
		deep[i] = item{name: strings.Repeat(fmt.Sprintf("%d/", i), 500) + "f"}
	}
	var chain []item
	for i := range 200 {
		chain = append(chain, link(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d/l%d", i+1, i+1)))
	}
	chain = append(chain, link("l200", "."))
	big := strings.Repeat("\x00", 6<<20)
	for name, test := range map[string]struct {
		items []item
		want  string // in the error; empty where the bundle is fine
	}{
		"slip":                       {[]item{file, {name: "../evil"}}, `"../evil" leaves`},
		"slip inside":                {[]item{file, {name: "a/../../evil"}}, "leaves the bundle"},
		"dots that stay":             {[]item{file, {name: "a/../b"}}, "leaves the bundle"},
		"absolute":                   {[]item{file, {name: "/etc/passwd"}}, "absolute"},
		"backslash":                  {[]item{file, {name: `..\evil`}}, "backslash"},
		"newline":                    {[]item{file, {name: "a\nb"}}, "control character"},
		"escape":                     {[]item{file, {name: "a\x1b[31m"}}, "control character"},
		"not UTF-8":                  {[]item{file, {name: "a\xff"}}, "UTF-8"},
		"no name":                    {[]item{file, {name: "."}}, "no name"},
		"long name":                  {[]item{file, {name: strings.Repeat("x", 256)}}, "more than 255"},
		"long path":                  {[]item{file, {name: strings.Repeat("x/", 600) + "x"}}, "more than 1024"},
		"twice":                      {[]item{file, file}, "twice"},
		"file and directory":         {[]item{file, dir("main.py")}, "twice"},
		"directory and file":         {[]item{dir("main.py"), file}, "twice"},
		"directory and link":         {[]item{{name: "a/b"}, link("a", "/etc")}, "absolute"},
		"directory twice":            {[]item{file, dir("a"), dir("a/")}, ""},
		"case":                       {[]item{file, {name: "MAIN.PY"}}, ""},
		"below a file":               {[]item{file, {name: "main.py/x"}}, `under "main.py"`},
		"below a link":               {[]item{file, link("l", "."), {name: "l/x"}}, `under "l"`},
		"link after its content":     {[]item{file, {name: "l/x"}, link("l", ".")}, "twice"},
		"link to a file":             {[]item{file, link("l", "main.py")}, ""},
		"link to nothing there":      {[]item{file, link("l", "later")}, ""},
		"link to the root":           {[]item{file, link("a/l", "..")}, ""},
		"link out":                   {[]item{file, link("l", "..")}, "outside"},
		"link far out":               {[]item{file, link("a/l", "../../etc/passwd")}, "outside"},
		"link absolute":              {[]item{file, link("l", "/etc/passwd")}, "absolute"},
		"link empty":                 {[]item{file, link("l", "\n")}, "control"},
		"link out through a link":    {[]item{file, link("a/root", ".."), link("l", "a/root/..")}, "outside"},
		"link out through two links": {[]item{file, link("a/b/up", ".."), link("a/up", "b/up/.."), link("l", "a/up/..")}, "outside"},
		"link loop":                  {[]item{file, link("l", "m"), link("m", "l")}, "too many others"},
		"link that grows":            {append(chain, file), "too many others"},
		"too many":                   {many, "more than 1000 entries"},
		"too many parents":           {deep, "more than 1000 entries"},
		"too large":                  {[]item{file, {name: "a", body: big}, {name: "b", body: big}}, "limit of 10 MiB"},
		"empty":                      {nil, "empty"},
		"only directories":           {[]item{dir("a")}, "empty"},
	} {
		archives := map[string][]byte{"tar": tarOf(t, test.items...), "zip": zipOf(t, test.items...)}
		archives["tar.gz"] = gzipOf(t, archives["tar"])
		for kind, archive := range archives {
			wantProblem(t, name+" "+kind, archive, test.want)
		}
	}
	for kind, flag := range map[string]byte{"hard link": tar.TypeLink, "device": tar.TypeChar, "a device": tar.TypeBlock, "pipe": tar.TypeFifo, "unknown": 'Z'} {
		wantProblem(t, kind, tarOf(t, file, item{name: "x", body: "main.py", kind: flag}), kind)
	}
	wantProblem(t, "pipe in zip", zipOf(t, file, item{name: "x", kind: tar.TypeFifo}), "pipe")
	wantProblem(t, "NUL in a zip", bytes.ReplaceAll(zipOf(t, item{name: "aQb"}), []byte("aQb"), []byte("a\x00b")), "control")
	wantProblem(t, "text", []byte("#!/bin/sh\necho hello\n"), "neither")
	wantProblem(t, "long text", bytes.Repeat([]byte("hello "), 1000), "neither")
	wantProblem(t, "nothing", nil, "empty")
}

func wantProblem(t *testing.T, name string, archive []byte, want string) {
	t.Helper()
	_, err := normal(t, archive, wide)
	var broken *Error
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case want == "":
	case !errors.As(err, &broken) || !strings.Contains(err.Error(), want):
		t.Errorf("%s: got %v, want %q", name, err, want)
	}
}

func TestTruncatedAndTrailing(t *testing.T) {
	noise := make([]byte, 3000)
	rand.Read(noise)
	items := []item{{name: "a", body: string(noise)}, {name: "b", body: strings.Repeat("b", 2000)}, {name: "zeros", body: strings.Repeat("\x00", 1024)}}
	raw := tarOf(t, items...)
	for kind, archive := range map[string][]byte{"tar": raw, "tar.gz": gzipOf(t, raw), "zip": zipOf(t, items...)} {
		want, err := normal(t, archive, wide)
		check(t, err)
		for cut := 0; cut < len(archive); cut += 61 { // no divisor of 512: all places in a block are met
			got, err := normal(t, archive[:cut], wide)
			// A tar may lack the second of the zero blocks at its end, which hold nothing.
			if err == nil && (kind != "tar" || cut < len(archive)-512 || !bytes.Equal(got, want)) {
				t.Errorf("%s cut at %d of %d is accepted", kind, cut, len(archive))
			}
			var broken *Error
			if err != nil && !errors.As(err, &broken) {
				t.Errorf("%s cut at %d: %v", kind, cut, err)
			}
		}
		if _, err := normal(t, slices.Concat(archive, noise), wide); kind != "zip" && err == nil {
			t.Errorf("%s with something behind it is accepted", kind)
		}
	}
	if _, err := normal(t, slices.Concat(raw, make([]byte, 9000)), wide); err != nil {
		t.Errorf("padding: %v", err)
	}
	if _, err := normal(t, gzipOf(t, slices.Concat(raw, make([]byte, 20<<20))), wide); err == nil {
		t.Error("20 MiB of padding are accepted")
	}
}

// TestBombsStopEarly feeds archives without end.
func TestBombsStopEarly(t *testing.T) {
	endless := func(next func(w *tar.Writer, i int) error) io.Reader {
		r, w := io.Pipe()
		go func() {
			out := tar.NewWriter(w)
			for i := 0; ; i++ {
				if next(out, i) != nil {
					return
				}
			}
		}()
		t.Cleanup(func() { r.Close() })
		return r
	}
	for name, archive := range map[string]io.Reader{
		"files": endless(func(w *tar.Writer, i int) error {
			return w.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg})
		}),
		"one directory": endless(func(w *tar.Writer, _ int) error {
			return w.WriteHeader(&tar.Header{Name: "d/", Typeflag: tar.TypeDir})
		}),
		"global headers": endless(func(w *tar.Writer, _ int) error {
			return w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}})
		}),
		"one file": endless(func(w *tar.Writer, i int) error {
			if i == 0 {
				return w.WriteHeader(&tar.Header{Name: "big", Typeflag: tar.TypeReg, Size: 1 << 40})
			}
			_, err := w.Write(make([]byte, 1<<20))
			return err
		}),
	} {
		spool, err := os.CreateTemp(t.TempDir(), "spool")
		check(t, err)
		err = Normalise(io.Discard, archive, spool, wide)
		var broken *Error
		if !errors.As(err, &broken) || !broken.TooLarge {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := spool.Stat(); err != nil || info.Size() > wide.Bytes {
			t.Errorf("%s: %d bytes spooled", name, info.Size())
		}
		check(t, spool.Close())
	}
}

// TestLyingZip changes the size in a zip's directory.
func TestLyingZip(t *testing.T) {
	archive := zipOf(t, item{name: "f", body: strings.Repeat("x", 5<<20)})
	size := []byte{0, 0, 0x50, 0} // 5 MiB
	for _, lie := range [][]byte{{1, 0, 0, 0}, {0, 0, 0x60, 0}, {0xff, 0xff, 0xff, 0x7f}} {
		wantProblem(t, fmt.Sprintf("%x", lie), bytes.ReplaceAll(archive, size, lie), " ")
	}
}

func TestBrokenSource(t *testing.T) {
	gone := errors.New("connection lost")
	archive := tarOf(t, item{name: "a", body: "body"})
	spool, err := os.CreateTemp(t.TempDir(), "spool")
	check(t, err)
	defer spool.Close()
	err = Normalise(io.Discard, io.MultiReader(bytes.NewReader(archive[:700]), failing{gone}), spool, wide)
	if !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestPackRefuses(t *testing.T) {
	for name, prepare := range map[string]func(dir string) error{
		"outside":     func(dir string) error { return os.Symlink("../x", filepath.Join(dir, "l")) },
		"empty":       func(string) error { return nil },
		"limit of":    func(dir string) error { return os.WriteFile(filepath.Join(dir, "big"), make([]byte, 11<<20), 0o600) },
		"not underst": func(dir string) error { return os.WriteFile(filepath.Join(dir, IgnoreFile), []byte("x\n!y\n"), 0o600) },
	} {
		dir := t.TempDir()
		check(t, prepare(dir))
		var broken *Error
		if err := Pack(io.Discard, dir, wide); !errors.As(err, &broken) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Pack(io.Discard, filepath.Join(t.TempDir(), "missing"), wide); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// FuzzNormalise proves that what is accepted is a bundle: it is its own normal form, and all of it stays in
// the directory where it is unpacked.
func FuzzNormalise(f *testing.F) {
	items := []item{{name: "a/b", body: "x", mode: 0o755}, {name: "l", body: "a/b", kind: tar.TypeSymlink}, {name: "d/", kind: tar.TypeDir}}
	f.Add(tarOf(f, items...))
	f.Add(gzipOf(f, tarOf(f, items...)))
	f.Add(zipOf(f, items...))
	f.Add(tarOf(f, item{name: "../x"}, item{name: "a/l", body: "../..", kind: tar.TypeSymlink}))
	f.Add(tarOf(f, item{name: strings.Repeat("long/", 40) + "ö", body: "y"}))
	limits := Limits{Bytes: 1 << 20, Entries: 100}
	f.Fuzz(func(t *testing.T, archive []byte) {
		first, err := normal(t, archive, limits)
		if err != nil {
			var broken *Error
			if !errors.As(err, &broken) {
				t.Fatalf("not a typed error: %v", err)
			}
			return
		}
		again, err := normal(t, first, limits)
		if err != nil || !bytes.Equal(first, again) {
			t.Fatalf("it is not its own normal form: %v", err)
		}
		dir := t.TempDir()
		root, err := os.OpenRoot(dir)
		check(t, err)
		defer root.Close()
		paths := map[string]bool{}
		for r := tar.NewReader(bytes.NewReader(first)); ; {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			check(t, err)
			name := filepath.Clean(h.Name)
			if paths[name] || len(paths) > 0 && slices.Max(slices.Collect(maps.Keys(paths))) > name {
				t.Fatalf("%q is there twice or out of order", name)
			}
			paths[name] = true
			switch h.Typeflag {
			case tar.TypeDir:
				check(t, root.Mkdir(name, 0o755))
			case tar.TypeSymlink:
				check(t, root.Symlink(h.Linkname, name))
			case tar.TypeReg:
				f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
				check(t, err)
				check(t, f.Close())
			}
		}
		for name := range paths {
			target, err := filepath.EvalSymlinks(filepath.Join(dir, name))
			if err == nil && target != dir && !strings.HasPrefix(target, dir+"/") {
				t.Fatalf("%q leads to %q", name, target)
			}
		}
	})
}
