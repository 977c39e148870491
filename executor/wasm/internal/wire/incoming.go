package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

// Incoming is a request as the worker has it, and the way of its answer. It is a context too: that of the request, which
// ends when the daemon has given it up. It is used by the goroutine that serves it, and no longer than that does.
type Incoming struct {
	Head

	server *server
	ended  atomic.Bool   // the daemon has given it up, or it is done
	wake   chan struct{} // holds one: news for who reads or writes
	memory *memory       // given back when it was served

	mu        sync.Mutex
	id        uint32
	done      bool          // the result was sent
	over      chan struct{} // made when asked for; closed when ended
	in        ring          // of the request's body
	complete  bool          // all of it is here
	allowance int           // bytes of it that may come
	owed      int           // bytes of it that were read, and no credit was given for
	responded bool
	bodyless  bool
	left      int64  // bytes of the response's body that are still to come; -1 when unknown
	credit    int    // bytes of it that may be sent
	out       []byte // the frame that is being made; empty or more than its head
	body      int    // bytes of a body in out
}

// memory is what one request after another uses. The Incoming is not: as a context, somebody may still look at it.
type memory struct {
	raw    []byte // the head as it came
	out    []byte
	header []Field
}

var memories = sync.Pool{New: func() any { return new(memory) }}

var _ context.Context = (*Incoming)(nil)

// What ends a Read or Write: the daemon has given the request up, or its time is up.
var (
	errGone = fmt.Errorf("the request was given up: %w", context.Canceled)
	errLate = fmt.Errorf("the request's time is up: %w", context.DeadlineExceeded)
)

func newIncoming(v *server, id uint32, head, body []byte, complete bool) *Incoming {
	m := memories.Get().(*memory)
	m.raw = append(m.raw[:0], head...)
	s := &Incoming{server: v, id: id, wake: make(chan struct{}, 1), memory: m, complete: complete, credit: firstWindow, out: m.out[:0]}
	s.Header = m.header
	if len(body) > 0 {
		s.in.write(body)
	}
	return s
}

// serve has the handler serve the request.
func (s *Incoming) serve() {
	if err := s.decode(s.memory.raw); err != nil {
		s.End(Usage{}, lambent.Errorf(lambent.CodeInternal, "%w", err))
	} else {
		s.run()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.release()
	s.memory.raw, s.memory.out, s.memory.header = keep(s.memory.raw), keep(s.out), s.Header
	clear(s.Header)
	memories.Put(s.memory)
	s.memory, s.out, s.Header = nil, nil, nil
}

func (s *Incoming) run() {
	defer func() {
		if what := recover(); what != nil {
			fmt.Fprintf(os.Stderr, "panic in a request for program %d: %v\n%s", s.Program, what, debug.Stack())
			s.End(Usage{}, lambent.Errorf(lambent.CodeInternal, "the worker failed at the request: %v", what))
		}
	}()
	s.server.handler.Serve(s)
	s.End(Usage{}, lambent.Errorf(lambent.CodeInternal, "the worker left the request without an answer"))
}

// Start says that the guest begins: from now on the request cannot be given to another worker.
func (s *Incoming) Start() { s.server.page.start(s.id) }

// cancelled is called when the daemon has given the request up. The caller holds mu.
func (s *Incoming) cancelled() {
	if !s.ended.Swap(true) && s.over != nil {
		close(s.over)
	}
	s.notify()
}

func (s *Incoming) cancel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancelled()
}

func (s *Incoming) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Deadline implements context.Context: as one it has none, Until is for who serves it to keep.
func (s *Incoming) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (s *Incoming) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		s.over = make(chan struct{})
		if s.ended.Load() {
			close(s.over)
		}
	}
	return s.over
}

// Err implements context.Context. It costs one load.
func (s *Incoming) Err() error {
	if s.ended.Load() {
		return context.Canceled
	}
	return nil
}

// Value implements context.Context.
func (s *Incoming) Value(any) any { return nil }

// take takes a part of the request's body. The caller holds mu.
func (s *Incoming) take(f frame) error {
	n := len(f.payload)
	if s.complete || n > s.allowance {
		return violation("%d bytes of a request's body, against a credit of %d", n, s.allowance)
	}
	s.allowance -= n
	if n > 0 {
		s.in.write(f.payload)
	}
	s.complete = f.flags&flagEnd != 0
	s.notify()
	return nil
}

// credited takes a credit for the response's body. The caller holds mu.
func (s *Incoming) credited(n uint32) error {
	if uint64(s.credit)+uint64(n) > Window {
		return violation("a credit of %d bytes on top of %d", n, s.credit)
	}
	s.credit += int(n)
	s.notify()
	return nil
}

// Buffered is how much of the body can be read without a wait.
func (s *Incoming) Buffered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.size
}

// Read reads the request's body.
func (s *Incoming) Read(p []byte) (int, error) {
	for flushed := false; ; flushed = true {
		s.mu.Lock()
		n, complete := s.in.read(p), s.complete
		credit := 0
		if s.owed += n; !complete && (s.owed >= Window/4 || s.allowance == 0 && s.in.size == 0) {
			credit = Window - s.allowance - s.in.size
			s.allowance, s.owed = s.allowance+credit, 0
		}
		s.mu.Unlock()
		if credit > 0 {
			var b [16]byte
			s.server.w.send(appendNumber(b[:0], kindCredit, s.id, uint32(credit)))
		}
		switch {
		case s.ended.Load():
			return 0, errGone
		case n > 0 || len(p) == 0:
			return n, nil
		case complete:
			return 0, io.EOF
		}
		if !flushed {
			s.Flush() // who talks with the function may wait for what it has said
		}
		if err := s.wait(); err != nil {
			return 0, err
		}
	}
}

