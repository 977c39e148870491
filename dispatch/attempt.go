package dispatch

import (
	"context"
	"errors"
	"io"
	"sync"

	"lambent"
	"lambent/executor"
)

const (
	// maxUnsent bounds how often an invocation is dispatched again that no function has got.
	maxUnsent = 10
	// maxAttempts bounds how many instances may die with an idempotent invocation. One that died for its memory
	// would likely do so again, and gets maxHungry.
	maxAttempts = 3
	maxHungry   = 2
	// maxReplay is how many bytes of a request's body are kept for another attempt.
	maxReplay = 1 << 20
)

// attempts decides which failed hand-overs of one invocation are made again, with its body as it was.
type attempts struct {
	inv    *lambent.Invocation
	unsent int
	died   int
	body   *recorder // nil unless the function may get the same body twice
}

func newAttempts(inv *lambent.Invocation) attempts {
	a := attempts{inv: inv}
	if inv.Body != nil && inv.ContentLength != 0 && isIdempotent(inv) {
		a.body = newRecorder(inv.Body)
		inv.Body = a.body.replay()
	}
	return a
}

// isIdempotent tells whether the function may get inv twice. The field is that of
// draft-ietf-httpapi-idempotency-key-header.
func isIdempotent(inv *lambent.Invocation) bool {
	switch inv.Revision.Settings.Idempotent {
	case lambent.IdempotentAlways:
		return true
	case lambent.IdempotentKey:
		return inv.Header.Get("Idempotency-Key") != ""
	}
	return false
}

// failed is how many there were.
func (a *attempts) failed() int { return a.unsent + a.died }

// again tells whether the invocation is to be dispatched once more after err, and makes it ready for that. ended says that
// the instance is no more: where only a request's own sandbox met its limit, another would, too.
func (a *attempts) again(ctx context.Context, err error, ended bool) bool {
	if ctx.Err() != nil {
		return false
	}
	if errors.Is(err, executor.ErrNotSent) {
		a.unsent++
		return a.unsent < maxUnsent
	}
	limit := maxAttempts
	switch lambent.ErrorOf(err).Code {
	case lambent.CodeInstanceExited, lambent.CodeInstanceStopped:
	case lambent.CodeMemoryExceeded:
		if limit = maxHungry; !ended {
			return false
		}
	default:
		return false
	}
	if a.died++; a.died >= limit || !isIdempotent(a.inv) {
		return false
	}
	if a.body != nil {
		a.inv.Body.Close()
		next := a.body.replay()
		if next == nil {
			return false
		}
		a.inv.Body = next
	}
	a.inv.Attempt = max(a.inv.Attempt, 1) + 1
	return true
}

// settled says that there will be no other attempt. After a failure nobody reads the body any more when it returns.
func (a *attempts) settled(failed bool) {
	if a.body == nil {
		return
	}
	a.body.settle()
	if failed {
		a.inv.Body.Close()
	}
}

// recorder keeps what is read of a body, to give it again from its beginning. It reads in a goroutine of its own, so
// that a reader that is closed leaves without the end of src, and the next goes on with what comes.
type recorder struct {
	src   io.ReadCloser
	block []byte

	mu      sync.Mutex // guards what is below
	changed sync.Cond
	kept    []byte // what was read, from the beginning
	err     error  // what src gave
	filling bool   // a Read of src is under way
	settled bool   // there will be no other reader, so nothing more is kept
}

func newRecorder(src io.ReadCloser) *recorder {
	r := &recorder{src: src}
	r.changed.L = &r.mu
	return r
}

// replay gives a reader from the beginning; nil when not all of that is kept any more. There is one at a time.
func (r *recorder) replay() io.ReadCloser {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.settled {
		return nil
	}
	return &replay{recorder: r}
}

func (r *recorder) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled = true
}

// fill reads one block.
func (r *recorder) fill() {
	if r.block == nil {
		r.block = make([]byte, 32<<10)
	}
	n, err := r.src.Read(r.block)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = append(r.kept, r.block[:n]...)
	r.err = err
	r.settled = r.settled || len(r.kept) > maxReplay
	r.filling = false
	r.changed.Broadcast()
}

// replay is one reading of a recorder's body.
type replay struct {
	*recorder
	at     int
	closed bool
}

// Read implements io.Reader.
func (c *replay) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, io.ErrClosedPipe
		case c.at < len(c.kept):
			n := copy(p, c.kept[c.at:])
			c.at += n
			return n, nil
		case c.err != nil:
			return 0, c.err
		case c.filling:
		case c.settled:
			c.kept, c.at = nil, 0
			c.mu.Unlock()
			n, err := c.src.Read(p)
			c.mu.Lock()
			c.err = err
			return n, err
		default:
			c.filling = true
			go c.fill()
		}
		c.changed.Wait()
	}
}

// Close ends a Read that waits; once the invocation is settled, that of src too.
func (c *replay) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.changed.Broadcast()
	if !c.settled {
		return nil
	}
	c.mu.Unlock()
	err := c.src.Close()
	c.mu.Lock()
	for c.filling {
		c.changed.Wait()
	}
	return err
}
