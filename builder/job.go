package builder

import (
	"context"
	"errors"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"lambent"
	"lambent/executor"
)

// wrapper runs the script of a step, $script, and sends what it made. A file stands for nothing, because there are
// no empty bundles.
const (
	wrapper = `mkdir out
(eval "$script")
cd /work/out
[ -n "$(find . ! -type d -print -quit)" ] || : >` + nothing + `
exec tar --create --file=- --format=gnu --hard-dereference . >&3`
	nothing = ".nothing"
)

// job runs a step in a sandbox.
func (w *work) job(ctx context.Context, step *Step, dir string, folders map[string]string, out io.Writer) error {
	o := w.s.o
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, errTimeout)
	defer cancel()
	var said words
	env := maps.Clone(o.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, map[string]string{"HOME": "/work", "script": step.Script})
	exit, err := o.Runner.Run(ctx, executor.Job{
		ID: lambent.NewID(), Namespace: w.namespace, Argv: append([]string{"/bin/sh", "-euc", wrapper, "sh"}, step.Args...), Env: env,
		Dir: dir, Folders: folders, Memory: o.Memory, Work: o.Memory, CPU: 1000 * runtime.NumCPU(), Pids: o.Pids, Egress: o.Egress,
		Output: out,
		Log: func(l lambent.LogLine) {
			said.add(l.Text)
			w.log(l.Text)
		},
	})
	var failure *lambent.Error
	switch {
	case errors.Is(context.Cause(ctx), errTimeout):
		failure = lambent.Errorf(lambent.CodeBuildLimit, "the build did not end within %s", o.Timeout)
	case err != nil:
		return err
	case exit.OOM:
		failure = lambent.Errorf(lambent.CodeBuildLimit, "the build was killed for exceeding its memory limit of %d MiB", o.Memory).
			WithHint("the files that it writes count too")
	case exit != lambent.Exit{}:
		failure = lambent.Errorf(lambent.CodeBuildFailed, "the build tool %s", exit)
	default:
		return nil
	}
	failure.Trace = said.text()
	return failure
}

var errTimeout = errors.New("the time for the build is over")

// words are the first and the last lines of a tool: some say what is wrong and then how they are used.
type words struct {
	mu          sync.Mutex
	first, last []string
	left        bool // out: some between them
}

const wordLines = 20 // at each end

func (w *words) add(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.first) < wordLines {
		w.first = append(w.first, line)
		return
	}
	if len(w.last) == wordLines {
		w.last, w.left = w.last[1:], true
	}
	w.last = append(w.last, line)
}

func (w *words) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := slices.Clone(w.first)
	if w.left {
		lines = append(lines, "...")
	}
	return strings.Join(append(lines, w.last...), "\n")
}
