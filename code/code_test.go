package code

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent"
	"lambent/internal/bundle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, opts Options) *Store {
	t.Helper()
	opts.Logger = slog.New(slog.DiscardHandler)
	s, err := Open(opts)
	check(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// source makes a directory with n files and gives it packed, too.
func source(t *testing.T, n int) (dir string, packed []byte) {
	t.Helper()
	dir = t.TempDir()
	for i := range n {
		name := filepath.Join(dir, fmt.Sprintf("pkg%d/mod%d.py", i%10, i))
		check(t, os.MkdirAll(filepath.Dir(name), 0o755))
		check(t, os.WriteFile(name, bytes.Repeat([]byte{byte(i)}, 500), 0o644))
	}
	check(t, os.WriteFile(filepath.Join(dir, "main.py"), []byte("code"), 0o755))
	check(t, os.Symlink("main.py", filepath.Join(dir, "link")))
	var out bytes.Buffer
	check(t, bundle.Pack(&out, dir, bundle.Default))
	return dir, out.Bytes()
}

func put(t *testing.T, s *Store, archive []byte) string {
	t.Helper()
	digest, size, err := s.Put(t.Context(), bytes.NewReader(archive))
	check(t, err)
	if !s.Has(digest) || size == 0 {
		t.Errorf("%s of %d bytes is not there", digest, size)
	}
	return digest
}

// sameTree compares what is below two directories, modes included.
func sameTree(t *testing.T, got, want string) {
	t.Helper()
	list := func(root string) map[string]string {
		out := map[string]string{}
		check(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			content, err := os.Readlink(path)
			if info.Mode().IsRegular() {
				var raw []byte
				raw, err = os.ReadFile(path)
				content = string(raw)
			} else if d.IsDir() {
				err = nil
			}
			out[strings.TrimPrefix(path, root)] = fmt.Sprint(info.Mode(), " ", content)
			return err
		}))
		return out
	}
	a, b := list(got), list(want)
	for path := range b {
		if a[path] != b[path] {
			t.Errorf("%s: got %.60q, want %.60q", path, a[path], b[path])
		}
	}
	if len(a) != len(b) {
		t.Errorf("%d files, want %d", len(a), len(b))
	}
}

func TestPutAndTree(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // modes must not depend on it
	storeDir := t.TempDir()
	s := open(t, Options{Dir: storeDir})
	dir, packed := source(t, 30)
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o755)
		} else if err == nil && d.Type().IsRegular() && d.Name() != "main.py" {
			err = os.Chmod(path, 0o644)
		}
		return err
	}))
	check(t, os.Chmod(filepath.Join(dir, "main.py"), 0o755))
	digest := put(t, s, packed)

	var zipped, gzipped bytes.Buffer
	z, g := zip.NewWriter(&zipped), gzip.NewWriter(&gzipped)
	check(t, z.AddFS(noLinks{os.DirFS(dir)}))
	link := &zip.FileHeader{Name: "link"}
	link.SetMode(fs.ModeSymlink | 0o777)
	w, err := z.CreateHeader(link)
	check(t, err)
	_, err = io.WriteString(w, "main.py")
	check(t, errors.Join(err, z.Close()))
	_, err = g.Write(packed)
	check(t, errors.Join(err, g.Close()))
	for _, archive := range [][]byte{packed, zipped.Bytes(), gzipped.Bytes()} {
		if got := put(t, s, archive); got != digest {
			t.Errorf("got %s, want %s", got, digest)
		}
	}
	f, err := s.Open(digest)
	check(t, err)
	raw, err := io.ReadAll(f)
	check(t, errors.Join(err, f.Close()))
	if !bytes.Equal(raw, packed) {
		t.Error("the stored bundle differs")
	}
	tree, err := s.Tree(t.Context(), digest)
	check(t, err)
	check(t, os.Chmod(dir, 0o755))
	sameTree(t, tree, dir)
	if left, err := os.ReadDir(s.tmp); err != nil || len(left) > 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}

