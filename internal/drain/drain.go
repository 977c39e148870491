// Package drain ends HTTP servers without failing a request.
//
// [http.Server.Shutdown] closes idle connections at once, and drops what it reads after that: a client that has just
// sent a request on a connection that was kept alive gets no answer, and cannot know whether it was heard. A Server
// here answers such a request and says "Connection: close" with the answer, so that the client is the one who knows
// first. What stays idle is closed after a while, as every server does. HTTP/2 has GOAWAY for this, which tells the
// client which of its requests were not heard.
package drain

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Server serves one listener until it is drained.
type Server struct {
	http     *http.Server
	tls      bool
	gate     *gate
	draining atomic.Bool
	began    time.Time     // of draining; set before it
	stopped  chan struct{} // closed when nothing is accepted any more
	conns    sync.Map      // net.Conn -> *conn, those that were not hijacked
}

// conn is what is known of a connection.
type conn struct {
	state atomic.Int32 // an http.ConnState
	since atomic.Int64 // when it came to that state, in ns after Server.began; 0 before
	h2    atomic.Bool  // it has carried a request of HTTP/2
}

type connKey struct{}

// New makes a Server of h, which it takes over, for l, with TLS if h.TLSConfig is set.
func New(h *http.Server, l net.Listener) *Server {
	s := &Server{http: h, tls: h.TLSConfig != nil, gate: newGate(l), stopped: make(chan struct{})}
	handler := h.Handler
	h.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 {
			r.Context().Value(connKey{}).(*conn).h2.Store(true)
		}
		if s.draining.Load() {
			w.Header()["Connection"] = []string{"close"} // in HTTP/2 net/http makes a GOAWAY of it
		}
		handler.ServeHTTP(w, r)
	})
	h.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		c := new(conn)
		s.conns.Store(nc, c)
		return context.WithValue(ctx, connKey{}, c)
	}
	h.ConnState = s.note
	return s
}

func (s *Server) note(nc net.Conn, state http.ConnState) {
	if state == http.StateHijacked || state == http.StateClosed {
		s.conns.Delete(nc)
		return
	}
	if v, ok := s.conns.Load(nc); ok {
		c := v.(*conn)
		if s.draining.Load() {
			c.since.Store(int64(time.Since(s.began)))
		}
		c.state.Store(int32(state))
	}
}

// Serve accepts and serves connections. It returns nil once Drain or Close has ended the accepting, and what kept it
// from accepting otherwise. It is called once.
func (s *Server) Serve() error {
	defer close(s.stopped)
	var err error
	if s.tls {
		err = s.http.ServeTLS(s.gate, "", "")
	} else {
		err = s.http.Serve(s.gate)
	}
	if s.gate.ended() {
		return nil
	}
	return err
}

// Pause stops accepting: new connections wait in the kernel's queue, for Resume or for another process that shares
// the listening socket. Those that there are go on.
func (s *Server) Pause() { s.gate.pause() }

// Resume ends Pause.
func (s *Server) Resume() { s.gate.resume() }

// Draining tells whether Drain was called. An answer whose head is written from then on says "Connection: close";
// the handler has to add that where it began before.
func (s *Server) Draining() bool { return s.draining.Load() }

// Options say how to drain.
type Options struct {
	// Idle is how long a connection without a request may still send one, from the beginning of the drain or since
	// it last had one.
	Idle time.Duration
	// Shared says that another process goes on to accept from the listening socket. Otherwise the connections that
	// wait in its queue are served too.
	Shared bool
}

// Drain stops accepting and returns when no connection is left, or when ctx ends: then those that are left are cut,
// whose number it gives. Hijacked ones are their handlers'. It is called once.
func (s *Server) Drain(ctx context.Context, o Options) (cut int) {
	s.began = time.Now()
	s.draining.Store(true)
	s.gate.end(o.Shared)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for accepting := true; accepting || s.sweep(o.Idle); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s.Close()
		}
		select {
		case <-s.stopped:
			accepting = false
		default:
		}
	}
	if s.http.Shutdown(ctx) != nil { // it would drop requests of HTTP/1, but only those of HTTP/2 are left
		return s.Close()
	}
	return 0
}

// sweep closes the connections of HTTP/1 that have been idle for too long, and tells whether any are left.
func (s *Server) sweep(limit time.Duration) (left bool) {
	old := int64(time.Since(s.began) - limit)
	for k, v := range s.conns.Range {
		c := v.(*conn)
		if c.h2.Load() {
			continue
		}
		left = true
		if c.idle() && c.since.Load() <= old {
			k.(net.Conn).Close()
		}
	}
	return left
}

func (c *conn) idle() bool {
	state := http.ConnState(c.state.Load())
	return state == http.StateNew || state == http.StateIdle
}

// Left is how many connections there are, of those that were not hijacked: those with a request under way, and those
// without.
func (s *Server) Left() (busy, idle int) {
	for _, v := range s.conns.Range {
		if v.(*conn).idle() {
			idle++
		} else {
			busy++
		}
	}
	return busy, idle
}

// Close stops accepting and cuts all connections that were not hijacked. It gives their number.
func (s *Server) Close() (cut int) {
	busy, idle := s.Left()
	s.http.Close() // the error is the listener's, which is closed in any case
	s.gate.Close()
	return busy + idle
}
