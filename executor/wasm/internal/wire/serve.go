package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Handler does a worker's work.
type Handler interface {
	// Load loads a program. It takes the files over. An error that is no *LoadError becomes one.
	Load(program uint32, spec *Spec, files []*os.File) error
	// Unload forgets a program that was loaded, when the requests under way are done.
	Unload(program uint32)
	// Serve answers a request, by its End. What comes after that is off the caller's path.
	Serve(s *Incoming)
}

// hold is how long lines of the log may be held back, to go out with an answer.
const hold = time.Millisecond

// server is the worker's end of the connection.
type server struct {
	handler Handler
	page    *Page
	w       *writer
	r       *reader
	slot    [MaxStreams]atomic.Pointer[Incoming]
	running sync.WaitGroup // goroutines of loads and requests
	held    chan struct{}  // holds one: something is held back
	stopped chan struct{}  // closed when the connection is at its end

	mu      sync.Mutex
	ended   bool             // nothing comes any more
	idle    []chan *Incoming // of goroutines that wait for a request; the one used last is last
	loading map[uint32]bool  // programs that are being loaded; true: to be forgotten at once
}

// Serve is the worker's end of the connection: it says hello and then serves what comes, until the daemon hangs up, which
// gives io.EOF. It returns when all that handler does has returned.
func Serve(conn *net.UnixConn, page *Page, handler Handler, hello Hello) error {
	defer conn.Close()
	v := &server{handler: handler, page: page, held: make(chan struct{}, 1), stopped: make(chan struct{}), loading: make(map[uint32]bool)}
	var err error
	if v.r, err = newReader(conn, maxSpec); err != nil {
		return err
	}
	// A writer that fails has lost the daemon, which the reader sees too.
	if v.w, err = newWriter(conn, func(error) { _ = conn.CloseRead() }); err != nil {
		return err
	}
	text, err := json.Marshal(hello)
	if err != nil {
		return err
	}
	v.w.send(end(append(begin(nil, kindHello, 0), text...), 0))
	v.running.Go(v.release)
	err = v.r.run(v.handle)
	close(v.stopped)
	v.dismiss()
	_ = conn.CloseWrite() // who writes is told
	for i := range v.slot {
		if s := v.slot[i].Load(); s != nil {
			s.cancel()
		}
	}
	v.running.Wait()
	return err
}

func (v *server) handle(f frame) error {
	switch f.kind {
	case kindIn:
		if f.flags&flagHead != 0 {
			return v.request(f)
		}
		return v.lookup(f.id, func(s *Incoming) error { return s.take(f) })
	case kindCredit:
		n, err := f.number()
		if err != nil {
			return err
		}
		return v.lookup(f.id, func(s *Incoming) error { return s.credited(n) })
	case kindCancel:
		return v.lookup(f.id, func(s *Incoming) error { s.cancelled(); return nil })
	case kindLoad:
		return v.load(f)
	case kindUnload:
		v.unload(f.id)
		return nil
	}
	return violation("a frame of type %d", f.kind)
}

// lookup calls do with the stream of a request that has not ended, locked. There is none when its end and f have crossed.
func (v *server) lookup(id uint32, do func(*Incoming) error) error {
	s := v.slot[id%MaxStreams].Load()
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id != id || s.done {
		return nil
	}
	return do(s)
}

func (v *server) request(f frame) error {
	slot := &v.slot[f.id%MaxStreams]
	if slot.Load() != nil {
		return violation("a new request in the place of one that has not ended")
	}
	head, err := f.section(MaxHead)
	if err != nil {
		return err
	}
	s := newIncoming(v, f.id, head, f.payload, f.flags&flagEnd != 0)
	slot.Store(s)
	v.mu.Lock()
	last := len(v.idle) - 1
	if last < 0 {
		v.mu.Unlock()
		v.running.Go(func() { v.serve(s) })
		return nil
	}
	next := v.idle[last]
	v.idle = v.idle[:last]
	v.mu.Unlock()
	next <- s
	return nil
}

// maxIdle is how many goroutines wait for requests at most. One that has served a guest has the large stack that this takes;
// a new one would grow it, by copying it several times, which costs as much as the rest of serving.
const maxIdle = 256

// serve serves s and what comes after it.
func (v *server) serve(s *Incoming) {
	next := make(chan *Incoming, 1)
	for s != nil {
		s.serve()
		v.mu.Lock()
		if v.ended || len(v.idle) == maxIdle {
			v.mu.Unlock()
			return
		}
		v.idle = append(v.idle, next)
		v.mu.Unlock()
		s = <-next
	}
}

// dismiss ends the goroutines that wait.
func (v *server) dismiss() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = true
	for _, next := range v.idle {
		next <- nil
	}
	v.idle = nil
}

func (v *server) load(f frame) error {
	if len(f.payload) == 0 {
		return violation("a program without a description")
	}
	files, err := v.r.take(int(f.payload[0]))
	if err != nil {
		return err
	}
	spec := new(Spec)
	if err := json.Unmarshal(f.payload[1:], spec); err != nil {
		closeAll(files)
		return violation("the description of a program: %v", err)
	}
	v.mu.Lock()
	_, twice := v.loading[f.id]
	v.loading[f.id] = false
	v.mu.Unlock()
	if twice {
		closeAll(files)
		return violation("program %d twice", f.id)
	}
	id := f.id
	v.running.Go(func() {
		err := v.handler.Load(id, spec, files)
		v.mu.Lock()
		unload := v.loading[id]
		delete(v.loading, id)
		v.mu.Unlock()
		b := begin(nil, kindLoaded, id)
		if err != nil {
			damaged := byte(0)
			if e := (*LoadError)(nil); errors.As(err, &e) && e.Damaged {
				damaged = 1
			}
			b = fmt.Appendf(append(b, damaged), "%.*s", maxTrace, err)
		} else if unload {
			v.handler.Unload(id)
		}
		v.w.send(end(b, 0))
	})
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (v *server) unload(program uint32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.loading[program]; ok {
		v.loading[program] = true
		return
	}
	v.running.Go(func() { v.handler.Unload(program) })
}

// hold sees to it that what the writer holds back goes out.
func (v *server) hold() {
	select {
	case v.held <- struct{}{}:
	default:
	}
}

// release sends what was held back for a while.
func (v *server) release() {
	for {
		select {
		case <-v.held:
		case <-v.stopped:
			return
		}
		time.Sleep(hold)
		v.w.flush()
	}
}
