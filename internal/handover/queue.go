package handover

import (
	"net"
	"os"
	"sync"
)

// Queue is a listener of connections that another process sends, instead of an address that everybody could find. It
// holds as many as are put: who puts them may have to do what their accepting waits for.
type Queue struct {
	mu      sync.Mutex // guards what follows
	changed *sync.Cond
	conns   []net.Conn
	closed  bool
}

var _ net.Listener = (*Queue)(nil)

// NewQueue makes a queue that is empty.
func NewQueue() *Queue {
	q := new(Queue)
	q.changed = sync.NewCond(&q.mu)
	return q
}

// Put gives the connection whose descriptor is f to who accepts next. It takes f over, and never blocks.
func (q *Queue) Put(f *os.File) error {
	defer f.Close() // net has its own
	conn, err := net.FileConn(f)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return conn.Close()
	}
	q.conns = append(q.conns, conn)
	q.changed.Signal()
	return nil
}

// Accept implements net.Listener.
func (q *Queue) Accept() (net.Conn, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.conns) == 0 && !q.closed {
		q.changed.Wait()
	}
	if q.closed {
		return nil, net.ErrClosed
	}
	conn := q.conns[0]
	q.conns = q.conns[1:]
	return conn, nil
}

// Close implements net.Listener.
func (q *Queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, conn := range q.conns {
		conn.Close()
	}
	q.conns = nil
	q.changed.Broadcast()
	return nil
}

// Addr implements net.Listener.
func (q *Queue) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