// The process before may be at work when a shared store is opened. What it leaves goes when it has gone.
func TestAlone(t *testing.T) {
	dir := t.TempDir()
	before := open(t, Options{Dir: dir})
	check(t, os.MkdirAll(filepath.Join(before.tmp, before.mine+"tree-1", "d"), 0o755))
	s := open(t, Options{Dir: dir, Shared: true})
	ours, err := s.create()
	check(t, err)
	if left, err := os.ReadDir(s.tmp); err != nil || len(left) != 2 {
		t.Errorf("in tmp: %v, %v", left, err)
	}
	check(t, s.Alone())
	if left, err := os.ReadDir(s.tmp); err != nil || len(left) != 1 || filepath.Join(s.tmp, left[0].Name()) != ours.Name() {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
	ours.discard()
}

type noLinks struct{ fs.FS }

func (n noLinks) ReadDir(name string) ([]fs.DirEntry, error) {
	found, err := fs.ReadDir(n.FS, name)
	var out []fs.DirEntry
	for _, d := range found {
		if d.Type() != fs.ModeSymlink {
			out = append(out, d)
		}
	}
	return out, err
}

func TestPutRefuses(t *testing.T) {
	_, packed := source(t, 30)
	var slip bytes.Buffer
	w := tar.NewWriter(&slip)
	check(t, w.WriteHeader(&tar.Header{Name: "../evil", Typeflag: tar.TypeReg}))
	check(t, w.Close())
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		opts    Options
		ctx     context.Context
		archive []byte
		code    lambent.Code
		want    string
	}{
		"slip":      {Options{}, t.Context(), slip.Bytes(), lambent.CodeBundleInvalid, "../evil"},
		"text":      {Options{}, t.Context(), []byte("hello"), lambent.CodeBundleInvalid, "neither"},
		"cut":       {Options{}, t.Context(), packed[:5000], lambent.CodeBundleInvalid, "cut short"},
		"size":      {Options{Limit: 1 << 10}, t.Context(), packed, lambent.CodeBundleTooLarge, "limit"},
		"entries":   {Options{MaxFiles: 5}, t.Context(), packed, lambent.CodeBundleTooLarge, "5 entries"},
		"full":      {Options{Reserve: math.MaxInt64 / 2}, t.Context(), packed, lambent.CodeStorageFull, "reserve"},
		"cancelled": {Options{}, gone, packed, lambent.CodeClientClosed, "left"},
	} {
		t.Run(name, func(t *testing.T) {
			test.opts.Dir = t.TempDir()
			s := open(t, test.opts)
			_, _, err := s.Put(test.ctx, bytes.NewReader(test.archive))
			if e := lambent.ErrorOf(err); e == nil || e.Code != test.code || !strings.Contains(e.Message, test.want) ||
				e.Hint == "" && e.Code != lambent.CodeClientClosed {
				t.Errorf("got %v", err)
			}
			for _, dir := range []string{s.bundles, s.tmp} {
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("left in %s: %v, %v", dir, left, err)
				}
			}
		})
	}
}

