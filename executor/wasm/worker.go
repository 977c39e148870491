package wasm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/executor"
	"lambent/executor/wasm/internal/wire"
)

const (
	// launchTime bounds the start of a worker.
	launchTime = 20 * time.Second
	// respite is how long after a start the next spare is started: the first requests shall have the processor.
	respite = 100 * time.Millisecond
	// idleTime is the default of Executor.idleTime.
	idleTime = time.Minute
	// deathNotice is how long a worker may take to end when its connection has: the kernel closes it a moment before.
	deathNotice = 500 * time.Millisecond
	// mourning is how long the news of a worker's end may take once its connection has ended.
	mourning = 10 * time.Second
	// workerPids is how many threads it may have beside two for each core: those that wait in system calls.
	workerPids = 128
)

// seat is a place for a worker: first that is being started, then it is there.
type seat struct {
	cancel context.CancelCauseFunc // ends the worker
	ready  chan struct{}           // closed when worker or err is set
	worker *worker
	err    error

	// The executor's lock guards what follows.
	namespace string // "" for the spare
	programs  int    // those that are or will be loaded
	numbered  uint32 // the last of them
	bytes     int64  // their size
	idle      *time.Timer
}

// errLost is the cause of a worker's end that nobody wanted.
var errLost = errors.New("the connection to it has ended")

func (s *seat) wait(ctx context.Context) (*worker, error) {
	select {
	case <-s.ready:
		return s.worker, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// lost tells whether the worker has ended, or will.
func (s *seat) lost() bool {
	select {
	case <-s.ready:
	default:
		return false
	}
	if s.err != nil {
		return true
	}
	select {
	case <-s.worker.conn.Done():
		return true
	default:
		return false
	}
}

// worker is a process that runs the programs of one namespace.
type worker struct {
	conn *wire.Conn
	slow string        // why it makes a new guest for every request, "" if it does not
	gone chan struct{} // closed when nothing is left of it
	exit lambent.Exit  // set before gone is closed
	err  error         // why there is no exit to tell of; set before gone is closed
	said said          // it is ours, and silent but for its end
}

// enter gives the seat of a namespace's worker with a number for one more program in it, which counts until leave.
func (e *Executor) enter(namespace string) (*seat, uint32, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, 0, errStopping()
	}
	s := e.workers[namespace]
	if s == nil || s.lost() {
		s = e.makeSpare()
		e.spare, s.namespace = nil, namespace
		e.workers[namespace] = s
	}
	if s.idle != nil {
		s.idle.Stop()
	}
	s.programs++
	s.numbered++
	return s, s.numbered, nil
}

// leave ends what enter began for a program of that size, 0 for one that was never loaded.
func (e *Executor) leave(s *seat, size int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.bytes -= size
	if s.programs--; s.programs == 0 && !e.closed {
		s.idle = time.AfterFunc(e.idleTime, func() { e.dismiss(s) })
	}
}

// dismiss ends a worker that has still no programs.
func (e *Executor) dismiss(s *seat) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.programs == 0 && e.workers[s.namespace] == s {
		delete(e.workers, s.namespace)
		s.cancel(nil)
	}
}

// makeSpare gives the worker for whoever needs one next. The lock is held.
func (e *Executor) makeSpare() *seat {
	if e.spare != nil && !e.spare.lost() {
		return e.spare
	}
	ctx, cancel := context.WithCancelCause(e.open)
	s := &seat{cancel: cancel, ready: make(chan struct{})}
	e.spare = s
	e.tasks.Go(func() { e.employ(ctx, s) })
	return s
}

// replace has a spare ready again.
func (e *Executor) replace() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.makeSpare()
	}
}

// employ starts the worker of a seat, and returns when nothing is left of it.
func (e *Executor) employ(ctx context.Context, s *seat) {
	defer s.cancel(nil)
	w, err := e.launch(ctx, s.cancel)
	s.worker, s.err = w, err
	close(s.ready)
	if err == nil {
		<-w.gone
	}
	e.mu.Lock()
	if e.spare == s {
		e.spare = nil
	}
	if e.workers[s.namespace] == s {
		delete(e.workers, s.namespace)
	}
	var orphans []*instance
	for in := range e.instances {
		if in.seat == s {
			orphans = append(orphans, in)
		}
	}
	e.mu.Unlock()
	lost := ctx.Err() == nil || errors.Is(context.Cause(ctx), errLost)
	for _, in := range orphans {
		exit := w.exit
		if lost && exit == (lambent.Exit{}) {
			exit.Err = w.how()
		}
		in.end(exit)
	}
	switch {
	case err != nil && e.open.Err() == nil:
		e.log.Error("a worker of the wasm tier could not be started", "err", err)
	case lost:
		e.log.Error("a worker of the wasm tier has ended", "namespace", s.namespace, "programs", len(orphans), "how", w.how(), "words", w.said.text())
	}
}

// launch starts a worker, and returns when it has said hello. It lives until ctx ends.
func (e *Executor) launch(ctx context.Context, end context.CancelCauseFunc) (*worker, error) {
	if e.away != nil {
		return nil, e.away
	}
	page, shared, err := wire.NewPage()
	if err != nil {
		return nil, err
	}
	defer shared.Close()
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	if err := handPage(ours, shared); err != nil {
		return nil, errors.Join(err, ours.Close(), theirs.Close())
	}
	conn, err := wire.New(ours, page)
	if err != nil {
		return nil, errors.Join(err, theirs.Close())
	}
	w := &worker{conn: conn, gone: make(chan struct{})}
	go func() {
		defer close(w.gone)
		w.exit, w.err = e.sandbox.Run(ctx, executor.Job{
			ID: lambent.NewID(), Argv: []string{workerName}, Program: e.program, Dir: e.void, Socket: theirs,
			Memory: e.memory, CPU: 1000 * runtime.NumCPU(), Pids: workerPids + 2*runtime.NumCPU(), Log: w.said.add,
		})
		conn.Close()
	}()
	go func() { // a worker that has lost its connection is of no use; mostly it has ended, and that is what to tell
		<-conn.Done()
		select {
		case <-w.gone:
		case <-time.After(deathNotice):
		}
		end(errLost)
	}()
	greeted, cancel := context.WithTimeout(ctx, launchTime)
	defer cancel()
	hello, err := conn.Hello(greeted)
	if err != nil {
		end(nil)
		<-w.gone
		if told := (*lambent.Error)(nil); errors.As(w.err, &told) {
			return nil, told
		}
		return nil, fmt.Errorf("it has not said that it is ready: %w; it %s: %s", err, w.how(), w.said.text())
	}
	w.slow = hello.Slow
	return w, nil
}

func socketpair() (ours *net.UnixConn, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(pair[1]), "socket of a worker")
	f := os.NewFile(uintptr(pair[0]), "socket to a worker")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// ended waits for the end of a worker whose connection has ended, and tells whether it has come. Until then it may go on.
func (w *worker) ended() bool {
	select {
	case <-w.gone:
		return true
	case <-time.After(mourning):
		return false
	}
}

// how tells how a worker has ended that is gone.
func (w *worker) how() string {
	var broke *wire.ProtocolError
	switch {
	case errors.As(w.conn.Err(), &broke):
		return "was ended: " + broke.Error()
	case w.err != nil && !errors.Is(w.err, context.Canceled):
		return w.err.Error()
	}
	return w.exit.String()
}