// wait waits for news, until the request's time is up.
func (s *Incoming) wait() error {
	var over <-chan time.Time
	if !s.Until.IsZero() {
		timer := time.NewTimer(time.Until(s.Until))
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-s.wake:
		return nil
	case <-over:
		return errLate
	}
}

// Respond gives the head of the answer, once. The length is that of the body, -1 when unknown. It is held back, to go out
// with the body, until Flush or End.
func (s *Incoming) Respond(status int, header []Field, length int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended.Load():
		return errGone
	case s.responded:
		return errors.New("a second head of an answer")
	case status < 200 || status > 999:
		return fmt.Errorf("%d is no status of an answer", status)
	}
	for _, f := range header {
		if !isField(f.Name, f.Value) {
			return &HeadError{fmt.Sprintf("%.64q: %.64q is no field of a head", f.Name, f.Value)}
		}
	}
	b := begin(s.out[:0], kindOut, s.id)
	b[3] |= flagHead
	b, err := appendResponse(beginSection(b), status, header, length)
	if err != nil {
		s.out = b[:0]
		return err
	}
	s.out = endSection(b, frameHead)
	s.responded, s.left, s.bodyless = true, length, isBodyless(s.Method, status)
	return nil
}

// Write writes a part of the answer's body. Up to 32 KiB of it are held back until Flush or End. It waits while too much is
// on its way.
func (s *Incoming) Write(p []byte) (int, error) {
	written := 0
	for {
		n, err := s.write(p[written:])
		written += n
		if err == nil && written < len(p) {
			err = s.wait()
		}
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// write writes what there is credit for.
func (s *Incoming) write(p []byte) (written int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.responded:
		return 0, errors.New("the body of an answer before its head")
	case s.bodyless:
		return len(p), nil
	case s.left >= 0 && int64(len(p)) > s.left:
		return 0, fmt.Errorf("%d bytes of an answer's body, of which %d are left to come", len(p), s.left)
	}
	for len(p) > 0 {
		if s.ended.Load() {
			return written, errGone
		}
		if len(s.out) == 0 {
			s.out = begin(s.out, kindOut, s.id)
		}
		n := min(len(p), maxData-s.body, s.credit)
		s.out = append(s.out, p[:n]...)
		s.body, s.credit, written, p = s.body+n, s.credit-n, written+n, p[n:]
		if s.left >= 0 {
			s.left -= int64(n)
		}
		if s.body == maxData || s.credit == 0 {
			s.flush()
		}
		if s.credit == 0 {
			return written, nil
		}
	}
	return written, nil
}

// Flush sends what is held back.
func (s *Incoming) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush()
}

func (s *Incoming) flush() {
	if len(s.out) > frameHead && !s.done {
		s.server.w.send(end(s.out, 0))
	}
	s.out, s.body = s.out[:0], 0
}

// Crowded tells that the daemon has so much to read that who has more to log has to [Incoming.Wait] first.
func (s *Incoming) Crowded() bool { return s.server.w.crowded() }

// Wait waits until the daemon has read some of what it has to.
func (s *Incoming) Wait() { s.server.w.await(nil, nil) }

// Log gives a line of "stdout", "stderr" or "lambent", which is cut at [MaxLine], and does not wait. It is there before the end
// of the answer, and a millisecond later at the latest.
func (s *Incoming) Log(stream string, line []byte) {
	number := byte(max(0, slices.Index(logStreams[:], stream)))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return
	}
	b := append(begin(make([]byte, 0, frameHead+1+min(len(line), MaxLine)), kindLog, s.id), number)
	s.server.w.add(end(append(b, line[:min(len(line), MaxLine)]...), 0))
	s.server.hold()
}

// End ends the request: with its answer, or with how it failed. An answer of which nothing has gone out is dropped for the
// failure. Only the first call counts.
func (s *Incoming) End(u Usage, failed *lambent.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return
	}
	switch {
	case failed != nil && !verdicts[failed.Code]:
		failed = lambent.Errorf(lambent.CodeInternal, "%w", failed)
	case failed != nil:
	case !s.responded:
		failed = lambent.Errorf(lambent.CodeBadResponse, "the function gave no answer")
	case s.left > 0 && !s.bodyless:
		failed = lambent.Errorf(lambent.CodeBadResponse, "the function's answer is %d bytes shorter than its head says", s.left)
	}
	if failed != nil || len(s.out) == 0 {
		s.out = begin(s.out[:0], kindOut, s.id)
	}
	s.out[3] |= flagEnd
	at := len(s.out)
	s.out = appendResult(s.out, u, failed)
	s.out = binary.LittleEndian.AppendUint32(s.out, uint32(len(s.out)-at))
	s.done = true
	s.server.slot[s.id%MaxStreams].Store(nil)
	s.server.w.send(end(s.out, 0))
	s.out = s.out[:0]
	s.cancelled()
}
