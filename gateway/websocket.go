package gateway

import (
	"errors"
	"io"
	"sync"
	"time"

	"lambent/internal/wsframe"
)

// farewell bounds the end of a WebSocket: the frames under way, and the peers' answers to our Close frames.
const farewell = 5 * time.Second

// serviceRestart is the status code of RFC 6455's registry that tells a client to come again.
const serviceRestart = 1012

// joinFrames returns when both sides of a WebSocket have ended. When drain is closed it closes it itself, with each
// side as its peer would: client and function get a Close frame between two frames, and nothing after that. The
// function comes first, so that its answers to what it has read arrive before the client's end.
func (j *junction) joinFrames(drain <-chan struct{}) {
	toClient := newFrames(j.toClient, false)
	toFunction := newFrames(j.toFunction, true)
	j.toClient, j.toFunction = toClient, toFunction

	ended := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		j.send()
		toFunction.done()
	})
	others.Go(func() {
		select {
		case <-ended:
			return
		case <-drain:
		}
		defer time.AfterFunc(farewell, j.cut).Stop() // also what a peer that does not read holds up
		toClient.drain()
		defer time.AfterFunc(farewell/2, toClient.end).Stop() // the function may not answer
		toFunction.end()
		<-toClient.over
		toClient.end()
		<-toFunction.over
		j.cut()
	})
	j.receive()
	toClient.done()
	select {
	case <-drain: // the other side may still be heard
	default:
		close(ended)
		j.cut()
	}
	others.Wait()
}

// errFarewell ends the copying of a direction.
var errFarewell = errors.New("the WebSocket is closed")

// frames is one direction of a WebSocket: what it is written to goes on, until it is to end.
type frames struct {
	to    io.Writer
	close []byte        // the Close frame that ends it
	over  chan struct{} // closed when its sender has said its last

	mu     sync.Mutex // guards what follows
	border wsframe.Border
	drains bool // it ends in the place of the sender's Close frame
	ends   bool // it ends at the next border
	closed bool // nothing goes on any more
	last   sync.Once
}

func newFrames(to io.Writer, masked bool) *frames {
	return &frames{to: to, close: wsframe.Close(serviceRestart, "service restart", masked), over: make(chan struct{})}
}

// Write implements [io.Writer].
func (f *frames) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.drains {
		f.border.Skip(p)
		return f.to.Write(p)
	}
	all := len(p)
	for len(p) > 0 && !f.closed {
		if f.border.At() && wsframe.IsClose(p[0]) {
			f.finish()
			break
		}
		n := f.border.Next(p)
		if _, err := f.to.Write(p[:n]); err != nil {
			return 0, err
		}
		p = p[n:]
		if f.ends {
			f.finish()
		}
	}
	f.border.Skip(p)
	if f.closed && f.border.Closed {
		return 0, errFarewell
	}
	return all, nil
}

// drain lets the direction end with its sender's Close frame, in whose place ours goes on.
func (f *frames) drain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drains = true
}

// end ends the direction as soon as it is between two frames.
func (f *frames) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drains, f.ends = true, true
	f.finish()
	if f.closed && f.border.Closed {
		f.done()
	}
}

// finish writes the Close frame, unless there was one, if it is between two frames. The lock is held.
func (f *frames) finish() {
	if f.closed || !f.border.At() {
		return
	}
	f.closed = true
	if !f.border.Closed {
		_, _ = f.to.Write(f.close) // who cannot be told has gone
	}
}

// done says that nothing more comes of the sender that matters.
func (f *frames) done() { f.last.Do(func() { close(f.over) }) }
