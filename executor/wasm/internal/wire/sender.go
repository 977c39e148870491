package wire

import (
	"io"
	"sync"
)

// sender sends the body of one request, from its own goroutine.
type sender struct {
	stream  *stream
	id      uint32
	request *Request
	more    chan struct{} // holds one: credit has come
	stop    chan struct{} // closed to end it
	done    chan struct{} // closed when it has ended

	// Guarded by the stream's mutex.
	stopped bool
	credit  int
	sent    int64
	err     error // why the body broke off
}

var parts = sync.Pool{New: func() any { return new([frameHead + maxData]byte) }}

func (x *sender) credited(n uint32) error {
	if uint64(x.credit)+uint64(n) > Window {
		return violation("a credit of %d bytes on top of %d", n, x.credit)
	}
	x.credit += int(n)
	select {
	case x.more <- struct{}{}:
	default:
	}
	return nil
}

// run sends what is read as it comes, so that streams flow.
func (x *sender) run() {
	defer close(x.done)
	part := parts.Get().(*[frameHead + maxData]byte)
	defer parts.Put(part)
	left := x.request.Length
	for empty := 0; ; {
		credit := x.await()
		if credit == 0 {
			return
		}
		space := part[frameHead:][:min(credit, maxData)]
		if left >= 0 {
			space = space[:min(int64(len(space)), left)]
		}
		n, err := x.request.Body.Read(space)
		if n == 0 && err == nil {
			if empty++; empty == 100 {
				x.fail(io.ErrNoProgress)
				return
			}
			continue
		}
		empty = 0
		if left >= 0 {
			left -= int64(n)
		}
		last := left == 0 || err == io.EOF
		switch {
		case err == io.EOF && left > 0:
			x.fail(io.ErrUnexpectedEOF)
			return
		case err != nil && !last:
			x.fail(err)
			return
		}
		if !x.spend(n) {
			return
		}
		f := begin(part[:0], kindIn, x.id)
		if last {
			f[3] |= flagEnd
		}
		x.stream.conn.w.send(end(f[:frameHead+n], 0))
		if last {
			return
		}
		x.stream.conn.w.await(x.stop, nil)
	}
}

// await waits for credit and gives it; 0 when it has to stop.
func (x *sender) await() int {
	for {
		x.stream.mu.Lock()
		credit, stopped := x.credit, x.stopped
		x.stream.mu.Unlock()
		switch {
		case stopped:
			return 0
		case credit > 0:
			return credit
		}
		select {
		case <-x.more:
		case <-x.stop:
		}
	}
}

// spend takes n of the credit, unless it has to stop.
func (x *sender) spend(n int) bool {
	x.stream.mu.Lock()
	defer x.stream.mu.Unlock()
	x.credit -= n
	x.sent += int64(n)
	return !x.stopped
}

// fail says why the body broke off to who waits for the response.
func (x *sender) fail(err error) {
	x.stream.mu.Lock()
	defer x.stream.mu.Unlock()
	if !x.stopped {
		x.err = err
		x.stream.notify()
	}
}

// BodyError is why a request's body could not be read to its end.
type BodyError struct{ Err error }

// Error says so.
func (e *BodyError) Error() string { return "the request's body broke off: " + e.Err.Error() }

// Unwrap gives the body's own error.
func (e *BodyError) Unwrap() error { return e.Err }