func TestDamagedBundle(t *testing.T) {
	for name, damage := range map[string]func(path string, raw []byte) error{
		"content": func(path string, raw []byte) error { raw[len(raw)/2] ^= 1; return os.WriteFile(path, raw, 0o600) },
		"header":  func(path string, raw []byte) error { raw[3] ^= 1; return os.WriteFile(path, raw, 0o600) },
		"end":     func(path string, raw []byte) error { raw[len(raw)-1] ^= 1; return os.WriteFile(path, raw, 0o600) },
		"cut":     func(path string, raw []byte) error { return os.Truncate(path, int64(len(raw)/2)) },
		"longer":  func(path string, raw []byte) error { return os.WriteFile(path, append(raw, 0), 0o600) },
		"empty":   func(path string, _ []byte) error { return os.Truncate(path, 0) },
		"missing": func(path string, _ []byte) error { return os.Remove(path) },
		"hostile": func(path string, _ []byte) error {
			var out bytes.Buffer
			w := tar.NewWriter(&out)
			err := errors.Join(
				w.WriteHeader(&tar.Header{Name: "l", Linkname: "../..", Typeflag: tar.TypeSymlink}),
				w.WriteHeader(&tar.Header{Name: "l/evil", Typeflag: tar.TypeReg}), w.Close())
			return errors.Join(err, os.WriteFile(path, out.Bytes(), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, Options{Dir: t.TempDir()})
			_, packed := source(t, 20)
			digest := put(t, s, packed)
			check(t, damage(s.bundlePath(digest), bytes.Clone(packed)))
			_, err := s.Tree(t.Context(), digest)
			if !lambent.HasCode(err, lambent.CodeCodeUnavailable) || !strings.Contains(err.Error(), digest) {
				t.Errorf("got %v", err)
			}
			for _, dir := range []string{s.trees, s.tmp} {
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("left in %s: %v, %v", dir, left, err)
				}
			}
			if _, err := os.Stat(filepath.Join(s.opts.Dir, "evil")); err == nil {
				t.Error("it got out")
			}
			put(t, s, packed) // mends it
			if _, err := s.Tree(t.Context(), digest); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWrongDigest(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir()})
	for _, digest := range []string{"", "sha256:", "sha256:../../etc", "sha256:" + strings.Repeat("0", 64), strings.Repeat("0", 64)} {
		if s.Has(digest) {
			t.Errorf("has %q", digest)
		}
		if _, err := s.Open(digest); !lambent.HasCode(err, lambent.CodeCodeUnavailable) {
			t.Errorf("open %q: %v", digest, err)
		}
		if _, err := s.Tree(t.Context(), digest); !lambent.HasCode(err, lambent.CodeCodeUnavailable) {
			t.Errorf("tree %q: %v", digest, err)
		}
	}
}

func TestTreeIsSharedAndLeft(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir()})
	_, packed := source(t, 300)
	digest := put(t, s, packed)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Tree(gone, digest); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := s.Tree(t.Context(), digest); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if trees, err := os.ReadDir(s.trees); err != nil || len(trees) != 1 {
		t.Errorf("%v, %v", trees, err)
	}
	check(t, s.Close())
	_, other := source(t, 3)
	if _, err := s.Tree(t.Context(), put(t, s, other)); !lambent.HasCode(err, lambent.CodeShuttingDown) {
		t.Errorf("a closed store: %v", err)
	}
}

func TestRemove(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir()})
	_, packed := source(t, 1)
	digest := put(t, s, packed)
	_, err := s.Tree(t.Context(), digest)
	check(t, err)
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	try := func(since time.Time, want bool) {
		t.Helper()
		if ok, err := s.Remove(digest, since); ok != want || err != nil {
			t.Errorf("removed %v, %v", ok, err)
		}
		if s.Has(digest) == want {
			t.Errorf("has it: %v", !want)
		}
	}
	unused := func(since time.Time, want ...string) {
		t.Helper()
		if got, err := s.Unused(since); !slices.Equal(got, want) || err != nil {
			t.Errorf("unused: %q, %v", got, err)
		}
	}
	unused(past)
	try(past, false)

	check(t, os.Chtimes(s.bundlePath(digest), past, past))
	before := time.Now()
	unused(before, digest)
	release, ok := s.Hold(digest)
	again, _ := s.Hold(digest)
	if !ok {
		t.Fatal("there is nothing to hold")
	}
	try(future, false)
	again()
	try(future, false)
	release()
	try(before, false) // it was held since
	unused(before)

	try(future, true)
	unused(future)
	if _, err := s.Tree(t.Context(), digest); !lambent.HasCode(err, lambent.CodeCodeUnavailable) {
		t.Errorf("got %v", err)
	}
	for _, digest := range []string{digest, "sha256:../../x", ""} {
		if _, ok := s.Hold(digest); ok {
			t.Errorf("held %q", digest)
		}
		if ok, err := s.Remove(digest, future); ok || err != nil {
			t.Errorf("removed %q, %v", digest, err)
		}
	}
	if left, err := os.ReadDir(s.tmp); err != nil || len(left) > 0 || len(s.held) > 0 {
		t.Errorf("left in tmp: %v, %v; held %v", left, err, s.held)
	}
	put(t, s, packed)
	_, err = s.Tree(t.Context(), digest)
	check(t, err)
	check(t, os.Remove(s.bundlePath(digest))) // a crash between the two
	unused(future, digest)
	if ok, err := s.Remove(digest, future); !ok || err != nil {
		t.Errorf("a tree without its bundle: %v, %v", ok, err)
	}
	unused(future)
}

