package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/internal/sandbox"
)

var (
	_ executor.Adopted = (*instance)(nil)
	_ executor.Leaver  = (*instance)(nil)
)

// busyTime is how long an instance that is to be adopted may take to say that it is ready. One that serves a request at a
// time does not before it has finished that of a caller who is gone.
const busyTime = 2 * time.Second

// Left implements executor.Adopter. Instances that were not ready yet, jobs, and those of which the state is damaged
// are not among them; Sweep ends those.
func (e *Executor) Left() ([]executor.Left, error) {
	if e.away != nil {
		return nil, nil
	}
	ids, err := e.leftovers()
	if err != nil {
		return nil, err
	}
	var left []executor.Left
	for _, id := range ids {
		s, err := e.load(id)
		if err != nil {
			continue
		}
		if p, err := e.find(id, s); err == nil {
			p.close()
			left = append(left, executor.Left{ID: id, Revision: s.Revision, Same: s.same})
		}
	}
	return left, nil
}

// Adopt implements executor.Adopter. Where a program has ended while no process answered for it, Adopt takes
// down its last words, clears it away and gives instance_exited.
func (e *Executor) Adopt(ctx context.Context, spec executor.Spec, inFlight []string) (executor.Adopted, error) {
	if e.away != nil {
		return nil, e.away
	}
	if !e.admit() {
		return nil, lambent.Errorf(lambent.CodeShuttingDown, "this node is stopping")
	}
	defer e.starts.Done()
	if spec.Revision.Settings.Reuse == lambent.ReuseNever && len(inFlight) == 0 {
		return nil, lambent.Errorf(lambent.CodeConflict, "instance %s cannot be adopted: it may have been used, and is for one use", spec.ID)
	}
	if !e.claim(spec.ID) {
		return nil, lambent.Errorf(lambent.CodeConflict, "instance %s cannot be adopted: this process answers for it", spec.ID)
	}
	in, err := e.adopt(ctx, spec, inFlight)
	if err != nil {
		e.forget(spec.ID, nil)
		if lambent.ErrorOf(err).Code == lambent.CodeInternal { // one without a code
			err = lambent.Errorf(lambent.CodeConflict, "instance %s cannot be adopted: %w", spec.ID, err)
		}
		return nil, err
	}
	return in, nil
}

func (e *Executor) adopt(ctx context.Context, spec executor.Spec, inFlight []string) (*instance, error) {
	s, err := e.load(spec.ID)
	if err != nil {
		return nil, err
	}
	if s.Revision.Key() != spec.Revision.Key() || !s.same(spec.Secrets) {
		return nil, errors.New("it is another revision's, or has other secrets")
	}
	in := &instance{
		id: spec.ID, exec: e, revision: spec.Revision, user: e.userOf(spec.ID), phases: s.Phases,
		log: newLogger(spec), begun: make(chan sandbox.Report, 1), kept: make(chan error, 1),
		backlog: &backlog{nonce: s.Nonce}, done: make(chan struct{}), gone: make(chan struct{}),
	}
	process, err := e.find(spec.ID, s)
	if err != nil {
		return nil, err
	}
	in.process, in.pid = process, s.PID
	in.group = e.limited(spec.ID, limitsOf(&spec.Revision.Settings), process, s.PID)
	p := program{port: e.portOf(&spec.Revision.Settings), heapFull: heapFull(spec.Revision.Settings.Runtime)}
	in.log.fatal, in.log.inFlight = p.heapFull, slices.Clone(inFlight)
	in.connectGuest(spec, p.port)
	in.guest.Resume(s.OnPort)
	var readers sync.WaitGroup
	if err := in.takeOver(ctx, p, &readers); err != nil {
		in.drop(&readers)
		process.close()
		return nil, err
	}
	if len(inFlight) == 0 {
		err = in.answers(ctx)
	}
	e.hold()
	if isClosed(in.done, 0) { // it may have been before we came
		in.bury(&readers)
		return nil, lambent.Errorf(lambent.CodeInstanceExited, "the function's process %s", in.exit)
	}
	if err != nil {
		in.drop(&readers)
		process.close()
		return nil, errors.Join(err, e.letGo())
	}
	go in.bury(&readers)
	if !e.add(in) {
		in.Stop(0)
		return nil, lambent.Errorf(lambent.CodeShuttingDown, "this node is stopping")
	}
	return in, nil
}

