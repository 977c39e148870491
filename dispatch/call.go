package dispatch

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"lambent"
	"lambent/executor"
)

// hand gives inv to the leased instance. The lease ends with the response's body, or here on error.
func (d *Dispatcher) hand(ctx context.Context, l *lease, inv *lambent.Invocation, deadline time.Time) (*lambent.Response, error) {
	handed := time.Now()
	resp, err := l.inst.Handle(ctx, inv, deadline)
	head := time.Now()
	if !errors.Is(err, executor.ErrNotSent) { // else it was only a part of its wait
		inv.Outcome.Phases[lambent.PhaseHandler] += head.Sub(handed)
	}
	if err != nil {
		l.release(l.judge(err))
		return nil, err
	}
	inv.Outcome.Status = resp.Status
	resp.Drain = l.drain
	if up, ok := resp.Body.(lambent.UpgradedBody); ok {
		resp.Body = &upgradedBody{body{inner: up, lease: l, inv: inv, head: head}, up}
	} else {
		resp.Body = &body{inner: resp.Body, lease: l, inv: inv, head: head}
	}
	return resp, nil
}

// judge says what becomes of the instance after err. Where it is done with the request for certain, it goes on: a
// sandbox of that request's own has ended, or none was begun.
func (l *lease) judge(err error) verdict {
	code := lambent.ErrorOf(err).Code
	switch {
	case code == lambent.CodeInstanceExited, code == lambent.CodeInstanceStopped, code == lambent.CodeMemoryExceeded && l.inst.hasEnded():
		return dead
	case !errors.Is(err, executor.ErrBusy):
		return idle
	case l.inst.pool.slots() == 1:
		return kill
	case code == lambent.CodeFirstByteTimeout, code == lambent.CodeIdleTimeout, code == lambent.CodeTotalTimeout:
		return drain
	}
	return idle
}

// isDeath tells whether an error of code says that the instance has ended.
func isDeath(code lambent.Code) bool {
	return code == lambent.CodeInstanceExited || code == lambent.CodeMemoryExceeded || code == lambent.CodeInstanceStopped
}

// body ends the lease and completes the outcome when the response has been read or given up. Close may be called
// while another goroutine reads.
type body struct {
	inner io.ReadCloser
	lease *lease
	inv   *lambent.Invocation
	head  time.Time

	mu   sync.Mutex // guards what follows, and the outcome's error
	eof  bool
	done bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.inner.Read(p)
	if err == nil {
		return n, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == io.EOF:
		b.eof = true
	case !b.done:
		// The instance is judged before the caller learns of the failure: no side effects after an answer.
		e := b.fail(err)
		_ = b.finish(false, err) // what it says has been judged too, and err came first
		return n, e
	}
	return n, err
}

func (b *body) fail(err error) error {
	if b.inv.Outcome.Err == nil {
		e := *lambent.ErrorOf(err)
		e.Invocation = b.inv.ID
		b.inv.Outcome.Err = &e
	}
	return b.inv.Outcome.Err
}

func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.finish(b.eof || b.inv.Outcome.Ended, nil)
}

// finish ends the exchange; whole says that the answer was delivered to its end. The instance is judged by what a read
// failed with, and by what the end itself shows. The lock is held.
func (b *body) finish(whole bool, failed error) error {
	if b.done {
		return nil
	}
	b.done = true
	err := b.inner.Close()
	v := idle
	if all := errors.Join(failed, err); all != nil {
		v = b.lease.judge(all)
	}
	if !whole && b.inv.Outcome.Err == nil {
		b.inv.Outcome.Err = &lambent.Error{Code: lambent.CodeClientClosed, Fault: lambent.FaultClient,
			Message: "the client left before the answer was complete", Invocation: b.inv.ID}
	}
	b.inv.Outcome.Phases[lambent.PhaseRespond] = time.Since(b.head)
	b.lease.release(v)
	return err
}

// upgradedBody is the body of a switched connection, whose end is its Close, whoever asked for it.
type upgradedBody struct {
	body
	up lambent.UpgradedBody
}

// Write notes that the instance has died, of which a reader that is closed because of it would not come to tell.
func (b *upgradedBody) Write(p []byte) (int, error) {
	n, err := b.up.Write(p)
	if err != nil && isDeath(lambent.ErrorOf(err).Code) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if !b.done {
			return n, b.fail(err)
		}
	}
	return n, err
}

func (b *upgradedBody) CloseWrite() error { return b.up.CloseWrite() }

func (b *upgradedBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.finish(true, nil)
}
