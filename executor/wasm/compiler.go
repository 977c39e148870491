package wasm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"lambent"
	"lambent/executor"
	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/compile"
	"lambent/executor/wasm/internal/module"
	"lambent/internal/sandbox"
)

const (
	// compilerMemory is what a compiler may have, MiB. It gives up by itself before that.
	compilerMemory = 3 << 10
	compilerPids   = 64
)

// compilers is how many there are at most: each may use all its memory, the cores have other work, too, and a module that
// takes long should be no obstacle for another namespace.
func compilers() int { return max(1, min(max(2, runtime.NumCPU()/2), machineMemory()/compilerMemory)) }

// compile makes an artefact in a process that ends with it. What that writes may be the word of code of the module.
func (e *Executor) compile(ctx context.Context, m source, to string) error {
	out, in := io.Pipe()
	received := make(chan error, 1)
	go func() {
		err := artefact.Receive(out, to, func(meta *artefact.Meta, size int64) error {
			if int64(meta.Pages)*module.PageSize > m.memory {
				return errors.New("the compiler has given the module more memory than it may have")
			}
			return e.space(size)
		})
		out.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // what comes after it ends the compiler
		received <- err
	}()
	var said said
	exit, err := e.sandbox.Run(ctx, executor.Job{
		ID: lambent.NewID(), Namespace: m.namespace, Argv: []string{compilerName, path.Join(sandbox.CodeDir, m.name), m.warmup, strconv.FormatInt(m.memory, 10)},
		Program: e.program, Dir: m.dir, Memory: compilerMemory, CPU: 1000 * runtime.NumCPU(), Pids: compilerPids,
		Output: in, Log: said.add,
	})
	_ = in.Close() // it gives no error
	rerr := <-received
	var told *lambent.Error
	switch {
	case errors.As(rerr, &told): // of the module
		return told
	case ctx.Err() != nil:
		return lambent.Errorf(lambent.CodeStartTimeout, "module %q was not compiled in time: %w", m.name, ctx.Err())
	case exit.OOM:
		return lambent.Errorf(lambent.CodeStartFailed, "module %q takes more than %d MiB of memory to compile", m.name, compilerMemory).
			WithHint("make the module smaller, or its largest functions")
	case exit != (lambent.Exit{}) && err == nil:
		err = fmt.Errorf("the compiler %s: %s", exit, said.text())
	case err == nil:
		err = rerr
	}
	if err != nil {
		return sandboxError(fmt.Sprintf("module %q could not be compiled", m.name), err)
	}
	return nil
}

// compileOne is a compiler: its arguments are the module's path, the warm-up request, and how many bytes of memory the
// module may have.
func compileOne() error {
	if len(os.Args) != 4 {
		return errors.New("a compiler has three arguments")
	}
	memory, err := strconv.ParseInt(os.Args[3], 10, 64)
	if err != nil {
		return err
	}
	code := compile.Main(os.Args[1], compile.Options{Warmup: os.Args[2], Memory: memory}, compile.Limits{}, os.NewFile(executor.JobOutput, "output"))
	os.Exit(code)
	return nil
}

// said keeps the last lines that a process of ours wrote.
type said struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

// lastWords is how many lines are kept.
const lastWords = 20

func (s *said) add(line lambent.LogLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) == lastWords {
		s.lines = s.lines[1:]
	}
	s.lines = append(s.lines, line.Text)
}

func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}
