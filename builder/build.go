package builder

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/builder/internal/layer"
	"lambent/executor"
	"lambent/internal/bundle"
)

// Options say how a Service builds. What has a default may be zero.
type Options struct {
	Dir      string             // of the layers
	Builders map[string]Builder // by what the names of their runtimes begin with
	Code     Code
	Runner   executor.Runner
	Root     func(runtime string) (string, error) // see executor.Executor
	Egress   []string                             // what builds may connect to; none by default
	Env      map[string]string                    // what tools get beside what a Service sets itself
	Layers   int64                                // bytes of all layers together; default 5 GiB
	Limits   bundle.Limits                        // of what one step makes; default 1 GiB and 200,000 files
	Memory   int                                  // MiB of a build, the files that it writes included; default 2048
	Pids     int                                  // processes and threads of a build; default 512
	Timeout  time.Duration                        // of one step; default 10 minutes
	Parallel int                                  // how many builds run at a time; default 2
	Logger   *slog.Logger
}

// Code keeps bundles by digest.
type Code interface {
	Put(ctx context.Context, r io.Reader) (digest string, size int64, err error)
	Open(digest string) (*os.File, error)
	Tree(ctx context.Context, digest string) (path string, err error)
}

// Service builds. Its methods may be called from many goroutines.
type Service struct {
	o      Options
	layers *layer.Store
	turns  *turns
}

// version is part of every key: another way to run steps needs another.
const version = "1"

// New makes a Service; it clears away what a crash has left of builds.
func New(o Options) (*Service, error) {
	def(&o.Layers, 5<<30)
	def(&o.Limits.Bytes, 1<<30)
	def(&o.Limits.Entries, 200_000)
	def(&o.Memory, 2048)
	def(&o.Pids, 512)
	def(&o.Timeout, 10*time.Minute)
	def(&o.Parallel, 2)
	layers, err := layer.Open(layer.Options{Dir: o.Dir, Total: o.Layers, Bytes: o.Limits.Bytes, Files: o.Limits.Entries, Logger: o.Logger})
	if err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	return &Service{o: o, layers: layers, turns: newTurns(o.Parallel)}, nil
}

