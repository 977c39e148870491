package wire

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxQueued is how many bytes may wait for the socket before those who add to them wait too.
	maxQueued = 256 << 10
	// turns is how often one who writes goes on for the others.
	turns = 4
)

// writer writes frames. Who finds it idle writes himself, and then what others have queued meanwhile; who finds it busy
// queues. So one request alone has no other goroutine between it and the socket, and many share their system calls.
// Nobody waits for the socket: when it is full, a goroutine takes over.
type writer struct {
	conn *net.UnixConn
	raw  syscall.RawConn
	try  func(fd uintptr) bool // made once
	// patience is how long the peer may take to read what waits.
	patience time.Duration

	// What try writes, and what came of it; for who has set busy.
	out   []byte
	wrote int
	fault error

	mu     sync.Mutex
	busy   bool          // somebody writes
	queue  []byte        // what is to be written next
	spare  []byte        // memory for the next queue
	claims int           // of those who wait to write alone
	free   sync.Cond     // busy has become false
	room   chan struct{} // closed when the queue has become short; nil when nobody waits
	err    error         // why nothing can be written any more
	failed func(error)   // told of err, once
}

func newWriter(conn *net.UnixConn, failed func(error)) (*writer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &writer{conn: conn, raw: raw, patience: 10 * time.Second, failed: failed}
	w.free.L = &w.mu
	w.try = func(fd uintptr) bool {
		w.wrote, w.fault = unix.Write(int(fd), w.out)
		return w.fault != unix.EINTR
	}
	return w, nil
}

// send queues frames, and writes them if nobody does: after those who are about to send, too, have had a chance to. They
// are lost when the connection is: its reader tells who waits.
func (w *writer) send(p []byte) {
	w.mu.Lock()
	w.hold(p)
	busy := w.busy || w.err != nil
	w.busy = true
	w.mu.Unlock()
	if busy {
		return
	}
	runtime.Gosched()
	w.drain()
}

// add queues frames, to go out with the next that are sent, or with flush.
func (w *writer) add(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold(p)
}

func (w *writer) hold(p []byte) {
	if w.err == nil {
		w.queue = append(w.queue, p...)
	}
}

// flush writes what is queued.
func (w *writer) flush() {
	w.mu.Lock()
	busy := w.busy || w.err != nil
	w.busy = true
	w.mu.Unlock()
	if !busy {
		w.drain()
	}
}

// await waits until the queue is short, or one of stop and cut is closed.
func (w *writer) await(stop, cut <-chan struct{}) {
	w.mu.Lock()
	for len(w.queue) > maxQueued && w.err == nil {
		if w.room == nil {
			w.room = make(chan struct{})
		}
		room := w.room
		w.mu.Unlock()
		select {
		case <-room:
		case <-stop:
			return
		case <-cut:
			return
		}
		w.mu.Lock()
	}
	w.mu.Unlock()
}

// crowded tells that await would wait.
func (w *writer) crowded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue) > maxQueued && w.err == nil
}

// sendFiles writes a frame with descriptors, alone: they belong to its first byte. It waits for the socket.
func (w *writer) sendFiles(p []byte, files []*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	defer runtime.KeepAlive(files)
	w.mu.Lock()
	w.claims++
	for w.busy && w.err == nil {
		w.free.Wait()
	}
	w.claims--
	if w.err != nil {
		defer w.mu.Unlock()
		return w.err
	}
	w.busy = true
	before := w.swap()
	w.mu.Unlock()
	err := w.block(before, nil)
	if err == nil {
		err = w.block(p, unix.UnixRights(fds...))
	}
	if err != nil {
		w.fail(err)
		return err
	}
	w.written(before)
	w.drain()
	return nil
}

// swap takes the queue. The caller holds mu and has set busy.
func (w *writer) swap() []byte {
	p := w.queue
	w.queue, w.spare = w.spare[:0], nil
	if w.room != nil {
		close(w.room)
		w.room = nil
	}
	return p
}

// next gives what is queued, or gives busy up.
func (w *writer) next() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.claims == 0 && len(w.queue) > 0 {
		return w.swap()
	}
	w.busy = false
	w.free.Broadcast()
	return nil
}

// written takes the memory of what swap gave back.
func (w *writer) written(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if cap(p) > cap(w.spare) && cap(p) <= 2*maxQueued {
		w.spare = p[:0]
	}
}

// drain writes what is queued. busy is the caller's, and is given up.
func (w *writer) drain() {
	for range turns {
		p := w.next()
		if p == nil {
			return
		}
		w.out = p
		err := w.raw.Write(w.try)
		w.out = nil
		if err == nil && w.fault != nil && w.fault != unix.EAGAIN {
			err = w.fault
		}
		if err != nil {
			w.fail(err)
			return
		}
		if n := max(w.wrote, 0); n < len(p) {
			go w.finish(p, n)
			return
		}
		w.written(p)
	}
	go w.finish(nil, 0)
}

// finish writes p, of which n bytes are written, and then does what drain does, and waits for the socket.
func (w *writer) finish(p []byte, n int) {
	for {
		if err := w.block(p[n:], nil); err != nil {
			w.fail(err)
			return
		}
		w.written(p)
		if p, n = w.next(), 0; p == nil {
			return
		}
	}
}

// block writes p, the first byte with rights, and waits for the socket.
func (w *writer) block(p, rights []byte) error {
	err := w.conn.SetWriteDeadline(time.Now().Add(w.patience))
	if err == nil && len(rights) > 0 {
		var n int
		n, _, err = w.conn.WriteMsgUnix(p, rights, nil)
		p = p[n:]
	}
	if err == nil && len(p) > 0 {
		_, err = w.conn.Write(p)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = violation("it has not read for %v", w.patience)
	}
	if err == nil {
		err = w.conn.SetWriteDeadline(time.Time{}) // drain would fail at once when it is over
	}
	return err
}

// fail ends the writing: what is sent from now on is dropped.
func (w *writer) fail(err error) {
	w.mu.Lock()
	w.err, w.queue = err, nil
	w.free.Broadcast()
	if w.room != nil {
		close(w.room)
		w.room = nil
	}
	w.mu.Unlock()
	w.failed(err)
}