// Whoever holds a bundle that is there still has it, whatever is removed meanwhile.
func TestHoldWhileRemoving(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir()})
	_, packed := source(t, 1)
	digest := put(t, s, packed)
	ctx, stop := context.WithCancel(t.Context())
	var remover sync.WaitGroup
	remover.Go(func() {
		for ctx.Err() == nil {
			if _, err := s.Remove(digest, time.Now().Add(time.Hour)); err != nil {
				t.Error(err)
			}
		}
	})
	for range 200 {
		_, _, err := s.Put(t.Context(), bytes.NewReader(packed))
		check(t, err)
		if release, ok := s.Hold(digest); ok {
			if _, err := s.Tree(t.Context(), digest); err != nil {
				t.Error(err)
			}
			release()
		}
	}
	stop()
	remover.Wait()
}

// TestKilled kills a process that puts and unpacks without end: a tree is whole or not there.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("LAMBENT_TEST_UNPACK"); dir != "" {
		unpackForever(t, dir)
		return
	}
	dir := t.TempDir()
	want, packed := source(t, 200)
	check(t, os.WriteFile(filepath.Join(dir, "packed"), packed, 0o600))
	halfDone := 0
	for round := range 5 {
		child := exec.Command(os.Args[0], "-test.run=^TestKilled$", "-test.timeout=2m")
		child.Env = append(os.Environ(), "LAMBENT_TEST_UNPACK="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		check(t, err)
		check(t, child.Start())
		_, err = io.ReadFull(out, make([]byte, 1+round)) // it prints a byte before each unpacking
		check(t, err)
		time.Sleep(time.Duration(round) * 3 * time.Millisecond) // a different moment each time; any will do
		check(t, child.Process.Kill())
		if err := child.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err == nil && len(left) > 0 {
			halfDone++
		}
		trees, err := os.ReadDir(filepath.Join(dir, "trees"))
		check(t, err)
		for _, tree := range trees {
			sameTree(t, filepath.Join(dir, "trees", tree.Name()), want)
		}
		s := open(t, Options{Dir: dir})
		if left, err := os.ReadDir(s.tmp); err != nil || len(left) > 0 {
			t.Errorf("left in tmp: %v, %v", left, err)
		}
		tree, err := s.Tree(t.Context(), put(t, s, packed))
		check(t, err)
		sameTree(t, tree, want)
		check(t, s.Close())
	}
	if halfDone == 0 {
		t.Error("no kill came in the midst of the work")
	}
}

func unpackForever(t *testing.T, dir string) {
	packed, err := os.ReadFile(filepath.Join(dir, "packed"))
	check(t, err)
	s, err := Open(Options{Dir: dir})
	check(t, err)
	for range 100_000 {
		digest := put(t, s, packed)
		fmt.Print("x")
		_, err := s.Tree(t.Context(), digest)
		check(t, err)
		_, err = s.Remove(digest, time.Now().Add(time.Hour))
		check(t, err)
	}
}
