package h1

import (
	"errors"
	"io"
)

// Tunnel is the body of a 101 response: the connection, both ways. Read and Write may run at the same
// time; Close ends both and may be called from any goroutine, also more than once.
type Tunnel interface {
	io.ReadWriteCloser
	CloseWrite() error
}

type tunnel struct{ x *exchange }

var _ Tunnel = (*tunnel)(nil)

// Read gives first what came together with the head.
func (t *tunnel) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	in := &t.x.c.in
	n := copy(p, in.bytes())
	if n > 0 {
		in.take(n)
	} else {
		var err error
		if n, err = t.x.read(p); err != nil {
			if err != io.EOF {
				err = t.x.explain(err)
			}
			return 0, err
		}
	}
	t.x.c.received.Add(int64(n))
	return n, nil
}

// Write writes to the peer.
func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.x.write(p)
	t.x.c.sent.Add(int64(n))
	if err != nil {
		err = t.x.explain(err)
	}
	return n, err
}

// CloseWrite tells the peer that no more comes.
func (t *tunnel) CloseWrite() error {
	if half, ok := t.x.c.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close closes the connection.
func (t *tunnel) Close() error { return t.x.c.Close() }
