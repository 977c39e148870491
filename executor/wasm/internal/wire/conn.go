package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

// Conn is the daemon's end of the connection to one worker. Its methods may be called from many goroutines.
type Conn struct {
	conn *net.UnixConn
	page *Page
	w    *writer
	slot [MaxStreams]atomic.Pointer[stream]
	// settle is how long a guest may take to notice that its caller has left, late how long after the deadline the worker
	// may still say how the request ended.
	settle, late time.Duration

	ready chan struct{} // closed when hello is there
	hello Hello
	dead  atomic.Bool   // nothing more will come
	wide  atomic.Int32  // responses that have a Window
	done  chan struct{} // closed when the reader has ended

	mu    sync.Mutex
	err   error     // why it is dead
	free  []*stream // the one used last is last
	made  int       // slots that have a stream
	loads map[uint32]chan error
}

// ErrFull means that [MaxStreams] requests are under way.
var ErrFull = errors.New("the worker has as many requests as its connection carries")

// LostError means that the connection to the worker has ended.
type LostError struct {
	Err  error
	page *Page  // nil when nothing of the request has gone out
	id   uint32 // of its stream
	knew bool   // it is known that the guest has begun with it
}

// Started tells whether a guest has got the request. Ask it when the worker is gone: one that still lives may begin with what
// it has not read yet, as the end of a connection does not take that away.
func (e *LostError) Started() bool { return e.knew || e.page != nil && e.page.started(e.id) }

// Error says what became of the request.
func (e *LostError) Error() string {
	if e.Started() {
		return "the worker was lost in the middle of the request: " + e.Err.Error()
	}
	return "the worker was lost before it began with the request: " + e.Err.Error()
}

// Unwrap gives why the connection ended.
func (e *LostError) Unwrap() error { return e.Err }

// LoadError is why the worker could not load a program, in its words. Damaged says that the program's files are to blame.
type LoadError struct {
	Damaged bool
	Text    string
}

// Error gives the worker's words.
func (e *LoadError) Error() string { return e.Text }

// New makes a Conn of the socket to a worker that page was made for. It takes over both.
func New(conn *net.UnixConn, page *Page) (*Conn, error) {
	c := &Conn{conn: conn, page: page, settle: 500 * time.Millisecond, late: 100 * time.Millisecond, ready: make(chan struct{}), done: make(chan struct{}), loads: make(map[uint32]chan error)}
	r, err := newReader(conn, maxFrame)
	if err == nil {
		c.w, err = newWriter(conn, c.fail)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	go c.read(r)
	return c, nil
}

// Hello waits for what the worker says when it is ready.
func (c *Conn) Hello(ctx context.Context) (Hello, error) {
	select {
	case <-c.ready:
		return c.hello, nil
	case <-c.done:
		return Hello{}, c.unsent()
	case <-ctx.Done():
		return Hello{}, context.Cause(ctx)
	}
}

// Load has the worker load a program from files, which the caller may close afterwards. The number is the caller's choice;
// it must not have been used before. An error is a *LoadError, a *LostError, ctx's or start_failed for a spec that is too
// long; the program is not loaded then.
func (c *Conn) Load(ctx context.Context, program uint32, spec *Spec, files []*os.File) error {
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if len(text) >= maxSpec {
		return lambent.Errorf(lambent.CodeStartFailed, "the environment, the secrets and the global variables take %d bytes to hand over, %d is the limit", len(text), maxSpec).
			WithHint("use fewer or shorter ones")
	}
	answer := make(chan error, 1)
	c.mu.Lock()
	dead, used := c.err != nil, c.loads[program] != nil
	if !dead && !used {
		c.loads[program] = answer
	}
	c.mu.Unlock()
	switch {
	case dead:
		return c.unsent()
	case used:
		return &LoadError{Text: fmt.Sprintf("program %d is being loaded already", program)}
	}
	b := append(begin(nil, kindLoad, program), byte(len(files)))
	if err := c.w.sendFiles(end(append(b, text...), 0), files); err != nil {
		return c.unsent()
	}
	select {
	case err := <-answer:
		return err
	case <-c.done:
		return c.unsent()
	case <-ctx.Done():
		c.Unload(program)
		return context.Cause(ctx)
	}
}

// Unload has the worker forget a program. Its requests under way go on to their ends.
func (c *Conn) Unload(program uint32) { c.w.send(end(begin(nil, kindUnload, program), 0)) }

// Done is closed when the connection has ended, for whatever reason.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err tells why it ended; call it after Done. It is io.EOF when the worker hung up and net.ErrClosed after Close.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection, which ends the worker. The requests under way fail.
func (c *Conn) Close() {
	c.fail(net.ErrClosed)
	<-c.done
}

// unsent is the error of what the worker has got nothing of.
func (c *Conn) unsent() error { return &LostError{Err: c.Err()} }

// fail ends the connection because of err. What has come before is still read. It closes no descriptor, as the reader may be
// the caller.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	_ = errors.Join(c.conn.CloseRead(), c.conn.CloseWrite()) // it may be closed already
}

