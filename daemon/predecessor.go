package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/internal/handover"
)

// predecessor is the process whose place this one takes.
type predecessor struct {
	inheritance
	conn    *handover.Conn
	late    map[string]*handover.Queue // connections for late requests, by listener
	gone    chan struct{}              // closed when it has ended
	settled chan struct{}              // closed when what it could give at once was adopted
	adopted map[string]chan struct{}   // by instance: closed when its adoption is over; the reader's
}

func newPredecessor(conn *handover.Conn) *predecessor {
	return &predecessor{
		conn: conn, late: map[string]*handover.Queue{lateFunctions: handover.NewQueue(), lateControl: handover.NewQueue()},
		gone: make(chan struct{}), settled: make(chan struct{}), adopted: map[string]chan struct{}{},
	}
}

// over tells whether it has ended.
func (p *predecessor) over() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// expect waits for a step of the old process. That has no bound of its own: the old process has one, and breaks the
// connection.
func (p *predecessor) expect(want step) (message, []*os.File, error) {
	var m message
	files, err := p.conn.Receive(&m)
	switch {
	case errors.Is(err, io.EOF):
		return m, nil, errors.New("the process before this one has given the upgrade up")
	case err == nil && m.Step != want:
		err = fmt.Errorf("the process before this one said %q instead of %q", m.Step, want)
	}
	return m, files, err
}

// takeOver opens a node in the place of the process before. Until it returns nil that goes on to serve, and this one
// accepts nothing.
func (n *node) takeOver(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { n.before.conn.Close() })()
	if err := n.inherit(ctx); err != nil {
		_ = n.before.conn.Send(message{Error: lambent.ErrorOf(err)}) // the other may have closed
		return err
	}
	// From here nobody else serves: when ctx has ended, this process does and drains.
	n.hearing.Go(n.hear)
	select {
	case <-n.before.settled:
	case <-time.After(settleTime):
	case <-ctx.Done():
	}
	return nil
}

// inherit takes the steps that giveUp takes on the other side.
func (n *node) inherit(ctx context.Context) error {
	p := n.before
	if err := p.conn.Send(message{Step: saysHello, Hello: &hello{protocol, n.cfg.Version, os.Getpid()}}); err != nil {
		return err
	}
	m, files, err := p.expect(saysInherit)
	if err != nil {
		return err
	}
	if m.Heir == nil || len(files) != 5 {
		return fmt.Errorf("the process before this one gives %d descriptors instead of 5", len(files))
	}
	p.inheritance = *m.Heir
	n.half, n.held = m.Heir.Half, files[0]
	if err := same(n.held, n.cfg.path("lock")); err != nil {
		return err
	}
	stderr := files[1]
	defer stderr.Close()
	if n.functions, err = n.listeners.inherit(files[2]); err != nil {
		return err
	}
	if n.manage, err = n.listeners.inherit(files[3]); err != nil {
		return err
	}
	local, err := net.FileListener(files[4])
	if err = errors.Join(err, files[4].Close()); err != nil {
		return err
	}
	n.local = local.(*net.UnixListener)
	if err := n.loadCertificates(); err != nil {
		return err
	}
	for _, s := range []struct {
		open func() error
		says step
		then step
	}{
		{n.openEngine, saysPrepared, saysFree},
		{func() error { return n.openStore(ctx) }, saysReady, saysGo},
		{n.openPublic, saysOpen, saysServe},
	} {
		if err := s.open(); err != nil {
			return err
		}
		if err := p.conn.Send(message{Step: s.says}); err != nil {
			return err
		}
		if _, _, err := p.expect(s.then); err != nil {
			return err
		}
	}
	// There is no way back now.
	if err := errors.Join(unix.Dup3(int(stderr.Fd()), int(os.Stderr.Fd()), 0), holds(n.held)); err != nil {
		n.log.Error("taking over the log or the lock of the process before", "err", err)
	}
	return nil
}

// same tells whether f is the file at path: whoever takes a node's place must not do so with another's data.
func same(f *os.File, path string) error {
	is, err := f.Stat()
	if err != nil {
		return err
	}
	at, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(is, at) {
		return lambent.Errorf(lambent.CodeConflict, "%s is not the lock of the process before this one", path).
			WithHint("both must have the same --data")
	}
	return nil
}

// settleTime bounds how long the adoption of the first instances keeps requests waiting.
const settleTime = 2 * time.Second

// hear does what the process before says until it ends, and then what is to be done about what it leaves.
func (n *node) hear() {
	defer close(n.cleared)
	p := n.before
	var doing sync.WaitGroup // adoptions, and what waits for them
	settle := sync.OnceFunc(func() { close(p.settled) })
	defer settle()
	for {
		var m message
		files, err := p.conn.Receive(&m)
		if errors.Is(err, handover.ErrLost) {
			n.log.Error("late requests cannot be taken", "err", err)
			continue // the other end of the connection notices
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				n.log.Error("the process before does not speak as it should", "err", err)
			}
			break
		}
		switch {
		case m.Late != "" && len(files) == 1 && p.late[m.Late] != nil:
			if err := p.late[m.Late].Put(files[0]); err != nil {
				n.log.Error("late requests cannot be taken", "err", err)
			}
			continue
		case m.Given != nil:
			done := make(chan struct{})
			p.adopted[m.Given.Instance] = done
			doing.Go(func() {
				defer close(done)
				n.adoptGiven(*m.Given)
			})
		case m.Ended != nil:
			if done := p.adopted[m.Ended.Instance]; done != nil {
				e := *m.Ended
				doing.Go(func() { // adoptions take their time
					<-done
					n.dispatch.Ended(e.Instance, e.Invocation, e.Broken)
				})
			}
		case m.Step == saysSettled:
			first := slices.Collect(maps.Values(p.adopted))
			go func() {
				for _, done := range first {
					<-done
				}
				settle()
			}()
		case m.Record != nil:
			n.past.record(m.Record)
			n.metrics.Add(m.Record)
		case m.Line != nil:
			n.past.line(*m.Line)
		case m.Event != nil:
			n.event(*m.Event)
		}
		for _, f := range files {
			f.Close()
		}
	}
	doing.Wait()
	p.conn.Close()
	close(p.gone)
	n.dispatch.EndedAll()
	if err := n.sweep(); err != nil {
		n.log.Error("what the process before has left cannot be cleared away", "err", err)
	}
}

// wait waits for wg, until ctx ends.
func wait(ctx context.Context, wg *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// adoptGiven answers for an instance from now on. One that cannot be adopted ends with the process before.
func (n *node) adoptGiven(g given) {
	ctx, cancel := context.WithTimeout(n.stopping, adoptTime)
	defer cancel()
	n.adopting.RLock()
	defer n.adopting.RUnlock()
	if err := n.adopt(ctx, g.Instance, g.Revision, g.InFlight); err != nil {
		n.log.Warn("an instance is not taken over", "instance", g.Instance, "err", err)
		n.notAdopted(g.Instance, g.Revision, err)
		return
	}
	n.abandon(g.Revision) // unless something refers to it, after what has changed since
}

// adoptTime bounds the adoption of one instance.
const adoptTime = 10 * time.Second
