package handover

import (
	"net"
	"os"
	"sync"
)

// Queue is a listener of connections that another process sends, instead of an address that everybody could find.
type Queue struct {
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

var _ net.Listener = (*Queue)(nil)

// NewQueue makes a queue that is empty.
func NewQueue() *Queue { return &Queue{conns: make(chan net.Conn, 64), closed: make(chan struct{})} }

// Put gives the connection whose descriptor is f to who accepts next. It takes f over.
func (q *Queue) Put(f *os.File) error {
	defer f.Close() // net has its own
	conn, err := net.FileConn(f)
	if err != nil {
		return err
	}
	select {
	case q.conns <- conn:
		return nil
	case <-q.closed:
		return conn.Close()
	}
}

// Accept implements net.Listener.
func (q *Queue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *Queue) Close() error {
	q.close.Do(func() { close(q.closed) })
	for {
		select {
		case conn := <-q.conns:
			conn.Close()
		default:
			return nil
		}
	}
}

// Addr implements net.Listener.
func (q *Queue) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