func def[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Findings says what the builders found of what they need.
func (s *Service) Findings() (all []lambent.Finding) {
	asked := map[Builder]bool{}
	for _, prefix := range slices.Sorted(maps.Keys(s.o.Builders)) {
		if b := s.o.Builders[prefix]; !asked[b] {
			asked[b] = true
			all = append(all, b.Findings()...)
		}
	}
	return all
}

// Build gives the code of b's source, which is in the code store; its runtime is no family and its handler is
// complete. log gets the lines that tools write, as they come; it must not block, and may be called from many goroutines. Errors are *lambent.Error: build_failed with
// what the tool said as its trace, build_limit, and what the store and the sandbox give.
func (s *Service) Build(ctx context.Context, namespace string, b lambent.Build, log func(line string)) (*lambent.Built, error) {
	began := time.Now()
	builder := s.builderOf(b.Runtime)
	if builder == nil {
		return &lambent.Built{Code: b.Source, Cached: true}, nil
	}
	tree, err := s.o.Code.Tree(ctx, b.Source)
	if err != nil {
		return nil, err
	}
	plan, err := plan(builder, tree, b)
	if err != nil {
		return nil, err
	}
	if plan == nil {
		return &lambent.Built{Code: b.Source, Cached: true}, nil
	}
	for _, warning := range plan.Warnings {
		log("warning: " + warning)
	}
	root, err := s.o.Root(b.Runtime)
	if err != nil {
		return nil, err
	}
	w := &work{s: s, namespace: namespace, root: root, tree: tree, log: log, built: lambent.Built{Cached: true}}
	defer w.release()
	if err := w.run(ctx, plan); err != nil {
		return nil, err
	}
	if w.built.Code, err = w.merge(ctx, b.Source, plan); err != nil {
		return nil, err
	}
	took := time.Since(began)
	w.built.Duration = float64(took) / float64(time.Millisecond)
	s.o.Logger.Info("built", "namespace", namespace, "runtime", b.Runtime, "source", b.Source, "code", w.built.Code, "cached", w.built.Cached, "took", took)
	return &w.built, nil
}

func (s *Service) builderOf(runtime string) Builder {
	for prefix, b := range s.o.Builders {
		if strings.HasPrefix(runtime, prefix) {
			return b
		}
	}
	return nil
}

func plan(builder Builder, tree string, b lambent.Build) (*Plan, error) {
	root, err := os.OpenRoot(tree) // so that no link of the source leads out
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return builder.Plan(Source{FS: root.FS(), Digest: b.Source, Runtime: b.Runtime, Handler: b.Handler})
}

// work is one build under way.
type work struct {
	s               *Service
	namespace, root string
	tree            string // the source
	log             func(string)
	layer, out      *layer.Layer
	built           lambent.Built
}

func (w *work) release() {
	for _, l := range []*layer.Layer{w.layer, w.out} {
		if l != nil {
			l.Release()
		}
	}
}

func (w *work) run(ctx context.Context, plan *Plan) (err error) {
	folders := map[string]string{}
	if plan.Layer != nil {
		if w.layer, err = w.step(ctx, plan.Layer, nil); err != nil {
			return err
		}
		w.built.Layer = w.layer.Digest
	}
	if plan.Build == nil {
		return nil
	}
	if w.layer != nil && !plan.Ship {
		if folders[LayerDir], err = w.layer.Tree(ctx); err != nil {
			return err
		}
	}
	w.out, err = w.step(ctx, plan.Build, folders)
	return err
}

// step gives the output of a step: what the namespace has of that key, or what the sandbox makes now.
func (w *work) step(ctx context.Context, step *Step, folders map[string]string) (*layer.Layer, error) {
	key := Key(append([]string{version, w.root, step.Key, step.Script}, step.Args...)...)
	l, err := w.s.layers.Get(w.namespace, key)
	if l != nil || err != nil {
		return l, err
	}
	w.built.Cached = false
	if err := w.s.turns.take(ctx, w.namespace, func() { w.log("waiting for another build to end") }); err != nil {
		return nil, err
	}
	defer w.s.turns.giveBack(w.namespace)
	dir := w.tree
	if step.Files != nil {
		if dir, err = w.excerpt(step.Files); err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
	}
	archive, job := io.Pipe()
	type stored struct {
		layer *layer.Layer
		err   error
	}
	put := make(chan stored, 1)
	go func() {
		l, err := w.s.layers.Put(ctx, w.namespace, key, archive)
		archive.CloseWithError(errors.Join(err, errRefused)) // ends a job that is still writing
		put <- stored{l, err}
	}()
	failed := w.job(ctx, step, dir, folders, job)
	job.CloseWithError(failed) // nil is the end of the archive
	got := <-put
	if failed != nil && !errors.Is(failed, errRefused) {
		return nil, failed
	}
	return got.layer, unusable(got.err)
}

// errRefused means that the store did not take what a job wrote.
var errRefused = errors.New("its output was refused")

// unusable says that a build's archive is at fault, not an upload.
func unusable(err error) error {
	if err == nil {
		return nil
	}
	e := *lambent.ErrorOf(err)
	switch e.Code {
	case lambent.CodeBundleTooLarge:
		return lambent.Errorf(lambent.CodeBuildLimit, "what the build made is too large: %w", err).WithHint("use fewer or smaller packages")
	case lambent.CodeBundleInvalid:
		return lambent.Errorf(lambent.CodeBuildFailed, "what the build made cannot be used: %w", err)
	}
	return err
}

// excerpt copies files of the source to a folder of their own.
func (w *work) excerpt(files []string) (dir string, err error) {
	from, err := os.OpenRoot(w.tree)
	if err != nil {
		return "", err
	}
	defer from.Close()
	if dir, err = w.s.layers.Temp(); err != nil {
		return "", err
	}
	err = os.Chmod(dir, 0o755)
	for _, name := range files {
		if err == nil {
			var raw []byte
			if raw, err = from.ReadFile(name); err == nil {
				err = errors.Join(os.WriteFile(filepath.Join(dir, name), raw, 0o644), os.Chmod(filepath.Join(dir, name), 0o644))
			}
		}
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// merge puts the code together.
func (w *work) merge(ctx context.Context, source string, plan *Plan) (string, error) {
	r, pipe := io.Pipe()
	var writer sync.WaitGroup
	writer.Go(func() { pipe.CloseWithError(w.write(pipe, source, plan)) })
	code, _, err := w.s.o.Code.Put(ctx, r)
	r.CloseWithError(errRefused) // ends the writer
	writer.Wait()
	return code, unusable(err)
}

func (w *work) write(out io.Writer, source string, plan *Plan) error {
	all := tar.NewWriter(out)
	src, err := w.s.o.Code.Open(source)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := copyTar(all, src, plan.Drop); err != nil {
		return err
	}
	parts := []*layer.Layer{w.out}
	if plan.Ship {
		parts = append(parts, w.layer)
	}
	for _, part := range parts {
		if part == nil {
			continue
		}
		f, err := part.Open()
		if err != nil {
			return err
		}
		err = copyTar(all, f, func(path string) bool { return path == nothing })
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return all.Close()
}

func copyTar(out *tar.Writer, in io.Reader, drop func(path string) bool) error {
	for r := tar.NewReader(in); ; {
		header, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if drop != nil && drop(strings.TrimSuffix(header.Name, "/")) {
			continue
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.Copy(out, r); err != nil {
			return err
		}
	}
}