// takeOver connects to lambent-init and begins to read what the function writes.
func (in *instance) takeOver(ctx context.Context, p program, readers *sync.WaitGroup) error {
	if err := in.makeGate(p); err != nil {
		return err
	}
	control, err := new(net.Dialer).DialContext(ctx, "unix", in.exec.path(in.id, fileControl))
	if err != nil {
		return err
	}
	in.control = control.(*net.UnixConn)
	if w, ok := in.group.(*watched); ok {
		w.onKill(func() { in.orderEnd(sandbox.Order{Stop: true, OutOfMemory: true}) })
	}
	readers.Go(in.listen)
	if err := json.NewEncoder(in.control).Encode(sandbox.Order{Adopt: true}); err != nil {
		return err
	}
	if err := in.awaitKept(ctx); err != nil {
		return err
	}
	in.log.start(readers)
	return nil
}

// receive takes what lambent-init has kept.
func (in *instance) receive(files []*os.File) {
	if len(files) != 3 || in.kept == nil || in.backlog.socket != nil {
		closeAll(files)
		in.keep(errors.New("its lambent-init has not kept what it needs"))
		return
	}
	in.backlog.socket = files[0]
	var errs []error
	for i, stream := range []string{"stdout", "stderr"} {
		if err := in.log.add(stream, files[i+1]); err != nil {
			errs = append(errs, err, files[i+1].Close())
		}
	}
	in.keep(errors.Join(errs...))
}

// keep says how receive went, the first time.
func (in *instance) keep(err error) {
	select {
	case in.kept <- err:
	default:
	}
}

// awaitKept waits for receive.
func (in *instance) awaitKept(ctx context.Context) error {
	for {
		select {
		case err := <-in.kept:
			return err
		case _, more := <-in.begun:
			if more {
				continue
			}
			in.keep(errors.New("its lambent-init has ended")) // unless that was its last word
			return <-in.kept
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// answers waits until the instance says that it is ready, or has ended.
func (in *instance) answers(ctx context.Context) error {
	ctx, bound := context.WithTimeout(ctx, busyTime)
	defer bound()
	ctx, cancel := in.whileAlive(ctx)
	defer cancel()
	if err := in.guest.Ask(ctx); err != nil {
		return fmt.Errorf("it does not say that it is ready: %w", err)
	}
	return nil
}

// drop undoes an adoption.
func (in *instance) drop(readers *sync.WaitGroup) {
	in.left.Store(true)
	in.guest.Close()
	if in.gate != nil {
		in.gate.Close()
	}
	if in.control != nil {
		in.control.Close()
		for range in.begun { // until nothing comes any more
		}
	}
	in.log.stop()
	readers.Wait()
	in.backlog.close()
	if w, ok := in.group.(*watched); ok {
		_ = w.Remove() // cannot fail
	}
}

// Leave implements executor.Leaver. What happens to the instance is still listened to, for the requests that are under
// way. Idle connections end, as a server of one connection at a time would never accept another's.
func (in *instance) Leave() {
	if in.left.Swap(true) {
		return
	}
	// First, so that lambent-init keeps what is written after we have stopped to read.
	_ = json.NewEncoder(in.control).Encode(sandbox.Order{Leave: true}) // fails when lambent-init has ended
	in.log.stop()
	in.guest.Close()
	if in.gate != nil {
		in.gate.Leave()
	}
	if w, ok := in.group.(*watched); ok {
		_ = w.Remove() // cannot fail
	}
	in.exec.forget(in.id, in)
}

// Ended implements executor.Adopted.
func (in *instance) Ended(invocation string) { in.log.ended(invocation) }