func (c *Conn) read(r *reader) {
	c.fail(r.run(c.handle))
	c.dead.Store(true)
	c.conn.Close()
	for i := range c.slot {
		if s := c.slot[i].Load(); s != nil {
			s.mu.Lock()
			s.stopBody()
			s.mu.Unlock()
			s.notify()
		}
	}
	close(c.done)
}

// handle takes a frame. It waits for nobody.
func (c *Conn) handle(f frame) error {
	switch f.kind {
	case kindOut:
		s, err := c.lock(f.id)
		if err != nil {
			return err
		}
		defer s.mu.Unlock()
		return s.take(&f)
	case kindLog:
		return c.log(f)
	case kindCredit:
		n, err := f.number()
		if err != nil {
			return err
		}
		s, err := c.lock(f.id)
		if err != nil {
			return err
		}
		defer s.mu.Unlock()
		return s.credited(n)
	case kindLoaded:
		return c.loaded(f)
	case kindHello:
		select {
		case <-c.ready:
			return violation("a second hello")
		default:
		}
		if err := json.Unmarshal(f.payload, &c.hello); err != nil {
			return violation("its hello: %v", err)
		}
		c.hello.Slow = printable([]byte(c.hello.Slow), maxText)
		close(c.ready)
		return nil
	}
	return violation("a frame of type %d", f.kind)
}

func (c *Conn) loaded(f frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := c.loads[f.id]
	if answer == nil {
		return violation("it loaded program %d, which nobody asked for", f.id)
	}
	delete(c.loads, f.id)
	if len(f.payload) == 0 {
		answer <- nil
	} else {
		answer <- &LoadError{f.payload[0] != 0, printable(f.payload[1:], maxTrace)}
	}
	return nil
}

func (c *Conn) log(f frame) error {
	if len(f.payload) == 0 || len(f.payload) > 1+MaxLine || int(f.payload[0]) >= len(logStreams) {
		return violation("a log line of %d bytes", len(f.payload))
	}
	s, err := c.lock(f.id)
	if err != nil {
		return err
	}
	sink := s.request.Log
	s.logged += max(1, len(f.payload)-1)
	much := s.logged > MaxLog+2*MaxLine // the last, and the word that there was more
	s.mu.Unlock()
	switch {
	case much:
		return violation("more than %d bytes of log", MaxLog)
	case bytes.IndexByte(f.payload, '\n') >= 0:
		return violation("two lines in the place of one")
	}
	if sink != nil {
		sink(logStreams[f.payload[0]], printable(f.payload[1:], MaxLine))
	}
	return nil
}

// lock gives the stream of a request that has not ended, locked.
func (c *Conn) lock(id uint32) (*stream, error) {
	s := c.slot[id%MaxStreams].Load()
	if s != nil {
		s.mu.Lock()
		if s.id == id && s.open {
			return s, nil
		}
		s.mu.Unlock()
	}
	return nil, violation("a frame of stream %d, which it has not got", id)
}

// acquire gives the stream that was used last, or a new one.
func (c *Conn) acquire() (*stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, &LostError{Err: c.err}
	}
	if last := len(c.free) - 1; last >= 0 {
		s := c.free[last]
		c.free = c.free[:last]
		return s, nil
	}
	if c.made == MaxStreams {
		return nil, ErrFull
	}
	s := newStream(c, uint32(c.made))
	c.slot[c.made].Store(s)
	c.made++
	return s, nil
}

// widen tells whether one more response may have a Window. narrow takes it away.
func (c *Conn) widen() bool {
	if c.wide.Add(1) <= maxWide {
		return true
	}
	c.narrow()
	return false
}

func (c *Conn) narrow() { c.wide.Add(-1) }

func (c *Conn) release(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = append(c.free, s)
}
