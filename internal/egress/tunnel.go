package egress

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"lambent"
)

// serveTunnel takes what connects to l to its target.
func (g *Gate) serveTunnel(l *listener, to target) {
	for {
		in, err := l.Accept()
		switch {
		case err == nil:
			g.serving.Go(func() { g.through(in.(*conn), to) })
		case errors.Is(err, net.ErrClosed):
			return
		default: // the node is out of descriptors or memory
			select {
			case <-time.After(100 * time.Millisecond):
			case <-g.ctx.Done():
				return
			}
		}
	}
}

func (g *Gate) through(in *conn, to target) {
	out, err := g.connect(to)
	if err != nil {
		g.note(lambent.ErrorOf(err))
		in.abort()
		return
	}
	join(in, out)
}

// connect connects to what the rules allow. The limit is for who asks and leaves, again and again: what made the
// connection necessary may be gone before it is made.
func (g *Gate) connect(to target) (*conn, error) {
	select {
	case g.dials <- struct{}{}:
		defer func() { <-g.dials }()
	default:
		return nil, lambent.Errorf(lambent.CodeEgressFailed, "cannot connect to %s: %d connections are being made already", to, cap(g.dials))
	}
	tcp, err := g.proxy.connect(g.ctx, g.rules, to)
	if err != nil {
		return nil, err
	}
	return g.keep(tcp, func() {})
}

// join passes bytes on, both ways, until both have ended or one has failed. Each direction ends by itself. The
// kernel moves the bytes: io.Copy between TCP connections is splice(2).
func join(a, b *conn) {
	pass := func(to, from *conn) {
		if _, err := io.Copy(to.TCPConn, from.TCPConn); err != nil {
			from.abort()
			to.abort()
			return
		}
		_ = to.CloseWrite() // it may have failed meanwhile; then the other direction fails too
	}
	var other sync.WaitGroup
	other.Go(func() { pass(a, b) })
	pass(b, a)
	other.Wait()
	a.Close()
	b.Close()
}
