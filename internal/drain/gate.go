package drain

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// settle is how long handshakes under way may take when accepting ends.
const settle = 50 * time.Millisecond

// gate is a listener that can be paused, and that gives what waits in its queue before it ends.
type gate struct {
	net.Listener
	accepting sync.Mutex // held while the listener accepts
	mu        sync.Mutex
	paused    chan struct{} // closed by resume; nil when not paused; guarded by mu
	over      bool          // guarded by mu
}

func newGate(l net.Listener) *gate { return &gate{Listener: l} }

// Accept implements [net.Listener].
func (g *gate) Accept() (net.Conn, error) {
	for {
		g.mu.Lock()
		paused := g.paused
		g.mu.Unlock()
		if paused != nil {
			<-paused
			continue
		}
		g.accepting.Lock()
		c, err := g.Listener.Accept()
		g.accepting.Unlock()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return c, err
		}
		if g.ended() {
			return nil, net.ErrClosed
		}
	}
}

var past = time.Unix(1, 0)

// until makes an Accept that waits return at t. A deadline is of this process alone, also where the socket is not.
func (g *gate) until(t time.Time) {
	if l, ok := g.Listener.(interface{ SetDeadline(time.Time) error }); ok {
		_ = l.SetDeadline(t) // it fails only once the listener is closed
	}
}

// pause returns when nothing is accepted any more: a connection may come before the deadline is noticed.
func (g *gate) pause() {
	g.mu.Lock()
	fresh := g.paused == nil && !g.over
	if fresh {
		g.paused = make(chan struct{})
		g.until(past)
	}
	g.mu.Unlock()
	if fresh {
		g.accepting.Lock()
		g.accepting.Unlock() //nolint:staticcheck // it was waited for
	}
}

func (g *gate) resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open(time.Time{})
}

// open lets Accept go on until t. The lock is held.
func (g *gate) open(t time.Time) {
	if g.over && t.IsZero() {
		return
	}
	g.until(t)
	if g.paused != nil {
		close(g.paused)
		g.paused = nil
	}
}

// end makes Accept fail: at once if the socket is shared, else when what waits was accepted.
func (g *gate) end(shared bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	if shared {
		g.open(past)
		return
	}
	refuse(g.Listener)
	g.open(time.Now().Add(settle))
}

func (g *gate) ended() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.over
}

// Close implements [net.Listener].
func (g *gate) Close() error {
	err := g.Listener.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	g.open(past)
	return err
}

// refuse makes the kernel drop the packets that begin a new connection to l: closing a socket resets the connections
// that wait in its queue, which their clients believe accepted, while a client that gets no answer tries again and is
// then refused. Handshakes under way go on. Where the kernel cannot (it knows no filter of Multipath TCP, which Go's
// listeners speak unless told otherwise) a client that comes in the microseconds before the close is reset.
func refuse(l net.Listener) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	const flags, syn, ack = 13, 0x02, 0x10 // in a TCP header
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: flags, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: syn | ack},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: syn, SkipFalse: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 0xffff},
	})
	if err != nil {
		panic(err) // it is a constant
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptSockFprog(int(fd), syscall.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
	})
}
