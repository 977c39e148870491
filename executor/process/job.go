package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/internal/sandbox"
)

var _ executor.Runner = (*Executor)(nil)

// Run implements executor.Runner. To the sandbox a job is an instance that nobody sends requests to.
func (e *Executor) Run(ctx context.Context, job executor.Job) (lambent.Exit, error) {
	defer job.Socket.Close()
	if e.away != nil {
		return lambent.Exit{}, e.away
	}
	if e.bare != nil && job.Program == nil { // its paths are those of a sandbox
		return lambent.Exit{}, e.bare
	}
	if !e.admit() {
		return lambent.Exit{}, lambent.Errorf(lambent.CodeShuttingDown, "this node is stopping")
	}
	defer e.starts.Done()
	var output *os.File
	defer func() { output.Close() }()
	p := program{argv: job.Argv, file: job.Program, work: int64(job.Work) << 20, output: func() (w *os.File, err error) {
		if job.Socket != nil {
			return job.Socket, nil
		}
		output, w, err = os.Pipe()
		return w, err
	}}
	for _, inside := range slices.Sorted(maps.Keys(job.Folders)) {
		p.folders = append(p.folders, sandbox.Folder{Host: job.Folders[inside], Inside: inside})
	}
	in, err := e.launch(ctx, executor.Spec{ID: job.ID, CodeDir: job.Dir, Log: job.Log, Revision: &lambent.Revision{
		Namespace: job.Namespace, Function: "job", Settings: lambent.Settings{
			Env: job.Env, Memory: job.Memory, CPU: job.CPU, Pids: job.Pids, Egress: job.Egress, Concurrency: 1,
		}}}, p)
	if err != nil {
		return lambent.Exit{}, err
	}
	defer context.AfterFunc(ctx, func() { in.Stop(0) })()
	if job.Socket != nil {
		<-in.gone
		return in.result(ctx, nil)
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(job.Output, output)
		if err != nil {
			in.Stop(0)
		}
		copied <- err
	}()
	<-in.gone
	// Nothing runs that could hold the pipe open but by having sent its end to where it lies in a queue.
	if err := output.SetReadDeadline(time.Now().Add(lastWords)); err != nil {
		return lambent.Exit{}, errors.Join(err, output.Close(), <-copied)
	}
	return in.result(ctx, <-copied)
}

// result is that of a job of which nothing is left, with what came of its output.
func (in *instance) result(ctx context.Context, err error) (lambent.Exit, error) {
	switch {
	case ctx.Err() != nil:
		return lambent.Exit{}, ctx.Err()
	case in.failure != nil:
		return lambent.Exit{}, sandboxFailed(fmt.Errorf("%s: %s", in.failure.Step, in.failure.Err))
	}
	return in.exit, err
}
