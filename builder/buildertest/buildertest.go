// Package buildertest runs builders for tests as a node does: in real sandboxes, with a real code store.
package buildertest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"lambent"
	"lambent/builder"
	"lambent/code"
	"lambent/executor/process"
)

// World is a Service and what it stands on.
type World struct {
	Service *builder.Service
	Dir     string // holds all
	o       builder.Options
	code    *code.Store
	tier    *process.Executor
}

// New makes a World that lasts until the test ends. What o lacks is filled in.
func New(t *testing.T, o builder.Options) *World {
	t.Helper()
	w := &World{Dir: t.TempDir()}
	quiet := slog.New(slog.DiscardHandler)
	store, err := code.Open(code.Options{Dir: filepath.Join(w.Dir, "code"), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	tier, err := process.New(process.Options{Dir: filepath.Join(w.Dir, "run"), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(tier.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	})
	if o.Dir == "" {
		o.Dir = filepath.Join(w.Dir, "layers")
	}
	o.Code, o.Runner, o.Logger = store, tier, quiet
	o.Root = func(string) (string, error) { return tier.Root("go") }
	w.o, w.code, w.tier = o, store, tier
	w.Restart(t)
	return w
}

// Restart makes the Service anew, on the same folder.
func (w *World) Restart(t *testing.T) {
	t.Helper()
	var err error
	if w.Service, err = builder.New(w.o); err != nil {
		t.Fatal(err)
	}
}

// Runtime gives the latest runtime of this machine whose name begins so.
func (w *World) Runtime(t *testing.T, prefix string) string {
	t.Helper()
	latest, name := -1, ""
	for _, runtime := range w.tier.Runtimes() {
		version, ok := strings.CutPrefix(runtime, prefix)
		if n, err := strconv.Atoi(version); ok && err == nil && n > latest {
			latest, name = n, runtime
		}
	}
	if name == "" {
		t.Fatalf("this machine has no runtime %sN", prefix)
	}
	return name
}

// Put stores a source of those files, whose names may end in a * for executables.
func (w *World) Put(t *testing.T, files map[string]string) string {
	t.Helper()
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	for name, text := range files {
		mode := int64(0o644)
		if strings.HasSuffix(name, "*") {
			name, mode = strings.TrimSuffix(name, "*"), 0o755
		}
		_ = out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(text))})
		_, _ = io.WriteString(out, text)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	digest, _, err := w.code.Put(t.Context(), &archive)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// Build builds a source of those files with the default handler of Node.js; log may be nil.
func (w *World) Build(t *testing.T, namespace, runtime string, files map[string]string, log func(string)) *lambent.Built {
	t.Helper()
	if log == nil {
		log = func(line string) { t.Log(line) }
	}
	handler := "index.handler"
	if rt, ok := lambent.RuntimeOf(runtime); ok {
		handler = rt.Handler
	}
	built, err := w.Service.Build(t.Context(), namespace, lambent.Build{Runtime: runtime, Handler: handler, Source: w.Put(t, files)}, log)
	if err != nil {
		t.Fatalf("%v\n%s", err, lambent.ErrorOf(err).Trace)
	}
	return built
}

// Tree gives the folder with the code.
func (w *World) Tree(t *testing.T, digest string) string {
	t.Helper()
	dir, err := w.code.Tree(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Files gives the content of the code's files, and the targets of its links, by path.
func (w *World) Files(t *testing.T, digest string) map[string]string {
	t.Helper()
	f, err := w.code.Open(digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string]string{}
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeDir {
			files[header.Name] = header.Linkname + string(raw)
		}
	}
}

// Port gives a port of 127.0.0.1 that this process listens on until the test ends.
func (w *World) Port(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Twice builds a source on two nodes that know nothing of one another, which must give the same code, and a
// third time on one of them, where no tool must run. It gives the files of the code.
func Twice(t *testing.T, world func(*testing.T) *World, runtime string, files map[string]string) map[string]string {
	t.Helper()
	w := world(t)
	first := w.Build(t, "default", runtime, files, nil)
	other := world(t)
	second := other.Build(t, "default", runtime, files, nil)
	cached := w.Build(t, "default", runtime, files, nil)
	t.Logf("built in %.0f and %.0f ms, found in %.0f ms", first.Duration, second.Duration, cached.Duration)
	if !cached.Cached || cached.Code != first.Code || cached.Duration > first.Duration/2 {
		t.Errorf("the third time: %+v, the first: %+v", cached, first)
	}
	got := w.Files(t, first.Code)
	if second.Code != first.Code {
		t.Errorf("two builds differ: %s and %s", first.Code, second.Code)
		for name, text := range other.Files(t, second.Code) {
			if got[name] != text {
				t.Errorf("%s differs: %d bytes and %d", name, len(got[name]), len(text))
			}
		}
	}
	return got
}
