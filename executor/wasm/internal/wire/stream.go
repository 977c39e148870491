package wire

import (
	"strings"
	"sync"
	"time"
)

// logStreams are the streams of logs, by their numbers in frames. What the platform says is of the last.
var logStreams = [...]string{"stdout", "stderr", "lambent"}

// printable makes text of what a worker sent.
func printable(b []byte, limit int) string {
	return strings.ToValidUTF8(string(b[:min(len(b), limit)]), "\uFFFD")
}

// stream is the daemon's side of one request. There is one for each slot, which serves one request after another: who
// wakes it late wakes the next, which does no harm.
type stream struct {
	conn  *Conn
	wake  chan struct{} // holds one
	timer *time.Timer
	buf   []byte // what is sent first

	mu      sync.Mutex
	id      uint32 // of the request; changes with every one
	open    bool   // the worker has not ended it
	closing bool   // nobody wants more of it
	left    bool   // nobody waits for its end
	request *Request
	headed  bool   // head is here
	head    []byte // of the response
	body    ring   // of the response, as far as it was not read
	result  []byte
	window  int     // bytes of the response that may be under way, or not read yet
	logged  int     // bytes of its log
	credit  int     // bytes that the worker may send
	owed    int     // bytes that were read, and no credit was given for
	sender  *sender // of the request's body; nil until the guest asks for it
}

func newStream(c *Conn, slot uint32) *stream {
	s := &stream{conn: c, id: slot, wake: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	s.timer.Stop()
	return s
}

// begin makes s the stream of a new request, and gives its number.
func (s *stream) begin(r *Request) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id += MaxStreams
	s.open, s.closing, s.left, s.headed = true, false, false, false
	s.result = s.result[:0]
	s.request, s.sender = r, nil
	s.window, s.credit, s.owed, s.logged = firstWindow, firstWindow, 0, 0
	return s.id
}

// end gives up what the request had and s for the next. The caller holds mu.
func (s *stream) end() {
	s.timer.Stop()
	if s.window == Window {
		s.conn.narrow()
	}
	s.open, s.request, s.sender = false, nil, nil
	s.body.release()
	s.buf, s.head, s.result = keep(s.buf), keep(s.head), keep(s.result)
	s.conn.release(s)
}

// keep gives a buffer for the next use, unless it has become large.
func keep(b []byte) []byte {
	if cap(b) > 2*smallBody {
		return nil
	}
	return b[:0]
}

func (s *stream) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take takes an out frame. The caller holds mu.
func (s *stream) take(f *frame) error {
	if f.flags&flagHead != 0 {
		head, err := f.section(MaxHead)
		if err != nil {
			return err
		}
		if s.headed {
			return violation("a second head")
		}
		s.headed, s.head = true, append(s.head[:0], head...)
	}
	ended := f.flags&flagEnd != 0
	if ended {
		result, err := f.trailer(maxResult)
		if err != nil {
			return err
		}
		s.result = append(s.result[:0], result...)
	}
	if n := len(f.payload); n > 0 {
		if !s.headed || n > s.credit {
			return violation("%d bytes of a body, against a credit of %d", n, s.credit)
		}
		s.credit -= n
		if !s.closing {
			s.body.write(f.payload)
		}
	}
	if ended {
		s.open = false
		s.stopBody()
		if s.left {
			s.end()
		}
	}
	s.notify()
	return nil
}

// consumed counts n bytes as read, and tells how much credit to give for what has been. The caller holds mu.
func (s *stream) consumed(n int) (credit int) {
	if s.owed += n; s.owed < s.window/4 || !s.open {
		return 0
	}
	if s.window < Window && s.conn.widen() { // somebody reads
		s.owed, s.window = s.owed+Window-s.window, Window
	}
	credit, s.owed = s.owed, 0
	s.credit += credit
	return credit
}

// credited takes a credit for the request's body. The caller holds mu.
func (s *stream) credited(n uint32) error {
	if !s.request.streams {
		return violation("a credit for a body that it has")
	}
	if s.closing {
		return nil
	}
	if s.sender == nil {
		s.sender = &sender{stream: s, id: s.id, request: s.request, more: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
		go s.sender.run()
	}
	return s.sender.credited(n)
}

// overdue ends a worker that still goes on with a request that was given up long ago: what interrupts guests fails there.
func (s *stream) overdue(id uint32) {
	s.mu.Lock()
	running := s.open && s.id == id
	s.mu.Unlock()
	if running {
		s.conn.fail(violation("it has gone on for %v with a request that was given up", s.conn.w.patience))
	}
}

// stopBody has the sender of the body stop, if there is one. The caller holds mu.
func (s *stream) stopBody() {
	if s.sender != nil && !s.sender.stopped {
		s.sender.stopped = true
		close(s.sender.stop)
	}
}
