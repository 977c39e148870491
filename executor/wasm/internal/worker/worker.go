// Package worker is the main of a worker process: it serves the requests that come over its socket with guests of the
// programs that were loaded into it.
//
// A worker holds what it was handed and nothing else: the descriptors of programs' files, and the environment, secrets
// included, of the one namespace that it works for. It writes no file but the links that the engine makes in its own folder.
// It ends when its daemon does: then its socket is at its end.
package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"

	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/engine"
	"lambent/executor/wasm/internal/wire"
)

// Options say what a worker has.
type Options struct {
	Dir    string // an empty folder of its own, in memory
	Memory int64  // bytes that the whole process may have
}

// ballast is memory that nobody touches, so that it is none: it has garbage wait until there are so many bytes more of it.
// The heap of a worker is so small that there would be a collection every few milliseconds, which would cost a quarter of
// its processor time; a higher GOGC would have the worker of many programs keep a multiple of what they need.
const ballast = 16 << 20

// worker is the [wire.Handler].
type worker struct {
	engine *engine.Engine

	mu       sync.RWMutex
	programs map[uint32]*program
}

type program struct {
	*engine.Program
	spec *wire.Spec
	env  []string
}

// Run is a worker until its socket is at its end or the process is asked to end. It takes over conn and page, the file
// of the page that it shares with the daemon. An engine in a process of its own is assumed, see package engine.
func Run(conn *net.UnixConn, page *os.File, o Options) error {
	defer conn.Close()
	shared, err := wire.OpenPage(page)
	page.Close()
	if err != nil {
		return err
	}
	// The guests' memories get the half, what the daemon loads a quarter, which it counts: images, and native code, which
	// no collection reduces.
	debug.SetMemoryLimit(o.Memory / 4)
	defer runtime.KeepAlive(make([]byte, ballast))
	e, err := engine.New(context.Background(), engine.Options{Dir: o.Dir, Memory: o.Memory / 2})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, func() { _ = conn.CloseRead() })()
	hello := wire.Hello{}
	if way, why := e.Reset(); way == engine.ResetNever {
		hello.Slow = why
	}
	w := &worker{engine: e, programs: make(map[uint32]*program)}
	if err = wire.Serve(conn, shared, w, hello); errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, e.Close())
}

// Load implements [wire.Handler]. The files are an artefact's module, native code and image, in this order.
func (w *worker) Load(number uint32, spec *wire.Spec, files []*os.File) error {
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if len(files) != 3 {
		return fmt.Errorf("an artefact has 3 files, not %d", len(files))
	}
	w.mu.RLock()
	_, used := w.programs[number]
	w.mu.RUnlock()
	if used {
		return fmt.Errorf("there is a program %d already", number)
	}
	p, err := w.engine.Load(context.Background(), &artefact.Files{Meta: spec.Meta, Module: files[0], Native: files[1], Image: files[2]}, spec.Memory)
	if err != nil {
		var e *engine.Error
		return &wire.LoadError{Damaged: errors.As(err, &e) && e.Reason == engine.Stale, Text: err.Error()}
	}
	env := make([]string, len(spec.Env))
	for i, v := range spec.Env {
		env[i] = string(v)
	}
	spec.Env = nil // else it would be held twice
	w.mu.Lock()
	defer w.mu.Unlock()
	w.programs[number] = &program{p, spec, env}
	return nil
}

// Unload implements [wire.Handler].
func (w *worker) Unload(number uint32) {
	w.mu.Lock()
	p := w.programs[number]
	delete(w.programs, number)
	w.mu.Unlock()
	if p == nil {
		return
	}
	if err := p.Close(); err != nil {
		fmt.Fprintf(os.Stderr, "unloading function %s: %v\n", p.spec.Function, err)
	}
}

func (w *worker) program(number uint32) *program {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.programs[number]
}
